"""Gradients checked by central differences and by torch.autograd, in float64: of task 1's layers or of another file.

Other solutions may work on NumPy arrays or torch tensors, with weights [out, in] or [in, out] and labels as classes or
one-hot. Errors are relative to the largest entry of a gradient. PyTorch is imported only where it is the reference.
"""

import ast
import dis
import inspect
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.checks import Failure

STEPS = [1e-5 / 2**k for k in range(9)]  # of central differences, each half of the one before
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


def central_differences(loss: Callable[[], float], array: np.ndarray) -> np.ndarray:
    """Return ∂loss/∂array by (loss(a + h) - loss(a - h)) / 2h, entry by entry; `array` is changed and restored.

    A step that crosses a kink of a ReLU shows when half the step gives another slope; then a smaller step is taken.
    """

    def loss_at(index: tuple[int, ...], value: float) -> float:
        array[index] = value
        return loss()

    slopes = np.empty(array.shape)
    for index, original in np.ndenumerate(array):
        differences = ((loss_at(index, original + h) - loss_at(index, original - h)) / (2 * h) for h in STEPS)
        for slope, half in pairwise(differences):
            if abs(slope - half) <= 1e-9 + 1e-6 * abs(slope):
                break
        array[index], slopes[index] = original, slope
    return slopes


def parameter_names(layer: Any) -> list[str]:
    """Return the names of the layer's arrays that have a gradient `grad_NAME` beside them."""
    return [name for name in vars(layer) if f"grad_{name}" in vars(layer)]


