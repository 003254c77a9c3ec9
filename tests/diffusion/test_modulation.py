"""Heads whose circuit is steered: every answer against enumeration of tokens and controls.

Legend: B batch, L positions, V tokens, S values of a control, N states of the tokens.
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
from pcflow.io import write_file
from pcflow.testing import enumerate_marginals, enumerate_weights
from pcflow_diffusion import (
    Blocks,
    CircuitHead,
    Denoiser,
    DenoiserConfig,
    LogLinear,
    Marginals,
    Modulation,
    fit_conditional,
    fit_jointly,
    fit_modulation,
    generate,
    infill,
)
from pcflow_diffusion.errors import CouplingError, NothingMasked, ShapeMismatch
from pcflow_diffusion.head import Order

LENGTH, TOKENS = 3, 3
MASK = TOKENS
KINDS = {"latents": 4, "gates": 2}  # values of a control: more than tokens, and fewer
COUPLINGS = {
    "product": LogLinear(),
    "ratio": LogLinear(1.0, 1.0),
    "buckets": LogLinear((0.8, 0.5), (0.0, 0.4)),
}
WORLDS = st.integers(0, 10**6)
every_kind = pytest.mark.parametrize("kind", KINDS)


def augmented(plain: pf.Circuit, kind: str, noise: float = 1.0) -> pf.Circuit:
    return (
        pf.expose_latents(plain) if kind == "latents" else pf.add_gates(plain, KINDS[kind], noise)
    )


class World:
    """A circuit with controls, tokens with masks, a backbone's logits and a modulation."""

    def __init__(self, seed: int, kind: str, rows: int = 3, noise: float = 1.0) -> None:
        torch.manual_seed(seed)
        plain = pf.hmm(LENGTH, KINDS["latents"], pf.Categorical(TOKENS))
        self.plain = plain.replace({p: 3 * p.value for p in plain.parameters})  # tokens depend
        self.circuit = augmented(self.plain, kind, noise)
        self.model = pf.compile(self.circuit, DEVICE, torch.float64)
        self.modulation = Modulation(TOKENS, KINDS[kind], width=4, depth=1).double().to(DEVICE)
        self.x0 = torch.randint(TOKENS, (rows, LENGTH)).to(DEVICE)
        self.masked = torch.rand(rows, LENGTH).to(DEVICE) < 0.7
        self.masked[:, 0] = True
        self.x = self.x0.masked_fill(self.masked, MASK)
        self.logits = torch.randn(rows, LENGTH, TOKENS, dtype=torch.float64).to(DEVICE)

    def steered(self) -> "World":
        """With a modulation that says something."""
        nn.init.normal_(self.modulation.out.weight)
        nn.init.normal_(self.modulation.out.bias)
        return self

    def head(self, coupling: LogLinear, top_k: int | None = None) -> CircuitHead:
        return CircuitHead(self.model, MASK, coupling, top_k, self.modulation)

    def said(self, x: Tensor | None = None) -> Marginals:
        """What the backbone says of these tokens."""
        return Marginals.of(self.logits, self.x if x is None else x, MASK)

    def evidence(self, coupling: LogLinear) -> pf.Evidence:
        """What the coupling and the modulation are defined to say."""
        rows, size = len(self.x), self.circuit.num_categories[-1] or 0
        values = torch.cat([self.x.masked_fill(self.masked, 0), torch.zeros_like(self.x)], 1)
        missing = torch.cat([self.masked, torch.ones_like(self.masked)], 1)
        log_m = self.logits.log_softmax(-1)
        log_r = enumerate_marginals(self.circuit, pf.Evidence(values, missing)).to(DEVICE)
        log_r = log_r[:, :LENGTH, :TOKENS].masked_fill(~self.masked.unsqueeze(-1), 0.0)
        share = self.masked.double().mean(-1)
        a, b = (self.numbers(power, share) for power in (coupling.a, coupling.b))
        potentials = log_m.new_zeros(rows, 2 * LENGTH, max(TOKENS, size))
        potentials[:, :LENGTH, :TOKENS] = a * log_m - b * log_r
        potentials[:, LENGTH:, :size] = self.modulation(self.said()).detach()
        return pf.Evidence(values, missing, potentials)

    @staticmethod
    def numbers(power: float | tuple[float, ...], share: Tensor) -> Tensor:
        several = power if isinstance(power, tuple) else (power,)
        given = torch.tensor(several, dtype=torch.float64).to(DEVICE)
        bucket = (share * len(given)).long().clamp_max(len(given) - 1)
        return given[bucket].view(-1, 1, 1)

    def joint(self, coupling: LogLinear) -> Tensor:
        """Log-probabilities [B, N] of all completions: controls added up."""
        found = enumerate_weights(self.circuit, self.evidence(coupling))
        log_weight = found.log_weight.to(DEVICE).unflatten(1, (TOKENS**LENGTH, -1)).logsumexp(-1)
        normalised: Tensor = log_weight.log_softmax(-1)
        return normalised

    def marginals(self, coupling: LogLinear) -> Tensor:
        found = enumerate_marginals(self.circuit, self.evidence(coupling)).to(DEVICE)
        tokens: Tensor = found[:, :LENGTH, :TOKENS]
        return tokens


