"""Data are read by one rule, whatever learns from them."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import pcflow as pf

D = 3
ROWS = torch.randint(2, (24, D), generator=torch.Generator().manual_seed(0))
HIDDEN = torch.rand(24, D, generator=torch.Generator().manual_seed(1)) < 0.2
GAPS = torch.where(HIDDEN, torch.nan, ROWS)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def chain() -> pf.Circuit:
    return pf.hmm(D, 2, pf.Bernoulli(), generator=seeded())


def fitted(data: Any, **more: Any) -> pf.CompiledCircuit:
    model = pf.compile(chain(), dtype=torch.float64)
    pf.fit(model, data, epochs=2, progress=False, generator=seeded(), **more)
    return model


def judged(data: Any) -> torch.Tensor:
    model = pf.compile(chain(), dtype=torch.float64)
    found = pf.fit(model, ROWS, epochs=2, validation=data, progress=False)
    return torch.tensor(found.validation)


READERS: dict[str, Callable[[Any], Any]] = {
    "fit": fitted,
    "validation": judged,
    "prune": lambda data: pf.prune(pf.compile(chain()), data, keep=0.8),
    "initialize": lambda data: pf.initialize(chain(), data, seeded()),
    "chow_liu": pf.chow_liu,
    "mixture_of_trees": lambda data: pf.mixture_of_trees(data, 2, generator=seeded()),
    "hclt": lambda data: pf.hclt(data, 2, [pf.Bernoulli()] * D, trees=2, generator=seeded()),
    "learn_spn": lambda data: pf.learn_spn(data, [pf.Bernoulli()] * D, generator=seeded()),
    "chow_liu_tree": pf.structure.chow_liu_tree,
}


def told(found: Any) -> Any:
    """What was learned, to be compared."""
    if isinstance(found, pf.Circuit):
        found = pf.compile(found, dtype=torch.float64)
    if isinstance(found, pf.CompiledCircuit):
        return found.log_prob(ROWS).tolist()
    if isinstance(found, torch.Tensor):
        return found.tolist()
    return [region.variables for region in found.regions]


class Table:
    """As those of other libraries."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def take(self, columns: Any) -> None:
        """Something else than rows."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self.data, dtype)


SAME: dict[str, Callable[[torch.Tensor], Any]] = {
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "float64": lambda x: x.double(),
    "strides": lambda x: x.t().contiguous().t(),
    "gradient": lambda x: x.float().clone().requires_grad_(),
    "numpy": lambda x: x.numpy(),
    "other bytes": lambda x: x.numpy().astype(">f8"),
    "lists": lambda x: x.tolist(),
    "tuples": lambda x: tuple(map(tuple, x.tolist())),
    "table": lambda x: Table(x.numpy()),
}
WHOLE: dict[str, Callable[[torch.Tensor], Any]] = {
    "bool": lambda x: x.bool(),
    "uint8": lambda x: x.numpy().astype(np.uint8),
    "uint16": lambda x: x.to(torch.uint16),
    "int32": lambda x: x.numpy().astype(np.int32),
}
WRONG: dict[str, Any] = {
    "no rows": torch.zeros(0, D),
    "a row": torch.zeros(D),
    "no columns": np.zeros((3, 0)),
    "ragged": [[0, 1, 0], [1]],
    "words": [["a", "b", "c"]],
    "numbers as words": np.array([["0", "1", "0"]]),
    "complex": np.zeros((2, D), complex),
    "complex tensor": torch.zeros(2, D, dtype=torch.complex64),
    "meta": torch.zeros(2, D, device="meta"),
    "masked": np.ma.masked_array(np.zeros((2, D)), mask=True),
    "nothing known": torch.full((2, D), torch.nan),
    "infinite": [[0.0, 1.0, torch.inf]],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [*SAME, *WHOLE])
def test_the_same_numbers_teach_the_same(reader: str, kind: str) -> None:
    read = READERS[reader]
    if kind in WHOLE:
        assert told(read(WHOLE[kind](ROWS))) == plainly(reader, gaps=False)
    else:
        assert told(read(SAME[kind](ROWS))) == plainly(reader, gaps=False)
        assert told(read(SAME[kind](GAPS))) == plainly(reader, gaps=True)


@cache
def plainly(reader: str, gaps: bool) -> Any:
    """What plain tensors teach."""
    return told(READERS[reader](GAPS if gaps else ROWS))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_rows_of_numbers_is_refused_by_one_error(reader: str, kind: str) -> None:
    with pytest.raises(pf.EvidenceError):
        READERS[reader](WRONG[kind])
