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
changed file. Hypothesis draws the same few examples each time and does not shrink. A test fails if
it takes ten seconds of processor time: some mutants never end.
"""

from __future__ import annotations

import argparse
import ast
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

os.environ |= {"OMP_NUM_THREADS": "1", "CI": "1"}

import matplotlib
import pytest
import torch
from hypothesis import Phase, settings

for name in ("networkx", "scipy.stats", "matplotlib.pyplot", "torch._dynamo"):
    import_module(name)  # so that forks need not

ROOT = Path(__file__).resolve().parent.parent
LAWS = "tests/test_laws_queries.py"
NUMBERS = "tests/test_hand_numbers.py"
NO_MASS = "tests/test_learn.py::test_an_impossible_row_is_named_and_nothing_changes"
ENGINE = ["tests/test_laws_engine.py", "tests/test_laws_learning.py"]
TESTS = {
    "pcflow_diffusion/coupling.py": [
        "pcflow_diffusion/coupling.py",
        "tests/diffusion/test_head.py",
    ],
    "pcflow/queries.py": ["tests/test_compiled.py", LAWS, NUMBERS, NO_MASS, ENGINE[0]],
    "pcflow/passes.py": ["tests/test_compiled.py", LAWS, NUMBERS, *ENGINE],
    "pcflow/properties.py": ["tests/test_properties.py", "tests/test_laws_structure.py"],
    "pcflow/supports.py": ["tests/test_properties.py"],
    "pcflow/pairing.py": ["tests/test_laws_structure.py", "tests/test_transform.py"],
}  # what pytest is asked to run
SLOW = [
    f"{LAWS}::test_projection_reaches_any_marginals_that_potentials_can_make",
    f"{NUMBERS}::test_log_space_rows_have_right_gradients_marginals_and_draws",
]  # and of that, not these
OPTIONS = ["-xs", "--assert=plain", "-pno:terminal", "-pno:cacheprovider"]
OPTIONS += ["--hypothesis-profile=mutants", *(f"--deselect={test}" for test in SLOW)]
SECONDS = 10  # of processor time that one test may take; the slowest takes three

SWAPS = """
Lt LtE GtE, LtE Lt Gt, Gt GtE LtE, GtE Gt Lt, Eq NotEq, NotEq Eq, Is IsNot, IsNot Is, In NotIn,
NotIn In, And Or, Or And, Add Sub, Sub Add, Mult Div, Div Mult, FloorDiv Mult, Mod FloorDiv,
Pow Mult, MatMult Mult, LShift RShift, RShift LShift, BitAnd BitOr, BitOr BitAnd
"""  # an operator, and those that stand in for it
OPERATORS = [[getattr(ast, name) for name in names.split()] for names in SWAPS.split(",")]
OTHERS = {operator: others for operator, *others in OPERATORS}
SYMMETRIC = {"isinstance", "min", "max", "minimum", "maximum"}  # no use in swapping arguments
UNUSED = {"annotation", "returns", "decorator_list", "bases"}  # while the program runs

Site = tuple[ast.expr | ast.stmt, Callable[[ast.AST], None], list[ast.AST]]
Mutant = tuple[int, str, CodeType]  # the line, what was changed, and the whole file


def mutants(path: str) -> Iterator[Mutant]:
    """Every mutant of a file, from top to bottom."""
    tree = ast.parse((ROOT / path).read_text())
    for node, put, others in sites(tree):
        for other in others:
            before, after = ast.unparse(node), ast.unparse(other)
            if before != after:
                put(ast.fix_missing_locations(ast.copy_location(other, node)))
                change = f"left out: `{before}`" if after == "pass" else f"`{before}` -> `{after}`"
                yield node.lineno, change, compile(tree, ROOT / path, "exec")
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
                yield operand
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
        case ast.Return(value=ast.expr()):
            yield but(node, value=None)
        case (
            ast.Assign() | ast.AnnAssign() | ast.Expr() | ast.Raise() | ast.Break() | ast.Continue()
        ):
            yield ast.Pass()


class Forks:
    """A pytest plugin: once pytest is ready, it goes on in a fork for every mutant of a file."""

    def __init__(self, path: str, given: list[Mutant], jobs: int) -> None:
        """No mutant has survived yet."""
        self.path, self.given, self.jobs = path, given, jobs
        self.report, self.write_report = os.pipe()
        self.durations: dict[str, float] = {}
        self.running: dict[int, str] = {}
        self.survivors: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """In a fork this returns, and pytest collects and runs tests, which import the change."""
        code = compile((ROOT / self.path).read_text(), ROOT / self.path, "exec")
        if not (pid := self.fork(code)):
            return
        if os.waitpid(pid, 0)[1] != 0:
            pytest.exit(f"{self.path}: its tests fail before anything is changed", 1)
        for line in os.read(self.report, 1 << 16).decode().splitlines():
            name, duration = line.split("\t")
            self.durations[name] = float(duration)
        for number, change, code in self.given:
            if len(self.running) == self.jobs:
                self.wait()
            if not (pid := self.fork(code)):
                return
            self.running[pid] = f"{self.path}:{number}: {change}"
        while self.running:
            self.wait()
        pytest.exit("all forks have ended", 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Before anything is changed: tell the parent how long each test takes."""
        if report.when == "call" and not self.durations:
            os.write(self.write_report, f"{report.nodeid}\t{report.duration}\n".encode())

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """The quickest test first."""
        items.sort(key=lambda item: self.durations.get(item.nodeid, 0.0))

    def pytest_runtest_logstart(self) -> None:
        """Give the next test its time; who takes longer is ended by the timer."""
        signal.setitimer(signal.ITIMER_PROF, SECONDS)

    def fork(self, code: CodeType) -> int:
        """A process for which the file has this code; 0 within it."""
        if pid := os.fork():
            return pid
        self.pytest_runtest_logstart()  # imports, too
        resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))  # some lists grow for ever
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        changed, load = self.path[:-3].replace("/", "."), SourceFileLoader.get_code
        SourceFileLoader.get_code = lambda it, name: code if name == changed else load(it, name)
        return 0

    def wait(self) -> None:
        """Until the tests of one mutant end."""
        pid, status = os.wait()
        change = self.running.pop(pid)
        if status == 0:
            self.survivors.append(change)
            print("survived:", change, file=sys.stderr)


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
    assert "pcflow" not in sys.modules
    settings.register_profile(
        "mutants", deadline=None, derandomize=True, max_examples=10, phases=phases
    )
    print("| file | mutants | killed | share |\n|---|---|---|---|", flush=True)
    left: list[str] = []
    for path in asked.files:
        given = [one for one in mutants(path) if asked.only is None or one[0] in asked.only]
        forks, parent = Forks(path, given, asked.jobs), os.getpid()
        status = pytest.main([*OPTIONS, *TESTS[path]], [forks])
        if os.getpid() != parent or status != 0:
            os._exit(status)
        killed = len(given) - len(forks.survivors)
        print(f"| `{path}` | {len(given)} | {killed} | {killed / len(given):.1%} |", flush=True)
        left += forks.survivors
    print("\nSurvivors:\n", *left, sep="\n- ")


if __name__ == "__main__":
    main()
