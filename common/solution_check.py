"""Hand-written layers against central differences and against torch.autograd: task 1's, or those of another file.

They may work on NumPy arrays or torch tensors, with weights [out, in] or [in, out].
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from common.gradient_check import central_differences, relative_error
from common.runtime import Failure

DIFFERENCES_TOLERANCE = 1e-7
AUTOGRAD_TOLERANCE = 1e-9
NAMES = ("Linear", "ReLU", "Softmax", "CrossEntropyLoss")


class Check(NamedTuple):
    """One gradient of a layer: its largest relative errors against differences and autograd, and a remark if wrong."""

    layer: str
    gradient: str
    shape: tuple[int, ...]
    differences_error: float
    autograd_error: float
    remark: str = ""

    @property
    def passed(self) -> bool:
        """Whether both errors are within the tolerances."""
        return self.differences_error <= DIFFERENCES_TOLERANCE and self.autograd_error <= AUTOGRAD_TOLERANCE


def check_file(path: Path) -> list[Check]:
    """Import a solution and check its four classes; raise `Failure` if that is not possible."""
    if not path.is_file():
        raise Failure(f"there is no file {path}; name one that holds the classes {', '.join(NAMES)}")
    spec = importlib.util.spec_from_file_location("solution", path)
    if spec is None or spec.loader is None:
        raise Failure(f"{path} is no Python file; name one that holds the classes {', '.join(NAMES)}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # foreign code may raise anything, and its author can mend it
        raise Failure(f"{path} cannot be imported: {_reason(error)}") from error
    missing = [name for name in NAMES if not hasattr(module, name)]
    if missing:
        raise Failure(f"{path} has no {' and no '.join(missing)}; the check needs {', '.join(NAMES)}")
    try:
        return check_classes(*(getattr(module, name) for name in NAMES))
    except Exception as error:  # foreign code, as above
        raise Failure(f"{path} cannot be checked, its classes are not the sheet's: {_reason(error)}") from error


def check_classes(linear: type, relu: type, softmax: type, cross_entropy: type) -> list[Check]:
    """Check the gradients of the four classes for a batch of one and one of several rows."""
    checks = []
    for seed, (batch, inputs, outputs) in enumerate(((1, 1, 2), (5, 3, 4))):
        rng = np.random.default_rng(seed)
        layer = new_linear(linear, inputs, outputs, rng)
        checks += check_layer(layer, linear_twin(layer, outputs), rng.normal(size=(batch, inputs)), rng)
        logits = rng.normal(size=(batch, outputs))
        checks += check_layer(relu(), torch.relu, logits, rng, like=layer)
        checks += check_layer(softmax(), lambda z: torch.softmax(z, dim=1), logits, rng, like=layer)
        checks.append(check_loss(cross_entropy(), logits / 2, rng, like=layer))
    return checks


def new_linear(linear: type, inputs: int, outputs: int, rng: np.random.Generator) -> Any:
    """Return a Linear layer with random float64 weights and biases, whatever it is made of."""
    wants_rng = len(inspect.signature(linear).parameters) > 2
    layer = linear(inputs, outputs, rng) if wants_rng else linear(inputs, outputs)
    for name in ("weight", "bias"):
        values = rng.normal(size=tuple(getattr(layer, name).shape))
        setattr(layer, name, _like(layer, values))
    return layer


def linear_twin(layer: Any, outputs: int) -> Callable[..., torch.Tensor]:
    """Return torch's affine map for weights [out, in] or, as their shape tells, [in, out]."""
    transposed = layer.weight.shape[0] != outputs
    return lambda x, weight, bias: torch.nn.functional.linear(x, weight.T if transposed else weight, bias.flatten())


