"""The PDF of the answers: what it is typeset from, what is said about it, and how its
pages look.
"""

import ast
import json
import re
import shutil

import pytest
import typst
from conftest import ROOT

import common.script
from common.submission import GRADED, collect, listings

ANSWERS = """#let author = sys.inputs.at("author", default: "")
#set document(author: author, keywords: sys.inputs.at("student-id", default: ""), date: none)
#metadata(author) <author>
#let claim(sentence, holds) = if holds [#sentence] else [#text(red, sentence) #metadata(sentence) <contradicted>]
#let loss = json("task1.json").loss
#claim("The loss falls", loss < 1) The loss is #loss.
#claim("The seed is small", json("task1.json").seed < 100)
#include "task2.typ"
"""
FILES = {
    "answers/answers.typ": ANSWERS,
    "answers/task2.typ": '#image("task2_map.svg")',
    "task1.json": '{"seed": 0, "loss": 0.5}',
    "task2_map.svg": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
}


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """The figures of a project with small answers and with tasks that note their flags
    and do no more.
    """
    (tmp_path / "figures" / "answers").mkdir(parents=True)
    (tmp_path / "common").mkdir()
    note = "import sys; print(sys.argv[0][-4], *sys.argv[1:], file=open('calls', 'a')); sys.exit()\n"
    for file in {file for file, *_ in GRADED.values()} | {"task2.py"}:
        (tmp_path / file).write_text(
            note + (ROOT / file).read_text(encoding="utf-8"), encoding="utf-8"
        )
    for name, content in FILES.items():
        (tmp_path / "figures" / name).write_text(content)
    for name, path in {
        "ROOT": ".",
        "FIGURES": "figures",
        "CHECKPOINT": "artifacts/mlp.pt",
    }.items():
        monkeypatch.setattr(common.script, name, tmp_path / path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "figures"


@pytest.fixture
def submit(figures, run_here, capsys):
    """Run the command in that project; return its status, stdout and stderr."""
    return lambda flags="": (
        run_here("common/submission.py", *flags.split(" ") * bool(flags)),
        *capsys.readouterr(),
    )


def test_a_claim_that_the_results_contradict_is_named_with_status_1_and_what_to_do(
    submit, figures
):
    (figures / "task1.json").write_text('{"seed": 100, "loss": 1.5}')
    status, _, errors = submit("--reuse")
    advice = "Rewrite these sentences in figures/answers/, or run the task again with its defaults"
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.endswith(
        f", and red in submission.pdf: The loss falls; The seed is small. {advice}\n"
    )
    assert (figures / "submission.pdf").read_bytes().startswith(b"%PDF")
    (figures / "task1.json").unlink()
    assert submit("--reuse")[2].endswith("/figures; run python task1.py\n")


def test_the_same_results_give_the_same_bytes_where_a_link_points(submit, figures):
    (figures / "submission.pdf").symlink_to("target.pdf")
    pdfs = []
    for loss in (0.5, 0.5, 0.6):
        (figures / "task1.json").write_text(f'{{"seed": 0, "loss": {loss}}}')
        assert submit("--reuse")[0] == 0
        pdfs.append((figures / "target.pdf").read_bytes())
    assert pdfs[0] == pdfs[1] != pdfs[2]


@pytest.mark.parametrize("default", ["", "Hopper"])
@pytest.mark.parametrize("author", ["", "Lovelace"])
def test_a_name_on_the_command_line_replaces_that_in_the_source_and_none_is_said(
    default, author, submit, figures
):
    (figures / "answers" / "answers.typ").write_text(
        ANSWERS.replace('""', f'"{default}"', 1)
    )
    _, output, _ = submit(f"--reuse --student-id 4711 --author={author}")
    pdf = (figures / "submission.pdf").read_text("latin-1")
    assert {name for name in ("4711", "Lovelace", "Hopper") if name in pdf} == {
        "4711",
        author or default,
    } - {""}
    assert ("the answers are unsigned" in output) == (not author and not default)


REST = r"; correct it there or a little before \(# \$ @ \* _ and < need a backslash\), or run the tasks again"
UNREADABLE = "{} is missing or not readable in elsewhere; run python {:.5}.py --figures elsewhere"
FAILURES = [
    ("task1.json", content, UNREADABLE) for content in ("{half", "ÿ", "7", "{}", None)
] + [
    ("task2_map.svg", None, UNREADABLE),
    ("task2_map.svg", "no image", "{}:1:.*" + REST),
    (
        "task1.json",
        '{"seed": 0}',
        'answers.typ:5:31: dictionary does not contain key "loss"' + REST,
    ),
    ("answers/task2.typ", "naïve", "figures/{} is not UTF-8; save it as UTF-8"),
    ("answers/task2.typ", "\nnumber # 5", "task2.typ:2:8: expected expression" + REST),
    (
        "answers/task2.typ",
        "me@home",
        "task2.typ:1:2: label `<home>` does not exist.*" + REST,
    ),
    ("answers/answers.typ", "costs 5 $", "answers.typ:1:8: unclosed delimiter" + REST),
]


@pytest.mark.parametrize(("name", "content", "message"), FAILURES)
def test_what_cannot_be_set_is_one_line_and_keeps_the_old_pdf(
    name, content, message, submit, figures
):
    (figures / "submission.pdf").write_text("earlier")
    (figures / name).write_text(content or "", "latin-1")
    shutil.copytree(figures, "elsewhere", ignore=lambda *_: [name] * (content is None))
    status, _, errors = submit("--reuse --figures elsewhere")
    assert status == 1
    assert re.fullmatch(f"submission.py: {message.format(name, name)}\n", errors), (
        errors
    )
    assert (figures.parent / "elsewhere" / "submission.pdf").read_text() == "earlier"


def test_the_four_tasks_run_in_order_with_the_flags_that_they_know_until_one_fails(
    submit, figures
):
    assert (
        submit("--seed 5 --figures . --data-dir data --device cpu")[0] == 1
    )  # there are no results
    (figures.parent / "task3.py").write_text("raise SystemExit(3)")
    assert submit() == (
        3,
        "== task1.py\n== task2.py\n== task3.py\n",
        "",
    )  # task 3 has said why
    shared, data, own = (
        f"--figures={figures.parent} --seed=5",
        "--data-dir=data",
        f"--figures={figures}",
    )
    network = f"{shared} {data} --device=cpu --checkpoint={figures.parent / 'mlp.pt'}"
    expected = [
        f"1 {shared}",
        f"2 {shared} {data}",
        f"3 {network}",
        f"4 {network}",
        f"1 {own} --seed=0",
        f"2 {own} --seed=0",
    ]
    calls = (figures.parent / "calls").read_text().splitlines()
    assert [sorted(call.split()) for call in calls] == [
        sorted(call.split()) for call in expected
    ]
    assert not (figures / "submission.pdf").exists()


WRONG_USE = [
    "--seed x",
    "--device abacus",
    "--epochs 3",
    "stray",
    "--show",
    "--author Andr\udce9",
]
WRONG_USE += [
    "--student-id \udce9",
    "--reuse --seed 5",
    "--reuse --data-dir .",
    "--reuse --device auto",
]


@pytest.mark.parametrize("flags", WRONG_USE, ids=ascii)
def test_wrong_use_ends_with_status_2_and_one_line_that_names_the_flag(
    flags, submit, figures
):
    status, _, errors = submit(flags)
    assert status == 2
    assert re.search(
        f"\npython -m common.submission: error: .*{flags.split()[0]}.*\n$", errors
    )
    assert not (figures.parent / "calls").exists()


def test_a_listing_is_the_code_at_its_line_of_its_file_without_docstrings():
    names = [
        (subtask, name, file)
        for subtask, (file, *names) in GRADED.items()
        for name in names
    ]
    for (*place, line, code), expected in zip(
        map(dict.values, listings()), names, strict=True
    ):
        source = (ROOT / place[2]).read_text(encoding="utf-8")
        kinds = ast.FunctionDef | ast.ClassDef
        (node,) = (
            each
            for each in ast.walk(ast.parse(source))
            if isinstance(each, kinds) and each.lineno == line
        )
        assert (tuple(place), node.name) == (expected, place[1].rpartition(".")[2])
        bare = re.sub(r'(?s)""".*?"""', "", ast.get_source_segment(source, node))
        ours, theirs = (
            "".join(text.split()).replace("pass", "") for text in (code, bare)
        )
        assert ours.removesuffix(theirs) == "".join(
            f"@{ast.unparse(each)}" for each in node.decorator_list
        )
        compile(code, expected[2], "exec")


def test_the_figures_stand_in_the_order_of_their_numbers_near_their_text(tmp_path):
    places = typst.query(
        collect(ROOT / "figures", tmp_path),
        "<places>",
        field="value",
        ignore_system_fonts=True,
    )
    found = json.loads(places)[0]
    assert [place for _, place, _ in found] == sorted(place for _, place, _ in found)
    assert all(page - named in (0, 1) for _, (page, _), (named, _) in found)


def test_the_answers_show_every_figure_with_text_large_enough():
    sources = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "figures" / "answers").glob("*.typ")
    )
    shown, drawn = (
        set(re.findall(r'"(task\d\w+\.svg)"', sources)),
        list((ROOT / "figures").glob("task*.svg")),
    )
    assert {path.name for path in drawn} == shown
    for path in drawn:
        sizes = re.findall(
            r'<text style="[^"]*?([\d.]+)px', path.read_text(encoding="utf-8")
        )
        assert min(map(float, sizes)) >= 6.5, path
