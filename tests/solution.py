"""Loads another solution of this sheet, a .py file or a notebook: of its statements,
only those are executed that the four classes need.
"""

import __future__

import ast
import json
import re
import symtable
import sys
import tokenize
from pathlib import Path
from types import ModuleType

CLASSES = {"Linear", "ReLU", "Softmax", "CrossEntropyLoss"}
OURS = Path(__file__).resolve().parents[:2]
# IPython's lines, with their continuations: %magic, files = !command, ?help, help??
MAGIC = re.compile(
    r"^([ \t]*)(?:(?:[\w, ]+= *)?[%!]\S(?:.*\\\n)*.*|\?+[\w.]+|[\w.]+\?+[ \t]*)$", re.M
)


def load(path, patch):
    """Return the file as a module; its `left_out` says what in it is not Python.

    `patch`, pytest's MonkeyPatch, puts the file's folder in the place of ours.
    """
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    module.left_out = []
    statements = []
    for place, source in read(path).items():
        try:
            statements += [(each, place) for each in parse(source, place)]
        except SyntaxError as error:
            module.left_out.append(str(error))
    names = needed(statements)
    enter(path.parent, patch)
    patch.setitem(sys.modules, path.stem, module)  # where dataclasses look for it
    lazy = __future__.annotations.compiler_flag
    for statement, place in statements:
        if names & bound(statement):
            code = compile(ast.Module([statement], []), place, "exec", lazy)
            exec(code, vars(module))
    return module


def enter(folder, patch):
    """Work in a folder as if a file in it were run: it finds no module of ours."""
    ours = {each.stem for home in OURS for each in home.iterdir()}
    for name in list(sys.modules):
        if name.partition(".")[0] in ours:
            patch.delitem(sys.modules, name)
    others = [each for each in sys.path if each and Path(each) not in OURS]
    patch.setattr(sys, "path", [str(folder), *others])
    patch.setattr(sys, "argv", [""])
    patch.chdir(folder)


def read(path):
    """Return the code by its place: the file, or a cell of the notebook."""
    with tokenize.open(path) as file:
        text = file.read()
    if path.suffix != ".ipynb":
        return {str(path): text}
    cells = {}
    for number, cell in enumerate(json.loads(text)["cells"], 1):
        if cell["cell_type"] == "code":
            cells[f"{path}, cell {number}"] = "".join(cell["source"])
    return cells


def parse(text, place):
    """Return the statements, if need be without the lines that are IPython's own."""
    try:
        return ast.parse(text, place).body
    except SyntaxError:
        text = MAGIC.sub(lambda it: it[1] + "pass" + "\n" * it[0].count("\n"), text)
        return ast.parse(text, place).body


def needed(statements):
    """Return the names that the classes need, directly or not, and * for imports."""
    names = {"*"} | CLASSES
    tables = [(bound(each), used(table(each))) for each, _ in statements]
    for _ in tables:  # what is needed may need something in its turn
        for binds, uses in tables:
            if binds & names:
                names |= uses
    return names


def table(statement):
    return symtable.symtable(ast.unparse(statement), "", "exec")


def bound(statement):
    """Return the names that a statement binds, or of which it sets an attribute."""
    names = {
        each.get_name() for each in table(statement).get_symbols() if each.is_local()
    }
    if isinstance(statement, ast.ImportFrom):
        names.add(statement.names[0].name)  # perhaps *
    for target in getattr(statement, "targets", []):
        names.add(re.match(r"\w*", ast.unparse(target))[0])
    return names


def used(table):
    """Return the global names that a statement uses, in its functions as well."""
    names = {each.get_name() for each in table.get_symbols() if each.is_global()}
    for inner in table.get_children():
        names |= used(inner)
    return names