def place(tokens: Tensor) -> Tensor:
    """The number of a state [...] from its tokens [..., L]."""
    return (tokens * TOKENS ** torch.arange(LENGTH - 1, -1, -1).to(DEVICE)).sum(-1)


def assert_frequencies(tokens: Tensor, wanted: Tensor) -> None:
    """Tokens [B, L] are spread over the states [N] as they should be."""
    counts = torch.bincount(place(tokens), minlength=len(wanted)).double()
    assert counts[wanted == 0].sum() == 0
    expected = len(tokens) * wanted
    often = expected >= 5
    statistic = ((counts - expected) ** 2 / expected)[often].sum()
    assert chi2.sf(statistic.item(), int(often.sum())) > 1e-6


@settings(max_examples=of_fifty(20))
@given(WORLDS, st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(COUPLINGS)))
def test_log_prob_and_forward_are_those_of_the_steered_joint(
    seed: int, kind: str, name: str
) -> None:
    world, coupling = World(seed, kind).steered(), COUPLINGS[name]
    head = world.head(coupling)
    wanted = world.joint(coupling).gather(1, place(world.x0).unsqueeze(1)).squeeze(1)
    found = head.log_prob(world.logits, world.x, world.x0)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    log_q = head(world.logits, world.x)
    assert log_q.shape == world.logits.shape
    torch.testing.assert_close(
        log_q[world.masked], world.marginals(coupling)[world.masked], rtol=1e-9, atol=1e-9
    )
    assert torch.equal(log_q[~world.masked], world.logits[~world.masked])


@settings(max_examples=of_fifty(10))
@given(WORLDS, st.sampled_from(sorted(KINDS)))
def test_before_training_the_head_is_that_of_the_plain_circuit(seed: int, kind: str) -> None:
    world = World(seed, kind, noise=0.0)
    plain = pf.compile(world.plain, DEVICE, torch.float64)
    for coupling in COUPLINGS.values():
        given = world.logits, world.x, world.x0
        found, wanted = (
            head.log_prob(*given)
            for head in (world.head(coupling), CircuitHead(plain, MASK, coupling))
        )
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@every_kind
@pytest.mark.parametrize("order", ["joint", "any_order", "sharpened"])
def test_draws_have_the_joint_s_frequencies(kind: str, order: Order) -> None:
    world, many = World(5, kind, rows=1).steered(), 4_000
    masked = [[True, False, True]] if kind == "gates" else [[True] * 3]
    world.masked = torch.tensor(masked, device=DEVICE)
    world.x = world.x0.masked_fill(world.masked, MASK)
    wanted = world.joint(COUPLINGS["product"])[0].exp()
    found = world.head(COUPLINGS["product"]).sample(
        world.logits.expand(many, -1, -1),
        world.x.expand(many, -1),
        order=order,
        generator=torch.Generator(DEVICE).manual_seed(0),
    )
    assert found.tokens.shape == found.drawn.shape == (many, LENGTH)
    assert found.confidence.shape == found.score.shape == (many, LENGTH)
    assert torch.equal(found.drawn, world.masked.expand(many, -1))
    assert_frequencies(found.tokens, wanted)


