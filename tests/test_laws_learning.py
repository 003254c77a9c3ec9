"""Laws of the way down, of learning and of files: gradients, draws, EM, save and load, purity."""

import copy
import tempfile
from collections.abc import Callable
from itertools import pairwise

import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from scipy.stats import chi2
from torch import Tensor

import pcflow as pf
from pcflow.io.rounding import softmax_axes
from pcflow.testing import (
    circuits,
    enumerate_log_prob,
    enumerate_states,
    enumerate_weights,
    evidence,
    mixed_families,
)

SEEDS = st.integers(0, 2**31 - 1)


def compiled(circuit: pf.Circuit) -> pf.CompiledCircuit:
    return pf.compile(circuit, DEVICE, torch.float64)


def possible_rows(circuit: pf.Circuit, about: pf.Evidence) -> Tensor:
    return (enumerate_log_prob(circuit, about) > -torch.inf).nonzero().squeeze(-1)


def select(about: pf.Evidence, rows: Tensor) -> pf.Evidence:
    fields = (about.values, about.missing, about.log_potentials)
    return pf.Evidence(*(None if t is None else t[rows] for t in fields))


def complete_rows(circuit: pf.Circuit, seed: int, rows: int = 30, gaps: float = 0.0) -> Tensor:
    """Random data [rows, D] for a circuit, with NaN for a share `gaps` of the entries."""
    generator = torch.Generator().manual_seed(seed)
    columns = [
        torch.randint(1, 5, (rows,), generator=generator).double()
        if n is None
        else torch.randint(n, (rows,), generator=generator).double()
        for n in circuit.num_categories
    ]
    values = torch.stack(columns, dim=1)
    return values.masked_fill(torch.rand(values.shape, generator=generator) < gaps, torch.nan)


def gradients_of_reference(
    circuit: pf.Circuit, about: pf.Evidence, slope: Tensor
) -> tuple[dict[pf.Parameter, Tensor], Tensor | None]:
    """Ordinary autograd through the plain evaluator."""
    values = {p: p.value.double().clone().requires_grad_() for p in circuit.parameters}
    soft = None if about.log_potentials is None else about.log_potentials.double().clone()
    leaves = [*values.values(), *([] if soft is None else [soft.requires_grad_()])]
    found = pf.reference_log_prob(circuit, pf.Evidence(about.values, about.missing, soft), values)
    if not leaves or not found.requires_grad:
        return {}, None
    grads = torch.autograd.grad((found * slope).sum(), leaves, allow_unused=True)
    dense = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
    return dict(zip(values, dense, strict=False)), None if soft is None else dense[-1]


@given(st.data(), circuits(), SEEDS)
def test_the_way_down_is_the_derivative(
    data: st.DataObject, circuit: pf.Circuit, seed: int
) -> None:
    about = data.draw(evidence(circuit))
    about = select(about, possible_rows(circuit, about))
    assert about.values is not None
    slope = torch.randn(len(about.values), generator=torch.Generator().manual_seed(seed)).double()
    wanted, wanted_soft = gradients_of_reference(circuit, about, slope)
    model = compiled(circuit)
    soft = about.log_potentials
    soft = None if soft is None else soft.double().requires_grad_()
    found = model.log_prob(pf.Evidence(about.values, about.missing, soft))
    if not wanted or len(slope) == 0:
        return
    (found * slope.to(DEVICE)).sum().backward()
    for bank, members in zip(model.banks, model.plan.banks, strict=True):
        for grad, parameter in zip(bank.grad, members, strict=True):  # type: ignore[arg-type]
            torch.testing.assert_close(grad.cpu(), wanted[parameter], rtol=1e-9, atol=1e-9)
    if soft is not None:
        torch.testing.assert_close(soft.grad, wanted_soft, rtol=1e-9, atol=1e-9)


