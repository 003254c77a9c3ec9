"""A Python file with one thing changed, in every way that tests should notice.

Another comparison or operator, `and` for `or`, a number one higher or lower, a flipped flag, a list
emptied, the first two arguments swapped, a condition that always or never holds, a statement left
out, nothing returned. Left alone is what cannot matter: annotations, fields that are but declared,
what a protocol says without doing it, strings, assertions (they tell mypy the types), `strict=` of
zip, aliases of types. Numbers that have a name of their own at the top of a file are, too.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import CodeType

SWAPS = """
Lt LtE GtE, LtE Lt Gt, Gt GtE LtE, GtE Gt Lt, Eq NotEq, NotEq Eq, Is IsNot, IsNot Is, In NotIn,
NotIn In, And Or, Or And, Add Sub, Sub Add, Mult Div, Div Mult, FloorDiv Mult, Mod FloorDiv,
Pow Mult, MatMult Mult, LShift RShift, RShift LShift, BitAnd BitOr, BitOr BitAnd
"""  # an operator, and those that stand in for it
OPERATORS = [[getattr(ast, name) for name in names.split()] for names in SWAPS.split(",")]
OTHERS = {operator: others for operator, *others in OPERATORS}
SYMMETRIC = {"isinstance", "min", "max", "minimum", "maximum", "logaddexp"}  # in their arguments
UNUSED = {"annotation", "returns", "decorator_list", "bases"}  # while the program runs

Site = tuple[ast.expr | ast.stmt, Callable[[ast.AST], None], list[ast.AST]]
Mutant = tuple[int, str, CodeType]  # the line, what was changed, and the whole file


def mutants(path: Path) -> Iterator[Mutant]:
    """Every mutant of a file, from top to bottom."""
    tree = ast.parse(path.read_text())
    for node, put, others in sites(tree):
        for other in others:
            before, after = ast.unparse(node), ast.unparse(other)
            if before != after:
                put(ast.fix_missing_locations(ast.copy_location(other, node)))
                change = f"left out: `{before}`" if after == "pass" else f"`{before}` -> `{after}`"
                with suppress(SyntaxError):  # what leaves a name unbound is no program
                    yield node.lineno, change, compile(tree, path, "exec")
                put(node)


def sites(node: ast.AST) -> Iterator[Site]:
    """Pieces of code, a way to put something in their place, and what to put there."""
    for name, value in ast.iter_fields(node):
        for place, child in enumerate(value if isinstance(value, list) else [value]):
            if name in UNUSED or not isinstance(child, ast.AST) or is_idle(node, child):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                listed = isinstance(value, list)
                put = partial(value.__setitem__, place) if listed else partial(setattr, node, name)
                yield child, put, [*forced(node, name), *alternatives(child)]
            yield from sites(child)


def is_idle(parent: ast.AST, node: ast.AST) -> bool:
    """Whether what happens does not depend on this piece of code, or should not."""
    match node:
        case ast.JoinedStr() | ast.Assert() | ast.Expr(value=ast.Constant()):
            return True
        case ast.AnnAssign(value=None) | ast.keyword(arg="strict"):
            return True
        case ast.AnnAssign(value=ast.Call(func=ast.Name(id="field"), keywords=[one])):
            return one.arg == "init"
        case ast.FunctionDef(body=[*_, ast.Expr(value=ast.Constant(value=last))]):
            return last is ...
    return isinstance(parent, ast.Module) and not isinstance(node, ast.ClassDef | ast.FunctionDef)


def forced(parent: ast.AST, name: str) -> list[ast.AST]:
    """What to put in the place of a condition."""
    if name not in ("test", "ifs"):
        return []
    never, always = ast.Constant(value=False), ast.Constant(value=True)
    return [never] if isinstance(parent, ast.While) else [always, never]


def but(node: ast.AST, **changed: object) -> ast.AST:
    """The same, but for these fields."""
    return type(node)(**vars(node) | changed)


def alternatives(node: ast.AST) -> Iterator[ast.AST]:
    """What to put in the place of an expression or a statement."""
    match node:
        case ast.Compare(ops=[op]):
            yield from (but(node, ops=[other()]) for other in OTHERS[type(op)])
        case ast.BoolOp(op=op) | ast.BinOp(op=op):
            yield from (but(node, op=other()) for other in OTHERS[type(op)])
        case ast.AugAssign(op=op):
            yield from (*(but(node, op=other()) for other in OTHERS[type(op)]), ast.Pass())
        case ast.UnaryOp(op=op, operand=operand):  # -1 -> 1 is one, but `dim=-1` is often `dim=1`
            if not (isinstance(op, ast.USub) and isinstance(operand, ast.Constant)):
                yield but(operand)  # a copy, as it is put elsewhere
        case ast.Constant(value=bool(value)):
            yield but(node, value=not value)
        case ast.Constant(value=int(value) | float(value)):
            yield from (but(node, value=value + 1), but(node, value=value - 1))
        case ast.List(elts=[_, *_], ctx=ast.Load()):
            yield but(node, elts=[])
        case ast.Dict(keys=[_, *_]):
            yield but(node, keys=[], values=[])
        case ast.Call(func=func, args=[first, ast.expr() as second, *rest]):
            if ast.unparse(func).rpartition(".")[2] not in SYMMETRIC:
                yield but(node, args=[second, first, *rest])
        case ast.Return(value=ast.expr()) if ast.unparse(node) != "return None":
            yield but(node, value=None)
        case (
            ast.Assign() | ast.AnnAssign() | ast.Expr() | ast.Raise() | ast.Break() | ast.Continue()
        ):
            yield ast.Pass()
