"""Formulas that others compiled, as files: their models by plain evaluation; what is broken."""

import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.logic import nnf

PATHS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
SEEDS = st.integers(0, 2**31 - 1)

# x1 or (not x1 and x2 and x3), over four variables
C2D = "nnf 6 5 4\nL 1\nL -1\nL 2\nL 3\nA 3 1 2 3\nO 1 2 0 4\n"
D4 = "o 1 0\no 2 0\nt 3 0\n2 3 2 3 0\n1 3 1 0\n1 2 -1 0\n"

# x1 is x2, and x3 or x4; primes are whole diagrams
BALANCED = "vtree 7\nL 0 1\nL 2 2\nL 4 3\nL 6 4\nI 1 0 2\nI 5 4 6\nI 3 1 5\n"
SDD = """c both sides of the root are decisions
sdd 12
L 0 0 1
L 1 0 -1
L 2 2 2
L 3 2 -2
D 4 1 2 0 2 1 3
D 5 1 2 0 3 1 2
L 6 4 3
L 7 4 -3
L 8 6 4
T 9
F 10
D 11 3 2 4 12 5 10
""".replace("D 11", "D 12 5 2 6 9 7 8\nD 11").replace("sdd 12", "sdd 13")

Formula = Callable[[tuple[bool, ...]], bool]


def write(folder: Path, text: str | bytes, name: str = "given") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read_sdd(folder: Path, text: str | bytes, vtree: str = BALANCED) -> pf.Circuit:
    return pf.read_sdd(write(folder, text), write(folder, vtree, "vtree"))


def uniform(formula: Formula, variables: int) -> Tensor:
    """Probability of every assignment, all models alike."""
    states = itertools.product([False, True], repeat=variables)
    models = torch.tensor([formula(state) for state in states], dtype=torch.float64)
    return models / models.sum()


def probabilities(circuit: pf.Circuit) -> Tensor:
    states = torch.tensor(list(itertools.product([0, 1], repeat=circuit.num_variables)))
    return pf.reference_log_prob(circuit, states).exp()


def holds(circuit: pf.Circuit, formula: Formula, variables: int) -> None:
    """Uniform over the models, proved deterministic, and they are counted by the entropy."""
    assert circuit.num_variables == variables
    wanted = uniform(formula, variables)
    torch.testing.assert_close(probabilities(circuit), wanted)
    assert pf.is_deterministic(circuit)
    assert math.exp(pf.entropy(circuit)) == pytest.approx(int((wanted > 0).sum()))


def test_both_kinds_of_nnf_by_hand(tmp_path: Path) -> None:
    def formula(x: tuple[bool, ...]) -> bool:
        return x[0] or (x[1] and x[2])

    holds(pf.read_nnf(write(tmp_path, C2D)), formula, 4)
    holds(pf.read_nnf(write(tmp_path, D4)), formula, 3)
    holds(pf.read_nnf(write(tmp_path, D4), num_variables=5), formula, 5)


def test_an_sdd_by_hand(tmp_path: Path) -> None:
    holds(read_sdd(tmp_path, SDD), lambda x: x[0] == x[1] and (x[2] or x[3]), 4)


def test_what_always_and_what_never_holds(tmp_path: Path) -> None:
    holds(pf.read_nnf(write(tmp_path, "nnf 1 0 2\nA 0\n")), lambda x: True, 2)
    holds(pf.read_nnf(write(tmp_path, "t 1 0\n"), 2), lambda x: True, 2)
    holds(read_sdd(tmp_path, "sdd 1\nT 0\n"), lambda x: True, 4)
    with pytest.raises(pf.Unsatisfiable, match="no assignment"):
        pf.read_nnf(write(tmp_path, "nnf 1 0 2\nO 0 0\n"))
    with pytest.raises(pf.Unsatisfiable):
        read_sdd(tmp_path, "sdd 1\nF 0\n")


