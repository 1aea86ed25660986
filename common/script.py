"""What every script does around its work: flags, device, complete files, errors in one
line, argument checks.
"""

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
CHECKPOINT = ROOT / "artifacts" / "mlp.pt"
FEATURES = "features.npz"  # task 4 writes it beside the checkpoint
DEFAULT = "(default: %(default)s)"  # argparse fills it in
DEVICES = ("auto", "cpu", "cuda", "mps")
MAX_SEED = 2**32 - 1000  # all libraries take it, and experiments count up from it


class Failure(ValueError):
    """An error that the user can fix: the message is one line that says what is wrong
    and what to do.
    """


def saved_by_forward(saved: Any) -> Any:
    """Return what a forward pass saved for the backward pass; raise ValueError when
    there was none.
    """
    if saved is None:
        raise ValueError("call forward or loss with remember=True before backward")
    return saved


def check_shape(array: np.ndarray, *expected: int | str) -> None:
    """Raise ValueError unless the array has this shape; a letter stands for any length
    but zero.
    """
    shape = list(array.shape)
    wanted = [
        have if isinstance(want, str) else want
        for have, want in zip(shape, expected, strict=False)
    ]
    if len(shape) != len(expected) or shape != wanted or 0 in shape:
        raise ValueError(
            f"expected an array of shape [{', '.join(map(str, expected))}], got {shape}"
        )


def check_labels(labels: np.ndarray, count: int, classes: int) -> None:
    """Raise ValueError unless the labels are `count` integers from 0 to `classes` - 1."""
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"expected {count} integer labels [N], got {labels.dtype} of shape {list(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"expected labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}"
        )


