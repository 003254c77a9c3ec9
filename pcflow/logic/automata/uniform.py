"""The circuit of a rule: all accepted strings of a length, equally probable.

Legend: L length, V categories, C classes, S states.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.inputs import Categorical
from pcflow.logic.automata.table import Table

Logs = npt.NDArray[np.float64]


def uniform(table: Table, log_counts: Logs) -> Circuit:
    """A sum over classes for every state that strings pass, from the last place to the first.

    Args:
        table: in its normal form.
        log_counts: in how many ways strings can end from every place and state, [L + 1, S].
    """
    log_sizes = np.log(np.bincount(table.classes))
    family = Categorical(len(table.classes))
    classes = torch.from_numpy(table.classes)

    @cache
    def logits(label: int) -> Parameter:
        return Parameter((classes == label).double().log().unsqueeze(-1))

    after: dict[int, Layer | None] = dict.fromkeys(
        np.flatnonzero(log_counts[-1] > -np.inf).tolist()
    )
    for place in reversed(range(len(log_counts) - 1)):
        read = [InputLayer(place, family, 1, {"logits": logits(c)}) for c in range(len(log_sizes))]
        here: dict[int, Layer | None] = {}
        for state in np.flatnonzero(log_counts[place] > -np.inf).tolist():
            ways = [(c, s) for c, s in enumerate(table.next[state].tolist()) if s in after]
            terms = [_product(read[c], after[s]) for c, s in ways]
            weight = [log_sizes[c] + log_counts[place + 1][s] for c, s in ways]
            here[state] = SumLayer(terms, Parameter(torch.tensor([weight], dtype=torch.float64)))
        after = here
    root = after[table.start]
    assert root is not None
    return Circuit(root)


def _product(here: Layer, rest: Layer | None) -> Layer:
    return here if rest is None else ProductLayer([here, rest])
