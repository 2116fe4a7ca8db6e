"""Where own code may return values of single rows or users: a walk over assignments, not a proof.

What a call makes of such values is taken for such values again, unless the call is known to sum over them.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

_RAW = {"user", "item", "rating", "time", "data", "indices", "indptr"}  # columns of the rows, insides of the matrix
_SIZES = {"shape", "dtype", "size", "ndim", "n_users", "n_items", "nnz", "grad", "device"}
# Calls that make few numbers of many rows; along another axis than the first they do not.
_REDUCES = set(
    "sum nansum mean nanmean average std var max min amax amin any all prod norm count_nonzero logsumexp".split()
)
# Calls that do so whatever else they are given.
_SUMS = set(
    "matmul mm mv dot vdot inner tensordot grad bincount histogram len isinstance type print cross_entropy nll_loss"
    " mse_loss l1_loss binary_cross_entropy binary_cross_entropy_with_logits backward".split()
)
_SCATTERS = {"at", "index_add", "index_add_", "scatter_add", "scatter_add_"}  # sums where the index is per row
_CHANGES = {"copyto", "put", "place", "putmask", "put_along_axis", "copy_", "index_copy_", "scatter_", "index_put_"}
_MAKES = set("zeros ones empty full zeros_like ones_like rand randn random normal Embedding".split())


def per_user_lines(tree: ast.Module) -> list[tuple[int, str]]:
    """Lines of `fit_site` whose contribution holds per-row or per-user values, with the name of the array."""
    found: list[tuple[int, str]] = []
    for function, rows, private in _fits(tree):
        found += _Walk(rows, private).run(function)
    return sorted(set(found))


def handed_lines(tree: ast.Module) -> list[tuple[int, str]]:
    """Lines of `fit_site` that give the whole `rows` or `private` to a function of the text, with its name."""
    found = set()
    for function, rows, private in _fits(tree):
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and _of_its_own(node.func):
                whole = [part for part in _given(node) if _is_name(part, rows) or _is_name(part, private)]
                found |= {(node.lineno, ast.unparse(node.func)[:40]) for _ in whole}
    return sorted(found)


def _fits(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "fit_site" and len(node.args.args) >= 4:
            rows, _, private = (arg.arg for arg in node.args.args[1:4])
            yield node, rows, private


class _Walk:
    """Which names hold a value for each row or user, by assignment; run until nothing changes."""

    def __init__(self, rows: str, private: str) -> None:
        self._rows, self._private = rows, private
        self._single: set[str] = {rows, private}

    def run(self, function: ast.FunctionDef) -> Iterator[tuple[int, str]]:
        before = -1
        while before != len(self._single):
            before = len(self._single)
            for node in ast.walk(function):
                self._assign(node)
        for node in _returns(function):
            value = node.value.elts[0] if isinstance(node.value, ast.Tuple) and node.value.elts else node.value
            yield from self._returned(value, node.lineno)

    def _assign(self, node: ast.AST) -> None:
        match node:
            case ast.Assign(targets=targets, value=value) if self._is_single(value):
                for target in targets:
                    self._mark(target)
            case ast.AnnAssign(target=target, value=ast.expr() as value) if self._is_single(value):
                self._mark(target)
            case ast.NamedExpr(target=target, value=value) if self._is_single(value):
                self._mark(target)
            case ast.AugAssign(target=ast.Name() as target, value=value) if self._is_single(value):
                self._mark(target)
            case ast.AugAssign(target=ast.Subscript(slice=ast.Slice() | ast.Constant()) as target, value=value) if (
                self._is_single(value)
            ):
                self._mark(target)
            case ast.For(target=target, iter=source) if self._is_single(source):
                self._mark(target)
            case ast.FunctionDef(name=name) if name != "fit_site" and any(map(self._is_single, _values(node))):
                self._single.add(name)
            case ast.Call():
                self._changed(node)
            case _:
                pass

    def _changed(self, node: ast.Call) -> None:
        """Mark what a call writes such values into: `out=`, its first argument, or the object that it belongs to."""
        name, given = _name(node), [part for part in _given(node) if self._is_single(part)]
        if not given or (name in _SCATTERS and self._scatters(node)):
            return
        for word in node.keywords:
            if word.arg == "out":
                self._mark(word.value)
        if name in _CHANGES or name == "at":
            self._mark(node.args[0] if node.args else node)
        if name in _CHANGES | _SCATTERS | {"append", "extend", "update", "add", "insert", "put", "fill", "setdefault"}:
            self._mark(node.func.value if isinstance(node.func, ast.Attribute) else node)

    def _mark(self, target: ast.AST) -> None:
        while isinstance(target, ast.Subscript | ast.Attribute | ast.Starred):
            target = target.value
        if isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                self._mark(part)
        elif isinstance(target, ast.Name) and target.id not in ("np", "torch"):
            self._single.add(target.id)

    def _is_single(self, node: ast.AST | None) -> bool:
        match node:
            case ast.Name(id=name):
                return name in self._single
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name == self._rows:
                return attr in _RAW
            case ast.Attribute(attr=attr) if attr in _SIZES:
                return False
            case ast.Attribute(value=value) | ast.Starred(value=value) | ast.UnaryOp(operand=value):
                return self._is_single(value)
            case ast.Subscript(value=value, slice=index):
                return self._is_single(value) or (not isinstance(index, ast.Slice) and self._is_single(index))
            case ast.BinOp(left=left, right=right, op=op):
                return not isinstance(op, ast.MatMult) and (self._is_single(left) or self._is_single(right))
            case ast.IfExp(body=body, orelse=other):
                return self._is_single(body) or self._is_single(other)
            case ast.Compare(left=left, comparators=rest):
                return any(map(self._is_single, [left, *rest]))
            case ast.BoolOp(values=parts):
                return any(map(self._is_single, parts))
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                return any(map(self._is_single, parts))
            case ast.Dict(keys=keys, values=parts):
                return any(map(self._is_single, [*keys, *parts]))
            case ast.ListComp(generators=loops) | ast.GeneratorExp(generators=loops) | ast.SetComp(generators=loops):
                return any(self._is_single(loop.iter) for loop in loops)
            case ast.DictComp(generators=loops):
                return any(self._is_single(loop.iter) for loop in loops)
            case ast.Lambda(body=body):
                return self._is_single(body)
            case ast.Call():
                return self._call(node)
        return False

    def _call(self, node: ast.Call) -> bool:
        function, name, given = node.func, _name(node), _given(node)
        owner = function.value if isinstance(function, ast.Attribute) else None
        if owner is not None and _is_name(owner, self._private):
            return True
        if owner is not None and _is_name(owner, self._rows):
            return name in ("matrix", "take")
        if name in _MAKES and any(_sized_by_users(part, self._rows) for part in given):
            return True
        if name == "bincount":
            return any(map(_is_users, given))
        if name in _SCATTERS:
            return not self._scatters(node) and any(map(self._is_single, given))
        if name in _SUMS or (name in _REDUCES and _over_rows(node)):
            return False
        return any(map(self._is_single, [*given, function if owner is None else owner]))

    def _scatters(self, node: ast.Call) -> bool:
        """Whether values are added up where an index per row says; in places of their own they would stay single."""
        return len(node.args) > 1 and self._is_single(node.args[1])

    def _returned(self, node: ast.AST | None, line: int) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if self._is_single(value):
                    yield value.lineno, str(key.value) if isinstance(key, ast.Constant) else ast.unparse(value)[:40]
        elif node is not None and self._is_single(node):
            yield line, ast.unparse(node)[:40]


def _returns(function: ast.FunctionDef) -> Iterator[ast.Return]:
    """Its own return statements, without those of functions inside it."""
    rest: list[ast.AST] = list(function.body)
    while rest:
        node = rest.pop()
        if isinstance(node, ast.Return):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            rest += ast.iter_child_nodes(node)


def _values(function: ast.FunctionDef) -> list[ast.expr | None]:
    return [node.value for node in _returns(function)]


def _name(node: ast.Call) -> str:
    """The last part of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _given(node: ast.Call) -> list[ast.expr]:
    return [*node.args, *(word.value for word in node.keywords)]


