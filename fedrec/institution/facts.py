"""Facts about a scientist's own code, read from its syntax tree: what an owner should look at, with line numbers.

The facts say what stands in the text, not what it means: they help a reader, the jail and the guard do the rest.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fedrec.institution.facts_users import handed_lines, per_user_lines
from fedrec.institution.lookalikes import look_alikes

RED, AMBER, GREEN = "red", "amber", "green"
WORDS = {RED: "STOP AND ASK", AMBER: "LOOK CLOSELY", GREEN: "usual"}


def _named(kinds: dict[str, str]) -> dict[str, str]:
    """From what to its words, to from each word to what."""
    return {word: what for what, words in kinds.items() for word in words.split()}


_MODULES = _named(  # by the first part of a module's name
    {
        "usual": "__future__ bisect collections dataclasses functools heapq itertools math operator random statistics"
        " string typing numpy scipy torch",
        "system": "os sys builtins importlib inspect gc site code codeop imp pkgutil runpy types ast fedrec syft",
        "network": "socket ssl http urllib requests httpx aiohttp ftplib smtplib asyncio select selectors distributed"
        " hub",
        "process": "subprocess multiprocessing signal pty resource ctypes ctypeslib cffi mmap cpp_extension f2py",
        "threads": "threading _thread concurrent queue sched",
        "files": "pathlib io shutil tempfile glob fileinput sqlite3 csv logging pandas pyarrow h5py",
        "packing": "pickle marshal shelve dill cloudpickle base64 binascii zlib gzip bz2 lzma struct",
        "time": "time datetime timeit",
    }
)
# Of these names the usual libraries have functions of their own, and rows have columns.
_NO_MODULES = {"abc", "array", "chunk", "copy", "select", "signal", "trace"}
_COLUMNS = {"time", "code", "site", "types", "resource", "queue", "struct", "io", "gc", "hub", "distributed"}
_CALLS = _named(
    {
        "dynamic": "eval exec compile __import__ globals locals vars getattr setattr delattr",
        "files": "open",
        "process": "input breakpoint exit quit",
        "print": "print",
    }
)
_METHODS = _named(
    {
        "files": "save savez savez_compressed savetxt load loadtxt genfromtxt fromfile tofile memmap open_memmap"
        " write_text write_bytes read_text read_bytes read_csv to_csv unlink dump dumps write writelines listdir"
        " scandir DataSource stdout stderr stdin",
        "process": "system popen fork forkpty execv execve execvp spawn posix_spawn posix_spawnp kill killpg _exit"
        " abort CDLL PyDLL cdll pydll load_library load_inline string_at memmove",
        "network": "connect sendall sendto sendmsg urlopen urlretrieve create_connection load_url"
        " load_state_dict_from_url",
        "packing": "tobytes frombuffer packbits unpackbits from_buffer data_ptr from_dlpack as_strided untyped_storage",
        "dynamic": "import_module load_module attrgetter methodcaller register_hook currentframe settrace setprofile",
    }
)
_TEXT = {
    "import": "imports",
    "system": "reaches into Python or the system",
    "network": "uses the network",
    "process": "starts or ends processes",
    "threads": "starts threads",
    "files": "reads or writes files",
    "packing": "packs or turns over the bits of data: rows could hide in numbers",
    "dynamic": "makes or finds code while it runs, so the text does not show what runs",
    "print": "prints: it stays in the owner's log, but may be data",
    "patching": "changes another module",
    "per-user": "may send values of single rows or users, not sums",
    "handed": "hands all rows or users to a function of its own: read what that does",
    "look-alike": "uses characters that look like others",
    "form": "is not Python",
    "loop": "has a loop without an end in sight",
    "message": "puts computed text into an exception: the class leaves, the message does not",
    "loaded": "runs when the text is loaded, outside any method",
    "payload": "holds a long literal: what it is for cannot be read",
    "class": "has special methods, a metaclass or decorators that act unseen",
    "time": "measures or waits for time, which can be seen from outside",
}
_AMBER = {"handed", "print", "import", "loop", "message", "loaded", "payload", "time"}
_LONG = 200  # characters or numbers of a literal
_PLAIN_DECORATORS = {"staticmethod", "classmethod", "property", "dataclass", "no_grad", "cached_property", "lru_cache"}


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """One thing in the text.

    Args:
        line: counted from 1; 0 = the plan, not its code.
        level: red, amber or green.
        what: a short name, such as "network".
        text: for a person who does not read Python.
    """

    line: int
    level: str
    what: str
    text: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"line": self.line, "level": self.level, "what": self.what, "text": self.text}


def facts_of(code: str) -> list[Fact]:
    """Facts about a class given as text, by line; green ones are the usual imports."""
    found = {_fact(line, "look-alike", detail) for line, detail in look_alikes(code)}
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return sorted({*found, _fact(1, "form", "")})
    found |= {_fact(line, "per-user", detail) for line, detail in per_user_lines(tree)}
    found |= {_fact(line, "handed", detail) for line, detail in handed_lines(tree)}
    modules = _module_names(tree)
    for node in ast.walk(tree):
        found |= set(_of_node(node, modules))
    found |= set(_of_handed_on(tree))
    found |= set(_of_top(tree))
    return sorted(found)


def _fact(line: int, what: str, detail: str, level: str | None = None) -> Fact:
    shown = f"{_TEXT[what]}: {detail}" if detail else _TEXT[what]
    return Fact(line, level or (AMBER if what in _AMBER else RED), what, shown)


def _of_node(node: ast.AST, modules: set[str]) -> Iterator[Fact]:
    match node:
        case ast.Import(names=names):
            for alias in names:
                yield _import(node.lineno, alias.name)
        case ast.ImportFrom(module=module, names=names, level=level):
            yield _import(node.lineno, "." * level + (module or ""))
            for alias in names:
                if what := _METHODS.get(alias.name) or _CALLS.get(alias.name) or _reached(alias.name, True):
                    yield _fact(node.lineno, what, alias.name)
        case ast.Name(id=name, ctx=ast.Load()) if name in _CALLS:
            yield _fact(node.lineno, _CALLS[name], name)
        case ast.Name(id=name) if _dunder(name) and name not in ("__name__", "__class__"):
            yield _fact(node.lineno, "dynamic", name)
        case ast.Attribute(attr=name, value=value):
            of_module = _root(node) in modules
            if what := _METHODS.get(name) or _reached(name, of_module):
                yield _fact(node.lineno, what, ast.unparse(node) if of_module else name)
            elif name in _CALLS and (of_module or name not in ("eval", "compile", "input")):  # of a torch module, usual
                yield _fact(node.lineno, _CALLS[name], name)
            elif _dunder(name) and not (name == "__init__" and _is_super(value)):
                yield _fact(node.lineno, "dynamic", name)
            elif name == "sleep" or name.startswith(("perf_counter", "monotonic", "time_ns")):
                yield _fact(node.lineno, "time", name)
            if isinstance(node.ctx, ast.Store | ast.Del) and of_module:
                yield _fact(node.lineno, "patching", ast.unparse(node))
        case ast.Subscript(ctx=ast.Store()) if _root(node) in modules:
            yield _fact(node.lineno, "patching", ast.unparse(node))
        case ast.Call(func=ast.Attribute(attr="view"), args=[ast.Attribute() | ast.Constant(value=str()), *_]):
            yield _fact(node.lineno, "packing", "view")
        case ast.While(test=test) if isinstance(test, ast.Constant) and test.value:
            if not any(isinstance(part, ast.Break | ast.Return) for part in ast.walk(node)):
                yield _fact(node.lineno, "loop", "")
        case ast.Raise(exc=ast.Call(args=args)) if any(not isinstance(arg, ast.Constant) for arg in args):
            yield _fact(node.lineno, "message", "")
        case ast.Constant(value=str() | bytes() as text) if len(text) > _LONG:
            yield _fact(node.lineno, "payload", f"{len(text)} characters")
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts) if len(parts) > _LONG:
            yield _fact(node.lineno, "payload", f"{len(parts)} values")
        case ast.ClassDef(keywords=[_, *_]):
            yield _fact(node.lineno, "class", f"keywords of class {node.name}")
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if _dunder(name) and name not in (
            "__init__", "__len__", "__call__"
        ):  # fmt: skip
            yield _fact(node.lineno, "class", name)
        case _:
            pass
    for decorator in getattr(node, "decorator_list", []):
        inner = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = inner.attr if isinstance(inner, ast.Attribute) else getattr(inner, "id", "?")
        if name not in _PLAIN_DECORATORS:
            yield _fact(decorator.lineno, "class", f"@{name}")


def _reached(name: str, of_module: bool) -> str:
    """What an attribute leads to when it bears the name of a module that is not usual; empty otherwise.

    Args:
        of_module: whether the chain begins with a module: torch.os is Python's own os.
    """
    what = _MODULES.get(name, "")
    if not of_module:
        return "" if what == "usual" or name in _COLUMNS | _NO_MODULES else what
    if name in _NO_MODULES or what == "usual" or _dunder(name):
        return ""
    return what or ("system" if name in sys.stdlib_module_names or name.startswith("_") else "")


def _import(line: int, name: str) -> Fact:
    first, *rest = name.split(".")
    what = next(filter(None, (_reached(part, True) for part in rest)), "") or _MODULES.get(first, "import")
    if what in ("usual", "import"):
        return _fact(line, "import", name, GREEN if what == "usual" else AMBER)
    return _fact(line, what, f"import {name}")


def _of_top(tree: ast.Module) -> Iterator[Fact]:
    """What runs as the text is loaded: anything at the top but imports, definitions and plain constants."""
    for node in tree.body:
        plain = isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
        comment = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if (
            not plain
            and not comment
            and not isinstance(
                node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            )
        ):
            yield _fact(node.lineno, "loaded", ast.unparse(node).partition("\n")[0][:60])


def _of_handed_on(tree: ast.Module) -> Iterator[Fact]:
    """A whole module as a value, as in `m = torch`: what is taken from it later is not seen as a module's."""
    names = _imported(tree, ast.Import)
    within = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Load)
            and node.id in names
            and id(node) not in within
        ):
            yield _fact(node.lineno, "dynamic", f"the module {node.id} as a value")


def _module_names(tree: ast.Module) -> set[str]:
    """Names that stand for modules or for what was taken from them."""
    names = _imported(tree, ast.Import, ast.ImportFrom)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and _root(node.value) in names:
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _imported(tree: ast.Module, *kinds: type[ast.Import | ast.ImportFrom]) -> set[str]:
    """Names bound by imports of these kinds; np and torch are there without one."""
    names = {"np", "torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and isinstance(node, kinds):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return names


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_super(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def _dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
