"""Laws of the masked-diffusion objective, and a few numbers worked out by hand."""

from itertools import product
from math import exp, log, pi, sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from pcflow_diffusion.errors import (
    DiffusionError,
    RatioOutOfRange,
    ShapeMismatch,
    TokenOutOfRange,
)
from pcflow_diffusion.models import (
    Schedule,
    elbo_weights,
    mask_exactly,
    mask_tokens,
    masked_diffusion_loss,
    sample_times,
    schedule_by_name,
)

MASK = 9
SCHEDULES = ("linear", "cosine", "geometric")
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def generator(seed: int = 0) -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(seed)


def tokens(rows: int, length: int) -> Tensor:
    """Random tokens below the mask."""
    return torch.randint(MASK, (rows, length), generator=generator(1))


def test_mask_tokens_masks_each_row_at_its_own_ratio() -> None:
    ratio = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    share = (mask_tokens(tokens(5, 20_000), ratio, MASK, generator()) == MASK).float().mean(dim=1)
    deviation = (ratio * (1 - ratio) / 20_000).sqrt()
    assert bool(((share - ratio).abs() <= 4 * deviation).all())


def test_mask_tokens_masks_positions_independently() -> None:
    x = mask_tokens(tokens(20_000, 3), 0.3, MASK, generator())
    together = ((x[:, 0] == MASK) & (x[:, 2] == MASK)).float().mean()
    assert abs(float(together) - 0.09) < 0.01


@pytest.mark.parametrize("corrupt", [mask_tokens, mask_exactly])
def test_masking_leaves_the_rest_and_its_argument_alone(corrupt) -> None:  # type: ignore[no-untyped-def]
    x0 = tokens(6, 40)
    before = x0.clone()
    x = corrupt(x0, 0.5, MASK, generator())
    assert torch.equal(x0, before)
    assert torch.equal(torch.where(x == MASK, x0, x), x0)
    assert torch.equal(x, corrupt(x0, 0.5, MASK, generator()))
    assert not torch.equal(x, corrupt(x0, 0.5, MASK, generator(5)))


@pytest.mark.parametrize("length", [1, 7, 32])
@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.5, 0.7, 1.0])
def test_mask_exactly_masks_the_rounded_count_in_every_row(length: int, ratio: float) -> None:
    counts = (mask_exactly(tokens(50, length), ratio, MASK, generator()) == MASK).sum(dim=1)
    assert counts.tolist() == [round(ratio * length)] * 50


def test_mask_exactly_takes_an_integer_as_a_ratio_and_a_ratio_per_row() -> None:
    assert bool((mask_exactly(tokens(2, 5), 1, MASK) == MASK).all())
    masked = mask_exactly(tokens(2, 8), torch.tensor([0.25, 0.75]), MASK) == MASK
    assert masked.sum(dim=1).tolist() == [2, 6]


def test_mask_exactly_prefers_no_position() -> None:
    share = (mask_exactly(tokens(20_000, 5), 0.4, MASK, generator()) == MASK).float().mean(dim=0)
    assert bool(((share - 0.4).abs() < 0.015).all())


@pytest.mark.parametrize("ratio", [-0.1, 1.5, float("nan"), torch.tensor([0.5, 2.0])])
@pytest.mark.parametrize("corrupt", [mask_tokens, mask_exactly])
def test_ratios_outside_the_unit_interval_are_refused(corrupt, ratio) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RatioOutOfRange):
        corrupt(tokens(2, 4), ratio, MASK)


@pytest.mark.parametrize("corrupt", [mask_tokens, mask_exactly])
def test_ratios_and_tokens_of_the_wrong_shape_are_refused(corrupt) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ShapeMismatch, match="3 mask ratios for 2 rows"):
        corrupt(tokens(2, 4), torch.full((3,), 0.5), MASK)
    with pytest.raises(ShapeMismatch, match="must be"):
        corrupt(tokens(2, 4)[0], 0.5, MASK)


def test_antithetic_times_fill_every_interval_once() -> None:
    times = sample_times(16, generator())
    assert sorted(((1 - times) * 16).floor().int().tolist()) == list(range(16))


