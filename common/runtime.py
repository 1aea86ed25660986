"""What every script does around its work: flags, seed, device, results file, atomic writes."""

from __future__ import annotations

import argparse
import glob
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
CHECKPOINT = ROOT / "artifacts" / "mlp.pt"
STALE_SECONDS = 3600  # no file takes as long to write: a temporary one of this age is a killed run's


class Failure(ValueError):
    """Something that the user can mend: the message is one line that says what is wrong and what to do."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description and shows every default."""


def script_parser(description: str, data: bool = False, model: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the flags that scripts share; `data` and `model` add those of MNIST and of the network."""
    parser = argparse.ArgumentParser(description=description, formatter_class=_HelpFormatter)
    parser.add_argument("--seed", type=seed_number, default=0, help="seed of every random draw")
    parser.add_argument("--figures", type=Path, default=FIGURES, metavar="DIR", help="folder for figures and results")
    parser.add_argument("--show", action="store_true", help="open the figures in windows as well")
    if data:
        parser.add_argument(
            "--data-dir",
            type=Path,
            metavar="DIR",
            help="folder with the four IDX files, plain or .gz; without it the variable MNIST_DIR, then common/mnist",
        )
    if model:
        parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
        parser.add_argument(
            "--checkpoint", type=file_path, default=CHECKPOINT, metavar="FILE", help="the trained network"
        )
    return parser


def _whole_number(text: str, minimum: int, maximum: int) -> int:
    if not (text.isascii() and text.isdigit() and minimum <= int(text) <= maximum):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {minimum} to {maximum}")
    return int(text)


def positive_int(text: str) -> int:
    """Parse a count of at least one."""
    return _whole_number(text, 1, 10**9)


def seed_number(text: str) -> int:
    """Parse a seed that NumPy, scikit-learn and PyTorch all accept."""
    return _whole_number(text, 0, 2**32 - 1)


def positive_float(text: str) -> float:
    """Parse a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return value


def file_path(text: str) -> Path:
    """Parse the path of a file, which need not be there yet."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; name a file")
    return path


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line before the slow imports; from here on Ctrl-C ends the script with one line, status 130."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # a console that lacks a character shows a mark instead
        stream.reconfigure(errors="replace")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, _interrupted)
    if not options.show:
        os.environ["MPLBACKEND"] = "Agg"
    return options


def _interrupted(signal_number: int, frame: object) -> None:
    signal.signal(signal_number, signal.SIG_DFL)  # a second Ctrl-C does not wait for the cleaning up
    print(f"\n{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
    raise SystemExit(130)


def run(main: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Run a script's main; turn a failure that the user can mend into one line on stderr and exit status 1."""
    try:
        make_writable(options.figures)
        main(options)
        print(end="", flush=True)
    except Failure as failure:
        message = str(failure)
    except OSError as error:  # a full disk, a folder that cannot be written, a file that cannot be read, a closed pipe
        message = f"{error.filename or 'output'}: {error.strerror or error}; mend that, or name another place"
        _drop_output()
    except MemoryError:
        message = "not enough memory; choose a smaller network or batch"
    else:
        if options.show:
            _show_figures()
        return
    raise SystemExit(f"{Path(sys.argv[0]).name}: {message}")


def _drop_output() -> None:
    """Flush stdout; what it cannot take goes nowhere, or else Python would try again at its exit and complain."""
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
    """Return the torch device of that name; `auto` is CUDA when available, else the CPU."""
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if available["cuda"] else "cpu"
    if not available[name]:
        raise Failure(f"--device {name}: this machine or this PyTorch has none; use --device auto")
    return torch.device(name)


def make_writable(folder: Path) -> None:
    """Make the folder if need be; raise OSError, before any work is done, when nothing can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it takes the place of `path` once it is whole.

    Two runs may write the same file at once. What killed runs have left of it is removed. OSErrors name `path`.
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
