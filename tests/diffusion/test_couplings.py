"""Laws of the couplings against enumeration: what each keeps, where each is exact, top-k, dtypes.

Legend: B batch, L positions, V tokens, S states.
"""

from pathlib import Path
from typing import get_args
from unittest.mock import patch

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.testing import enumerate_marginals, enumerate_states, enumerate_weights
from pcflow_diffusion import CircuitHead, Coupling, LogLinear, Marginals, Projection
from pcflow_diffusion.errors import CouplingError, LogitsError, ShapeMismatch
from pcflow_diffusion.head.calibration import HOTTEST, Purpose, fit_temperature
from pcflow_diffusion.head.coupling import bucket_of

L, V = 4, 3
MASK = V
SEEDS = st.integers(0, 10**6)
EVERY: dict[str, Coupling] = {
    "product": LogLinear(),
    "ratio": LogLinear(1.0, 1.0),
    "log-linear": LogLinear(0.8, 0.4),
    "by share": LogLinear((0.9, 0.8, 1.1), (0.0, 0.5, 0.7)),
    "projection": Projection(),
    "pooled": Projection(pool=(0.8, 0.3)),
    "sharpened": Projection(pool=(1.3, 0.0)),
}
NAMES = st.sampled_from(sorted(EVERY))


def chain(seed: int) -> pf.Circuit:
    return pf.hmm(L, 3, pf.Categorical(V), generator=torch.Generator().manual_seed(seed))


def tree(seed: int) -> pf.Circuit:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(V, (20, L), generator=generator)
    return pf.hclt(data, 3, pf.Categorical(V), generator=generator)