@given(circuits(families=mixed_families()), SEEDS)
def test_the_way_down_is_the_derivative_with_densities_too(circuit: pf.Circuit, seed: int) -> None:
    about = pf.Evidence(complete_rows(circuit, seed, rows=4, gaps=0.3))
    finite = pf.reference_log_prob(circuit, about) > -torch.inf
    about = select(about, finite.nonzero().squeeze(-1))
    assert about.values is not None
    wanted, _ = gradients_of_reference(circuit, about, torch.ones(len(about.values)).double())
    model = compiled(circuit)
    if not wanted or len(about.values) == 0:
        return
    model.log_prob(about).sum().backward()
    for bank, members in zip(model.banks, model.plan.banks, strict=True):
        for grad, parameter in zip(bank.grad, members, strict=True):  # type: ignore[arg-type]
            torch.testing.assert_close(grad.cpu(), wanted[parameter], rtol=1e-8, atol=1e-8)


def p_value(counts: Tensor, probabilities: Tensor) -> float:
    """Pearson's chi-square test; cells that are rarely expected are put together."""
    expected = probabilities * counts.sum()
    rare = expected < 5
    observed = torch.cat([counts[~rare], counts[rare].sum().reshape(1)])
    expected = torch.cat([expected[~rare], expected[rare].sum().reshape(1)])
    cells = expected > 0
    assert observed[~cells].sum() == 0
    statistic = ((observed - expected)[cells] ** 2 / expected[cells]).sum()
    return float(chi2.sf(statistic.item(), max(1, int(cells.sum()) - 1)))


@settings(max_examples=of_fifty(30))
@given(st.data(), circuits(max_variables=5), SEEDS)
def test_draws_have_the_right_frequencies(
    data: st.DataObject, circuit: pf.Circuit, seed: int
) -> None:
    about = data.draw(evidence(circuit, max_rows=2) | st.none())
    model = compiled(circuit)
    generator = torch.Generator(DEVICE).manual_seed(seed)
    if about is None:
        drawn = model.sample(4_000, generator=generator).unsqueeze(1)  # [n, 1, D]
        about = pf.Evidence(missing=torch.ones(1, circuit.num_variables, dtype=torch.bool))
    else:
        about = select(about, possible_rows(circuit, about))
        drawn = model.sample(4_000, about, generator)  # [n, B, D]
    known = enumerate_weights(circuit, about)
    for row in range(drawn.shape[1]):
        same = (drawn[:, row, None].cpu() == known.states).all(dim=-1)  # [n, S]
        counts = same.sum(dim=0).double()
        assert counts.sum() == 4_000
        assert p_value(counts, known.log_weight[row].softmax(-1)) > 1e-6


@settings(max_examples=of_fifty(30))
@given(circuits(families=mixed_families()), SEEDS, st.sampled_from([0.0, 0.3]))
def test_em_never_lowers_the_likelihood(circuit: pf.Circuit, seed: int, gaps: float) -> None:
    x = complete_rows(circuit, seed, gaps=gaps)
    x = x[pf.reference_log_prob(circuit, x) > -torch.inf]
    if len(x) == 0 or x.isnan().all():
        return
    model = compiled(circuit)
    found = pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=4, batch_size=7, progress=False).train
    for before, after in pairwise(found):
        assert after >= before - 1e-9 * max(1.0, abs(before))


@settings(max_examples=of_fifty(30))
@given(
    circuits(families=st.builds(pf.Categorical, st.integers(1, 4))),
    SEEDS,
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([1e-3, 0.5]),
)
def test_smoothed_em_never_lowers_the_posterior(
    circuit: pf.Circuit, seed: int, gaps: float, pseudocount: float
) -> None:
    """Of the log-likelihood and of what a Dirichlet prior says of every probability."""
    x = complete_rows(circuit, seed, gaps=gaps)
    x = x[pf.reference_log_prob(circuit, x) > -torch.inf]
    if len(x) == 0 or x.isnan().all():
        return
    model = compiled(circuit)
    run, before = pf.EM(pseudocount).start(model), -torch.inf
    for _ in range(5):
        prior = torch.zeros(()).double()
        for parameter, axis in softmax_axes(model.circuit).items():
            log = parameter.value.log_softmax(axis).cpu()
            prior += log[log > -torch.inf].sum()
        after = float(model.log_prob(x).detach().sum().cpu() + pseudocount * prior)
        assert after >= before - 1e-9 * max(1.0, abs(before))
        before = after
        run.step([pf.Batch(x)])