class Decided:
    """A random formula by Shannon's expansion, as all three kinds of files tell it."""

    def __init__(self, variables: int, seed: int) -> None:
        self.random, self.variables = random.Random(seed), variables
        states = itertools.product([False, True], repeat=variables)
        self.models = {state for state in states if self.random.random() < 0.5}
        self.models.add((True,) * variables)

    def formula(self, x: tuple[bool, ...]) -> bool:
        return x in self.models

    def c2d(self) -> str:
        lines: list[str] = []
        edges = 0

        def add(line: str, count: int = 0) -> int:
            nonlocal edges
            edges += count
            lines.append(line)
            return len(lines) - 1

        def node(prefix: tuple[bool, ...]) -> int:
            depth = len(prefix)
            below = {state[:depth] == prefix for state in self.models}
            if True not in below:
                return add("O 0 0")
            if depth == self.variables:
                return add("A 0")
            sides = []
            for value in (True, False):
                literal = add(f"L {depth + 1 if value else -depth - 1}")
                sides.append(add(f"A 2 {literal} {node((*prefix, value))}", 2))
            return add(f"O {depth + 1} 2 {sides[0]} {sides[1]}", 2)

        node(())
        return f"nnf {len(lines)} {edges} {self.variables}\n" + "\n".join(lines) + "\n"

    def d4(self) -> str:
        lines: list[str] = []
        count = itertools.count(1)

        def node(prefix: tuple[bool, ...]) -> int:
            number, depth = next(count), len(prefix)
            if depth == self.variables:
                lines.append(f"{'t' if prefix in self.models else 'f'} {number} 0")
                return number
            lines.append(f"o {number} 0")
            arcs = []
            for value in (True, False):
                literal = depth + 1 if value else -depth - 1
                arcs.append(f"{number} {node((*prefix, value))} {literal} 0")
            lines.extend(arcs)
            return number

        node(())
        return "\n".join(lines) + "\n"

    def sdd(self) -> tuple[str, str]:
        """And its vtree, one variable after another."""
        lines, last = ["T 0", "F 1"], 2 * (self.variables - 1)

        def add(line: str) -> int:
            lines.append(line.format(n=len(lines)))
            return len(lines) - 1

        def node(prefix: tuple[bool, ...]) -> int:
            depth = len(prefix)
            if depth == self.variables:
                return 0 if prefix in self.models else 1
            place = 2 * depth
            literals = [add(f"L {{n}} {place} {s * (depth + 1)}") for s in (1, -1)]
            subs = [node((*prefix, value)) for value in (True, False)]
            if place < last:
                pairs = " ".join(f"{p} {s}" for p, s in zip(literals, subs, strict=True))
                return add(f"D {{n}} {place + 1} 2 {pairs}")
            known = {(0, 0): 0, (1, 1): 1, (0, 1): literals[0], (1, 0): literals[1]}
            return known[subs[0], subs[1]]

        root = node(())
        if root != len(lines) - 1:  # the root comes last
            lines.append(re_told(lines[root], root, len(lines)))
        leaves = [f"L {2 * v} {v + 1}" for v in range(self.variables)]
        inner = [f"I {v + 1} {v} {v + 3 if v + 2 < last else last}" for v in range(0, last, 2)]
        vtree = "\n".join([f"vtree {last + 1}", *leaves, *inner]) + "\n"
        return f"sdd {len(lines)}\n" + "\n".join(lines) + "\n", vtree


def re_told(line: str, node: int, number: int) -> str:
    kind, told, *rest = line.split()
    assert told == str(node)
    return " ".join([kind, str(number), *rest])


DECIDED = st.builds(Decided, st.integers(1, 5), SEEDS)


@PATHS
@given(DECIDED)
def test_made_up_formulas_have_their_models(tmp_path: Path, made: Decided) -> None:
    for text in (made.c2d(), made.d4()):
        circuit = pf.read_nnf(write(tmp_path, text), made.variables)
        holds(circuit, made.formula, made.variables)
    holds(read_sdd(tmp_path, *made.sdd()), made.formula, made.variables)