@pytest.mark.parametrize("antithetic", [True, False])
def test_every_time_is_uniform_above_zero(antithetic: bool) -> None:
    draws = generator()
    times = torch.stack([sample_times(4, draws, antithetic) for _ in range(4000)])
    assert float(times.min()) > 0
    assert float(times.max()) <= 1
    for column in times.sort(dim=0).values.T:
        grid = (torch.arange(4000) + 0.5) / 4000
        assert float((column - grid).abs().max()) < 0.035  # Kolmogorov-Smirnov, beyond 1e-3


@pytest.mark.parametrize("antithetic", [True, False])
def test_no_time_is_zero_even_where_the_draw_is(
    antithetic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.zeros(size))
    assert float(sample_times(3, None, antithetic).min()) > 0


def test_antithetic_times_have_the_steadier_mean() -> None:
    draws = generator()
    means = {
        a: [float(sample_times(8, draws, a).mean()) for _ in range(300)] for a in (True, False)
    }
    assert np.std(means[True]) < 0.5 * np.std(means[False])


def test_weights_are_the_reciprocal_of_the_time() -> None:
    assert elbo_weights(torch.tensor([1.0, 0.5, 0.1])).tolist() == pytest.approx([1, 2, 10])
    for bad in (0.0, 1.2, float("nan")):
        with pytest.raises(RatioOutOfRange):
            elbo_weights(torch.tensor([0.5, bad]))


def test_schedules_equal_the_numbers_worked_out_by_hand() -> None:
    """At t = 1/3: sin(pi / 6) = 1/2, cos(pi / 6) = sqrt(3) / 2; sigma there is 1e-5 x 2e6^(1/3)."""
    third = torch.tensor([1 / 3], dtype=torch.float64)
    sigma = 1e-5 * 2e6 ** (1 / 3)
    wanted = {
        "linear": (2 / 3, 3.0),
        "cosine": (1 / 2, pi / 2 * sqrt(3)),
        "geometric": (exp(-sigma), sigma * log(2e6) * exp(-sigma) / (1 - exp(-sigma))),
    }
    for name, (alpha, weight) in wanted.items():
        found = schedule_by_name(name)
        assert found.alpha(third).item() == pytest.approx(alpha, rel=1e-12)
        assert elbo_weights(third, name).item() == pytest.approx(weight, rel=1e-9)
        assert elbo_weights(third, found).item() == pytest.approx(weight, rel=1e-9)


@every_schedule
def test_masks_grow_from_none_to_all_at_the_rate_that_is_told(schedule: str) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    found = schedule_by_name(schedule)
    masked = found.mask_probability(t)
    assert masked[0].item() == pytest.approx(0.0, abs=1e-4)
    assert masked[-1].item() == pytest.approx(1.0, abs=1e-4)
    assert (masked.diff() >= 0).all()
    slopes = (masked[2:] - masked[:-2]) / 0.002
    torch.testing.assert_close(found.rate(t)[1:-1], slopes, rtol=1e-3, atol=1e-4)


@every_schedule
def test_the_bound_of_a_factorised_model_is_the_same_under_every_schedule(schedule: str) -> None:
    """Of tokens that the model does not look at it is their negative log-likelihood."""
    logits = torch.randn(1, 5, 4, generator=generator(), dtype=torch.float64).float()
    x0 = torch.tensor([[0, 3, 1, 1, 2]])
    nats = masked_diffusion_loss(logits, torch.full_like(x0, MASK), x0, MASK)
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    expected_masks = schedule_by_name(schedule).mask_probability(t)
    bound = (elbo_weights(t, schedule) * expected_masks * nats).mean()
    assert bound.item() == pytest.approx(nats.item(), rel=1e-4)


@every_schedule
def test_the_bound_sampled_under_any_schedule_is_unbiased(schedule: str) -> None:
    joint = torch.tensor([0.3, 0.05, 0.05, 0.1, 0.05, 0.15, 0.1, 0.2], dtype=torch.float64)
    x0, draws = torch.tensor([[1, 0, 1]]).expand(40_000, 3), generator()
    times = sample_times(len(x0), draws).double()
    x = mask_tokens(x0, schedule_by_name(schedule).mask_probability(times), 2, draws)
    weights = elbo_weights(times, schedule)
    loss = masked_diffusion_loss(posteriors(joint, x), x, x0, 2, weights=weights)
    error = float(loss.std()) / len(x0) ** 0.5
    assert error < 0.08
    assert abs(float(loss.mean()) + log(0.15)) < 4 * error


