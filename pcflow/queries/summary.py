"""What a model is, in a few lines and as a table of its layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, layer_parameters
from pcflow.engine import Engine
from pcflow.plot import counted

LINES = 40


class SummaryRow(NamedTuple):
    """Layers of one kind, level and width.

    Attributes:
        level: how many layers are below them, by the longest way.
        kind: of sum or product, or the family of inputs.
        folds: how many layers there are.
        units: of each.
        parameters: numbers that these have and no row before; tied ones count once.
        bytes: of these.
        bytes_per_row: what the values of the units take, for each row of evidence.
    """

    level: int
    kind: str
    folds: int
    units: int
    parameters: int
    bytes: int
    bytes_per_row: int


@dataclass(frozen=True, repr=False)
class Summary:
    """The layers of a model as a table, inputs first; it prints as one.

    Attributes:
        rows: of the table.
        about: the model in a few lines.
    """

    rows: tuple[SummaryRow, ...]
    about: str

    @property
    def total(self) -> SummaryRow:
        """The sums of folds, parameters and bytes; level and units are the largest."""
        level, units = (max(getattr(r, name) for r in self.rows) for name in ("level", "units"))
        added = {
            name: sum(getattr(row, name) for row in self.rows)
            for name in ("folds", "parameters", "bytes", "bytes_per_row")
        }
        return SummaryRow(level=level, kind="all", units=units, **added)

    def __str__(self) -> str:
        """The table, and below it the totals and what the model is."""
        titles = "layers", "folds", "units", "parameters", "bytes", "per row"
        lines = [_line("level", *titles)]
        for level, kind, *numbers in self.rows[:LINES]:
            lines.append(_line(str(level), kind, *(f"{n:,}" for n in numbers)))
        if len(self.rows) > LINES:
            lines.append(_line("", f"... {len(self.rows) - LINES} more", *[""] * 5))
        whole = self.total
        sums = whole.parameters, whole.bytes, whole.bytes_per_row
        lines.append(_line("", "all", f"{whole.folds:,}", "", *(f"{n:,}" for n in sums)))
        return "\n".join([*lines, self.about])

    __repr__ = __str__


def summary(engine: Engine) -> Summary:
    """See `CompiledCircuit.summary`."""
    size = engine.tables.like.dtype.itemsize
    depth: dict[Layer, int] = {}
    rows: dict[tuple[int, str, int], SummaryRow] = {}
    seen: set[Parameter] = set()
    for layer in engine.structure.layers:
        depth[layer] = 1 + max((depth[child] for child in layer.inputs), default=-1)
        key = depth[layer], _kind(layer), layer.units
        fresh = [p for p in dict.fromkeys(layer_parameters(layer)) if p not in seen]
        seen.update(fresh)
        numbers = sum(p.value.numel() for p in fresh)
        row = rows.get(key, SummaryRow(*key[:2], 0, layer.units, 0, 0, 0))
        rows[key] = row._replace(
            folds=row.folds + 1,
            parameters=row.parameters + numbers,
            bytes=row.bytes + numbers * size,
            bytes_per_row=row.bytes_per_row + layer.units * size,
        )
    return Summary(tuple(rows[key] for key in sorted(rows)), about(engine))


def about(engine: Engine) -> str:
    """The model in a few lines: variables, structure, parameters, precision and device."""
    circuit = engine.structure
    inputs = [layer for layer in circuit.layers if isinstance(layer, InputLayer)]
    families = Counter(type(layer.family).__name__ for layer in inputs)
    products = sum(isinstance(layer, ProductLayer) for layer in circuit.layers)
    kinds = (
        counted(len(circuit.layers) - len(inputs) - products, "sum"),
        counted(products, "product"),
        f"{counted(len(inputs), 'input')} ({', '.join(sorted(families))})",
    )
    banks, like = engine.tables.banks, engine.tables.like
    numbers = sum(bank.numel() for bank in banks)
    lines = (
        f"{counted(circuit.num_variables, 'variable')}: {_ranges(circuit)}",
        f"{counted(len(circuit.layers), 'layer')}: {', '.join(kinds)}",
        f"{counted(numbers, 'parameter')} in {counted(len(banks), 'bank')}",
        f"{str(like.dtype).removeprefix('torch.')} on {like.device}",
    )
    return "\n".join(["CompiledCircuit(", *(f"  {line}" for line in lines), ")"])


def _ranges(circuit: Circuit) -> str:
    """How many variables have how many categories."""
    found = Counter(circuit.num_categories)
    finite = sorted(n for n in found if n is not None)
    told = [f"{found[n]:,} of {counted(n, 'value')}" for n in finite[:3]]
    if len(finite) > 3:
        told.append(f"{sum(found[n] for n in finite[3:]):,} of up to {finite[-1]:,}")
    return ", ".join([*told, *[f"{found[None]:,} without a finite range"] * (None in found)])


def _kind(layer: Layer) -> str:
    if isinstance(layer, InputLayer):
        return type(layer.family).__name__
    if isinstance(layer, ProductLayer):
        return f"product {layer.kind}"
    return "mixing sum" if layer.mixing else "sum"


def _line(level: str, kind: str, *numbers: str) -> str:
    widths = 9, 8, 14, 16, 12
    told = (f"{number:>{width}}" for number, width in zip(numbers, widths, strict=True))
    return f"{level:>5}  {kind:<20}{''.join(told)}"
