"""Run the four tasks in order and typeset their answers as submission.pdf in the folder
of the figures.

Run as python -m common.submission in the folder of the project; --reuse only typesets
the results that are there.
"""

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tokenize
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib
import typst
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font

# For the run button of an IDE, to which common/ is the folder of the script
sys.path.append(str(Path(__file__).resolve().parent.parent))
from common.data import load_data
from common.script import (
    CHECKPOINT,
    DEVICES,
    FIGURES,
    ROOT,
    Failure,
    parse,
    replacing,
    run,
    script_parser,
)

ANSWERS = FIGURES / "answers"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # of the text in figures
GRADED = [  # the code that follows the answers: subtask, file, name
    "1.1 task1.py Linear",
    "1.1 task1.py ReLU",
    "1.1 task1.py Softmax",
    "1.1 task1.py log_softmax",
    "1.1 task1.py CrossEntropyLoss",
    "1.2 task1.py train",
    "1.2 task1.py MLP",
    "2.2 common/data.py convert_mnist_to_vectors",
    "2.3 common/pca.py do_pca",
    "2.4 common/pca.py project",
    "3.1 task3.py MultilayerPerceptron",
    "3.2 task3.py class_label",
    "3.2 task3.py batch_accuracy",
    "3.3 task3.py train",
    "4.1 task4.py extract_features",
]


def parse_options() -> argparse.Namespace:
    """Parse the flags of the submission."""
    parser = script_parser(__doc__, data=True, show=False)
    parser.prog = "python -m common.submission"
    parser.add_argument(
        "--device", choices=DEVICES, help="where to compute (default: auto)"
    )
    parser.add_argument(
        "--reuse",
        action="store_true",
        help="typeset the results that are there, run nothing",
    )
    help_text = "name on the first page and in the header"
    parser.add_argument("--author", default="", help=help_text)
    parser.add_argument("--student-id", default="", help="number beside it")
    options = parse(parser)
    if options.reuse and (options.seed or options.data_dir or options.device):
        parser.error("--reuse runs no task: leave out --seed, --data-dir and --device")
    return options


def run_tasks(options: argparse.Namespace) -> None:
    """Run the four scripts one after the other, each with the flags that it has.

    Raises `Failure` for a wrong --data-dir before any work.
    """
    load_data(data_dir=options.data_dir)
    figures = options.figures.resolve()
    checkpoint = CHECKPOINT if figures == FIGURES else figures / "mlp.pt"
    flags = [f"--seed={options.seed}", f"--figures={figures}"]
    run_task("task1.py", flags)
    if options.data_dir:
        flags.append(f"--data-dir={options.data_dir}")
    run_task("task2.py", flags)
    flags.append(f"--checkpoint={checkpoint}")
    if options.device:
        flags.append(f"--device={options.device}")
    run_task("task3.py", flags)
    run_task("task4.py", flags)


def run_task(script: str, flags: list[str]) -> None:
    """Run a script; if it fails, end with its status, since it says why itself."""
    print(f"== {script}", flush=True)
    task = subprocess.Popen([sys.executable, ROOT / script, *flags])
    try:
        status = task.wait()
    except KeyboardInterrupt:  # Ctrl-C reaches the task as well, which says so
        task.wait()
        status = 130
    if status:
        raise SystemExit(status)


def typeset(folder: Path, author: str = "", student_id: str = "") -> list[str]:
    """Typeset the answers from the results in `folder`, as submission.pdf there.

    Returns the names of the claims that the results contradict. Raises `Failure` when
    results are missing or unusable and when the answers' source has a mistake.
    """
    signature = {}
    if author:
        signature["author"] = author
    if student_id:
        signature["student-id"] = student_id
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary).resolve()
        collect(folder, root)
        try:
            compiler = typst.Compiler(
                root / "answers.typ",
                root=root,
                font_paths=[root / "fonts"],
                ignore_system_fonts=not needs_system_fonts(author + student_id),
                sys_inputs=signature,
            )
            document = compiler.compile(format="pdf")
            contradicted = json.loads(compiler.query("<contradicted>", field="value"))
        except typst.TypstError as error:
            place = re.search(r"┌─ .*[/\\](.+:\d+):\d+", error.diagnostic)
            where = place[1] if place else "answers.typ"
            message = error.message.replace(str(root), ".")
            raise Failure(
                f"{where}: {message}; correct figures/answers (in text, # $ @ * _ and "
                "< need a backslash) or run the tasks again"
            ) from error
    with replacing(folder / "submission.pdf") as target:
        target.write_bytes(document)
    return contradicted


