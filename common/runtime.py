"""What every script does around its work: flags, device, results file, complete files, one line for every error."""

from __future__ import annotations

import argparse
import glob
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from common.checks import Failure

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
CHECKPOINT = ROOT / "artifacts" / "mlp.pt"
DEVICES = ("auto", "cpu", "cuda", "mps")
STALE_SECONDS = 3600  # no file takes that long to write: a temporary file of this age is a killed run's


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description and shows every default."""


def script_parser(description: str, data: bool = False, model: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the flags that scripts share; `data` and `model` add those of MNIST and of the network."""
    parser = argparse.ArgumentParser(description=description, formatter_class=_HelpFormatter)
    parser.add_argument("--seed", type=seed_number, default=0, help="seed of every random draw")
    parser.add_argument("--figures", type=Path, default=FIGURES, metavar="DIR", help="folder for figures and results")
    parser.add_argument("--show", action="store_true", help="open the figures in windows as well")
    if data:
        help_text = "folder with the four IDX files, plain or .gz; without it the variable MNIST_DIR, then common/mnist"
        parser.add_argument("--data-dir", type=Path, metavar="DIR", help=help_text)
    if model:
        parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute")
        parser.add_argument(
            "--checkpoint", type=file_path, default=CHECKPOINT, metavar="FILE", help="the trained network"
        )
    return parser


def add_training_flags(parser: argparse.ArgumentParser, epochs: int, batch_size: int, learning_rate: float) -> None:
    """Add the settings of training with their defaults, in both spellings of the sheet."""
    count, rate = positive_int, positive_float
    parser.add_argument("--epochs", type=count, default=epochs, help="passes over the train split")
    parser.add_argument("--batch-size", "--batch_size", type=count, default=batch_size, help="examples per step")
    names = ("--learning-rate", "--learning_rate", "--lr")
    parser.add_argument(*names, type=rate, default=learning_rate, help="step size of the optimizer")


def _integer(text: str, minimum: int, maximum: int) -> int:
    if not (text.isascii() and text.isdigit() and minimum <= int(text) <= maximum):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {minimum} to {maximum}")
    return int(text)


def positive_int(text: str) -> int:
    """Parse a count of at least one."""
    return _integer(text, 1, 10**9)


def seed_number(text: str) -> int:
    """Parse a seed that NumPy, scikit-learn and PyTorch all accept; experiments count up from it."""
    return _integer(text, 0, 2**32 - 1000)


def positive_float(text: str) -> float:
    """Parse a finite number above zero."""
    with suppress(ValueError):
        if math.isfinite(value := float(text)) and value > 0:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")


def file_path(text: str) -> Path:
    """Parse the path of a file, which need not exist yet."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; name a file")
    return path


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and prepare the output: a console that lacks a character shows a mark instead."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not in IDLE and notebooks, nor where the stream is closed
            stream.reconfigure(errors="replace")
    options = parser.parse_args()
    if not options.show and "MPLBACKEND" not in os.environ:
        mpl.use("agg")
    return options


def run(main: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Run a script's main; turn an error that the user can fix into one line on stderr and exit status 1."""
    script, status = Path(sys.argv[0]).name, 1
    try:
        make_writable(options.figures)
        main(options)
        print(end="", flush=True)
    except Failure as failure:
        message = str(failure)
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    except OSError as error:  # a full disk, a folder that cannot be written, a file that cannot be read, a closed pipe
        message = f"{error.filename or 'output'}: {error.strerror or error}; fix that, or name another place"
        _drop_output()
    except (MemoryError, RuntimeError) as error:  # PyTorch's want of memory is a RuntimeError
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        message = "not enough memory; choose a smaller network or batch"
    else:
        if options.show:
            _show_figures()
        return
    print(f"{script}: {message}", file=sys.stderr)
    raise SystemExit(status)


def _drop_output() -> None:
    """Flush stdout; discard what it cannot take, since Python would try again at its exit and complain."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_figures() -> None:
    import matplotlib.pyplot as plt

    if plt.get_backend().lower() == "agg":
        print("no display: the figures are in their folder only", file=sys.stderr)
    plt.show()


def choose_device(name: str = "auto") -> torch.device:
    """Return the torch device of that name; `auto` is CUDA when it is available and works, else the CPU.

    Raises `Failure` for a named device that is not available or does not work.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    chosen = name if name != "auto" else "cuda" if available["cuda"] else "cpu"
    if not available[chosen]:
        raise Failure(f"--device {name}: this machine or this PyTorch has none; use --device auto")
    try:
        torch.ones(1, device=chosen).add(1).item()  # a card that is too old for this PyTorch fails here
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if name != "auto":
            raise Failure(f"--device {name} does not work ({reason}); use --device cpu") from error
        print(f"{chosen} does not work ({reason}); computing on the CPU", file=sys.stderr)
        torch.cuda.is_available = lambda: False  # optimizers ask, and would use CUDA even for parameters on the CPU
        chosen = "cpu"
    return torch.device(chosen)


def make_writable(folder: Path) -> None:
    """Make the folder if need be; raise OSError, before any work is done, when nothing can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it replaces `path` once it is complete.

    Two runs may write the same file at once. Leftovers of killed runs are removed. OSErrors name `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    for other in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(FileNotFoundError):  # another run may clean up as well
            if time.time() - other.stat().st_mtime > STALE_SECONDS:
                other.unlink()


def save_results(options: argparse.Namespace, name: str, results: dict[str, Any]) -> None:
    """Write `results`, the seed included, to NAME.json in the folder of the figures."""
    text = json.dumps({"seed": options.seed, **results}, indent=1, allow_nan=False)
    with replacing(options.figures / f"{name}.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", newline="\n")
