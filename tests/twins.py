"""Task 1's network in torch, the referee of its gradients and of its training."""

import torch
from torch import nn

from common.gradients import parameter_names


def torch_twin(mlp):
    """Return the same network in torch, logits out, with copies of the same parameters in the same order."""
    modules = []
    for layer in mlp.layers[:-1]:
        match type(layer).__name__:
            case "Linear":
                modules.append(nn.Linear(*layer.weight.shape[::-1]))
            case "BatchNorm":
                modules.append(nn.BatchNorm1d(len(layer.scale)))
            case "LayerNorm":
                modules.append(nn.LayerNorm(len(layer.scale)))
            case "ReLU":
                modules.append(nn.ReLU())
    twin = nn.Sequential(*modules).double()
    arrays = [getattr(layer, name) for layer in mlp.layers for name in parameter_names(layer)]
    for tensor, array in zip(twin.parameters(), arrays, strict=True):
        tensor.data = torch.from_numpy(array.copy())
    return twin
