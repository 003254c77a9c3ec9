"""What was computed from parameters: kept until they change, or until there is no more room.

Any number of threads may ask at once. Two that ask for the same may both compute it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from threading import Lock
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from pcflow.engine.modes import unrecorded
from pcflow.engine.versions import Stamp
from pcflow.errors import SettingError

IN_PLACE = frozenset({"weights", "weight", "log"})
"""Kinds that recordings read."""

T = TypeVar("T")
Key = tuple[str, Hashable]


class Kept(NamedTuple):
    """Something that was computed.

    Attributes:
        banks: what it was computed from.
        value: the result.
        sizes: its memory, bytes by address.
    """

    banks: frozenset[int]
    value: object
    sizes: dict[int, int]


class Cache:
    """Results by kind and key, as of the last `refresh`.

    Args:
        banks: the parameters.
        like: has their dtype and device.
        room: bytes that results may take; what was computed first goes first.
        in_place: whether weights stay where they are when parameters change, because recordings
            read them there. Who changes parameters must then not query in other threads.

    Attributes:
        stamps: what the banks were like at the last refresh; the same tuple while nothing changes.
    """

    def __init__(
        self, banks: Sequence[Tensor], like: Tensor, room: int, in_place: bool = False
    ) -> None:
        """Start with nothing."""
        self.banks, self.like, self.room, self.in_place = banks, like, room, in_place
        self.stamps: tuple[Stamp, ...] = ()
        self._kept: dict[Key, Kept] = {}
        self._outdated: dict[Key, Kept] = {}
        self._lock = Lock()

    def refresh(self, waits: bool = True) -> tuple[Stamp, ...]:
        """Forget what was computed from parameters that have changed since; the stamps of now.

        Args:
            waits: for a GPU to compare numbers. Who does not asks for `doubt` afterwards.

        Raises:
            SettingError: if a parameter was replaced by one of another dtype or device.
        """
        banks, before = tuple(self.banks), self.stamps
        changed = self._changed(banks, waits)
        if changed:
            with self._lock:
                if self.stamps is not before:  # another thread saw to it
                    changed = self._changed(banks, waits)
                self._forget(banks, changed)
        return self.stamps

    def doubt(self) -> Tensor | None:
        """Whether numbers have changed that a `refresh` did not wait for, one bool; None if not."""
        doubts = [doubt for stamp in self.stamps for doubt in stamp.doubts()]
        if not doubts:
            return None
        return torch.stack([torch.as_tensor(d, device=self.like.device) for d in doubts]).any()

    def unchanged_since(self, stamps: tuple[Stamp, ...]) -> bool:
        """Whether nobody found a change since the stamps, or could see one by torch's own count."""
        return self.stamps is stamps and all(map(Stamp.is_untouched, stamps, self.banks))

    def watch(self) -> None:
        """A gradient was taken, so a step is to be expected: look at all numbers from now on."""
        for stamp, bank in zip(self.stamps, self.banks, strict=True):
            if bank.requires_grad:
                stamp.watch()

    def keep(
        self,
        kind: str,
        key: Hashable,
        banks: Iterable[int],
        make: Callable[[], T],
        renew: Callable[[T], T] | None = None,
    ) -> T:
        """What `make` computes from some banks, or has computed before.

        If that is outdated, `renew` may compute it in the same memory.
        """
        kept = self._kept
        found = kept.get((kind, key))
        if found is None:
            old = self._outdated.pop((kind, key), None)
            if old is not None and renew is not None:
                make = partial(renew, cast(T, old.value))
            value = unrecorded(make)
            found = Kept(frozenset(banks), value, _sizes(value))
            if sum(found.sizes.values()) <= self.room:
                with self._lock:
                    kept[kind, key] = found
                    self._make_room(kept)
        return cast(T, found.value)

    def kept(self, kind: str, key: Hashable) -> object | None:
        """What was computed, as of the last `refresh`; None if nothing is kept."""
        found = self._kept.get((kind, key))
        return None if found is None else found.value

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by kind; what two of them share is counted once."""
        with self._lock:
            kept = dict(self._kept)
        owner = {place: kind for (kind, _), k in kept.items() for place in k.sizes}
        found: Counter[str] = Counter()
        for place, size in _together(kept.values()).items():
            found[owner[place]] += size
        return dict(found)

    def _changed(self, banks: tuple[Tensor, ...], waits: bool) -> frozenset[int]:
        if not self.stamps:
            return frozenset(range(len(banks)))
        looks = waits or self.like.device.type == "cpu"
        current = map(Stamp.is_of if looks else Stamp.is_untouched, self.stamps, banks)
        return frozenset(number for number, is_current in enumerate(current) if not is_current)

    def _forget(self, banks: tuple[Tensor, ...], changed: frozenset[int]) -> None:
        if changed:
            for number in changed:
                self._check(number, banks[number])
            new = enumerate(banks)
            stamps = [self._new(n, bank) if n in changed else self.stamps[n] for n, bank in new]
            old = self._kept.items()
            if self.in_place:
                gone = {key: k for key, k in old if not changed.isdisjoint(k.banks)}
                self._outdated |= {key: k for key, k in gone.items() if key[0] in IN_PLACE}
            # a new one: what other threads are still making of the old numbers goes to the old one
            self._kept = {key: kept for key, kept in old if changed.isdisjoint(kept.banks)}
            self.stamps = tuple(stamps)

    def _new(self, number: int, bank: Tensor) -> Stamp:
        return Stamp(bank, self.stamps[number] if self.stamps else None)

    def _check(self, number: int, bank: Tensor) -> None:
        if (bank.dtype, bank.device) != (self.like.dtype, self.like.device):
            wanted = f"{self.like.dtype} on {self.like.device} like the model, which `to` moves"
            raise SettingError(f"banks[{number}]", f"{bank.dtype} on {bank.device}", wanted)

    def _make_room(self, kept: dict[Key, Kept]) -> None:
        at_most = sum(size for k in kept.values() for size in k.sizes.values())
        while at_most > self.room and (size := sum(_together(kept.values()).values())) > self.room:
            at_most = size
            del kept[next(iter(kept))]


def _together(kept: Iterable[Kept]) -> dict[int, int]:
    return {place: size for one in kept for place, size in one.sizes.items()}


def _sizes(value: object) -> dict[int, int]:
    """Bytes of the memory behind a value, by address."""
    found: dict[int, int] = {}
    parts = [value]
    while parts:
        match parts.pop():
            case Tensor() as tensor:
                memory = tensor.untyped_storage()
                found[memory.data_ptr()] = memory.nbytes()
            case tuple() as some:
                parts.extend(some)
            case dict() as some:
                parts.extend(some.values())
            case other:
                parts.extend(getattr(other, "__dict__", {}).values())
    return found
