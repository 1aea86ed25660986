"""Gradients by hand against central differences of their own loss and against
torch.autograd: of layers, of a solution.

Layers work on NumPy's arrays or torch's tensors: `convert` is np.array or torch.tensor,
both of which copy. They work in float64, or in float32 if they are given arrays of that
type.
"""

import inspect
from contextlib import suppress
from functools import partial, reduce
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from solution import NAMES, Refused, Solution, surroundings
from torch import nn

from common.gradients import central_differences, relative_error

BATCHES, INPUTS, OUTPUTS = (1, 5), 3, 4
CHAIN = "the chain Linear-ReLU-Linear-Softmax-CrossEntropyLoss"
LAYERS = {
    "Linear": ("x", "weight", "bias"),
    "ReLU": ("x",),
    "Softmax": ("x",),
    "CrossEntropyLoss": ("p",),
}
GRADIENTS = [
    (name, gradient) for name, gradients in LAYERS.items() for gradient in gradients
] + [(CHAIN, "parameters")]
DIFFERENCES_TOLERANCE, AUTOGRAD_TOLERANCE = 1e-7, 1e-9
LOOSE = 1e-4  # for float32, and for a small ε in a logarithm or a quotient
LARGE, SMALL, SUM = "N times too large", "N times too small", "the loss as well"
STARTER = f"{LARGE} by the sheet: forward averages and backward does not, as in the course's starter file"


class Errors(NamedTuple):
    """A gradient on one batch: "right", LARGE, SMALL or "wrong", remarks, and errors
    relative to the largest entry.
    """

    verdict: str
    remarks: list
    differences: float
    autograd: float


def numbers(value, what):
    """Return a NumPy view of an array, a tensor or a number."""
    array = (
        value.detach().cpu().numpy()
        if isinstance(value, torch.Tensor)
        else np.asarray(value)
    )
    if array.dtype.kind not in "fiub":
        raise Refused(f"{what} is {value!r:.50}, expected numbers")
    return array


def read(parameters):
    """Return NumPy views of parameters, each given as a layer and a name."""
    return [numbers(getattr(layer, name), name) for layer, name in parameters]


def write(parameters, values, convert):
    """Set parameters."""
    for (layer, name), value in zip(parameters, values, strict=True):
        if isinstance(getattr(layer, name), torch.Tensor):
            getattr(layer, name).data = convert(value)  # a Parameter stays one
        else:
            setattr(layer, name, convert(value))


def forward(layer, *arguments):
    """Call a layer's forward pass, with `remember=True` where it takes that."""
    remember = (
        {"remember": True}
        if "remember" in inspect.signature(layer.forward).parameters
        else {}
    )
    return layer.forward(*arguments, **remember)


