"""A plan with its parameters: evaluates evidence, and sends doubtful rows through log space.

Legend: B batch, D variables, V categories.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock

import torch
from torch import Tensor

from pcflow.circuit import Circuit, MarkovChain
from pcflow.engine.chain import Halved, LongChain
from pcflow.engine.evaluation import Evaluation, Taped
from pcflow.engine.leaves import Leaf, make_leaf
from pcflow.engine.log_semiring import LogSumProduct
from pcflow.engine.memory import Pool
from pcflow.engine.modes import in_ordinary_modes
from pcflow.engine.passes import up
from pcflow.engine.plan import InputStep, Plan
from pcflow.engine.row_tables import tables_of
from pcflow.engine.semiring import Scaled, Value, floor_of
from pcflow.engine.tables import Tables
from pcflow.engine.tape import Tape
from pcflow.errors import NotAChain
from pcflow.evidence import CheckedEvidence, Domain, Evidence, Numbers, check, look, send

NONE = torch.empty(0, dtype=torch.bool)


class RowCount:
    """How many rows were evaluated so far, and how many of them again in log space; print it.

    Attributes:
        seen: all of them.
        log_space: those that underflow may have spoiled.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.seen = self.log_space = 0
        self._lock = Lock()

    def add(self, seen: int = 0, log_space: int = 0) -> None:
        """Count some more."""
        with self._lock:
            self.seen += seen
            self.log_space += log_space

    def __str__(self) -> str:
        """One line."""
        return f"rows: {self.seen} seen, {self.log_space} of them in log space"


@dataclass(frozen=True)
class Memory:
    """What a model holds, in bytes; print it.

    Attributes:
        budget: how much of `tables` is kept; and what the values of one pass may take.
        parameters: of the model.
        tables: what was computed from them, by kind.
        sheets: what passes write on: in use, or waiting for the next.
        gradients: what those of large tables left behind, for the next ones.
    """

    budget: int
    parameters: int
    tables: dict[str, int]
    sheets: int
    gradients: int

    @property
    def held(self) -> int:
        """What would be free without it, the parameters apart."""
        return sum(self.tables.values()) + self.sheets + self.gradients

    def __str__(self) -> str:
        """A line for each, and the budget."""
        pages = {"sheets": self.sheets, "gradients": self.gradients}
        held = {"parameters": self.parameters} | self.tables | pages
        lines = [f"{what:<18}{size:>16,} bytes" for what, size in held.items()]
        kept = f"{sum(self.tables.values()):,} of at most {self.budget:,} bytes"
        return "\n".join([*lines, f"computed from parameters: {kept}"])


