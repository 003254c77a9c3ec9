"""The coupled joint against enumeration of every completion, for every coupling.

Legend: B batch, L positions, V tokens, S states.
"""

import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from scipy.stats import chi2
from torch import Tensor

import pcflow as pf
from pcflow.testing import enumerate_marginals, enumerate_states, enumerate_weights
from pcflow_diffusion import CircuitHead, Coupling, LogLinear, Marginals, Projection
from pcflow_diffusion.errors import (
    CouplingError,
    LogitsError,
    ShapeMismatch,
    TokenOutOfRange,
    TypeMismatch,
)
from pcflow_diffusion.head import temper

LENGTH, TOKENS = 4, 3
MASK = TOKENS
COUPLINGS: dict[str, str | Coupling] = {
    "product": "product",
    "ratio": "ratio",
    "log-linear": LogLinear(0.8, 0.4),
    "projection": "projection",
    "converged": Projection(sweeps=40),
}


class World:
    """A random circuit, tokens with masks, and a backbone's logits."""

    def __init__(self, seed: int, factorised: bool = False, rows: int = 3) -> None:
        torch.manual_seed(seed)
        family = pf.Categorical(TOKENS)
        self.circuit = (
            pf.build_circuit(pf.structure.fully_factorized(LENGTH), family)
            if factorised
            else pf.hmm(LENGTH, 3, family)
        )
        self.model = pf.compile(self.circuit, DEVICE, torch.float64)
        self.x0 = torch.randint(TOKENS, (rows, LENGTH)).to(DEVICE)
        self.masked = torch.rand(rows, LENGTH).to(DEVICE) < 0.6
        self.masked[:, 0] = True
        self.x = self.x0.masked_fill(self.masked, MASK)
        self.logits = torch.randn(rows, LENGTH, TOKENS, dtype=torch.float64).to(DEVICE)

    def head(self, coupling: str | Coupling) -> CircuitHead:
        return CircuitHead(self.model, MASK, coupling)

    @property
    def visible(self) -> pf.Evidence:
        return pf.Evidence(self.x.masked_fill(self.masked, 0), self.masked)

    def joint(self, log_potentials: Tensor | None) -> Tensor:
        """Log-probabilities [B, S] of all states given the visible tokens, by adding up."""
        visible = self.visible
        soft = pf.Evidence(visible.values, visible.missing, log_potentials)
        return enumerate_weights(self.circuit, soft).log_weight.log_softmax(-1).to(DEVICE)

    def index(self, tokens: Tensor) -> Tensor:
        """The number of a state [...] from its tokens [..., L]."""
        return (tokens * TOKENS ** torch.arange(LENGTH - 1, -1, -1, device=tokens.device)).sum(-1)


WORLDS = st.integers(0, 10**6)


def potentials(world: World, coupling: str | Coupling) -> Tensor:
    """What the couplings are defined to be; for the projection, what it returned."""
    log_m = world.logits.log_softmax(-1)
    log_r = enumerate_marginals(world.circuit, world.visible).to(DEVICE)
    if coupling == "product":
        return log_m
    if coupling == "ratio":
        return log_m - log_r.masked_fill(log_r == -torch.inf, 0.0)
    if isinstance(coupling, LogLinear):
        return coupling.a * log_m - coupling.b * log_r.masked_fill(log_r == -torch.inf, 0.0)
    found = world.head(coupling).couple(world.logits, world.x).log_potentials
    assert found is not None
    return found


@settings(max_examples=of_fifty(15))
@given(WORLDS, st.sampled_from(sorted(COUPLINGS)))
def test_log_prob_is_that_of_the_normalised_joint(seed: int, name: str) -> None:
    world, coupling = World(seed), COUPLINGS[name]
    wanted = world.joint(potentials(world, coupling))
    found = world.head(coupling).log_prob(world.logits, world.x, world.x0)
    expected = wanted.gather(1, world.index(world.x0).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=of_fifty(10))
@given(WORLDS, st.sampled_from(sorted(COUPLINGS)))
def test_completions_sum_to_one(seed: int, name: str) -> None:
    world = World(seed, rows=1)
    states = enumerate_states(world.circuit).to(DEVICE)
    fits = ((states == world.x) | world.masked).all(dim=-1)
    states = states[fits]
    rows = (len(states), -1)
    head = world.head(COUPLINGS[name])
    found = head.log_prob(
        world.logits.expand(len(states), -1, -1), world.x.expand(rows), states
    ).logsumexp(0)
    assert found.item() == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=of_fifty(15))
