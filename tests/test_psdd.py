"""PSDD files: numbers by hand, what is written comes back, what is broken is refused."""

import math
import os
import random
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.io import files
from pcflow.testing import circuits, deterministic_circuits, enumerate_mpe, enumerate_states

PATHS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
SEEDS = st.integers(0, 2**31 - 1)

TWO = """c a comes first: p(a) = .3, p(b | a) = .9, p(b | not a) = .2
psdd 5
T 12 4 2 -0.10536051565782628
L 3 0 1
T 7 4 2 -0.2231435513142097 -1.6094379124341003

L 5 0 -1
D 0 1 2 3 12 -1.2039728043259361 5 7 -0.35667494393873245
"""
TWO_VTREE = "c left to right\nvtree 3\nL 0 1\nL 4 2\nI 1 0 4\n"

XOR = """psdd 8
L 0 1 1
L 1 1 -1
L 2 2 2
L 3 2 -2
D 4 0 2 0 3 -0.5108256237659907 1 2 -0.916290731874155
T 5 4 3 -inf
L 6 4 3
D 7 3 1 4 6 0
"""


def write(folder: Path, text: str | bytes, name: str = "given.psdd") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder: Path, text: str | bytes) -> pf.Circuit:
    return pf.read_psdd(write(folder, text))


def probabilities(circuit: pf.Circuit) -> Tensor:
    """Of every state, the last variable running fastest."""
    return pf.reference_log_prob(circuit, enumerate_states(circuit)).exp()


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_two_variables_by_hand(tmp_path: Path) -> None:
    circuit = pf.read_psdd(write(tmp_path, TWO), write(tmp_path, TWO_VTREE, "given.vtree"))
    wanted = numbers(0.7 * 0.8, 0.7 * 0.2, 0.3 * 0.1, 0.3 * 0.9)
    torch.testing.assert_close(probabilities(circuit), wanted, rtol=1e-12, atol=0.0)
    best = pf.compile(circuit, dtype=torch.float64).mpe(torch.full((1, 2), torch.nan))
    assert best.values.tolist() == [[0, 0]]
    assert best.exact


def test_zeros_are_exact_and_literals_shared(tmp_path: Path) -> None:
    with pytest.warns(pf.FileFormatWarning, match="nothing uses 1 of its nodes"):
        circuit = read(tmp_path, XOR)
    found = probabilities(circuit)
    assert found.nonzero().flatten().tolist() == [0b011, 0b101]
    torch.testing.assert_close(found[[0b011, 0b101]], numbers(0.4, 0.6), rtol=1e-12, atol=0.0)
    inputs = [layer for layer in circuit.layers if isinstance(layer, pf.InputLayer)]
    assert len(inputs) == 5  # both literals of two variables, one of the third
    never = read(tmp_path, "psdd 1\nT 0 0 1 -inf\n")
    assert probabilities(never).tolist() == [1.0, 0.0]
    always = read(tmp_path, "psdd 1\nT 0 0 1 0\n")
    assert probabilities(always).tolist() == [0.0, 1.0]


def test_probabilities_next_to_one_keep_their_complement(tmp_path: Path) -> None:
    circuit = read(tmp_path, "psdd 1\nT 0 0 1 -1e-30\n")
    found = pf.reference_log_prob(circuit, torch.tensor([[0], [1]]))
    torch.testing.assert_close(found, numbers(math.log(1e-30), 0.0))
    for odds in (20.0, 50.0):
        logits = pf.Parameter(numbers(odds))
        coin = pf.InputLayer(0, pf.Bernoulli(), 1, {"logits": logits})
        table = pf.Parameter(numbers(-odds, 0.0).unsqueeze(-1))
        tied = pf.InputLayer(0, pf.Categorical(2), 1, {"logits": table})
        for circuit in (pf.Circuit(coin), pf.Circuit(tied)):
            pf.write_psdd(circuit, tmp_path / "sure")
            again = pf.reference_log_prob(pf.read_psdd(tmp_path / "sure"), torch.tensor([[0]]))
            wanted = numbers(-odds - math.log1p(math.exp(-odds)))
            torch.testing.assert_close(again, wanted, rtol=1e-12, atol=0.0)


