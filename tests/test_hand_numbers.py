"""Numbers worked out by hand, and the certificate of the scaled pass."""

import math
from itertools import product

import pytest
import torch
from device import DEVICE

import pcflow as pf
from pcflow.circuit import Layer


def coins(probability: float, count: int = 2) -> pf.ProductLayer:
    """Independent coins with one shared probability of a one."""
    odds = pf.Parameter(torch.tensor([probability], dtype=torch.float64).logit())
    return pf.ProductLayer(
        [pf.InputLayer(v, pf.Bernoulli(), 1, {"logits": odds}) for v in range(count)]
    )


def test_one_coin_tells_about_the_other() -> None:
    weight = pf.Parameter.from_probs([[0.6, 0.4]])
    model = pf.compile(
        pf.Circuit(pf.SumLayer([coins(0.45), coins(0.99)], weight)), DEVICE, torch.float64
    )
    nan = torch.nan
    both, first = model.log_prob(torch.tensor([[1.0, 1.0], [1.0, nan]]))
    assert (both - first).exp().item() == pytest.approx(0.7710811, abs=1e-7)
    posterior = model.marginals(torch.tensor([[1.0, nan]]))
    assert posterior[0, 1, 1].exp().item() == pytest.approx(0.7710811, abs=1e-7)
    drawn = model.sample(100_000, torch.tensor([[1.0, nan]]))[:, 0, 1].double().mean()
    assert drawn.item() == pytest.approx(0.7710811, abs=0.007)  # five standard deviations


def test_the_most_probable_state_is_not_in_the_heaviest_branch() -> None:
    spread = pf.Parameter(torch.zeros(10, 1))
    wide = pf.ProductLayer(
        [
            pf.InputLayer(0, pf.Indicator(0)),
            pf.InputLayer(1, pf.Categorical(10), 1, {"logits": spread}),
        ]
    )
    narrow = pf.ProductLayer(
        [pf.InputLayer(0, pf.Indicator(1)), pf.InputLayer(1, pf.Indicator(7, 10))]
    )
    circuit = pf.Circuit(pf.SumLayer([wide, narrow], pf.Parameter.from_probs([[0.6, 0.4]])))
    values, log_value, exact = pf.compile(circuit, DEVICE, torch.float64).mpe(
        torch.full((1, 2), torch.nan)
    )
    assert values.tolist() == [[1, 7]]
    assert log_value.item() == pytest.approx(math.log(0.4), abs=1e-12)
    assert exact


def test_a_product_of_overlapping_scopes_is_refused_by_name() -> None:
    def pair(a: int, b: int) -> pf.ProductLayer:
        return pf.ProductLayer([pf.InputLayer.random(v, pf.Bernoulli()) for v in (a, b)])

    with pytest.raises(pf.NotDecomposable) as refused:
        pf.Circuit(pf.ProductLayer([pair(0, 1), pair(1, 2)]))
    assert refused.value.scopes == ((0, 1), (1, 2))
    assert "{0, 1} and {1, 2}, which share variable 1" in str(refused.value)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_two_thousand_gaussians_have_no_floor(dtype: torch.dtype, relative: float) -> None:
    family, zero = pf.Gaussian(), pf.Parameter(torch.zeros(1))
    parameters = {"mean": zero, "log_std": zero}
    layers = [pf.InputLayer(v, family, 1, parameters) for v in range(2_000)]
    model = pf.compile(pf.Circuit(pf.ProductLayer(layers)), DEVICE, dtype)
    found = model.log_prob(torch.full((1, 2_000), 3.0)).item()
    by_hand = -2_000 * (0.5 * math.log(2 * math.pi) + 4.5)
    assert by_hand == pytest.approx(-10837.877, abs=1e-3)
    assert found == pytest.approx(by_hand, rel=relative)


