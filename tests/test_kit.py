"""The testing kit itself: it passes what is right, and every law catches something of its own."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.engine import Drawn
from pcflow.engine.leaves.truncated import Truncated
from pcflow.evidence import Intervals
from pcflow.learn.counts import Counts
from pcflow.testing import (
    LawBroken,
    check_circuit,
    check_density,
    circuit_cases,
    circuits,
    deterministic_circuits,
    mixed_families,
)
from pcflow.testing import laws as circuit_laws
from pcflow.testing.frequencies import band, chi_square, real_line

Queries = dict[str, Any]
GRID = torch.cartesian_prod(torch.arange(2), torch.arange(3)).double()
SHARES = torch.tensor([0.05, 0.1, 0.15, 0.3, 0.35, 0.05], dtype=torch.float64)


def broken_laws(check: Callable[[], None]) -> tuple[str, ...]:
    """The laws that a check finds broken."""
    with pytest.raises(LawBroken) as caught:
        check()
    return caught.value.laws


# densities whose states can be listed


def agrees(rows: Tensor) -> Tensor:
    return (rows.unsqueeze(1).isnan() | (rows.unsqueeze(1) == GRID)).all(dim=-1)  # [B, 6]


def log_marginal(rows: Tensor) -> Tensor:
    return (agrees(rows) * SHARES).sum(-1).log()


def sample_given(n: int, row: Tensor) -> Tensor:
    return GRID[torch.multinomial(agrees(row.unsqueeze(0))[0] * SHARES, n, replacement=True)]


def mpe(rows: Tensor) -> Tensor:
    return GRID[(agrees(rows) * SHARES).argmax(dim=-1)]


RIGHT: Queries = {
    "log_prob": log_marginal,
    "log_marginal": log_marginal,
    "sample": lambda n: sample_given(n, torch.full((2,), torch.nan)),
    "sample_given": sample_given,
    "mpe": mpe,
}


def check_table(**changed: Any) -> None:
    queries = {**RIGHT, **changed}
    log_prob = queries.pop("log_prob")
    check_density(log_prob, [2, 3], **{n: q for n, q in queries.items() if q is not None})


def test_a_table_of_probabilities_keeps_every_law_whatever_it_answers_with() -> None:
    check_table()
    check_table(
        log_prob=lambda x: log_marginal(x).numpy(),
        log_marginal=lambda x: log_marginal(x).tolist(),
        sample=lambda n: sample_given(n, torch.full((2,), torch.nan)).int().numpy(),
        mpe=lambda x: mpe(x).to(torch.float32),
    )


def remembering() -> Queries:
    """The next marginal after a conditional draw still sees that draw's evidence."""
    last: list[Tensor] = []

    def draw(n: int, row: Tensor) -> Tensor:
        last[:] = [row]
        return sample_given(n, row)

    def marginal(rows: Tensor) -> Tensor:
        seen = last.pop() if last else rows
        return log_marginal(torch.where(rows.isnan(), seen, rows))

    return {"sample_given": draw, "log_marginal": marginal}


def one_by_one(rows: Tensor) -> Tensor:
    """Right for several rows, wrong for a single one."""
    return log_marginal(rows) - (0.1 if len(rows) == 1 else 0.0)


def editing(rows: Tensor) -> Tensor:
    answer = log_marginal(rows)
    rows.nan_to_num_(nan=0.0)
    return answer


def mode_by_mode(rows: Tensor) -> Tensor:
    """The best value of every variable by itself: 1 and 1, but given 0 the second should be 2."""
    return torch.where(rows.isnan(), torch.tensor([1.0, 1.0], dtype=torch.float64), rows)


def other_value(rows: Tensor) -> Tensor:
    """Where only the second is known, it is answered with another."""
    wrong = rows[:, 0].isnan() & (rows[:, 1] == 0)
    return torch.where(wrong.unsqueeze(-1), GRID[4], mpe(rows))


