"""Heads whose rows have transitions of their own: every row against a head of its own.

Legend: B batch, L positions, V tokens, K states, N states of the tokens.
"""

import copy
from pathlib import Path

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from scipy.stats import chi2
from torch import Tensor, nn

import pcflow as pf
from pcflow_diffusion import (
    Blocks,
    CircuitHead,
    LogLinear,
    Marginals,
    Modulation,
    TransitionModulation,
    fit_conditional,
    fit_modulation,
)
from pcflow_diffusion.errors import CouplingError, ShapeMismatch
from pcflow_diffusion.head import Order

LENGTH, TOKENS, STATES = 3, 3, 4
MASK = TOKENS
COUPLINGS = {"product": LogLinear(), "ratio": LogLinear(1.0, 1.0)}
WORLDS = st.integers(0, 10**6)


class World:
    """A chain, tokens with masks, a backbone's logits and a modulation that says something."""

    def __init__(self, seed: int, rows: int = 3, speaks: bool = True, length: int = LENGTH) -> None:
        torch.manual_seed(seed)
        plain = pf.hmm(length, STATES, pf.Categorical(TOKENS))
        drawn = {p: 3 * torch.randn(p.shape, dtype=torch.float64) for p in plain.parameters}
        self.plain = plain.replace(drawn)  # tokens depend, and every bit counts
        self.model = pf.compile(pf.untie(self.plain), DEVICE, torch.float64)
        self.modulation = TransitionModulation(TOKENS, STATES, rank=2, width=4, depth=1)
        self.modulation.double().to(DEVICE)
        if speaks:
            nn.init.normal_(self.modulation.network.out.weight)
            nn.init.normal_(self.modulation.network.out.bias)
        self.x0 = torch.randint(TOKENS, (rows, length)).to(DEVICE)
        self.masked = torch.rand(rows, length).to(DEVICE) < 0.7
        self.masked[:, 0] = True
        self.x = self.x0.masked_fill(self.masked, MASK)
        self.logits = torch.randn(rows, length, TOKENS, dtype=torch.float64).to(DEVICE)

    def head(self, coupling: LogLinear = COUPLINGS["product"]) -> CircuitHead:
        return CircuitHead(self.model, MASK, coupling, modulation=self.modulation)

    def parameters(self) -> dict[str | nn.Parameter, Tensor]:
        return self.modulation.parameters_of(self.model, Marginals.of(self.logits, self.x, MASK))

    def alone(self, row: int, coupling: LogLinear = COUPLINGS["product"]) -> CircuitHead:
        """A head without modulation on the circuit of one row."""
        model, given = copy.deepcopy(self.model), self.parameters()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in given:
                    parameter.copy_(given[name][row])
        return CircuitHead(model, MASK, coupling)


@settings(max_examples=of_fifty(15))
@given(WORLDS)
def test_under_the_product_every_row_has_a_circuit_of_its_own(seed: int) -> None:
    world = World(seed)
    head = world.head()
    log_prob = head.log_prob(world.logits, world.x, world.x0)
    log_q = head(world.logits, world.x)
    for row in range(len(world.x)):
        some = slice(row, row + 1)
        logits, x, x0 = world.logits[some], world.x[some], world.x0[some]
        alone = world.alone(row)
        close = {"rtol": 1e-9, "atol": 1e-9}
        torch.testing.assert_close(log_prob[some], alone.log_prob(logits, x, x0), **close)
        torch.testing.assert_close(log_q[some], alone(logits, x), **close)


@settings(max_examples=of_fifty(10))
@given(WORLDS, st.sampled_from(sorted(COUPLINGS)))
def test_before_training_the_head_is_that_of_the_plain_circuit(seed: int, name: str) -> None:
    world, coupling = World(seed, speaks=False, length=12), COUPLINGS[name]
    shared = dict(world.model.named_parameters())
    for key, moved in world.parameters().items():
        assert isinstance(key, str)
        assert all(torch.equal(row, shared[key]) for row in moved)  # bit for bit
    plain = CircuitHead(pf.compile(world.plain, DEVICE, torch.float64), MASK, coupling)
    told = world.logits, world.x, world.x0
    found = world.head(coupling).log_prob(*told)
    torch.testing.assert_close(found, plain.log_prob(*told), rtol=1e-12, atol=1e-12)


