"""Normalised weights and tables from raw parameters, computed once per parameter change.

Parameters are unconstrained; the passes need linear (or log) weights that sum to one. Each is kept
until the parameter it came from is edited in place or replaced, so a frozen circuit pays once.

Legend: F folds, P parameters of a bank, V categories, K units of the layer, J units read by a sum.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor

from pcflow.inputs import FiniteFamily
from pcflow.kernels import Cumulative
from pcflow.plan import BankRead, InputStep, Plan, SumStep
from pcflow.semiring import Weight

_Version = list[tuple[Tensor, int]]
T = TypeVar("T")


class Tables:
    """The parameters of a plan as its steps read them.

    Args:
        plan: the steps that read them.
        banks: one tensor per bank of the plan. Edits must be in place (`copy_`, optimizers, under
            `torch.no_grad()`) or replace the tensor; an edit through `.data` goes unnoticed.
    """

    def __init__(self, plan: Plan, banks: Sequence[Tensor], like: Tensor) -> None:
        """Start with nothing computed; `like` has the model's dtype and device."""
        self.plan, self.banks, self.like = plan, banks, like
        self._weights: dict[bool, tuple[_Version, dict[int, Weight]]] = {}
        self._kept: dict[tuple[str, tuple[int, ...]], tuple[_Version, object]] = {}

    def weights(self, in_log_space: bool) -> dict[int, Weight]:
        """The weights of every sum step, by its number."""
        kept = self._weights.get(in_log_space)
        if kept is None or not all(map(self._is_current, range(len(self.banks)), kept[0])):
            steps = {n: s for n, s in enumerate(self.plan.steps) if isinstance(s, SumStep)}
            made = {n: self.weight(step, in_log_space) for n, step in steps.items()}
            kept = ([(bank, bank._version) for bank in self.banks], made)
            self._weights[in_log_space] = kept
        return kept[1]

    def weight(self, step: SumStep, in_log_space: bool) -> Weight:
        """Weights [F, K, J] of a sum step ([F, K, H] if mixing); F is 1 if all folds share them."""
        bank = step.weight.bank
        tensor = self._log(bank) if in_log_space else self.linear(bank)
        tensor = _select(tensor, step.weight)
        columns = tensor.movedim(-1, 0).contiguous() if step.mixing else tensor.transpose(-1, -2)
        return Weight(tensor, columns, step.mixing)

    def linear(self, bank: int) -> Tensor:
        """Normalised weights [P, K, J] of a bank."""
        return self._keep("weight", (bank,), lambda: torch.softmax(self.banks[bank], -1))

    def _log(self, bank: int) -> Tensor:
        return self._keep("log weight", (bank,), lambda: torch.log_softmax(self.banks[bank], -1))

    def weight_gradient(self, bank: int, flow: Tensor) -> Tensor:
        """Gradient of a bank of logits from the flow of its weights: the softmax's adjoint."""
        total = flow.sum(dim=-1, keepdim=True)
        return torch.addcmul(flow, self.linear(bank), total, value=-1.0)

    def table(self, step: InputStep, in_log_space: bool) -> Tensor:
        """Probabilities [F, V, K] of a finite input step; F is 1 if all folds share them."""
        family = step.family
        assert isinstance(family, FiniteFamily)
        if not step.parameters:  # a fixed table, such as an indicator's
            fixed = family.log_table({}) if in_log_space else family.table({})
            return fixed.to(self.like)
        kind = f"log table {step.out}" if in_log_space else f"table {step.out}"
        make = family.log_table if in_log_space else family.table
        banks = tuple(read.bank for read in step.parameters.values())
        return self._keep(kind, banks, lambda: make(self.parameters(step)))

    def cumulative(self, step: InputStep) -> Cumulative:
        """Running sums over V of the table of a finite step."""
        return self._of_table("cumulative", step, Cumulative)

    def modes(self, step: InputStep) -> Tensor:
        """The most probable value of every unit of a finite step: [F, K]."""
        return self._of_table("modes", step, lambda table: table.argmax(dim=1))

    def _of_table(self, kind: str, step: InputStep, make: Callable[[Tensor], T]) -> T:
        banks = tuple(read.bank for read in step.parameters.values())
        return self._keep(f"{kind} {step.out}", banks, lambda: make(self.table(step, False)))

    def parameters(self, step: InputStep) -> dict[str, Tensor]:
        """Raw parameters of an input step, each [F, ...]; F is 1 if all folds share it."""
        return {n: _select(self.banks[r.bank], r) for n, r in step.parameters.items()}

    def _keep(self, kind: str, banks: tuple[int, ...], make: Callable[[], T]) -> T:
        kept = self._kept.get((kind, banks))
        if kept is None or not all(map(self._is_current, banks, kept[0])):
            with torch.no_grad():
                kept = ([(self.banks[b], self.banks[b]._version) for b in banks], make())
            self._kept[(kind, banks)] = kept
        return cast(T, kept[1])

    def _is_current(self, bank: int, kept: tuple[Tensor, int]) -> bool:
        tensor, version = kept
        return self.banks[bank] is tensor and tensor._version == version


def _select(bank: Tensor, read: BankRead) -> Tensor:
    return bank[read.rows] if isinstance(read.rows, slice) else bank.index_select(0, read.rows)


def accumulate(bank: Tensor, read: BankRead, folds: Tensor) -> None:
    """Add per-fold numbers [F, ...] to the bank rows that the folds read."""
    if read.shared:
        bank[read.rows] += folds if len(folds) == 1 else folds.sum(dim=0)
    elif isinstance(read.rows, slice):
        bank[read.rows] += folds
    else:
        bank.index_add_(0, read.rows, folds)
