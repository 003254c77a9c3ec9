"""From a circuit to a plan: which batched tensor operations evaluate it, in which order.

Layers that run together (see `schedule`) are folded into one step. All folds of one width live in
one arena [rows, B, K], so every step reads and writes rows of arenas: a slice where the folds lie
side by side, an index otherwise. Parameters of equal shape used by the same group are stacked into
one bank. A plan is a plain value that prints as a table.

In a plan every fold has a row of its own, for queries that go down again. Its `lean` twin has the
same steps on fewer rows, which are written over once nobody reads them any more.

Legend: F folds, B batch, K units of the layer, J units read by a sum, P parameters of a bank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import ceil, prod

import torch
from torch import Tensor

from pcflow.circuit import (
    Circuit,
    Fixed,
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    SumLayer,
    layer_parameters,
    no_collection,
)
from pcflow.engine.machine import MACHINE, Machine
from pcflow.engine.rows import assign_rows
from pcflow.engine.schedule import Schedule, make_schedule
from pcflow.engine.sets import Sets
from pcflow.errors import StructureError
from pcflow.inputs import Few, FiniteFamily, InputFamily, Share

Rows = slice | Tensor
Banks = tuple[tuple[Parameter, ...], ...]
MANY = 5
"""Inputs that it is worth to write to by index in one call, and not one by one."""
NONE = torch.empty(0, dtype=torch.long)


@dataclass(frozen=True, eq=False)
class Read:
    """Where a step finds one of its inputs: `rows` of the arena of `width` units.

    `fresh` says that on the way down nobody has written these rows before, and no row occurs twice,
    so that slopes can be copied instead of added. Where they are added, the rows `first` are
    met for the first time.
    """

    width: int
    rows: Rows
    fresh: bool
    first: Tensor

    @property
    def index(self) -> Tensor:
        """The numbers of the rows, where the plan is, be they a slice."""
        if isinstance(self.rows, slice):
            return torch.arange(self.rows.start, self.rows.stop, device=self.first.device)
        return self.rows


@dataclass(frozen=True, eq=False)
class BankRead:
    """Which parameters a step uses: `rows` of a bank, one per fold; one row if all share it."""

    bank: int
    rows: Rows
    shared: bool

    @property
    def numbers(self) -> list[int]:
        """The same rows, one by one."""
        if isinstance(self.rows, slice):
            return list(range(self.rows.start, self.rows.stop))
        return self.rows.tolist()


@dataclass(frozen=True, eq=False)
class InputStep:
    """Input units of one family: fold f is over variable `variables[f]`, `over[f]` for Python.

    Of families that are equal and not the same, those of all folds are `families`.
    """

    family: InputFamily
    families: tuple[InputFamily, ...]
    variables: Tensor
    over: tuple[int, ...]
    parameters: dict[str, BankRead]
    folds: int
    units: int
    out: slice

    @cached_property
    def sets(self) -> Sets:
        """Which parameters its folds read."""
        shared = all(read.shared for read in self.parameters.values())
        return Sets(rows=1, folds=1 if shared else self.folds)

    @cached_property
    def own(self) -> Tensor:
        """Of small classes of a rule, which values are theirs (see `Few`), [F, W]."""
        return torch.stack([one.own for one in self.families if isinstance(one, Few)])

    def of_its_variables(self, by_variable: Tensor) -> Tensor:
        """Of what is said of variables [D, ...], what is said of those of its folds [F, ...]."""
        if len(by_variable) == self.folds and self._in_order:
            return by_variable
        return by_variable.index_select(0, self.variables)

    @cached_property
    def _in_order(self) -> bool:
        """Whether its folds are over the first variables, one after another."""
        return self.over == tuple(range(self.folds))


class Reader:
    """A step that reads others."""

    inputs: tuple[Read, ...]

    @cached_property
    def first(self) -> tuple[Read, ...]:
        """The inputs of which some rows are read here first, on the way down."""
        return tuple(read for read in self.inputs if len(read.first))

    @cached_property
    def alike(self) -> bool:
        """Whether all inputs have one width, and so are of one arena."""
        return len({read.width for read in self.inputs}) == 1

    @cached_property
    def rows(self) -> Tensor:
        """The rows of that arena that are read, [F, H]."""
        return torch.stack([read.index for read in self.inputs], dim=-1)

    @cached_property
    def places(self) -> Tensor | None:
        """The same one input after another, [H F], if many, and nobody else writes there."""
        alone = len(self.inputs) >= MANY and self.alike and all(read.fresh for read in self.inputs)
        return self.rows.t().flatten() if alone else None


@dataclass(frozen=True, eq=False)
class SumStep(Reader):
    """Sums over the units of `inputs`, read side by side; `lowest` if those are input units.

    `plain` says that inputs are added as they are, because strings have one way through a rule.
    """

    inputs: tuple[Read, ...]
    weight: BankRead
    mixing: bool
    plain: bool
    lowest: bool
    folds: int
    units: int
    out: slice


DIVIDED = 4
"""Inputs from one division of a product to the next: long ones must not underflow on the way."""


@dataclass(frozen=True, eq=False)
class ProductStep(Reader):
    """Hadamard or Kronecker products of `inputs`."""

    inputs: tuple[Read, ...]
    kronecker: bool
    folds: int
    units: int
    out: slice

    @property
    def divided(self) -> list[int]:
        """How many units it has every time that it is divided: after some inputs, and the last."""
        if not self.kronecker:
            return [self.units] * ceil(len(self.inputs) / DIVIDED)
        ends = [*range(DIVIDED, len(self.inputs), DIVIDED), len(self.inputs)]
        return [prod(read.width for read in self.inputs[:end]) for end in ends]


Step = InputStep | SumStep | ProductStep


@dataclass(frozen=True)
class Plan:
    """The steps of a circuit, bottom up; the last one is the root.

    Attributes:
        steps: what to do, in order.
        banks: the parameters behind every bank, in row order.
        untied: the banks of which every parameter is read by one fold only.
        arenas: number of rows per width.
        num_variables: how many variables there are, D.
        machine: the sizes that it was cut by, and that passes go by.
        twin: the lean plan, if this is not one.
    """

    steps: tuple[Step, ...]
    banks: Banks
    untied: frozenset[int]
    arenas: dict[int, int]
    num_variables: int
    machine: Machine
    twin: Plan | None = None

    @property
    def lean(self) -> Plan:
        """The same steps on rows that are used again."""
        return self.twin or self

    @property
    def parameter_count(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(prod(p.shape) for bank in self.banks for p in bank)

    @property
    def flops(self) -> int:
        """Floating-point operations of one upward pass of one observed row."""
        return sum(_flops(step) for step in self.steps)

    @cached_property
    def numbers_per_row(self) -> int:
        """Numbers that an upward pass needs room for, per row: units, scales, what is divided."""
        scale = 0 if self.one_scale else 1
        copies = sum((width + scale) * folds for (_, width), folds in self.gathered.items())
        arenas = sum(rows * (width + scale) for width, rows in self.arenas.items())
        return arenas + copies + sum(self.scaled) + 2 * sum(self.products)

    @cached_property
    def runs(self) -> list[range]:
        """Numbers of steps that follow one another: all of inputs, or none."""
        kinds = groupby(range(len(self.steps)), lambda n: isinstance(self.steps[n], InputStep))
        together = [list(numbers) for _, numbers in kinds]
        return [range(run[0], run[-1] + 1) for run in together]

    @cached_property
    def products(self) -> list[int]:
        """Folds of every step that multiplies, as often as it divides; zero for the others."""
        return [s.folds * len(s.divided) if isinstance(s, ProductStep) else 0 for s in self.steps]

    @cached_property
    def scaled(self) -> list[int]:
        """Folds of every input step, if scales are added up once; zero for the others."""
        once = self.one_scale
        return [s.folds if once and isinstance(s, InputStep) else 0 for s in self.steps]

    @cached_property
    def has_rules(self) -> bool:
        """Whether it is of a model under a rule, which lets many units be zero."""
        return any(isinstance(step, SumStep) and step.plain for step in self.steps)

    @property
    def gathered(self) -> dict[tuple[int, int], int]:
        """Most folds that any step copies, because they do not lie side by side; by slot, width."""
        most: dict[tuple[int, int], int] = {}
        for step in self.steps:
            for slot, read in enumerate(() if isinstance(step, InputStep) else step.inputs):
                if not isinstance(read.rows, slice):
                    most[slot, read.width] = max(len(read.rows), most.get((slot, read.width), 0))
        return most

    @cached_property
    def is_tree(self) -> bool:
        """Whether every fold is read by one other, and every sum reads one: no way to choose."""
        inner = [step for step in self.steps if not isinstance(step, InputStep)]
        one = all(len(step.inputs) == 1 for step in inner if isinstance(step, SumStep))
        return one and all(read.fresh for step in inner for read in step.inputs)

    @cached_property
    def one_scale(self) -> bool:
        """Whether no scale is compared with another: all of a row may be added up once."""
        return self.is_tree and not self.has_rules

    @cached_property
    def one_input_each(self) -> bool:
        """Whether no two folds of input units are over the same variable."""
        folds = sum(step.folds for step in self.steps if isinstance(step, InputStep))
        return folds == self.num_variables

    @cached_property
    def summed(self) -> frozenset[int]:
        """Banks that hold weights of sums."""
        return frozenset(s.weight.bank for s in self.steps if isinstance(s, SumStep))

    @cached_property
    def logits(self) -> frozenset[int]:
        """Banks that hold nothing but logits over categories (see `FiniteFamily.logits`)."""
        found, others = set[int](), set(self.summed)
        for step in (step for step in self.steps if isinstance(step, InputStep)):
            family = step.family.whole if isinstance(step.family, Share) else step.family
            logits = family.logits if isinstance(family, FiniteFamily) else None
            for name, read in step.parameters.items():
                (found if name == logits else others).add(read.bank)
        return frozenset(found - others)

    @cached_property
    def of_one_unit(self) -> bool:
        """Whether every layer has a single unit: logarithms are then as quick as scales."""
        return self.arenas.keys() == {1}

    @cached_property
    def samples_at_a_time(self) -> int:
        """Samples whose widest step has no more weights, one per input and fold, than may be."""
        inner = (s for s in self.steps if not isinstance(s, InputStep))
        widest = max((s.folds * sum(r.width for r in s.inputs) for s in inner), default=1)
        return max(1, self.machine.weights // widest)

    def to(self, device: torch.device, machine: Machine | None = None) -> Plan:
        """The same plan, as it was made on the CPU, with its index tensors on `device`.

        It goes by the sizes of that device if no `machine` is given. It was cut by those of a CPU
        all the same: that decides how parameters are stored, which files and states rely on.
        """
        machine = machine or Machine.of(device)
        if device.type == "cpu" and machine == self.machine:
            return self
        plan = replace(self, machine=machine, twin=replace(self.lean, machine=machine))
        return plan if device.type == "cpu" else plan._on(device)

    def _on(self, device: torch.device) -> Plan:
        moved = {read: _move_bank(read, device) for read in _bank_reads(self.steps)}
        return replace(self._to(device, moved), twin=self.lean._to(device, moved))

    def _to(self, device: torch.device, moved: Mapping[BankRead, BankRead]) -> Plan:
        return replace(self, steps=tuple(_to(step, device, moved) for step in self.steps))

    def __str__(self) -> str:
        """A table of the steps and the totals."""
        lines = [f"{'step':>4}  {'what':<24}{'folds':>8}{'units':>7}{'reads':>7}  views    MFLOP"]
        lines += [_line(i, step) for i, step in enumerate(self.steps)][:40]
        if len(self.steps) > 40:
            lines.append(f"      ... {len(self.steps) - 40} more steps")
        lines.append(
            f"{self.num_variables} variables, {self.parameter_count:,} parameters; per row "
            f"{self.flops / 1e6:.3g} MFLOP and {self.numbers_per_row:,} numbers, of which "
            f"{self.lean.numbers_per_row:,} at a time"
        )
        return "\n".join(lines)


@no_collection()
def make_plan(
    circuit: Circuit, fold: bool = True, machine: Machine = MACHINE, stored: Banks = ()
) -> Plan:
    """Decide where the values of a circuit's layers are stored.

    Args:
        circuit: the circuit.
        fold: False gives every layer a step of its own (to check the folding).
        machine: sizes.
        stored: the banks of another plan, which are the first of this one.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.build_circuit(pf.structure.quad_tree((4, 4)), pf.Bernoulli(), units=2)
        >>> [step.folds for step in make_plan(circuit).steps]
        [16, 16, 4, 4, 1, 1]
    """
    home = {p: number for number, bank in enumerate(stored) for p in bank}
    schedule = make_schedule(circuit, machine.strip, fold, home)
    banks = _Banks(schedule.groups, stored)
    outlines = _outlines(schedule, banks)
    members, untied, variables = tuple(banks.members), banks.untied, circuit.num_variables

    def written(reuse: bool) -> Plan:
        rows = assign_rows(schedule.strips, reuse)
        steps = tuple(outline.step(rows.of) for outline in outlines)
        return Plan(steps, members, untied, rows.counts, variables, machine)

    return replace(written(reuse=False), twin=written(reuse=True))


class _Banks:
    """Gives parameters their bank rows."""

    def __init__(self, groups: list[list[Layer]], stored: Banks) -> None:
        self.members = list(stored)
        self.home = {p: (n, row) for n, bank in enumerate(stored) for row, p in enumerate(bank)}
        self.uses: Counter[Parameter] = Counter()
        self.reads: dict[tuple[Parameter, ...], BankRead] = {}
        for group in groups:
            for roles in _roles(group):
                self._store(roles)

    @property
    def untied(self) -> frozenset[int]:
        """Banks without a parameter that is used twice."""
        numbered = enumerate(self.members)
        return frozenset(n for n, bank in numbered if all(self.uses[p] == 1 for p in bank))

    def read(self, parameters: Iterable[Parameter]) -> BankRead:
        """Where a step finds the parameters of its folds; the same for plan and lean plan."""
        wanted = tuple(parameters)
        if wanted not in self.reads:
            places = [self.home[p] for p in wanted]
            if len({bank for bank, _ in places}) > 1:
                raise StructureError(f"{wanted[0]} is tied across parameters of different roles")
            rows = [row for _, row in places]
            shared = len(set(rows)) == 1
            self.reads[wanted] = BankRead(places[0][0], _rows(rows[:1] if shared else rows), shared)
        return self.reads[wanted]

    def _store(self, parameters: tuple[Parameter, ...]) -> None:
        self.uses.update(parameters)
        members = tuple(p for p in dict.fromkeys(parameters) if p not in self.home)
        if members:
            self.home.update({p: (len(self.members), row) for row, p in enumerate(members)})
            self.members.append(members)


@dataclass(frozen=True)
class _Outline:
    """A step before its folds have rows: all that a plan and its twin share.

    Attributes:
        folds: the layers.
        inputs: those that they read, slot by slot.
        met: of these, the ones that nobody above reads.
        make: the step, of what it reads and where it writes.
    """

    folds: list[Layer]
    inputs: list[tuple[Layer, ...]]
    met: list[list[Layer]]
    make: Callable[[tuple[Read, ...], slice], Step]

    def step(self, row: Mapping[Layer, int]) -> Step:
        """The step, where every layer has a row."""
        start = row[self.folds[0]]
        reads = tuple(self.read(row, *slot) for slot in zip(self.inputs, self.met, strict=True))
        return self.make(reads, slice(start, start + len(self.folds)))

    def read(self, row: Mapping[Layer, int], inputs: tuple[Layer, ...], met: list[Layer]) -> Read:
        """One input of the step."""
        width, rows = inputs[0].units, _rows([row[layer] for layer in inputs])
        if len(met) == len(inputs):
            return Read(width, rows, True, NONE)
        return Read(width, rows, False, torch.tensor([row[layer] for layer in met]).long())


def _outlines(schedule: Schedule, banks: _Banks) -> list[_Outline]:
    """The steps bottom up, found from above, so that it is known who reads what first."""
    touched: set[Layer] = set()
    outlines = []
    for strip in reversed(schedule.strips):
        inputs = list(zip(*(layer.inputs for layer in strip), strict=True))
        met = []
        for some in inputs:
            met.append([child for child in dict.fromkeys(some) if child not in touched])
            touched.update(met[-1])
        outlines.append(_Outline(strip, inputs, met, _make(strip, banks)))
    return outlines[::-1]


def _make(strip: list[Layer], banks: _Banks) -> Callable[[tuple[Read, ...], slice], Step]:
    """What makes the step of a strip."""
    folds, units, first = len(strip), strip[0].units, strip[0]
    roles = [banks.read(p) for p in _roles(strip)]
    match first:
        case InputLayer():
            layers = [layer for layer in strip if isinstance(layer, InputLayer)]
            over = tuple(layer.variable for layer in layers)
            named = dict(zip(first.parameters, roles, strict=True))
            families = tuple(layer.family for layer in layers)
            what = first.family, families, torch.tensor(over), over, named, folds, units
            return lambda reads, out: InputStep(*what, out)
        case SumLayer():
            lowest = all(isinstance(child, InputLayer) for child in first.inputs)  # all are as deep
            plain = all(map(_adds, strip))
            how = roles[0], first.mixing, plain, lowest, folds, units
            return lambda reads, out: SumStep(reads, *how, out)
        case ProductLayer():
            kronecker = first.kind == "kronecker"
            return lambda reads, out: ProductStep(reads, kronecker, folds, units, out)


def _adds(layer: Layer) -> bool:
    """Whether a sum adds up its inputs as they are, unit by unit."""
    if not isinstance(layer, SumLayer) or not isinstance(layer.weight, Fixed):
        return False
    return layer.mixing and not bool(layer.weight.value.any())


def _roles(layers: list[Layer]) -> Iterator[tuple[Parameter, ...]]:
    """The parameters of layers of one kind, role by role."""
    return (
        iter(())
        if isinstance(layers[0], ProductLayer)
        else zip(*map(layer_parameters, layers), strict=True)
    )


def _rows(rows: list[int]) -> Rows:
    """A slice if the rows are consecutive, an index otherwise."""
    start, stop = rows[0], rows[0] + len(rows)
    if rows[-1] == stop - 1 and rows == list(range(start, stop)):
        return slice(start, stop)
    return torch.tensor(rows)


def _flops(step: Step) -> int:
    match step:
        case InputStep():
            return 0
        case SumStep():
            width = 1 if step.mixing else step.units
            return 2 * step.folds * width * sum(read.width for read in step.inputs)
        case ProductStep():
            return step.folds * step.units * len(step.inputs)


def kind_of(step: Step) -> str:
    """Input, sum or product."""
    match step:
        case InputStep():
            return "input"
        case SumStep():
            return "sum"
        case ProductStep():
            return "product"


def told(step: Step) -> str:
    """What a step does, in two words."""
    match step:
        case InputStep():
            return f"input {type(step.family).__name__}"
        case SumStep():
            return "mixing sum" if step.mixing else "sum"
        case ProductStep():
            return f"product {'kronecker' if step.kronecker else 'hadamard'}"


def _line(index: int, step: Step) -> str:
    reads = () if isinstance(step, InputStep) else step.inputs
    views = "yes" if all(isinstance(read.rows, slice) for read in reads) else "no"
    return (
        f"{index:>4}  {told(step):<24}{step.folds:>8}{step.units:>7}{len(reads):>7}  {views:<5}"
        f"{_flops(step) / 1e6:>9.3f}"
    )


def _bank_reads(steps: Iterable[Step]) -> set[BankRead]:
    inputs = {r for s in steps if isinstance(s, InputStep) for r in s.parameters.values()}
    return inputs | {s.weight for s in steps if isinstance(s, SumStep)}


def _move_bank(read: BankRead, device: torch.device) -> BankRead:
    return replace(read, rows=_move(read.rows, device))


def _move(rows: Rows, device: torch.device) -> Rows:
    return rows if isinstance(rows, slice) else rows.to(device)


def _to(step: Step, device: torch.device, banks: Mapping[BankRead, BankRead]) -> Step:
    if isinstance(step, InputStep):
        named = {name: banks[read] for name, read in step.parameters.items()}
        return replace(step, variables=step.variables.to(device), parameters=named)
    inputs = tuple(
        replace(read, rows=_move(read.rows, device), first=read.first.to(device))
        for read in step.inputs
    )
    if isinstance(step, SumStep):
        return replace(step, inputs=inputs, weight=banks[step.weight])
    return replace(step, inputs=inputs)
