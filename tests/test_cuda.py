"""Training on a GPU: the recorded step gives what the plain step gives, and what the CPU gives."""

import numpy as np
import pytest
import torch
from torch import nn

import task3
from common.data import Vectors
from common.script import Failure
from task3 import MultilayerPerceptron, recorded, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA can use")


def digits(count, seed=0):
    """Ten classes around centres of their own, as vectors."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    centres = np.random.default_rng(99).normal(size=(10, 784))
    return Vectors((centres[labels] + rng.normal(size=(count, 784))).astype(np.float32), labels)


def new_network(device="cuda"):
    torch.manual_seed(3)
    return MultilayerPerceptron().to(device)


def trained(device, count, batch_size, **settings):
    """The parameters after two epochs, on the CPU, and the history."""
    model = new_network(device)
    settings = {"epochs": 2, "batch_size": batch_size, "learning_rate": 1e-3, **settings}
    history = train(model, digits(count), digits(40, 1), **settings)
    assert min(history.pop("seconds")) > 0
    return [parameter.detach().cpu() for parameter in model.parameters()], history


# Short last batches; fewer batches than are taken before one is recorded; fewer images than a batch; large batches
SIZES = pytest.mark.parametrize(("count", "batch_size"), [(230, 16), (40, 16), (9, 100), (1100, 256)])


@SIZES
def test_the_gpu_gives_what_the_cpu_gives_within_single_precision(count, batch_size):
    (ours, history), (theirs, expected) = (trained(device, count, batch_size) for device in ("cuda", "cpu"))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)
    assert history["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-3)
    assert history["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)


@SIZES
def test_a_second_training_gives_the_same_bits(count, batch_size):
    (ours, history), (again, same) = (trained("cuda", count, batch_size) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(ours, again, strict=True))
    assert history == same


def losses_and_weights(wrap, count, batch_size, look=lambda loss: None):
    """Take 20 steps of Adam, each wrapped; return their losses and the parameters."""
    model = new_network()
    vectors, labels = task3.tensors(digits(count), torch.device("cuda"))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=True)

    def step(batch):
        loss = nn.functional.cross_entropy(model(vectors[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        look(loss)
        return loss.detach()

    take_step, generator = wrap(step), torch.Generator().manual_seed(0)
    losses = []
    while len(losses) < 20:
        order = torch.randperm(count, generator=generator).cuda()
        losses += [take_step(batch) for batch in order.split(batch_size)]
    return torch.stack(losses), [parameter.detach() for parameter in model.parameters()]


@pytest.fixture
def cublaslt():
    """The library for products that `recorded` uses, for the plain steps too."""
    usual = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library("cublaslt")
    yield
    torch.backends.cuda.preferred_blas_library(usual)


@pytest.mark.usefixtures("cublaslt")
@SIZES
def test_recorded_steps_give_the_bits_of_plain_steps(count, batch_size, capsys):
    (ours, weights), (plain, expected) = (
        losses_and_weights(wrap, count, batch_size) for wrap in (recorded, lambda step: step)
    )
    assert torch.equal(ours, plain)
    assert all(torch.equal(one, other) for one, other in zip(weights, expected, strict=True))
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("cublaslt")
def test_a_step_that_cannot_be_recorded_is_taken_as_it_is_and_one_line_says_so(capsys):
    ours, weights = losses_and_weights(recorded, 230, 16, look=lambda loss: loss.item())  # waits for the GPU
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("CUDA cannot record a training step (")
    plain, expected = losses_and_weights(lambda step: step, 230, 16)
    assert torch.equal(ours, plain)
    assert all(torch.equal(one, other) for one, other in zip(weights, expected, strict=True))


def test_training_leaves_the_library_for_products_as_it_was():
    before = torch.backends.cuda.preferred_blas_library()
    trained("cuda", 100, 16)
    assert torch.backends.cuda.preferred_blas_library() == before


def test_divergence_is_named_with_its_step():
    with pytest.raises(Failure, match=r"epoch 1, step ([2-9]|1\d);"):
        trained("cuda", 300, 16, learning_rate=1e30)
