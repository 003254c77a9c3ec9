"""Rows may be tensors, arrays, lists or tables with columns, to every function alike."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pcflow as pf
from pcflow.evidence import as_tensor

ROWS = [[0.0, 1, 2.5], [1, None, 0.5], [1, 1, -1.0], [0, 0, None], [1, 0, 3.25], [0, 1, 1.5]] * 4
COLUMNS = [pf.Bernoulli(), pf.Categorical(2), pf.Gaussian()]
FINITE = [row[:2] for row in ROWS]


class Frame:
    """As much of a pandas DataFrame as is asked of one: columns of different kinds, by place."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns = list(columns)
        self._columns = [np.asarray(column) for column in columns.values()]
        self.iloc = self

    def __getitem__(self, place: tuple[slice, int]) -> Any:
        return self._columns[place[1]]

    def __array__(self, *_: Any, **__: Any) -> Any:
        return np.stack([column.astype(object) for column in self._columns], axis=-1)

    def __len__(self) -> int:
        return len(self._columns[0])

    def take(self, indices: Any) -> Any:
        raise NotImplementedError  # DataFrames have it, and are no `Examples` for that


def frame(rows: list[list[Any]]) -> Any:
    """The first column of booleans, whole numbers or objects, as it comes."""
    return Frame({f"c{v}": list(column) for v, column in enumerate(zip(*rows, strict=True))})


def pandas_frame(rows: list[list[Any]]) -> Any:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(rows, columns=[f"c{v}" for v in range(len(rows[0]))])
    kinds = {"c0": bool, "c1": "Int64"} | ({"c2": "Float64"} if len(rows[0]) > 2 else {})
    return table.astype(kinds)


KINDS: dict[str, Callable[[list[list[Any]]], Any]] = {
    "array": lambda rows: np.array(rows, dtype=np.float64),
    "single": lambda rows: np.array(rows, dtype=np.float32),
    "objects": lambda rows: np.array(rows, dtype=object),
    "lists": lambda rows: rows,
    "tuples": lambda rows: tuple(map(tuple, rows)),
    "frame": frame,
    "pandas": pandas_frame,
}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def model(families: Any = COLUMNS) -> pf.CompiledCircuit:
    circuit = pf.naive_bayes(families, 2, generator=generator())
    return pf.compile(circuit, dtype=torch.float64)


def fitted(rows: Any, **more: Any) -> Tensor:
    one = model()
    pf.fit(one, rows, epochs=2, progress=False, **more)
    return torch.cat([bank.detach().flatten() for bank in one.banks])


def numbers(circuit: pf.Circuit) -> Tensor:
    return torch.cat([p.value.double().flatten() for p in circuit.parameters])


MIXED: dict[str, Callable[[Any], Any]] = {
    "log_prob": lambda x: model().log_prob(x),
    "evidence": lambda x: model().log_prob(pf.Evidence(x)),
    "mean": lambda x: model().mean(x),
    "sample": lambda x: model().sample(2, x, generator()),
    "mpe": lambda x: model().mpe(x).values,
    "reference": lambda x: pf.reference_log_prob(model().circuit, x),
    "fit": fitted,
    "judge": lambda x: fitted(x, validation=x),
    "prune": lambda x: numbers(pf.prune(model(), x)),
    "initialize": lambda x: numbers(pf.initialize(model().circuit, x, generator())),
    "hclt": lambda x: numbers(pf.hclt(x, 2, COLUMNS, generator=generator())),
    "learn_spn": lambda x: numbers(pf.learn_spn(x, COLUMNS, generator=generator())),
}
ONLY_FINITE: dict[str, Callable[[Any], Any]] = {
    "marginals": lambda x: model(COLUMNS[:2]).marginals(x),
    "chow_liu": lambda x: numbers(pf.chow_liu(x)),
    "mixture_of_trees": lambda x: numbers(pf.mixture_of_trees(x, 2, generator=generator())),
    "upper bound": lambda x: pf.mpe_upper_bound(model(COLUMNS[:2]), x),
    "draws": lambda x: model(COLUMNS[:2]).sample_with_marginals(1, x, generator()).values,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ask", [*MIXED, *ONLY_FINITE])
def test_every_function_reads_rows_of_every_kind(ask: str, kind: str) -> None:
    given, answer = (FINITE, ONLY_FINITE[ask]) if ask in ONLY_FINITE else (ROWS, MIXED[ask])
    plain = torch.tensor([[torch.nan if v is None else v for v in row] for row in given])
    wanted, found = answer(plain.double()), answer(KINDS[kind](given))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6, equal_nan=True)


WRONG: dict[str, tuple[Any, str]] = {
    "text in a list": ([[0.0, 1, 2.5], [1, "old", 0.5]], "row 1, column 1 is 'old'"),
    "text alone": (np.array([["a", "b", "c"]]), "row 0, column 0 is 'a'"),
    "text in a table": (frame([[0, 1, "x"], [1, 1, "y"]]), "row 0, column 'c2' is 'x'"),
    "a date": (frame([[0, 1, datetime(2020, 1, 1)]]), "row 0, column 'c2' is .*2020"),
    "a list": (np.array([[0, 1, None], [0, [2], 1]], dtype=object), r"row 1, column 1 is \[2\]"),
    "no columns": (frame([]), "equal length, got Frame"),
    "ragged": ([[0, 1, 2.5], [1]], "equal length, got list"),
}


@pytest.mark.parametrize(("rows", "told"), WRONG.values(), ids=WRONG)
def test_what_is_no_number_is_refused_by_row_and_column(rows: Any, told: str) -> None:
    asks = (model().log_prob, fitted, lambda x: pf.hclt(x, 2, COLUMNS), pf.chow_liu, pf.Evidence)
    for ask in asks:
        with pytest.raises(pf.EvidenceError, match=f"must be numbers in rows of .*{told}"):
            ask(rows)


def test_columns_keep_their_kind() -> None:
    """Whole numbers beside booleans are whole; weights may be a column as well."""
    table = frame([[True, 3], [False, 4]])
    assert as_tensor("x", table).dtype == torch.int64
    assert as_tensor("w", np.array([1, None], dtype=object)).tolist()[0] == 1.0
    assert fitted(ROWS, weights=[1] * len(ROWS)).equal(fitted(ROWS))