def check_layer(
    layer: Any, twin: Callable[..., torch.Tensor], x: np.ndarray, rng: np.random.Generator, like: Any = None
) -> list[Check]:
    """Check ∂L/∂x and the gradients of every parameter against differences and against `twin`, torch's same function.

    L weights the outputs at random. Parameters are the arrays `name` that have a `grad_name` beside them. `like` is a
    layer with weights that shows which kind of array this one takes.
    """
    like = like or layer
    name = type(layer).__name__
    parameters = [key for key in vars(layer) if f"grad_{key}" in vars(layer)] or [
        key for key in ("weight", "bias") if hasattr(layer, key)
    ]
    try:
        output = _numpy(_forward(layer, _like(like, x)))
        delta = rng.normal(size=output.shape)
        found = {"x": _numpy(layer.backward(_like(like, delta)))}
        found |= {key: _numpy(getattr(layer, f"grad_{key}")) for key in parameters}
    except Exception as error:  # foreign code, as above
        return [Check(name, "∂L/∂x", x.shape, np.inf, np.inf, _reason(error))]

    def loss() -> float:
        return float((_numpy(_forward(layer, _like(like, x))) * delta).sum())

    arrays = {"x": x} | {key: _numpy(getattr(layer, key)) for key in parameters}
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays.values()]
    expected = torch.autograd.grad((twin(*tensors) * torch.from_numpy(delta)).sum(), tensors)
    return [
        Check(
            name,
            f"∂L/∂{key}",
            array.shape,
            relative_error(found[key], central_differences(loss, array)),
            relative_error(found[key], gradient.numpy()),
        )
        for (key, array), gradient in zip(arrays.items(), expected, strict=True)
    ]


def check_loss(criterion: Any, logits: np.ndarray, rng: np.random.Generator, like: Any) -> Check:
    """Check ∂L/∂p of a cross-entropy of probabilities, and name a missing 1/N."""
    p = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    y = rng.integers(0, logits.shape[1], len(logits))
    labels = torch.from_numpy(y) if isinstance(like.weight, torch.Tensor) else y

    def loss() -> float:
        return float(criterion.forward(_like(like, p), labels))

    try:
        loss()
        found = _numpy(criterion.backward())
    except Exception as error:  # foreign code, as above
        return Check(type(criterion).__name__, "∂L/∂p", p.shape, np.inf, np.inf, _reason(error))
    tensor = torch.tensor(p, requires_grad=True)
    (expected,) = torch.autograd.grad(torch.nn.functional.nll_loss(tensor.log(), torch.from_numpy(y)), tensor)
    expected = expected.numpy()
    lacks_mean = len(y) > 1 and relative_error(found, len(y) * expected) < AUTOGRAD_TOLERANCE
    remark = "the 1/N of the mean is missing" if lacks_mean else ""
    errors = (relative_error(found, reference) for reference in (central_differences(loss, p), expected))
    return Check(type(criterion).__name__, "∂L/∂p", p.shape, *errors, remark)


def _reason(error: BaseException) -> str:
    """Return the kind and the message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _forward(layer: Any, x: Any) -> Any:
    takes_remember = "remember" in inspect.signature(layer.forward).parameters
    return layer.forward(x, remember=True) if takes_remember else layer.forward(x)


def _like(layer: Any, values: np.ndarray) -> Any:
    """Return float64 values as the kind of array that the layer's weights are."""
    return torch.from_numpy(values) if isinstance(getattr(layer, "weight", None), torch.Tensor) else values


def _numpy(array: Any) -> np.ndarray:
    """Return a NumPy view of an array or tensor."""
    return array.detach().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def report(checks: list[Check]) -> None:
    """Print the checks as a table; raise `Failure` when one does not pass."""
    print(f"{'layer':18}{'gradient':12}{'shape':10}{'differences':>13}{'autograd':>11}  verdict")
    for check in checks:
        shape = "×".join(map(str, check.shape))
        errors = f"{check.differences_error:13.1e}{check.autograd_error:11.1e}"
        verdict = "right" if check.passed else f"WRONG  {check.remark}"
        print(f"{check.layer:18}{check.gradient:12}{shape:10}{errors}  {verdict}")
    wrong = sum(not check.passed for check in checks)
    if wrong:
        raise Failure(f"{wrong} of {len(checks)} gradients are wrong; the table above says which")
