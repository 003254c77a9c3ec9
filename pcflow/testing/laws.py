"""All that pcflow promises of a circuit, tried on somebody's own structure.

Legend: B batch, D variables, V categories, Q points.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcflow.io as files
from pcflow.circuit import Circuit
from pcflow.compiled import CompiledCircuit, compile
from pcflow.errors import StructureError
from pcflow.evidence import Evidence
from pcflow.inputs import FAMILIES
from pcflow.layers import InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.learn import EM, fit
from pcflow.reference import reference_log_prob
from pcflow.testing.breach import Breach, LawBroken, compare, compare_entries, demand
from pcflow.testing.density import MOST_STATES, check_density
from pcflow.testing.frequencies import FALSE_ALARM, axis, chi_square
from pcflow.testing.oracle import enumerate_mpe, enumerate_weights
from pcflow.testing.strategies import SEEDS, evidence

EXACT = 1e-9
SINGLE = 1e-5
QUADRATURE = 5e-3
DRAWS = 2_000
ROWS = 20
VARIABLES = 8
"""Posteriors of so many variables are looked at."""
MOST_LAYERS = 12
"""Larger circuits are told by their size only."""


def check_circuit(
    make: Callable[[torch.Generator], Circuit] | st.SearchStrategy[Circuit], examples: int = 10
) -> None:
    """Check every promise of pcflow on circuits that `make` builds.

    Against the plain evaluator and enumeration, in float64: normalisation, marginals, soft
    evidence, posteriors, means, draws with and without evidence, most probable states, gradients,
    EM, files, folding, float32. Hypothesis chooses circuits and evidence, and shrinks what fails.
    Circuits whose families are not in `FAMILIES` are not saved, and those whose parameters are tied
    in a way that EM refuses are not fitted. Large circuits work, with fewer enumerated laws.

    Args:
        make: builds a circuit and draws its parameters from the generator it is given; or a
            strategy, where sizes should shrink too.
        examples: how many circuits are tried per law.

    Raises:
        LawBroken: naming every law that does not hold, each with its smallest circuit.

    Examples:
        >>> import pcflow as pf
        >>> check_circuit(lambda g: pf.hmm(3, 2, pf.Bernoulli(), generator=g), examples=2)
    """
    strategy = (
        make
        if isinstance(make, st.SearchStrategy)
        else SEEDS.map(lambda seed: make(torch.Generator().manual_seed(seed)))
    )
    broken: dict[str, Breach] = {}
    for law in LAWS:
        try:
            _hold(law, strategy, examples)
        except LawBroken as error:
            broken.update({breach.law: breach for breach in error.breaches})
    if broken:
        raise LawBroken(tuple(broken.values()))


def _hold(law: Law, circuits: st.SearchStrategy[Circuit], examples: int) -> None:
    """Try one law; what is raised is of the smallest case that Hypothesis finds.

    Raises:
        LawBroken: if it does not hold.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(_cases(circuits))
    def holds(case: _Case) -> None:
        demand([partial(law, case)], _picture(case.circuit))

    holds()


@dataclass(frozen=True)
class _Case:
    """A circuit, possible evidence about it, and a seed for what else is drawn.

    Attributes:
        circuit: the circuit.
        model: the same in float64.
        about: evidence that is possible; perhaps without rows.
        seed: for draws.
    """

    circuit: Circuit
    model: CompiledCircuit
    about: Evidence
    seed: int

    @property
    def rows(self) -> Tensor:
        """What is observed [B, D], NaN elsewhere."""
        assert self.about.values is not None and self.about.missing is not None
        return self.about.values.double().masked_fill(self.about.missing, torch.nan)

    @property
    def finite(self) -> bool:
        """Whether every variable has a finite range."""
        return None not in self.circuit.num_categories

    @property
    def small(self) -> bool:
        """Whether its states can be enumerated."""
        sizes = [n for n in self.circuit.num_categories if n is not None]
        return self.finite and prod(sizes) <= MOST_STATES

    def generator(self) -> torch.Generator:
        """For draws."""
        return torch.Generator().manual_seed(self.seed)


Law = Callable[[_Case], Iterator[Breach]]


@st.composite
def _cases(draw: st.DrawFn, strategy: st.SearchStrategy[Circuit]) -> _Case:
    circuit, seed = draw(strategy), draw(SEEDS)
    model = compile(circuit, dtype=torch.float64)
    if None in circuit.num_categories:
        about = _drawn_evidence(model, seed)
    else:
        about = draw(evidence(circuit))
        assert about.values is not None
        missing = about.values.isnan() if about.values.is_floating_point() else about.missing
        about = Evidence(about.values, missing, about.log_potentials)
    return _Case(circuit, model, _possible(model, about), seed)


def _drawn_evidence(model: CompiledCircuit, seed: int) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    values = model.sample(3, generator=generator)
    return Evidence(values, torch.rand(values.shape, generator=generator) < 0.4)


def _possible(model: CompiledCircuit, about: Evidence) -> Evidence:
    return _select(about, (model.log_prob(about) > -torch.inf).nonzero().flatten())


