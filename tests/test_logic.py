"""Formulas: circuits and counts against all states, files against hostile ones, numbers by hand.

Legend: D variables, S states.
"""

from __future__ import annotations

import math
import random
from itertools import combinations, permutations
from pathlib import Path

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.testing import enumerate_states

SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def cnfs(draw: st.DrawFn, max_variables: int = 8) -> pf.CNF:
    """Small formulas, some without models, some with variables that no clause names."""
    count = draw(st.integers(1, max_variables))
    literal = st.integers(1, count).flatmap(lambda v: st.sampled_from([v, -v]))
    clause = st.lists(literal, min_size=draw(st.sampled_from([0, 1, 2])), max_size=4)
    return pf.CNF(draw(st.lists(clause, max_size=3 * count)), count)


@st.composite
def weights(draw: st.DrawFn, num_variables: int) -> Tensor:
    """Log-weights [D, 2]; some values are forbidden."""
    generator = torch.Generator().manual_seed(draw(SEEDS))
    given = 2.0 * torch.randn(num_variables, 2, generator=generator, dtype=torch.float64)
    forbidden = torch.rand(given.shape, generator=generator) < draw(st.sampled_from([0, 0, 0.15]))
    return given.masked_fill(forbidden, -torch.inf)


def states(cnf: pf.CNF) -> Tensor:
    """All of them [S, D]."""
    pairs = [torch.arange(2)] * cnf.num_variables
    return torch.cartesian_prod(*pairs).reshape(-1, cnf.num_variables)


def is_model(cnf: pf.CNF, rows: Tensor) -> Tensor:
    """Which rows [S, D] satisfy every clause."""
    holds = torch.ones(len(rows), dtype=torch.bool)
    for clause in cnf.clauses:
        any_literal = torch.zeros(len(rows), dtype=torch.bool)
        for literal in clause:
            any_literal |= rows[:, abs(literal) - 1] == (literal > 0)
        holds &= any_literal
    return holds


def log_weight(cnf: pf.CNF, log_weights: Tensor) -> Tensor:
    """Of every state [S]: the sum of its values' log-weights if it is a model, else -inf."""
    rows = states(cnf)
    total = log_weights[torch.arange(cnf.num_variables), rows].sum(-1)
    return total.masked_fill(~is_model(cnf, rows), -torch.inf)


def random_cnf(num_variables: int, num_clauses: int, seed: int) -> pf.CNF:
    """Random clauses of three variables; `random.random` draws alike in every Python."""
    draw = random.Random(seed).random
    clauses = []
    for _ in range(num_clauses):
        three = sorted(range(1, num_variables + 1), key=lambda _: draw())[:3]
        clauses.append([v if draw() < 0.5 else -v for v in three])
    return pf.CNF(clauses, num_variables)


def at_most(count: int, num_variables: int) -> pf.CNF:
    """No more than `count` variables are one."""
    variables = range(1, num_variables + 1)
    return pf.CNF([[-v for v in some] for some in combinations(variables, count + 1)])


def path(length: int) -> pf.CNF:
    """No two neighbours are both one: Fibonacci's numbers count these."""
    return pf.CNF([(-v, -v - 1) for v in range(1, length)], length)


def fibonacci(number: int) -> int:
    before, last = 0, 1
    for _ in range(number):
        before, last = last, before + last
    return before


# laws


@given(st.data(), cnfs(), st.booleans())
def test_the_circuit_is_the_weighted_models(
    data: st.DataObject, cnf: pf.CNF, ordered: bool
) -> None:
    log_weights = data.draw(weights(cnf.num_variables))
    wanted = log_weight(cnf, log_weights)
    if (wanted == -torch.inf).all():
        with pytest.raises(pf.Unsatisfiable):
            pf.compile_cnf(cnf, log_weights, ordered)
        return
    circuit, log_count = pf.compile_cnf(cnf, log_weights, ordered)
    assert log_count == pytest.approx(wanted.logsumexp(0).item(), abs=1e-12)
    rows = enumerate_states(circuit)
    torch.testing.assert_close(
        pf.reference_log_prob(circuit, rows), wanted.log_softmax(0), rtol=1e-12, atol=1e-12
    )
    found = pf.compile(circuit, dtype=torch.float64).log_prob(rows).detach()
    torch.testing.assert_close(found, wanted.log_softmax(0), rtol=1e-9, atol=1e-9)