def test_a_value_that_no_row_has_keeps_a_share() -> None:
    model = compiled(pf.hmm(3, 2, pf.Categorical(5)))
    pf.fit(model, torch.zeros(20, 3), epochs=10, progress=False)
    assert (model.log_prob(torch.full((1, 3), 4)) > -torch.inf).all()


@settings(max_examples=of_fifty(30))
@given(circuits(families=mixed_families()), SEEDS, st.booleans())
def test_saved_and_loaded_is_equal(circuit: pf.Circuit, seed: int, fold: bool) -> None:
    x = complete_rows(circuit, seed, rows=5, gaps=0.3)
    model = pf.compile(circuit, DEVICE, torch.float64, fold)
    with tempfile.TemporaryDirectory() as folder:
        pf.save(model, f"{folder}/circuit.safetensors")
        loaded = pf.load(f"{folder}/circuit.safetensors", DEVICE)
    torch.testing.assert_close(loaded.log_prob(x), model.log_prob(x), rtol=1e-9, atol=1e-9)
    assert len(loaded.circuit.layers) == len(circuit.layers)
    assert len(loaded.circuit.parameters) == len(circuit.parameters)


Query = Callable[[pf.CompiledCircuit, pf.Evidence, Tensor], object]
QUERIES: dict[str, Query] = {
    "log_prob": lambda model, about, _: model.log_prob(about).detach(),
    "backward": lambda model, about, _: _gradients(model, about),
    "marginals": lambda model, about, _: model.marginals(about),
    "sample": lambda model, about, _: model.sample(
        3, about, torch.Generator(DEVICE).manual_seed(1)
    ),
    "mpe": lambda model, about, _: model.mpe(about).values,
    "project": lambda model, about, target: model.project(about, target).log_potentials,
}


def _generator() -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(1)


def _gradients(model: pf.CompiledCircuit, about: pf.Evidence) -> Tensor:
    parameters = list(model.parameters())
    if not parameters:
        return torch.zeros(0)
    grads = torch.autograd.grad(model.log_prob(about).sum(), parameters)
    return torch.cat([g.flatten() for g in grads])


@settings(max_examples=of_fifty(30))
@given(st.data(), circuits())
def test_queries_touch_nothing_and_remember_nothing(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    asked = [select(e, possible_rows(circuit, e)) for e in data.draw(_several(circuit))]
    names = data.draw(st.lists(st.sampled_from(sorted(QUERIES)), min_size=4, max_size=6))
    shared = compiled(circuit)
    state = copy.deepcopy(shared.state_dict())
    largest = max(n or 0 for n in circuit.num_categories)
    for name in names:
        about = data.draw(st.sampled_from(asked))
        assert about.values is not None
        target = torch.zeros(*about.values.shape, largest)
        before = copy.deepcopy(about)
        found = QUERIES[name](shared, about, target)
        alone = QUERIES[name](compiled(circuit), about, target)
        torch.testing.assert_close(found, alone, rtol=0.0, atol=0.0, equal_nan=True)
        for field in ("values", "missing", "log_potentials"):
            was, now = getattr(before, field), getattr(about, field)
            assert (was is None) == (now is None)
            assert was is None or torch.equal(was.nan_to_num(-1.5), now.nan_to_num(-1.5))
        assert all(torch.equal(v, state[k]) for k, v in shared.state_dict().items())


def _several(circuit: pf.Circuit) -> st.SearchStrategy[list[pf.Evidence]]:
    return st.lists(evidence(circuit), min_size=2, max_size=3)


@given(circuits())
def test_compiling_changes_no_circuit(circuit: pf.Circuit) -> None:
    before = [p.value.clone() for p in circuit.parameters]
    model = compiled(circuit)
    with torch.no_grad():
        for bank in model.banks:
            bank.add_(1.0)
    assert all(torch.equal(p.value, b) for p, b in zip(circuit.parameters, before, strict=True))
    states = enumerate_states(circuit)
    renewed = pf.reference_log_prob(model.circuit, states)
    torch.testing.assert_close(model.log_prob(states).detach().cpu(), renewed, rtol=1e-9, atol=1e-9)
