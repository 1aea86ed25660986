"""The PDF of the answers: what it is typeset from, what the command says about it, and
how its pages look.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typst
from conftest import ROOT

from common.submission import GRADED, collect, find_code, graded_code

SVG = '<svg xmlns="http://www.w3.org/2000/svg"></svg>'
ANSWERS = """#let author = sys.inputs.at("author", default: "Hopper")
#let number = sys.inputs.at("student-id", default: "")
#set document(author: author, keywords: number, date: none)
#let claim(name, holds) = if not holds [#metadata(name) <contradicted>]
#let loss = json("task1.json").loss
#claim("The loss falls", loss < 1)
#author #loss #image("mine.svg")
#include "task2.typ"
"""
FILES = {
    "figures/answers/answers.typ": ANSWERS,
    "figures/answers/task2.typ": '#image("task2_map.svg")',
    "figures/answers/mine.svg": SVG,
    "figures/task1.json": '{"loss": 0.5}',
    "figures/task2_map.svg": SVG,
}
TASK = """import os, sys, time
print(sys.argv[0][-8:], *sorted(sys.argv[1:]), file=open("calls", "a"))
if "--seed=6" in sys.argv:
    os.kill(os.getppid(), 2)
    time.sleep(0.5)
    os.remove("calls")
raise SystemExit("--device=cpu" in sys.argv and "task4.py" in sys.argv[0])
"""


@pytest.fixture
def submit(tmp_path, monkeypatch, run_here, capsys):
    """Run the command with these flags for a copy of the project with small answers and
    results; return its status, stderr and the PDF.

    The copy is the working directory. Its tasks only note how they are called, but with
    seed 6 they interrupt the command, and task 4 fails on the CPU.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("common", "common.script"):  # they say where the project is
        monkeypatch.delitem(sys.modules, module)
    shutil.copytree(ROOT / "common", "common")
    for script in ROOT.glob("task?.py"):
        Path(script.name).write_bytes(TASK.encode() + script.read_bytes())
    os.makedirs("figures/answers")
    for name, content in FILES.items():
        Path(name).write_text(content)

    def run(*flags):
        status = run_here("common/submission.py", *flags)
        pdf = Path("figures/submission.pdf")
        return status, capsys.readouterr().err, pdf.exists() and pdf.read_bytes()

    return run


def test_a_contradicted_claim_is_named_with_file_and_line(submit):
    Path("figures/task1.json").write_text('{"loss": 1.5}')
    status, errors, pdf = submit("--reuse")
    assert (status, errors.count("\n")) == (1, 1)
    assert "figures/answers/answers.typ:6: The loss falls" in errors
    assert pdf.startswith(b"%PDF")


def test_the_same_results_give_the_same_pdf_beside_hidden_files(submit):
    _, _, pdf = submit("--reuse")
    for name in ("._answers.typ", ".#task2.typ"):
        Path("figures/answers", name).write_bytes(b"\xff")
    assert submit("--reuse") == (0, "", pdf)


def test_the_flags_replace_the_name_in_the_source(submit):
    assert b"Hopper" in submit("--reuse")[2]
    _, _, pdf = submit("--reuse", "--author=Lovelace", "--student-id=4711")
    assert b"Hopper" not in pdf
    assert b"Lovelace" in pdf
    assert b"4711" in pdf


@pytest.mark.parametrize("letter", ["م", "王"])  # matplotlib's fonts have the first
def test_a_name_in_another_script_is_set_in_a_font_that_has_it(letter, submit):
    status, errors, pdf = submit("--reuse", "--author", letter)
    if letter == "王" and status:
        pytest.skip(errors)  # no installed font has it
    assert (status, pdf.count(b"/FontFile")) == (0, 2)


def test_a_name_that_no_font_has_and_missing_answers_are_said_before_any_task(submit):
    unnamed = submit("--author=\U0010fffe")
    shutil.rmtree("figures")
    unanswered = submit()
    for status, errors, _ in (unnamed, unanswered):
        assert (status, errors.count("\n")) == (1, 1)
    assert "figures/answers" in unanswered[1]
    assert not Path("calls").exists()


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("task1.json", "{half", "task1.json:1: "),
        ("task2_map.svg", "no image", "task2_map.svg:1: "),
        ("answers/task2.typ", '#json("task1_.json")', "task2.typ:1: .*task1_.json"),
        ("answers/task2.typ", "\nnumber # 5", "task2.typ:2: "),
        ("answers/task2.typ", "me@home", "task2.typ:1: .*home"),
    ],
)
def test_what_cannot_be_set_is_one_line_and_keeps_the_old_pdf(
    name, content, place, submit
):
    Path("figures/submission.pdf").write_text("earlier")
    Path("figures", name).write_text(content)
    status, errors, pdf = submit("--reuse")
    assert (status, errors.count("\n"), pdf) == (1, 1, b"earlier")
    assert re.search(place, errors)


