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


def results(name: str) -> dict:
    """Return the results of a script."""
    return json.loads((ROOT / "figures" / f"{name}.json").read_text(encoding="utf-8"))


ends = {}
for row in results("task1_studies")["scarce"]:
    ends[row["hidden_layers"]] = statistics.median(row["test_end"])
task2 = results("task2")
twenty = task2["classifiers"]["components"].index(20)
near = task2["classifiers"]["neighbours"][twenty]
linear = task2["classifiers"]["linear"][twenty]
tested = results("task3")["history"]["test_accuracy"][-1]
task4 = results("task4")
pixels = task4["separation"][0]["neighbours"]
last = task4["separation"][-1]["neighbours"]
untrained = task4["untrained"][-1]["neighbours"]
sentences = [
    f"twelve layers rises again and ends at {ends[12]:.2f}, that of two layers at",
    f"that of two layers at {ends[2]:.2f}: overfitting",
    f"With twenty, ten nearest neighbours recognize {near:.0f} % of the test images",
    f"a linear classifier {linear:.0f} %",
    f"The trained network recognizes {tested:.0f} % of the test images",
    f"ten nearest neighbours recognize {pixels:.0f} % of the test images as pixels",
    f"about {last:.0f} % after the fourth layer",
    f"but only {untrained:.0f} % after",
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
if corrected != text:
    advice = "run python .ci/check_readme.py --fix-lines"
    wrong.append(f"README.md: a link names another line; {advice}")
sys.exit("\n".join(wrong) or 0)
