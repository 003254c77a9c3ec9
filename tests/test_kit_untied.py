"""The kit on densities that answer `log_prob` and `sample` only, and what it says of itself."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor

import pcflow as pf
from pcflow.testing import LawBroken, check_density, register_profile, seen, untied
from pcflow.testing.fitted import Fitted
from pcflow.testing.frequencies import chi_square, log_evidence, log_sign_test
from pcflow.testing.moves import Walk
from pcflow.testing.quadrature import integrate
from pcflow.testing.subject import Subject

AT_MOST = "probabilities sum to one at most"
SUMS = "probabilities sum to one"
DRAWS = "draws follow the distribution"

# a narrow and a slanted normal component, far apart

WEIGHT = torch.tensor([0.7, 0.3], dtype=torch.float64)
CENTER = torch.tensor([[0.0, 0.0], [30.0, -5.0]], dtype=torch.float64)
ROOT = torch.tensor([[[1.0, 0.0], [2.0, 0.3]], [[0.1, 0.0], [0.0, 0.1]]], dtype=torch.float64)


def log_prob(rows: Tensor) -> Tensor:
    parts = torch.distributions.MultivariateNormal(CENTER, scale_tril=ROOT, validate_args=False)
    return (parts.log_prob(rows.unsqueeze(1)) + WEIGHT.log()).logsumexp(-1)


def draw(n: int, weight: Tensor = WEIGHT, root: Tensor = ROOT) -> Tensor:
    unit = torch.multinomial(weight, n, replacement=True)
    normal = torch.randn(n, 2, 1, dtype=torch.float64)
    return CENTER[unit] + (root[unit] @ normal).squeeze(-1)


def broken(log_prob: Callable[[Tensor], Any], sizes: list[int | None], **more: Any) -> set[str]:
    """The laws that are found broken."""
    with pytest.raises(LawBroken) as caught:
        check_density(log_prob, sizes, **more)
    return set(caught.value.laws)


def test_what_is_right_is_not_blamed_and_all_is_told() -> None:
    report = check_density(log_prob, [None, None], sample=draw)
    assert report.normalised and report.tied
    ways = {(one.law, one.how) for one in report.held}
    assert (SUMS, "quadrature") in ways and (DRAWS, "moves that keep log_prob") in ways
    reasons = {one.skipped for one in report.skipped}
    assert {"no log_marginal", "no mpe", "no sample_given"} <= reasons
    assert all(one.cases and one.seconds >= 0 for one in report.held)
    lines = str(report).splitlines()
    assert lines[0].split()[:4] == [str(len(report.held)), "of", str(len(report.outcomes)), "laws"]
    assert "not asked: 5 (no mpe)" in lines and len(lines) < len(report.outcomes)


def slanted_not(n: int) -> Tensor:
    """Every variable by itself is right, in each component."""
    return draw(n, root=ROOT.square().sum(-1).sqrt().diag_embed())


@pytest.mark.parametrize(
    ("changed", "sample", "laws"),
    [
        (lambda x: log_prob(x) + math.log(2), draw, {AT_MOST, SUMS}),
        (lambda x: log_prob(x) - math.log(2), draw, {DRAWS}),
        (log_prob, lambda n: torch.zeros(n, 2), {DRAWS}),
        (log_prob, lambda n: torch.full((n, 2), 0.3), {DRAWS}),
        (log_prob, lambda n: draw(n) + 5, {DRAWS}),
        (log_prob, lambda n: draw(n, weight=WEIGHT.flip(0)), {DRAWS}),
        (log_prob, slanted_not, {DRAWS}),
        (lambda x: log_prob(x).where(x[:, 0] > -50, torch.nan), draw, {"a log-probability"}),
    ],
    ids=["twice", "half", "stuck at 0", "stuck", "shift", "weights", "slant", "NaN where unseen"],
)
def test_what_is_planted_is_found(
    changed: Callable[[Tensor], Tensor], sample: Callable[[int], Tensor], laws: set[str]
) -> None:
    found = broken(changed, [None, None], sample=sample)
    assert found == laws or ("a log-probability" in laws and found == {f"{min(laws)} is a number"})


def ask(law: Callable[[seen.Seen], Any], sizes: list[int | None], p: Any, sample: Any) -> list[str]:
    """What one law says by itself."""
    queries = {"log_prob": p, "sample": sample}
    subject = Subject(queries, tuple(sizes), draws=2_000, tolerance=1e-5)
    rows = subject.drawn()
    return [breach.found for breach in law(seen.Seen(subject, rows, rows[:0]))]


def twenty_bits(rows: Tensor) -> Tensor:
    return torch.full((len(rows),), -20 * math.log(2))


def test_every_law_by_itself_finds_what_it_is_for() -> None:
    def coins(n: int) -> Tensor:
        return torch.randint(2, (n, 20))

    pool = coins(300)
    again = lambda n: pool[torch.randint(300, (n,))]  # noqa: E731
    zeros = lambda n: torch.zeros(n, 20)  # noqa: E731
    bits = [2] * 20
    for law in (untied._weights, untied._likelihood_ratio, untied._moves):
        assert not ask(law, bits, twenty_bits, coins)
    assert ask(untied._weights, bits, lambda x: twenty_bits(x) + math.log(2), coins)
    assert ask(untied._likelihood_ratio, bits, lambda x: twenty_bits(x) - math.log(2), coins)
    assert ask(untied._likelihood_ratio, bits, twenty_bits, zeros)
    assert ask(untied._likelihood_ratio, bits, twenty_bits, again)
    assert ask(untied._moves, bits, twenty_bits, zeros)
    assert ask(untied._moves, [None, None], log_prob, lambda n: draw(n) + 0.3)
    found = ask(untied._quadrature, [None, None], lambda x: log_prob(x) + math.log(1.02), draw)
    assert float(found[0].split(",")[0]) == pytest.approx(1.02, abs=5e-3)


def test_many_states_are_tied_to_draws_without_marginals() -> None:
    coins = lambda n: torch.randint(2, (n, 20))  # noqa: E731
    report = check_density(twenty_bits, [2] * 20, sample=coins)
    assert report.normalised and report.tied
    assert broken(lambda x: twenty_bits(x) + math.log(2), [2] * 20, sample=coins) == {AT_MOST}
    assert broken(twenty_bits, [2] * 20, sample=lambda n: 0 * coins(n)) == {DRAWS}


def mixed(rows: Tensor) -> Tensor:
    """A coin, a count whose mean it is, and an amount that is often zero."""
    coin, count, amount = rows.double().unbind(-1)
    rate = 2 + 6 * coin
    whole = count * rate.log() - rate - torch.lgamma(count.clamp_min(0.0) + 1)
    whole = whole.where(count >= 0, -torch.inf)
    paid = math.log(0.6) - amount.clamp_min(0.0)
    return (
        math.log(0.5)
        + whole
        + torch.where(amount == 0, math.log(0.4), paid.where(amount > 0, -torch.inf))
    )


def draw_mixed(n: int, paid: float = 0.6) -> Tensor:
    coin = torch.randint(2, (n,)).double()
    amount = torch.empty(n, dtype=torch.float64).exponential_() * (torch.rand(n) < paid)
    return torch.stack([coin, torch.poisson(2 + 6 * coin), amount], dim=-1)


def test_coins_counts_and_atoms_are_tied_to_draws() -> None:
    sizes, atoms = [2, None, None], {2: [0.0]}
    report = check_density(mixed, sizes, sample=draw_mixed, atoms=atoms)
    assert report.tied and report.normalised
    assert broken(mixed, sizes, sample=lambda n: draw_mixed(n, 0.4), atoms=atoms) == {DRAWS}


# what is said, and when


def test_a_warning_says_what_could_not_be_asked() -> None:
    rows = draw(500)
    with pytest.warns(pf.NotAskedWarning, match=r"around the rows the integral is 0\.49"):
        check_density(lambda x: log_prob(x) - math.log(2), [None, None], rows=rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_density(log_prob, [None, None], rows=rows)  # the integral is one
    with pytest.warns(pf.NotAskedWarning, match="whether sample draws what log_prob says: .*fewer"):
        check_density(twenty_bits, [2] * 20, sample=lambda n: torch.randint(2, (n, 20)), draws=50)


def test_shapes_come_before_what_is_slow() -> None:
    asked: list[int] = []

    def slow(rows: Tensor) -> Tensor:
        asked.append(len(rows))
        return log_prob(rows)

    def scalar(rows: Tensor) -> Any:
        return log_prob(rows).squeeze()

    with pytest.raises(LawBroken, match=r"np\.atleast_1d"):
        check_density(scalar, [None, None], log_marginal=slow, rows=draw(500))
    assert not asked
    with pytest.raises(LawBroken, match=r"np\.atleast_1d") as caught:
        check_density(slow, [None, None], log_marginal=scalar, rows=draw(500))
    assert caught.value.laws == ("log_marginal answers with the shape that it was asked for",)
    with pytest.raises(LawBroken, match="log_prob answers with numbers"):
        check_density(lambda x: None, [None, None], rows=draw(500))


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"num_categories": 2}, pf.TypeMismatch, "num_categories must be a list .* got int"),
        ({"num_categories": None}, pf.TypeMismatch, "num_categories must be a list .* got None"),
        ({"num_categories": [2, 0]}, pf.SettingError, r"num_categories\[1\] must be a whole"),
        ({"num_categories": []}, pf.SettingError, "one variable or more"),
        ({"log_prob": torch.zeros(2)}, pf.TypeMismatch, "log_prob must be a function"),
        ({"sample": 3}, pf.TypeMismatch, "sample must be a function"),
        ({"draws": 0}, pf.SettingError, "draws must be"),
        ({"tolerance": -1.0}, pf.SettingError, "tolerance must be"),
        ({"atoms": {2: [0.0]}}, pf.SettingError, "atoms must be keyed by variables without"),
        ({"atoms": [0.0]}, pf.TypeMismatch, "atoms must be a mapping"),
        ({"rows": "none"}, pf.EvidenceError, "rows"),
        ({"rows": None}, pf.EvidenceError, "needs rows, or sample"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    changed: dict[str, Any], error: type[Exception], match: str
) -> None:
    right = {"log_prob": log_prob, "num_categories": [None, None], "rows": draw(200)}
    with pytest.raises(error, match=match):
        check_density(**{**right, **changed})


def test_rows_may_be_what_people_have() -> None:
    for rows in (draw(200).numpy(), draw(200).float(), draw(200).tolist()):
        check_density(log_prob, [None, None], rows=rows)
    table = {0: np.log([0.5, 0.5])}
    check_density(lambda x: table[0][x[:, 0].long().numpy()], [np.int64(2)])


def test_what_is_zero_is_told_as_zero() -> None:
    tenth = torch.tensor([0.1] * 10, dtype=torch.float64).log()

    def low(rows: Tensor) -> Tensor:
        return 0 * rows[:, 0].nan_to_num() - 0.1

    with pytest.raises(LawBroken) as caught:
        check_density(lambda x: tenth[x[:, 0].long()], [10], log_marginal=low)
    assert tenth.logsumexp(0) != 0  # ten tenths are one but for rounding
    assert caught.value.breaches[0].expected == "0"


def test_a_profile_is_registered_over_the_one_in_use() -> None:
    before = settings.get_current_profile_name()
    try:
        register_profile("mine", max_examples=7)
        assert settings().deadline is None and settings().max_examples == 7
        assert settings().derandomize == settings.get_profile(before).derandomize
    finally:
        settings.load_profile(before)


# what it is made of


def test_bets_on_a_mean_are_won_as_seldom_as_they_say() -> None:
    # weights of mean one, most of them small: no normal approximation would do
    weights = torch.where(torch.rand(4_000, 200) < 0.02, 50.0, 0.0).log().double()
    won = torch.tensor([log_evidence(row) >= math.log(20) for row in weights]).double().mean()
    assert won < 0.05 + 4 * math.sqrt(0.05 / 4_000)
    assert log_evidence(torch.full((40,), math.log(2), dtype=torch.float64)) > math.log(1e9)
    by_hand = sum((1 + 2.0**-k) for k in range(12)) / 12  # one weight of two
    assert log_evidence(torch.tensor([math.log(2.0)]).double()) == pytest.approx(math.log(by_hand))
    assert log_sign_test(0, 10) == pytest.approx(-9 * math.log(2))
    assert log_sign_test(5, 5) == 0.0


def test_what_is_fitted_is_normalised() -> None:
    states = torch.cartesian_prod(torch.arange(2), torch.arange(3)).double()
    finite = Fitted([2, 3], states[torch.tensor([0, 0, 1, 5])], {})
    assert finite.log_probs(states).exp().sum(-1).tolist() == pytest.approx([1.0] * 3)
    real = Fitted([None, None], draw(300), {})
    for part in range(2):
        total = integrate(lambda x, p=part: real.log_probs(x)[p], draw(300), 400_000)
        assert total.value == pytest.approx(1.0, abs=2e-3)
    paid = draw_mixed(300)
    both = Fitted([2, None, None], paid, {2: [0.0]})
    counts = torch.arange(-300, 300).double()
    asked = torch.cartesian_prod(torch.arange(2).double(), counts)
    at_zero = both.log_prob(torch.cat([asked, torch.zeros(len(asked), 1)], -1)).exp().sum()
    assert float(at_zero) == pytest.approx(float((paid[:, 2] == 0).double().mean()), abs=0.01)
    drawn = both.sample(3_000, torch.Generator().manual_seed(0))
    assert both.log_prob(drawn).isfinite().all()
    assert (drawn[:, 2] == 0).double().mean() == pytest.approx(float(at_zero), abs=0.05)


def test_walks_keep_the_distribution() -> None:
    shares = torch.tensor([0.05, 0.1, 0.15, 0.3, 0.35, 0.05], dtype=torch.float64)
    table = shares.log().reshape(2, 3)
    place = torch.multinomial(shares, 4_000, replacement=True)
    rows = torch.stack([place // 3, place % 3], dim=-1).double()
    walk = Walk(
        lambda x: table[x[:, 0].long(), x[:, 1].long()],
        [2, 3],
        Fitted([2, 3], rows[:200], {}),
        torch.Generator().manual_seed(0),
    )
    ends, before, after = walk.end(rows)
    moved = (ends[:, 0] * 3 + ends[:, 1]).long()
    assert (moved != place).double().mean() > 0.5
    assert chi_square(torch.bincount(moved, minlength=6), shares) > 1e-6
    pairs = torch.bincount(place * 6 + moved, minlength=36).reshape(6, 6)
    there, back = pairs.triu(1)[pairs.triu(1) > 0], pairs.T.triu(1)[pairs.triu(1) > 0]
    assert min(log_sign_test(int(a), int(b)) for a, b in zip(there, back, strict=True)) > -14
    assert torch.equal(before, shares.log()[place]) and torch.equal(after, shares.log()[moved])


def test_integrals_say_how_sure_they_are() -> None:
    rows = draw(1_000)
    found = integrate(log_prob, rows, 400_000)
    assert found.value == pytest.approx(1.0, abs=1e-3) and found.error <= 1e-3
    cauchy = torch.distributions.Cauchy(torch.tensor(3.0).double(), torch.tensor(0.1).double())
    alone = integrate(lambda x: cauchy.log_prob(x[:, 0]), cauchy.sample((50, 1)), 10_000)
    assert alone.value == pytest.approx(1.0, abs=1e-4)
    inside = lambda x: torch.where((x.abs() < 1).all(-1), 0.0, -torch.inf).double()  # noqa: E731
    box = integrate(inside, rows[:100], 10_000)
    assert abs(box.value - 4.0) <= box.error and box.error > 1e-3 and box.points < 20_000
