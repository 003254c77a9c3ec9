"""From a circuit to a plan: which batched tensor operations evaluate it, in which order.

Layers of equal shape at equal depth are folded into one step. All folds of one width live in one
arena [rows, B, K], so every step reads and writes rows of arenas: a slice where the folds lie side
by side, an index otherwise. Folds are ordered by the layer that reads them, so that a tree is read
in slices only. Parameters of equal shape used by the same step are stacked into one bank. A plan is
a plain value that prints as a table.

Legend: F folds, B batch, K units of the layer, J units read by a sum, P parameters of a bank.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from pcflow.circuit import (
    Circuit,
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    SumLayer,
    layer_parameters,
)
from pcflow.errors import StructureError
from pcflow.inputs import InputFamily

Rows = slice | Tensor


@dataclass(frozen=True, eq=False)
class Read:
    """Where a step finds one of its inputs: `rows` of the arena of `width` units.

    `fresh` says that on the way down nobody has written these rows before, and no row occurs twice,
    so that flows can be copied instead of added.
    """

    width: int
    rows: Rows
    fresh: bool


@dataclass(frozen=True, eq=False)
class BankRead:
    """Which parameters a step uses: `rows` of a bank, one per fold; one row if all share it."""

    bank: int
    rows: Rows
    shared: bool


@dataclass(frozen=True, eq=False)
class InputStep:
    """Input units of one family: fold f is over variable `variables[f]`."""

    family: InputFamily
    variables: Tensor
    parameters: dict[str, BankRead]
    folds: int
    units: int
    out: slice


@dataclass(frozen=True, eq=False)
class SumStep:
    """Sums over the units of `inputs`, read side by side."""

    inputs: tuple[Read, ...]
    weight: BankRead
    mixing: bool
    folds: int
    units: int
    out: slice


@dataclass(frozen=True, eq=False)
class ProductStep:
    """Hadamard or Kronecker products of `inputs`."""

    inputs: tuple[Read, ...]
    kronecker: bool
    folds: int
    units: int
    out: slice


Step = InputStep | SumStep | ProductStep


@dataclass
class RowCount:
    """How many rows the plan has evaluated so far, and how many of them again in log space."""

    seen: int = 0
    log_space: int = 0


@dataclass(frozen=True)
class Plan:
    """The steps of a circuit, bottom up; the last one is the root.

    Attributes:
        steps: what to do, in order.
        banks: the parameters behind every bank, in row order.
        arenas: number of rows per width.
        num_variables: D.
        rows: running count of evaluated rows.
    """

    steps: tuple[Step, ...]
    banks: tuple[tuple[Parameter, ...], ...]
    arenas: dict[int, int]
    num_variables: int
    rows: RowCount

    @property
    def parameter_count(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(prod(p.shape) for bank in self.banks for p in bank)

    @property
    def flops(self) -> int:
        """Floating-point operations of one upward pass of one observed row."""
        return sum(_flops(step) for step in self.steps)

    @property
    def numbers_per_row(self) -> int:
        """Numbers that an upward pass writes down for one row: units, scales and errors."""
        return sum(rows * (width + 2) for width, rows in self.arenas.items())

    @property
    def gathered(self) -> dict[tuple[int, int], int]:
        """Most folds that any step copies, because they do not lie side by side; by slot, width."""
        most: dict[tuple[int, int], int] = {}
        for step in self.steps:
            for slot, read in enumerate(() if isinstance(step, InputStep) else step.inputs):
                if not isinstance(read.rows, slice):
                    most[slot, read.width] = max(len(read.rows), most.get((slot, read.width), 0))
        return most

    @property
    def is_tree(self) -> bool:
        """Whether every fold is read by one other, and every sum reads one: no way to choose."""
        inner = [step for step in self.steps if not isinstance(step, InputStep)]
        one = all(len(step.inputs) == 1 for step in inner if isinstance(step, SumStep))
        return one and all(read.fresh for step in inner for read in step.inputs)

    @property
    def one_input_each(self) -> bool:
        """Whether no two folds of input units are over the same variable."""
        folds = sum(step.folds for step in self.steps if isinstance(step, InputStep))
        return folds == self.num_variables

    @property
    def samples_at_a_time(self) -> int:
        """Samples whose widest step, one weight per input and fold, stays near 64 MB."""
        inner = (s for s in self.steps if not isinstance(s, InputStep))
        widest = max((s.folds * sum(r.width for r in s.inputs) for s in inner), default=1)
        return max(1, (1 << 24) // widest)

    def to(self, device: torch.device) -> Plan:
        """The same plan with its index tensors on `device`."""
        return replace(self, steps=tuple(_to(step, device) for step in self.steps))

    def __str__(self) -> str:
        """A table of the steps and the totals."""
        lines = [f"{'step':>4}  {'what':<24}{'folds':>8}{'units':>7}{'reads':>7}  views    MFLOP"]
        lines += [_line(i, step) for i, step in enumerate(self.steps)][:40]
        if len(self.steps) > 40:
            lines.append(f"      ... {len(self.steps) - 40} more steps")
        lines.append(
            f"{self.num_variables} variables, {self.parameter_count:,} parameters; per row "
            f"{self.flops / 1e6:.3g} MFLOP and {self.numbers_per_row:,} numbers written"
        )
        lines.append(f"rows: {self.rows.seen} seen, {self.rows.log_space} of them in log space")
        return "\n".join(lines)


def make_plan(circuit: Circuit, fold: bool = True) -> Plan:
    """Level, fold and order the layers of a circuit.

    Args:
        circuit: the circuit.
        fold: False gives every layer a step of its own (to check the folding).

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.build_circuit(pf.structure.quad_tree((4, 4)), pf.Bernoulli(), units=2)
        >>> [step.folds for step in make_plan(circuit).steps]
        [16, 16, 4, 4, 1, 1]
    """
    groups = _order(_groups(circuit, fold))
    return _Writer(groups).plan(circuit)


def _groups(circuit: Circuit, fold: bool) -> list[list[Layer]]:
    """Layers that can be one step, bottom up."""
    depth: dict[Layer, int] = {}
    levels: dict[int, dict[object, list[Layer]]] = defaultdict(lambda: defaultdict(list))
    for layer in circuit.layers:
        depth[layer] = 1 + max((depth[child] for child in layer.inputs), default=-1)
        levels[depth[layer]][_signature(layer) if fold else layer].append(layer)
    home: dict[Parameter, int] = {}
    groups: list[list[Layer]] = []
    for level in sorted(levels):
        for members in levels[level].values():
            split: dict[tuple[int | None, ...], list[Layer]] = defaultdict(list)
            for layer in members:  # parameters of one step must come from one bank
                split[tuple(home.get(p) for p in layer_parameters(layer))].append(layer)
            for group in split.values():
                for parameter in (p for layer in group for p in layer_parameters(layer)):
                    home.setdefault(parameter, len(groups))
                groups.append(group)
    return groups


def _signature(layer: Layer) -> object:
    widths = tuple(child.units for child in layer.inputs)
    match layer:
        case InputLayer():
            return layer.family, layer.units
        case SumLayer():
            return "sum", layer.mixing, layer.units, widths
        case ProductLayer():
            return "product", layer.kind, widths


def _order(groups: list[list[Layer]]) -> list[list[Layer]]:
    """Sort the folds of each group by the place where they are first read from above."""
    place: dict[Layer, tuple[int, int, int]] = {}
    ordered = []
    for distance, group in enumerate(reversed(groups)):
        members = sorted(group, key=lambda layer: place.get(layer, (0, 0, 0)))
        for fold, layer in enumerate(members):
            for slot, child in enumerate(layer.inputs):
                place.setdefault(child, (distance, slot, fold))
        ordered.append(members)
    return ordered[::-1]


class _Writer:
    """Gives folds their arena rows and parameters their bank rows, and writes the steps."""

    def __init__(self, groups: list[list[Layer]]) -> None:
        self.groups = groups
        self.arenas: dict[int, int] = defaultdict(int)
        self.row: dict[Layer, int] = {}
        self.banks: list[list[Parameter]] = []
        self.home: dict[Parameter, tuple[int, int]] = {}

    def plan(self, circuit: Circuit) -> Plan:
        outs = [self.allocate(group) for group in self.groups]
        fresh = self.fresh()
        steps = tuple(map(self.step, self.groups, outs, fresh))
        banks = tuple(map(tuple, self.banks))
        return Plan(steps, banks, dict(self.arenas), circuit.num_variables, RowCount())

    def allocate(self, group: list[Layer]) -> slice:
        width = group[0].units
        start = self.arenas[width]
        for offset, layer in enumerate(group):
            self.row[layer] = start + offset
        self.arenas[width] += len(group)
        return slice(start, start + len(group))

    def fresh(self) -> list[list[bool]]:
        """For every step and input: is it the first, seen from above, to touch these rows?"""
        touched: set[Layer] = set()
        answers = []
        for group in reversed(self.groups):
            answer = []
            for slot in range(len(group[0].inputs)):
                children = [layer.inputs[slot] for layer in group]
                distinct = set(children)
                answer.append(len(distinct) == len(children) and touched.isdisjoint(distinct))
                touched |= distinct
            answers.append(answer)
        return answers[::-1]

    def step(self, group: list[Layer], out: slice, fresh: Sequence[bool]) -> Step:
        reads = tuple(
            Read(child.units, _rows(self.row[layer.inputs[slot]] for layer in group), fresh[slot])
            for slot, child in enumerate(group[0].inputs)
        )
        folds, units, first = len(group), group[0].units, group[0]
        match first:
            case InputLayer():
                layers = [layer for layer in group if isinstance(layer, InputLayer)]
                variables = torch.tensor([layer.variable for layer in layers])
                named = {
                    name: self.bank([layer.parameters[name] for layer in layers])
                    for name in first.parameters
                }
                return InputStep(first.family, variables, named, folds, units, out)
            case SumLayer():
                weight = self.bank([p for layer in group for p in layer_parameters(layer)])
                return SumStep(reads, weight, first.mixing, folds, units, out)
            case ProductLayer():
                return ProductStep(reads, first.kind == "kronecker", folds, units, out)

    def bank(self, parameters: list[Parameter]) -> BankRead:
        members = [p for p in dict.fromkeys(parameters) if p not in self.home]
        if members:
            self.home.update({p: (len(self.banks), row) for row, p in enumerate(members)})
            self.banks.append(members)
        places = [self.home[p] for p in parameters]
        if len({bank for bank, _ in places}) > 1:
            raise StructureError(f"{parameters[0]} is tied across parameters of different roles")
        rows = [row for _, row in places]
        shared = len(set(rows)) == 1
        return BankRead(places[0][0], _rows(rows[:1] if shared else rows), shared)


def _rows(rows: Iterable[int]) -> Rows:
    """A slice if the rows are consecutive, an index otherwise."""
    listed = list(rows)
    if listed == list(range(listed[0], listed[0] + len(listed))):
        return slice(listed[0], listed[0] + len(listed))
    return torch.tensor(listed)


def _flops(step: Step) -> int:
    match step:
        case InputStep():
            return 0
        case SumStep():
            width = 1 if step.mixing else step.units
            return 2 * step.folds * width * sum(read.width for read in step.inputs)
        case ProductStep():
            return step.folds * step.units * len(step.inputs)


def _line(index: int, step: Step) -> str:
    reads = () if isinstance(step, InputStep) else step.inputs
    match step:
        case InputStep():
            what = f"input {type(step.family).__name__}"
        case SumStep():
            what = "mixing sum" if step.mixing else "sum"
        case ProductStep():
            what = f"product {'kronecker' if step.kronecker else 'hadamard'}"
    views = "yes" if all(isinstance(read.rows, slice) for read in reads) else "no"
    return (
        f"{index:>4}  {what:<24}{step.folds:>8}{step.units:>7}{len(reads):>7}  {views:<5}"
        f"{_flops(step) / 1e6:>9.3f}"
    )


def _to(step: Step, device: torch.device) -> Step:
    def move(rows: Rows) -> Rows:
        return rows if isinstance(rows, slice) else rows.to(device)

    if isinstance(step, InputStep):
        named = {n: replace(b, rows=move(b.rows)) for n, b in step.parameters.items()}
        return replace(step, variables=step.variables.to(device), parameters=named)
    moved = replace(step, inputs=tuple(replace(r, rows=move(r.rows)) for r in step.inputs))
    if isinstance(moved, SumStep):
        return replace(moved, weight=replace(moved.weight, rows=move(moved.weight.rows)))
    return moved