@PATHS
@given(DECIDED, st.data())
def test_what_was_cut_off_is_refused_or_says_all_the_same(
    tmp_path: Path, made: Decided, data: st.DataObject
) -> None:
    """Anywhere; d4 tells too little to see every lost line, but no line is read in part."""
    for text, vtree in ((made.c2d(), None), made.sdd()):
        part = text[: data.draw(st.integers(0, len(text)))]
        try:
            found = (
                pf.read_nnf(write(tmp_path, part))
                if vtree is None
                else read_sdd(tmp_path, part, vtree)
            )
        except pf.FileFormatError:
            continue
        torch.testing.assert_close(probabilities(found), uniform(made.formula, made.variables))
    lines = made.d4().splitlines()
    for cut in range(1, len(lines[-1])):
        part = "\n".join([*lines[:-1], lines[-1][:cut]])
        with pytest.raises((pf.FileFormatError, pf.Unsatisfiable)):
            pf.read_nnf(write(tmp_path, part), made.variables)


BROKEN_NNF = [
    ("", "holds no formula"),
    ("c nothing\n", "holds no formula"),
    ("nnf 1 0\nA 0\n", "needs a line `nnf NODES EDGES VARIABLES`"),
    ("nnf 1 0 0\nA 0\n", "0 variables, but must be 1"),
    ("nnf 1 0 999999999\nA 0\n", "999999999 variables, but must be"),
    (C2D.replace("nnf 6", "nnf 7"), "7 nodes were announced, 6 are there"),
    (C2D.replace("6 5 4", "6 6 4"), "other edges"),
    (C2D[:-1], "no line break is behind the last number"),
    (C2D.replace("L 3", "L 5"), "line 5: literal 5, but variables are 1..4"),
    (C2D.replace("L 3", "L 0"), "line 5: literal 0"),
    (C2D.replace("L 3", "L x"), "line 5: 'x' is not a whole number"),
    (C2D.replace("L 3", "L " + "9" * 5000), "line 5: .* is not a whole number"),
    (C2D.replace("L 3", "X 3"), "line 5: not a line of an NNF"),
    (C2D.replace("A 3 1 2 3", "A 3 1 2 5"), "line 6: node 5 is in no line above"),
    (C2D.replace("A 3 1 2 3", "A 3 1 2 -1"), "line 6: node -1"),
    (C2D.replace("A 3 1 2 3", "A 4 1 2 3"), "line 6: 4 nodes were announced, 3 are there"),
    (C2D.replace("A 3 1 2 3", "A 3 1 2 1"), "not decomposable"),
    (C2D.replace("A 3 1 2 3", "A 3 2 2 3"), "not decomposable"),
    (C2D.replace("A 3 1 2 3", "A 2 2 3").replace("6 5 4", "6 4 4"), "not deterministic"),
    ("nnf 3 2 1\nA 0\nA 0\nO 0 2 0 1\n", "do not exclude one another"),
    (D4.replace("t 3 0", "t 3"), "line 3: does not end with 0"),
    (D4.replace("o 2 0", "o 1 0"), "line 2: node 1 is there already"),
    (D4.replace("2 3 2 3 0", "2 1 2 3 0"), "0 without a parent"),
    (D4.replace("2 3 2 3 0", "2 2 2 3 0"), "node 2 is below itself"),
    (D4.replace("2 3 2 3 0", "3 2 2 3 0"), "line 4: an arc from node 3 to 2, which cannot be"),
    (D4.replace("2 3 2 3 0", "2 9 2 3 0"), "line 4: an arc from node 2 to 9"),
    (D4.replace("2 3 2 3 0\n", ""), "1 nodes without arcs"),
    (D4.replace("1 3 1 0", "1 3 -1 0"), "not deterministic"),
    (D4.replace("2 3 2 3 0", "2 3 1 3 0"), "not decomposable"),
    (C2D.encode("utf-16"), "not text"),
    (bytes(range(256)), "not text"),
]