def independent(n: int, row: Tensor) -> Tensor:
    """Missing values from their marginals: the evidence is kept, and not heard."""
    return torch.where(row.isnan(), RIGHT["sample"](n), row)


def deaf(n: int, row: Tensor) -> Tensor:
    return RIGHT["sample"](n)  # type: ignore[no-any-return]


def only(name: str, query: Callable[..., Any]) -> Queries:
    """Nothing but a log-probability and this."""
    return {**dict.fromkeys(RIGHT), "log_prob": log_marginal, name: query}


TABLES: dict[str, tuple[Queries, str]] = {
    "NaN": (
        only("log_prob", lambda x: log_marginal(x).where(x[:, 1] != 2, torch.nan)),
        "a log-probability is a number",
    ),
    "positive": (
        only("log_prob", lambda x: log_marginal(x).where(x[:, 1] != 2, 0.1)),
        "a log-probability is a number",
    ),
    "unnormalised": (
        only("log_prob", lambda x: log_marginal(x) - 0.01),
        "probabilities sum to one",
    ),
    "missing is zero": (
        {"log_marginal": lambda x: log_marginal(x.nan_to_num(nan=0.0))},
        "a marginal is the sum over completions",
    ),
    "NaN marginals": (
        {"log_marginal": lambda x: log_marginal(x) + 0 * x.sum(-1)},
        "a marginal is the sum over completions",
    ),
    "single rows": (
        only("log_prob", one_by_one),
        "log_prob: a batch is answered like its rows one by one",
    ),
    "single marginals": (
        {"log_marginal": one_by_one},
        "log_marginal: a batch is answered like its rows one by one",
    ),
    "memory": (
        remembering(),
        "log_marginal: a query does not see the evidence of the one before",
    ),
    "shape": (
        {"log_marginal": lambda x: log_marginal(x).unsqueeze(-1)},
        "log_marginal answers with the shape that it was asked for",
    ),
    "too many draws": (
        {"sample": lambda n: RIGHT["sample"](n + 1)},
        "sample answers with the shape that it was asked for",
    ),
    "editing": ({"log_marginal": editing}, "log_marginal does not edit what it is given"),
    "mode by mode": ({"mpe": mode_by_mode}, "no completion is better than the most probable state"),
    "another value": (
        {"mpe": other_value},
        "a most probable state is a completion of the evidence",
    ),
    "NaN states": (
        {"mpe": lambda x: mpe(x).where(~x.isnan().all(-1, keepdim=True), torch.nan)},
        "a most probable state is a completion of the evidence",
    ),
    "uniform draws": (
        {"sample": lambda n: GRID[torch.randint(6, (n,))]},
        "draws follow the distribution",
    ),
    "impossible draws": (
        {"sample": lambda n: RIGHT["sample"](n) * 1.5},
        "draws follow the distribution",
    ),
    "deaf draws": ({"sample_given": deaf}, "conditional draws are completions of the evidence"),
    "independent draws": (
        {"sample_given": independent},
        "conditional draws follow the conditional distribution",
    ),
}


@pytest.mark.parametrize(("changed", "law"), TABLES.values(), ids=TABLES)
def test_every_law_of_tables_catches_something_that_no_other_does(
    changed: Queries, law: str
) -> None:
    assert broken_laws(lambda: check_table(**changed)) == (law,)


def test_a_breach_names_the_smallest_evidence_and_both_answers() -> None:
    with pytest.raises(LawBroken) as caught:
        check_table(log_marginal=lambda x: log_marginal(x.nan_to_num(nan=0.0)), mpe=mode_by_mode)
    first, second = caught.value.breaches
    assert (first.witness, second.witness) == ("[?, ?]", "[0, ?]")
    assert float(first.expected) == pytest.approx(0.0, abs=1e-12)
    assert float(first.found) == pytest.approx(math.log(0.05), abs=1e-6)
    assert second.expected == f"[0, 2] of log-probability {math.log(0.15):.8g}"
    assert second.found == f"[0, 1] of log-probability {math.log(0.1):.8g}"
    assert str(caught.value).startswith("2 laws do not hold\na marginal is the sum")