def test_a_hidden_markov_model_is_the_sum_over_its_paths() -> None:
    start = torch.tensor([0.7, 0.3], dtype=torch.float64)
    move = torch.tensor([[0.9, 0.1], [0.4, 0.6]], dtype=torch.float64)  # [from, to]
    emit = torch.tensor([[0.5, 0.1], [0.3, 0.3], [0.2, 0.6]], dtype=torch.float64)  # [V, K]
    emission = {"logits": pf.Parameter.from_probs(emit)}
    step = pf.Parameter.from_probs(move)

    def at(t: int) -> pf.InputLayer:
        return pf.InputLayer(t, pf.Categorical(3), 2, emission)

    tail = pf.ProductLayer([at(1), pf.SumLayer([at(2)], step)])
    whole = pf.ProductLayer([at(0), pf.SumLayer([tail], step)])
    first = pf.Parameter.from_probs(start.unsqueeze(0))
    model = pf.compile(pf.Circuit(pf.SumLayer([whole], first)), DEVICE, torch.float64)
    for x in ((0, 1, 2), (2, 2, 0), (1, 0, 0)):
        by_hand = sum(
            start[a] * emit[x[0], a] * move[a, b] * emit[x[1], b] * move[b, c] * emit[x[2], c]
            for a, b, c in product(range(2), repeat=3)
        )
        found = model.log_prob(torch.tensor([x])).exp().item()
        assert found == pytest.approx(float(by_hand), rel=1e-12)


LOW = 10.0 ** (-60 / 512)  # 512 of them make 1e-60
HALF = 512


def deep_zeros() -> pf.Circuit:
    """A tree over 1,024 variables, two units all the way up.

    On the left half, where all values are ones, unit 1 is 1e-60 of unit 0. On the right half the
    value of variable 700 rules out one of the units.
    """
    stay = pf.Parameter.from_probs([[1.0, 0.0], [0.0, 1.0]])
    left = pf.Parameter(torch.tensor([0.9, 0.9 * LOW], dtype=torch.float64).logit())
    right = pf.Parameter(torch.zeros(2))

    def leaf(variable: int) -> Layer:
        if variable == 700:
            return pf.InputLayer(variable, pf.Indicator([0, 1]), 2)
        odds = left if variable < HALF else right
        return pf.InputLayer(variable, pf.Bernoulli(), 2, {"logits": odds})

    layers = [leaf(v) for v in range(2 * HALF)]
    while len(layers) > 1:
        sums = [pf.SumLayer([layer], stay) for layer in layers]
        layers = [pf.ProductLayer(pair) for pair in zip(sums[::2], sums[1::2], strict=True)]
    return pf.Circuit(pf.SumLayer(layers, pf.Parameter.from_probs([[0.5, 0.5]])))


def deep_rows() -> torch.Tensor:
    """All ones; variable 700 zero; variable 700 unknown; all unknown."""
    x = torch.ones(4, 2 * HALF)
    x[1, 700], x[2, 700], x[3] = 0.0, torch.nan, torch.nan
    return x