def _of_its_own(function: ast.expr) -> bool:
    """Whether a function may stand in the text: a name that is not Python's, a lambda, a method of self."""
    if isinstance(function, ast.Name):
        return not hasattr(builtins, function.id)
    return not isinstance(function, ast.Attribute) or _is_name(function.value, "self")


def _over_rows(node: ast.Call) -> bool:
    """Whether a reduction goes over the first axis or over all: the rows are the first."""
    of_module = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
    of_module = of_module and node.func.value.id in ("np", "torch", "numpy")  # type: ignore[attr-defined]
    axes = [word.value for word in node.keywords if word.arg in ("axis", "dim")] + node.args[1 if of_module else 0 :][
        :1
    ]
    if isinstance(node.func, ast.Name) or not axes:  # Python's own sum, max
        return True
    return isinstance(axes[0], ast.Constant) and axes[0].value in (0, None)


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_users(node: ast.AST) -> bool:
    """Whether something is the rows' users, or their number."""
    return any(isinstance(part, ast.Attribute) and part.attr in ("user", "n_users") for part in ast.walk(node))


def _sized_by_users(node: ast.AST, rows: str) -> bool:
    """Whether a size is the number of users or of rows."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and part.attr == "n_users":
            return True
        if isinstance(part, ast.Call) and _is_name(part.func, "len") and part.args and _is_name(part.args[0], rows):
            return True
    return False