@given(WORLDS, st.sampled_from(sorted(COUPLINGS)))
def test_forward_gives_marginals_where_masked_and_logits_where_visible(
    seed: int, name: str
) -> None:
    world, coupling = World(seed), COUPLINGS[name]
    visible = world.visible
    soft = pf.Evidence(visible.values, visible.missing, potentials(world, coupling))
    found = world.head(coupling)(world.logits, world.x)
    wanted = enumerate_marginals(world.circuit, soft).to(DEVICE)
    torch.testing.assert_close(found[world.masked], wanted[world.masked], rtol=1e-9, atol=1e-9)
    assert torch.equal(found[~world.masked], world.logits[~world.masked])


@settings(max_examples=of_fifty(15))
@given(WORLDS, st.sampled_from(["ratio", "projection"]))
def test_a_factorised_circuit_leaves_the_backbone_alone(seed: int, name: str) -> None:
    world = World(seed, factorised=True)
    log_m = world.logits.log_softmax(-1)
    head = world.head(name)
    found = head(world.logits, world.x)
    torch.testing.assert_close(found[world.masked], log_m[world.masked], rtol=1e-9, atol=1e-9)
    alone = log_m.gather(-1, world.x0.unsqueeze(-1)).squeeze(-1)
    wanted = alone.masked_fill(~world.masked, 0.0).sum(-1)
    joint = head.log_prob(world.logits, world.x, world.x0)
    torch.testing.assert_close(joint, wanted, rtol=1e-9, atol=1e-9)


@settings(max_examples=of_fifty(15))
@given(WORLDS, st.sampled_from(["ratio", "projection"]))
def test_true_posteriors_give_the_true_joint(seed: int, name: str) -> None:
    world = World(seed)
    world.logits = enumerate_marginals(world.circuit, world.visible).to(DEVICE)
    world.logits[~world.masked] = 0.0
    found = world.head(COUPLINGS[name]).log_prob(world.logits, world.x, world.x0)
    wanted = world.joint(None).gather(1, world.index(world.x0).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@settings(max_examples=of_fifty(10))
@given(WORLDS)
def test_the_converged_projection_has_the_marginals_of_the_backbone(seed: int) -> None:
    world = World(seed)
    found = world.head(Projection(sweeps=100))(world.logits, world.x)[world.masked]
    wanted = world.logits.log_softmax(-1)[world.masked]
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", sorted(COUPLINGS))
def test_draws_have_the_joint_s_frequencies(name: str) -> None:
    world, coupling = World(seed=5, rows=1), COUPLINGS[name]
    head = world.head(coupling)
    wanted = world.joint(potentials(world, coupling))[0].exp()  # [S]
    many = (4_000, -1, -1)
    generator = torch.Generator(DEVICE).manual_seed(0)
    tokens, confidence = head.sample(
        world.logits.expand(many), world.x.expand(4_000, -1), generator=generator
    )
    assert torch.equal(tokens[:, ~world.masked[0]], world.x[:, ~world.masked[0]].expand(4_000, -1))
    counts = torch.bincount(world.index(tokens), minlength=len(wanted)).double()
    expected = 4_000 * wanted
    often = expected >= 5
    statistic = ((counts - expected) ** 2 / expected)[often].sum()
    assert chi2.sf(statistic.item(), int(often.sum())) > 1e-6
    assert counts[wanted == 0].sum() == 0

    marginals = head(world.logits, world.x)[0].exp()  # [L, V]
    chosen = marginals.gather(-1, tokens[0].unsqueeze(-1)).squeeze(-1)
    expected_confidence = torch.where(world.masked[0], chosen, torch.ones_like(chosen))
    torch.testing.assert_close(confidence[0], expected_confidence, rtol=1e-9, atol=1e-9)


def test_temperature_zero_takes_the_best_token_of_the_latent_path() -> None:
    world = World(seed=3)
    cold = world.head("product").sample(world.logits, world.x, temperature=0.0)[0]
    assert ((cold == world.x0) | world.masked).all()
    single = pf.hmm(LENGTH, 1, pf.Categorical(TOKENS))  # one latent path only
    head = CircuitHead(pf.compile(single, DEVICE, torch.float64), MASK, "product")
    tokens, _ = head.sample(world.logits, world.x, temperature=0.0)
    best = head(world.logits, world.x).argmax(-1)
    assert torch.equal(tokens[world.masked], best[world.masked])


def test_log_prob_is_differentiable_in_logits_and_circuit() -> None:
    world = World(seed=1)
    head = world.head("product")
    logits = world.logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda given: head.log_prob(given, world.x, world.x0), (logits,)
    )
    head.log_prob(logits, world.x, world.x0).sum().backward()
    for bank in world.model.banks:
        assert bank.grad is not None
        assert bank.grad.abs().max() > 1e-6