def test_transitions_that_are_impossible_stay_so() -> None:
    """A chain that goes one way: the same before training, none of it NaN after a step."""
    onwards = pf.hmm(4, 2, pf.Categorical(3), initial=[1, 0], transition=[[0.9, 0.1], [0, 1]])
    model = pf.compile(pf.untie(onwards), DEVICE)
    modulation = TransitionModulation(3, 2, rank=1, width=4, depth=1).to(DEVICE)
    head = CircuitHead(model, 3, "product", modulation=modulation)
    logits, x0 = torch.zeros(5, 4, 3).to(DEVICE), torch.randint(3, (5, 4)).to(DEVICE)
    told = logits, torch.full_like(x0, 3), x0
    plain = CircuitHead(pf.compile(onwards, DEVICE), 3, "product")
    torch.testing.assert_close(head.log_prob(*told), plain.log_prob(*told))
    fit_modulation(head, Blocks(*told), epochs=2, progress=False)
    for name, _ in model.weight_places[1:]:
        logit = dict(model.named_parameters())[name][0]
        assert (logit == -torch.inf).tolist() == [[False, False], [True, False]]
    assert bool(head.log_prob(*told).isfinite().all())


def test_the_circuits_own_marginals_know_nothing_of_the_modulation() -> None:
    world = World(1)
    ratio = world.head(COUPLINGS["ratio"]).couple(world.logits, world.x)
    plain = CircuitHead(world.model, MASK, "ratio").couple(world.logits, world.x)
    assert ratio.log_potentials is not None
    assert plain.log_potentials is not None
    there = world.masked
    torch.testing.assert_close(ratio.log_potentials[there], plain.log_potentials[there])


@pytest.mark.parametrize("order", ["joint", "any_order", "sharpened"])
def test_draws_have_the_joint_s_frequencies(order: Order) -> None:
    world, many = World(5, rows=1), 4_000
    states = torch.cartesian_prod(*[torch.arange(TOKENS)] * LENGTH).to(DEVICE)
    world.x = torch.full_like(world.x, MASK)
    with torch.no_grad():
        rows = world.logits.expand(len(states), -1, -1), world.x.expand(len(states), -1), states
        wanted = world.head().log_prob(*rows).exp()
    torch.testing.assert_close(wanted.sum(), torch.ones_like(wanted[0]))
    found = world.head().sample(
        world.logits.expand(many, -1, -1),
        world.x.expand(many, -1),
        order=order,
        generator=torch.Generator(DEVICE).manual_seed(0),
    )
    place = (found.tokens * TOKENS ** torch.arange(LENGTH - 1, -1, -1).to(DEVICE)).sum(-1)
    counts = torch.bincount(place, minlength=len(states)).double()
    expected = many * wanted
    often = expected >= 5
    statistic = ((counts - expected) ** 2 / expected)[often].sum()
    assert chi2.sf(statistic.item(), int(often.sum())) > 1e-6


def test_the_most_probable_state_is_that_of_every_row() -> None:
    world = World(3)
    found = world.head().sample(world.logits, world.x, order="mpe").tokens
    for row in range(len(world.x)):
        some = slice(row, row + 1)
        alone = world.alone(row).sample(world.logits[some], world.x[some], order="mpe")
        assert torch.equal(found[some], alone.tokens)


def test_log_prob_is_differentiable_in_modulation_and_logits() -> None:
    world = World(1)
    head, out = world.head(), world.modulation.network.out

    def log_prob(logits: Tensor, bias: Tensor) -> Tensor:
        changed = {"head.modulation.network.out.bias": bias}
        given = logits, world.x, world.x0
        found: Tensor = torch.func.functional_call(_LogProb(head), changed, given)
        return found

    inputs = [t.detach().clone().requires_grad_() for t in (world.logits, out.bias)]
    assert torch.autograd.gradcheck(log_prob, inputs)