@given(cnfs(), st.booleans())
def test_without_weights_models_are_counted(cnf: pf.CNF, ordered: bool) -> None:
    count = int(is_model(cnf, states(cnf)).sum())
    assert pf.model_count(cnf) == count
    if count:
        circuit, log_count = pf.compile_cnf(cnf, ordered=ordered)
        assert log_count == pytest.approx(math.log(count), abs=1e-12)
        found = pf.reference_log_prob(circuit, states(cnf))
        assert found[found > -torch.inf].tolist() == pytest.approx([-log_count] * count)


@given(st.data(), cnfs(), st.booleans())
def test_the_circuit_is_proved_deterministic(
    data: st.DataObject, cnf: pf.CNF, ordered: bool
) -> None:
    log_weights = data.draw(weights(cnf.num_variables))
    assume(log_weight(cnf, log_weights).max() > -torch.inf)
    assert pf.is_deterministic(pf.compile_cnf(cnf, log_weights, ordered).circuit)


@given(st.data(), cnfs())
def test_ordered_products_split_a_variable_from_all_later_ones(
    data: st.DataObject, cnf: pf.CNF
) -> None:
    log_weights = data.draw(weights(cnf.num_variables))
    assume(log_weight(cnf, log_weights).max() > -torch.inf)
    circuit = pf.compile_cnf(cnf, log_weights, ordered=True).circuit
    for layer in circuit.layers:
        if isinstance(layer, pf.ProductLayer):
            first, *later = sorted(circuit.scope(part) for part in layer.inputs)
            assert later == [tuple(range(first[0] + 1, circuit.num_variables))]
            assert len(first) == 1


@given(st.data(), cnfs(max_variables=6))
def test_weights_may_come_later_as_potentials(data: st.DataObject, cnf: pf.CNF) -> None:
    log_weights = data.draw(weights(cnf.num_variables))
    assume(log_weight(cnf, log_weights).max() > -torch.inf)
    circuit, log_count = pf.compile_cnf(cnf)
    unseen = torch.full((1, cnf.num_variables), torch.nan)
    soft = pf.Evidence(unseen, log_potentials=log_weights.unsqueeze(0))
    found = pf.compile(circuit, dtype=torch.float64).log_prob(soft).item() + log_count
    assert found == pytest.approx(pf.compile_cnf(cnf, log_weights).log_count, abs=1e-9)


@given(cnfs())
def test_mpe_is_exact(cnf: pf.CNF) -> None:
    log_weights = torch.arange(2.0 * cnf.num_variables, dtype=torch.float64).sin().view(-1, 2)
    wanted = log_weight(cnf, log_weights)
    assume(wanted.max() > -torch.inf)
    circuit, log_count = pf.compile_cnf(cnf, log_weights)
    unseen = torch.full((1, cnf.num_variables), torch.nan)
    found = pf.compile(circuit, dtype=torch.float64).mpe(unseen)
    assert found.exact
    assert is_model(cnf, found.values).all()
    assert found.log_value.item() + log_count == pytest.approx(wanted.max().item())


@given(cnfs(), SEEDS)
def test_the_order_of_clauses_and_names_of_variables_do_not_change_the_count(
    cnf: pf.CNF, seed: int
) -> None:
    rng = random.Random(seed)
    names = list(range(1, cnf.num_variables + 1))
    rng.shuffle(names)
    clauses = [[int(math.copysign(names[abs(x) - 1], x)) for x in c] for c in cnf.clauses]
    rng.shuffle(clauses)
    assert pf.model_count(pf.CNF(clauses, cnf.num_variables)) == pf.model_count(cnf)


# numbers by hand


def test_or_by_hand() -> None:
    # 0.3 and 0.6 of being one: all but 0.7 * 0.4
    log_weights = torch.tensor([[0.7, 0.3], [0.4, 0.6]], dtype=torch.float64).log()
    circuit, log_count = pf.compile_cnf(pf.CNF([(1, 2)]), log_weights)
    assert math.exp(log_count) == pytest.approx(0.72)
    found = pf.reference_log_prob(circuit, torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])).exp()
    assert found.tolist() == pytest.approx([0.0, 0.42 / 0.72, 0.12 / 0.72, 0.18 / 0.72])


