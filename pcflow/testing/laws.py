"""All that pcflow promises of a circuit, tried on somebody's own structure."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import pcflow.io as files
from pcflow.circuit import Circuit, InputLayer, reference_log_prob
from pcflow.errors import StructureError
from pcflow.inputs import FAMILIES
from pcflow.learn import EM, fit
from pcflow.queries import compile
from pcflow.testing.breach import Breach, compare, compare_entries, demand
from pcflow.testing.circuit_cases import Case, cases, picture
from pcflow.testing.circuit_queries import EXACT, QUERIES, within_intervals
from pcflow.testing.ingredients import SEEDS
from pcflow.testing.learning import frozen, weighed

Law = Callable[[Case], Iterator[Breach]]

GRADIENTS = 1e-8
SINGLE = 1e-5
ROWS = 20


def check_circuit(
    make: Callable[[torch.Generator], Circuit] | st.SearchStrategy[Circuit], examples: int = 10
) -> None:
    """Check every promise of pcflow on circuits that `make` builds.

    Against the plain evaluator and enumeration, in float64: normalisation, marginals, soft
    evidence, posteriors, means, draws with and without evidence, most probable states, gradients,
    EM, weights of rows and frozen parameters in learning, files, folding, float32. Hypothesis
    chooses circuits and evidence, and shrinks what fails. Circuits whose families are not
    registered are not saved, and those whose parameters are tied in a way that EM refuses are not
    fitted. Large circuits work, with fewer enumerated laws.

    Args:
        make: builds a circuit and draws its parameters from the generator it is given; or a
            strategy, where sizes should shrink too.
        examples: how many circuits are tried per law.

    Raises:
        LawBroken: naming the first law that does not hold, with the smallest circuit and evidence.

    Examples:
        >>> import pcflow as pf
        >>> check_circuit(lambda g: pf.hmm(3, 2, pf.Bernoulli(), generator=g), examples=2)
    """
    strategy = (
        make
        if isinstance(make, st.SearchStrategy)
        else SEEDS.map(lambda seed: make(torch.Generator().manual_seed(seed)))
    )
    for law in LAWS:
        _hold(law, strategy, examples)


def _hold(law: Law, circuits: st.SearchStrategy[Circuit], examples: int) -> None:
    """Try one law; what is raised is of the smallest case that Hypothesis finds.

    Raises:
        LawBroken: if it does not hold.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(circuits, bounded=law is within_intervals))
    def holds(case: Case) -> None:
        demand([partial(law, case)], picture(case.circuit))

    holds()


def _gradients(case: Case) -> Iterator[Breach]:
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
                yield from compare_entries(
                    "gradients are those of autograd", found, slope, GRADIENTS
                )


def _em(case: Case) -> Iterator[Breach]:
    rows = case.model.sample(ROWS, generator=case.generator()).double()
    rows = rows.masked_fill(torch.rand(rows.shape, generator=case.generator()) < 0.2, torch.nan)
    elsewhere = case.circuit.replace({p: 0.7 * p.value for p in case.circuit.parameters})
    model = compile(elsewhere, dtype=torch.float64)
    rows = rows[model.log_prob(rows) > -torch.inf]
    if len(rows) == 0 or not case.circuit.parameters:
        return
    try:
        found = fit(model, rows, EM(pseudocount=0.0), epochs=4, progress=False).train
    except StructureError:
        return
    for before, after in pairwise(found):
        if not after >= before - EXACT * max(1.0, abs(before)):
            law = "EM never lowers the likelihood"
            yield Breach(law, f"{len(rows)} draws", f"at least {before:.10g}", f"{after:.10g}")


def _files(case: Case) -> Iterator[Breach]:
    families = {type(x.family) for x in case.circuit.layers if isinstance(x, InputLayer)}
    if all(FAMILIES.get(family.__name__) is family for family in families):
        with tempfile.TemporaryDirectory() as folder:
            files.save(case.model, f"{folder}/circuit.safetensors")
            loaded = files.load(f"{folder}/circuit.safetensors")
        found, wanted = (m.log_prob(case.about) for m in (loaded, case.model))
        law = "saved and loaded, a circuit says the same"
        yield from compare(law, case.rows, found, wanted, EXACT)


def _folding(case: Case) -> Iterator[Breach]:
    plain = compile(case.circuit, dtype=torch.float64, fold=False)
    found, wanted = (model.log_prob(case.about) for model in (case.model, plain))
    yield from compare("folding changes no answer", case.rows, found, wanted, EXACT)


def _precision(case: Case) -> Iterator[Breach]:
    narrow = compile(case.circuit, dtype=torch.float32)
    found, wanted = narrow.log_prob(case.about).double(), case.model.log_prob(case.about)
    yield from compare("float32 is right to five digits", case.rows, found, wanted, SINGLE)


LAWS: tuple[Law, ...] = (*QUERIES, _gradients, _em, weighed, frozen, _files, _folding, _precision)