def check_layer(layer, twin, x, parameters, convert):
    """Return the errors of ∂L/∂x and of the gradients of parameters; `twin` is the same
    function in torch.

    L weights the outputs at random. A parameter is a layer and a name; it is written
    before forward, and again before the differences, since a backward pass may change
    it.
    """
    rng, n = np.random.default_rng(0), len(x)
    values = [
        rng.normal(size=array.shape).astype(x.dtype) for array in read(parameters)
    ]
    write(parameters, values, convert)
    tensors = [
        torch.tensor(array, dtype=torch.float64, requires_grad=True)
        for array in (x, *values)
    ]
    with torch.enable_grad():
        y = twin(*tensors)
    delta = np.asarray(rng.normal(size=y.shape), x.dtype)
    expected = [
        gradient.numpy()
        for gradient in torch.autograd.grad(y, tensors, torch.tensor(delta))
    ]
    y = y.detach().numpy()

    def output():
        return numbers(forward(layer, convert(x)), "the output").copy()

    first, second = output(), output()
    if second.shape != y.shape:
        raise Refused(
            f"forward returns shape {list(second.shape)}, expected {list(y.shape)}"
        )
    found = [
        layer.backward(convert(delta)),
        *(getattr(owner, f"grad_{name}", None) for owner, name in parameters),
    ]
    found = [
        numbers(np.nan if each is None else each, "a gradient").copy() for each in found
    ]
    changed = not all(map(np.array_equal, values, read(parameters)))
    write(parameters, values, convert)

    single = any(array.dtype == np.float32 for array in (first, *found))
    repeatable = np.array_equal(first, second, equal_nan=True)
    forward_differs = relative_error(first, y) > LOOSE
    letters = (
        ({INPUTS: "in", OUTPUTS: "out"} if parameters else {x.shape[1]: "C"})
        | {n: "N"}
        | {1: "1"}
    )
    names, errors = ["result", *(f"grad_{name}" for _, name in parameters)], []
    for name, ours, theirs, array in zip(
        names, found, expected, (x, *read(parameters)), strict=True
    ):
        if array is not x and ours.squeeze().shape == theirs.squeeze().shape:
            ours = ours.reshape(theirs.shape)  # as of a bias [1, out]
        autograd, differences = relative_error(ours, theirs), np.nan
        if repeatable and not single:
            differences = relative_error(
                ours, central_differences(lambda: (output() * delta).sum(), array)
            )
        exact = autograd <= AUTOGRAD_TOLERANCE and differences <= DIFFERENCES_TOLERANCE
        factors = {"right": 1, LARGE: 1 / n, SMALL: n}
        verdict = next(
            (
                each
                for each in factors
                if relative_error(factors[each] * ours, theirs) <= LOOSE
            ),
            "wrong",
        )
        if (
            verdict == "right"
            and not exact
            and (forward_differs or (changed and not single))
        ):
            verdict = "wrong"
        shapes = [
            ", ".join(letters.get(size, str(size)) for size in each.shape)
            for each in (ours, theirs)
        ]
        remarks = {
            f"backward gives no {name}": ours.ndim == 0 < theirs.ndim,
            "shape [{}], expected [{}]".format(*shapes): ours.ndim > 0
            and ours.shape != theirs.shape,
            "not finite": ours.ndim > 0 and not np.isfinite(ours).all(),
            "the parameters change during backward": changed,
            "not repeatable: two forward passes of the same input differ": not repeatable,
            "computed in float32": single,
            "exact but for a small ε": verdict == "right" and not (exact or single),
            "forward differs from the sheet's formula": verdict == "wrong"
            and forward_differs,
            SUM: verdict == LARGE and relative_error(first, n * y) <= LOOSE,
        }
        remarks = [remark for remark, applies in remarks.items() if applies]
        errors.append(Errors(verdict, remarks, differences, autograd))
    return errors


def linear(x, weight, bias):
    """Linear's twin, for weights [out, in] or [in, out]."""
    weight = weight.squeeze()
    return x @ (weight if len(weight) == x.shape[1] else weight.T) + bias.flatten()


def match_loss(criterion, p, y, convert):
    """Return whether a loss takes logits for p, and its labels, classes or one-hot, by
    its value.
    """
    matches = [(np.inf, False, y)]
    for labels in (y, np.eye(p.shape[1], dtype=p.dtype)[y]):
        with suppress(
            Exception
        ):  # most take one of the two and may raise anything for the other
            value = float(
                numbers(
                    forward(criterion, convert(p), convert(labels)), "the loss"
                ).squeeze()
            )
            for takes_logits, scores in ((False, np.log(p)), (True, p)):
                mean = nn.functional.cross_entropy(
                    torch.tensor(scores), torch.tensor(y)
                ).item()
                matches.append(
                    (
                        min(abs(value - mean), abs(value - len(p) * mean)),
                        takes_logits,
                        labels,
                    )
                )
    return min(matches, key=lambda match: match[0])[1:]


def subject(solution, name, n, dtype, convert):
    """Return a layer of a solution, or the chain of all, with its twin, an input [n,
    in] and its parameters.
    """
    rng, make = (
        np.random.default_rng(n),
        lambda name, *sizes: solution.find(name)(*sizes),
    )
    x, y = rng.normal(size=(n, INPUTS)).astype(dtype), rng.integers(0, INPUTS, n)
    if name in ("ReLU", "Softmax"):
        return (
            make(name),
            {"ReLU": torch.relu, "Softmax": nn.Softmax(dim=1)}[name],
            x,
            [],
        )
    if name == "Linear":
        layer = make(name, INPUTS, OUTPUTS)
        if {*numbers(layer.weight, "weight").shape} - {1} != {INPUTS, OUTPUTS}:
            raise Refused(
                f"weight has shape {list(layer.weight.shape)}, expected {[OUTPUTS, INPUTS]}"
            )
        return layer, linear, x, [(layer, "weight"), (layer, "bias")]
    criterion, p = (
        make("CrossEntropyLoss"),
        rng.dirichlet(np.full(INPUTS, 10), n).astype(dtype),
    )
    takes_logits, labels = match_loss(criterion, p, y, convert)
    loss = SimpleNamespace(
        forward=lambda p: numbers(
            forward(criterion, p, convert(labels)), "the loss"
        ).squeeze(),
        backward=lambda delta: convert(
            numbers(criterion.backward(), "∂L/∂p") * delta.item()
        ),
    )
    nll = partial(nn.functional.nll_loss, target=torch.tensor(y))
    if name == "CrossEntropyLoss":
        return loss, lambda p: nll(p.log_softmax(1) if takes_logits else p.log()), p, []
    layers = [
        make("Linear", INPUTS, OUTPUTS),
        make("ReLU"),
        make("Linear", OUTPUTS, INPUTS),
    ]
    parameters = [(layer, name) for layer in layers[::2] for name in ("weight", "bias")]
    layers += [loss] if takes_logits else [make("Softmax"), loss]
    chain = SimpleNamespace(
        forward=lambda x: reduce(lambda x, layer: forward(layer, x), layers, x),
        backward=lambda delta: reduce(
            lambda delta, layer: layer.backward(delta), reversed(layers), delta
        ),
    )
    return (
        chain,
        lambda x, w, b, v, c: nll(linear(linear(x, w, b).relu(), v, c).log_softmax(1)),
        x,
        parameters,
    )


