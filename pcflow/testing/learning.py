"""What learning may be told beside rows: how much each counts, and which parameters stay.

Strategies for both, and the laws that `check_circuit` holds learning to.

Legend: B rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from hypothesis import strategies as st
from torch import Tensor

from pcflow.circuit import Circuit
from pcflow.errors import StructureError
from pcflow.learn import EM, Anemone, Gradient, Learner, MiniBatchEM, fit
from pcflow.queries import CompiledCircuit, compile
from pcflow.testing.breach import Breach, compare_entries
from pcflow.testing.circuit_cases import Case

DESCENT = Gradient(partial(torch.optim.SGD, lr=0.1))
LEARNERS: tuple[Learner, ...] = (EM(), Anemone(), MiniBatchEM(), DESCENT)

LEARNED = 1e-7
ROWS = 12


@st.composite
def row_weights(draw: st.DrawFn, rows: int, whole: bool = False) -> Tensor:
    """Weights [rows] of rows for `fit`, in double: some are zero, at least one is not.

    Args:
        draw: given by Hypothesis.
        rows: how many.
        whole: only whole numbers, which count like rows that are repeated.

    Examples:
        >>> from hypothesis import find
        >>> find(row_weights(3, whole=True), lambda w: w.sum() == 1)
        tensor([0., 0., 1.], dtype=torch.float64)
    """
    some = st.integers(0, 3) if whole else st.sampled_from([0.0, 0.25, 1.0, 7.5])
    found = draw(st.lists(some, min_size=rows, max_size=rows).filter(any))
    return torch.tensor(found, dtype=torch.float64)


@st.composite
def partly_frozen(draw: st.DrawFn, circuit: Circuit) -> CompiledCircuit:
    """A circuit compiled in double, some of whose parameters do not require a gradient.

    Examples:
        >>> import pcflow as pf
        >>> from hypothesis import find
        >>> circuit = pf.hmm(3, states=2, inputs=pf.Bernoulli())
        >>> model = find(partly_frozen(circuit), lambda m: not m.banks[0].requires_grad)
        >>> [bank.requires_grad for bank in model.banks]
        [False, True, True]
    """
    model = compile(circuit, dtype=torch.float64)
    for bank in model.banks:
        bank.requires_grad_(not draw(st.booleans()))
    return model


def weighed(case: Case) -> Iterator[Breach]:
    """Whole weights count like repeated rows."""
    rows, weights = _rows(case), torch.randint(3, (ROWS,), generator=case.generator())
    repeated = rows.repeat_interleave(weights, dim=0)
    if not case.circuit.parameters or repeated.isnan().all():
        return
    for learner in LEARNERS:
        ours, its = (compile(case.circuit, dtype=torch.float64) for _ in range(2))
        try:
            fit(ours, rows, learner, weights=weights, epochs=2, progress=False)
        except StructureError:  # tied in a way that cannot be counted
            continue
        fit(its, repeated, learner, epochs=2, progress=False)
        for mine, other in zip(ours.banks, its.banks, strict=True):
            law = f"to {type(learner).__name__}, whole weights are repeated rows"
            yield from compare_entries(law, mine.exp(), other.exp(), LEARNED)


def frozen(case: Case) -> Iterator[Breach]:
    """What does not require a gradient is kept, every other parameter in turn."""
    for learner, odd in product(LEARNERS, (False, True)):
        model = compile(case.circuit, dtype=torch.float64)
        kept = list(model.banks)[odd::2]
        before = [bank.requires_grad_(False).clone() for bank in kept]
        try:
            fit(model, _rows(case), learner, epochs=2, progress=False)
        except StructureError:
            continue
        for bank, value in zip(kept, before, strict=True):
            law = f"{type(learner).__name__} keeps what is frozen"
            yield from compare_entries(law, bank.exp(), value.exp(), 0.0)


def _rows(case: Case) -> Tensor:
    """Draws, of which some values are missing but not all."""
    rows = case.model.sample(ROWS, generator=case.generator()).double()
    hidden = torch.rand(rows.shape, generator=case.generator()) < 0.2
    hidden[0] = False
    return rows.masked_fill(hidden, torch.nan)