def test_the_tasks_run_in_order_with_the_flags_that_they_know_until_one_fails(
    submit, small_mnist
):
    data = f"--data-dir={small_mnist}"
    assert submit("--seed=5", "--figures=x", data, "--device=cpu") == (1, "", False)
    shared = f"--figures={Path.cwd() / 'x'} --seed=5"
    network = f"--checkpoint={Path.cwd() / 'x/mlp.pt'} {data} --device=cpu"
    assert Path("calls").read_text() == (
        f"task1.py {shared}\ntask2.py {data} {shared}\n"
        f"task3.py {network} {shared}\ntask4.py {network} {shared}\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_waits_for_the_task_and_ends_with_status_130(submit):
    assert submit("--seed=6") == (130, "", False)
    assert not Path("calls").exists()


def test_reuse_refuses_a_flag_of_the_tasks(submit):
    assert submit("--reuse", "--seed=5")[0] == 2


def test_code_that_is_not_found_is_named_and_the_rest_is_set(submit):
    Path("task1.py").write_text("def f(:")
    Path("task3.py").write_text("\ufeffdef train(): pass", encoding="utf-8")
    status, errors, _ = submit("--reuse")
    assert (status, errors.count("\n"), errors.count("task1.py")) == (0, 1, 1)
    assert "task3.py: 'batch_accuracy'" in errors
    assert "'train'" not in errors


def test_code_keeps_decorators_and_comments_and_leaves_out_docstrings(tmp_path):
    (tmp_path / "code.py").write_text('''class A:
    """A class

    of two methods.
    """

    @first
    @second
    def f(self):
        """Return nothing."""
        # a comment
        return """none"""

    def g(self):
        """Do nothing."""
''')
    f = '@first\n@second\ndef f(self):\n    # a comment\n    return """none"""'
    assert find_code(str(tmp_path / "code.py"), "A.f")["code"] == f
    code = find_code(str(tmp_path / "code.py"), "A")["code"]
    assert code.startswith("class A:\n    @first\n")
    assert code.endswith(
        'return """none"""\n\n    def g(self):\n        """Do nothing."""'
    )


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The folder from which the submission is typeset."""
    folder = tmp_path_factory.mktemp("answers")
    collect(ROOT / "figures", folder)
    return folder


def test_all_graded_code_is_found_and_complete():
    parts = graded_code()
    assert len(parts) == len(GRADED)
    for part in parts:
        compile(part["code"], part["title"], "exec")


def words(text):
    """Return the lines of a text without regard to spaces."""
    return {tuple(line.split()) for line in text.splitlines()}


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="needs pdftotext")
def test_no_line_of_code_is_wrapped_in_the_pdf(answers):
    typst.compile(answers / "answers.typ", output=answers / "a.pdf")
    command = ["pdftotext", "-raw", answers / "a.pdf", "-"]
    text = subprocess.run(command, stdout=-1, encoding="utf-8").stdout
    for part in graded_code():
        assert words(part["code"]) <= words(text)


def test_the_figures_stand_in_the_order_of_their_numbers_near_their_text(answers):
    (answers / "places.typ").write_text("""#include "answers.typ"
#context for each in query(figure).filter(each => each.has("label")) {
  let named = query(ref).find(ref => ref.target == each.label)
  let place = each.location().position()
  let distance = place.page - named.location().page()
  [#metadata((1000 * place.page + place.y.pt(), distance)) <figures>]
}""")
    found = typst.query(answers / "places.typ", "<figures>", field="value")
    places, distances = zip(*json.loads(found), strict=True)
    assert list(places) == sorted(places)
    assert set(distances) <= {0, 1}


def test_the_answers_show_every_figure(answers):
    sources = [path.read_text(encoding="utf-8") for path in answers.glob("*.typ")]
    for path in answers.glob("task*.svg"):
        assert f'"{path.name}"' in "".join(sources)
