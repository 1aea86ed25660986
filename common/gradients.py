"""Gradients checked by central differences and by torch.autograd, in float64: of task 1's layers or of another file.

Other solutions may work on NumPy arrays or torch tensors, with weights [out, in] or [in, out] and labels as classes or
one-hot. Errors are relative to the largest entry of a gradient. PyTorch is imported only where it is the reference.
"""

import ast
import dis
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.checks import Failure

STEPS = [1e-5 / 2**k for k in range(8)]  # of central differences, largest first
DIFFERENCES_TOLERANCE = 1e-7
AUTOGRAD_TOLERANCE = 1e-9
LOSS_TOLERANCE = 1e-6  # many solutions take the logarithm of p + ε
NAMES = ("Linear", "ReLU", "Softmax", "CrossEntropyLoss")


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest magnitude in either; infinity for other shapes or NaN."""
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return np.inf
    scale = max(np.abs(found).max(initial=0), np.abs(expected).max(initial=0))
    return float(np.abs(found - expected).max(initial=0) / scale) if scale > 0 else 0.0


def central_differences(loss: Callable[[], float], array: np.ndarray, entries: np.ndarray | None = None) -> np.ndarray:
    """Return ∂loss/∂array by (loss(a + h) - loss(a - h)) / 2h, entry by entry; `array` is changed and restored.

    `entries` limits the work to these flat indices, and the result [len(entries)] to them. A step that crosses a kink
    of a ReLU shows when half the step gives another slope; then a smaller step is taken.
    """

    def difference(index: int, step: float) -> float:
        original = array.flat[index]
        array.flat[index] = original + step
        above = loss()
        array.flat[index] = original - step
        below = loss()
        array.flat[index] = original
        return (above - below) / (2 * step)

    slopes = []
    for index in range(array.size) if entries is None else entries:
        for step in STEPS:
            slope, half = difference(index, step), difference(index, step / 2)
            if abs(slope - half) <= 1e-9 + 1e-6 * abs(slope):
                break
        slopes.append(slope)
    return np.reshape(slopes, array.shape) if entries is None else np.array(slopes)


def parameter_names(layer: Any) -> list[str]:
    """Return the names of the layer's arrays that have a gradient `grad_NAME` beside them."""
    return [name for name in vars(layer) if f"grad_{name}" in vars(layer)]