def test_schedules_of_ones_own_and_unknown_names() -> None:
    square = Schedule(lambda t: t**2, lambda t: 2 * t)
    assert elbo_weights(torch.tensor([0.5]), square).item() == 4.0
    with pytest.raises(DiffusionError, match=r"'quick'; there are linear, cosine, geometric"):
        schedule_by_name("quick")


def test_loss_equals_the_number_worked_out_by_hand() -> None:
    probabilities = torch.tensor([[[0.5, 0.5], [0.25, 0.75], [0.1, 0.9]], [[0.2, 0.8]] * 3])
    logits = probabilities.log() + torch.tensor([3.0, -1.0])[:, None, None]  # not normalised
    x0 = torch.tensor([[0, 1, 0], [1, 1, 0]])
    x = torch.tensor([[0, 2, 2], [1, 1, 0]])
    loss = masked_diffusion_loss(logits, x, x0, mask_token_id=2)
    assert loss.tolist() == pytest.approx([-log(0.75) - log(0.1), 0.0])
    weighted = masked_diffusion_loss(logits, x, x0, 2, weights=torch.tensor([3.0, 1.0]))
    assert weighted.tolist() == pytest.approx([3 * (-log(0.75) - log(0.1)), 0.0])


def test_loss_reads_neither_visible_tokens_nor_their_logits() -> None:
    logits = torch.randn(1, 3, 4, generator=generator()).requires_grad_()
    x0, x = torch.tensor([[77, 1, 2]]), torch.tensor([[77, MASK, MASK]])
    masked_diffusion_loss(logits, x, x0, MASK).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(dim=-1).gt(0).tolist() == [[False, True, True]]


def test_loss_names_what_does_not_fit() -> None:
    x = torch.full((2, 3), MASK)
    logits = torch.zeros(2, 3, 4)
    with pytest.raises(TokenOutOfRange, match=r"token 4, outside \[0, 4\)"):
        masked_diffusion_loss(logits, x, torch.full((2, 3), 4), MASK)
    with pytest.raises(ShapeMismatch, match="logits"):
        masked_diffusion_loss(logits[:, :2], x, x * 0, MASK)
    with pytest.raises(ShapeMismatch, match="x0"):
        masked_diffusion_loss(logits, x, x[:1], MASK)
    with pytest.raises(ShapeMismatch, match="weights"):
        masked_diffusion_loss(logits, x, x * 0, MASK, weights=torch.ones(3))


def posteriors(joint: Tensor, x: Tensor) -> Tensor:
    """Log of the exact one-site posteriors of a joint over L bits, [B, L, 2]: an ideal backbone."""
    states = torch.tensor(list(product((0, 1), repeat=x.shape[1])))  # [states, L]
    agrees = ((x[:, None] == states) | (x[:, None] == 2)).all(dim=-1)  # [B, states]
    weight = torch.where(agrees, joint, torch.zeros_like(joint))
    return torch.stack([weight @ (states == v).double() for v in (0, 1)], dim=-1).log()


def exact_bound(joint: Tensor, x0: Tensor) -> float:
    """The bound of one row, exact: Gauss-Legendre over t, enumeration over masks."""
    length, bound = x0.shape[1], 0.0
    masks = torch.tensor(list(product((False, True), repeat=length)))
    x = torch.where(masks, 2, x0)  # [masks, L]
    for node, share in zip(*np.polynomial.legendre.leggauss(4), strict=True):
        t = torch.full((len(masks),), (node + 1) / 2, dtype=torch.float64)
        chance = torch.where(masks, t[:, None], 1 - t[:, None]).prod(dim=1)
        rows = x0.expand_as(x)
        loss = masked_diffusion_loss(posteriors(joint, x), x, rows, 2, weights=elbo_weights(t))
        bound += float((chance * loss).sum()) * share / 2
    return bound


def test_the_bound_of_an_ideal_backbone_is_the_negative_log_likelihood() -> None:
    joint = torch.rand(8, generator=generator(), dtype=torch.float64) + 0.05
    joint /= joint.sum()
    for index, state in enumerate(product((0, 1), repeat=3)):
        x0 = torch.tensor([state])
        assert exact_bound(joint, x0) == pytest.approx(-log(float(joint[index])), rel=1e-6)
