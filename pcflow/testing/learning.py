"""What learning may be told beside rows: how much each counts, and which parameters stay.

Strategies for both, and the laws that `check_circuit` holds learning to.

Legend: B rows.
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from pcflow.circuit import Circuit
from pcflow.learn import EM, Anemone, Gradient, Learner, MiniBatchEM
from pcflow.queries import CompiledCircuit, compile

LEARNERS: tuple[Learner, ...] = (EM(), Anemone(), MiniBatchEM(), Gradient())

LEARNED = 1e-7


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
