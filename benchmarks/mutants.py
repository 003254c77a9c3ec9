"""Mutation testing: break one thing at a time, and see whether the tests notice.

    pip install -c constraints.txt -e '.[test]'
    python benchmarks/mutants.py                        # 15 mutants of every file of the heart
    python benchmarks/mutants.py pcflow/engine/passes.py --sample 40
    python benchmarks/mutants.py pcflow/engine/rows.py --only 42 43 --tests tests/test_memory.py
    python benchmarks/mutants.py --sample 2 --seed 7 --watched watched.jsonl

Every mutant is a file with one change (see changes.py). First the tests run as they are, watched:
which functions each of them enters, and how long it takes. Then each mutant is a fork of the
process that has collected them. There the functions that exist are given their changed code, and
the tests that enter them run, file by file in turns and of each those first that enter least
besides, until one fails. If none does of those that take twenty seconds together (`--seconds`), the
mutant survives. Files take turns, so that a count that is stopped (`--minutes`) is one of them all.
Printed are a Markdown table and the survivors. What was watched may be kept (`--watched`): then
only tests that are new are watched. It is no longer true once code moves, or a test fails.

Hypothesis draws the same ten examples each time and does not shrink. A test fails if it takes ten
seconds of processor time: some mutants never end. What takes more than three as it is, is not run.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import resource
import signal
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.machinery import SourceFileLoader
from itertools import accumulate, zip_longest
from math import inf
from pathlib import Path
from random import Random
from tempfile import TemporaryFile
from types import CodeType, FrameType, FunctionType

os.environ |= {"OMP_NUM_THREADS": "1", "CI": "1"}

import matplotlib
import pytest
import torch
from changes import Mutant, mutants
from hypothesis import HealthCheck, Phase, settings
from toy import arguments, size

for name in ("networkx", "scipy.stats", "matplotlib.pyplot", "torch._dynamo"):
    import_module(name)  # so that forks need not

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ["evidence", "circuit", "engine", "engine/leaves", "queries", "learn"]
ADAPTER = ["coupling", "listing", "marginals", "ranking", "sampling"]
HEART = [
    *(path for room in ROOMS for path in sorted((ROOT / "pcflow" / room).glob("[!_]*.py"))),
    *(ROOT / "pcflow/io" / f"{name}.py" for name in ("container", "files")),
    *(ROOT / "pcflow_diffusion/head" / f"{name}.py" for name in ADAPTER),
]
ASIDE = ["architecture", "benchmarks", "datasets", "juice", "learning_page", "logic", "spn"]
HEAD = ["couplings", "cuts", "head", "head_files", "listing", "marginals", "sampling"]
TESTS = [
    *(path for path in HEART if ">>>" in path.read_text()),
    *(path for path in sorted((ROOT / "tests").glob("test_*.py")) if path.stem[5:] not in ASIDE),
    *(ROOT / "tests/diffusion" / f"test_{name}.py" for name in HEAD),
]
OPTIONS = ["-n0", "-xs", "--assert=plain", "-pno:terminal", "-pno:cacheprovider"]
OPTIONS += ["--hypothesis-profile=mutants"]
SECONDS = 10.0  # of processor time that one test may take
SLOW = 3.0  # what takes longer as it is, is not run
MANY = 200  # tests that are collected anew, where a change shows at import

Place = tuple[str, str]  # a file, and a function or method in it that is in no other


class Bounds:
    """A pytest plugin: who takes longer than a test may is ended by a timer."""

    def pytest_runtest_logstart(self) -> None:
        """Gives the next test its time."""
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(60 * int(SECONDS))  # of somebody who waits for ever


class Forks:
    """A pytest plugin: what was collected runs in a fork for every mutant."""

    def __init__(self, given: dict[str, list[Mutant]], asked: Namespace) -> None:
        """Nothing was tried yet."""
        self.given, self.jobs, self.seconds = given, asked.jobs, asked.seconds
        self.until = time.monotonic() + 60 * asked.minutes
        kept = asked.watched
        self.report = kept.open("a+") if kept else TemporaryFile("w+")  # noqa: SIM115
        self.watches = False
        self.entered: set[Place] = set()
        self.passed = True
        self.running: dict[int, tuple[str, str]] = {}
        self.tried: Counter[str] = Counter()
        self.survivors: dict[str, list[str]] = {path: [] for path in given}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """In a fork this returns nothing, and pytest goes on to run what is left of the tests."""
        items = {item.nodeid: item for item in session.items}
        known, _ = self.read(items)
        new = [item for name, item in items.items() if name not in known]
        for part in range(self.jobs):
            if not fork():
                self.watches, session.config.option.maxfail = True, 0
                session.items[:] = new[part :: self.jobs]
                signal.signal(signal.SIGPROF, too_slow)
                return None
        for _ in range(self.jobs):
            os.wait()
        costs, entered = self.read(items)
        left_out = sum(seconds >= SLOW for seconds in costs.values())
        print(f"{left_out} tests are left out: too slow, skipped or failing", flush=True)
        living = functions(self.given)
        for path, (number, change, code) in by_turns(self.given):
            if time.monotonic() > self.until:
                break
            changed = differences(path, code, living[path])
            places = {(path, outermost(one)) for _, one in changed}
            names = chosen(costs, entered, places or {(path, "")}, self.seconds)
            if len(self.running) == self.jobs:
                self.wait()
            if pid := fork():
                said = f"{short(path)}:{number}: {change} ({len(names)} tests)"
                self.running[pid] = path, said
                continue
            if not changed:
                begin_anew(path, code, names[:MANY])
            for function, one in changed:
                function.__code__ = one
            session.items[:] = [items[name] for name in names]
            session.config.pluginmanager.register(Bounds())
            return None
        while self.running:
            self.wait()
        return True

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Watches a test, where asked to."""
        if not self.watches:
            yield
            return
        self.entered, self.passed, begin = set(), True, time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SLOW)
        sys.setprofile(self.look)
        yield
        sys.setprofile(None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        seconds = time.process_time() - begin if self.passed else inf
        line = [item.nodeid, seconds, sorted(self.entered)]
        os.write(self.report.fileno(), f"{json.dumps(line)}\n".encode())  # in one piece

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test that does not pass as it is, shows nothing."""
        self.passed &= report.passed

    def look(self, frame: FrameType, event: str, _: object) -> None:
        """Remembers what is entered."""
        code = frame.f_code
        if event == "call" and code.co_filename in self.given:
            self.entered |= {(code.co_filename, outermost(code)), (code.co_filename, "")}

    def read(self, items: Iterable[str]) -> tuple[dict[str, float], dict[Place, list[str]]]:
        """What each test takes, those first that enter least, and the tests that enter a place."""
        self.report.seek(0)
        watched = [line for line in map(json.loads, self.report) if line[0] in items]
        lines = sorted(watched, key=lambda line: (len(line[2]), line[1]))
        entered: dict[Place, list[str]] = {}
        for name, _, places in lines:
            for place in places:
                entered.setdefault(tuple(place), []).append(name)
        return {name: seconds for name, seconds, _ in lines}, entered

    def wait(self) -> None:
        """Until the tests of one mutant end."""
        pid, status = os.wait()
        path, change = self.running.pop(pid)
        self.tried[path] += 1
        print("killed:" if status else "survived:", change, file=sys.stderr, flush=True)
        if status == 0:
            self.survivors[path].append(change)


def fork() -> int:
    """A process that is quiet and has bounds; 0 within it."""
    if pid := os.fork():
        return pid
    resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))  # some lists grow for ever
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    return 0


def too_slow(*_: object) -> None:
    """Ends a test that would take long on every mutant."""
    raise TimeoutError


def short(path: str | Path) -> str:
    """The name of a file, seen from the repository."""
    return Path(path).relative_to(ROOT).as_posix()


def outermost(code: CodeType) -> str:
    """The name of the function, in no other, that a piece of code is a part of."""
    return code.co_qualname.partition(".<locals>")[0]


def pieces(code: CodeType) -> Iterator[CodeType]:
    """The functions in a piece of code, and those in them."""
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from (one, *pieces(one))


def key(code: CodeType) -> tuple[str, int, tuple[str, ...]]:
    """What a function keeps when something in it is changed."""
    return code.co_qualname, code.co_firstlineno, code.co_freevars


def by_turns(given: dict[str, list[Mutant]]) -> Iterator[tuple[str, Mutant]]:
    """One mutant of each file, then the next one of each, so that one may stop at any time."""
    for ones in zip_longest(*given.values()):
        yield from ((path, one) for path, one in zip(given, ones, strict=True) if one is not None)


def functions(given: Iterable[str]) -> dict[str, list[FunctionType]]:
    """The functions of each file that exist."""
    found: dict[str, list[FunctionType]] = {path: [] for path in given}
    gc.unfreeze()  # what was collected is frozen, and not listed
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename in found:
            found[one.__code__.co_filename].append(one)
    gc.freeze()
    return found


def differences(
    path: str, code: CodeType, living: list[FunctionType]
) -> list[tuple[FunctionType, CodeType]]:
    """Functions and what becomes of them; none if a change shows when the file is imported."""
    base = compile(ast.parse(Path(path).read_text()), path, "exec")
    before = {key(one): one for one in pieces(base)}
    changed = {key(one): one for one in pieces(code) if before.get(key(one)) != one}
    return [(one, changed[key(one.__code__)]) for one in living if key(one.__code__) in changed]


def chosen(
    costs: dict[str, float], entered: dict[Place, list[str]], places: set[Place], enough: float
) -> list[str]:
    """The tests that enter one of these places, as many as there is time for."""
    times = Counter(name for place in places for name in entered.get(place, []))
    names = in_turns(name for name in costs if name in times and costs[name] < SLOW)
    spent = accumulate(costs[name] for name in names)
    return [name for name, seconds in zip(names, spent, strict=True) if seconds < enough]


def in_turns(names: Iterable[str]) -> list[str]:
    """One test of each file, then the next one of each: what one file does not see another may."""
    files: dict[str, list[str]] = {}
    for name in names:
        files.setdefault(name.partition("::")[0], []).append(name)
    return [name for ones in zip_longest(*files.values()) for name in ones if name is not None]


def begin_anew(path: str, code: CodeType, names: list[str]) -> None:
    """Imports and collects all again, with the changed file, and ends with the tests' status."""
    if not names:
        os._exit(0)  # nobody notices
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(f"{ROOT}/"):
            del sys.modules[name]
    changed, load = short(path)[:-3].replace("/", "."), SourceFileLoader.get_code
    SourceFileLoader.get_code = lambda it, name: code if name == changed else load(it, name)
    os._exit(pytest.main([*OPTIONS, *names], [Bounds()]))


def sample(path: Path, asked: Namespace) -> list[Mutant]:
    """Mutants of a file; of a larger sample the first ones are those of a smaller one."""
    if asked.only is not None:
        return [one for one in mutants(path) if one[0] in asked.only]
    given = list(mutants(path))
    Random(short(path) + asked.seed).shuffle(given)
    return given[: size(asked.sample, 3)]


def main() -> None:
    """Count, print."""
    parser = arguments(__doc__)
    few = [ROOT / "pcflow/circuit/supports.py"], [ROOT / "tests/test_properties.py"]
    parser.add_argument("files", nargs="*", type=Path, default=size(HEART, few[0]))
    parser.add_argument("--tests", nargs="+", default=size(TESTS, few[1]), help="instead of all")
    parser.add_argument("--only", nargs="+", type=int, metavar="LINE", help="just these lines")
    parser.add_argument("--sample", type=int, default=15, metavar="N", help="of a file (15)")
    parser.add_argument("--seed", default="", help="of the sample")
    parser.add_argument("--watched", type=Path, metavar="FILE", help="what each test enters")
    parser.add_argument("--seconds", type=float, default=20.0, help="of tests for a mutant (20)")
    parser.add_argument("--minutes", type=float, default=inf, help="after which no more begin")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (1)")
    asked = parser.parse_args()
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    torch.set_num_threads(1)
    matplotlib.use("Agg")
    settings.register_profile(
        "mutants",
        deadline=None,
        derandomize=True,
        max_examples=10,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],  # which other processes would decide
    )
    files = [path.resolve() for path in asked.files]
    given = {str(path): sample(path, asked) for path in files}
    forks, parent = Forks(given, asked), os.getpid()
    status = pytest.main([*OPTIONS, *map(str, asked.tests)], [forks])
    if os.getpid() != parent or status != 0:
        os._exit(status)
    print("| file | mutants | killed | share |\n|---|---|---|---|")
    for path in given:
        show(short(path), forks.tried[path], len(forks.survivors[path]))
    show("together", forks.tried.total(), sum(map(len, forks.survivors.values())))
    print("\nSurvivors:\n", *(one for ones in forks.survivors.values() for one in ones), sep="\n- ")


def show(name: str, count: int, survived: int) -> None:
    """A row of the table, unless there was nothing to change."""
    if count:
        print(f"| `{name}` | {count} | {count - survived} | {1 - survived / count:.1%} |")


if __name__ == "__main__":
    main()