@pytest.mark.parametrize("variables", [1, 2, 7, 60])
def test_no_clauses(variables: int) -> None:
    assert pf.model_count(pf.CNF([], variables)) == 2**variables
    for ordered in (False, True):
        circuit, log_count = pf.compile_cnf(pf.CNF([], variables), ordered=ordered)
        assert log_count == pytest.approx(variables * math.log(2))
        assert not any(isinstance(layer, pf.SumLayer) for layer in circuit.layers)


def test_no_variables() -> None:
    assert pf.model_count(pf.CNF([])) == 1
    assert pf.model_count(pf.CNF([[]])) == 0
    with pytest.raises(pf.StructureError, match="at least one variable"):
        pf.compile_cnf(pf.CNF([]))


def test_what_has_no_model() -> None:
    holes = range(3)
    pigeons = [[1 + 3 * pigeon + hole for hole in holes] for pigeon in range(4)]
    alone = [(-p[h], -q[h]) for p, q in combinations(pigeons, 2) for h in holes]
    for cnf in (pf.CNF([[]], 2), pf.CNF([(1,), (-1,)]), pf.CNF([*pigeons, *alone])):
        assert pf.model_count(cnf) == 0
        for ordered in (False, True):
            with pytest.raises(pf.Unsatisfiable, match=r"satisfies CNF\(") as caught:
                pf.compile_cnf(cnf, ordered=ordered)
            assert caught.value.cnf == cnf


def test_values_of_weight_zero_are_told_apart_from_the_formula() -> None:
    log_weights = torch.tensor([[0.0, -torch.inf]])
    with pytest.raises(pf.Unsatisfiable) as caught:
        pf.compile_cnf(pf.CNF([(1,)]), log_weights)
    assert caught.value.cnf == pf.CNF([(1,), (-1,)])


def test_permutations_are_counted() -> None:
    cell = [[1 + 5 * row + column for column in range(5)] for row in range(5)]
    lines = [*cell, *map(list, zip(*cell, strict=True))]
    at_most_one = [(-a, -b) for line in lines for a, b in combinations(line, 2)]
    cnf = pf.CNF([*lines, *at_most_one])
    assert pf.model_count(cnf) == 120
    draws = pf.compile(pf.compile_cnf(cnf).circuit).sample(50).view(-1, 5, 5)
    found = {tuple(draw) for draw in draws.argmax(-1).tolist()}
    assert found <= set(permutations(range(5)))


@pytest.mark.parametrize("length", [1, 2, 10, 1010])
def test_long_paths_are_fibonacci(length: int) -> None:
    wanted = fibonacci(length + 2)
    assert pf.model_count(path(length)) == wanted


def test_counts_beyond_floats_have_circuits() -> None:
    cnf = pf.CNF(path(40).clauses, 1100)
    wanted = fibonacci(42) * 2**1060
    assert pf.model_count(cnf) == wanted
    with pytest.raises(OverflowError):
        float(wanted)
    for ordered in (False, True):
        circuit, log_count = pf.compile_cnf(cnf, ordered=ordered)
        assert log_count == pytest.approx(math.log(wanted), rel=1e-12)
        assert len(circuit.layers) < 4 * 1100


def test_large_weights_do_not_overflow() -> None:
    log_weights = torch.tensor([[-2000.0, 1000.0], [3000.0, -1.0]])
    circuit, log_count = pf.compile_cnf(pf.CNF([(-1, 2)]), log_weights)
    wanted = 1000.0 + math.log1p(math.exp(-1.0))  # of 00: 1000, of 01: -2001, of 11: 999
    assert log_count == pytest.approx(wanted, rel=1e-12)
    found = pf.reference_log_prob(circuit, torch.tensor([[0, 0], [0, 1], [1, 1]])).tolist()
    assert found == pytest.approx([1000.0 - wanted, -2001.0 - wanted, 999.0 - wanted], rel=1e-12)


