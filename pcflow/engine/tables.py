"""Normalised weights and tables from raw parameters, computed once per parameter change.

Parameters are unconstrained; the passes need linear (or log) weights that sum to one. Each is kept
until the parameter it came from changes, so a frozen circuit pays once.

Legend: F folds, P parameters of a bank, V categories, K units of the layer, J units read by a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from pcflow.circuit import Fixed
from pcflow.engine.cache import Cache
from pcflow.engine.kernels import Cumulative, add_rows, exp_, running_sums
from pcflow.engine.pages import Pages
from pcflow.engine.plan import BankRead, InputStep, Plan, SumStep
from pcflow.engine.semiring import Weight, floor_of
from pcflow.engine.sets import Sets
from pcflow.inputs import FiniteFamily, Share

T = TypeVar("T")


class Normalizer(NamedTuple):
    """Log-probabilities without their table: logits [F, V, K] less `log_total` [F, 1, K].

    Attributes:
        lowest: no larger than the smallest of them, one number.
        moderate: whether exponentials of logits and totals are exact as they are.
    """

    logits: Tensor
    log_total: Tensor
    lowest: Tensor
    moderate: bool

    def table(self, in_log_space: bool) -> Tensor:
        """All of them [F, V, K], or the probabilities."""
        log_table = self.logits - self.log_total
        return log_table if in_log_space else exp_(log_table)

    def weighed(self, place: tuple[slice, slice, slice], times: Tensor) -> Tensor:
        """Probabilities [f, v, k] of some folds, units and categories, in this order.

        Every unit times a number of [f, 1, k].
        """
        folds, units, categories = place
        logits, log_total = self.logits[folds, categories, units], self.log_total[folds, :, units]
        if not self.moderate:
            return exp_(logits - log_total).mul_(times)
        return logits.exp().mul_(exp_(-log_total).mul_(times))


class Tables:
    """The parameters of a plan as its steps read them.

    Args:
        plan: the steps that read them.
        banks: one tensor per bank of the plan.
        like: has the model's dtype and device.
        room: bytes that may be kept.
        soft_dtype: of the tables that soft evidence is multiplied with, if not the model's.

    Attributes:
        cache: what was computed; to be refreshed before a pass.
        by_rows: whether tables are not worth making where few of their rows are read, because
            parameters change after every pass.
        pages: what gradients are written on.
        own: banks of which every row of a batch has its own.
        origin: which rows of a larger batch these are, if not all.
    """

    by_rows = False
    own: frozenset[int] = frozenset()
    origin: Tensor | None = None

    def __init__(
        self,
        plan: Plan,
        banks: Sequence[Tensor],
        like: Tensor,
        room: int,
        soft_dtype: torch.dtype | None = None,
    ) -> None:
        """Start with nothing computed."""
        self.plan, self.banks, self.like, self.soft_dtype = plan, banks, like, soft_dtype
        self.pages = Pages()
        self.cache = Cache(banks, like, room, in_place=plan.machine.records)
        self._fixed = {n for n, bank in enumerate(plan.banks) if isinstance(bank[0], Fixed)}
        self._sums = {n: s for n, s in enumerate(plan.steps) if isinstance(s, SumStep)}

    def read_by_rows(self) -> Tables:
        """The same, with all that is kept, for who changes parameters after every pass."""
        found = copy(self)
        found.by_rows = True
        return found

    def keep(
        self,
        kind: str,
        key: Hashable,
        banks: Iterable[int],
        make: Callable[[], T],
        renew: Callable[[T], T] | None = None,
    ) -> T:
        """See `Cache.keep`."""
        return self.cache.keep(kind, key, banks, make, renew)

    def weights(self, in_log_space: bool) -> dict[int, Weight]:
        """The weights of every sum step, by its number."""

        def make() -> dict[int, Weight]:
            return {n: self.weight(step, in_log_space) for n, step in self._sums.items()}

        def renew(old: dict[int, Weight]) -> dict[int, Weight]:
            for number, new in make().items():
                for mine, its in zip(old[number][:2], new[:2], strict=True):
                    if mine.data_ptr() != its.data_ptr():
                        mine.copy_(its)
            return old

        return self.keep("weights", in_log_space, self.plan.summed, make, renew)

    def weight(self, step: SumStep, in_log_space: bool) -> Weight:
        """Weights [F, K, J] of a sum step ([F, K, H] if mixing); F is 1 if all folds share them."""
        bank = step.weight.bank
        tensor = self._log(bank) if in_log_space else self.linear(bank)
        tensor = select(tensor, step.weight)
        columns = tensor.movedim(-1, 0).contiguous() if step.mixing else tensor.transpose(-1, -2)
        return Weight(tensor, columns, step.mixing)

    def linear(self, bank: int) -> Tensor:
        """Normalised weights [P, K, J] of a bank."""
        if bank in self._fixed:
            return self.keep("weight", bank, [bank], self.banks[bank].exp)
        return self._normalised("weight", bank, torch.softmax)

    def running(self, step: SumStep) -> Tensor:
        """Running sums over J of the weights [F or 1, K, J] of a sum step."""
        bank = step.weight.bank
        sums = self.keep("sums", bank, [bank], lambda: running_sums(self.linear(bank)))
        return select(sums, step.weight)

    def _log(self, bank: int) -> Tensor:
        if bank in self._fixed:
            return self.banks[bank]
        return self._normalised("log", bank, torch.log_softmax)

    def _normalised(self, kind: str, bank: int, softmax: Callable[..., Tensor]) -> Tensor:
        def make() -> Tensor:
            return softmax(self.banks[bank], -1)

        def renew(old: Tensor) -> Tensor:
            return old.copy_(make())

        return self.keep(kind, bank, [bank], make, renew)

    def table(self, step: InputStep, in_log_space: bool) -> Tensor:
        """Probabilities [F, V, K] of a finite input step; F is 1 if all folds share them."""
        family = step.family
        assert isinstance(family, FiniteFamily)
        kind = "log table" if in_log_space else "table"
        if isinstance(family, Share):
            return self._of_step(kind, step, lambda: self._share(step, family, in_log_space))
        make = family.log_table if in_log_space else family.table
        return self._of_step(kind, step, lambda: make(self.parameters(step)).to(self.like))

    def kept_weights(self, bank: int) -> Tensor | None:
        """Normalised weights [P, K, J] of a bank, if they are at hand."""
        return cast(Tensor | None, self.cache.kept("weight", bank))

    def kept_table(self, step: InputStep) -> Tensor | None:
        """The probabilities of a finite step, if they are at hand."""
        found = self.cache.kept("table", (step.family, tuple(step.parameters.values())))
        return cast(Tensor | None, found)

    def kept_normalizer(self, step: InputStep) -> Normalizer | None:
        """What makes its log-probabilities of logits, if it is at hand."""
        key = step.family, tuple(step.parameters.values())
        return None if self.cache.kept("normalizer", key) is None else self.normalizer(step)

    def _share(self, step: InputStep, family: Share, in_log_space: bool) -> Tensor:
        """The rows of a share, without the whole table where it is made of logits."""
        whole = replace(step, family=family.whole)
        if family.whole.logits is None:
            return family.rows(self.table(whole, in_log_space))
        normalizer = self.normalizer(whole)
        return normalizer._replace(logits=family.rows(normalizer.logits)).table(in_log_space)

    def soft_table(self, step: InputStep) -> Tensor:
        """The table [F or 1, V, K] that soft evidence is multiplied with."""
        if self.soft_dtype is None:
            return self.table(step, False)
        dtype, family = self.soft_dtype, step.family
        assert isinstance(family, FiniteFamily)  # whose own table need not be kept beside it
        return self._of_step("soft", step, lambda: family.table(self.parameters(step)).to(dtype))

    def by_unit(self, step: InputStep) -> Tensor:
        """The table that soft evidence is multiplied with, the numbers of a unit side by side.

        [F or 1, K, V].
        """
        whole = self.soft_table
        return self._of_step("by unit", step, lambda: whole(step).transpose(1, 2).contiguous())

    def sets(self, step: InputStep) -> Sets:
        """Which parameters the folds of an input step read."""
        return step.sets

    def has_zeros(self, step: InputStep) -> bool:
        """Whether a probability of a finite step is zero, or too small to hold."""
        floor = floor_of(self.like.dtype)

        def look() -> bool:
            lowest = self.table(step, False).amin(dim=(1, 2))  # of no rows there are no tables
            return bool((lowest < floor).any())

        return self._of_step("zeros", step, look)

    def normalizer(self, step: InputStep) -> Normalizer:
        """How single entries of the log-table follow from the logits of a family that has them."""
        family = step.family
        assert isinstance(family, FiniteFamily) and family.logits is not None
        logits = self.parameters(step)[family.logits].detach()
        normalize = self.plan.machine.log_normalizer
        return Normalizer(logits, *self._of_step("normalizer", step, lambda: normalize(logits)))

    def cumulative(self, step: InputStep, above: SumStep | None = None) -> Cumulative:
        """Running sums over V of the table of a finite step, or of its mixtures by a sum step."""
        entries = self.plan.machine.entries
        if above is None:
            return self._of_table("cumulative", step, lambda table: Cumulative(table, entries))
        reads = (*step.parameters.values(), above.weight)

        def make() -> Cumulative:
            weight = self.weight(above, in_log_space=False).columns  # [F or 1, J, K]
            return Cumulative(self.table(step, False) @ weight, entries)

        return self.keep("mixture", (step.family, reads), [read.bank for read in reads], make)

    def mass(self, step: InputStep) -> Tensor:
        """What the rows of the table of a finite step add up to, [F or 1, K]."""
        return self._of_table("mass", step, lambda table: table.sum(dim=1))

    def modes(self, step: InputStep) -> Tensor:
        """The most probable value of every unit of a finite step: [F, K]."""
        return self._of_table("modes", step, lambda table: table.argmax(dim=1))

    def _of_table(self, kind: str, step: InputStep, make: Callable[[Tensor], T]) -> T:
        return self._of_step(kind, step, lambda: make(self.table(step, False)))

    def _of_step(self, kind: str, step: InputStep, make: Callable[[], T]) -> T:
        reads = tuple(step.parameters.values())
        return self.keep(kind, (step.family, reads), [read.bank for read in reads], make)

    def parameters(self, step: InputStep) -> dict[str, Tensor]:
        """Raw parameters of an input step, each [F, ...]; F is 1 if all folds share it."""
        return {n: select(self.banks[r.bank], r) for n, r in step.parameters.items()}

    def of_folds(self, step: InputStep, read: BankRead, found: Tensor) -> Tensor:
        """What was found for the parameters of an input step [F or 1, ...], of one of them."""
        return found


def select(bank: Tensor, read: BankRead) -> Tensor:
    """The parameters [F or 1, ...] of a bank that a step reads."""
    return bank[read.rows] if isinstance(read.rows, slice) else bank.index_select(0, read.rows)


class BankSums:
    """Sums of numbers per fold, over the folds that read the same parameter.

    Args:
        plan: whose banks these are.
        pages: what sums are written on.
        own: banks of which every row has its own.

    Attributes:
        found: by bank, [P, ...]; [P, B, ...] of those by row.
    """

    def __init__(self, plan: Plan, pages: Pages, own: frozenset[int] = frozenset()) -> None:
        """Start with nothing."""
        self.plan, self.pages, self.own = plan, pages, own
        self.found: dict[int, Tensor] = {}
        self._seen: set[BankRead] = set()

    def place(self, read: BankRead, shape: torch.Size, like: Tensor) -> Tensor | None:
        """Where numbers [F, ...] of the folds of a step may be written, in place of adding them.

        None if others are added to them, or if they lie apart: they are to be added. Steps that say
        nothing leave zeros.
        """
        alone = read.bank in self.plan.untied and read not in self._seen
        if not alone or read.bank in self.own or not isinstance(read.rows, slice):
            return None
        self._seen.add(read)
        if read.bank not in self.found:
            size = len(self.plan.banks[read.bank])
            every = len(range(size)[read.rows]) == size
            found = self.pages.take(like, (size, *shape))
            self.found[read.bank] = found if every else found.zero_()
        return self.found[read.bank][read.rows]

    def add(self, read: BankRead, folds: Tensor) -> None:
        """Add numbers [F, ...] of the folds of a step; or their sum [1, ...], if shared.

        What comes first to parameters that no other fold reads may be kept as it is.
        """
        size = len(self.plan.banks[read.bank])
        alone = read.bank in self.plan.untied and read not in self._seen
        self._seen.add(read)
        if alone and len(folds) == size and isinstance(read.rows, slice):
            self.found[read.bank] = folds
            return
        if read.bank not in self.found:
            self.found[read.bank] = self._room(read.bank, folds, folds.shape[1:])
        bank = self.found[read.bank]
        if alone:
            bank[read.rows] = folds
        elif read.shared:
            bank[read.rows] += folds if len(folds) == 1 else folds.sum(dim=0)
        elif isinstance(read.rows, slice):
            bank[read.rows] += folds
        else:
            add_rows(bank, read.rows, folds)

    def room(self, read: BankRead, shape: torch.Size, like: Tensor) -> Tensor | None:
        """Where numbers [F, ...] are added up, or their sum [1, ...]; None if they lie apart."""
        if read.bank in self.own or not isinstance(read.rows, slice):
            return None
        self._seen.add(read)
        if read.bank not in self.found:
            self.found[read.bank] = self._room(read.bank, like, shape)
        return self.found[read.bank][read.rows]

    def add_rows(self, read: BankRead, folds: Tensor, rows: Tensor, batch: int) -> None:
        """The same of some rows [n] of a batch, of parameters by row: [F or 1, n, ...]."""
        self._seen.add(read)
        if read.bank not in self.found:
            shape = torch.Size([batch, *folds.shape[2:]])
            self.found[read.bank] = self._room(read.bank, folds, shape)
        each = folds.sum(dim=0, keepdim=True) if read.shared else folds
        for number, fold in zip(read.numbers, each, strict=True):
            self.found[read.bank][number].index_add_(0, rows, fold)

    def _room(self, bank: int, like: Tensor, shape: torch.Size) -> Tensor:
        """Zeros for all parameters of a bank, rows first where they have their own."""
        size = len(self.plan.banks[bank])
        if bank not in self.own:
            return self.pages.take(like, (size, *shape)).zero_()
        return self.pages.take(like, (shape[0], size, *shape[1:])).zero_().transpose(0, 1)
