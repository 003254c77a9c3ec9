"""Log-potentials: a number for every category, or for a few that are listed, all others impossible.

Who reads them need not know which: no other file asks.

Legend: B batch, D variables, V categories, k listed ones, C chosen ones, N entries (row, variable).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow.errors import EvidenceError
from pcflow.evidence.selection import largest

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Potentials(ABC):
    """Log-potentials (nats) of categories, -inf where one is impossible; `of` makes them.

    Leading axes, [B, D] as a rule, are indexed as those of a tensor.

    Args:
        log: [..., V]; or [..., k], those of the categories that are listed.
        categories: which ones these are, [..., k]; None for all.

    Examples:
        >>> soft = Potentials.of(torch.tensor([[0.6, 0.4]]).log(), torch.tensor([[2, 0]]))
        >>> soft.dense(4).exp()
        tensor([[0.4000, 0.0000, 0.6000, 0.0000]])
        >>> soft.at(torch.tensor([[0, 1]])).exp()
        tensor([[0.4000, 0.0000]])
    """

    log: Tensor
    categories: Tensor | None = None

    @staticmethod
    def of(log: Tensor, categories: Tensor | None = None) -> Potentials:
        """Those of all categories, or of the listed ones.

        Args:
            log: log-potentials [..., V], or [..., k].
            categories: which ones are listed [..., k]; all if not given.
        """
        return _Dense(log) if categories is None else _Listed(log, categories)

    def like(self, log: Tensor) -> Self:
        """Other numbers about the same categories.

        Args:
            log: the numbers, in the shape of these.
        """
        return replace(self, log=log)

    @property
    def parts(self) -> list[Tensor]:
        """The numbers, and which categories are listed, if not all."""
        return [part for part in (self.log, self.categories) if part is not None]

    def to(self, device: torch.device | str) -> Potentials:
        """The same on another device.

        Args:
            device: a torch device, or its name.
        """
        return Potentials.of(*(part.to(device) for part in self.parts))

    @abstractmethod
    def check(self, shape: Sequence[int], largest: int) -> None:
        """See that they are about so many rows, variables and categories.

        Args:
            shape: rows and variables (B, D).
            largest: V, the most categories of any variable.

        Raises:
            EvidenceError: naming both shapes.
        """

    @abstractmethod
    def misplaced(self, largest: int) -> Tensor:
        """Which variables [B, D] list other than different categories; or False: none.

        Args:
            largest: V; categories are 0..V - 1.
        """

    @abstractmethod
    def __getitem__(self, place: Any) -> Potentials:
        """Those of a part of the leading axes."""

    @abstractmethod
    def entries(self, row: Tensor, variable: Tensor) -> Potentials:
        """Those of single rows and variables: [N, V or k] of [B, D, V or k].

        Args:
            row: rows [N].
            variable: variables [N].
        """

    @abstractmethod
    def dense(self, size: int) -> Tensor:
        """Those of all categories, [..., V].

        Args:
            size: how many categories there are, V.
        """

    @abstractmethod
    def at(self, chosen: Tensor) -> Tensor:
        """Those of chosen categories, [..., C].

        Args:
            chosen: the categories [..., C].
        """

    @abstractmethod
    def at_entries(self, row: Tensor, variable: Tensor, chosen: Tensor) -> Tensor:
        """Those of chosen categories of single rows and variables, [N, C].

        Args:
            row: rows [N].
            variable: variables [N].
            chosen: the categories [N, C].
        """

    @abstractmethod
    def among(self, every: Tensor) -> Tensor:
        """Of numbers about all categories those about these, [..., V or k].

        Args:
            every: [..., V].
        """

    @abstractmethod
    def beyond(self, size: Tensor) -> Tensor:
        """Which numbers are about categories beyond a variable's own: bool [..., D, V or k].

        Args:
            size: number of categories of every variable [D].
        """

    @abstractmethod
    def below(self, size: int) -> Potentials:
        """Without the higher categories, to be read: one that was listed is impossible.

        Args:
            size: how many stay, from the lowest up.
        """

    @abstractmethod
    def restricted(self, values: Tensor, number: Tensor) -> tuple[Potentials, Tensor]:
        """Those of some categories, numbered anew.

        Where fewer of them are listed than elsewhere, the first is again, as an impossible one.

        Args:
            values: the categories [V'].
            number: the new number of each [V], -1 for others.

        Returns:
            Potentials [..., V'], or of those listed; and at which place each stands here.
        """

    @abstractmethod
    def read(self, every: Callable[[], T], some: Callable[[Tensor], T]) -> T:
        """What one of two functions makes of the categories.

        Args:
            every: called if they are all there, in order.
            some: called with those that are listed, [..., k].
        """

    @abstractmethod
    def category(self, place: Tensor) -> Tensor:
        """The categories [...] that stand at places of the last axis.

        Args:
            place: [...].
        """

    @abstractmethod
    def top_k(self, k: int) -> Potentials:
        """The largest, listed in their order, of all categories from the lowest up.

        Args:
            k: how many.
        """

    @abstractmethod
    def beside(self, others: Tensor) -> Potentials:
        """And behind them those of other variables.

        Args:
            others: about all of their categories, [B, C, S].
        """


_NOWHERE = torch.tensor(False)


class _Dense(Potentials):
    """Of all categories."""

    def check(self, shape: Sequence[int], largest: int) -> None:
        _check_shape(self.log, (*shape, largest))

    def misplaced(self, largest: int) -> Tensor:
        return _NOWHERE

    def __getitem__(self, place: Any) -> Potentials:
        return _Dense(self.log[place])

    def entries(self, row: Tensor, variable: Tensor) -> Potentials:
        return _Dense(_select(self.log, row, variable))

    def dense(self, size: int) -> Tensor:
        return self.log

    def at(self, chosen: Tensor) -> Tensor:
        return self.log.gather(-1, chosen)

    def at_entries(self, row: Tensor, variable: Tensor, chosen: Tensor) -> Tensor:
        return self.log[row.unsqueeze(-1), variable.unsqueeze(-1), chosen]

    def among(self, every: Tensor) -> Tensor:
        return every

    def beyond(self, size: Tensor) -> Tensor:
        return torch.arange(self.log.shape[-1], device=size.device) >= size.unsqueeze(-1)

    def below(self, size: int) -> Potentials:
        return _Dense(self.log[..., :size])

    def restricted(self, values: Tensor, number: Tensor) -> tuple[Potentials, Tensor]:
        place = values.expand(*self.log.shape[:-1], -1)
        return _Dense(self.log.index_select(-1, values)), place

    def read(self, every: Callable[[], T], some: Callable[[Tensor], T]) -> T:
        return every()

    def category(self, place: Tensor) -> Tensor:
        return place

    def top_k(self, k: int) -> Potentials:
        return _Listed(*_largest(self.log, k))

    def beside(self, others: Tensor) -> Potentials:
        width = max(self.log.shape[-1], others.shape[-1])
        return _Dense(torch.cat([_widened(self.log, width), _widened(others, width)], dim=1))


@dataclass(frozen=True, eq=False)
class _Listed(Potentials):
    """Of the listed `categories` [..., k]."""

    categories: Tensor

    @cached_property
    def rising(self) -> tuple[Tensor, Tensor]:
        """The categories from the lowest up, and where each is listed; both [..., k]."""
        listed = self.categories
        on_cpu = listed.device.type == "cpu"  # elsewhere one would wait for the answer
        if on_cpu and bool((listed[..., 1:] > listed[..., :-1]).all()):
            return listed.contiguous(), torch.arange(listed.shape[-1]).expand_as(listed)
        rising, place = listed.sort(dim=-1)
        return rising, place

    def check(self, shape: Sequence[int], largest: int) -> None:
        batch, width = shape
        got = tuple(self.categories.shape)
        if len(got) != 3 or got[:2] != (batch, width) or got[2] < 1:
            raise EvidenceError(f"categories must be [{batch}, {width}, k], got {got}")
        _check_shape(self.log, got)

    def misplaced(self, largest: int) -> Tensor:
        rising = self.rising[0]
        wrong = (rising[..., 0] < 0) | (rising[..., -1] >= largest)
        return wrong | (rising[..., 1:] == rising[..., :-1]).any(dim=-1)

    def __getitem__(self, place: Any) -> Potentials:
        return _Listed(self.log[place], self.categories[place])

    def entries(self, row: Tensor, variable: Tensor) -> Potentials:
        log, categories = (_select(part, row, variable) for part in self.parts)
        return _Listed(log, categories)

    def dense(self, size: int) -> Tensor:
        nowhere = self.log.new_full((*self.log.shape[:-1], size), -torch.inf)
        return nowhere.scatter(-1, self.categories, self.log)

    def at(self, chosen: Tensor) -> Tensor:
        return _find(self.log, *self.rising, chosen)

    def at_entries(self, row: Tensor, variable: Tensor, chosen: Tensor) -> Tensor:
        log = _select(self.log, row, variable)  # [N, k]
        on_cpu = log.device.type == "cpu"  # elsewhere one would wait for the answer
        if on_cpu and torch.equal(_select(self.categories, row, variable), chosen):
            return log
        rising, place = (_select(part, row, variable) for part in self.rising)
        return _find(log, rising, place, chosen)

    def among(self, every: Tensor) -> Tensor:
        return every.gather(-1, self.categories)

    def beyond(self, size: Tensor) -> Tensor:
        return self.categories >= size.unsqueeze(-1)

    def below(self, size: int) -> Potentials:
        beyond = self.categories >= size
        log = self.log.masked_fill(beyond, -torch.inf)
        return _Listed(log, self.categories.masked_fill(beyond, 0))

    def restricted(self, values: Tensor, number: Tensor) -> tuple[Potentials, Tensor]:
        numbered = number[self.categories]
        inside = numbered >= 0
        place = inside.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices
        if place.device.type == "cpu" and len(place):  # elsewhere one would wait for the answer
            place = place[..., : max(1, int(inside.sum(dim=-1).max()))]
        log = self.log.masked_fill(~inside, -torch.inf).gather(-1, place)
        return _Listed(log, numbered.clamp_min(0).gather(-1, place)), place

    def read(self, every: Callable[[], T], some: Callable[[Tensor], T]) -> T:
        return some(self.categories)

    def category(self, place: Tensor) -> Tensor:
        return self.categories.gather(-1, place.unsqueeze(-1)).squeeze(-1)

    def top_k(self, k: int) -> Potentials:
        log, place = _largest(self.log, k)
        return _Listed(log, self.categories.gather(-1, place))

    def beside(self, others: Tensor) -> Potentials:
        few = self._widened(others.shape[-1])
        width, count = few.log.shape[-1], others.shape[1]
        every = torch.arange(width, device=few.log.device).expand(len(few.log), count, -1)
        log = torch.cat([few.log, _widened(others, width)], dim=1)
        return _Listed(log, torch.cat([few.categories, every], dim=1))

    def _widened(self, width: int) -> _Listed:
        """As many listed at least: the first of those that are not, which stay impossible."""
        more = width - self.log.shape[-1]
        if more <= 0:
            return self
        shape = *self.log.shape[:-1], width + 1
        taken = self.log.new_zeros(shape, dtype=torch.bool)  # those beyond stand last
        taken.scatter_(-1, self.categories.clamp_max(width), True)
        first = taken[..., :width].byte().argsort(dim=-1, stable=True)[..., :more]
        categories = torch.cat([self.categories, first], dim=-1)
        return _Listed(_widened(self.log, width), categories)


def _check_shape(log: Tensor, wanted: tuple[int, ...]) -> None:
    if log.shape != wanted:
        raise EvidenceError(f"log_potentials must be {wanted}, got {tuple(log.shape)}")


def _select(log: Tensor, row: Tensor, variable: Tensor) -> Tensor:
    """Single rows and variables [N, V] of [B, D, V]."""
    _, width, size = log.shape
    return log.reshape(-1, size).index_select(0, row * width + variable)


def _largest(log: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest numbers of [..., V], and where they are, in order."""
    place = largest(log.detach(), min(k, log.shape[-1]))
    return log.gather(-1, place), place


def _widened(log: Tensor, width: int) -> Tensor:
    """Numbers [..., width] of [..., V], impossible beyond."""
    return pad(log, (0, width - log.shape[-1]), value=-torch.inf)


def _find(log: Tensor, rising: Tensor, place: Tensor, chosen: Tensor) -> Tensor:
    """Numbers [..., C] of chosen categories, -inf where one is not listed."""
    found = torch.searchsorted(rising, chosen.contiguous()).clamp_max_(rising.shape[-1] - 1)
    numbers = log.gather(-1, place.gather(-1, found))
    return numbers.masked_fill(rising.gather(-1, found) != chosen, -torch.inf)