def deep_logs() -> torch.Tensor:
    """By hand: a half of each unit, and 511 fair coins on the right."""
    fair = 511 * math.log(0.5)
    high, low = HALF * math.log(0.9), HALF * math.log(0.9 * LOW)
    logs = [math.log(0.5) + fair + unit for unit in (low, high)]
    return torch.tensor([logs[0], logs[1], logs[1], 0.0], dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_a_unit_that_underflows_and_then_matters_comes_out_right(
    dtype: torch.dtype, relative: float
) -> None:
    model = pf.compile(deep_zeros(), DEVICE, dtype)
    found = model.log_prob(deep_rows()).detach().double().cpu()
    torch.testing.assert_close(found, deep_logs(), rtol=relative, atol=1e-5)
    assert model.rows.seen == 4
    # 1e-60 is a number in float64; in float32 only the row that needs it is evaluated again
    assert model.rows.log_space == (1 if dtype == torch.float32 else 0)
    again = model.rows.log_space
    assert f"rows: 4 seen, {again} of them in log space" in str(model.rows)


def test_log_space_rows_have_right_gradients_marginals_and_draws() -> None:
    circuit, x = deep_zeros(), deep_rows()
    model = pf.compile(circuit, DEVICE, torch.float32)
    model.log_prob(x).sum().backward()
    values = {p: p.value.double().clone().requires_grad_() for p in circuit.parameters}
    pf.reference_log_prob(circuit, x, values).sum().backward()
    for bank, members in zip(model.banks, model.plan.banks, strict=True):
        for grad, parameter in zip(bank.grad, members, strict=True):  # type: ignore[arg-type]
            wanted = values[parameter].grad
            assert wanted is not None
            torch.testing.assert_close(grad.double().cpu(), wanted, rtol=1e-4, atol=1e-3)

    hidden = x[:1].clone()
    hidden[0, 5] = torch.nan  # which unit it is shows in the odds of one variable
    posterior = model.marginals(hidden)[0, 5, 1].exp().item()
    assert posterior == pytest.approx(0.9 * LOW, rel=1e-5)
    drawn = model.sample(4_000, hidden)[:, 0, 5].double().mean().item()
    assert drawn == pytest.approx(0.9 * LOW, abs=0.02)
    assert model.mpe(hidden).log_value.item() == pytest.approx(deep_logs()[0].item(), rel=1e-5)


def test_an_impossible_row_is_known_to_be_impossible_without_log_space() -> None:
    model = pf.compile(deep_zeros(), DEVICE, torch.float32)
    impossible = pf.Evidence(
        torch.ones(1, 2 * HALF),
        missing=torch.ones(1, 2 * HALF, dtype=torch.bool),
        log_potentials=torch.full((1, 2 * HALF, 2), -torch.inf),
    )
    assert model.log_prob(impossible).item() == -math.inf
    # a GPU does not wait to see whether units are zero: log space tells
    assert model.rows.log_space == int(DEVICE.type == "cuda")


def test_a_unit_lost_in_the_middle_is_found_even_if_the_root_looks_healthy() -> None:
    def part(variable: int, ratio: float) -> Layer:
        """Two units, whose values at 0 are 0.5 and 0.5 * ratio, or the other way round."""
        units = [0.5, 0.5 * ratio] if ratio < 1 else [0.5 / ratio, 0.5]
        table = torch.tensor([units, [1 - u for u in units]], dtype=torch.float64)
        logits = {"logits": pf.Parameter.from_probs(table)}
        return pf.InputLayer(variable, pf.Categorical(2), 2, logits)

    # After two products unit 1 is 1e-60 of unit 0, after the other two they are equal again;
    # unit 1 alone is left of the other row. The last variable tells which unit it is.
    layer = part(0, 1e-30)
    for variable, ratio in enumerate((1e-30, 1e30, 1e30, 0.2), start=1):
        layer = pf.ProductLayer([layer, part(variable, ratio)])
    circuit = pf.Circuit(pf.SumLayer([layer], pf.Parameter.from_probs([[0.5, 0.5]])))
    model = pf.compile(circuit, DEVICE, torch.float32)
    x = torch.tensor([[1.0, 1.0, 0.0, 0.0, torch.nan], [0.0, 0.0, 0.0, 0.0, torch.nan]])
    found = model.log_prob(x)[1].item()
    by_hand = 4 * math.log(0.5) + 2 * math.log(1e-30)
    assert found == pytest.approx(by_hand, abs=1e-3)  # without unit 1 it is 0.69 less
    assert model.rows.log_space == 1
    last = model.marginals(x)[:, 4, 0].exp().tolist()
    assert last == pytest.approx([0.1, (0.5 + 0.1) / 2], rel=1e-5)
    assert model.rows.log_space == 2


def test_folds_that_share_a_weight_are_drawn_right_where_inputs_are_read_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = pf.Parameter(torch.randn(2, 2, generator=generator))
    inputs = [pf.InputLayer.random(v, pf.Categorical(3), 2, generator) for v in (0, 1, 0)]
    a, b, c = (pf.SumLayer([layer], weight) for layer in inputs)  # three folds of one step
    both = [pf.ProductLayer([a, b]), pf.ProductLayer([c, b])]
    model = pf.compile(pf.Circuit(pf.SumLayer.random(both, 1, generator=generator)), DEVICE)
    assert not model.plan.is_tree
    n, cells = 20_000, torch.tensor([*product(range(3), range(3))], device=DEVICE)
    drawn = model.sample(n, generator=torch.Generator(DEVICE).manual_seed(0))
    share = (drawn.unsqueeze(1) == cells).all(dim=-1).double().mean(dim=0)
    wanted = model.log_prob(cells).exp().double()
    assert ((share - wanted).abs() < 5 * (wanted / n).sqrt()).all()