def script_parser(
    description: str, data: bool = False, model: bool = False, show: bool = True
) -> argparse.ArgumentParser:
    """Return a parser with the flags that scripts share, those of MNIST with `data`, of
    the network with `model`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=0,
        help=f"seed of every random draw {DEFAULT}",
    )
    help_text = f"folder for figures and results {DEFAULT}"
    parser.add_argument(
        "--figures", type=Path, default=FIGURES, metavar="DIR", help=help_text
    )
    parser.set_defaults(show=False)
    if show:
        parser.add_argument(
            "--show", action="store_true", help="open the figures in windows as well"
        )
    if data:
        help_text = "folder with the four IDX files, plain or .gz; without it the variable MNIST_DIR, then common/mnist"
        parser.add_argument("--data-dir", type=Path, metavar="DIR", help=help_text)
    if model:
        parser.add_argument(
            "--device",
            choices=DEVICES,
            default="auto",
            help=f"where to compute {DEFAULT}",
        )
        path = {
            "type": network_file,
            "default": CHECKPOINT,
            "metavar": "FILE",
            "help": f"the network {DEFAULT}",
        }
        parser.add_argument("--checkpoint", **path)
    return parser


def add_training_flags(
    parser: argparse.ArgumentParser, epochs: int, batch_size: int, learning_rate: float
) -> None:
    """Add flags for the settings of training, also with underscores, as the sheet
    spells them.
    """
    passes = {
        "type": positive_int,
        "default": epochs,
        "help": f"passes over the train split {DEFAULT}",
    }
    size = {
        "type": positive_int,
        "default": batch_size,
        "help": f"examples per step {DEFAULT}",
    }
    rate = {
        "type": positive_float,
        "default": learning_rate,
        "help": f"step size of the optimizer {DEFAULT}",
    }
    parser.add_argument("--epochs", **passes)
    parser.add_argument("--batch-size", "--batch_size", **size)
    parser.add_argument("--learning-rate", "--learning_rate", "--lr", **rate)


def number_type(
    kind: type, fits: Callable[[float], bool], expected: str
) -> Callable[[str], float]:
    """Return a `type` for argparse that reads a number or says in one line what was
    expected.
    """

    def read(text: str) -> float:
        with suppress(ValueError):
            if (
                text.isascii() and "_" not in text and fits(number := kind(text))
            ):  # Python would take 1_0 and ١ as well
                return number
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")

    return read


def network_file(text: str) -> Path:
    """Read the path of a checkpoint; a folder and the name of task 4's features are
    refused.
    """
    path = Path(text)
    if os.path.isdir(path) or path.name.lower() == FEATURES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is a folder or has the name of task 4's features, not of a network"
        )
    return path


positive_int = number_type(
    int, lambda number: 1 <= number <= 10**9, f"an integer from 1 to {10**9}"
)
seed_number = number_type(
    int, lambda number: 0 <= number <= MAX_SEED, f"an integer from 0 to {MAX_SEED}"
)
positive_float = number_type(
    float, lambda number: 0 < number < math.inf, "a finite number above zero"
)


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and prepare the output; characters that the console cannot
    show become ?.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not in IDLE and notebooks
            stream.reconfigure(errors="replace")
    options = parser.parse_args()
    if (
        not options.show and "IPython" not in sys.modules
    ):  # MPLBACKEND may come from the notebook that started this
        plt.switch_backend("agg")
    return options


def run(
    main: Callable[[argparse.Namespace], None], options: argparse.Namespace
) -> None:
    """Run a script's main; turn an error that the user can fix into one line on stderr
    and exit status 1.
    """
    start, status = time.monotonic(), 1
    try:
        make_writable(options.figures)
        main(options)
        print(f"done in {time.monotonic() - start:.0f} s", flush=True)
        if options.show:
            if plt.get_backend().lower() == "agg":
                print(
                    "no display: the figures are in their folder only", file=sys.stderr
                )
            plt.show()
        return
    except Failure as failure:
        message = str(failure)
    except KeyboardInterrupt:
        for thread in threading.enumerate():
            if (
                thread.name == "QueueFeederThread"
            ):  # joblib's thread cleans up, and complains if it is cut off
                thread.join(1)
        message, status = "interrupted", 130
    # a full disk, a folder that cannot be written, a file that cannot be read, a closed
    # pipe
    except OSError as error:
        advice = "free space, close it in other programs or choose another path"
        message = f"{error.filename or 'output'}: {error.strerror or error}; {advice}"
        try:
            print(end="", flush=True)
        # discard what stdout cannot take: Python would try again at its exit and
        # complain
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (
        MemoryError,
        RuntimeError,
    ) as error:  # PyTorch raises RuntimeError when it runs out of memory
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        message = "not enough memory; choose a smaller network or batch"
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(status)


def worker_count() -> int:
    """Return how many processes joblib may start: one per core (-1), or one if its
    temporary folder is not ASCII.
    """
    return (
        -1
        if (os.environ.get("JOBLIB_TEMP_FOLDER") or tempfile.gettempdir()).isascii()
        else 1
    )


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C for a moment: processes started meanwhile ignore it for good and
    leave it to this one.
    """
    main_thread = (
        threading.current_thread() is threading.main_thread()
    )  # only it may set signal handlers
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main_thread else None
    try:
        yield
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, handler)


def choose_device(name: str = "auto") -> Any:
    """Return the torch device of that name or raise `Failure`; `auto` is CUDA where
    that works, else the CPU.
    """
    import torch

    chosen = name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=chosen).add(
            1
        ).item()  # a card that is too old for this PyTorch fails here as well
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # PyTorch without CUDA raises the latter
        reason = str(error).partition("\n")[0].partition(". ")[0]  # its first sentence
        if name != "auto":
            raise Failure(
                f"--device {name} does not work ({reason}); use --device auto"
            ) from error
        print(
            f"{chosen} does not work ({reason}); computing on the CPU", file=sys.stderr
        )
        chosen = "cpu"
    return torch.device(chosen)


def make_writable(folder: Path) -> None:
    """Make the folder if it is missing; raise OSError, before any work is done, when
    nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{os.urandom(4).hex()}.tmp"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it replaces `path` once it is
    complete.

    Two runs may write the same file at once. OSErrors name `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    target = Path(os.path.realpath(path))  # a symbolic link stays one
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        yield temporary
        for _ in range(
            20
            # for two seconds: on Windows a viewer or a virus scanner may hold the old file
        ):
            with suppress(PermissionError):
                return os.replace(temporary, target)
            time.sleep(0.1)
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def save_results(
    options: argparse.Namespace, name: str, results: dict[str, Any]
) -> None:
    """Write `results`, the seed included, to NAME.json in the folder of the figures."""
    text = json.dumps({"seed": options.seed, **results}, indent=1, allow_nan=False)
    with replacing(options.figures / f"{name}.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", newline="\n")