def test_the_circuit_s_gradient_adds_up_those_of_its_rows() -> None:
    world = World(1)
    told = world.logits, world.x, world.x0
    world.head().log_prob(*told).sum().backward()
    assert all(p.grad is not None for p in world.modulation.parameters())
    each = [world.alone(row) for row in range(len(world.x))]
    for row, head in enumerate(each):
        head.log_prob(*(t[row : row + 1] for t in told)).sum().backward()
    _, *steps = (name for name, _ in world.model.weight_places)
    wanted = {
        name: sum(dict(head.model.named_parameters())[name].grad for head in each)  # type: ignore[misc]
        for name in world.model.parameter_shapes
    }
    of_all = sum(wanted[name] for name in steps) / len(steps)  # type: ignore[operator]
    for name, parameter in world.model.named_parameters():
        own = of_all if name in steps else wanted[name]
        torch.testing.assert_close(parameter.grad, own, rtol=1e-9, atol=1e-9)


def test_what_steps_share_stays_shared() -> None:
    torch.manual_seed(0)
    model = pf.compile(pf.untie(pf.hmm(4, 2, pf.Categorical(TOKENS))), DEVICE)
    modulation = TransitionModulation(TOKENS, 2, rank=2, width=16, depth=1).to(DEVICE)
    head = CircuitHead(model, MASK, "product", modulation=modulation)
    before = copy.deepcopy(dict(model.named_parameters()))
    fit_modulation(head, regimes(40, 0), epochs=2, batch_size=20, progress=False)
    _, *steps = (name for name, _ in model.weight_places)
    after = dict(model.named_parameters())
    assert not torch.equal(before[steps[0]], after[steps[0]])
    assert all(torch.equal(after[name], after[steps[0]]) for name in steps)


def test_steps_that_have_come_apart_are_refused() -> None:
    """By learning that knew nothing of the modulation, which is about one transition."""
    world = World(3)
    head = world.head()
    pf.fit(world.model, world.x0.cpu(), pf.EM(), epochs=1, progress=False)
    with pytest.raises(ShapeMismatch, match="come apart"):
        head.log_prob(world.logits, world.x, world.x0)


class _LogProb(nn.Module):
    def __init__(self, head: CircuitHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, *given: Tensor) -> Tensor:
        return self.head.log_prob(*given)


def test_files_say_the_same(tmp_path: Path) -> None:
    world = World(2)
    world.head().save(tmp_path / "head")
    again = CircuitHead.load(tmp_path / "head", DEVICE)
    assert isinstance(again.modulation, TransitionModulation)
    assert again.modulation.sizes == world.modulation.sizes
    told = world.logits, world.x, world.x0
    assert torch.equal(again.log_prob(*told), world.head().log_prob(*told))


def regimes(rows: int, seed: int) -> Blocks:
    """All tokens equal or alternating, 0 and 1; which of the two shows in every token's logits."""
    generator = torch.Generator().manual_seed(seed)
    start, alternates = torch.randint(2, (2, rows), generator=generator).to(DEVICE)
    x0 = (start.unsqueeze(-1) + alternates.unsqueeze(-1) * torch.arange(4).to(DEVICE)) % 2
    logits = torch.zeros(rows, 4, TOKENS).to(DEVICE)
    logits[..., 2] = torch.where(alternates == 1, -1.0, -3.0).unsqueeze(-1)
    return Blocks(logits, torch.full_like(x0, MASK), x0)


