"""Networks of tables as files: against the product of their tables, state by state."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.algebra import elimination

PATHS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

# rain, sprinkler given rain, wet given both
BAYES = """BAYES
3
2 2 2
3
1 0
2 0 1
3 0 1 2

2
 0.8 0.2
4
 0.6 0.4
 0.99 0.01
8
 1.0 0.0 0.1 0.9
 0.2 0.8 0.01 0.99
"""
GRID = (
    "MARKOV 4 2 3 2 2 4 2 0 1 2 1 2 2 3 2 2 0 3 6 1 2 3 4 5 0 6 .5 1 0 2 1 1 4 3 1 1 2 4 1 9 0 1\n"
)

Tables = list[tuple[tuple[int, ...], list[float]]]


class Made:
    """A network of random tables."""

    def __init__(self, sizes: list[int], tables: Tables) -> None:
        self.sizes, self.tables = sizes, tables

    def __str__(self) -> str:
        scopes = "\n".join(" ".join(map(str, (len(s), *s))) for s, _ in self.tables)
        values = "\n\n".join(f"{len(v)}\n{' '.join(map(repr, v))}" for _, v in self.tables)
        sizes = " ".join(map(str, self.sizes))
        return f"MARKOV\n{len(self.sizes)}\n{sizes}\n{len(self.tables)}\n{scopes}\n\n{values}\n"

    def weights(self) -> Tensor:
        """The product of all tables, for every state."""
        found = []
        for state in states(self.sizes).tolist():
            weight = 1.0
            for scope, values in self.tables:
                place = 0
                for v in scope:
                    place = place * self.sizes[v] + state[v]
                weight *= values[place]
            found.append(weight)
        return torch.tensor(found, dtype=torch.float64)


def states(sizes: list[int]) -> Tensor:
    return torch.tensor(list(itertools.product(*map(range, sizes))))


@st.composite
def networks(draw: st.DrawFn) -> Made:
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    scopes = st.lists(st.integers(0, len(sizes) - 1), max_size=3, unique=True)
    tables: Tables = []
    for scope in draw(st.lists(scopes, max_size=6)):
        count = math.prod(sizes[v] for v in scope)
        number = st.sampled_from([0.0, 1.0, 2.0, 0.25, 1e-9, 3e5])
        values = draw(st.lists(number, min_size=count, max_size=count))
        tables.append((tuple(scope), values))
    return Made(sizes, tables)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "given.uai"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@PATHS
@given(networks())
def test_it_is_the_product_of_its_tables(tmp_path: Path, made: Made) -> None:
    weights, path = made.weights(), write(tmp_path, str(made))
    if not weights.any():
        with pytest.raises(pf.FileFormatError, match="no state has a weight above zero"):
            pf.read_uai(path)
        return
    circuit, log_partition = pf.read_uai(path)
    assert list(circuit.num_categories) == made.sizes
    assert log_partition == pytest.approx(weights.sum().log().item(), abs=1e-9)
    found = pf.reference_log_prob(circuit, states(made.sizes)).exp()
    torch.testing.assert_close(found, weights / weights.sum(), rtol=1e-9, atol=1e-12)


def test_a_bayesian_network_by_hand(tmp_path: Path) -> None:
    circuit, log_partition = pf.read_uai(write(tmp_path, BAYES))
    assert log_partition == pytest.approx(0.0, abs=1e-12)
    model = pf.compile(circuit, dtype=torch.float64)
    wet = torch.tensor([[torch.nan, torch.nan, 1.0]])
    rain = model.marginals(wet)[0, 0, 1].exp().item()
    assert rain == pytest.approx(0.16038 / 0.44838, abs=1e-12)


def test_a_loop_by_hand(tmp_path: Path) -> None:
    """Sizes differ, tables name variables in any order, zeros stay zeros."""
    circuit, log_partition = pf.read_uai(write(tmp_path, GRID))
    tables: Tables = [
        ((0, 1), [1, 2, 3, 4, 5, 0]),
        ((1, 2), [0.5, 1, 0, 2, 1, 1]),
        ((2, 3), [3, 1, 1, 2]),
        ((0, 3), [1, 9, 0, 1]),
    ]
    weights = Made([2, 3, 2, 2], tables).weights()
    assert log_partition == pytest.approx(weights.sum().log().item(), abs=1e-12)
    found = pf.reference_log_prob(circuit, states([2, 3, 2, 2])).exp()
    torch.testing.assert_close(found, weights / weights.sum())


def test_a_long_chain_is_a_circuit_of_its_width(tmp_path: Path) -> None:
    length = 300
    pairs = "\n".join(f"2 {v} {v + 1}" for v in range(length - 1))
    tables = "\n".join("4 2 1 1 2" for _ in range(length - 1))
    text = f"MARKOV\n{length}\n{'2 ' * length}\n{length - 1}\n{pairs}\n{tables}\n"
    circuit, log_partition = pf.read_uai(write(tmp_path, text))
    assert log_partition == pytest.approx(math.log(2) + (length - 1) * math.log(3))
    assert max(layer.units for layer in circuit.layers) == 2


BROKEN = [
    ("", "truncated"),
    ("\n", "truncated"),
    ("MARKOV\n", "truncated"),
    ("LDAG 1 2 0\n", "not a MARKOV or BAYES network"),
    ("MARKOV 0 0\n", "the number of variables must be at least 1"),
    ("MARKOV 999999999 2\n", "is truncated: 999999999 more were announced"),
    ("MARKOV 1 0 0\n", "a number of values must be at least 1"),
    ("MARKOV 1 2 x\n", "number of tables must be at least 0, is 'x'"),
    ("MARKOV 1 2 " + "9" * 5000 + "\n", "number of tables"),
    (GRID[:-1], "no line break"),
    (GRID.replace("2 0 1 2 1", "2 0 7 2 1"), r"about variables \(0, 7\), of 0\.\.3"),
    (GRID.replace("2 0 1 2 1", "2 0 0 2 1"), r"about variables \(0, 0\)"),
    (GRID.replace("6 1 2 3", "5 1 2 3"), "has 5 values, but its variables 6"),
    (GRID.replace("9 0 1", "9 0 1 1"), "1 words too many"),
    (GRID.replace("9 0 1", "9 0"), "is truncated"),
    (GRID.replace("9 0 1", "9 0 -1"), "must be at least 0, not -1"),
    (GRID.replace("9 0 1", "9 0 nan"), "must be at least 0, not nan"),
    (GRID.replace("9 0 1", "9 0 1e999"), "must be at least 0, not inf"),
    (GRID.replace("9 0 1", "9 0 x"), r"word \d+: 'x' is not a number"),
    (GRID.replace("9 0 1", "9 0 1_0"), r"word \d+: '1_0' is not a number"),
    (GRID.encode("utf-16"), "ascii"),
]


@pytest.mark.parametrize(("text", "match"), BROKEN)
def test_broken_files_are_refused(tmp_path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(pf.FileFormatError, match=match) as refused:
        pf.read_uai(write(tmp_path, text))
    assert "given.uai" in str(refused.value)


@PATHS
@given(networks(), st.data())
def test_what_was_cut_off_is_refused(tmp_path: Path, made: Made, data: st.DataObject) -> None:
    text = str(made).rstrip() + "\n"
    part = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(pf.FileFormatError):
        pf.read_uai(write(tmp_path, part))


@PATHS
@given(st.data())
def test_damaged_files_are_refused_or_read_but_nothing_else(
    tmp_path: Path, data: st.DataObject
) -> None:
    text = bytearray(data.draw(st.sampled_from([BAYES, GRID])).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"-", b" 0 ", b"9", b"\n", b"1e9"])
        )
    try:
        pf.read_uai(write(tmp_path, bytes(text)))
    except pf.FileFormatError as error:
        assert str(tmp_path) in str(error)


def test_networks_that_are_too_wide_are_refused_at_once(tmp_path: Path) -> None:
    """All pairs of 40 variables: a table of 2^39 entries would be left."""
    pairs = list(itertools.combinations(range(40), 2))
    scopes = " ".join(f"2 {a} {b}" for a, b in pairs)
    text = f"MARKOV 40 {'2 ' * 40} {len(pairs)} {scopes} {'4 1 2 2 1 ' * len(pairs)}\n"
    with pytest.raises(pf.FileFormatError, match="the network is too wide"):
        pf.read_uai(write(tmp_path, text))


def test_the_size_is_that_of_the_whole_circuit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elimination, "MOST_WEIGHTS", 16)
    with pytest.raises(pf.FileFormatError, match="at most 16: the network is too wide"):
        pf.read_uai(write(tmp_path, GRID))


def test_variables_of_one_value_may_be_in_any_scope(tmp_path: Path) -> None:
    many = 1_100
    scope = " ".join(map(str, range(many)))
    text = f"MARKOV {many} {'1 ' * many} 1 {many} {scope} 1 7\n"
    assert pf.read_uai(write(tmp_path, text)).log_partition == pytest.approx(math.log(7))