def collect(folder: Path, target: Path) -> None:
    """Copy to `target` what the answers are typeset from: the results in `folder`, the
    answers' source and what lies beside it, fonts; write the graded code to code.json.
    """
    for path in folder.glob("task*.*"):
        shutil.copy(path, target)
    hidden = shutil.ignore_patterns(".*")  # what macOS and editors leave there
    shutil.copytree(ANSWERS, target, ignore=hidden, dirs_exist_ok=True)
    boxes = shutil.ignore_patterns("LastResort*")  # has a box for every character
    shutil.copytree(FONTS, target / "fonts", ignore=boxes)
    (target / "code.json").write_text(json.dumps(graded_code()))


def graded_code() -> list[dict[str, str]]:
    """Return title, place and code of the functions and classes in GRADED.

    What cannot be found or read is left out, and a line on stderr says so.
    """
    parts = []
    problems = set()
    for entry in GRADED:
        subtask, file, name = entry.split()
        try:
            parts.append({"title": f"{subtask} {name}"} | find_code(file, name))
        except (KeyError, SyntaxError, ValueError) as error:
            problems.add(f"{file}: {error}")
    if problems:
        print("code not in the PDF:", "; ".join(sorted(problems)), file=sys.stderr)
    return parts


def find_code(file: str, name: str) -> dict[str, str]:
    """Return place and code of a function, class or method (Class.method).

    Raises `KeyError` when the file has no such name, and what Python raises when it
    cannot read the file.
    """
    with tokenize.open(ROOT / file) as stream:  # decodes as Python does
        source = stream.read()
    node: Any = ast.parse(source)
    for part in name.split("."):
        node = {getattr(child, "name", None): child for child in node.body}[part]
    first = [*node.decorator_list, node][0].lineno
    lines = source.split("\n")[first - 1 : node.end_lineno]
    code = textwrap.dedent("\n".join(lines))
    # Leave out docstrings, but for one that is all of a body: what follows is indented
    # as it is.
    docstring = r'(?s)\n( +)"""((?!""").)*"""\n+(?=\1\S)'
    return {
        "place": f"{file}, line {node.lineno}",
        "code": re.sub(docstring, "\n", code),
    }


def needs_system_fonts(text: str) -> bool:
    """Return whether a text has characters that DejaVu Sans, which comes with
    matplotlib, lacks: then the PDF is set with the fonts of the system.

    Raises `Failure` when they lack one as well.
    """
    covered = FT2Font(str(FONTS / "DejaVuSans.ttf")).get_charmap()
    missing = set(map(ord, text)) - covered.keys()
    if not missing:
        return False
    for font in findSystemFonts():
        if "LastResort" not in font:
            with suppress(RuntimeError):  # a font without outlines
                missing -= FT2Font(font).get_charmap().keys()
    if missing:
        raise Failure(
            f"no installed font has {''.join(map(chr, sorted(missing)))!r}; install "
            "one, or write --author and --student-id in other letters"
        )
    return True


def locate(claim: str) -> str:
    """Return the name of a claim behind the file and the line where it stands."""
    for source in sorted(ANSWERS.glob("[!.]*.typ")):
        lines = source.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if f'"{claim}"' in line:
                return f"figures/answers/{source.name}:{number}: {claim}"
    return claim


def main(options: argparse.Namespace) -> None:
    """Run the tasks, unless --reuse is given, and typeset the answers.

    Raises `Failure` when the results contradict a claim.
    """
    if not (ANSWERS / "answers.typ").is_file():
        raise Failure(f"{ANSWERS} has no answers.typ; restore figures/answers")
    needs_system_fonts(options.author + options.student_id)  # fails before the work
    if not options.reuse:
        run_tasks(options)
    contradicted = typeset(options.figures, options.author, options.student_id)
    pdf = options.figures / "submission.pdf"
    print(f"answers: {pdf} (--author: {options.author or 'none'})")
    if contradicted:
        places = "; ".join(map(locate, contradicted))
        raise Failure(
            f"contradicted by the results, and red in submission.pdf: {places}. "
            "Rewrite these sentences, or run the tasks again with their defaults"
        )


if __name__ == "__main__":
    run(main, parse_options())