@every_kind
def test_sharpening_is_of_tokens_not_of_controls(kind: str) -> None:
    world, coupling, many = World(2, kind, rows=1).steered(), COUPLINGS["product"], 4_000
    head = world.head(coupling)
    cold = head.sample(world.logits, world.x, temperature=0.0, order="sharpened").tokens
    assert torch.equal(cold, torch.where(world.masked, world.logits.argmax(-1), world.x))
    found = head.sample(
        world.logits.expand(many, -1, -1),
        world.x.expand(many, -1),
        temperature=0.5,
        order="sharpened",
        generator=torch.Generator(DEVICE).manual_seed(0),
    )
    plain = world.evidence(coupling)
    assert plain.log_potentials is not None
    double = torch.tensor([2.0] * LENGTH + [1.0] * LENGTH).to(DEVICE).double().unsqueeze(-1)
    sharp = pf.Evidence(plain.values, plain.missing, plain.log_potentials * double)
    log_weight = enumerate_weights(world.circuit, sharp).log_weight[0].to(DEVICE)
    wanted = log_weight.unflatten(0, (TOKENS**LENGTH, -1)).logsumexp(-1).softmax(-1)
    assert_frequencies(found.tokens, wanted)


@every_kind
def test_mpe_and_counts_give_tokens_of_positions_only(kind: str) -> None:
    world, coupling = World(3, kind).steered(), COUPLINGS["product"]
    head = world.head(coupling)
    found = head.sample(world.logits, world.x, order="mpe").tokens
    assert found.shape == world.x.shape
    assert found.max() < TOKENS
    assert ((found == world.x) | world.masked).all()
    x = torch.full_like(world.x, MASK)
    some = head.draw(world.said(x), order="any_order", count=torch.tensor([1, 2, 0]).to(DEVICE))
    assert some.drawn.sum(-1).tolist() == [1, 2, 0]


@every_kind
@pytest.mark.parametrize("start", [0, 1])
def test_over_sums_out_positions_with_their_controls(kind: str, start: int) -> None:
    world, coupling = World(4, kind).steered(), COUPLINGS["product"]
    head = world.head(coupling)
    span = range(start, start + 2)
    short = head.over(span)
    assert short.length == 2
    assert head.over(span).model is short.model
    assert head.over(LENGTH) is head
    assert short.modulation is head.modulation
    x = torch.full((1, 2), MASK).to(DEVICE)
    logits = world.logits[:1, :2]
    nothing = torch.zeros(1, 2 * LENGTH, max(TOKENS, KINDS[kind]), dtype=torch.float64).to(DEVICE)
    nothing[:, span, :TOKENS] = logits.log_softmax(-1)
    steer = world.modulation(Marginals.of(logits, x, MASK)).detach()
    nothing[:, [LENGTH + place for place in span], : KINDS[kind]] = steer
    whole = pf.Evidence(log_potentials=nothing)
    wanted = enumerate_weights(world.circuit, whole).log_weight[0].softmax(-1).to(DEVICE)
    wanted = wanted.unflatten(0, (TOKENS**start, TOKENS**2, -1)).sum((0, -1))
    states = torch.cartesian_prod(*[torch.arange(TOKENS)] * 2).to(DEVICE)
    rows = len(states), -1
    found = short.log_prob(logits.expand(*rows, -1), x.expand(rows), states)
    torch.testing.assert_close(found.exp(), wanted, rtol=1e-9, atol=1e-9)
    assert short.sample(logits, x).tokens.shape == (1, 2)


