"""The PDF of the answers, on a small source of the test's own: what it is set from, and what is said about it."""

import json
import subprocess
import sys

import pytest

import common.submission
from common.checks import Failure
from common.runtime import ROOT, run
from common.submission import typeset

ANSWERS = """#let author = sys.inputs.at("author", default: "")
#set document(author: author, date: none)
#metadata(author) <author>
#let results = json("task1.json")
#let claim(sentence, holds) = if holds { sentence } else [#text(red, sentence) #metadata(sentence) <contradicted>]
#claim("The loss falls", results.loss < 1)
#claim("The seed is small", results.seed < 100)
#include "task2.typ"
"""
TASK2 = """#image("task2_map.svg")
#let results = json("task2.json")
The variance is #results.variance.
"""
RESULTS = {
    "task1.json": '{"seed": 0, "loss": 0.5}',
    "task2.json": '{"seed": 0, "variance": 17.5}',
    "task2_map.svg": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
}
UNSIGNED = "the answers are unsigned; --author and --student-id sign them\n"


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The project's folder of figures, with a small source of the answers and nothing else."""
    folder = tmp_path / "project" / "figures"
    folder.mkdir(parents=True)
    (folder / "answers.typ").write_text(ANSWERS)
    (folder / "task2.typ").write_text(TASK2)
    monkeypatch.setattr(common.submission, "FIGURES", folder)
    return folder


