"""Where own code may return values of single rows or users: a walk over assignments, not a proof."""

from __future__ import annotations

import ast
from collections.abc import Iterator

_RAW = {"user", "item", "rating", "time", "data", "indices", "indptr"}  # columns of the rows, insides of the matrix
# Calls whose result has a value per row or user when an argument has.
_KEEPS = """array asarray astype copy reshape resize pad concatenate stack hstack vstack tensor as_tensor from_numpy
float int double flatten ravel ndarray squeeze unsqueeze repeat tile take where clip minimum maximum tolist list tuple
sorted sort detach numpy toarray todense tocsr matrix dict fromiter zeros_like full_like roll flip view round cumsum nonzero
unique broadcast_to float32 float64 rint exp log sqrt abs frombuffer tobytes encode getattr"""
_MAKES = "zeros ones empty full zeros_like ones_like rand randn random normal"


def per_user_lines(tree: ast.Module) -> list[tuple[int, str]]:
    """Lines of `fit_site` whose contribution holds per-row or per-user values, with the name of the array."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "fit_site" and len(node.args.args) >= 4:
            rows, _, private = (arg.arg for arg in node.args.args[1:4])
            found += _Walk(rows, private).run(node)
    return sorted(set(found))


class _Walk:
    """Which names hold a value for each row or user, by assignment; run until nothing changes."""

    def __init__(self, rows: str, private: str) -> None:
        self._rows, self._private = rows, private
        self._single: set[str] = {private}

    def run(self, function: ast.FunctionDef) -> Iterator[tuple[int, str]]:
        before = -1
        while before != len(self._single):
            before = len(self._single)
            for node in ast.walk(function):
                self._assign(node)
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and node.value.elts:
                yield from self._returned(node.value.elts[0], node.lineno)

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
            case ast.Call(func=ast.Attribute(attr="append" | "extend" | "update" | "copy_", value=owner), args=args):
                if any(self._is_single(arg) for arg in args):
                    self._mark(owner)
            case _:
                pass

    def _mark(self, target: ast.AST) -> None:
        while isinstance(target, ast.Subscript | ast.Attribute | ast.Starred):
            target = target.value
        if isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                self._mark(part)
        elif isinstance(target, ast.Name):
            self._single.add(target.id)

    def _is_single(self, node: ast.AST | None) -> bool:
        match node:
            case ast.Name(id=name):
                return name in self._single
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name == self._rows:
                return attr in _RAW
            case ast.Attribute(attr="shape" | "dtype" | "size" | "ndim"):
                return False
            case ast.Attribute(value=ast.Call(func=ast.Attribute(attr="matrix")), attr=attr):
                return attr in _RAW
            case ast.Attribute(value=value) | ast.Starred(value=value) | ast.UnaryOp(operand=value):
                return self._is_single(value)
            case ast.Subscript(value=value, slice=index):
                return self._is_single(value) or (not isinstance(index, ast.Slice) and self._is_single(index))
            case ast.BinOp(left=left, right=right, op=op):
                return not isinstance(op, ast.MatMult) and (self._is_single(left) or self._is_single(right))
            case ast.IfExp(body=body, orelse=other):
                return self._is_single(body) or self._is_single(other)
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                return any(self._is_single(part) for part in parts)
            case ast.Dict(values=parts):
                return any(self._is_single(part) for part in parts)
            case ast.ListComp(generators=loops) | ast.GeneratorExp(generators=loops) | ast.SetComp(generators=loops):
                return any(self._is_single(loop.iter) for loop in loops)
            case ast.Call():
                return self._call(node)
        return False

    def _call(self, node: ast.Call) -> bool:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        given = [*node.args, *(word.value for word in node.keywords)]
        if isinstance(function, ast.Attribute) and _is_name(function.value, self._private):
            return True
        if isinstance(function, ast.Attribute) and _is_name(function.value, self._rows):
            return name in ("matrix", "take")
        if name in _MAKES.split() and any(_sized_by_users(part, self._rows) for part in given):
            return True
        if name not in _KEEPS.split():
            return False
        return any(self._is_single(part) for part in given) or (
            isinstance(function, ast.Attribute) and self._is_single(function.value)
        )

    def _returned(self, node: ast.AST, line: int) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if self._is_single(value):
                    yield value.lineno, str(key.value) if isinstance(key, ast.Constant) else ast.unparse(value)[:40]
        elif self._is_single(node):
            yield line, ast.unparse(node)[:40]


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _sized_by_users(node: ast.AST, rows: str) -> bool:
    """Whether a size is the number of users or of rows."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and part.attr == "n_users":
            return True
        if isinstance(part, ast.Call) and _is_name(part.func, "len") and part.args and _is_name(part.args[0], rows):
            return True
    return False
