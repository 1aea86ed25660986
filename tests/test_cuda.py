"""Training on a GPU: the recorded step gives what the plain step gives, and what the
CPU gives.
"""

import numpy as np
import pytest
import torch
from torch import nn

import task3
from common.data import Vectors
from common.script import Failure
from task3 import MultilayerPerceptron, recorded, train

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU that CUDA can use"
)


def digits(count, seed=0):
    """Ten classes around centres of their own, as vectors."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    centres = np.random.default_rng(99).normal(size=(10, 784))
    return Vectors(
        (centres[labels] + rng.normal(size=(count, 784))).astype(np.float32), labels
    )


def new_network(device="cuda"):
    torch.manual_seed(3)
    return MultilayerPerceptron().to(device)


def trained(device, count, batch_size, learning_rate=1e-3):
    """The parameters after two epochs, on the CPU, and the history."""
    model = new_network(device)
    history = train(model, digits(count), digits(40, 1), 2, batch_size, learning_rate)
    assert min(history.pop("seconds")) > 0
    return [parameter.detach().cpu() for parameter in model.parameters()], history


# Short last batches; fewer batches than are taken before one is recorded; fewer images
# than a batch; large batches
SIZES = pytest.mark.parametrize(
    ("count", "batch_size"), [(230, 16), (40, 16), (9, 100), (1100, 256)]
)


@SIZES
def test_the_gpu_gives_what_the_cpu_gives_within_single_precision_and_a_second_time_the_same_bits(
    count, batch_size
):
    before = torch.backends.cuda.preferred_blas_library()
    (ours, history), again, (theirs, expected) = (
        trained(each, count, batch_size) for each in ("cuda", "cuda", "cpu")
    )
    assert torch.backends.cuda.preferred_blas_library() == before
    assert history == again[1]
    for one, same, other in zip(ours, again[0], theirs, strict=True):
        assert torch.equal(one, same)
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)
    for loss in ("test_loss", "train_loss"):
        assert history[loss] == pytest.approx(expected[loss], rel=1e-3)


def weights_and_losses(wrap, count, batch_size, look=lambda loss: None):
    """Take 20 steps of Adam, each wrapped; return the parameters and the losses."""
    usual = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library("cublaslt")  # which `recorded` takes
    model = new_network()
    vectors, labels = task3.tensors(digits(count), torch.device("cuda"))
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

    take_step, generator = wrap(step), torch.Generator().manual_seed(0)
    losses = []
    while len(losses) < 20:
        order = torch.randperm(count, generator=generator).cuda()
        losses += [take_step(batch) for batch in order.split(batch_size)]
    torch.backends.cuda.preferred_blas_library(usual)
    return [
        *(parameter.detach() for parameter in model.parameters()),
        torch.stack(losses),
    ]


@SIZES
def test_recorded_steps_give_the_bits_of_plain_steps(count, batch_size, capsys):
    ours, plain = (
        weights_and_losses(wrap, count, batch_size)
        for wrap in (recorded, lambda step: step)
    )
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))
    assert capsys.readouterr().err == ""


def test_a_step_that_cannot_be_recorded_is_taken_as_it_is_and_one_line_says_so(capsys):
    ours = weights_and_losses(
        recorded, 230, 16, look=lambda loss: loss.item()
    )  # waits for the GPU
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("CUDA cannot record a training step (")
    plain = weights_and_losses(lambda step: step, 230, 16)
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))


def test_divergence_is_named_with_its_step():
    with pytest.raises(Failure, match=r"epoch 1, step ([2-9]|1\d);"):
        trained("cuda", 300, 16, learning_rate=1e30)