def network_errors(mlp: Any, x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """Return the error of every parameter's gradient in task 1's network, by central differences on one batch.

    Here errors are relative to the largest entry of all gradients, since some arrays may have hardly any.
    """
    mlp.loss(x, y)
    mlp.backward()
    names = [(layer, name) for layer in mlp.layers for name in parameter_names(layer)]
    largest = max(np.abs(getattr(layer, f"grad_{name}")).max() for layer, name in names)
    errors = []
    for layer, name in names:
        array, gradient = getattr(layer, name), getattr(layer, f"grad_{name}")
        difference = np.abs(gradient - central_differences(lambda: mlp.loss(x, y), array)).max()
        errors.append({"parameter": name, "shape": list(array.shape), "error": float(difference / largest)})
    return errors


class Check(NamedTuple):
    """One gradient of a layer: its errors against differences and autograd, and a remark if it is wrong."""

    layer: str
    gradient: str
    shape: tuple[int, ...]
    differences_error: float
    autograd_error: float
    remark: str = ""
    autograd_tolerance: float = AUTOGRAD_TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether both errors are within the tolerances."""
        return self.differences_error <= DIFFERENCES_TOLERANCE and self.autograd_error <= self.autograd_tolerance


def check_file(path: Path) -> list[Check]:
    """Check the four classes that a solution defines; raise `Failure` if that is not possible."""
    import torch

    if path.suffix != ".py" or not path.is_file():
        raise Failure(f"there is no Python file {path}; name one that holds the classes {', '.join(NAMES)}")
    stage, search_path = "imported", sys.path.copy()
    sys.path.insert(0, str(path.parent.resolve()))  # for modules beside the file
    torch.set_default_dtype(torch.float64)  # for tensors that the solution makes
    try:
        solution = load_definitions(path.read_bytes(), str(path))
        missing = [name for name in NAMES if not hasattr(solution, name)]
        if missing:
            raise Failure(f"{path} has no {' and no '.join(missing)}; the check needs {', '.join(NAMES)}")
        stage = "checked, its classes are not the sheet's"
        return check_classes(*(getattr(solution, name) for name in NAMES))
    except Failure:
        raise
    except (Exception, SystemExit) as error:  # foreign code may raise anything, and its author can fix it
        raise Failure(f"{path} cannot be {stage}: {_reason(error)}") from error
    finally:
        sys.path[:] = search_path
        torch.set_default_dtype(torch.float32)


def load_definitions(source: bytes, path: str) -> types.ModuleType:
    """Execute the imports of a solution, its four classes and what those refer to; return the module.

    Everything else is left out: a file without a main guard would train, draw and write when it is imported.
    """
    tree, needed = ast.parse(source, path), set(NAMES)
    codes = [compile(ast.Module([node], []), path, "exec") for node in tree.body]
    kept = {k for k, node in enumerate(tree.body) if isinstance(node, ast.Import | ast.ImportFrom)}
    while found := {k for k, code in enumerate(codes) if needed & set(_names(code, "STORE_NAME"))} - kept:
        kept |= found
        needed.update(*(_names(codes[k], "LOAD_NAME", "LOAD_GLOBAL") for k in found))
    tree.body = [tree.body[k] for k in sorted(kept)]
    module = types.ModuleType("solution")
    sys.modules["solution"] = module  # dataclasses look their module up
    exec(compile(tree, path, "exec"), vars(module))
    return module


def _names(code: types.CodeType, *operations: str) -> Iterator[str]:
    """Yield the names that the code loads or stores; what a class or function stores inside does not count."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in operations)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType) and "STORE_NAME" not in operations:
            yield from _names(inner, *operations)


def check_classes(linear: type, relu: type, softmax: type, cross_entropy: type) -> list[Check]:
    """Check the gradients of the four classes for a batch of one and one of several rows."""
    checks = []
    for seed, (batch, inputs, outputs) in enumerate(((1, 1, 2), (5, 3, 4))):
        rng = np.random.default_rng(seed)
        layer = new_linear(linear, inputs, outputs, rng)
        checks += check_layer(layer, linear_twin, rng.normal(size=(batch, inputs)), rng)
        logits = rng.normal(size=(batch, outputs))
        checks += check_layer(relu(), lambda f: f.relu(), logits, rng, like=layer)
        checks += check_layer(softmax(), lambda f: f.softmax(dim=1), logits, rng, like=layer)
        checks.append(check_loss(cross_entropy(), logits / 2, rng, like=layer))
    return checks


def new_linear(linear: type, inputs: int, outputs: int, rng: np.random.Generator) -> Any:
    """Return a Linear layer of any solution with random float64 weights and biases."""
    layer = linear(inputs, outputs, *([rng] if "rng" in inspect.signature(linear).parameters else []))
    for name in ("weight", "bias"):
        array = getattr(layer, name)
        values = _like(layer, rng.normal(size=tuple(array.shape)))
        if hasattr(array, "detach"):
            array.data = values  # which a torch Parameter takes as well
        else:
            setattr(layer, name, values)
    return layer


def linear_twin(x: Any, weight: Any, bias: Any) -> Any:
    """Return the affine map of x [N, in] in torch for weights [out, in] or, as their shape tells, [in, out]."""
    return x @ (weight.T if weight.shape[1] == x.shape[1] else weight) + bias.flatten()


def check_layer(layer: Any, twin: Callable, x: np.ndarray, rng: np.random.Generator, like: Any = None) -> list[Check]:
    """Check ∂L/∂x and the gradients of all parameters against differences and against `twin`, the same in torch.

    L weights the outputs at random. `like` is a layer whose weights show which kind of array this one takes.
    """
    like = like or layer
    parameters = parameter_names(layer) or [key for key in ("weight", "bias") if hasattr(layer, key)]

    def forward() -> np.ndarray:
        takes_remember = "remember" in inspect.signature(layer.forward).parameters
        return _numpy(layer.forward(_like(like, x), **({"remember": True} if takes_remember else {})))

    try:
        delta = rng.normal(size=forward().shape)
        found = {"x": _numpy(layer.backward(_like(like, delta))).copy()}
        found |= {key: _numpy(getattr(layer, f"grad_{key}")).copy() for key in parameters}
    except Exception as error:  # foreign code, as above
        return [Check(type(layer).__name__, "∂L/∂x", x.shape, np.inf, np.inf, _reason(error))]
    arrays = {"x": x} | {key: _numpy(getattr(layer, key)) for key in parameters}
    expected = _autograd(twin, list(arrays.values()), delta)
    checks = []
    for (key, array), gradient in zip(arrays.items(), expected, strict=True):
        differences = central_differences(lambda: float((forward() * delta).sum()), array)
        errors = relative_error(found[key], differences), relative_error(found[key], gradient)
        checks.append(Check(type(layer).__name__, f"∂L/∂{key}", array.shape, *errors))
    return checks


def check_loss(criterion: Any, logits: np.ndarray, rng: np.random.Generator, like: Any) -> Check:
    """Check ∂L/∂p of a cross-entropy of probabilities for classes or one-hot labels, and name a missing 1/N."""
    exponentials = np.exp(logits)
    p = exponentials / exponentials.sum(axis=1, keepdims=True)
    y = rng.integers(0, logits.shape[1], len(logits))
    one_hot, mean = np.eye(logits.shape[1])[y], -np.log(p[np.arange(len(y)), y]).mean()

    def loss(labels: np.ndarray) -> float:
        return float(criterion.forward(_like(like, p), _like(like, labels)))

    def distance(labels: np.ndarray) -> float:
        try:
            return min(abs(loss(labels) / factor - mean) for factor in (1, len(y)))
        except Exception:  # foreign code, as above
            return np.inf

    labels = min((y, one_hot), key=distance)
    try:
        loss(labels)
        found = _numpy(criterion.backward())
    except Exception as error:  # foreign code, as above
        return Check(type(criterion).__name__, "∂L/∂p", p.shape, np.inf, np.inf, _reason(error))
    (expected,) = _autograd(lambda tensor: tensor.log(), [p], -one_hot / len(y))
    lacks_mean = len(y) > 1 and relative_error(found, len(y) * expected) < AUTOGRAD_TOLERANCE
    remark = "the 1/N of the mean is missing" if lacks_mean else ""
    differences = central_differences(lambda: loss(labels), p)
    errors = relative_error(found, differences), relative_error(found, expected)
    return Check(type(criterion).__name__, "∂L/∂p", p.shape, *errors, remark, LOSS_TOLERANCE)


def _autograd(function: Callable, arrays: Sequence[np.ndarray], delta: np.ndarray) -> list[np.ndarray]:
    """Return the gradients of Σ delta · function(arrays) by PyTorch."""
    import torch

    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    total = (function(*tensors) * torch.from_numpy(delta)).sum()
    return [gradient.numpy() for gradient in torch.autograd.grad(total, tensors)]


def _reason(error: BaseException) -> str:
    """Return the kind and the message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _like(layer: Any, values: np.ndarray) -> Any:
    """Return a copy of values, which the callee may change, as the kind of array that the layer's weights are."""
    if not hasattr(getattr(layer, "weight", None), "detach"):
        return values.copy()
    import torch

    return torch.from_numpy(values.copy())


def _numpy(array: Any) -> np.ndarray:
    """Return a NumPy view of an array or tensor."""
    return array.detach().numpy() if hasattr(array, "detach") else np.asarray(array)


def report(checks: list[Check]) -> None:
    """Print the checks as a table; raise `Failure` when one does not pass."""
    print(f"{'layer':18}{'gradient':12}{'shape':10}{'differences':>13}{'autograd':>11}  verdict")
    for check in checks:
        shape = "×".join(map(str, check.shape))
        errors = f"{check.differences_error:13.1e}{check.autograd_error:11.1e}"
        verdict = "right" if check.passed else f"WRONG  {check.remark}"
        print(f"{check.layer:18}{check.gradient:12}{shape:10}{errors}  {verdict}")
    if wrong := sum(not check.passed for check in checks):
        raise Failure(f"{wrong} of {len(checks)} gradients are wrong; the table above says which")