def test_fit_coupling_finds_the_best_powers() -> None:
    world = World(seed=2, rows=400)
    joint = world.joint(potentials(world, LogLinear(0.7, 0.3)))
    drawn = torch.multinomial(joint.exp(), 1).squeeze(1)
    x0 = enumerate_states(world.circuit).to(DEVICE)[drawn]
    head = world.head("product")
    fitted = head.fit_coupling(world.logits, world.x, x0)
    assert head.coupling == fitted

    def likelihood(a: float, b: float) -> float:
        coupled = world.head(LogLinear(a, b))
        return coupled.log_prob(world.logits, world.x, x0).mean().item()

    best = likelihood(fitted.a, fitted.b)
    for step in (-0.05, 0.05):
        assert best > likelihood(fitted.a + step, fitted.b)
        assert best > likelihood(fitted.a, fitted.b + step)
    assert fitted.a == pytest.approx(0.7, abs=0.15)
    assert fitted.b == pytest.approx(0.3, abs=0.3)


def test_only_a_power_of_the_circuit_asks_it() -> None:
    """The posterior given a visible token that the circuit rules out does not exist."""
    ruled_out = pf.build_circuit(pf.structure.fully_factorized(2), pf.Indicator(0, 2))
    model = pf.compile(ruled_out, DEVICE, torch.float64)
    log_m = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]], device=DEVICE).log()
    said = Marginals.of(log_m, torch.tensor([[1, 2]], device=DEVICE), mask_token_id=2)
    found = LogLinear(0.5, 0.0).couple(model, said).log_potentials
    assert found is not None
    torch.testing.assert_close(found, 0.5 * log_m)
    flat = LogLinear(0.0, 0.0).couple(model, said).log_potentials
    assert flat is not None
    assert torch.equal(flat.cpu(), torch.tensor([[[0.0, 0.0], [0.0, -torch.inf]]]))
    for b in (1.0, -1.0):
        with pytest.raises(pf.NoMassError, match="marginals"):
            LogLinear(1.0, b).couple(model, said)


def test_a_mask_inside_the_vocabulary_is_never_drawn() -> None:
    world = World(seed=4)
    head = CircuitHead(world.model, mask_token_id=0, coupling="product")
    x = torch.zeros(50, LENGTH, dtype=torch.long, device=DEVICE)
    logits = torch.zeros(50, LENGTH, TOKENS, device=DEVICE)
    tokens, _ = head.sample(logits, x)
    assert (tokens > 0).all()
    assert (head(logits, x)[..., 0] == -torch.inf).all()


@pytest.mark.parametrize("temperature", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("coupling", ["ratio", "projection"])
def test_sharpened_marginals_are_those_of_the_backbone(coupling: str, temperature: float) -> None:
    """Over independent positions both couplings return what the backbone says, to that power."""
    torch.manual_seed(0)
    regions = pf.structure.fully_factorized(2)
    model = pf.compile(pf.build_circuit(regions, pf.Categorical(3)), DEVICE, torch.float64)
    head = CircuitHead(model, 3, coupling)
    logits = torch.randn(1, 2, 3).double().to(DEVICE).expand(20_000, -1, -1)
    found = head.sample(
        logits,
        torch.full((20_000, 2), 3, device=DEVICE),
        temperature=temperature,
        order="sharpened",
    )
    share = torch.nn.functional.one_hot(found.tokens, 3).double().mean(dim=0)
    wanted = temper(logits[0], temperature).softmax(-1)
    torch.testing.assert_close(share, wanted, rtol=0.0, atol=0.02)
    before = logits.softmax(-1).gather(-1, found.tokens.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found.confidence, before)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_any_order_with_nothing_left_in_one_row_and_an_unlisted_visible_token(
    temperature: float,
) -> None:
    model = pf.compile(pf.hmm(4, 2, pf.Categorical(5)), DEVICE)
    head = CircuitHead(model, 5, "product", top_k=2)
    x = torch.tensor([[0, 5, 1, 1], [0, 5, 5, 5]], device=DEVICE)
    logits = torch.zeros(2, 4, 5, device=DEVICE)
    logits[:, 0, 3:] = 9.0  # the visible 0 is not among the two
    tokens, confidence = head.sample(logits, x, temperature=temperature, order="any_order")
    assert torch.equal(tokens[x < 5], x[x < 5])
    assert (tokens < 5).all() and (confidence > 0).all()


def test_a_shorter_head_follows_the_precision_of_the_longer() -> None:
    head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5)), DEVICE), 5)
    assert head.over(3).model is head.over(3).model
    single, double = head.over(3), head.double().over(3)
    assert double.model is not single.model
    assert double.model.dtype == torch.float64


