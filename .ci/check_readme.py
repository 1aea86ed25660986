"""Check README.md: its numbers are those of the results in figures/, its links name the
lines of the code.

Ends with status 1 and what should stand there. --fix-lines corrects the lines.
"""

import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
studies, task2, task3, task4 = (
    json.loads((ROOT / "figures" / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("task1_studies", "task2", "task3", "task4")
)
scarce = {row["depth"]: statistics.median(row["test"]) for row in studies["scarce"]}
twenty = task2["classifiers"]["components"].index(20)
tested = task3["history"]["test_accuracy"]
pixels, *_, last = (measure["neighbours"] for measure in task4["separation"])
untrained = task4["untrained"][-1]["neighbours"]
sentences = [
    f"twelve layers end at {scarce[12]:.2f}, where two end at {scarce[2]:.2f}",
    f"ten nearest neighbours recognize {task2['plane']['accuracy']:.0f} % of the digits",
    f"in twenty dimensions they recognize {task2['classifiers']['neighbours'][twenty]:.0f} %",
    f"a linear classifier {task2['classifiers']['linear'][twenty]:.0f} %",
    f"accuracy of about {tested[4]:.0f} % after five epochs and {tested[-1]:.0f} % after ten",
    f"neighbours in the plane recognize {pixels:.0f} % as pixels",
]
text = README.read_text(encoding="utf-8")


def line_of(match: re.Match) -> str:
    """Return the link with the line at which the name is defined today."""
    name, file = match["name"], match["file"]
    defined = re.compile(rf"\s*(class|def) {name}\b|{name}\b.* = ")
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    number = next(k for k, line in enumerate(lines, 1) if defined.match(line))
    return f"[`{name}`]({file}#L{number})"


corrected = re.sub(r"\[`(?P<name>\w+)`\]\((?P<file>[\w/.]+)#L\d+\)", line_of, text)
if "--fix-lines" in sys.argv:
    README.write_text(corrected, encoding="utf-8", newline="\n")
    sys.exit()
wrong = [
    f"README.md should say: {each}"
    for each in sentences
    if each not in " ".join(text.split())
]
if not (60 < last < 72 and untrained < 33):
    wrong.append(
        f"README.md: neighbours after the fourth layer are at {last:.0f} and {untrained:.0f} %"
    )
if corrected != text:
    wrong.append(
        "README.md: a link names another line; run python .ci/check_readme.py --fix-lines"
    )
sys.exit("\n".join(wrong) or 0)