@every_kind
@pytest.mark.parametrize("name", ["product", "buckets"])
def test_log_prob_is_differentiable_in_modulation_circuit_and_logits(kind: str, name: str) -> None:
    """The numbers that the circuit's own marginals depend on are held fixed where b is not 0."""
    world = World(1, kind).steered()
    head = world.head(COUPLINGS[name])

    def log_prob(logits: Tensor, bias: Tensor, masked: Tensor) -> Tensor:
        changed = {"modulation.out.bias": bias, "modulation.masked": masked}
        outputs = torch.func.functional_call(
            _LogProb(head),
            {f"head.{n}": p for n, p in changed.items()},
            (logits, world.x, world.x0),
        )
        assert isinstance(outputs, Tensor)
        return outputs

    modulation = world.modulation
    inputs = world.logits, modulation.out.bias.detach(), modulation.masked.detach()
    assert torch.autograd.gradcheck(log_prob, [t.clone().requires_grad_() for t in inputs])
    head.log_prob(world.logits, world.x, world.x0).sum().backward()
    for parameter in (*head.modulation.parameters(), *head.model.parameters()):  # type: ignore[union-attr]
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 1e-9


class _LogProb(nn.Module):
    def __init__(self, head: CircuitHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, *given: Tensor) -> Tensor:
        return self.head.log_prob(*given)


def test_listed_tokens_are_as_if_no_other_were_possible() -> None:
    for name, coupling in COUPLINGS.items():
        world = World(6, "gates").steered()
        ranked = world.logits.argsort(-1, descending=True).argsort(-1)
        few = world.logits.masked_fill(ranked >= 2, -torch.inf)
        world.x0 = world.logits.argmin(-1)  # in the last row, impossible now
        world.x0[:2] = few[:2].argmax(-1)
        listed = world.head(coupling, top_k=2).log_prob(few, world.x, world.x0)
        dense = world.head(coupling).log_prob(few, world.x, world.x0)
        torch.testing.assert_close(listed, dense, rtol=1e-9, atol=1e-9, msg=name)
        assert dense.isfinite().tolist() == [True, True, False]
        tokens, _ = world.head(coupling, top_k=2).sample(world.logits, world.x)
        assert (ranked.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)[world.masked] < 2).all()


@every_kind
def test_fit_coupling_finds_the_best_powers_of_the_steered_joint(kind: str) -> None:
    world = World(2, kind, rows=150).steered()
    head = world.head(COUPLINGS["product"])
    world.x0, _ = head.sample(
        world.logits, world.x, generator=torch.Generator(DEVICE).manual_seed(1)
    )
    fitted = head.fit_coupling(world.logits, world.x, world.x0)
    assert head.coupling == fitted
    assert isinstance(fitted.a, float)
    assert isinstance(fitted.b, float)

    def likelihood(a: float, b: float) -> float:
        return world.head(LogLinear(a, b)).log_prob(world.logits, world.x, world.x0).mean().item()

    best = likelihood(fitted.a, fitted.b)
    for step in (-0.05, 0.05):
        assert best > likelihood(fitted.a + step, fitted.b)
        assert best > likelihood(fitted.a, fitted.b + step)
    assert all(p.grad is None for p in world.modulation.parameters())


@every_kind
def test_for_drawing_a_steered_joint_fits_b_alone(kind: str) -> None:
    world = World(2, kind, rows=150).steered()
    head = world.head(COUPLINGS["product"])
    chosen = head.choose_coupling(world.logits, world.x, world.x0, for_="drawing")
    assert head.coupling == chosen
    assert isinstance(chosen, LogLinear)
    assert chosen.a == 1.0
    assert chosen.b != 0.5  # where the fit begins