def errors_of(solution, name, convert):
    """Return the errors of a class or of the chain for each batch, or a text that says
    why there are none.
    """
    failures = []
    for dtype in (np.float64, np.float32):
        torch.set_default_dtype(
            torch.tensor(dtype(0)).dtype
        )  # of tensors that the solution makes
        try:
            return [
                check_layer(*subject(solution, name, n, dtype, convert), convert)
                for n in BATCHES
            ]
        except (Exception, SystemExit) as error:  # foreign code may raise anything
            failures.append(error)
    return solution.reason(
        min(
            failures,
            key=lambda error: "dtype" in str(error) or "scalar type" in str(error),
        )
    )


def summarize(found, name, gradient):
    """Return the verdict on a gradient, or "none", and a text of it, the remarks and
    the errors.
    """
    if isinstance(found[name], str):
        return "none", f"{name}: {found[name]}"
    batches = [
        errors[1:] if name == CHAIN else [errors[LAYERS[name].index(gradient)]]
        for errors in found[name]
    ]
    verdict, *others = {error.verdict for errors in batches for error in errors} - {
        "right"
    } or {"right"}
    remarks = dict.fromkeys(
        remark for errors in batches for error in errors for remark in error.remarks
    )
    lines = [
        f"∂L/∂{gradient} of {name} is {'; '.join(['wrong' if others else verdict, *remarks])}"
    ]
    for n, errors in zip(BATCHES, batches, strict=True):
        worst, _, differences, autograd = max(errors, key=lambda error: error.autograd)
        if worst != "right" and np.isfinite(autograd):
            against = f"{differences:.1e} against central differences, {autograd:.1e} against autograd"
            lines.append(f"  N={n}: error {against}")
    return "wrong" if others else verdict, "\n".join(lines)


def judge(found, name, gradient):
    """Return what to do about a gradient, "pass", "fail", "xfail" or "skip", and why."""
    verdict, text = summarize(found, name, gradient)
    loss, remarks = summarize(found, "CrossEntropyLoss", "p")
    is_given, (title, *_) = name in ("Softmax", "CrossEntropyLoss"), text.splitlines()
    if verdict == "none":
        chain_failed = name == CHAIN and any(
            isinstance(found[each], str) for each in NAMES
        )
        failed = chain_failed or gradient in ("weight", "bias")
        return "skip" if failed or (
            is_given and "there is no class" in text
        ) else "fail", text
    if (
        verdict != "right"
        and summarize(found, CHAIN, "")[0] == "right"
        and (verdict != "wrong" or is_given)
    ):
        return "xfail", f"{title}; but {CHAIN} is right"
    if (
        verdict == LARGE == loss
        and SUM not in remarks
        and name in ("CrossEntropyLoss", CHAIN)
    ):
        return "xfail", title.replace(LARGE, STARTER)
    return "pass" if verdict == "right" else "fail", text


def check(path):
    """Return for each of GRADIENTS of a solution what to do, "pass", "fail", "xfail" or
    "skip", and why.
    """
    with surroundings(path):
        torch.set_default_dtype(torch.float64)
        solution = Solution(path)
        try:
            is_torch = isinstance(
                solution.find("Linear")(INPUTS, OUTPUTS).weight, torch.Tensor
            )
        except (Exception, SystemExit):
            is_torch = any(value is torch for value in vars(solution.module).values())
        found = {
            name: errors_of(solution, name, torch.tensor if is_torch else np.array)
            for name in (*NAMES, CHAIN)
        }
    return {
        (name, gradient): judge(found, name, gradient) for name, gradient in GRADIENTS
    }
