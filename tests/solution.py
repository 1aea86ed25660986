"""Loads a solution of this sheet, a .py file or a notebook, and executes only what
defines its four classes.

These are all imports and, of what the classes use, functions, classes, assignments and
statements that change an attribute or an item of it (or of sys.path), also inside `if`
and `try`; never a loop, a `with` or another call.
"""

import ast
import builtins
import contextlib
import dis
import io
import json
import re
import sys
import textwrap
import traceback
import types
import warnings
from importlib.machinery import PathFinder
from pathlib import Path

import torch

NAMES = ("Linear", "ReLU", "Softmax", "CrossEntropyLoss")
TESTS = Path(__file__).resolve().parent
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
ASSIGNMENTS = ast.Assign | ast.AnnAssign | ast.AugAssign
BLOCKS = ast.If | ast.Try | ast.ExceptHandler
MUTATORS = {
    "add",
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "remove",
    "setdefault",
    "update",
}


class Refused(Exception):
    """Says in one line why a file, or a class of it, cannot be checked."""


@contextlib.contextmanager
def surroundings(path):
    """Let a file import the modules beside it, even if others of that name are loaded;
    print nothing, undo settings.
    """
    folder, output = path.resolve().parent, io.StringIO()
    search_path, arguments = sys.path.copy(), sys.argv
    dtype = torch.get_default_dtype()

    def take_modules_beside():
        specs = {
            name: PathFinder.find_spec(name)
            for name in {name.partition(".")[0] for name in sys.modules}
        }
        places = {
            name: spec.submodule_search_locations or [spec.origin or ""]
            for name, spec in specs.items()
            if spec
        }
        beside = {
            name
            for name, found in places.items()
            if any(Path(place).parent == folder for place in found)
        }
        return {
            name: sys.modules.pop(name)
            for name in list(sys.modules)
            if name.partition(".")[0] in beside
        }

    sys.path[:] = [
        str(folder),
        *(
            place
            for place in sys.path
            if place not in ("", str(TESTS), str(TESTS.parent))
        ),
    ]
    sys.argv = [str(path)]
    ours = take_modules_beside()
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                yield
        finally:
            take_modules_beside()
            sys.modules.update(ours)
            sys.path[:], sys.argv = search_path, arguments
            torch.set_default_dtype(dtype)


class Solution:
    """A file's definitions, executed. An error in one of them matters to the classes
    that need it.
    """

    def __init__(self, path):
        self.folder, self.errors = path.resolve().parent, {}
        name = path.name.removesuffix(".py")
        self.module = sys.modules[name] = types.ModuleType(
            name
        )  # dataclasses look their module up
        self.module.__file__ = str(path.resolve())
        try:
            self.statements = [
                statement
                for place, source in read(path)
                for statement in parse(place, source)
            ]
        except (SyntaxError, ValueError, RecursionError, OSError) as error:
            raise Refused(self.reason(error)) from None
        wanted = set().union(*map(self.needed, NAMES))
        for k, statement in enumerate(self.statements):
            if k in wanted or statement.imports:
                try:
                    exec(statement.code, vars(self.module))
                except (
                    Exception,
                    SystemExit,
                ) as error:  # foreign code may raise anything
                    self.errors[k] = self.reason(error)

    def needed(self, name):
        """Return the numbers of the statements that define a name and all that it uses."""
        given = {"sys.path"}.union(
            dir(builtins), *(statement.gives for statement in self.statements)
        )
        names, kept = {name, "sys.path"}, set()
        while (
            new := {
                k
                for k, statement in enumerate(self.statements)
                if statement.gives & names
            }
            - kept
        ):
            kept |= new
            names.update(*(self.statements[k].uses for k in new))
            if names - given:
                names.add("*")  # what is found nowhere else comes from `import *`
        return kept

    def find(self, name):
        """Return the class of this name; raise `Refused` if there is none, or if
        something failed that it needs.
        """
        if failed := self.needed(name) & self.errors.keys():
            raise Refused(self.errors[min(failed)])
        if not hasattr(self.module, name):
            raise Refused(f"there is no class {name}")
        return getattr(self.module, name)

    def reason(self, error):
        """Return an error in one line, behind the last line of the solution that it
        came through.
        """
        if isinstance(error, Refused):
            return str(error)
        frames, home = traceback.extract_tb(error.__traceback__), {self.folder}
        places = [
            (Path(frame.filename), frame.lineno)
            for frame in frames
            if "site-packages" not in frame.filename
        ]
        if isinstance(error, SyntaxError):
            places.append((Path(error.filename or ""), error.lineno))
        own = [
            f"{file.name}:{line}: "
            for file, line in places
            if {TESTS, *home} & {*file.parents} == home
        ]
        hint = (
            " (loops and `with` at the top level are not executed)"
            if isinstance(error, NameError)
            else ""
        )
        text = f"{type(error).__name__}: {getattr(error, 'msg', error)}"
        return "".join(own[-1:]) + textwrap.shorten(text, 200) + hint