def test_what_a_query_raises_says_what_was_asked() -> None:
    def refuse(rows: Tensor) -> Tensor:
        if (rows[:, 1] == 2).any():
            raise ZeroDivisionError("mine")
        return log_marginal(rows)

    def tire(rows: Tensor) -> Tensor:
        if len(rows) > 2:
            raise ZeroDivisionError("of many rows")
        return log_marginal(rows)

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        check_table(log_marginal=refuse)
    assert caught.value.__notes__ == ["log_marginal was asked: [?, 2], row 5 of 12"]
    with pytest.raises(ZeroDivisionError, match="of many rows") as caught:
        check_table(log_marginal=tire)
    assert caught.value.__notes__ == ["log_marginal was asked: 12 rows, the first [?, ?]"]


def test_impossible_evidence_is_asked_of_marginals_only() -> None:
    log = torch.tensor([0.0, 1.0]).log()

    def answer(rows: Tensor) -> Tensor:
        assert not (rows == 0).any()
        return torch.ones_like(rows)

    check_density(
        lambda x: log[x[:, 0].long()],
        [2],
        log_marginal=lambda x: log[x[:, 0].nan_to_num(nan=1.0).long()],
        sample_given=lambda n, row: answer(row).expand(n, 1),
        mpe=answer,
    )


# densities that cannot be listed: two correlated normal variables, and a coin that follows them

MEAN = torch.tensor([0.0, 1.0], dtype=torch.float64)
SHIFT = torch.tensor([[-2.0, -1.0], [2.0, 1.0]], dtype=torch.float64)  # of the components
COIN = torch.tensor([0.2, 0.7], dtype=torch.float64)


def parts(rows: Tensor) -> Tensor:
    x, coin = rows[:, None, :2], rows[:, None, 2]
    normal = -0.5 * (x - MEAN - SHIFT).square() - 0.5 * math.log(2 * math.pi)
    told = (coin * COIN + (1 - coin) * (1 - COIN)).log()
    return normal.nan_to_num(nan=0.0).sum(-1) + told.nan_to_num(nan=0.0) + math.log(0.5)  # [B, 2]


def joint(rows: Tensor) -> Tensor:
    return parts(rows).logsumexp(-1)


def draw_joint(n: int, row: Tensor | None = None) -> Tensor:
    row = torch.full((3,), torch.nan, dtype=torch.float64) if row is None else row
    unit = torch.multinomial(parts(row.unsqueeze(0))[0].softmax(-1), n, replacement=True)
    normal = MEAN + SHIFT[unit] + torch.randn(n, 2, dtype=torch.float64)
    coin = (torch.rand(n) < COIN[unit]).double().unsqueeze(-1)
    return torch.where(row.isnan(), torch.cat([normal, coin], dim=-1), row)


def complete_joint(rows: Tensor) -> Tensor:
    """The best of a grid, and uphill from there until nothing is gained."""
    out, line = rows.clone(), torch.linspace(-4, 4, 41, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line, torch.arange(2).double())
    for row, missing in zip(out, rows.isnan()[:, :2], strict=True):
        rivals = torch.where(row.isnan(), grid, row)
        row[:] = rivals[joint(rivals).argmax()]
        for _ in range(200):
            uphill = parts(row.unsqueeze(0))[0].softmax(-1) @ (MEAN + SHIFT)
            row[:2] = torch.where(missing, uphill, row[:2])
    return out


torch.manual_seed(0)
ROWS = draw_joint(600)
JOINT: Queries = {
    "log_prob": joint,
    "log_marginal": joint,
    "sample": draw_joint,
    "sample_given": draw_joint,
}


def check_joint(**changed: Any) -> None:
    queries = {**JOINT, **changed}
    check_density(queries.pop("log_prob"), [None, None, 2], **queries, rows=ROWS)


def test_densities_that_cannot_be_listed_keep_every_law() -> None:
    check_joint(mpe=complete_joint)


