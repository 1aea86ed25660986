"""Task 1's network in torch, the referee of its gradients and of its training."""

import torch
from torch import nn

from common.gradients import parameter_names

MODULES = {
    "Linear": lambda layer: nn.Linear(*layer.weight.shape[::-1]),
    "BatchNorm": lambda layer: nn.BatchNorm1d(len(layer.scale)),
    "LayerNorm": lambda layer: nn.LayerNorm(len(layer.scale)),
    "ReLU": lambda layer: nn.ReLU(),
}


def torch_twin(mlp):
    """Return the same network in torch, logits out, with copies of the same parameters
    in the same order.
    """
    modules = [MODULES[type(layer).__name__](layer) for layer in mlp.layers[:-1]]
    twin = nn.Sequential(*modules).double()
    arrays = [
        getattr(layer, name) for layer in mlp.layers for name in parameter_names(layer)
    ]
    for tensor, array in zip(twin.parameters(), arrays, strict=True):
        tensor.data = torch.from_numpy(array.copy())
    return twin