def test_what_is_visible_is_read_as_tokens_and_its_logits_are_not() -> None:
    world, coupling = World(7, "latents").steered(), COUPLINGS["product"]
    head = world.head(coupling)
    found = head.log_prob(world.logits, world.x, world.x0)
    garbage = world.logits.masked_fill(~world.masked.unsqueeze(-1), torch.nan)
    other = torch.where(world.masked, world.x0, (world.x0 + 1) % TOKENS)
    torch.testing.assert_close(head.log_prob(garbage, world.x, other), found)
    hidden = world.x0.masked_fill(world.masked, MASK)
    turned = ((world.x0 + 1) % TOKENS).masked_fill(world.masked, MASK)
    told = [world.modulation(world.said(x)) for x in (hidden, turned)]
    assert not torch.allclose(*told)
    point = torch.nn.functional.one_hot(world.x0, TOKENS).double().log()
    nothing = torch.full_like(world.x0, MASK)
    with torch.no_grad():
        world.modulation.masked.zero_()  # then a sure backbone is as good as a visible token
    sure = world.modulation(Marginals.of(point, nothing, MASK))
    torch.testing.assert_close(sure, world.modulation(world.said(world.x0)))
    assert world.modulation(Marginals.of(point[:, :2], nothing[:, :2], MASK)).shape[1] == 2


def test_nothing_is_edited_or_remembered() -> None:
    world = World(8, "gates").steered()
    head = world.head(COUPLINGS["ratio"])
    state = copy.deepcopy(head.state_dict())
    logits, x, x0 = world.logits.clone(), world.x.clone(), world.x0.clone()
    first = head.log_prob(logits, x, x0)
    for order in ("joint", "any_order", "sharpened", "mpe"):
        head.sample(logits.flip(0), x.flip(0), order=order)
    assert torch.equal(head.log_prob(logits, x, x0), first)
    assert torch.equal(logits, world.logits)
    assert torch.equal(x, world.x)
    assert all(torch.equal(value, state[name]) for name, value in head.state_dict().items())


def test_generation_works_with_a_steered_circuit() -> None:
    world = World(9, "latents").steered()
    head = world.head(COUPLINGS["product"])

    def backbone(tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, TOKENS).to(DEVICE)

    prompt = torch.zeros(2, 1, dtype=torch.long).to(DEVICE)
    for block in (2, 3, 6):  # shorter than the circuit, as long, and longer
        steps = 6 // block
        found = generate(backbone, prompt, head, steps=steps, gen_length=6, block_length=block)
        assert found.shape == (2, 7)
        assert found.max() < TOKENS
    assert infill(backbone, found.fill_(MASK), head, steps=2).max() < TOKENS


# Training


def regimes(rows: int, seed: int) -> Blocks:
    """All tokens equal or alternating, 0 and 1; which of the two shows in every token's logits.

    What the circuit cannot know without being told is one bit a block.
    """
    generator = torch.Generator().manual_seed(seed)
    start, alternates = torch.randint(2, (2, rows), generator=generator).to(DEVICE)
    x0 = (start.unsqueeze(-1) + alternates.unsqueeze(-1) * torch.arange(4).to(DEVICE)) % 2
    logits = torch.zeros(rows, 4, TOKENS).to(DEVICE)
    logits[..., 2] = torch.where(alternates == 1, -1.0, -3.0).unsqueeze(-1)
    return Blocks(logits, torch.full_like(x0, MASK), x0)


def knows_both() -> pf.Circuit:
    """A chain of four states: token and regime."""
    state = torch.arange(4)
    token, regime = state % 2, state // 2
    following = (token + regime) % 2 + 2 * regime
    near = 0.99 * torch.nn.functional.one_hot(following, 4).double() + 0.0025
    emit = torch.nn.functional.one_hot(token, TOKENS).double().t() * 0.98 + 0.02 / TOKENS
    move, emits = pf.Parameter.from_probs(near), {"logits": pf.Parameter.from_probs(emit)}
    below: pf.InputLayer | pf.ProductLayer = pf.InputLayer(3, pf.Categorical(TOKENS), 4, emits)
    for t in reversed(range(3)):
        leaf = pf.InputLayer(t, pf.Categorical(TOKENS), 4, emits)
        below = pf.ProductLayer([leaf, pf.SumLayer([below], move)])
    return pf.Circuit(pf.SumLayer([below], pf.Parameter(torch.zeros(1, 4))))