@pytest.mark.parametrize(("text", "match"), BROKEN_NNF)
def test_broken_nnfs_are_refused(tmp_path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(pf.FileFormatError, match=match) as refused:
        pf.read_nnf(write(tmp_path, text))
    assert str(tmp_path) in str(refused.value)


BROKEN_SDD = [
    ("", "is not 'sdd' and a number"),
    ("sdd 0\n", "truncated"),
    (SDD.replace("sdd 13", "sdd 14"), "has 13 nodes, not 14"),
    (SDD[:-1], "no line break"),
    (SDD.replace("L 6 4 3", "L 6 4 1"), "line 9: a node names variables that are not below"),
    (SDD.replace("L 6 4 3", "L 6 9 3"), "line 9: vtree node 9 is nowhere"),
    (SDD.replace("L 6 4 3", "L 5 4 3"), "line 9: node 5 is there already"),
    (SDD.replace("L 6 4 3", "L -6 4 3"), "line 9: node -6 .*negative"),
    (SDD.replace("L 6 4 3", "L 6"), "line 9: not a line of an SDD"),
    (SDD.replace("D 12 5 2", "D 12 4 2"), "vtree node 4 is a leaf"),
    (SDD.replace("D 12 5 2", "D 12 44 2"), "vtree node 44 is nowhere"),
    (SDD.replace("D 12 5 2", "D 12 1 2"), "not below its vtree node"),
    (SDD.replace("D 12 5 2", "D 12 5 3"), "not a line of an SDD"),
    (SDD.replace("6 9 7 8", "6 9 7 44"), "node 44 is in no line above"),
    (SDD.replace("4 12 5 10", "4 12 4 12"), "not deterministic"),
]


@pytest.mark.parametrize(("text", "match"), BROKEN_SDD)
def test_broken_sdds_are_refused(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(pf.FileFormatError, match=match) as refused:
        read_sdd(tmp_path, text)
    assert str(tmp_path) in str(refused.value)


def test_vtrees_that_leave_out_variables_are_refused(tmp_path: Path) -> None:
    for far in ("9", "9" * 12):
        with pytest.raises(pf.FileFormatError, match=r"variables must be 1\.\.D"):
            read_sdd(tmp_path, SDD, BALANCED.replace("L 6 4", f"L 6 {far}"))


@PATHS
@given(st.data())
def test_damaged_files_are_refused_or_read_but_nothing_else(
    tmp_path: Path, data: st.DataObject
) -> None:
    text = bytearray(data.draw(st.sampled_from([C2D, D4, SDD])).encode())
    is_sdd = b"sdd" in text
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        length = data.draw(st.integers(0, 3))
        text[place : place + length] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"-", b" 0 ", b"9", b"\n", b"o 1 0\n"])
        )
    try:
        if is_sdd:
            read_sdd(tmp_path, bytes(text))
        else:
            pf.read_nnf(write(tmp_path, bytes(text)))
    except (pf.FileFormatError, pf.Unsatisfiable):
        pass


@pytest.mark.parametrize("variables", [500, 1000])
def test_long_files_are_read_without_recursion(tmp_path: Path, variables: int) -> None:
    """A conjunction of many literals, nested as deep as it goes."""
    d4 = [f"o {v} 0\n" for v in range(1, variables + 1)] + [f"t {variables + 1} 0\n"]
    d4 += [f"{v} {v + 1} {v} 0\n" for v in range(1, variables + 1)]
    circuit = pf.read_nnf(write(tmp_path, "".join(d4)))
    assert circuit.num_variables == variables


def test_a_file_that_asks_for_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smoothing may not make a large circuit of a small file, nor scopes take all memory."""
    nested = "A 2 5 6\nO 3 2 4 7\nA 2 3 8\nO 2 2 2 9\nA 2 1 10\nO 1 2 0 11\n"
    literals = "".join(f"L {literal}\n" for literal in (1, -1, 2, -2, 3, -3, 40))
    path = write(tmp_path, f"nnf 13 12 40\n{literals}{nested}")
    assert pf.read_nnf(path).num_variables == 40
    for limit, match in (("MOST_FREE", "more than 40 more factors"), ("MOST_BITS", "40 bits")):
        with monkeypatch.context() as patched:
            patched.setattr(nnf, limit, 40)
            with pytest.raises(pf.FileFormatError, match=match):
                pf.read_nnf(path)