@dataclass(frozen=True)
class Engine:
    """What every query needs: the circuit's variables, its plan, its parameters and memory.

    Attributes:
        structure: the circuit as it was compiled; its parameters are not those of now.
        memory: bytes that the values of one pass may take; larger batches are run in parts. And
            as many for tables.
        rows: a running count.
    """

    structure: Circuit
    plan: Plan
    tables: Tables
    pool: Pool
    memory: int
    rows: RowCount = field(default_factory=RowCount)

    @cached_property
    def domain(self) -> Domain:
        """What evidence must be about."""
        like = self.tables.like
        sizes = self.structure.num_categories[: self.plan.num_variables]  # gates come after them
        return Domain(sizes, like.device, like.dtype)

    @cached_property
    def chain(self) -> MarkovChain:
        """The circuit, read as a hidden Markov chain.

        Raises:
            NotAChain: if it is none.
        """
        return MarkovChain.of(self.structure)

    @cached_property
    def long_chain(self) -> LongChain | None:
        """The same, if few rows of it go by halves."""
        try:
            return LongChain.of(self.chain, self.plan, self.memory, self.domain.device)
        except NotAChain:
            return None

    @in_ordinary_modes
    def by_halves(self, evidence: CheckedEvidence) -> Halved | None:
        """A pass up by halves, if the circuit is a long chain and rows are few."""
        chain, whole = self.long_chain, evidence if evidence.whole is None else evidence.whole
        if chain is None or evidence.parameters is not None or not chain.suits(len(whole.values)):
            return None
        return Halved.up(chain, self.tables, self.log_leaves(evidence))

    def log_leaves(self, evidence: CheckedEvidence) -> list[Leaf]:
        """All inputs, in logarithms, on memory of their own."""
        self.tables.cache.refresh()
        tables = tables_of(self.tables, evidence)
        logs, rows, found = LogSumProduct(self.plan.machine), len(evidence.values), []
        for step in self.plan.steps:
            if isinstance(step, InputStep):
                leaf = make_leaf(step, tables, evidence, logs, keep=True)
                units = self.tables.like.new_empty(step.folds, rows, step.units)
                scale = units.new_zeros(units.shape[:2], dtype=torch.float64)
                leaf.up(Value(units, scale, lowest=units.new_empty(0)))
                found.append(leaf)
        return found

    @cached_property
    def counting(self) -> Engine:
        """The same engine for who counts before every change of the parameters."""
        return replace(self, tables=self.tables.read_by_rows())

    @property
    def held(self) -> Memory:
        """What is kept from query to query."""
        parameters = sum(bank.nbytes for bank in self.tables.banks)
        tables, pages = self.tables.cache.sizes, self.tables.pages.waiting
        return Memory(self.memory, parameters, tables, self.pool.size, pages)

    def check(self, evidence: Evidence | Numbers) -> CheckedEvidence:
        """Evidence that fits the circuit, on the model's device and in its precision."""
        return check(evidence, self.domain)

    def nothing(self, rows: int = 1) -> CheckedEvidence:
        """Evidence in which everything is missing."""
        shape, device = (rows, self.plan.num_variables), self.domain.device
        values = torch.zeros(shape, dtype=torch.long, device=device)
        hidden = torch.ones(shape, dtype=torch.bool)
        values = values if self.domain.is_finite else values.to(self.domain.dtype)
        return CheckedEvidence(values, send(hidden, device), domain=self.domain).seen(hidden)

    def parts(self, evidence: CheckedEvidence, lean: bool = False) -> list[CheckedEvidence]:
        """The evidence in parts that fit into memory: for a pass up, `lean`, or up and down."""
        numbers = self.plan.lean.numbers_per_row + (0 if lean else self.plan.numbers_per_row)
        if evidence.parameters is not None:  # those of a part, and what is computed from them
            numbers += (2 if lean else 4) * evidence.parameters.numbers_per_row
        most = max(1, self.memory // (numbers * self.tables.like.element_size()))
        batch = len(evidence.values)
        if batch <= most:
            return [evidence]
        rows = torch.arange(batch, device=evidence.values.device)
        return [replace(evidence.rows(some), whole=evidence) for some in rows.split(most)]

    def log_value(self, evidence: CheckedEvidence) -> Tensor:
        """The log-value [B] (nats) alone, on the lean plan, in parts."""
        self.rows.add(seen=len(evidence.values))
        halved, lean = self.by_halves(evidence), self.plan.lean
        if halved is not None:
            return halved.log_value
        found = [self._evaluate(lean, part).log_value for part in self.parts(evidence, lean=True)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def evaluate(self, evidence: CheckedEvidence) -> Evaluation:
        """One upward pass, in whichever way is quick."""
        halved = self.by_halves(evidence)
        if halved is None:
            return self.trace(evidence)
        self.rows.add(seen=len(evidence.values))
        return halved

    def trace(self, evidence: CheckedEvidence) -> Taped:
        """A pass that writes down every unit, for who follows the choices of a draw.

        Rows that underflow may have spoiled go through log space as well.
        """
        self.rows.add(seen=len(evidence.values))
        return self._evaluate(self.plan, evidence)

    def _evaluate(self, plan: Plan, evidence: CheckedEvidence) -> Taped:
        # of one unit each, a scale per unit is a logarithm already
        in_logs = plan.of_one_unit and evidence.potentials is None
        semiring = LogSumProduct(plan.machine) if in_logs else Scaled(plan.machine)
        tape = up(plan, self.tables, evidence, semiring, self.pool, waits=False)
        found = self._certified(tape)
        if found is None:  # the weights were outdated
            self.tables.cache.refresh()
            return self._evaluate(plan, evidence)
        return self._evaluation(tape, evidence, *found)

    def _certified(self, tape: Tape) -> tuple[Tensor, bool | None] | None:
        """Which rows [B] may have lost something, and whether all are possible: the certificate.

        This is the one time that a pass waits for the device; a CPU is not asked for more than the
        first. None if parameters were edited.
        """
        low = NONE if tape.semiring.in_log_space else tape.lowest < floor_of(tape.lowest.dtype)
        if tape.log_value.device.type == "cpu":
            return low, None
        possible, doubt = (tape.log_value > -torch.inf).all(), self.tables.cache.doubt()
        low, possible, *doubts = look(low, possible, *(() if doubt is None else (doubt,)))
        return None if any(map(bool, doubts)) else (low, bool(possible))

    def _evaluation(
        self, tape: Tape, evidence: CheckedEvidence, low: Tensor, possible: bool | None
    ) -> Taped:
        """With rows in log space where that is needed."""
        rows = self._doubtful(tape, evidence, low) if bool(low.any()) else None
        if rows is None:
            return Taped(tape.log_value, tape).known(possible)
        self.rows.add(log_space=len(rows))
        logs = LogSumProduct(tape.plan.machine)
        exact = up(tape.plan, self.tables, evidence.rows(rows), logs, self.pool)
        log_value = tape.log_value.index_copy(0, rows, exact.log_value)
        return Taped(log_value, tape, exact, rows)

    def _doubtful(self, scaled: Tape, evidence: CheckedEvidence, lowest: Tensor) -> Tensor | None:
        """Rows with a unit near underflow whose upper bound is not the value; None if none."""
        dtype = scaled.log_value.dtype
        low = send(lowest.nonzero().squeeze(-1), scaled.log_value.device)
        value = scaled.log_value[low]
        raised = Scaled(scaled.plan.machine, raised=True)
        bound = up(scaled.plan, self.tables, evidence.rows(low), raised, self.pool).log_value
        relative = 1e-6 if dtype == torch.float32 else 1e-12
        tolerance = relative * bound.abs().clamp_min(1.0)
        certain = (bound - value <= tolerance) | (bound == -torch.inf)
        return None if certain.all() else low[~certain]