def network_errors(mlp: Any, x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """Return the error of each parameter's gradient in task 1's network on one batch, by central differences."""
    mlp.loss(x, y)
    mlp.backward()
    found = [(layer, name, getattr(layer, f"grad_{name}")) for layer in mlp.layers for name in parameter_names(layer)]
    largest = max(np.abs(gradient).max() for *_, gradient in found)  # of all, since some arrays may have hardly any
    errors = []
    for layer, name, gradient in found:
        array = getattr(layer, name)
        difference = np.abs(gradient - central_differences(lambda: mlp.loss(x, y), array)).max()
        errors.append({"parameter": name, "shape": list(array.shape), "error": float(difference / largest)})
    return errors


class Check(NamedTuple):
    """One gradient of a layer: its errors against differences and autograd, and a remark if it is wrong."""

    layer: str
    gradient: str
    shape: tuple[int, ...]
    differences_error: float = np.inf
    autograd_error: float = np.inf
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
    search_path = sys.path.copy()
    sys.path.insert(0, str(path.parent.resolve()))  # for modules beside the file
    torch.set_default_dtype(torch.float64)  # for tensors that the solution makes
    try:
        solution = load_definitions(path.read_bytes(), str(path))
        missing = [name for name in NAMES if not hasattr(solution, name)]
        if not missing:
            return check_classes(*(getattr(solution, name) for name in NAMES))
    except (Exception, SystemExit) as error:  # foreign code may raise anything, and its author can fix it
        raise Failure(f"{path} cannot be checked; correct this first: {_reason(error)}") from error
    finally:
        sys.path[:] = search_path
        torch.set_default_dtype(torch.float32)
    raise Failure(f"{path} has no {' and no '.join(missing)}; the check needs {', '.join(NAMES)}")


def load_definitions(source: bytes, path: str) -> types.ModuleType:
    """Execute the imports of a solution, its four classes and what those refer to; return the module.

    Everything else is left out: a file without a main guard would train, draw and write when it is imported.
    """
    tree, needed = ast.parse(source, path), set(NAMES)
    codes = [compile(ast.Module([node], []), path, "exec") for node in tree.body]
    kept = {k for k, node in enumerate(tree.body) if isinstance(node, ast.Import | ast.ImportFrom)}
    stored = [{step.argval for step in dis.get_instructions(code) if step.opname == "STORE_NAME"} for code in codes]
    while found := {k for k, names in enumerate(stored) if needed & names} - kept:
        kept |= found
        needed.update(*(_loaded(codes[k]) for k in found))
    tree.body = [tree.body[k] for k in sorted(kept)]
    sys.modules["solution"] = module = types.ModuleType("solution")  # dataclasses look their module up
    exec(compile(tree, path, "exec"), vars(module))
    return module


def _loaded(code: types.CodeType) -> set[str]:
    """Return the global names that the code loads, those in its functions and classes included."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_NAME", "LOAD_GLOBAL")}
    return names.union(*(_loaded(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def check_classes(linear: type, relu: type, softmax: type, cross_entropy: type) -> list[Check]:
    """Check the gradients of the four classes, with random parameters, for a batch of one and one of several rows."""
    import torch

    checks = []
    for seed, (batch, inputs, outputs) in enumerate(((1, 1, 2), (5, 3, 4))):
        rng = np.random.default_rng(seed)
        layer = linear(inputs, outputs, *([rng] if "rng" in inspect.signature(linear).parameters else []))
        convert = torch.tensor if hasattr(layer.weight, "detach") else np.array  # what all four take; both copy
        for name in ("weight", "bias"):
            array = getattr(layer, name)
            owner, attribute = (layer, name) if convert is np.array else (array, "data")  # a Parameter stays one
            setattr(owner, attribute, convert(rng.normal(size=tuple(array.shape))))
        x, logits = rng.normal(size=(batch, inputs)), rng.normal(size=(batch, outputs))
        for check, tested, *arguments in (
            (check_layer, layer, lambda x, w, b: x @ (w.T if w.shape[1] == x.shape[1] else w) + b.flatten(), x),
            (check_layer, relu(), torch.relu, logits),
            (check_layer, softmax(), torch.nn.Softmax(dim=1), logits),
            (check_loss, cross_entropy(), rng.dirichlet(np.full(outputs, 10), batch)),
        ):
            try:
                checks += check(tested, *arguments, rng, convert)
            except Exception as error:  # foreign code, as above
                checks.append(Check(type(tested).__name__, "all", arguments[-1].shape, remark=_reason(error)))
    return checks


def check_layer(layer: Any, twin: Callable, x: np.ndarray, rng: np.random.Generator, convert: Callable) -> list[Check]:
    """Check ∂L/∂x and the gradients of all parameters against differences and against `twin`, the same in torch.

    L weights the outputs at random; `convert` copies an array as the kind that the layer takes.
    """
    import torch

    names = [name for name in ("weight", "bias") if hasattr(layer, name)] or parameter_names(layer)
    remember = {"remember": True} if "remember" in inspect.signature(layer.forward).parameters else {}

    def forward() -> np.ndarray:
        return _numpy(layer.forward(convert(x), **remember))

    delta = rng.normal(size=forward().shape)
    found = [_numpy(layer.backward(convert(delta))).copy()]
    found += [_numpy(getattr(layer, f"grad_{name}")).copy() for name in names]
    arrays = [x, *(_numpy(getattr(layer, name)) for name in names)]
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    gradients = torch.autograd.grad(twin(*tensors), tensors, torch.tensor(delta))
    checks = []
    for name, array, ours, theirs in zip(["x", *names], arrays, found, gradients, strict=True):
        differences = central_differences(lambda: float((forward() * delta).sum()), array)
        errors = [relative_error(ours, each) for each in (differences, theirs.numpy())]
        lacks_mean = len(x) > 1 and relative_error(ours, len(x) * theirs.numpy()) < AUTOGRAD_TOLERANCE
        remark = "N times too large, as without the 1/N of the mean" if lacks_mean else ""
        checks.append(Check(type(layer).__name__, f"∂L/∂{name}", array.shape, *errors, remark))
    return checks


def check_loss(criterion: Any, p: np.ndarray, rng: np.random.Generator, convert: Callable) -> list[Check]:
    """Check ∂L/∂p of a cross-entropy of probabilities p [N, C], with classes or one-hot labels as it takes them."""
    y = rng.integers(0, p.shape[1], len(p))
    mean = -np.log(p[range(len(p)), y]).mean()

    def distance(labels: np.ndarray) -> float:
        with suppress(Exception):  # most solutions take one of the two and may raise anything for the other
            loss = float(criterion.forward(convert(p), convert(labels)))
            return min(abs(loss - mean), abs(loss - len(p) * mean))
        return np.inf

    labels = min((y, np.eye(p.shape[1])[y]), key=distance)
    layer = types.SimpleNamespace(forward=lambda p: float(criterion.forward(p, convert(labels))))
    layer.backward = lambda delta: delta * criterion.backward()  # the chain rule: delta is what arrives
    (check,) = check_layer(layer, lambda p: -p[range(len(p)), y].log().mean(), p, rng, convert)
    return [check._replace(layer=type(criterion).__name__, gradient="∂L/∂p", autograd_tolerance=LOSS_TOLERANCE)]


def _reason(error: BaseException) -> str:
    """Return the kind and the message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


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