def test_independent_parts_are_never_multiplied_out() -> None:
    pairs = pf.CNF([(v, v + 1) for v in range(1, 200, 2)])
    assert pf.model_count(pairs) == 3**100
    circuit = pf.compile_cnf(pairs).circuit
    assert sum(isinstance(layer, pf.SumLayer) for layer in circuit.layers) == 100
    assert len(circuit.root.inputs) == 100


def test_what_comes_again_is_shared() -> None:
    # after i variables only the number of ones so far counts: 0, 1 or 2, the last decides nothing
    circuit = pf.compile_cnf(at_most(2, 12), ordered=True).circuit
    sums = [layer for layer in circuit.layers if isinstance(layer, pf.SumLayer)]
    of_level = [sum(circuit.scope(layer)[0] == level for layer in sums) for level in range(12)]
    assert of_level == [1, 2] + [2] * 8 + [1, 0]


def test_fifty_variables_with_150_clauses() -> None:
    # counted by CUDD, through dd 0.6.0: a row of benchmarks/logic.py
    cnf = random_cnf(50, 150, seed=0)
    assert pf.model_count(cnf) == 2_250_844
    circuit, log_count = pf.compile_cnf(cnf)
    assert log_count == pytest.approx(math.log(2_250_844))
    assert pf.is_deterministic(circuit)
    assert is_model(cnf, pf.compile(circuit).sample(200)).all()


# what is refused


@pytest.mark.parametrize(
    ("clauses", "num_variables", "message"),
    [
        ([(1, 0)], None, "literal 0"),
        ([(1, 2), (3, -4)], 3, "3 variables are too few: a literal names number 4"),
        ([], -1, "-1"),
        ([(1.5,)], None, "integers"),
        ([("1",)], None, "integers"),
    ],
)
def test_malformed_clauses_are_refused(
    clauses: list[tuple[int, ...]], num_variables: int | None, message: str
) -> None:
    with pytest.raises((pf.StructureError, pf.SettingError), match=message):
        pf.CNF(clauses, num_variables)


@pytest.mark.parametrize(
    ("log_weights", "message"),
    [
        (torch.zeros(2), r"must be \[2, 2\], got \(2,\)"),
        (torch.zeros(3, 2), r"must be \[2, 2\]"),
        (torch.tensor([[0.0, 0.0], [torch.nan, 0.0]]), "variable 1 are NaN"),
        (torch.tensor([[0.0, torch.inf], [0.0, 0.0]]), r"variable 0 are NaN or \+inf"),
    ],
)
def test_malformed_weights_are_refused(log_weights: Tensor, message: str) -> None:
    with pytest.raises(pf.StructureError, match=message):
        pf.compile_cnf(pf.CNF([(1, 2)]), log_weights)


def test_what_is_given_stays_as_it_was() -> None:
    clauses = [[2, 1, 1], [1, -1]]
    log_weights = torch.tensor([[0.5, 1.0], [0.0, -torch.inf]], requires_grad=True)
    before = log_weights.detach().clone()
    cnf = pf.CNF(clauses)
    assert not any(p.value.requires_grad for p in pf.compile_cnf(cnf, log_weights)[0].parameters)
    assert clauses == [[2, 1, 1], [1, -1]]
    assert torch.equal(log_weights.detach(), before)


# clauses as values


def test_clauses_are_simplified() -> None:
    cnf = pf.CNF([[3, -1, 3], iter([-1, 3]), [2, -2], [-3]])
    assert cnf.clauses == ((-1, 3), (-3,))
    assert cnf.num_variables == 3
    assert cnf == pf.CNF([(-1, 3), (-3,)])
    assert hash(cnf) == hash(pf.CNF([(-1, 3), (-3,)]))
    assert cnf != pf.CNF([(-1, 3), (-3,)], 4)
    assert pf.CNF(torch.tensor([[1, -2], [2, 3]])).clauses == ((1, -2), (2, 3))


# formulas as text

NAMES = ["a", "b", "rain", "Wet_2"]
OPERATORS = {"&": "{} & {}", "|": "{} | {}", "^": "{} ^ {}"}
ARROWS = {"->": "(~({}) | ({}))", "<->": "~(({}) ^ ({}))"}


