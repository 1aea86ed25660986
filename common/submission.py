"""Run the four tasks in order and set their answers as figures/submission.pdf.

Run as python -m common.submission; --reuse only typesets the results that are in figures/.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from common.runtime import FIGURES, ROOT, Failure, parse, replacing, run

TASKS = ("task1", "task2", "task3", "task4")


def parse_options() -> argparse.Namespace:
    """Parse the flags of the submission."""
    parser = argparse.ArgumentParser(prog="python -m common.submission", description=__doc__)
    parser.add_argument("--reuse", action="store_true", help="typeset the results that are there, run nothing")
    parser.add_argument("--author", default="", metavar="NAME", help="name in the header of the pages")
    parser.add_argument("--student-id", default="", metavar="NUMBER", help="matriculation number beside it")
    parser.set_defaults(figures=FIGURES, show=False)
    return parse(parser)


def run_tasks() -> None:
    """Run the four scripts one after the other; end with the status of the first that fails, which says why itself."""
    for task in TASKS:
        print(f"== {task}.py", flush=True)
        status = subprocess.run([sys.executable, str(ROOT / f"{task}.py")], check=False).returncode
        if status:
            raise SystemExit(status)


def typeset(folder: Path, author: str = "", student_id: str = "") -> list[str]:
    """Set answers.typ in `folder` as submission.pdf beside it; return the names of the claims that are contradicted.

    Raises `Failure` that names the script to run when a figure or result of a task is missing or not readable.
    """
    import typst

    template = folder / "answers.typ"
    check_results(folder, template.read_text(encoding="utf-8"))
    inputs = {"author": author, "student-id": student_id}
    settings = {"root": str(folder), "ignore_system_fonts": True, "sys_inputs": inputs}
    try:
        document = typst.compile(str(template), format="pdf", **settings)
        contradicted = json.loads(typst.query(str(template), "<contradicted>", field="value", **settings))
    except typst.TypstError as error:
        reason = str(error).splitlines()[0]
        raise Failure(f"the results do not fit answers.typ ({reason}); run python -m common.submission anew") from error
    with replacing(folder / "submission.pdf") as temporary:
        temporary.write_bytes(document)
    return contradicted


def check_results(folder: Path, template: str) -> None:
    """Raise `Failure` unless every file that the template reads is there, the results being the JSON of their task."""
    for name in re.findall(r'"(task\d\w*\.(?:json|png))"', template):
        script = f"{name[:5]}.py"
        try:
            content = (folder / name).read_bytes()
            if name.endswith(".json") and "seed" not in json.loads(content):
                raise ValueError("no results")
        except FileNotFoundError as error:
            raise Failure(f"{name} is missing; run python {script}") from error
        except (ValueError, TypeError) as error:
            raise Failure(f"{name} cannot be read; run python {script}") from error


def main(options: argparse.Namespace) -> None:
    """Run everything, or with --reuse the typesetting alone."""
    if not options.reuse:
        run_tasks()
    contradicted = typeset(options.figures, options.author, options.student_id)
    print("answers: figures/submission.pdf")
    if contradicted:
        raise Failure(f"contradicted by the results, and red in submission.pdf: {'; '.join(contradicted)}")


if __name__ == "__main__":
    run(main, parse_options())