def sample_file(name: str) -> pf.Circuit:
    if "PCFLOW_DATA" not in os.environ:
        pytest.skip("set PCFLOW_DATA to a folder with psdd/little_4var.psdd and asia.uai.psdd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.FileFormatWarning)  # little_4var counts products too
        return pf.read_psdd(Path(os.environ["PCFLOW_DATA"]) / "psdd" / name)


def test_little_4var() -> None:
    found = probabilities(sample_file("little_4var.psdd"))
    wanted = numbers(0.07, 0.03, 0.14)
    torch.testing.assert_close(found[[0b0000, 0b0110, 0b0011]], wanted)
    assert found.sum().item() == pytest.approx(1.0, abs=1e-12)


def test_asia() -> None:
    """Variables 1 to 8 are smoke, asia, bronc, lung, tub, either, xray, dysp.

    Value 0 is "yes".
    """
    circuit = sample_file("asia.uai.psdd")
    assert probabilities(circuit).sum().item() == pytest.approx(1.0, abs=1e-6)
    model = pf.compile(circuit, dtype=torch.float64)
    yes = model.marginals(torch.full((1, 8), torch.nan))[0, :, 0].exp()
    wanted = numbers(0.5, 0.01, 0.45, 0.055, 0.0104, 0.064828, 0.11029, 0.435971)
    torch.testing.assert_close(yes, wanted, rtol=0.0, atol=2e-6)


@pytest.mark.parametrize("name", ["little_4var.psdd", "asia.uai.psdd"])
def test_samples_can_be_written(tmp_path: Path, name: str) -> None:
    comes_back(sample_file(name), tmp_path)


def comes_back(circuit: pf.Circuit, folder: Path) -> pf.Circuit:
    """Written and read it is the same distribution; what was written is then written to the bit."""
    pf.write_psdd(circuit, folder / "a.psdd", folder / "a.vtree")
    again = pf.read_psdd(folder / "a.psdd", folder / "a.vtree")
    torch.testing.assert_close(probabilities(again), probabilities(circuit), rtol=0.0, atol=1e-12)
    pf.write_psdd(again, folder / "b.psdd", folder / "b.vtree")
    for kind in ("psdd", "vtree"):
        assert (folder / f"a.{kind}").read_bytes() == (folder / f"b.{kind}").read_bytes()
    return again


class Made:
    """The lines of a random PSDD: families of nodes that exclude one another, bottom up."""

    def __init__(self, variables: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.places = 0
        order = self.random.sample(range(1, variables + 1), variables)
        self.family(order, one=True)

    def add(self, line: str) -> int:
        self.lines.append(line.format(n=len(self.lines)))
        return len(self.lines) - 1

    def place(self) -> int:
        self.places += 1
        return self.places - 1

    def family(self, order: list[int], one: bool) -> list[int]:
        if len(order) == 1:
            place = self.place()
            if one or self.random.random() < 0.3:
                log = math.log(self.random.random())
                return [self.add(f"T {{n}} {place} {order[0]} {log!r}")]
            return [self.add(f"L {{n}} {place} {sign * order[0]}") for sign in (1, -1)]
        cut = self.random.randrange(1, len(order))
        primes, subs = self.family(order[:cut], one=False), self.family(order[cut:], one=False)
        place = self.place()
        cells = [(p, s) for p in primes for s in subs]
        count = 1 if one else min(len(cells), 3)
        groups: list[list[tuple[int, int]]] = [[] for _ in range(count)]
        for number, cell in enumerate(cells):
            groups[number % count].append(cell)
        return [self.decision(place, group) for group in groups]

    def decision(self, place: int, cells: list[tuple[int, int]]) -> int:
        weights = [self.random.random() for _ in cells]
        told = (
            f"{p} {s} {math.log(w / sum(weights))!r}"
            for (p, s), w in zip(cells, weights, strict=True)
        )
        return self.add(f"D {{n}} {place} {len(cells)} {' '.join(told)}")

    def __str__(self) -> str:
        return f"psdd {len(self.lines)}\n" + "\n".join(self.lines) + "\n"


MADE = st.builds(Made, st.integers(1, 7), SEEDS).map(str)


@PATHS
@given(MADE)
def test_made_up_psdds_are_normalised_and_come_back(tmp_path: Path, text: str) -> None:
    circuit = read(tmp_path, text)
    assert probabilities(circuit).sum().item() == pytest.approx(1.0, abs=1e-12)
    comes_back(circuit, tmp_path)


@PATHS
@given(MADE, st.sampled_from([torch.float32, torch.float64]))
def test_made_up_psdds_are_compiled_right(tmp_path: Path, text: str, dtype: torch.dtype) -> None:
    circuit = read(tmp_path, text)
    model = pf.compile(circuit, dtype=dtype)
    states = enumerate_states(circuit)
    wanted = pf.reference_log_prob(circuit, states)
    torch.testing.assert_close(model.log_prob(states).double(), wanted, rtol=1e-5, atol=1e-5)
    nothing = torch.full((1, circuit.num_variables), torch.nan)
    best = enumerate_mpe(circuit, nothing)[1]
    torch.testing.assert_close(model.mpe(nothing).log_value.double(), best, rtol=1e-5, atol=1e-5)


@PATHS
@given(deterministic_circuits())
def test_decision_diagrams_come_back(tmp_path: Path, circuit: pf.Circuit) -> None:
    comes_back(circuit, tmp_path)


@PATHS
@given(SEEDS, st.integers(1, 6))
def test_chow_liu_trees_come_back(tmp_path: Path, seed: int, count: int) -> None:
    """Products of many inputs, layers of two units."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(2, (30, count), generator=generator)
    data[0], data[1] = 0, 1
    again = comes_back(pf.chow_liu(data), tmp_path)
    assert again.num_variables == count


@PATHS
@given(circuits(max_variables=4))
def test_any_circuit_comes_back_or_is_refused(tmp_path: Path, circuit: pf.Circuit) -> None:
    try:
        comes_back(circuit, tmp_path)
    except (pf.StructureError, pf.PropertyRequired) as error:
        assert "not a PSDD" in str(error)
        assert "Layer" in str(error)


def bit(variable: int, value: int) -> pf.InputLayer:
    return pf.InputLayer(variable, pf.Indicator(value))


def coin(variable: int) -> pf.InputLayer:
    return pf.InputLayer.random(variable, pf.Bernoulli())


def test_sums_of_sums_and_longer_products_by_hand(tmp_path: Path) -> None:
    def branch(value: int) -> pf.ProductLayer:
        rest = [pf.ProductLayer([bit(1, v), coin(2), coin(3)]) for v in (0, 1)]
        inner = pf.SumLayer(rest, pf.Parameter.from_probs([[0.5, 0.5]]))
        return pf.ProductLayer([bit(0, value), inner])

    once = pf.SumLayer([branch(0)], pf.Parameter.from_probs([[1.0]]))
    outer = pf.SumLayer([once, branch(1)], pf.Parameter.from_probs([[0.25, 0.75]]))
    comes_back(pf.Circuit(outer), tmp_path)
    nested = pf.SumLayer([outer, outer], pf.Parameter.from_probs([[1.0, 0.0]]))
    comes_back(pf.Circuit(nested), tmp_path)
    wide = pf.ProductLayer([pf.InputLayer(v, pf.Indicator([0, 1]), 2) for v in (0, 1)], "kronecker")
    table = pf.SumLayer([wide], pf.Parameter.from_probs([[0.1, 0.2, 0.3, 0.4]]))
    found = probabilities(comes_back(pf.Circuit(table), tmp_path))
    torch.testing.assert_close(found, numbers(0.1, 0.2, 0.3, 0.4), rtol=0.0, atol=1e-12)


def test_mixtures_over_one_variable_are_one_node(tmp_path: Path) -> None:
    odds = [pf.Parameter(torch.logit(numbers(p))) for p in (0.2, 0.6)]
    coins = [pf.InputLayer(0, pf.Bernoulli(), 1, {"logits": p}) for p in odds]
    mixed = pf.Circuit(pf.SumLayer(coins, pf.Parameter.from_probs([[0.5, 0.5]])))
    found = comes_back(mixed, tmp_path)
    assert len(found.layers) == 1
    torch.testing.assert_close(probabilities(found), numbers(0.6, 0.4), rtol=0.0, atol=1e-12)


def test_what_is_not_a_psdd_is_refused(tmp_path: Path) -> None:
    half = pf.Parameter.from_probs([[0.5, 0.5]])
    overlap = pf.SumLayer([pf.ProductLayer([coin(0), bit(1, 0)]) for _ in (0, 1)], half)
    partly = pf.SumLayer([pf.ProductLayer([x, bit(1, 0)]) for x in (bit(0, 0), coin(0))], half)
    unlike = pf.SumLayer(
        [pf.ProductLayer([bit(0, 0), coin(1)]), pf.ProductLayer([coin(1), bit(0, 1)])], half
    )
    three = pf.InputLayer.random(0, pf.Categorical(3))
    real = pf.InputLayer.random(0, pf.Gaussian())
    for root, refused, match in (
        (overlap, pf.PropertyRequired, r"below SumLayer\(2 inputs, 1 units\) can be true at once"),
        (partly, pf.PropertyRequired, "can be true at once"),
        (unlike, pf.StructureError, "SumLayer.* split variables unlike"),
        (three, pf.StructureError, "Categorical.* is not over a binary variable"),
        (real, pf.StructureError, "Gaussian.* is not over a binary variable"),
    ):
        with pytest.raises(refused, match=match):
            pf.write_psdd(pf.Circuit(root), tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_deep_psdds(tmp_path: Path) -> None:
    deep = 1_100  # more than frames may be
    pairs = [bit(deep, 0), bit(deep, 1)]
    for v in reversed(range(deep)):
        pairs = [
            pf.SumLayer(
                [pf.ProductLayer([bit(v, value), pairs[value ^ k]]) for value in (0, 1)],
                pf.Parameter.from_probs([[0.5, 0.5]]),
            )
            for k in (0, 1)
        ]
    circuit = pf.Circuit(pairs[0])
    pf.write_psdd(circuit, tmp_path / "a", tmp_path / "v")
    again = pf.read_psdd(tmp_path / "a", tmp_path / "v")
    pf.write_psdd(again, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    left = [pf.ProductLayer([bit(0, k), bit(1, k)]) for k in (0, 1)]
    for v in range(2, 1_100):  # families whose disjointness rests on the deepest variable
        left = [pf.ProductLayer([prime, coin(v)]) for prime in left]
    root = pf.SumLayer(left, pf.Parameter.from_probs([[0.5, 0.5]]))
    pf.write_psdd(pf.Circuit(root), tmp_path / "c")
    assert pf.read_psdd(tmp_path / "c").num_variables == 1_100


BROKEN = [
    ("", "is not 'psdd' and a number"),
    ("psdd 0\n", "truncated"),
    ("psdd\nL 0 0 1\n", "line 1 is not 'psdd'"),
    ("psdd -1\nL 0 0 1\n", "line 1 is not 'psdd'"),
    ("c\nsdd 1\nL 0 0 1\n", "line 2 is not 'psdd'"),
    ("psdd " + "9" * 10_000 + "\nL 0 0 1\n", "line 1 is not 'psdd'"),
    (TWO[: TWO.index("D 0")].replace("psdd 5", "psdd 9"), "has 4 nodes, not 9, 3 unused"),
    (
        TWO.replace("psdd 5", "psdd 9").replace("D 0", "L 6 0 1\nD 0"),
        "has 6 nodes, not 9, 1 unused",
    ),
    (TWO[:-20], "line 8: .*'-'"),
    (TWO[:-24], "line 8: 2 elements do not fit 4 numbers"),
    (TWO.replace("1 2 3 12", "1 999999999999999999999 3 12"), "elements do not fit"),
    (TWO.replace("1 2 3 12", "1 0 3 12"), "elements do not fit"),
    (TWO.replace("2 3 12", "2 3 11"), "line 8: node 11 is in no line above"),
    (TWO.replace("L 5 0", "L 3 0"), "line 7: node 3 is there already"),
    (TWO.replace("L 5 0", "L -5 0"), "line 7: node -5 .*negative"),
    (TWO.replace("L 5 0 -1", "L 5 0 0"), "line 7: variables are counted from 1"),
    (TWO.replace("L 5 0 -1", "L 5 0 x"), "line 7: .*'x'"),
    (TWO.replace("L 5 0 -1", "L 5 0 -0_1"), "line 7: '-0_1' is not a number"),
    (TWO.replace("L 5 0 -1", "L 5 \N{ARABIC-INDIC DIGIT ZERO} -1"), "line 7: .*is not a number"),
    (TWO.replace("-0.35667", "-0.3_5667"), "line 8: '-0.3_5.*is not a number"),
    (TWO.replace("L 5 0 -1", "X 5 0 -1"), "line 7: not a line of a PSDD"),
    (TWO.replace("L 5 0 -1", "L 5 0 -1 7"), "line 7: not a line of a PSDD"),
    (TWO.replace("L 5 0 -1", "L 5"), "line 7: .*four words"),
    (TWO.replace("L 5 0 -1", "L 5 0 -3"), "line 7: vtree node 0 is something else"),
    (TWO.replace("-0.35667", "-0.45667"), "line 8: weights sum to 0.93"),
    (TWO.replace("-0.35667494393873245", "0.35667"), "line 8: logarithms must not be positive"),
    (TWO.replace("-0.35667494393873245", "nan"), "line 8: logarithms must not be positive"),
    (TWO.replace("-0.35667494393873245", "inf"), "line 8: logarithms must not be positive"),
    (TWO.replace("-0.35667494393873245", "-inf"), "line 8: log-weights must be finite"),
    (TWO.replace("-0.2231435513142097", "-0.4"), "line 5: weights sum to 0.87"),
    (TWO.replace("-0.10536051565782628", "0.1"), "line 3: logarithms must not be positive"),
    (TWO.replace("-0.10536051565782628", "nan"), "line 3: logarithms must not be positive"),
    (TWO.replace(" 4 2 -", " 4 3 -"), "variables must be 1..D, but 2 is missing"),
    (XOR.replace("D 7 3 1 4 6 0", "D 7 3 1 4 6 -0.5"), "line 9: weights sum to 0.60"),
    (XOR.replace("1 1 2 -0.9", "1 2 1 -0.9").replace("1 2 -0.9", "2 1 -0.9"), "different vtree"),
    (XOR.replace("L 2 2 2", "L 2 2 1").replace("L 3 2 -2", "L 3 2 -1"), "two leaves"),
    (XOR.replace("psdd 8", "psdd 9") + "L 8 9 4\n", "roots"),
    (TWO.encode("utf-16"), "not text"),
    (TWO.encode() + b"\xff", "not text"),
    (bytes(range(256)), "not text"),
]


@pytest.mark.parametrize(("text", "match"), BROKEN)
def test_broken_files_are_refused(tmp_path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(pf.FileFormatError, match=match) as caught:
        read(tmp_path, text)
    assert "given.psdd" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (TWO_VTREE.replace("vtree 3", "vtree 4"), "has 3 nodes, not 4"),
        (TWO_VTREE.replace("vtree 3", "psdd 3"), "is not 'vtree'"),
        (
            TWO_VTREE.replace("I 1 0 4", "I 1 4 0"),
            "line 8: vtree node 1 is something else",
        ),
        (
            TWO_VTREE.replace("L 0 1", "L 0 2").replace("L 4 2", "L 4 1"),
            "vtree node 4 is something",
        ),
        (TWO_VTREE.replace("I 1 0 4", "I 1 0 5"), "vtree node 5 is nowhere"),
        (TWO_VTREE.replace("I 1 0 4", "I 1 0 0"), "two parents"),
        (TWO_VTREE.replace("I 1 0 4", "I 1 0 1"), "not below its root"),
        (TWO_VTREE.replace("L 4 2", "L 0 2"), "line 4: vtree node 0 is there already"),
        (TWO_VTREE.replace("L 4 2", "L 4 0"), "line 4: variables are counted from 1"),
        (TWO_VTREE.replace("L 4 2", "L 4 1"), "two leaves"),
        (TWO_VTREE.replace("L 4 2", "L 4 0_2"), "line 4: '0_2' is not a number"),
        (TWO_VTREE.replace("L 4 2", "L 4"), "line 4: "),
        (TWO_VTREE.replace("L 4 2", "I 4 2"), "line 4: expected"),
        ("vtree 5\nL 0 1\nL 4 2\nI 1 0 4\nL 8 3\nI 9 1 8\n", "its root is at vtree node 1"),
        ("vtree 5\nL 0 1\nL 4 2\nI 1 0 4\nI 6 7 7\nI 7 6 6\n", "two parents"),
        ("vtree 5\nL 0 1\nI 5 6 7\nI 6 5 8\nL 7 2\nL 8 3\n", "not below its root"),
    ],
)
def test_other_vtrees_are_refused(tmp_path: Path, text: str, match: str) -> None:
    vtree = write(tmp_path, text, "given.vtree")
    with pytest.raises(pf.FileFormatError, match=match):
        pf.read_psdd(write(tmp_path, TWO), vtree)


@pytest.mark.parametrize("count", [4, 19])
def test_another_count_is_read_with_a_warning(tmp_path: Path, count: int) -> None:
    other = TWO.replace("psdd 5", f"psdd {count}")
    with pytest.warns(
        pf.FileFormatWarning, match=f"counts {count} nodes, but has 5; give the vtree"
    ):
        circuit = read(tmp_path, other)
    torch.testing.assert_close(probabilities(circuit), probabilities(read(tmp_path, TWO)))
    vtree = write(tmp_path, TWO_VTREE, "given.vtree")
    with pytest.warns(pf.FileFormatWarning, match="has 5$"):
        pf.read_psdd(write(tmp_path, other), vtree)


@pytest.mark.parametrize("count", [7, 40])
def test_nodes_that_nothing_uses_are_read_with_a_warning(tmp_path: Path, count: int) -> None:
    """With another count as well, the vtree says whether the root is there."""
    loose = TWO.replace("L 5 0 -1", "T 6 4 2 -0.1\nT 8 0 1 -0.2\nL 5 0 -1")
    text = loose.replace("psdd 5", f"psdd {count}")
    vtree = write(tmp_path, TWO_VTREE, "given.vtree")
    with pytest.warns(pf.FileFormatWarning) as told:
        circuit = pf.read_psdd(write(tmp_path, text), vtree)
    assert "nothing uses 2 of its nodes" in str(told[-1].message)
    assert len(told) == 1 + (count == 40)
    torch.testing.assert_close(probabilities(circuit), probabilities(read(tmp_path, TWO)))
    if count == 40:
        with pytest.raises(pf.FileFormatError, match="7 nodes, not 40, 2 unused: is it truncated"):
            read(tmp_path, text)


def test_two_roots_and_another_count_are_refused(tmp_path: Path) -> None:
    """Either of them could be the last line of the whole file."""
    lines = TWO.splitlines()
    text = "\n".join([*lines, lines[-1].replace("D 0", "D 1"), ""]).replace("psdd 5", "psdd 9")
    with pytest.raises(pf.FileFormatError, match="truncated"):
        pf.read_psdd(write(tmp_path, text), write(tmp_path, TWO_VTREE, "given.vtree"))


CUT_OFF = "psdd 7\nL 0 1 1\nL 1 1 -1\nL 2 2 2\nL 3 2 -2\nD 4 0 2 0 3 -0.6931472 1 2 -0.6931472\n"


def test_a_smaller_psdd_that_is_whole_is_told_from_a_larger_one_by_the_vtree(
    tmp_path: Path,
) -> None:
    with pytest.warns(pf.FileFormatWarning, match="counts 7 nodes, but has 5; give the vtree"):
        pf.read_psdd(write(tmp_path, CUT_OFF))
    vtree = write(tmp_path, "vtree 5\nL 1 1\nL 2 2\nL 4 3\nI 0 1 2\nI 3 0 4\n", "given.vtree")
    with pytest.raises(pf.FileFormatError, match="root is at vtree node 0"):
        pf.read_psdd(write(tmp_path, CUT_OFF), vtree)


@PATHS
@given(st.data())
def test_what_was_cut_off_is_refused_or_says_all_the_same(
    tmp_path: Path, data: st.DataObject
) -> None:
    """Anywhere, down to the last digit, if the vtree is given; without it, or it is warned of."""
    text = data.draw(MADE | st.sampled_from([TWO, XOR]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.FileFormatWarning)
        whole = read(tmp_path, text)
    pf.write_psdd(whole, tmp_path / "again", tmp_path / "vtree")
    text = (tmp_path / "again").read_text()
    whole = pf.read_psdd(tmp_path / "again")
    if data.draw(st.booleans()):  # digits of the last line matter most
        cut = data.draw(st.integers(max(0, len(text) - 60), len(text)))
    else:
        cut = data.draw(st.integers(0, len(text)))
    counts = text[text.index("psdd") :].split()[1]
    other = data.draw(st.sampled_from([counts, "3", "1000"]))
    part = text[:cut].replace(f"psdd {counts}\n", f"psdd {other}\n")
    vtree = None if other == counts else tmp_path / "vtree"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", pf.FileFormatWarning)
        try:
            found = pf.read_psdd(write(tmp_path, part), vtree)
        except pf.FileFormatError:
            return
    if vtree is None and told:
        assert "give the vtree, to be sure" in str(told[0].message)
        return
    torch.testing.assert_close(
        pf.reference_log_prob(found, enumerate_states(found)),
        pf.reference_log_prob(whole, enumerate_states(whole)),
        rtol=0.0,
        atol=0.0,
    )


@PATHS
@given(st.data())
def test_damaged_files_are_refused_or_read_but_nothing_else(
    tmp_path: Path, data: st.DataObject
) -> None:
    text = bytearray(data.draw(st.sampled_from([TWO, XOR, TWO_VTREE])).encode())
    is_vtree = text.startswith(b"c left")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        length = data.draw(st.integers(0, 3))
        text[place : place + length] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"-", b" 0 ", b"9", b"\n", b"inf", b"1e999"])
        )
    psdd = write(tmp_path, TWO if is_vtree else bytes(text))
    vtree = write(tmp_path, bytes(text), "given.vtree") if is_vtree else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.FileFormatWarning)
        try:
            pf.read_psdd(psdd, vtree)
        except pf.FileFormatError as error:
            assert str(tmp_path) in str(error)


def test_a_file_is_replaced_only_when_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    circuit, path = read(tmp_path, TWO), tmp_path / "kept"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            pf.write_psdd(circuit, path)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(FileNotFoundError):
        pf.write_psdd(circuit, tmp_path / "nowhere" / "file")
    with pytest.raises(FileNotFoundError):
        pf.read_psdd(tmp_path / "nothing")