def floored(rows: Tensor) -> Tensor:
    return joint(rows).clamp_min(-700.0)


def deaf_joint(n: int, row: Tensor) -> Tensor:
    return torch.where(row.isnan(), draw_joint(n), row)


def missing_is_mean(rows: Tensor) -> Tensor:
    """Of nothing and of everything it is right."""
    filled = torch.where(rows.isnan(), torch.tensor([0.0, 1.0, 0.0]).double(), rows)
    whole = rows.isnan().all(-1) | ~rows.isnan().any(-1)
    return joint(torch.where(whole.unsqueeze(-1), rows, filled))


UNDRAWN: Queries = dict.fromkeys(("sample", "sample_given"))
JOINTS: dict[str, tuple[Queries, str]] = {
    "infinite": (
        {"log_prob": lambda x: joint(x) + torch.inf},
        "a log-probability is a number",
    ),
    "floor": ({"log_prob": floored, "log_marginal": floored}, "log-probabilities have no floor"),
    "unnormalised": (
        {"log_prob": lambda x: joint(x) + 0.1, "log_marginal": lambda x: joint(x) + 0.1},
        "of nothing at all the log-probability is 0",
    ),
    "another distribution": (
        {**UNDRAWN, "log_marginal": lambda x: joint(x - torch.tensor([0.5, 0.0, 0.0]))},
        "a marginal of a complete row is its log-probability",
    ),
    "missing is mean": (
        {**UNDRAWN, "log_marginal": missing_is_mean},
        "a marginal is the sum over one more variable",
    ),
    "single rows": (
        {"log_prob": lambda x: joint(x) - 0.1 * (len(x) == 1)},
        "log_prob: a batch is answered like its rows one by one",
    ),
    "far from best": (
        {"mpe": lambda x: torch.where(x.isnan(), torch.tensor([0.0, 9.0, 0.0]).double(), x)},
        "no completion is better than the most probable state",
    ),
    "NaN states": ({"mpe": lambda x: x}, "a most probable state is a completion of the evidence"),
    "wide draws": (
        {"sample": lambda n: draw_joint(n) * torch.tensor([1.5, 1, 1])},
        "draws follow the distribution",
    ),
    "impossible draws": ({"sample": lambda n: draw_joint(n) + 0.5}, "draws are possible"),
    "deaf draws": (
        {"sample_given": deaf_joint},
        "conditional draws follow the conditional distribution",
    ),
}


@pytest.mark.parametrize(("changed", "law"), JOINTS.values(), ids=JOINTS)
def test_every_law_of_rows_catches_something_that_no_other_does(changed: Queries, law: str) -> None:
    kept = {name: query for name, query in {**JOINT, **changed}.items() if query is not None}
    log_prob = kept.pop("log_prob")
    found = broken_laws(lambda: check_density(log_prob, [None, None, 2], **kept, rows=ROWS))
    assert found == (law,)


def test_rows_must_be_there_complete_and_in_range() -> None:
    with pytest.raises(ValueError, match="needs rows, or sample"):
        check_density(joint, [None, None, 2])
    for wrong in (ROWS[:, :2], ROWS + torch.tensor([0, 0, 0.5]), ROWS * torch.nan):
        with pytest.raises(ValueError, match="rows must be complete"):
            check_density(joint, [None, None, 2], rows=wrong)
    check_density(joint, [None, None, 2], sample=draw_joint)


def test_rows_of_probability_zero_are_asked_of_log_prob_only() -> None:
    def log_prob(rows: Tensor) -> Tensor:
        inside = (rows.isnan() | ((rows >= 0) & (rows <= 1))).all(-1)
        return torch.where(inside, 0.0, -torch.inf)

    def middle(rows: Tensor) -> Tensor:
        assert (log_prob(rows) == 0).all()
        return rows.nan_to_num(nan=0.5)

    rows = torch.rand(300, 2, dtype=torch.float64)
    rows[::2] += 2.0
    check_density(log_prob, [None, None], log_marginal=log_prob, mpe=middle, rows=rows)
    outside: Queries = {"sample": lambda n: torch.rand(n, 2) + 0.01, "rows": rows}
    found = broken_laws(lambda: check_density(log_prob, [None, None], **outside))
    assert found == ("draws are possible",)


