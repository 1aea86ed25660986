"""Check that the numbers in README.md are those of the results in figures/; end with status 1 if they are not."""

import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
studies, task2, task3, task4 = (
    json.loads((ROOT / "figures" / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("task1_studies", "task2", "task3", "task4")
)
scarce = {row["depth"]: statistics.median(row["test"]) for row in studies["scarce"]}
twenty = task2["neighbours"]["accuracy"][task2["neighbours"]["components"].index(20)]
tested = task3["history"]["test_accuracy"]
pixels, *_, last = (measure["neighbours"] for measure in task4["separation"])
sentences = [
    f"twelve layers end at {scarce[12]:.2f}, where two end at {scarce[2]:.2f}",
    f"ten nearest neighbours recognize {task2['plane']['accuracy']:.0f} % of the digits",
    f"in twenty dimensions they recognize {twenty:.0f} %",
    f"accuracy of about {tested[4]:.0f} % after five epochs and {tested[-1]:.0f} % after ten",
    f"neighbours in the plane recognize {pixels:.0f} % as pixels and about two thirds after the fourth layer",
]
readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
if not 60 < last < 72:
    sys.exit(f"README.md says about two thirds after the fourth layer; it is {last:.0f} %")
missing = [sentence for sentence in sentences if sentence not in readme]
if missing:
    sys.exit("\n".join(f"README.md should say: {sentence}" for sentence in missing))