def student(kind: str) -> CircuitHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = pf.compile(augmented(knows_both(), kind, 0.5), DEVICE)
        modulation = Modulation(TOKENS, KINDS[kind], width=16, depth=1).to(DEVICE)
    return CircuitHead(model, MASK, "product", modulation=modulation)


def nats(head: CircuitHead, of: Blocks) -> float:
    with torch.no_grad():
        return -head.log_prob(of.logits, of.x, of.x0).double().mean().item()


def trained(head: CircuitHead, train: Blocks | None = None, **more: object) -> pf.FitResult:
    settings: dict[str, object] = {"epochs": 12, "batch_size": 20, "learning_rate": 0.02}
    settings |= {"progress": False, "generator": torch.Generator(DEVICE).manual_seed(0)}
    return fit_modulation(head, train or regimes(200, 0), **settings | more)  # type: ignore[arg-type]


def parameters(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@every_kind
def test_a_modulation_learns_what_the_static_circuit_cannot(kind: str) -> None:
    head, judged = student(kind), regimes(300, 1)
    static = CircuitHead(pf.compile(knows_both(), DEVICE), MASK, "product")
    fit_conditional(static, regimes(200, 0), epochs=12, batch_size=20, progress=False)
    floor = 2 * torch.tensor(2.0).to(DEVICE).log().item()
    assert nats(static, judged) > floor - 0.02  # two bits: token and regime
    found = trained(head)
    assert nats(head, judged) < floor - 0.4  # of the regime's bit, .69, most is gone
    assert found.train[-1] > found.train[0]


def test_validation_keeps_the_best_of_both_and_patience_stops() -> None:
    head, few, judged = student("latents"), regimes(3, 0), regimes(60, 1)
    found = trained(head, few, validation=judged)
    assert found.best_epoch < 11  # three blocks are soon known by heart
    assert nats(head, judged) == pytest.approx(-max(found.validation), rel=1e-5)
    stopped = trained(student("latents"), few, validation=judged, patience=1)
    assert len(stopped.train) == found.best_epoch + 2


def test_a_circuit_rate_of_zero_leaves_the_circuit_alone() -> None:
    for rate, same in ((0.0, True), (0.01, False)):
        head = student("gates")
        circuit, modulation = parameters(head.model), parameters(head.modulation)  # type: ignore[arg-type]
        trained(head, epochs=1, circuit_learning_rate=rate)
        assert torch.equal(parameters(head.model), circuit) is same
        assert not torch.equal(parameters(head.modulation), modulation)  # type: ignore[arg-type]
        assert all(p.requires_grad for p in head.model.parameters())
        assert all(p.grad is None for p in head.model.parameters()) is same


def test_rows_without_weight_teach_nothing() -> None:
    both, weights = regimes(80, 0), (torch.arange(80).to(DEVICE) < 40).double()
    first = both[torch.arange(40).to(DEVICE)]
    some, only = student("latents"), student("latents")
    trained(some, both, weights=weights, epochs=1, batch_size=80)
    trained(only, first, epochs=1, batch_size=80)
    torch.testing.assert_close(parameters(some), parameters(only), rtol=1e-4, atol=1e-4)


def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, half = student("latents"), student("latents")
    trained(whole, epochs=4, checkpoint=tmp_path / "whole")
    written = 0

    def once(*arguments: object) -> None:
        nonlocal written
        write_file(*arguments)  # type: ignore[arg-type]
        written += 1
        if written == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("pcflow.learn.checkpoint.write_file", once)
    with pytest.raises(KeyboardInterrupt):
        trained(half, epochs=4, checkpoint=tmp_path / "half")
    resumed = student("latents")
    trained(resumed, epochs=4, checkpoint=tmp_path / "half")
    assert torch.equal(parameters(resumed), parameters(whole))


def test_training_is_reproducible_quiet_and_edits_no_blocks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    of = regimes(40, 0)
    before = of.logits.clone()
    one, other = student("gates"), student("gates")
    trained(one, of, epochs=2)
    trained(other, of, epochs=2)
    assert torch.equal(parameters(one), parameters(other))
    assert torch.equal(of.logits, before)
    assert capsys.readouterr().err == ""
    trained(one, of, epochs=2, progress=True)
    assert "80.0/80.0" in capsys.readouterr().err


def test_training_the_circuit_alone_or_with_a_backbone_leaves_the_modulation_alone() -> None:
    head = student("latents")
    trained(head, epochs=1)
    assert head.modulation is not None
    head.modulation.zero_grad(set_to_none=True)
    before, circuit = parameters(head.modulation), parameters(head.model)
    learner = pf.Gradient()
    fit_conditional(head, regimes(40, 0), learner, epochs=1, progress=False)
    after = parameters(head.model)
    assert not torch.equal(after, circuit)
    fit_conditional(head, regimes(40, 0), epochs=1, progress=False)  # by flows
    denoiser = Denoiser(DenoiserConfig(TOKENS, width=16, depth=1, heads=2)).to(DEVICE)
    fit_jointly(head, denoiser, torch.randint(2, (20, 6)).to(DEVICE), steps=2, progress=False)
    assert not torch.equal(parameters(head.model), after)
    assert torch.equal(parameters(head.modulation), before)
    assert all(p.grad is None and p.requires_grad for p in head.modulation.parameters())


def test_bad_input_is_refused_by_name() -> None:
    world = World(0, "latents")
    with pytest.raises(CouplingError, match="projection cannot be modulated"):
        CircuitHead(world.model, MASK, modulation=world.modulation)
    head = world.head(COUPLINGS["product"])
    head.coupling = CircuitHead(pf.compile(world.plain, DEVICE), MASK).coupling
    with pytest.raises(CouplingError, match="projection cannot be modulated"):
        head.couple(world.logits, world.x)
    odd, uneven = (
        pf.build_circuit(pf.structure.chain(len(sizes)), [pf.Categorical(n) for n in sizes])
        for sizes in ((3, 3, 3), (3, 3, 2, 4))
    )
    for wrong in (odd, uneven, pf.hmm(1, 2, pf.Categorical(3))):
        with pytest.raises(ShapeMismatch, match="one control for each"):
            CircuitHead(pf.compile(wrong, DEVICE), MASK, "product", modulation=world.modulation)
    head = world.head(COUPLINGS["product"])
    head.modulation = Modulation(TOKENS, 2).double().to(DEVICE)
    with pytest.raises(ShapeMismatch, match=r"\(3, 3, 4\), got \(3, 3, 2\)"):
        head.couple(world.logits, world.x)
    with pytest.raises(ShapeMismatch, match="3 positions"):
        head.over(4)
    with pytest.raises(ShapeMismatch, match=r"x must be \[B, 3\]"):
        head(world.logits, world.x[:, :2])
    with pytest.raises(pf.SettingError, match="values must be a whole number of at least 1, got 0"):
        Modulation(3, 0)
    of = regimes(4, 0)
    with pytest.raises(CouplingError, match="no modulation"):
        fit_modulation(CircuitHead(pf.compile(knows_both(), DEVICE), MASK), of)
    for name in ("learning_rate", "circuit_learning_rate"):
        with pytest.raises(pf.SettingError, match=name):
            trained(student("gates"), None, **{name: -1.0})
    with pytest.raises(NothingMasked, match="masked"):
        trained(student("gates"), Blocks(of.logits, of.x0, of.x0))


@every_kind
@pytest.mark.parametrize(("more", "values"), [(1, 0), (-1, 0), (0, 1)])
def test_a_modulation_for_other_tokens_or_controls_is_refused(
    kind: str, more: int, values: int
) -> None:
    """Where the head is made or read, and not where it is first asked."""
    model = pf.compile(augmented(pf.hmm(LENGTH, KINDS["latents"], pf.Categorical(TOKENS)), kind))
    sizes = TOKENS + more, KINDS[kind] + values
    with pytest.raises(ShapeMismatch, match=f"{sizes[0]} tokens and {sizes[1]} values"):
        CircuitHead(model, MASK, "product", modulation=Modulation(*sizes))