def test_many_states_are_checked_on_rows() -> None:
    def log_prob(rows: Tensor) -> Tensor:
        return -math.log(2) * (~rows.isnan()).sum(-1).double()

    def sample(n: int) -> Tensor:
        return torch.randint(2, (n, 30))

    check_density(log_prob, [2] * 30, log_marginal=log_prob, sample=sample)
    check = {"log_marginal": log_prob, "sample": lambda n: 0 * sample(n)}
    found = broken_laws(lambda: check_density(log_prob, [2] * 30, **check))
    assert found == ("draws follow the distribution",)


# chance


def test_chi_square_has_the_level_that_it_says() -> None:
    probability = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.009, 0.001])
    draws = torch.multinomial(probability, 2_000 * 1_000, replacement=True).view(2_000, 1_000)
    p = torch.tensor([chi_square(torch.bincount(d, minlength=6), probability) for d in draws])
    for level in (0.5, 0.1, 0.01):
        assert abs((p < level).sum() - 2_000 * level) < 4 * math.sqrt(2_000 * level * (1 - level))
    assert chi_square(torch.tensor([500, 300, 150, 40, 10, 0]), probability) > 0.5
    assert chi_square(torch.tensor([500, 300, 100, 40, 60, 0]), probability) < 1e-9
    assert chi_square(torch.tensor([5, 1]), torch.tensor([1.0, 0.0])) == 0.0


def test_many_rare_states_are_compared_too() -> None:
    uniform = torch.full((4096,), 1 / 4096)
    assert chi_square(torch.bincount(torch.randint(4096, (2000,)), minlength=4096), uniform) > 1e-6
    half = torch.bincount(torch.randint(2048, (2000,)), minlength=4096)
    assert chi_square(half, uniform) < 1e-9


def test_integrals_over_the_real_line_by_hand() -> None:
    points, width = real_line(torch.randn(2_000, dtype=torch.float64) * 3 + 1)
    density = torch.exp(-0.5 * ((points - 1) / 3) ** 2) / (3 * math.sqrt(2 * math.pi))
    assert (density * width).sum().item() == pytest.approx(1.0, abs=1e-5)
    assert (density * width * points).sum().item() == pytest.approx(1.0, abs=1e-5)
    points, width = real_line(torch.rand(2_000, dtype=torch.float64))
    inside = ((points >= 0) & (points <= 1)).double()
    assert (inside * width).sum().item() == pytest.approx(1.0, abs=1e-3)
    assert band(10_000) == pytest.approx(math.sqrt(math.log(2e9) / 20_000))


# circuits


def test_our_circuits_keep_every_law() -> None:
    check_circuit(circuits(max_variables=4), of_fifty(10))
    check_circuit(circuits(max_variables=3, families=mixed_families()), of_fifty(6))
    check_circuit(deterministic_circuits(max_variables=5), of_fifty(5))


def test_a_circuit_with_too_many_states_to_list_is_checked_too() -> None:
    regions = pf.structure.quad_graph((4, 4))
    check_circuit(
        lambda g: pf.build_circuit(regions, pf.Categorical(3), 2, generator=g), examples=2
    )


@dataclass(frozen=True)
class Loaded(pf.Bernoulli):
    """A coin whose table sums to more than one."""

    def log_table(self, params: Any) -> Tensor:
        return super().log_table(params) + 0.1


def coins(generator: torch.Generator) -> pf.Circuit:
    return pf.hmm(2, 2, pf.Bernoulli(), generator=generator)


