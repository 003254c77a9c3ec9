"""Mutation testing: break one thing at a time, and see whether the tests notice.

    pip install -c constraints.txt -e '.[test]'
    python benchmarks/mutants.py                        # every file of TESTS
    python benchmarks/mutants.py pcflow/passes.py --only 42 43

A mutant is a file with one change: another comparison or operator, `and` for `or`, a number one
higher or lower, a flipped flag, a list emptied, the first two arguments swapped, a condition that
always or never holds, a statement left out, nothing returned. Left alone is what cannot matter:
annotations, strings, assertions (they tell mypy the types), `strict=` of zip. The tests of the file
run on each of its mutants until one fails; if none does, the mutant survives.

One process imports torch and pytest; each mutant is a fork of it that imports pcflow with the
changed file. Hypothesis draws the same few examples each time and does not shrink. Who takes three
times the processor time of the unchanged file is killed, too.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "CI": "1"}

import hypothesis.strategies  # noqa: F401  # all that tests import, so that forks need not
import matplotlib.pyplot
import networkx  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import torch._dynamo
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parent.parent
LAWS = "tests/test_laws_queries.py"
SLOW = f"--deselect={LAWS}::test_projection_reaches_any_marginals_that_potentials_can_make"
ENGINE, LEARNING = "tests/test_laws_engine.py", "tests/test_laws_learning.py"
TESTS = {
    "pcflow_diffusion/coupling.py": [
        "pcflow_diffusion/coupling.py",
        "tests/diffusion/test_head.py",
    ],
    "pcflow/queries.py": ["tests/test_compiled.py", LAWS, SLOW],
    "pcflow/passes.py": ["tests/test_compiled.py", LAWS, SLOW, ENGINE, LEARNING],
    "pcflow/properties.py": ["pcflow/properties.py", "tests/test_properties.py"],
    "pcflow/supports.py": ["tests/test_properties.py"],
    "pcflow/pairing.py": ["tests/test_properties.py", "tests/test_transform.py"],
}  # what pytest is asked to run, the quickest to fail first

SWAPS = """
Lt LtE GtE, LtE Lt Gt, Gt GtE LtE, GtE Gt Lt, Eq NotEq, NotEq Eq, Is IsNot, IsNot Is, In NotIn,
NotIn In, And Or, Or And, Add Sub, Sub Add, Mult Div, Div Mult, FloorDiv Mult, Mod FloorDiv,
Pow Mult, MatMult Mult, LShift RShift, RShift LShift, BitAnd BitOr, BitOr BitAnd
"""  # an operator, and those that stand in for it
OPERATORS = [[getattr(ast, name) for name in names.split()] for names in SWAPS.split(",")]
OTHERS = {operator: others for operator, *others in OPERATORS}
SYMMETRIC = {"isinstance", "min", "max", "minimum", "maximum"}  # no use in swapping arguments
UNUSED = {"annotation", "returns", "decorator_list", "bases"}  # while the program runs

Put = Callable[[ast.AST], None]


class Mutant(NamedTuple):
    """A file with one change: where, what was changed, and all of it compiled."""

    line: int
    change: str
    code: CodeType


def mutants(path: str) -> Iterator[Mutant]:
    """Every mutant of a file, from top to bottom."""
    tree = ast.parse((ROOT / path).read_text())
    for node, put, others in sites(tree):
        for other in others:
            before, after = ast.unparse(node), ast.unparse(other)
            if before != after:
                put(ast.fix_missing_locations(ast.copy_location(other, node)))
                change = f"left out: `{before}`" if after == "pass" else f"`{before}` -> `{after}`"
                yield Mutant(node.lineno, change, compile(tree, ROOT / path, "exec"))
                put(node)


def sites(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, Put, list[ast.AST]]]:
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
    if isinstance(parent, ast.Module) and not isinstance(node, ast.ClassDef | ast.FunctionDef):
        return True  # imports, aliases of types
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return True
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(node, ast.JoinedStr | ast.Assert)


def forced(parent: ast.AST, name: str) -> list[ast.AST]:
    """What to put in the place of a condition."""
    always = isinstance(parent, ast.If | ast.IfExp | ast.comprehension)  # but not in `while`
    held = [ast.Constant(True), ast.Constant(False)] if always else [ast.Constant(False)]
    return [*held] if name in ("test", "ifs") else []


def alternatives(node: ast.expr | ast.stmt) -> Iterator[ast.AST]:
    """What to put in the place of an expression or a statement."""
    match node:
        case ast.Compare(left, [op], right):
            yield from (ast.Compare(left, [other()], right) for other in OTHERS[type(op)])
        case ast.BoolOp(op, values):
            yield from (ast.BoolOp(other(), values) for other in OTHERS[type(op)])
        case ast.BinOp(left, op, right):
            yield from (ast.BinOp(left, other(), right) for other in OTHERS[type(op)])
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.List([_, *_], ast.Load()):
            yield ast.List([], ast.Load())
        case ast.Dict([_, *_]):
            yield ast.Dict([], [])
        case ast.Call(func, [first, second, *rest], keywords):
            name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
            if not isinstance(second, ast.Starred) and name not in SYMMETRIC:
                yield ast.Call(func, [second, first, *rest], keywords)
        case ast.Return(ast.expr()):
            yield ast.Return(None)
        case ast.AnnAssign(value=None) | ast.Pass():
            return
        case ast.AugAssign(target, op, value):
            yield from (ast.AugAssign(target, other(), value) for other in OTHERS[type(op)])
            yield ast.Pass()
        case ast.Assign() | ast.AnnAssign() | ast.Expr() | ast.Raise() | ast.Return():
            yield ast.Pass()
        case ast.Break() | ast.Continue():
            yield ast.Pass()


class Changed(SourceFileLoader):
    """Finds and loads one module, with other code than its file has."""

    def __init__(self, path: str, code: CodeType) -> None:
        """The file, and the code to run in its place."""
        super().__init__(path.removesuffix(".py").replace("/", "."), str(ROOT / path))
        self.code = code

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """As `sys.meta_path` asks."""
        ours = name == self.name
        return (
            importlib.util.spec_from_file_location(name, self.path, loader=self) if ours else None
        )

    def get_code(self, fullname: str) -> CodeType:
        """The other code."""
        return self.code


def start(path: str, code: CodeType, seconds: int) -> int:
    """Run the tests of a file on other code, in a process of its own, for so long at most."""
    if pid := os.fork():
        return pid
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))  # some lists grow for ever
    signal.alarm(20 * seconds)  # and some processes wait for ever
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sys.meta_path.insert(0, Changed(path, code))  # type: ignore[arg-type]
    options = ["-x", "--assert=plain", "--tb=no", "-p", "no:cacheprovider"]
    os._exit(pytest.main([*options, "--hypothesis-profile=mutants", *TESTS[path]]))


def survivors(path: str, given: list[Mutant], seconds: int, jobs: int) -> list[Mutant]:
    """The mutants on which every test passes."""
    running: dict[int, Mutant] = {}
    found: list[Mutant] = []
    for mutant in [*given, *[None] * jobs]:
        if len(running) == jobs or (running and mutant is None):
            pid, status = os.wait()
            done = running.pop(pid)
            if status == 0:
                found.append(done)
                print(f"survived: {path}:{done.line}: {done.change}", file=sys.stderr)
        if mutant is not None:
            running[start(path, mutant.code, seconds)] = mutant
    return sorted(found, key=lambda mutant: mutant.line)


def limit(path: str) -> int:
    """The seconds of processor time that a mutant of a file is given."""
    code = compile((ROOT / path).read_text(), ROOT / path, "exec")
    _, status, used = os.wait4(start(path, code, 3600), 0)
    if status != 0:
        raise SystemExit(f"{path}: its tests fail before anything is changed")
    return 10 + int(3 * used.ru_utime + used.ru_stime)


def main() -> None:
    """Count, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", default=list(TESTS), help="of those in TESTS")
    parser.add_argument("--only", nargs="+", type=int, metavar="LINE", help="just these lines")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (%(default)s)")
    asked = parser.parse_args()
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    torch.set_num_threads(1)
    matplotlib.use("Agg")
    phases = [Phase.explicit, Phase.generate]
    settings.register_profile(
        "mutants", deadline=None, derandomize=True, max_examples=15, phases=phases
    )
    print("| file | mutants | killed | share |\n|---|---|---|---|", flush=True)
    lines: list[str] = []
    for path in asked.files:
        given = [one for one in mutants(path) if asked.only is None or one.line in asked.only]
        left = survivors(path, given, limit(path), asked.jobs)
        killed = len(given) - len(left)
        share = f"{killed / max(1, len(given)):.1%}"
        print(f"| `{path}` | {len(given)} | {killed} | {share} |", flush=True)
        lines += [f"- {path}:{one.line}: {one.change}" for one in left]
    print("\nSurvivors:\n", *lines, sep="\n")


if __name__ == "__main__":
    main()