@pytest.mark.parametrize("span", [range(n, m) for n in range(4) for m in range(n + 1, 5)])
def test_a_head_over_any_span_is_the_head_of_the_circuit_s_marginal(span: range) -> None:
    g = torch.Generator().manual_seed(0)
    circuit = pf.hmm(4, 3, pf.Categorical(5), homogeneous=False, generator=g)
    head = CircuitHead(pf.compile(circuit, DEVICE, torch.float64), 5, "ratio")
    short = head.over(span)
    alone = pf.compile(pf.marginalize(circuit, list(span)), DEVICE, torch.float64)
    logits = torch.randn(6, len(span), 5, generator=g).to(DEVICE)
    x = torch.randint(6, (6, len(span)), generator=g).to(DEVICE)
    x0 = torch.randint(5, x.shape, generator=g).to(DEVICE)
    wanted = CircuitHead(alone, 5, "ratio").log_prob(logits, x, x0)
    torch.testing.assert_close(short.log_prob(logits, x, x0), wanted)
    assert short.length == len(span)
    assert (short is head) == (span == range(4))
    assert head.over(span).model is short.model


def test_spans_that_the_circuit_does_not_have_are_refused() -> None:
    head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5)), DEVICE), 5)
    for outside in (5, range(1, 5), range(-1, 2)):
        with pytest.raises(ShapeMismatch, match="4 positions"):
            head.over(outside)
    for no_span in (0, range(2, 2), range(0, 4, 2), range(3, 0, -1), slice(0, 2)):
        with pytest.raises(pf.SettingError, match="positions must be"):
            head.over(no_span)  # type: ignore[arg-type]


def test_few_circuits_over_spans_are_kept_and_threads_find_the_right_ones() -> None:
    g = torch.Generator().manual_seed(0)
    circuit = pf.hmm(6, 2, pf.Categorical(3), homogeneous=False, generator=g)
    head = CircuitHead(pf.compile(circuit, DEVICE, torch.float64), 3, "product")
    spans = [range(n, n + 2) for n in range(5)] * 4
    logits, x = torch.zeros(1, 2, 3).to(DEVICE), torch.full((1, 2), 3).to(DEVICE)
    wanted = [head.over(span)(logits, x) for span in spans]
    first = weakref.ref(head.over(range(1)).model)
    head.over(range(2))
    assert first() is not None
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda span: head.over(span)(logits, x), spans))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    gc.collect()
    assert first() is None  # four others were asked for since


def test_nothing_is_edited_or_remembered() -> None:
    world = World(seed=6)
    state = copy.deepcopy(world.model.state_dict())
    logits, x = world.logits.clone(), world.x.clone()
    head = world.head("projection")
    first = head.log_prob(logits, x, world.x0)
    head.sample(logits.flip(0), x.flip(0))
    head(logits.flip(0), x.flip(0))
    assert torch.equal(head.log_prob(logits, x, world.x0), first)
    assert torch.equal(logits, world.logits)
    assert torch.equal(x, world.x)
    assert all(torch.equal(v, state[k]) for k, v in world.model.state_dict().items())


def test_listed_logits_are_for_all_but_code_that_expects_logits() -> None:
    """What that gives back are logits of all tokens, which listed ones do not have."""
    head = CircuitHead(pf.compile(pf.hmm(3, 2, pf.Categorical(4))), 4)
    x, logits = torch.full((2, 3), 4), torch.randn(2, 3, 4)
    listed = pf.Potentials.of(logits).top_k(2)
    assert head.sample(listed, x).tokens.shape == x.shape
    with pytest.raises(TypeMismatch, match="logits must be a Tensor"):
        head(listed, x)


def test_bad_input_is_refused_by_name() -> None:
    world = World(seed=7)
    head = world.head("ratio")
    with pytest.raises(CouplingError, match="'sum'"):
        world.head("sum")
    with pytest.raises(pf.SettingError, match="sweeps"):
        Projection(sweeps=0)
    assert Projection(sweeps=1).sweeps == 1
    with pytest.raises(ShapeMismatch, match=r"\(3, 4, 2\)"):
        head(world.logits[..., :2], world.x)
    with pytest.raises(ShapeMismatch, match=r"\(3, 3\)"):
        head(world.logits, world.x[:, :3])
    with pytest.raises(TokenOutOfRange, match="x holds token 9"):
        head(world.logits, world.x.masked_fill(world.masked, 9))
    with pytest.raises(TokenOutOfRange, match="x0 holds token 3"):
        head.log_prob(world.logits, world.x, world.x)
    with pytest.raises(CouplingError, match="masked"):
        head.fit_coupling(world.logits, world.x0, world.x0)
    mixed = pf.build_circuit(
        pf.structure.chain(2), [pf.Categorical(2), pf.Categorical(3)], generator=None
    )
    with pytest.raises(ShapeMismatch, match="one vocabulary"):
        CircuitHead(pf.compile(mixed, DEVICE), 3)
    with pytest.raises(LogitsError, match=r"row 0, position 0: .* nan"):
        head(torch.full_like(world.logits, torch.nan), world.x)