def test_a_family_that_is_not_normalised_is_found_in_the_smallest_circuit() -> None:
    with pytest.raises(LawBroken) as caught:
        check_circuit(lambda g: pf.Circuit(pf.InputLayer.random(0, Loaded(), generator=g)), 3)
    assert caught.value.laws == (
        "probabilities sum to one",
        "a marginal is the sum over completions",
    )
    written, layer, *_ = caught.value.breaches[0].subject.splitlines()
    assert written.startswith("circuit   Circuit(")
    assert layer.startswith("layer 0   InputLayer(variable 0, Loaded()")


def patch(name: str, change: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Change what a method of CompiledCircuit answers."""

    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        right = getattr(pf.CompiledCircuit, name)
        monkeypatch.setattr(
            pf.CompiledCircuit, name, lambda *args, **named: change(right(*args, **named))
        )

    return apply


def forget_potentials(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pf.CompiledCircuit.sample

    def sample(self: Any, n: int, about: Any = None, generator: Any = None) -> Tensor:
        if isinstance(about, pf.Evidence):
            about = pf.Evidence(about.values, about.missing)
        return right(self, n, about, generator)

    monkeypatch.setattr(pf.CompiledCircuit, "sample", sample)


def forget_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pf.CompiledCircuit.mpe

    def mpe(self: Any, about: Any) -> pf.MPE:
        values, log_value, exact = right(self, about)
        if isinstance(about, pf.Evidence):
            values = 1 - values
        return pf.MPE(values, log_value, exact)

    monkeypatch.setattr(pf.CompiledCircuit, "mpe", mpe)


def test_most_probable_states_must_heed_potentials(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pf.CompiledCircuit.mpe

    def mpe(self: Any, about: Any) -> pf.MPE:
        if not isinstance(about, pf.Evidence) or about.log_potentials is None:
            return right(self, about)
        values, log_value, exact = right(self, pf.Evidence(about.values, about.missing))
        chosen = about.log_potentials.gather(-1, values.long().unsqueeze(-1)).squeeze(-1)
        chosen = chosen.double().masked_fill(~about.missing, 0.0)
        return pf.MPE(values, log_value + chosen.sum(-1), exact)

    monkeypatch.setattr(pf.CompiledCircuit, "mpe", mpe)
    about_them = [law for law in circuit_laws.LAWS if law.__name__ == "_mpe"]
    monkeypatch.setattr(circuit_laws, "LAWS", about_them)  # the others hold, and take long
    found = broken_laws(lambda: check_circuit(deterministic_circuits(max_variables=3), 300))
    assert found == ("the value of a most probable state is a bound, and exact if it says so",)


def steep(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pf.Bernoulli.table_gradient
    monkeypatch.setattr(
        pf.Bernoulli,
        "table_gradient",
        lambda *args: {n: 1.1 * g for n, g in right(*args).items()},
    )


def stray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pf.Bernoulli, "maximize", lambda self, params, *_: {"logits": params["logits"] + 0.1}
    )


def weigh_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pf.Batch.weighed
    monkeypatch.setattr(pf.Batch, "weighed", lambda batch, weight: right(batch, weight**2))


def thaw(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Counts.maximize

    def maximize(self: Counts, *args: Any, **more: Any) -> None:
        right(self, *args, **more)
        for bank in self.engine.tables.banks:
            bank.add_(0.0 if bank.requires_grad else 0.1)

    monkeypatch.setattr(Counts, "maximize", maximize)


def lose(monkeypatch: pytest.MonkeyPatch) -> None:
    right = circuit_laws.files.load

    def load(path: str) -> pf.CompiledCircuit:
        model = right(path)
        with torch.no_grad():
            model.banks[0].add_(torch.randn_like(model.banks[0]))
        return model

    monkeypatch.setattr(circuit_laws.files, "load", load)


def compile_wrongly(module: Any, **when: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """A model of other parameters where `compile` is asked for these options."""

    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        right = module.compile

        def compile(circuit: pf.Circuit, **options: Any) -> pf.CompiledCircuit:
            model = right(circuit, **options)
            if options.items() >= when.items():
                with torch.no_grad():
                    model.banks[0].add_(torch.randn_like(model.banks[0]))
            return model

        monkeypatch.setattr(module, "compile", compile)

    return apply


PROMISES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "log_prob": (compile_wrongly(circuit_cases), "log_prob is that of the plain evaluator"),
    "marginals": (
        patch("marginals", lambda x: x + 0.1),
        "marginals are the posterior of every variable",
    ),
    "mean": (patch("mean", lambda x: 1.1 * x), "means are those of the posteriors"),
    "potentials": (forget_potentials, "draws given soft evidence follow the posterior"),
    "mpe evidence": (forget_evidence, "a most probable state keeps the evidence"),
    "mpe value": (
        patch("mpe", lambda x: x._replace(log_value=x.log_value - 0.1)),
        "the value of a most probable state is its log-probability",
    ),
    "mpe exact": (
        patch("mpe", lambda x: x._replace(exact=True)),
        "no completion is better than the most probable state",
    ),
    "gradients": (steep, "gradients are those of autograd"),
    "em": (stray, "EM never lowers the likelihood"),
    "weights": (weigh_twice, "to EM, whole weights are repeated rows"),
    "frozen": (thaw, "EM keeps what is frozen"),
    "files": (lose, "saved and loaded, a circuit says the same"),
    "folding": (compile_wrongly(circuit_laws, fold=False), "folding changes no answer"),
    "float32": (
        compile_wrongly(circuit_laws, dtype=torch.float32),
        "float32 is right to five digits",
    ),
}


def after_all_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The laws before it hold, and it is left alone: it may need examples that they need not."""
    place = [law.__name__ for law in circuit_laws.LAWS].index(name)
    its = circuit_laws.LAWS[place : place + 1]
    monkeypatch.setattr(circuit_laws, "LAWS", circuit_laws.LAWS[:place])
    check_circuit(coins, 4)
    monkeypatch.setattr(circuit_laws, "LAWS", its)


@pytest.mark.parametrize(("spoil", "law"), PROMISES.values(), ids=PROMISES)
def test_every_law_of_circuits_catches_something_that_none_before_it_does(
    spoil: Callable[[pytest.MonkeyPatch], None], law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch)
    soft = spoil is forget_potentials  # in most examples there is too little of it to tell
    if soft:
        after_all_others("_draws", monkeypatch)
    assert broken_laws(lambda: check_circuit(coins, 24 if soft else 4)) == (law,)


def chain(generator: torch.Generator) -> pf.Circuit:
    return pf.hmm(2, 2, pf.Gaussian(), generator=generator)


def lighter(self: Any) -> Tensor:
    return MASSES(self) - 0.1


def first_part_only(self: Any, values: Tensor) -> Tensor:
    return HOLDS(self, values) | (values == 0)


def escape(self: Any, family: Any, params: Any, lower: Tensor, upper: Tensor) -> Tensor:
    return family.sample(params, self.generator)


MASSES, HOLDS = Truncated.masses, Intervals.holds


@pytest.mark.parametrize(
    ("place", "spoiled", "make", "law"),
    [
        ((Truncated, "masses"), lighter, chain, "intervals are those of the plain evaluator"),
        (
            (Intervals, "holds"),
            first_part_only,
            coins,
            "the mass of an interval is that of its parts",
        ),
        ((Drawn, "within"), escape, chain, "draws and most probable states lie in the intervals"),
    ],
    ids=["masses", "parts", "draws"],
)
def test_every_law_of_intervals_catches_something(
    place: tuple[type, str],
    spoiled: Callable[..., Tensor],
    make: Callable[[torch.Generator], pf.Circuit],
    law: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(*place, spoiled)
    assert broken_laws(lambda: check_circuit(make, 4)) == (law,)


def test_numpy_arrays_are_read() -> None:
    table = np.log(SHARES.numpy())
    check_density(lambda x: table[(x[:, 0] * 3 + x[:, 1]).long().numpy()], [2, 3])
