"""What every script does around its work: flags, device, results file, complete files, one line for every error."""

import argparse
import glob
import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from common.checks import Failure

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
        parser.add_argument("--checkpoint", type=file_path, default=CHECKPOINT, metavar="FILE", help="trained network")
    return parser


def add_training_flags(parser: argparse.ArgumentParser, epochs: int, batch_size: int, learning_rate: float) -> None:
    """Add the settings of training with their defaults, in both spellings of the sheet."""
    parser.add_argument("--epochs", type=positive_int, default=epochs, help="passes over the train split")
    parser.add_argument("--batch-size", "--batch_size", type=positive_int, default=batch_size, help="examples per step")
    rate = {"type": positive_float, "default": learning_rate, "help": "step size of the optimizer"}
    parser.add_argument("--learning-rate", "--learning_rate", "--lr", **rate)


def _flag_type(convert: Callable, fits: Callable, expected: str, pattern: str = "(?s:.*)") -> Callable[[str], Any]:
    """Return a `type` for argparse, which converts a text of the pattern or says in one line what was expected."""

    def parse_text(text: str) -> Any:
        with suppress(ValueError):
            if re.fullmatch(pattern, text) and fits(value := convert(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")

    return parse_text


MAX_SEED = 2**32 - 1000  # all libraries take it, and experiments count up from it
positive_int = _flag_type(int, lambda number: 1 <= number <= 10**9, f"an integer from 1 to {10**9}", "[0-9]+")
seed_number = _flag_type(int, lambda number: 0 <= number <= MAX_SEED, f"an integer from 0 to {MAX_SEED}", "[0-9]+")
positive_float = _flag_type(float, lambda number: 0 < number < math.inf, "a finite number above zero")
file_path = _flag_type(Path, lambda path: not os.path.isdir(path), "the name of a file; it is a folder")


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and prepare the output: a console that lacks a character shows a mark instead."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, which neither tqdm nor joblib's workers expect
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
            os.set_inheritable(getattr(sys, name).fileno(), True)
        elif hasattr(getattr(sys, name), "reconfigure"):  # not in IDLE and notebooks
            getattr(sys, name).reconfigure(errors="replace")
    options = parser.parse_args()
    if not options.show and "MPLBACKEND" not in os.environ:
        plt.switch_backend("agg")
    return options


def run(main: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Run a script's main; turn an error that the user can fix into one line on stderr and exit status 1."""
    status = 1
    try:
        make_writable(options.figures)
        main(options)
        print(end="", flush=True)
        if options.show:
            if plt.get_backend().lower() == "agg":
                print("no display: the figures are in their folder only", file=sys.stderr)
            plt.show()
        return
    except Failure as failure:
        message = str(failure)
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    except OSError as error:  # a full disk, a folder that cannot be written, a file that cannot be read, a closed pipe
        message = f"{error.filename or 'output'}: {error.strerror or error}; fix that, or name another place"
        try:
            print(end="", flush=True)
        except OSError:  # discard what stdout cannot take: Python would try again at its exit and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (MemoryError, RuntimeError) as error:  # PyTorch's want of memory is a RuntimeError
        if isinstance(error, RuntimeError) and not re.search("(out of|not enough|allocate) memory", str(error)):
            raise
        message = "not enough memory; choose a smaller network or batch"
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(status)


def choose_device(name: str = "auto") -> Any:
    """Return the torch device of that name or raise `Failure`; `auto` is CUDA where that works, else the CPU."""
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