def _select(about: Evidence, rows: Tensor) -> Evidence:
    fields = (about.values, about.missing, about.log_potentials)
    return Evidence(*(None if t is None else t[rows] for t in fields))


def _picture(circuit: Circuit) -> str:
    """Every layer of a small circuit, with its parameters as they are stored."""
    if len(circuit.layers) > MOST_LAYERS:
        return f"circuit   {circuit}"
    number = {layer: n for n, layer in enumerate(circuit.layers)}

    def parameters(layer: Layer) -> str:
        match layer:
            case InputLayer():
                named = {name: p.value.tolist() for name, p in layer.parameters.items()}
                return "".join(f", {name} {value}" for name, value in named.items())
            case SumLayer():
                return f", weights {layer.weight.value.softmax(-1).tolist()}"
            case ProductLayer():
                return ""

    def one(layer: Layer) -> str:
        below = ", ".join(str(number[child]) for child in layer.inputs)
        return f"layer {number[layer]}   {layer}{below and ' of '}{below}{parameters(layer)}"

    return "\n".join(map(one, circuit.layers))


def _log_prob(case: _Case) -> Iterator[Breach]:
    found, wanted = case.model.log_prob(case.about), reference_log_prob(case.circuit, case.about)
    yield from compare("log_prob is that of the plain evaluator", case.rows, found, wanted, EXACT)


def _density(case: _Case) -> Iterator[Breach]:
    model, generator = case.model, case.generator()
    exact = model.mpe(torch.full((1, model.num_variables), torch.nan)).exact
    check_density(
        model.log_prob,
        model.num_categories,
        log_marginal=model.log_prob,
        sample=lambda n: model.sample(n, generator=generator),
        sample_given=lambda n, row: model.sample(n, row.unsqueeze(0), generator).squeeze(1),
        mpe=(lambda rows: model.mpe(rows).values) if exact else None,
        rows=None if case.small else model.sample(DRAWS, generator=generator),
        draws=DRAWS,
        tolerance=EXACT,
    )
    yield from ()


def _posterior(case: _Case, variable: int) -> Tensor:
    """Log-probabilities [B, V] of a variable's values, by the plain evaluator."""
    about, size = case.about, case.circuit.num_categories[variable]
    assert about.values is not None and about.missing is not None and size is not None
    scores = []
    for value in range(size):
        values, missing = about.values.clone(), about.missing.clone()
        values[:, variable], missing[:, variable] = value, False
        score = reference_log_prob(case.circuit, Evidence(values, missing, about.log_potentials))
        if about.log_potentials is not None:
            score = score + about.log_potentials[:, variable, value].double()
        scores.append(score)
    posterior = torch.stack(scores, dim=-1).log_softmax(dim=-1)
    observed = torch.arange(size) == about.values[:, variable, None]
    return posterior.where(about.missing[:, variable, None], observed.double().log())


