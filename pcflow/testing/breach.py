"""What a law says when it does not hold: one breach per law, all of them in one error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

ROUNDING = 1e-13
"""Sums of probabilities are off by less."""


@dataclass(frozen=True)
class Breach:
    """One law that does not hold, and the smallest case in which it was seen.

    Attributes:
        law: the law, as a sentence.
        witness: the case: a row of evidence, with "?" for what is missing, or what was asked.
        expected: what the law says.
        found: what was answered.
        subject: what was tested, where the kit made it up.

    Examples:
        >>> print(Breach("probabilities sum to one", "all states", "1", "1.2"))
        probabilities sum to one
            witness   all states
            expected  1
            found     1.2
    """

    law: str
    witness: str
    expected: str
    found: str
    subject: str = ""

    def __str__(self) -> str:
        """Four lines, and the subject."""
        told = (("witness", self.witness), ("expected", self.expected), ("found", self.found))
        lines = [self.law, *(f"    {name:<9} {text}" for name, text in told)]
        return "\n".join([*lines, *(f"    {line}" for line in self.subject.splitlines())])


class LawBroken(AssertionError):
    """Some laws do not hold; the message lists each with its witness.

    Attributes:
        breaches: one `Breach` per law, in the order in which laws are tried.

    Examples:
        >>> try:
        ...     raise LawBroken([Breach("probabilities sum to one", "all states", "1", "1.2")])
        ... except LawBroken as error:
        ...     error.laws
        ('probabilities sum to one',)
    """

    def __init__(self, breaches: Sequence[Breach]) -> None:
        """Keep the breaches, and tell them."""
        self.breaches = tuple(breaches)
        count = "1 law does" if len(breaches) == 1 else f"{len(breaches)} laws do"
        super().__init__("\n".join([f"{count} not hold", *map(str, breaches)]))

    @property
    def laws(self) -> tuple[str, ...]:
        """The sentences of the laws that do not hold."""
        return tuple(breach.law for breach in self.breaches)


def demand(laws: Iterable[Callable[[], Iterator[Breach]]], subject: str = "") -> None:
    """Try every law, and raise once, with the first breach of each that does not hold.

    Raises:
        LawBroken: if any law does not hold.
    """
    breaches: dict[str, Breach] = {}
    for law in laws:
        try:
            found = list(islice(law(), 1))
        except LawBroken as error:  # of an answer that could not even be read
            found = list(error.breaches)
        for breach in found:
            breaches.setdefault(breach.law, replace(breach, subject=subject))
    if breaches:
        raise LawBroken(tuple(breaches.values()))


def show_row(row: Tensor) -> str:
    """A row of values, "?" where it is NaN."""
    return "[" + ", ".join("?" if v != v else f"{v:.6g}" for v in row.tolist()) + "]"


def show_number(value: float) -> str:
    """A number to eight digits; what is zero but for rounding is 0.

    Examples:
        >>> show_number(2.220446e-16), show_number(-0.69314718056)
        ('0', '-0.69314718')
    """
    return "0" if abs(value) < ROUNDING else f"{value:.8g}"


def first_difference(found: Tensor, wanted: Tensor, tolerance: float) -> int | None:
    """The first entry that differs by more than a share of the number, or of 1 if that is more."""
    slack = tolerance * wanted.abs().nan_to_num(posinf=0.0).clamp_min(1.0)
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    close = same | ((found - wanted).abs() <= slack)
    wrong = (~close).nonzero()
    return int(wrong[0, 0]) if len(wrong) else None


def compare(
    law: str, rows: Tensor, found: Tensor, wanted: Tensor, tolerance: float
) -> Iterator[Breach]:
    """A breach at the first row [R, D] whose answer [R] is not the wanted one."""
    place = first_difference(found, wanted, tolerance)
    if place is not None:
        expected, answered = (show_number(t[place].item()) for t in (wanted, found))
        yield Breach(law, show_row(rows[place]), expected, answered)


def compare_entries(
    law: str, found: Tensor, wanted: Tensor, tolerance: float, witness: str = "parameters"
) -> Iterator[Breach]:
    """A breach at the first entry of a tensor that differs, or at its shape."""
    if found.shape != wanted.shape:
        yield Breach(law, f"{witness}, shape", str(tuple(wanted.shape)), str(tuple(found.shape)))
        return
    place = first_difference(found.double().flatten(), wanted.double().flatten(), tolerance)
    if place is not None:
        index = [int(i) for i in torch.unravel_index(torch.tensor(place), found.shape)]
        at = (show_number(t.flatten()[place].item()) for t in (wanted, found))
        yield Breach(law, f"{witness}, entry {index}", *at)


def generator(seed: int = 0) -> torch.Generator:
    """The kit's own source of randomness: the same cases every time."""
    return torch.Generator().manual_seed(seed)
