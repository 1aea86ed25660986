"""Checks the gradients of task 1's layers, or with --solution FILE those of another
solution of this sheet.

    pytest tests/test_gradients.py -rxs --solution ../other/task1.ipynb

FILE is a .py file or a notebook with the starter file's classes Linear, ReLU, Softmax
and CrossEntropyLoss. Only what defines them is executed: solution.py has the rule,
gradient_check.py the check.
"""

import pytest
from conftest import ROOT
from gradient_check import CHAIN, GRADIENTS, check
from solution import Refused


@pytest.fixture(scope="module")
def results(pytestconfig):
    try:
        return check(pytestconfig.getoption("--solution") or ROOT / "task1.py")
    except Refused as refusal:
        pytest.exit(str(refusal), returncode=4)


@pytest.mark.parametrize(
    "key",
    GRADIENTS,
    ids=["chain" if name == CHAIN else f"{name}-{of}" for name, of in GRADIENTS],
)
def test_the_gradient_is_right(key, results, pytestconfig):
    outcome, text = results[key]
    has_remark = (
        outcome != "pass" or ";" in text
    )  # another solution may have one, ours may not
    if outcome == "fail" or (
        has_remark and pytestconfig.getoption("--solution") is None
    ):
        pytest.fail(text, pytrace=False)
    if outcome == "skip":
        pytest.skip(text)
    if outcome == "xfail":
        pytest.xfail(text)