def _joined(parts: tuple[tuple[str, str], str, tuple[str, str], bool]) -> tuple[str, str]:
    (left, left_python), operator, (right, right_python), space = parts
    text = f"{left} {operator} {right}" if space else f"{left}{operator}{right}"
    if operator in ARROWS:  # which Python lacks; parentheses, so that nothing else binds to them
        return f"({text})", ARROWS[operator].format(left_python, right_python)
    return text, OPERATORS[operator].format(left_python, right_python)


def _negated(part: tuple[str, str]) -> tuple[str, str]:
    return f"~{part[0]}", f"~{part[1]}"


def _parenthesised(part: tuple[str, str]) -> tuple[str, str]:
    return f"( {part[0]})", f"({part[1]})"


FORMULAS = st.recursive(
    st.sampled_from([(name, name) for name in NAMES]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([*OPERATORS, *ARROWS]), inner, st.booleans()).map(_joined),
        inner.map(_negated),
        inner.map(_parenthesised),
    ),
    max_leaves=12,
)


@given(FORMULAS)
@example(("~a&b", "~a & b"))
@example(("a|b&rain", "a | b & rain"))
@example(("a^b|rain&Wet_2^a", "a ^ b | rain & Wet_2 ^ a"))
def test_formulas_mean_what_they_mean_in_python(formula: tuple[str, str]) -> None:
    cnf = pf.CNF.from_formula(formula[0], NAMES)
    columns = dict(zip(NAMES, states(cnf).bool().unbind(1), strict=True))
    assert is_model(cnf, states(cnf)).tolist() == eval(formula[1], {}, columns).tolist()


@pytest.mark.parametrize(
    ("loose", "tight"),
    [
        ("a -> b -> rain", "a -> (b -> rain)"),
        ("a <-> b -> rain", "a <-> (b -> rain)"),
        ("a -> b | rain", "a -> (b | rain)"),
        ("a | b -> rain", "(a | b) -> rain"),
        ("a -> b <-> rain -> a", "(a -> b) <-> (rain -> a)"),
        ("~a -> b", "(~a) -> b"),
    ],
)
def test_arrows_bind_loosely(loose: str, tight: str) -> None:
    assert pf.CNF.from_formula(loose, NAMES) == pf.CNF.from_formula(tight, NAMES)


def test_formulas_become_few_clauses() -> None:
    names = [f"x{v}" for v in range(2000)]
    every, some = (pf.CNF.from_formula(sign.join(names), names) for sign in "&|")
    assert every.clauses == tuple((v,) for v in range(1, 2001))
    assert some.clauses == (tuple(range(1, 2001)),)
    nested = "(" * 5000 + "~" * 5001 + "x0" + ")" * 5000
    assert pf.CNF.from_formula(nested, names).clauses == ((-1,),)
    parity = pf.CNF.from_formula("^".join(names[:10]), names[:10])
    assert len(parity.clauses) == pf.model_count(parity) == 512
    written_out = names[0]
    for name in names[1:6]:
        written_out = f"(({written_out}) & ~{name} | ~({written_out}) & {name})"
    assert set(pf.CNF.from_formula(written_out, names[:6]).clauses) == set(
        pf.CNF.from_formula("^".join(names[:6]), names[:6]).clauses
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "character 1: a name, ~ or ( is missing"),
        ("a &", "character 4: a name, ~ or ( is missing"),
        ("a & ) b", "character 5: a name, ~ or ( is missing"),
        ("a b", "character 3: an operator is missing"),
        ("a ~b", "character 3: an operator is missing"),
        ("a (b)", "character 3: an operator is missing"),
        ("(a | b", "character 7: a ) is missing"),
        ("a | b)", "character 6: this ) closes nothing"),
        ("a | c", "character 5: c is not among the variables"),
        ("a + b", "character 3: no part of a formula"),
        ("a <- b", "character 3: no part of a formula"),
        ("| a", "character 1: a name, ~ or ( is missing"),
    ],
)
def test_what_is_no_formula_is_refused(text: str, message: str) -> None:
    with pytest.raises(pf.StructureError) as caught:
        pf.CNF.from_formula(text, ["a", "b"])
    assert message in str(caught.value)


