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
from pcflow.engine.leaves import make_leaf
from pcflow.engine.log_semiring import LogSumProduct
from pcflow.engine.memory import Pool
from pcflow.engine.passes import AtLeaf, AtWeights, down, follow, up
from pcflow.engine.plan import InputStep, Plan
from pcflow.engine.routes import Route
from pcflow.engine.semiring import Scaled, floor_of
from pcflow.engine.tables import Tables
from pcflow.engine.tape import Tape
from pcflow.engine.told import Shares
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
    """

    budget: int
    parameters: int
    tables: dict[str, int]
    sheets: int

    def __str__(self) -> str:
        """A line for each, and the budget."""
        held = {"parameters": self.parameters} | self.tables | {"sheets": self.sheets}
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
        return Domain(self.structure.num_categories, like.device, like.dtype)

    @cached_property
    def chain(self) -> MarkovChain:
        """The circuit, read as a hidden Markov chain.

        Raises:
            NotAChain: if it is none.
        """
        return MarkovChain.of(self.structure)

    @property
    def held(self) -> Memory:
        """What is kept from query to query."""
        parameters = sum(bank.nbytes for bank in self.tables.banks)
        return Memory(self.memory, parameters, self.tables.cache.sizes, self.pool.size)

    def check(self, evidence: Evidence | Numbers) -> CheckedEvidence:
        """Evidence that fits the circuit, on the model's device and in its precision."""
        return check(evidence, self.domain)

    def nothing(self, rows: int = 1) -> CheckedEvidence:
        """Evidence in which everything is missing."""
        shape, device = (rows, self.structure.num_variables), self.domain.device
        values = torch.zeros(shape, dtype=torch.long, device=device)
        hidden = torch.ones(shape, dtype=torch.bool)
        values = values if self.domain.is_finite else values.to(self.domain.dtype)
        return CheckedEvidence(values, send(hidden, device), domain=self.domain).seen(hidden)

    def parts(self, evidence: CheckedEvidence, lean: bool = False) -> list[CheckedEvidence]:
        """The evidence in parts that fit into memory: for a pass up, `lean`, or up and down."""
        numbers = self.plan.lean.numbers_per_row + (0 if lean else self.plan.numbers_per_row)
        most = max(1, self.memory // (numbers * self.tables.like.element_size()))
        batch = len(evidence.values)
        if batch <= most:
            return [evidence]
        rows = torch.arange(batch, device=evidence.values.device)
        return [replace(evidence.rows(some), whole=evidence) for some in rows.split(most)]

    def log_inputs(self, evidence: CheckedEvidence) -> list[tuple[InputStep, Tensor]]:
        """Log-values [F, B, K] of the input units of every step that has any."""
        self.tables.cache.refresh()
        logs = LogSumProduct(self.plan.machine)
        found: list[tuple[InputStep, Tensor]] = []
        with self.pool.lend(self.plan, len(evidence.values), self.tables.like) as sheet:
            for number, step in enumerate(self.plan.steps):
                if isinstance(step, InputStep):
                    out = sheet.outs[number]
                    make_leaf(step, self.tables, evidence, logs, keep=False).up(out)
                    found.append((step, out.units.clone()))
        return found

    def log_value(self, evidence: CheckedEvidence) -> Tensor:
        """The log-value [B] (nats) alone, on the lean plan, in parts."""
        lean = self.plan.lean
        found = [self._evaluate(lean, part).log_value for part in self.parts(evidence, lean=True)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def evaluate(self, evidence: CheckedEvidence) -> Evaluation:
        """One upward pass; rows that underflow may have spoiled go through log space as well."""
        return self._evaluate(self.plan, evidence)

    def _evaluate(self, plan: Plan, evidence: CheckedEvidence) -> Evaluation:
        # of one unit each, a scale per unit is a logarithm already
        in_logs = plan.of_one_unit and evidence.potentials is None
        semiring = LogSumProduct(plan.machine) if in_logs else Scaled(plan.machine)
        tape = up(plan, self.tables, evidence, semiring, self.pool, waits=False)
        found = self._certified(tape)
        if found is None:  # the weights were outdated
            self.tables.cache.refresh()
            return self._evaluate(plan, evidence)
        self.rows.add(seen=len(evidence.values))
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
    ) -> Evaluation:
        """With rows in log space where that is needed."""
        rows = self._doubtful(tape, evidence, low) if bool(low.any()) else None
        if rows is None:
            return Evaluation(tape.log_value, tape, None, None).known(possible)
        self.rows.add(log_space=len(rows))
        logs = LogSumProduct(tape.plan.machine)
        exact = up(tape.plan, self.tables, evidence.rows(rows), logs, self.pool)
        log_value = tape.log_value.index_copy(0, rows, exact.log_value)
        return Evaluation(log_value, tape, exact, rows)

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


@dataclass(frozen=True)
class Evaluation:
    """The result of an upward pass.

    Attributes:
        log_value: [B] (nats).
        scaled: the tape of all rows; in log space if no layer has a second unit to share a scale.
        exact: the log-space tape of the doubtful rows, if there are any.
        doubtful: their indices.
    """

    log_value: Tensor
    scaled: Tape
    exact: Tape | None
    doubtful: Tensor | None

    @cached_property
    def possible(self) -> bool:
        """Whether no log-value is -inf or NaN."""
        return bool((self.log_value > -torch.inf).all())

    def known(self, possible: bool | None) -> Evaluation:
        """The same, if that was looked at."""
        if possible is not None:
            self.__dict__["possible"] = possible
        return self

    def down(
        self,
        root_flow: Tensor,
        at_leaf: AtLeaf,
        at_weights: AtWeights | None = None,
        shares: Shares | None = None,
    ) -> None:
        """Go down on every tape; doubtful rows have no slope on the first."""
        if self.exact is None or self.doubtful is None:
            down(self.scaled, root_flow, at_leaf, at_weights, shares)
            return
        rows = self.doubtful
        down(self.scaled, root_flow.index_fill(0, rows, 0.0), at_leaf, at_weights, shares)
        exact = None if shares is None else {w: share[:, rows] for w, share in shares.items()}
        down(self.exact, root_flow[rows], at_leaf, at_weights, exact)

    def follow(self, route: Route, copies: int) -> Tensor:
        """Values [C, B, D] along chosen inputs, C copies of every row."""
        values: Tensor = follow(self.scaled, route, copies).unflatten(0, (copies, -1))
        if self.exact is not None and self.doubtful is not None:
            exact = follow(self.exact, route, copies).unflatten(0, (copies, -1))
            values.index_copy_(1, self.doubtful, exact)
        return values
