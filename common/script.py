"""What every script does around its work: flags, device, complete files, errors in one
line, argument checks.
"""

import argparse
import io
import json
import math
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
CHECKPOINT = ROOT / "artifacts" / "mlp.pt"
FEATURES = "features.npz"  # task 4 writes it beside the checkpoint
DEVICES = ("auto", "cpu", "cuda", "mps")
DEFAULT = "(default: %(default)s)"  # argparse fills it in
UNFINISHED = ".unfinished.tmp"  # how the names of temporary files end


class Failure(ValueError):
    """An error that the user can fix: the message is one line that says what is wrong
    and what to do.
    """


def check_shape(array: np.ndarray, *expected: int | str) -> None:
    """Raise ValueError unless the array has this shape; a letter stands for any length
    but zero.
    """
    fits = len(array.shape) == len(expected) and 0 not in array.shape
    for length, wanted in zip(array.shape, expected, strict=False):
        fits = fits and (wanted == length or isinstance(wanted, str))
    if not fits:
        raise ValueError(f"expected the shape {expected}, got {tuple(array.shape)}")


def script_parser(
    description: str, data: bool = False, model: bool = False, show: bool = True
) -> argparse.ArgumentParser:
    """Return a parser with the flags that scripts share, those of MNIST with `data`, of
    the network with `model`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--seed", type=seed, default=0, help=f"seed of every random draw {DEFAULT}"
    )
    parser.add_argument(
        "--figures",
        type=user_path,
        default=FIGURES,
        help="folder for figures and results (default: figures, beside the scripts)",
    )
    parser.set_defaults(show=False)
    if show:
        parser.add_argument(
            "--show", action="store_true", help="open the figures in windows as well"
        )
    if data:
        parser.add_argument(
            "--data-dir",
            type=user_path,
            help="folder with the four IDX files, plain or .gz; without it the variable"
            " MNIST_DIR, then common/mnist",
        )
    if model:
        parser.add_argument(
            "--device",
            choices=DEVICES,
            default="auto",
            help=f"where to compute {DEFAULT}",
        )
        parser.add_argument(
            "--checkpoint",
            type=file_path,
            default=CHECKPOINT,
            help="the network (default: artifacts/mlp.pt, beside the scripts)",
        )
    return parser


def add_training_flags(
    parser: argparse.ArgumentParser, epochs: int, batch_size: int, learning_rate: float
) -> None:
    """Add flags for the settings of training, also with underscores, as the sheet
    spells them.
    """
    parser.add_argument(
        "--epochs",
        type=positive_int,
        default=str(epochs),  # as text, so that its type is checked
        help=f"passes over the train split {DEFAULT}",
    )
    parser.add_argument(
        "--batch-size",
        "--batch_size",
        type=positive_int,
        default=str(batch_size),
        help=f"examples per step {DEFAULT}",
    )
    parser.add_argument(
        "--learning-rate",
        "--learning_rate",
        "--lr",
        type=positive_float,
        default=str(learning_rate),
        metavar="RATE",
        help=f"step size of the optimizer {DEFAULT}",
    )


# Types of flags: argparse turns a ValueError into a line that names the flag, the type
# and the text.
def positive_int(text: str) -> int:
    """Read an integer above zero."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def positive_float(text: str) -> float:
    """Read a finite number above zero."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def seed(text: str) -> int:
    """Read an integer from zero up."""
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def user_path(text: str) -> Path:
    """Read a path in which ~ stands for the home folder: shells leave --figures=~/x."""
    return Path(os.path.expanduser(text))


def file_path(text: str) -> Path:
    """Read the path of a file, old or new: no folder, no device."""
    path = user_path(text)
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError
    return path


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and prepare the output."""
    sys.stderr = sys.stderr or io.StringIO()  # without a console there is none
    with suppress(AttributeError):  # of streams in IDLE and notebooks
        sys.stdout.reconfigure(errors="replace")  # characters the console cannot show
    if sys.argv[0].endswith("kernel_launcher.py"):  # the flags are those of the kernel
        options = parser.parse_args([])
    else:
        options = parser.parse_args()
    if not options.show and "IPython" not in sys.modules:
        import matplotlib.pyplot as plt

        plt.switch_backend("agg")  # needs no display
    return options


def run(main: Callable[..., None], options: argparse.Namespace) -> None:
    """Run a script's main; turn an error that the user can fix into one line on stderr
    and exit status 1, Ctrl-C into one line and 130.
    """
    start = time.monotonic()
    try:
        make_writable(options.figures)
        with np.errstate(over="ignore", invalid="ignore"):  # it shows in the loss
            main(options)
        print(f"done in {time.monotonic() - start:.0f} s", flush=True)
        if options.show:
            import matplotlib.pyplot as plt

            plt.show()
        return
    except (Failure, OSError, MemoryError) as error:
        status = 1
        message = str(error) or "not enough memory"
    except KeyboardInterrupt:
        warnings.simplefilter("ignore")  # joblib warns of the tasks that it cancels
        status = 130
        message = "interrupted"
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(status)


def finding(accuracy: float, labels: np.ndarray) -> str:
    """Return in words the test accuracy of a training in per cent, and whether guessing
    the most common of the labels [N] would do as well.
    """
    guessed = 100 * np.bincount(labels).max() / len(labels)
    verdict = "" if accuracy > guessed else ", no better than guessing"
    return f"test accuracy {accuracy:.2f} %{verdict}"


def worker_count() -> int:
    """Return how many processes joblib may start: one per core (-1), but one where its
    temporary folder is not ASCII, which it cannot handle.
    """
    return -1 if tempfile.gettempdir().isascii() else 1


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C for a moment: processes started meanwhile ignore it for good and
    leave it to this one.
    """
    # joblib's resource tracker would warn of what a later Ctrl-C cuts off
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def choose_device(name: str = "auto") -> Any:
    """Return the torch device of that name or raise `Failure`; `auto` is CUDA where
    that works, else the CPU.
    """
    import torch

    device = torch.device("cuda" if name == "auto" else name)
    try:
        torch.ones(1, device=device)  # on a card too old for this PyTorch it fails
    except (RuntimeError, AssertionError) as error:
        if name == "auto":
            return torch.device("cpu")
        reason = str(error).splitlines()[0]
        raise Failure(
            f"--device {name} does not work ({reason}); use --device auto"
        ) from error
    return device


def make_writable(folder: Path) -> None:
    """Make the folder if it is missing and remove what killed runs left in it; raise
    OSError, before any work is done, when nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    for leftover in folder.glob(f".*{UNFINISHED}"):
        if time.time() - leftover.stat().st_mtime > 3600:  # no other run writes it now
            leftover.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it replaces `path` once it is
    complete.

    Two runs may write the same file at once. Raises `Failure`, which names `path`, when
    it cannot be written.
    """
    path = path.resolve()  # a symbolic link stays one
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise Failure(
            f"cannot write {path} ({error}); free space, close it in other programs or"
            " choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def save_results(
    options: argparse.Namespace, name: str, results: dict[str, Any]
) -> None:
    """Write `results`, the seed included, to NAME.json in the folder of the figures."""
    text = json.dumps({"seed": options.seed, **results}, indent=1, allow_nan=False)
    with replacing(options.figures / f"{name}.json") as temporary:
        temporary.write_bytes(f"{text}\n".encode())