def graph(seed: int) -> pf.Circuit:
    regions = pf.structure.random_binary_tree(L, replicas=2, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    return pf.build_circuit(regions, pf.Categorical(V), 2, generator=generator)


CIRCUITS = st.one_of([st.builds(make, SEEDS) for make in (chain, tree, graph)])


class Case:
    """Tokens with masks and a backbone's logits for a circuit, some of them -inf."""

    def __init__(self, circuit: pf.Circuit, seed: int, rows: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.circuit = circuit
        self.model = pf.compile(circuit, DEVICE, torch.float64)
        self.x0 = torch.randint(V, (rows, L), generator=generator).to(DEVICE)
        self.masked = torch.rand(rows, L, generator=generator).to(DEVICE) < 0.6
        self.masked[:, 0] = True
        self.x = self.x0.masked_fill(self.masked, MASK)
        self.logits = torch.randn(rows, L, V, generator=generator).double().to(DEVICE)

    @property
    def visible(self) -> pf.Evidence:
        return pf.Evidence(self.x.masked_fill(self.masked, 0), self.masked)

    def head(self, coupling: str | Coupling, top_k: int | None = None) -> CircuitHead:
        return CircuitHead(self.model, MASK, coupling, top_k)

    def joint(self, log_potentials: Tensor | None) -> Tensor:
        """Log-probabilities [B, S] of all states given the visible tokens."""
        soft = pf.Evidence(self.visible.values, self.masked, log_potentials)
        return enumerate_weights(self.circuit, soft).log_weight.log_softmax(-1).to(DEVICE)

    def projected(self) -> Tensor:
        """The same of the joint that has the backbone's marginals, each row projected once."""
        head = self.head(Projection(sweeps=3_000, tolerance=1e-10))
        return self.joint(head.couple(self.logits, self.x).log_potentials)

    def found(self, head: CircuitHead) -> Tensor:
        """Log-probabilities [B, S] of all states according to a head."""
        states = enumerate_states(self.circuit).to(DEVICE)
        many = len(states)
        found = []
        for row in range(len(self.x)):
            fits = ((states == self.x[row]) | self.masked[row]).all(-1)
            logits, x = self.logits[row].expand(many, L, V), self.x[row].expand(many, L)
            found.append(head.log_prob(logits, x, states).masked_fill(~fits, -torch.inf))
        return torch.stack(found)

    def listed(self, head: CircuitHead, found: Tensor) -> Tensor:
        """The same of those alone that are listed, as they are drawn."""
        states = enumerate_states(self.circuit).to(DEVICE)
        ranked = self.logits.argsort(-1, descending=True).argsort(-1)
        k = V if head.top_k is None else int(head.top_k)
        few = torch.stack([ranked[:, i, states[:, i]] < k for i in range(L)], dim=-1)
        surplus = ~(few | ~self.masked.unsqueeze(1)).all(-1)
        return found.masked_fill(surplus, -torch.inf).log_softmax(-1)

    def potentials(self, coupling: Coupling, log_m: Tensor) -> Tensor:
        """What the couplings are defined to be [B, L, V], by enumeration."""
        log_r = enumerate_marginals(self.circuit, self.visible).to(DEVICE)
        if isinstance(coupling, LogLinear):
            a, b = (log_r.new_tensor(n).view(-1) for n in (coupling.a, coupling.b))
            share = self.masked.double().mean(-1)
            bucket = (share * len(a)).floor().long().clamp_max(len(a) - 1)
            powers = a[bucket, None, None], b[bucket, None, None]
            return powers[0] * log_m - powers[1] * log_r.masked_fill(log_r == -torch.inf, 0.0)
        assert isinstance(coupling, Projection)
        target = log_m
        if coupling.pool != (1.0, 0.0):
            a_, b_ = coupling.pool
            target = a_ * log_m + (b_ * log_r if b_ else 0.0)
        visible = pf.Evidence(self.visible.values, self.masked)
        found = self.model.project(visible, target, coupling.sweeps).log_potentials
        assert found is not None
        return found


def top(log_m: Tensor, k: int) -> Tensor:
    """All but the k largest ruled out."""
    kept = log_m.topk(k, dim=-1)
    return torch.full_like(log_m, -torch.inf).scatter(-1, kept.indices, kept.values)


@settings(max_examples=of_fifty(40))
@given(CIRCUITS, SEEDS, NAMES, st.sampled_from([None, 1, 2, 3, 7]))
def test_the_joint_is_the_circuit_times_the_potentials_that_define_the_coupling(
    circuit: pf.Circuit, seed: int, name: str, k: int | None
) -> None:
    case = Case(circuit, seed)
    log_m = case.logits.log_softmax(-1)
    log_m = log_m if k is None or k > V else top(log_m, k)
    wanted = case.joint(case.potentials(EVERY[name], log_m))
    head = case.head(EVERY[name], k)
    found = case.found(head)
    torch.testing.assert_close(case.listed(head, found), wanted, rtol=1e-9, atol=1e-9)
    assert found.logsumexp(-1).abs().max() < 1e-9  # and all have something
    with torch.no_grad():
        marginals = case.head(EVERY[name], k)(case.logits, case.x)
    assert (marginals[case.masked].exp().sum(-1) - 1).abs().max() < 1e-9
    assert torch.equal(marginals[~case.masked], case.logits[~case.masked])


@settings(max_examples=of_fifty(30))
@given(SEEDS, st.sampled_from(["ratio", "projection", "pooled"]))
def test_over_a_circuit_that_factorises(seed: int, name: str) -> None:
    """Ratio and projection return the backbone; the product does not, nor what pools with r."""
    generator = torch.Generator().manual_seed(seed)
    regions = pf.structure.fully_factorized(L)
    circuit = pf.build_circuit(regions, pf.Categorical(V), generator=generator)
    case = Case(circuit, seed)
    log_m = case.logits.log_softmax(-1)
    log_r = enumerate_marginals(circuit, case.visible).to(DEVICE)
    pooled = (0.8 * log_m + 0.3 * log_r).log_softmax(-1)
    wanted = pooled if name == "pooled" else log_m
    found = case.head(EVERY[name])(case.logits, case.x)
    torch.testing.assert_close(found[case.masked], wanted[case.masked], rtol=1e-9, atol=1e-9)
    product = case.head("product")(case.logits, case.x)
    twice = (log_m + log_r).log_softmax(-1)
    torch.testing.assert_close(product[case.masked], twice[case.masked], rtol=1e-9, atol=1e-9)


@settings(max_examples=of_fifty(30))
@given(CIRCUITS, SEEDS)
def test_the_converged_projection_keeps_the_backbone_s_marginals(
    circuit: pf.Circuit, seed: int
) -> None:
    case = Case(circuit, seed)
    head = case.head(Projection(sweeps=3_000, tolerance=1e-8))
    coupled = head.couple(case.logits, case.x)
    assert isinstance(coupled, pf.ProjectedEvidence) and coupled.mismatch is not None
    assert (coupled.mismatch < 1e-8).all()
    assert coupled.log_potentials is not None
    found = enumerate_marginals(
        circuit, pf.Evidence(coupled.values, coupled.missing, coupled.log_potentials)
    ).to(DEVICE)
    wanted = case.logits.softmax(-1)
    torch.testing.assert_close(found.exp()[case.masked], wanted[case.masked], rtol=0.0, atol=1e-6)


@settings(max_examples=of_fifty(30))
@given(CIRCUITS, SEEDS)
def test_no_other_joint_with_these_marginals_is_closer_to_the_circuit(
    circuit: pf.Circuit, seed: int
) -> None:
    """Pythagoras: KL(p, r) = KL(p, q) + KL(q, r) for every p with the marginals of q."""
    case = Case(circuit, seed)
    q, r = case.projected(), case.joint(None)
    other = Case(circuit, seed + 1)  # the projection of another joint onto the same marginals
    regions = pf.structure.random_binary_tree(L, seed=seed)
    another = pf.build_circuit(regions, pf.Categorical(V), 2)
    other.circuit, other.model = another, pf.compile(another, DEVICE, torch.float64)
    other.x, other.masked, other.logits = case.x, case.masked, case.logits
    p = other.projected()

    def kl(a: Tensor, b: Tensor) -> Tensor:
        held = a > -torch.inf
        return (a.exp() * (a - b).masked_fill(~held, 0.0)).sum(-1)

    torch.testing.assert_close(kl(p, r), kl(p, q) + kl(q, r), rtol=1e-6, atol=1e-6)


@settings(max_examples=of_fifty(30))
@given(CIRCUITS, SEEDS)
def test_with_the_circuit_s_own_posteriors_ratio_and_projection_are_exact_in_one_step(
    circuit: pf.Circuit, seed: int
) -> None:
    case = Case(circuit, seed)
    log_r = enumerate_marginals(circuit, case.visible).to(DEVICE)
    case.logits = torch.where(case.masked.unsqueeze(-1), log_r, 0.0)
    wanted = case.joint(None)
    for coupling in ("ratio", Projection(sweeps=1)):
        found = case.found(case.head(coupling))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_the_share_of_masks_picks_the_powers_row_by_row() -> None:
    missing = torch.zeros(6, 5, dtype=torch.bool, device=DEVICE)
    for row in range(6):
        missing[row, :row] = True  # shares 0, .2, .4, .6, .8, 1
    assert bucket_of(missing, 1).tolist() == [0] * 6
    assert bucket_of(missing, 2).tolist() == [0, 0, 0, 1, 1, 1]
    assert bucket_of(missing, 5).tolist() == [0, 1, 2, 3, 4, 4]
    case = Case(chain(3), 5, rows=6)
    case.masked = missing[:, :L]
    case.x = case.x0.masked_fill(case.masked, MASK)
    by_share = LogLinear((0.9, 0.4), (0.1, 0.8))
    found = case.head(by_share).log_prob(case.logits, case.x, case.x0)
    for row in range(6):
        upper = bool(case.masked[row].double().mean() >= 0.5)
        own = case.head(LogLinear(*((0.4, 0.8) if upper else (0.9, 0.1))))
        one = slice(row, row + 1)
        wanted = own.log_prob(case.logits[one], case.x[one], case.x0[one])
        torch.testing.assert_close(found[one], wanted)


def fitting_case(rows: int, powers: LogLinear, seed: int = 2) -> Case:
    """A case whose x0 are drawn from the joint of known powers."""
    case = Case(chain(seed), seed, rows)
    joint = case.joint(case.potentials(powers, case.logits.log_softmax(-1)))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(joint.exp().cpu(), 1, generator=generator).squeeze(1)
    case.x0 = enumerate_states(case.circuit).to(DEVICE)[drawn]
    return case


def test_every_bucket_is_fitted_to_its_own_examples() -> None:
    case = fitting_case(3_000, LogLinear((0.3, 1.2), (0.1, 0.9)))
    head = case.head("product")
    fitted = head.fit_coupling(case.logits, case.x, case.x0, buckets=2)
    assert head.coupling == fitted
    assert isinstance(fitted.a, tuple) and isinstance(fitted.b, tuple)
    assert fitted.a == pytest.approx((0.3, 1.2), abs=0.15)
    assert fitted.b == pytest.approx((0.1, 0.9), abs=0.45)
    for number in range(2):
        rows = bucket_of(case.masked, 2) == number
        alone = case.head("product").fit_coupling(case.logits[rows], case.x[rows], case.x0[rows])
        assert fitted.a[number] == pytest.approx(alone.a, abs=1e-5)
        assert fitted.b[number] == pytest.approx(alone.b, abs=1e-5)


def test_the_fit_is_a_maximum_from_wherever_one_looks() -> None:
    case = fitting_case(500, LogLinear(0.7, 0.3))
    fitted = case.head("product").fit_coupling(case.logits, case.x, case.x0)

    def likelihood(a: float, b: float) -> float:
        return case.head(LogLinear(a, b)).log_prob(case.logits, case.x, case.x0).mean().item()

    assert isinstance(fitted.a, float) and isinstance(fitted.b, float)
    best = likelihood(fitted.a, fitted.b)
    for a in (-1.0, 0.0, 0.5, 1.0, 3.0):
        for b in (-2.0, 0.0, 0.5, 2.0):
            assert best > likelihood(a, b)
            middle = likelihood((a + fitted.a) / 2, (b + fitted.b) / 2)
            assert middle >= (likelihood(a, b) + best) / 2  # concave


def test_buckets_with_few_examples_are_fitted_with_their_neighbours() -> None:
    case = fitting_case(1_500, LogLinear(0.7, 0.3))
    bucket = bucket_of(case.masked, 4)
    kept = (bucket == 3) | (bucket == 1)
    few = (bucket == 2).nonzero()[:10, 0]
    rows = torch.cat([kept.nonzero()[:, 0], few])
    logits, x, x0, bucket = case.logits[rows], case.x[rows], case.x0[rows], bucket[rows]
    fitted = case.head("product").fit_coupling(logits, x, x0, buckets=4)
    assert isinstance(fitted.a, tuple)

    def of(*buckets: int) -> float:
        some = torch.isin(bucket, bucket.new_tensor(buckets))
        found = case.head("product").fit_coupling(logits[some], x[some], x0[some]).a
        assert isinstance(found, float)
        return found

    assert fitted.a == pytest.approx((of(1), of(1), of(1, 2, 3), of(3)), abs=1e-5)
    one = case.head("product").fit_coupling(logits[:5], x[:5], x0[:5], buckets=3)
    all_of_them = case.head("product").fit_coupling(logits[:5], x[:5], x0[:5])
    assert one.a == pytest.approx((all_of_them.a,) * 3)


def test_impossible_examples_do_not_spoil_the_fit() -> None:
    case = fitting_case(300, LogLinear(0.7, 0.3))
    wanted = case.head("product").fit_coupling(case.logits, case.x, case.x0)
    lost = case.logits[:5].clone()
    lost[torch.arange(5), 0, case.x0[:5, 0]] = -torch.inf  # position 0 is masked everywhere
    logits = torch.cat([lost, case.logits])
    x, x0 = (torch.cat([t[:5], t]) for t in (case.x, case.x0))
    found = case.head("product").fit_coupling(logits, x, x0)
    assert (found.a, found.b) == pytest.approx((wanted.a, wanted.b), abs=1e-6)
    with pytest.raises(CouplingError, match="possible"):
        case.head("product").fit_coupling(lost, case.x[:5], case.x0[:5])
    head = case.head("product", top_k=2)
    kept = head.fit_coupling(case.logits, case.x, case.x0)
    best = head.log_prob(case.logits, case.x, case.x0).mean()
    for a, b in ((0.1, 0.0), (-0.1, 0.0), (0.0, 0.1), (0.0, -0.1)):
        head.coupling = LogLinear(kept.a + a, kept.b + b)
        assert head.log_prob(case.logits, case.x, case.x0).mean() < best


def test_fitting_leaves_no_gradients_on_the_circuit() -> None:
    case = fitting_case(30, LogLinear(0.7, 0.3))
    case.head("product").fit_coupling(case.logits, case.x, case.x0)
    assert all(bank.grad is None for bank in case.model.banks)


@pytest.mark.parametrize("name", ["product", "sharpened", "projection"])
def test_without_the_circuit_s_marginals_none_are_computed(name: str) -> None:
    case = Case(chain(1), 1)
    with patch.object(pf.CompiledCircuit, "marginals", side_effect=AssertionError("asked")):
        case.head(EVERY[name], top_k=2).log_prob(case.logits, case.x, case.x0)
        with pytest.raises(AssertionError, match="asked"):
            case.head("ratio", top_k=2).log_prob(case.logits, case.x, case.x0)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_draws_stay_within_the_top_k(name: str) -> None:
    case = Case(chain(1), 1, rows=1)
    head = case.head(EVERY[name], top_k=2)
    many = (500, -1, -1)
    generator = torch.Generator(DEVICE).manual_seed(0)
    tokens, _ = head.sample(case.logits.expand(many), case.x.expand(500, -1), generator=generator)
    worst = case.logits[0].argmin(-1)
    masked = case.masked[0]
    assert (tokens[:, masked] != worst[masked]).all()
    assert torch.equal(tokens[:, ~masked], case.x[:, ~masked].expand(500, -1))
    wanted = (
        case.listed(head, case.found(head))[0].exp()
        @ torch.nn.functional.one_hot(enumerate_states(case.circuit).to(DEVICE)[:, 0], V).double()
    )
    share = torch.bincount(tokens[:, 0], minlength=V) / 500
    torch.testing.assert_close(share.double(), wanted, rtol=0.0, atol=0.1)


def test_shorter_windows_keep_the_top_k() -> None:
    case = Case(chain(1), 1)
    head = case.head("projection", top_k=1)
    short = head.over(2)
    tokens, _ = short.sample(case.logits[:, :2], case.x[:, :2])
    best = case.logits[:, :2].argmax(-1)
    masked = case.masked[:, :2]
    assert torch.equal(tokens[masked], best[masked])
    head.top_k = 3
    assert head.over(2).top_k == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", sorted(EVERY))
def test_low_precision_logits_are_computed_with_in_the_circuit_s(
    name: str, dtype: torch.dtype
) -> None:
    case = Case(chain(8), 8)
    low = case.logits.to(dtype)
    for k in (None, 2):
        head = case.head(EVERY[name], k)
        found = head.log_prob(low, case.x, case.x0)
        assert found.dtype == torch.float64
        assert torch.equal(found, head.log_prob(low.double(), case.x, case.x0))
        assert head(low, case.x).dtype == dtype
        assert torch.equal(head(low, case.x)[~case.masked], low[~case.masked])
    single = CircuitHead(pf.compile(case.circuit, DEVICE, torch.float32), MASK, EVERY[name])
    rough = single.log_prob(low, case.x, case.x0)
    assert rough.dtype == torch.float32
    wanted = case.head(EVERY[name]).log_prob(low, case.x, case.x0)
    torch.testing.assert_close(rough.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(EVERY))
@pytest.mark.parametrize("k", [None, 2])
def test_logits_of_visible_positions_are_never_read(name: str, k: int | None) -> None:
    case = Case(chain(4), 4)
    head = case.head(EVERY[name], k)
    wanted = head.log_prob(case.logits, case.x, case.x0)
    for rubbish in (-torch.inf, torch.inf, torch.nan, 1e30):
        logits = case.logits.masked_fill(~case.masked.unsqueeze(-1), rubbish)
        assert torch.equal(head.log_prob(logits, case.x, case.x0), wanted)


@pytest.mark.parametrize("name", sorted(EVERY))
@pytest.mark.parametrize("k", [None, 2])
def test_what_the_backbone_rules_out_stays_ruled_out(name: str, k: int | None) -> None:
    case = Case(chain(4), 4)
    case.logits[:, 0, 1] = -torch.inf  # position 0 is masked
    case.logits[:, 0, 2] = -torch.inf
    log_q = case.head(EVERY[name], k)(case.logits, case.x)
    torch.testing.assert_close(log_q[:, 0].exp(), log_q.new_tensor([1.0, 0, 0]).expand(3, 3))


def test_a_mask_inside_the_vocabulary_has_no_mass_within_the_top_k() -> None:
    head = CircuitHead(
        pf.compile(chain(4), DEVICE), mask_token_id=0, coupling="projection", top_k=2
    )
    logits = torch.zeros(200, L, V, device=DEVICE)
    logits[..., 0] = 9.0  # the mask would be first
    tokens, _ = head.sample(logits, torch.zeros(200, L, dtype=torch.long, device=DEVICE))
    assert set(tokens.unique().tolist()) == {1, 2}


@pytest.mark.parametrize("mask", range(V))
@pytest.mark.parametrize("k", range(1, V))
def test_the_top_k_are_the_best_of_the_other_tokens(mask: int, k: int) -> None:
    head = CircuitHead(pf.compile(chain(4), DEVICE), mask, "product", top_k=k)
    logits = (
        torch.stack([torch.randperm(V) for _ in range(20 * L)]).view(20, L, V).double().to(DEVICE)
    )
    coupled = head.couple(logits, torch.full((20, L), mask, device=DEVICE))
    others = logits.index_fill(-1, torch.tensor([mask], device=DEVICE), -torch.inf)
    listed = others.topk(k).indices.sort().values
    assert coupled.categories is not None and coupled.log_potentials is not None
    assert torch.equal(coupled.categories, listed)
    wanted, found = others.gather(-1, listed).log_softmax(-1), coupled.log_potentials.double()
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_pooled_targets_have_no_mass_where_the_circuit_cannot_go() -> None:
    emit = pf.Parameter(torch.tensor([[0.0], [0.0], [-torch.inf]]))
    leaves = [pf.InputLayer(v, pf.Categorical(3), 1, {"logits": emit}) for v in range(2)]
    model = pf.compile(pf.Circuit(pf.ProductLayer(leaves)), DEVICE, torch.float64)
    head = CircuitHead(model, MASK, Projection(sweeps=1, pool=(1.0, 1.0)))
    coupled = head.couple(
        torch.zeros(1, 2, 3, device=DEVICE), torch.full((1, 2), MASK, device=DEVICE)
    )
    assert isinstance(coupled, pf.ProjectedEvidence) and coupled.mismatch is not None
    assert coupled.mismatch.item() == pytest.approx(0.0, abs=1e-12)


def test_bad_settings_and_logits_are_refused_by_name() -> None:
    case = Case(chain(4), 4)
    for bad in (
        lambda: LogLinear((0.5, 0.6), (0.5,)),
        lambda: LogLinear((), ()),
        lambda: LogLinear(float("nan"), 0.0),
        lambda: LogLinear((0.5, float("inf")), (0.0, 0.0)),
    ):
        with pytest.raises(pf.SettingError, match="a and b"):
            bad()
    for bad_projection in (
        lambda: Projection(tolerance=-1.0),
        lambda: Projection(tolerance=float("nan")),
        lambda: Projection(pool=(1.0, float("inf"))),
    ):
        with pytest.raises(pf.SettingError, match=r"tolerance|pool"):
            bad_projection()
    with pytest.raises(pf.SettingError, match="top_k"):
        case.head("product", top_k=0)
    with pytest.raises(pf.SettingError, match="buckets"):
        case.head("product").fit_coupling(case.logits, case.x, case.x0, buckets=0)
    with pytest.raises(ShapeMismatch, match=r"\(3, 4, 4\)"):  # a larger vocabulary
        case.head("product")(torch.zeros(3, L, V + 1, device=DEVICE), case.x)
    case.logits[1, 0] = -torch.inf
    for k in (None, 2):
        with pytest.raises(LogitsError, match="row 1, position 0"):
            case.head("product", k)(case.logits, case.x)


def scores(case: Case, couplings: list[Coupling]) -> list[float]:
    given = case.logits, case.x, case.x0
    return [case.head(coupling).log_prob(*given).sum().item() for coupling in couplings]


@pytest.mark.parametrize("seed", range(3))
def test_the_chosen_coupling_is_the_best_of_those_tried(seed: int) -> None:
    case = fitting_case(300, LogLinear(0.4 + 0.4 * seed, 0.3), seed)
    head = case.head("product")
    fitted = case.head("product").fit_coupling(case.logits, case.x, case.x0)
    chosen = head.choose_coupling(case.logits, case.x, case.x0)
    assert head.coupling == chosen
    assert isinstance(fitted.a, float) and isinstance(fitted.b, float)
    pooled = Projection(pool=(fitted.a, 1 - fitted.b))
    between = Projection(pool=((1 + fitted.a) / 2, (1 - fitted.b) / 2))
    best = max(scores(case, [fitted, Projection(), between, pooled]))
    assert scores(case, [chosen]) == pytest.approx([best], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_marginals_that_are_right_are_kept(seed: int) -> None:
    """The truth is a strongly coupled circuit with the backbone's marginals."""
    case = Case(chain(seed), seed, rows=2_000)
    with torch.no_grad():
        for bank in case.model.banks:
            bank.mul_(4.0)
    case.circuit = case.model.circuit
    kept = Projection(sweeps=200)
    truth = case.joint(case.potentials(kept, case.logits.log_softmax(-1)))
    drawn = torch.multinomial(truth.exp().cpu(), 1, generator=torch.Generator().manual_seed(0))
    case.x0 = enumerate_states(case.circuit).to(DEVICE)[drawn.squeeze(1)]
    chosen = case.head("product").choose_coupling(case.logits, case.x, case.x0)
    assert isinstance(chosen, Projection)
    assert chosen.pool == pytest.approx((1.0, 0.0), abs=0.05)


def tokens_of(log_m: Tensor, seed: int = 0) -> Tensor:
    """Tokens [B, L], each drawn by itself."""
    weights = log_m.exp().flatten(0, 1).cpu()
    drawn = torch.multinomial(weights, 1, generator=torch.Generator().manual_seed(seed))
    return drawn.view(log_m.shape[:-1]).to(log_m.device)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_what_makes_a_backbone_too_sure(factor: float) -> None:
    case = Case(chain(0), 0, rows=2_000)
    x0 = tokens_of(case.logits.log_softmax(-1))
    said = Marginals.of(factor * case.logits, case.x, MASK)
    assert fit_temperature(said, x0) == pytest.approx(factor, rel=0.1)  # 5 standard errors
    again = Marginals.of(2 * factor * case.logits, case.x, MASK)
    assert fit_temperature(again, x0) == pytest.approx(2 * fit_temperature(said, x0), rel=1e-4)


def test_a_temperature_is_finite_whatever_the_backbone_says() -> None:
    case = Case(chain(0), 0)
    right = torch.nn.functional.one_hot(case.x0, V).double()
    for scale, least, most in ((0.0, 1.0, 1.0), (-1.0, HOTTEST, HOTTEST), (1.0, 1 / HOTTEST, 0.1)):
        said = Marginals.of(scale * right, case.x, MASK)
        assert least <= fit_temperature(said, case.x0) <= most
    never = Marginals.of(right.masked_fill(right > 0, -torch.inf), case.x, MASK)
    assert fit_temperature(never, case.x0) == 1.0


@settings(max_examples=of_fifty(10), deadline=None)
@given(st.integers(0, 5), st.floats(0.3, 3.0))
def test_how_sure_a_backbone_is_does_not_change_the_coupling_for_drawing(
    seed: int, factor: float
) -> None:
    case = fitting_case(300, LogLinear(0.7, 0.3), seed)
    given = [(scale * case.logits, case.x, case.x0) for scale in (1.0, factor)]
    plain, surer = (case.head("ratio").choose_coupling(*some, for_="drawing") for some in given)
    assert type(plain) is type(surer)
    if isinstance(plain, LogLinear) and isinstance(surer, LogLinear):
        assert plain.a == surer.a == 1.0
        assert plain.b == pytest.approx(surer.b, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_coupling_for_drawing_is_the_best_for_calibrated_marginals(seed: int) -> None:
    case = fitting_case(300, LogLinear(0.4 + 0.4 * seed, 0.3), seed)
    head = case.head("product")
    chosen = head.choose_coupling(case.logits, case.x, case.x0, for_="drawing")
    assert head.coupling == chosen
    case.logits = case.logits / fit_temperature(Marginals.of(case.logits, case.x, MASK), case.x0)
    tried: list[Coupling] = [LogLinear(1.0, b / 20) for b in range(-20, 41)]
    assert scores(case, [chosen])[0] >= max(scores(case, [*tried, Projection()])) - 1e-6


def test_a_backbone_and_a_circuit_that_are_right_get_the_same_for_both_purposes() -> None:
    """The backbone's marginals are those of the circuit, and the circuit is the truth."""
    case = Case(chain(3), 3, rows=4_000)
    with torch.no_grad():
        for bank in case.model.banks:
            bank.mul_(3.0)
    case.circuit = case.model.circuit
    truth = case.joint(None)  # [B, S]
    drawn = torch.multinomial(truth.exp().cpu(), 1, generator=torch.Generator().manual_seed(0))
    case.x0 = enumerate_states(case.circuit).to(DEVICE)[drawn.squeeze(1)]
    logits = enumerate_marginals(case.circuit, case.visible).to(DEVICE)
    few = slice(0, 50)
    for purpose in get_args(Purpose):
        head = case.head("product")
        head.choose_coupling(logits, case.x, case.x0, for_=purpose)
        found = head.log_prob(logits[few], case.x[few], case.x0[few])
        wanted = case.head(LogLinear(1.0, 1.0)).log_prob(logits[few], case.x[few], case.x0[few])
        assert (found - wanted).abs().max() < 0.2, purpose


def test_an_unknown_purpose_is_refused() -> None:
    case = Case(chain(0), 0)
    head = case.head("product")
    with pytest.raises(pf.SettingError, match="likelihood, drawing"):
        head.choose_coupling(case.logits, case.x, case.x0, for_="fun")  # type: ignore[arg-type]
    assert head.coupling == LogLinear()


def test_a_file_keeps_the_coupling_that_was_chosen_for_drawing(tmp_path: Path) -> None:
    case = fitting_case(300, LogLinear(0.7, 0.3))
    head = case.head("product")
    chosen = head.choose_coupling(case.logits, case.x, case.x0, for_="drawing")
    head.save(tmp_path / "head.safetensors")
    assert CircuitHead.load(tmp_path / "head.safetensors").coupling == chosen