def _looked_at(case: _Case) -> list[int]:
    return list(range(0, case.circuit.num_variables, -(-case.circuit.num_variables // VARIABLES)))


def _posteriors(case: _Case) -> Iterator[Breach]:
    if case.finite and len(case.rows):
        found = case.model.marginals(case.about).exp()
        for variable in _looked_at(case):
            wanted = _posterior(case, variable).exp()
            for row, here, there in zip(case.rows, found[:, variable], wanted, strict=True):
                law = "marginals are the posterior of every variable"
                many = row.expand(len(there), -1)
                yield from compare(law, many, here[: len(there)], there, EXACT)


def _means(case: _Case) -> Iterator[Breach]:
    if len(case.rows):
        found = case.model.mean(case.about)
        for variable in _looked_at(case):
            size = case.circuit.num_categories[variable]
            here = found[:, variable]
            if size is None:
                yield from _integrated_mean(case, variable, here)
            else:
                wanted = _posterior(case, variable).exp() @ torch.arange(size).double()
                yield from compare(MEANS, case.rows, here, wanted, EXACT)


MEANS = "means are those of the posteriors"


def _integrated_mean(case: _Case, variable: int, found: Tensor) -> Iterator[Breach]:
    for row, mean in zip(case.rows, found, strict=True):
        if not row[variable].isnan():
            yield from compare(MEANS, row[None], mean[None], row[variable][None], EXACT)
            continue
        drawn = case.model.sample(DRAWS, row.unsqueeze(0), case.generator())[:, 0, variable]
        points, width = axis(drawn)
        asked = row.repeat(len(points), 1)
        asked[:, variable] = points
        share = (reference_log_prob(case.circuit, asked) + width.log()).softmax(dim=0)
        slack = QUADRATURE * (share @ (points - mean).abs() + mean.abs())
        if not (mean - share @ points).abs() <= slack:
            witness, wanted = f"{row.tolist()}, variable {variable}", share @ points
            yield Breach(MEANS, witness, f"{wanted:.6g}", f"{mean:.6g}")


def _draws(case: _Case) -> Iterator[Breach]:
    """With soft evidence; hard evidence is among the laws of densities."""
    if case.small and len(case.rows):
        known = enumerate_weights(case.circuit, case.about)
        drawn = case.model.sample(DRAWS, case.about, case.generator())  # [N, B, D]
        for row, weight, values in zip(case.rows, known.log_weight, drawn.unbind(1), strict=True):
            counts = (values.unsqueeze(1) == known.states).all(dim=-1).sum(dim=0)
            if counts.sum() < DRAWS or chi_square(counts, weight.softmax(-1)) < FALSE_ALARM:
                law = "draws given soft evidence follow the posterior"
                wanted, found = (t.tolist() for t in (weight.softmax(-1), counts / DRAWS))
                yield Breach(law, str(row.tolist()), str(wanted), str(found))


def _mpe(case: _Case) -> Iterator[Breach]:
    if len(case.rows):
        values, log_value, exact = case.model.mpe(case.about)
        for row, state in zip(case.rows, values, strict=True):
            law = "a most probable state keeps the evidence"
            known = ~row.isnan()
            yield from compare_entries(
                law, state.double()[known], row[known], 0.0, "observed values"
            )
        law = "the value of a most probable state is its log-probability"
        yield from compare(law, case.rows, log_value, _score(case, values), EXACT)
        if case.small:
            best = enumerate_mpe(case.circuit, case.about)[1]
            wanted = best if exact else log_value.minimum(best)
            law = "the value of a most probable state is a bound, and exact if it says so"
            yield from compare(law, case.rows, log_value, wanted, EXACT)


def _score(case: _Case, values: Tensor) -> Tensor:
    """Log-weights [B] of complete states."""
    score, soft = reference_log_prob(case.circuit, values), case.about.log_potentials
    if soft is None:
        return score
    chosen = soft.gather(-1, values.long().unsqueeze(-1)).squeeze(-1).double()
    assert case.about.missing is not None
    return score + chosen.masked_fill(~case.about.missing, 0.0).sum(dim=-1)


def _gradients(case: _Case) -> Iterator[Breach]:
    values = {p: p.value.double().requires_grad_() for p in case.circuit.parameters}
    if not values or not len(case.rows):
        return
    total = reference_log_prob(case.circuit, case.about, values).sum()
    if total.requires_grad:
        grads = torch.autograd.grad(total, list(values.values()), allow_unused=True)
        wanted = dict(zip(values, grads, strict=True))
        case.model.zero_grad()
        case.model.log_prob(case.about).sum().backward()
        for bank, members in zip(case.model.banks, case.model.plan.banks, strict=True):
            for row, parameter in enumerate(members):
                found = torch.zeros_like(bank[row]) if bank.grad is None else bank.grad[row]
                slope = wanted[parameter]
                slope = torch.zeros_like(found) if slope is None else slope
                yield from compare_entries("gradients are those of autograd", found, slope, 1e-8)


def _em(case: _Case) -> Iterator[Breach]:
    rows = case.model.sample(ROWS, generator=case.generator()).double()
    rows = rows.masked_fill(torch.rand(rows.shape, generator=case.generator()) < 0.2, torch.nan)
    moved = case.circuit.replace({p: _moved(p) for p in case.circuit.parameters})
    model = compile(moved, dtype=torch.float64)
    rows = rows[model.log_prob(rows) > -torch.inf]
    if len(rows) == 0 or not case.circuit.parameters:
        return
    try:
        found = fit(model, rows, EM(), epochs=4, progress=False).train
    except StructureError:
        return
    for before, after in pairwise(found):
        if not after >= before - EXACT * max(1.0, abs(before)):
            law = "EM never lowers the likelihood"
            yield Breach(law, f"{len(rows)} draws", f"at least {before:.10g}", f"{after:.10g}")


def _moved(parameter: Parameter) -> Tensor:
    """Elsewhere, so that there is something to learn."""
    return 0.7 * parameter.value


def _files(case: _Case) -> Iterator[Breach]:
    families = {type(x.family) for x in case.circuit.layers if isinstance(x, InputLayer)}
    if all(FAMILIES.get(family.__name__) is family for family in families):
        with tempfile.TemporaryDirectory() as folder:
            files.save(case.model, f"{folder}/circuit.safetensors")
            loaded = files.load(f"{folder}/circuit.safetensors")
        found, wanted = (m.log_prob(case.about) for m in (loaded, case.model))
        law = "saved and loaded, a circuit says the same"
        yield from compare(law, case.rows, found, wanted, EXACT)


def _folding(case: _Case) -> Iterator[Breach]:
    plain = compile(case.circuit, dtype=torch.float64, fold=False)
    found, wanted = (model.log_prob(case.about) for model in (case.model, plain))
    yield from compare("folding changes no answer", case.rows, found, wanted, EXACT)


def _precision(case: _Case) -> Iterator[Breach]:
    narrow = compile(case.circuit, dtype=torch.float32)
    found, wanted = narrow.log_prob(case.about).double(), case.model.log_prob(case.about)
    yield from compare("float32 is right to five digits", case.rows, found, wanted, SINGLE)


LAWS: tuple[Law, ...] = (
    _log_prob,
    _density,
    _posteriors,
    _means,
    _draws,
    _mpe,
    _gradients,
    _em,
    _files,
    _folding,
    _precision,
)
