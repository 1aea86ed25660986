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
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import matplotlib
import typst

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
GRADED = {  # the code that the answers end with: by subtask, the file and the names
    "1.1": ("task1.py", "Linear", "ReLU"),
    "1.2": ("task1.py", "MLP.loss", "MLP.backward", "MLP.training_step", "train"),
    "2.2": ("common/data.py", "convert_mnist_to_vectors"),
    "2.3": ("common/pca.py", "do_pca"),
    "2.4": ("common/pca.py", "project"),
    "3.1": ("task3.py", "MultilayerPerceptron"),
    "3.2": ("task3.py", "batch_accuracy"),
    "3.3": ("task3.py", "train"),
    "4.1": ("task4.py", "extract_features"),
}


def parse_options() -> argparse.Namespace:
    """Parse the flags of the submission; those that are for the tasks are None unless
    they are given.
    """
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
    parser.add_argument(
        "--author",
        type=readable,
        metavar="NAME",
        help="name in the header of the pages",
    )
    parser.add_argument(
        "--student-id",
        type=readable,
        metavar="NUMBER",
        help="matriculation number beside it",
    )
    options = parse(parser)
    if options.reuse and (options.seed, options.data_dir, options.device) != (
        0,
        None,
        None,
    ):
        parser.error("--reuse runs no task: leave out --seed, --data-dir and --device")
    return options


def readable(text: str) -> str:
    """Return the text of a flag; refuse bytes that are not UTF-8."""
    try:
        return text.encode().decode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("this is not UTF-8 text") from None


def run_tasks(options: argparse.Namespace) -> None:
    """Run the four scripts one after the other; end with the status of the first that
    fails, which says why itself.
    """
    figures = options.figures.resolve()
    given = {name: getattr(options, name) for name in ("seed", "data_dir", "device")}
    given |= {
        "figures": figures,
        "checkpoint": CHECKPOINT if figures == FIGURES else figures / "mlp.pt",
    }
    names = (
        ["figures", "seed"],
        ["figures", "seed", "data_dir"],
        list(given),
        list(given),
    )
    for number, taken in enumerate(names, 1):
        print(f"== task{number}.py", flush=True)
        flags = [
            f"--{name.replace('_', '-')}={given[name]}"
            for name in taken
            if given[name] is not None
        ]
        task = subprocess.Popen(
            [sys.executable, str(ROOT / f"task{number}.py"), *flags]
        )
        try:
            task.wait()
        finally:  # when interrupted, the task is as well, and ends in good order
            status = task.wait()
        if status:
            raise SystemExit(status)


def typeset(
    folder: Path, author: str | None = None, student_id: str | None = None
) -> list[str]:
    """Typeset the answers from the results in `folder`, as submission.pdf there; return
    the contradicted claims.

    Raises `Failure` when results are missing, not readable or of an older version, and
    when the source has a mistake.
    """
    signature = {
        key: text
        for key, text in (("author", author), ("student-id", student_id))
        if text
    }
    fonts = (
        Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    )  # of the text in the figures
    settings = {
        "ignore_system_fonts": True,
        "font_paths": [str(fonts)],
        "sys_inputs": signature,
    }
    with (
        tempfile.TemporaryDirectory() as temporary
    ):  # where source and results lie side by side
        source = collect(folder, Path(temporary))
        try:
            document = typst.compile(source, format="pdf", root=temporary, **settings)
            query = partial(
                typst.query, source, field="value", root=temporary, **settings
            )
            contradicted, (signed,) = (
                json.loads(query(label)) for label in ("<contradicted>", "<author>")
            )
        except typst.TypstError as error:
            place = re.search(r"[\w-]+\.(typ|svg|json):\d+:\d+", error.diagnostic)
            where = f"{place[0] if place else 'answers.typ'}: {error.message.splitlines()[0]}"
            advice = "correct it there or a little before (# $ @ * _ and < need a backslash), or run the tasks again"
            raise Failure(f"{where}; {advice}") from error
    with replacing(folder / "submission.pdf") as target:
        target.write_bytes(document)
    if not signed:
        print("the answers are unsigned; --author and --student-id sign them")
    return contradicted


def collect(folder: Path, target: Path) -> str:
    """Copy the answers' source and all results that it names from `folder` to `target`;
    return the main file's path.

    Raises `Failure`, with what to do, when results are missing or not of their task, or
    a source is not UTF-8.
    """
    for source in ANSWERS.glob("*.typ"):
        try:
            text = source.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise Failure(
                f"figures/answers/{source.name} is not UTF-8; save it as UTF-8"
            ) from error
        shutil.copy(source, target)
        for name in re.findall(r'"(task\d\w*\.(?:json|svg))"', text):
            try:
                shutil.copyfile(folder / name, target / name)
                if name.endswith(".json") and "seed" not in json.loads(
                    (target / name).read_bytes()
                ):
                    raise ValueError("no results")
            except (FileNotFoundError, ValueError, TypeError) as error:
                command = f"python {name[:5]}.py" + (
                    "" if folder.resolve() == FIGURES else f" --figures {folder}"
                )
                raise Failure(
                    f"{name} is missing or not readable in {folder}; run {command}"
                ) from error
    (target / "code.json").write_text(json.dumps(listings()), encoding="utf-8")
    return str(target / "answers.typ")


def listings() -> list[dict[str, Any]]:
    """Return subtask, name, file, line and code of the graded functions and classes,
    without their docstrings.
    """
    found = []
    for subtask, (file, *names) in GRADED.items():
        lines: list[str | None] = (ROOT / file).read_text(encoding="utf-8").splitlines()
        tree = ast.parse("\n".join(lines))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
                node
            ):
                text, *rest = node.body
                lines[text.lineno - 1] = (
                    None if rest else " " * text.col_offset + "pass"
                )
                last = rest[0].lineno - 1 if rest else text.end_lineno
                lines[text.lineno : last] = [None] * (last - text.lineno)
        for name in names:
            node = tree
            for part in name.split("."):  # a class, then its method
                node = next(
                    each for each in node.body if getattr(each, "name", None) == part
                )
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            code = dedent(
                "\n".join(
                    line
                    for line in lines[first - 1 : node.end_lineno]
                    if line is not None
                )
            )
            found.append(
                {
                    "subtask": subtask,
                    "name": name,
                    "file": file,
                    "line": node.lineno,
                    "code": code,
                }
            )
    return found


def main(options: argparse.Namespace) -> None:
    """Run the tasks, unless --reuse is given, and typeset the answers; raise `Failure`
    if any is contradicted.
    """
    if not options.reuse:
        run_tasks(options)
    contradicted = typeset(options.figures, options.author, options.student_id)
    print(f"answers: {options.figures / 'submission.pdf'}")
    if contradicted:
        advice = "Rewrite these sentences in figures/answers/, or run the task again with its defaults"
        raise Failure(
            f"contradicted by the results, and red in submission.pdf: {'; '.join(contradicted)}. {advice}"
        )


if __name__ == "__main__":
    run(main, parse_options())