def read(path):
    """Return the code of a file as pairs of a place and a source: one, or one for each
    code cell of a notebook.
    """
    if not path.is_file():
        raise Refused(f"there is no file {path}")
    source, place = path.read_bytes(), str(path.resolve())
    if path.suffix not in (".py", ".ipynb"):
        raise Refused(f"{path} is neither a Python file (.py) nor a notebook (.ipynb)")
    if b"\0" in source:
        raise Refused(f"{path} is not UTF-8 text; save it as UTF-8")
    if path.suffix == ".py":
        return [(place, source)]
    try:
        cells = [
            (cell["cell_type"], "".join(cell["source"]))
            for cell in json.loads(source)["cells"]
        ]
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{path} is no notebook of format 4") from None
    return [
        (f"{place}, cell {k}", without_magics(text))
        for k, (kind, text) in enumerate(cells, 1)
        if kind == "code"
    ]


def without_magics(text):
    """Replace IPython's lines (% and !) of a cell by `pass`; return nothing of a cell
    in another language.
    """
    with contextlib.suppress(SyntaxError):
        return ast.parse(text) and text
    if re.match(r"%%(?!time|capture)", text):
        return ""
    return re.sub(r"(?m)^(\s*)(?:\w+ *= *)?[%!].*", r"\1pass", text)


def parse(place, source):
    """Return the defining statements of a source: their code, the names they bind or
    change, and the names they use.
    """
    body, statements = definitions(ast.parse(source, place).body), []
    future = [
        node
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    for node in body:
        code = compile(
            ast.fix_missing_locations(ast.Module([*future, node], [])),
            place,
            "exec",
            dont_inherit=True,
        )
        gives = changed(node) | {
            step.argval
            for step in dis.get_instructions(code)
            if step.opname == "STORE_NAME"
        }
        imports = isinstance(node, ast.Import | ast.ImportFrom)
        gives |= {"*"} & {alias.name for alias in node.names} if imports else set()
        statements.append(
            types.SimpleNamespace(
                code=code, gives=gives, uses=used(code), imports=imports
            )
        )
    return statements


def definitions(body):
    """Return those statements of a block that may be executed."""
    kept = []
    for node in body:
        if isinstance(node, ast.Import):  # each name for itself, since one may fail
            kept += [
                ast.copy_location(ast.Import([alias]), node) for alias in node.names
            ]
        elif isinstance(
            node, ast.ImportFrom | FUNCTIONS | ast.ClassDef | ASSIGNMENTS | BLOCKS
        ) or changed(node):
            kept.append(node)
        for block in (
            ("body", "orelse", "handlers", "finalbody")
            if isinstance(node, BLOCKS)
            else ()
        ):
            if getattr(node, block, None):
                setattr(node, block, definitions(getattr(node, block)))
    return kept or [ast.Pass()]


def changed(node):
    """Return the names of which a statement changes an attribute or an item, and
    "sys.path" where it changes that.
    """
    targets = []
    if isinstance(node, BLOCKS):
        return set().union(*map(changed, ast.iter_child_nodes(node)))
    if isinstance(node, FUNCTIONS):  # a decorator may put a function into a class
        return {
            name
            for decorator in node.decorator_list
            for name in NAMES
            if name in ast.unparse(decorator)
        }
    if isinstance(node, ASSIGNMENTS):
        parts = [
            each
            for each in ast.walk(node)
            if isinstance(each, ast.Attribute | ast.Subscript)
        ]
        targets = [each for each in parts if isinstance(each.ctx, ast.Store)]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        function = node.value.func
        if isinstance(function, ast.Attribute) and function.attr in MUTATORS:
            targets = [function.value]
        elif ast.unparse(function) == "setattr":
            targets = node.value.args[:1]
    return {re.match(r"sys\.path|\w*", ast.unparse(target))[0] for target in targets}


def used(code):
    """Return the global names that code uses, in its functions and classes as well, but
    for __names__.
    """
    steps = [
        step
        for step in dis.get_instructions(code)
        if re.match("LOAD_.*(NAME|GLOBAL)", step.opname)
    ]
    names = {step.argval for step in steps if not step.argval.startswith("__")}
    return names.union(
        *(used(inner) for inner in code.co_consts if isinstance(inner, types.CodeType))
    )
