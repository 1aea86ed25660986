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

OURS = Path(__file__).resolve().parents[:2]
# IPython's lines, with their continuations: %magic, files = !command, ?help, help??
MAGIC = re.compile(
    r"^([ \t]*)(?:(?:[\w, ]+= *)?[%!]\S(?:.*\\\n)*.*|\?+[\w.]+|[\w.]+\?+[ \t]*)$", re.M
)


def load(path, names, patch):
    """Return a module with these names of a file; its `left_out` is what is not Python.
    `patch`, pytest's MonkeyPatch, makes its folder the one that is worked in.
    """
    module = ModuleType(path.stem)
    module.left_out = []
    statements = []
    for place, source in read(path).items():
        try:
            for statement in parse(source, place):
                table = symtable.symtable(ast.unparse(statement), place, "exec")
                binds = bound(statement, table)
                statements.append((statement, place, binds, used(table)))
        except SyntaxError as error:
            module.left_out.append(str(error))
    enter(path.parent, patch)
    patch.setitem(sys.modules, path.stem, module)  # where dataclasses look for it
    names = {"*", *names}
    for _ in statements:  # what is needed may need something in its turn
        for _, _, binds, uses in statements:
            if binds & names:
                names |= uses
    lazy = __future__.annotations.compiler_flag
    for statement, place, binds, _ in statements:
        if binds & names:
            code = compile(ast.Module([statement], []), place, "exec", lazy)
            exec(code, vars(module))
    return module


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


def bound(statement, table):
    """Return the names that a statement binds, or of which it sets an attribute."""
    names = {each.get_name() for each in table.get_symbols() if each.is_local()}
    if isinstance(statement, ast.ImportFrom):
        names.add(statement.names[0].name)  # it may be *
    for target in getattr(statement, "targets", []):
        names.add(re.match(r"\w*", ast.unparse(target))[0])
    return names


def used(table):
    """Return the global names that a statement uses, in its functions as well."""
    names = {each.get_name() for each in table.get_symbols() if each.is_global()}
    for inner in table.get_children():
        names |= used(inner)
    return names


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