def test_a_modulation_learns_what_the_static_circuit_cannot() -> None:
    """Which way a step goes, by what the backbone says."""
    torch.manual_seed(0)
    emit = torch.tensor([[0.98, 0.01, 0.01], [0.01, 0.98, 0.01]])
    chain = pf.hmm(4, 2, pf.Categorical(TOKENS), transition=torch.full((2, 2), 0.5), emission=emit)
    model = pf.compile(pf.untie(chain), DEVICE)
    modulation = TransitionModulation(TOKENS, 2, rank=2, width=16, depth=1).to(DEVICE)
    head = CircuitHead(model, MASK, "product", modulation=modulation)
    static = CircuitHead(pf.compile(pf.untie(chain), DEVICE), MASK, "product")
    how = {"epochs": 12, "batch_size": 20, "progress": False}
    fit_conditional(static, regimes(200, 0), **how)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    fit_modulation(head, regimes(200, 0), learning_rate=0.02, generator=generator, **how)  # type: ignore[arg-type]
    judged = regimes(300, 1)
    told = judged.logits, judged.x, judged.x0
    with torch.no_grad():
        found, plain = (-one.log_prob(*told).mean().item() for one in (head, static))
    two_bits = 1.386
    assert plain > two_bits - 0.02
    assert found < two_bits - 0.4  # of the regime's bit, .69, most is gone


def test_the_first_positions_are_a_shorter_chain_that_is_modulated_alike() -> None:
    """What is asked of it is what a head says that was made of that chain."""
    world = World(1)
    short = pf.compile(pf.untie(pf.unroll(world.plain, 2)), DEVICE, torch.float64)
    wanted = CircuitHead(short, MASK, "product", modulation=world.modulation)
    about = world.logits[:, :2], world.x[:, :2], world.x0[:, :2]
    found = world.head().over(2).log_prob(*about)
    torch.testing.assert_close(found, wanted.log_prob(*about), rtol=1e-9, atol=1e-9)


def test_powers_are_fitted_under_transitions_by_row() -> None:
    """No other powers make the examples more probable; and no projection is tried."""
    world = World(2)
    head = world.head()
    told = world.logits, world.x, world.x0

    def nats(a: float, b: float) -> float:
        head.coupling = LogLinear(a, b)
        return float(head.log_prob(*told).detach().mean())

    fitted = head.fit_coupling(*told)
    assert isinstance(fitted.a, float) and isinstance(fitted.b, float)
    best = nats(fitted.a, fitted.b)
    for a, b in ((0.05, 0.0), (-0.05, 0.0), (0.0, 0.05), (0.0, -0.05)):
        assert nats(fitted.a + a, fitted.b + b) <= best + 1e-9
    assert best > nats(1.0, 0.0)
    assert head.choose_coupling(*told) == fitted
    drawing = head.choose_coupling(*told, for_="drawing")
    assert isinstance(drawing, LogLinear) and drawing.a == 1.0


def test_what_does_not_fit_is_refused() -> None:
    world = World(0)
    tied = pf.compile(world.plain, DEVICE, torch.float64)
    apart = pf.hmm(LENGTH, STATES, pf.Categorical(TOKENS), homogeneous=False)
    for model in (tied, pf.compile(apart, DEVICE, torch.float64)):
        with pytest.raises(ShapeMismatch, match="untie"):
            CircuitHead(model, MASK, "product", modulation=world.modulation)
    for other in (TransitionModulation(TOKENS, STATES + 1), TransitionModulation(5, STATES)):
        with pytest.raises(ShapeMismatch, match="is about"):
            CircuitHead(world.model, MASK, "product", modulation=other)
    with pytest.raises(ShapeMismatch):
        CircuitHead(world.model, MASK, "product", modulation=Modulation(TOKENS, STATES))
    with pytest.raises(CouplingError, match="projection"):
        CircuitHead(world.model, MASK, "projection", modulation=world.modulation)
    head = world.head()
    with pytest.raises(CouplingError, match="begin at the first position"):
        head.over(range(1, LENGTH))
    assert head.over(LENGTH) is head
    rule = pf.Automaton.lengths(0, None, TOKENS)
    with pytest.raises(CouplingError, match="constraint"):
        head.under(rule)