@pytest.fixture
def folder(tmp_path, source):
    """A folder elsewhere with the results that the source wants."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name, content in RESULTS.items():
        (folder / name).write_text(content)
    return folder


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_claims_that_the_results_contradict_are_returned_in_order(folder):
    assert typeset(folder) == []
    (folder / "task1.json").write_text('{"seed": 100, "loss": 0.5}')
    assert typeset(folder) == ["The seed is small"]
    (folder / "task1.json").write_text('{"seed": 100, "loss": 1.5}')
    assert typeset(folder) == ["The loss falls", "The seed is small"]


def test_the_same_results_give_the_same_bytes_and_others_give_others(folder):
    def pdf():
        typeset(folder, "Ada Lovelace", "4711")
        return (folder / "submission.pdf").read_bytes()

    first = pdf()
    assert first.startswith(b"%PDF")
    assert pdf() == first
    (folder / "task2.json").write_text('{"seed": 0, "variance": 99}')
    assert pdf() != first


def test_a_folder_elsewhere_gets_the_pdf_and_nothing_else_changes(folder, source):
    typeset(folder)
    assert names(folder) == {*RESULTS, "submission.pdf"}
    assert names(source) == {"answers.typ", "task2.typ"}


def test_the_pdf_can_lie_beside_its_source(source):
    for name, content in RESULTS.items():
        (source / name).write_text(content)
    typeset(source)
    assert names(source) == {*RESULTS, "answers.typ", "task2.typ", "submission.pdf"}


@pytest.mark.parametrize(
    ("default", "author", "expected", "said"),
    [
        ("", None, b"", UNSIGNED),
        ("", "Ada Lovelace", b"Ada Lovelace", ""),
        ("Grace Hopper", None, b"Grace Hopper", ""),
        ("Grace Hopper", "Ada Lovelace", b"Ada Lovelace", ""),
    ],
)
def test_the_name_on_the_command_line_replaces_the_one_in_the_source_and_none_is_said(
    default, author, expected, said, folder, source, capsys
):
    (source / "answers.typ").write_text(ANSWERS.replace('default: ""', f'default: "{default}"'))
    typeset(folder, author)
    pdf = (folder / "submission.pdf").read_bytes()
    assert [name for name in (b"Ada Lovelace", b"Grace Hopper") if name in pdf] == [name for name in [expected] if name]
    assert capsys.readouterr().out == said


def test_the_student_id_reaches_the_source(folder, source):
    (source / "answers.typ").write_text(ANSWERS + '#assert(sys.inputs.student-id == "4711")\n')
    typeset(folder, "Ada Lovelace", "4711")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("task1.json", None, "task1.json is missing or not readable in {folder}; run python task1.py"),
        ("task2_map.svg", None, "task2_map.svg is missing or not readable in {folder}; run python task2.py"),
        ("task2.json", b"{half", "task2.json is missing or not readable in {folder}; run python task2.py"),
        ("task1.json", b"\xff\xfe", "task1.json is missing or not readable in {folder}; run python task1.py"),
        ("task1.json", b"[]", "task1.json is missing or not readable in {folder}; run python task1.py"),
        ("task1.json", b"7", "task1.json is missing or not readable in {folder}; run python task1.py"),
        ("task1.json", b"{}", "task1.json is missing or not readable in {folder}; run python task1.py"),
    ],
)
def test_missing_and_unreadable_results_are_one_line_that_names_the_script_and_keeps_the_old_pdf(
    name, content, message, folder
):
    (folder / "submission.pdf").write_text("earlier")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(Failure) as failure:
        typeset(folder)
    assert str(failure.value) == message.format(folder=folder)
    assert (folder / "submission.pdf").read_text() == "earlier"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("task1.json", '{"seed": 0}', 'figures/answers.typ:6:33: dictionary does not contain key "loss"'),
        ("task2_map.svg", "no image", "task2_map.svg:1:"),
    ],
)
def test_results_that_do_not_fit_the_source_are_one_line_with_the_place_and_the_command(name, content, message, folder):
    (folder / "submission.pdf").write_text("earlier")
    (folder / name).write_text(content)
    with pytest.raises(Failure) as failure:
        typeset(folder)
    assert message in str(failure.value)
    assert str(failure.value).endswith("if you did not change it, run python -m common.submission anew")
    assert (folder / "submission.pdf").read_text() == "earlier"


@pytest.mark.parametrize(("file", "line"), [("answers.typ", 9), ("task2.typ", 4)])
@pytest.mark.parametrize(
    ("slip", "column", "message"),
    [
        ("number # 5", 8, "expected expression"),
        ("me@home", 2, "label `<home>` does not exist"),
        ("costs 5 $", 8, "unclosed delimiter"),
        ('#text(red "sentence")', 9, "expected comma"),
        ("#resutls", 1, "unknown variable"),
    ],
    ids=["hash", "at", "dollar", "comma", "name"],
)
def test_a_slip_in_the_source_is_one_line_with_file_line_column_and_the_remedy(
    slip, column, message, file, line, folder, source
):
    (folder / "submission.pdf").write_text("earlier")
    with (source / file).open("a") as text:
        text.write(slip + "\n")
    with pytest.raises(Failure) as failure:
        typeset(folder)
    assert str(failure.value).startswith(f"figures/{file}:{line}:{column}: {message}")
    assert "backslash before # $ @" in str(failure.value)
    assert "\n" not in str(failure.value)
    assert (folder / "submission.pdf").read_text() == "earlier"


@pytest.fixture
def submit(monkeypatch, source):
    """Run the command in this process, the tasks replaced by what `task` returns; return status and their commands."""

    def command(*flags, task=lambda words: 0):
        commands = []

        def run_task(words):
            commands.append(words)
            return task(words)

        monkeypatch.setattr(subprocess, "call", run_task)
        monkeypatch.setattr(sys, "argv", ["submission.py", *map(str, flags)])
        status = 0
        try:
            run(common.submission.main, common.submission.parse_options())
        except SystemExit as ending:
            status = ending.code
        return status, commands

    return command


def flags_of(command):
    """The flags of a command with their values."""
    return dict(zip(command[2::2], command[3::2], strict=True))


def test_the_four_tasks_run_in_order_with_the_flags_that_they_know(submit, folder, tmp_path):
    flags = ("--seed", 5, "--figures", folder, "--data-dir", tmp_path / "data", "--device", "cpu")
    status, commands = submit(*flags)
    assert status == 0
    assert [command[:2] for command in commands] == [[sys.executable, str(ROOT / f"task{n}.py")] for n in (1, 2, 3, 4)]
    shared = {"--seed": "5", "--figures": str(folder)}
    data = {"--data-dir": str(tmp_path / "data")}
    model = {"--device": "cpu", "--checkpoint": str(folder / "mlp.pt")}
    assert list(map(flags_of, commands)) == [shared, shared | data, *[shared | data | model] * 2]
    assert (folder / "submission.pdf").read_bytes().startswith(b"%PDF")


def test_without_flags_the_tasks_run_on_the_defaults_and_leave_the_network_in_artifacts(submit, source, monkeypatch):
    monkeypatch.setattr(common.runtime, "FIGURES", source)
    for name, content in RESULTS.items():
        (source / name).write_text(content)
    _, commands = submit()
    flags = flags_of(commands[3])
    checkpoint = str(ROOT / "artifacts" / "mlp.pt")
    assert flags == {"--seed": "0", "--figures": str(source), "--device": "auto", "--checkpoint": checkpoint}


def test_a_relative_folder_is_one_folder_for_the_tasks_and_for_the_pdf(submit, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    status, commands = submit("--figures", folder.name)
    assert status == 0
    assert {flags_of(command)["--figures"] for command in commands} == {str(folder)}
    assert "submission.pdf" in names(folder)


def test_reuse_runs_no_task(submit, folder):
    assert submit("--reuse", "--figures", folder) == (0, [])
    assert "submission.pdf" in names(folder)


def test_a_task_that_fails_ends_the_command_with_its_status_and_keeps_the_old_pdf(submit, folder, capsys):
    (folder / "submission.pdf").write_text("earlier")
    status, commands = submit("--figures", folder, task=lambda words: 3 if words[1].endswith("task2.py") else 0)
    assert (status, len(commands)) == (3, 2)
    assert (folder / "submission.pdf").read_text() == "earlier"
    assert capsys.readouterr().err == ""  # the task has said why


def test_a_contradicted_claim_is_named_with_status_1_and_what_to_do_and_the_pdf_is_written(submit, folder, capsys):
    (folder / "task1.json").write_text(json.dumps({"seed": 100, "loss": 1.5}))
    status, _ = submit("--reuse", "--figures", folder)
    assert status == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "The loss falls; The seed is small" in line
    assert "Rewrite these sentences" in line
    assert "run the task again with its defaults" in line
    assert (folder / "submission.pdf").read_bytes().startswith(b"%PDF")


def test_author_and_student_id_on_the_command_line_sign_the_pdf(submit, folder, capsys):
    submit("--reuse", "--figures", folder, "--author", "Ada Lovelace", "--student-id", "4711")
    assert b"Ada Lovelace" in (folder / "submission.pdf").read_bytes()
    assert "unsigned" not in capsys.readouterr().out
