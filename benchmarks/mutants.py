"""Mutation testing: break one thing at a time, and see whether the tests notice.

    pip install -c constraints.txt -e '.[test]'
    python benchmarks/mutants.py                        # every file of TESTS
    python benchmarks/mutants.py pcflow/engine/passes.py --only 42 43

Every mutant is a file with one change (see changes.py). The tests of the file run on each of them
until one fails; if none does, the mutant survives. Printed are a Markdown table and the survivors.

One process imports torch and pytest; each mutant is a fork of it that imports pcflow with the
changed file. Hypothesis draws the same ten examples each time and does not shrink, and the quickest
test comes first. A test fails if it takes ten seconds of processor time: some mutants never end.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

os.environ |= {"OMP_NUM_THREADS": "1", "CI": "1"}

import matplotlib
import pytest
import torch
from changes import Mutant, mutants
from hypothesis import Phase, settings
from toy import arguments, size

for name in ("networkx", "scipy.stats", "matplotlib.pyplot", "torch._dynamo"):
    import_module(name)  # so that forks need not

ROOT = Path(__file__).resolve().parent.parent
LAWS = "tests/test_laws_queries.py"
NUMBERS = "tests/test_hand_numbers.py"
NO_MASS = "tests/test_learn.py::test_an_impossible_row_is_named_and_nothing_changes"
ENGINE = ["tests/test_laws_engine.py", "tests/test_laws_learning.py"]
ASKED = ["tests/test_compiled.py", LAWS, NUMBERS, NO_MASS, ENGINE[0]]
QUERIES = ("draws", "marginals", "mean", "mpe", "possible")
TESTS = {
    "pcflow_diffusion/head/coupling.py": [
        "pcflow_diffusion/head/coupling.py",
        "tests/diffusion/test_head.py",
    ],
    **{f"pcflow/queries/{name}.py": ASKED for name in QUERIES},
    "pcflow/engine/passes.py": ["tests/test_compiled.py", LAWS, NUMBERS, *ENGINE],
    "pcflow/circuit/properties.py": ["tests/test_properties.py", "tests/test_laws_structure.py"],
    "pcflow/circuit/supports.py": ["tests/test_properties.py"],
    "pcflow/circuit/pairing.py": ["tests/test_laws_structure.py", "tests/test_transform.py"],
}  # what pytest is asked to run
SLOW = [
    f"{LAWS}::test_projection_reaches_any_marginals_that_potentials_can_make",
    f"{NUMBERS}::test_log_space_rows_have_right_gradients_marginals_and_draws",
]  # and of that, not these
OPTIONS = ["-n0", "-xs", "--assert=plain", "-pno:terminal", "-pno:cacheprovider"]
OPTIONS += ["--hypothesis-profile=mutants", *(f"--deselect={test}" for test in SLOW)]
SECONDS = 10  # of processor time that one test may take; the slowest takes three


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


def check_paths() -> None:
    """Refuse to run if a file of TESTS was moved."""
    files = {test.partition("::")[0] for tests in TESTS.values() for test in [*tests, *SLOW]}
    if gone := [path for path in sorted(files | set(TESTS)) if not (ROOT / path).is_file()]:
        raise SystemExit(f"TESTS names files that are not there: {', '.join(gone)}")


def main() -> None:
    """Count, print."""
    parser = arguments(__doc__)
    parser.add_argument(
        "files",
        nargs="*",
        default=size(list(TESTS), ["pcflow/circuit/supports.py"]),
        help="of those in TESTS",
    )
    parser.add_argument("--only", nargs="+", type=int, metavar="LINE", help="just these lines")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (%(default)s)")
    asked = parser.parse_args()
    check_paths()
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
        given = [one for one in mutants(ROOT / path) if asked.only is None or one[0] in asked.only]
        given = given[: size(None, 3)]
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
