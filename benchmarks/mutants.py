"""Mutation testing: break one thing at a time, and see whether the tests notice.

    pip install -c constraints.txt -e '.[test]'
    python benchmarks/mutants.py                        # every file of TESTS
    python benchmarks/mutants.py pcflow/engine/passes.py --only 42 43
    python benchmarks/mutants.py pcflow/evidence/*.py --sample 40

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
from random import Random
from tempfile import TemporaryFile
from types import CodeType

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
ALL = ["wrong_arguments", "laws_queries", "laws_engine"]
ASKED = [*ALL, "compiled", "chosen", "evidence", "hand_numbers"]
SAID = [*ALL, "evidence", "potentials", "chosen", "input_gradients"]
LEARNED = [*ALL[:1], "learn", "learners", "stochastic", "conditional_learning", "laws_learning"]
RUN = [*ASKED, "laws_learning", "potentials", "kernels", "padding"]
BOUNDED, LONG = [*RUN, "intervals"], ["long_sequences", "laws_engine"]
SHEETS, PLANNED = [*RUN, "recording", "memory"], [*RUN, "plan", "versions"]
STRUCTURE = [*ALL[:1], "circuit", "properties", "laws_structure", "transform"]
KEPT = ["files", "io", "pickle"]
HEAD = ["head", "couplings", "marginals", "sampling"]
ROOMS = {
    "pcflow/evidence": {"door": SAID, "potentials": SAID, "evidence": SAID, "domain": SAID},
    "pcflow/queries": dict.fromkeys(["draws", "marginals", "mean", "mpe", "possible"], ASKED),
    "pcflow/circuit": {
        "properties": STRUCTURE,
        "supports": STRUCTURE,
        "pairing": STRUCTURE,
        "scopes": STRUCTURE,
        "circuit": [*STRUCTURE, "pickle"],
        "rebuild": [*ALL[:1], "refine", "transform", "circuit"],
    },
    "pcflow/learn": {
        "em": LEARNED,
        "counts": LEARNED,
        "batch": LEARNED,
        "stochastic": LEARNED,
        "checkpoint": ["checkpoints", "fit", "learners"],
    },
    "pcflow/io": {"container": [*KEPT, "checkpoints"], "files": [*KEPT, "checkpoints"]},
    "pcflow_diffusion/head": dict.fromkeys(["coupling", "marginals", "sampling", "ranking"], HEAD),
    "pcflow/engine": {
        "evaluate": [*RUN, "memory", "long_sequences"],
        **dict.fromkeys(["semiring", "log_semiring", "kernels"], RUN),
        **dict.fromkeys(["passes", "descent", "routes", "memory", "tape", "recording"], SHEETS),
        **dict.fromkeys(["schedule", "rows", "plan", "tables", "cache", "versions"], PLANNED),
        **dict.fromkeys(["chain", "halves", "evaluation"], LONG),
        "told": ["padding", "weights"],
    },
    "pcflow/engine/leaves": dict.fromkeys(
        ["access", "density", "entries", "finite", "flows", "posteriors", "truncated"],
        BOUNDED,
    ),
}  # the files of a room, and the test files that pytest is asked to run, besides its doctests


def tests(room: str, name: str) -> list[str]:
    """What pytest is asked to run for a file."""
    folder = "tests/diffusion" if room.startswith("pcflow_diffusion") else "tests"
    return [f"{room}/{name}.py", *(f"{folder}/test_{test}.py" for test in ROOMS[room][name])]


TESTS = {f"{room}/{name}.py": tests(room, name) for room, names in ROOMS.items() for name in names}
SLOW = [
    "tests/test_laws_queries.py::test_projection_reaches_any_marginals_that_potentials_can_make",
    "tests/test_hand_numbers.py::test_log_space_rows_have_right_gradients_marginals_and_draws",
    "tests/test_files.py::test_reading_takes_time_in_proportion",
    "tests/test_fit.py::test_two_processes_learn_what_one_learns",
    "tests/test_fit.py::test_a_killed_fit_goes_on_to_the_same_parameters",
]  # and of that, not these
OPTIONS = ["-n0", "-xs", "--assert=plain", "-pno:terminal", "-pno:cacheprovider"]
OPTIONS += ["--hypothesis-profile=mutants", *(f"--deselect={test}" for test in SLOW)]
SECONDS = 10  # of processor time that one test may take; the slowest takes three


class Forks:
    """A pytest plugin: once pytest is ready, it goes on in a fork for every mutant of a file."""

    def __init__(self, path: str, given: list[Mutant], jobs: int) -> None:
        """No mutant has survived yet."""
        self.path, self.given, self.jobs = path, given, jobs
        self.report = TemporaryFile("w+")  # noqa: SIM115
        self.durations: dict[str, float] = {}
        self.running: dict[int, str] = {}
        self.survivors: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """In a fork this returns, and pytest collects and runs tests, which import the change."""
        if any(name.startswith("pcflow") for name in sys.modules):
            pytest.exit("a conftest.py imports pcflow, so that no test would see a change", 1)
        code = compile((ROOT / self.path).read_text(), ROOT / self.path, "exec")
        if not (pid := self.fork(code)):
            return
        if os.waitpid(pid, 0)[1] != 0:
            pytest.exit(f"{self.path}: its tests fail before anything is changed", 1)
        self.report.seek(0)
        for line in self.report:
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
            print(report.nodeid, report.duration, sep="\t", file=self.report, flush=True)

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
    parser.add_argument("--sample", type=int, metavar="N", help="N of a file, always the same ones")
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
        "mutants",
        deadline=None,
        derandomize=True,
        max_examples=10,
        phases=phases,
        suppress_health_check=[HealthCheck.too_slow],  # which other processes would decide
    )
    print("| file | mutants | killed | share |\n|---|---|---|---|", flush=True)
    left: list[str] = []
    for path in asked.files:
        given = [one for one in mutants(ROOT / path) if asked.only is None or one[0] in asked.only]
        if asked.sample is not None and asked.sample < len(given):
            given = sorted(Random(path).sample(given, asked.sample), key=lambda one: one[0])
        given = given[: size(None, 3)]
        if not given:
            continue  # nothing in those lines can be changed
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