def test_formulas_that_explode_are_refused() -> None:
    names = [f"x{v}" for v in range(60)]
    for text in ("^".join(names), " | ".join(f"({a} & {b})" for a, b in combinations(names, 2))):
        with pytest.raises(pf.StructureError, match="more than 10,000 clauses"):
            pf.CNF.from_formula(text, names)
    with pytest.raises(pf.StructureError, match="must differ"):
        pf.CNF.from_formula("a", ["a", "b", "a"])


# files


@given(cnfs())
def test_files_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, cnf: pf.CNF
) -> None:
    file = tmp_path_factory.mktemp("cnf") / "a.cnf"
    pf.write_dimacs(cnf, file)
    assert pf.read_dimacs(file) == cnf


def test_files_as_others_write_them(tmp_path: Path) -> None:
    file = tmp_path / "a.cnf"
    lines = ["c K\u00f6rper", "c p weight 1 0.5 0", "", "  p  cnf 4 3 \r", "1 -2", "0 3"]
    lines += ["comment", " 4 0 -1 0", "%", "0", ""]
    file.write_bytes("\n".join(lines).encode("latin-1"))
    assert pf.read_dimacs(file) == pf.CNF([(1, -2), (3, 4), (-1,)], 4)
    file.write_text("p cnf 2 1\n0\n")
    assert pf.read_dimacs(str(file)) == pf.CNF([[]], 2)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 0, "needs a line `p cnf"),
        ("c only\n", 1, "needs a line `p cnf"),
        ("1 2 0\n", 1, "needs a line `p cnf"),
        ("p cnf 3\n1 0\n", 1, "needs a line `p cnf"),
        ("p dnf 3 1\n1 0\n", 1, "needs a line `p cnf"),
        ("p cnf -3 1\n1 0\n", 1, "needs a line `p cnf"),
        ("p cnf three 1\n", 1, "'three' is not an integer"),
        ("p cnf 3 1\np cnf 3 1\n1 0\n", 2, "'p' is not an integer"),
        ("p cnf 3 2\n1 2 0\n1 x 0\n", 3, "'x' is not an integer"),
        ("p cnf 3 1\n1 2_0 0\n", 2, "'2_0' is not an integer"),
        ("p cnf 3 1\n1 --2 0\n", 2, "'--2' is not an integer"),
        ("p cnf 3 1\n1 2.0 0\n", 2, "'2.0' is not an integer"),
        (f"p cnf 3 1\n{'9' * 10_000} 0\n", 2, "is not an integer"),
        ("p cnf 3 1\n1 -4 0\n", 2, "literal -4, but only 3 variables"),
        ("p cnf 3 1\n1 2\n3\n", 3, "the last clause does not end with 0"),
        ("p cnf 3 2\n1 2 0\n", 2, "2 clauses were announced, 1 are there"),
        ("p cnf 3 1\n1 2 0 3 0\n", 2, "1 clauses were announced, 2 are there"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, text: str, line: int, message: str) -> None:
    file = tmp_path / "a.cnf"
    file.write_text(text)
    with pytest.raises(pf.FileFormatError) as caught:
        pf.read_dimacs(file)
    assert message in str(caught.value)
    assert f"a.cnf, line {line}: " in str(caught.value)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.cnf"
    pf.write_dimacs(random_cnf(12, 10, seed=1), file)
    text = file.read_text().rstrip()
    for end in range(len(text)):
        file.write_text(text[:end])
        with pytest.raises(pf.FileFormatError):
            pf.read_dimacs(file)


@settings(max_examples=of_fifty(200))
@given(st.binary(), st.booleans())
@example(b"\xff\xfe\x00p cnf", True)
def test_any_bytes_are_a_formula_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, with_header: bool
) -> None:
    file = tmp_path_factory.mktemp("cnf") / "a.cnf"
    file.write_bytes(b"p cnf 9 1\n" * with_header + content)
    try:
        cnf = pf.read_dimacs(file)
    except pf.FileFormatError:
        return
    assert cnf.num_variables >= 0


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pf.read_dimacs(tmp_path / "none.cnf")
