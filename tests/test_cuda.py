"""Training on a GPU: the recorded step gives what the plain step gives, and what the
CPU gives.
"""

import numpy as np
import pytest
import torch
from torch import nn

from common.cuda import recorded
from common.data import Vectors
from task3 import MultilayerPerceptron, tensors, train

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU that CUDA can use"
)
# Short last batches; fewer batches than are taken before one is recorded; fewer images
# than a batch; large batches
SIZES = pytest.mark.parametrize(
    ("count", "batch_size"), [(230, 16), (40, 16), (9, 100), (1100, 256)]
)


def digits(count, seed=0):
    """Ten classes around centres of their own, as vectors."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(10, 784))
    labels = rng.integers(0, 10, count)
    vectors = centres[labels] + rng.normal(size=(count, 784))
    return Vectors(vectors.astype(np.float32), labels)


def new_network(device):
    torch.manual_seed(3)
    return MultilayerPerceptron().to(device)


def trained(device, count, batch_size):
    """The history of two epochs."""
    model = new_network(device)
    history = train(model, digits(count), digits(40, 1), 2, batch_size, 1e-3)
    assert min(history.pop("seconds")) > 0
    return history


@SIZES
def test_the_gpu_gives_what_the_cpu_gives_and_a_second_time_the_same(count, batch_size):
    before = torch.backends.cuda.preferred_blas_library()
    history = trained("cuda", count, batch_size)
    expected = trained("cpu", count, batch_size)
    assert torch.backends.cuda.preferred_blas_library() == before
    assert history == trained("cuda", count, batch_size)
    for loss in ("test_loss", "train_loss"):
        assert history[loss] == pytest.approx(expected[loss], rel=1e-3)


def parameters_and_losses(wrap, count, batch_size, look=lambda loss: None):
    """Take 20 steps of Adam, each wrapped; return the parameters and the losses."""
    usual = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library("cublaslt")  # which `recorded` takes
    model = new_network("cuda")
    vectors, labels = tensors(digits(count), torch.device("cuda"))
    optimizer = torch.optim.Adam(
        model.parameters(), lr=1e-3, fused=True, capturable=True
    )

    def step(batch):
        loss = nn.functional.cross_entropy(model(vectors[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        look(loss)
        return loss.detach()

    take_step = wrap(step)
    generator = torch.Generator().manual_seed(0)
    losses = []
    while len(losses) < 20:
        order = torch.randperm(count, generator=generator).cuda()
        losses += [take_step(batch) for batch in order.split(batch_size)]
    torch.backends.cuda.preferred_blas_library(usual)
    parameters = [parameter.detach().flatten() for parameter in model.parameters()]
    return torch.cat([torch.stack(losses), torch.cat(parameters)])


@SIZES
def test_recorded_steps_give_the_bits_of_plain_steps(count, batch_size, capsys):
    plain = parameters_and_losses(lambda step: step, count, batch_size)
    assert torch.equal(parameters_and_losses(recorded, count, batch_size), plain)
    assert capsys.readouterr().err == ""


def test_a_step_that_cannot_be_recorded_is_taken_as_it_is_and_one_line_says_so(capsys):
    plain = parameters_and_losses(lambda step: step, 230, 16)
    # looking at the loss waits for the GPU, which a graph cannot
    assert torch.equal(
        parameters_and_losses(recorded, 230, 16, torch.Tensor.item), plain
    )
    assert len(capsys.readouterr().err.splitlines()) == 1
