"""Run the four tasks in order and set their answers as submission.pdf in the folder of the figures.

Run as python -m common.submission in the folder of the project; --reuse only typesets the results that are there.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import typst

from common.checks import Failure
from common.runtime import CHECKPOINT, DEVICES, FIGURES, ROOT, parse, replacing, run, script_parser


def parse_options() -> argparse.Namespace:
    """Parse the flags of the submission."""
    parser = script_parser(__doc__, data=True)
    parser.prog = "python -m common.submission"
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute")
    parser.add_argument("--reuse", action="store_true", help="typeset the results that are there, run nothing")
    parser.add_argument("--author", metavar="NAME", help="name in the header of the pages")
    parser.add_argument("--student-id", metavar="NUMBER", help="matriculation number beside it")
    return parse(parser)


def run_tasks(options: argparse.Namespace) -> None:
    """Run the four scripts one after the other; end with the status of the first that fails, which says why itself."""
    figures = options.figures.resolve()
    checkpoint = CHECKPOINT if figures == FIGURES else figures / "mlp.pt"
    shared = ["--seed", str(options.seed), "--figures", str(figures)]
    data = ["--data-dir", str(options.data_dir)] if options.data_dir else []
    model = ["--device", options.device, "--checkpoint", str(checkpoint)]
    flags = {"task1": [], "task2": data, "task3": data + model, "task4": data + model}
    for task, own in flags.items():
        print(f"== {task}.py", flush=True)
        if status := subprocess.call([sys.executable, str(ROOT / f"{task}.py"), *shared, *own]):
            raise SystemExit(status)


def typeset(folder: Path, author: str | None = None, student_id: str | None = None) -> list[str]:
    """Set the answers in `figures/` from the results in `folder`, as submission.pdf there; return contradicted claims.

    Raises `Failure` when results are missing, not readable or of an older version, and when the source has a mistake.
    """
    signature = {key: text for key, text in (("author", author), ("student-id", student_id)) if text}
    settings = {"ignore_system_fonts": True, "sys_inputs": signature}
    with tempfile.TemporaryDirectory() as temporary:  # where source and results lie side by side
        source = collect(folder, Path(temporary))
        try:
            document = typst.compile(source, format="pdf", root=temporary, **settings)
            query = partial(typst.query, source, field="value", root=temporary, **settings)
            contradicted, (signed,) = (json.loads(query(label)) for label in ("<contradicted>", "<author>"))
        except typst.TypstError as error:
            place = re.search(r"[\w-]+\.(typ|svg|json):\d+:\d+", error.diagnostic)
            where = place[0] if place else "answers.typ:1:1"
            message = error.message.splitlines()[0]
            raise Failure(
                f"{'figures/' if '.typ' in where else ''}{where}: {message}; correct it there (text needs a backslash "
                "before # $ @ * _ and <), or, if you did not change it, run python -m common.submission anew"
            ) from error
    with replacing(folder / "submission.pdf") as target:
        target.write_bytes(document)
    if not signed:
        print("the answers are unsigned; --author and --student-id sign them")
    return contradicted


def collect(folder: Path, target: Path) -> str:
    """Copy the answers' source and all results that it names from `folder` to `target`; return the main file's path.

    Raises `Failure`, with the script to run, when results are missing or are not the JSON of their task.
    """
    for source in FIGURES.glob("*.typ"):
        shutil.copy(source, target)
        for name in re.findall(r'"(task\d\w*\.(?:json|svg))"', source.read_text(encoding="utf-8")):
            try:
                shutil.copyfile(folder / name, target / name)
                if name.endswith(".json") and "seed" not in json.loads((target / name).read_bytes()):
                    raise ValueError("no results")
            except (FileNotFoundError, ValueError, TypeError) as error:
                raise Failure(f"{name} is missing or not readable in {folder}; run python {name[:5]}.py") from error
    return str(target / "answers.typ")


def main(options: argparse.Namespace) -> None:
    """Run everything, or with --reuse the typesetting alone."""
    if not options.reuse:
        run_tasks(options)
    contradicted = typeset(options.figures, options.author, options.student_id)
    print(f"answers: {options.figures / 'submission.pdf'}")
    if contradicted:
        advice = "Rewrite these sentences in the .typ files of figures/, or run the task again with its defaults"
        raise Failure(f"contradicted by the results, and red in submission.pdf: {'; '.join(contradicted)}. {advice}")


if __name__ == "__main__":
    run(main, parse_options())
