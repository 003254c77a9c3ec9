"""The circuit with the parameters that a model has now, and what is proved of it.

Legend: P parameters of a bank, V categories, K units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from weakref import ReferenceType, ref

import numpy as np
import torch
from torch import Tensor

from pcflow.circuit import Circuit, Parameter
from pcflow.engine import Engine, InputStep, Stamp, SumStep, in_ordinary_modes, select
from pcflow.evidence import RowParameters
from pcflow.inputs import FiniteFamily


class Exported(NamedTuple):
    """A circuit that lives as long as somebody holds it, and the parameters it was made from."""

    stamps: tuple[Stamp, ...]
    circuit: ReferenceType[Circuit]


class Proved(NamedTuple):
    """Whether circuits with these hard zeros are deterministic."""

    stamps: tuple[Stamp, ...]
    zeros: bytes
    deterministic: bool


@dataclass
class Export:
    """What a model's circuit is now; made when asked, and the same while nothing changes."""

    engine: Engine
    exported: Exported | None = None
    proved: Proved | None = None

    @in_ordinary_modes
    def circuit(self) -> Circuit:
        """The structure with the parameters as they are now, in memory of its own."""
        stamps = self.engine.tables.cache.refresh()
        kept = self.exported
        found = kept.circuit() if kept is not None and kept.stamps is stamps else None
        if found is None:
            found = self.engine.structure.replace(self._values(self.engine.tables.banks))
            self.exported = Exported(stamps, ref(found))
        return found

    def of_rows(self, circuit: Circuit, own: RowParameters | None) -> dict[Parameter, Tensor]:
        """Copies in float64 of what rows have of their own, by the parameters of `circuit()`."""
        if own is None:
            return {}
        now = dict(zip(self.engine.structure.parameters, circuit.parameters, strict=True))
        kept = {n: t.detach().to(torch.float64, copy=True) for n, t in own.by_bank.items()}
        return {
            now[parameter]: given[:, row]
            for number, given in kept.items()
            for row, parameter in enumerate(self.engine.plan.banks[number])
        }

    def is_deterministic(self, own: RowParameters | None = None) -> bool:
        """Whether determinism can be proved: a matter of structure and hard zeros alone.

        Where rows have parameters of their `own`, by the zeros that all of them have; row by row
        where the largest parameters do not tell these.
        """
        if own is not None:
            return self._is_deterministic_in_all_rows(own)
        stamps = self.engine.tables.cache.refresh()
        kept = self.proved
        if kept is not None and kept.stamps is stamps:
            return kept.deterministic
        zeros = self._zeros(self.engine.tables.banks)
        if kept is not None and kept.zeros == zeros:
            found = kept.deterministic
        else:
            found = self.circuit().properties.deterministic is not None
        self.proved = Proved(stamps, zeros, found)
        return found

    def _is_deterministic_in_all_rows(self, own: RowParameters) -> bool:
        self.is_deterministic()
        banks = self.engine.tables.banks
        together = not self._may_move_zeros(own, own.largest(banks))
        every = [own] if together else own.each
        return all(self._is_deterministic_with(one.largest(banks)) for one in every)

    def _may_move_zeros(self, own: RowParameters, largest: Sequence[Tensor]) -> bool:
        """Whether what a table rules out by its largest parameters may be possible in some row."""
        steps = (step for step in self.engine.plan.steps if isinstance(step, InputStep))
        return any(
            isinstance(step.family, FiniteFamily)
            and step.family.logits is None
            and not own.by_bank.keys().isdisjoint(r.bank for r in step.parameters.values())
            and bool((self._log_table(largest, step, step.family) == -torch.inf).any())
            for step in steps
        )

    def _is_deterministic_with(self, banks: Sequence[Tensor]) -> bool:
        """The same of other parameters, after that of the model's."""
        if self.proved is not None and self._zeros(banks) == self.proved.zeros:
            return self.proved.deterministic
        circuit = self.engine.structure.replace(self._values(banks))
        return circuit.properties.deterministic is not None

    def _values(self, banks: Sequence[Tensor]) -> dict[Parameter, Tensor]:
        pairs = zip(banks, self.engine.plan.banks, strict=True)
        return {
            parameter: value.detach().cpu()
            for bank, members in pairs
            for parameter, value in zip(members, bank, strict=True)
        }

    @torch.no_grad()
    def _zeros(self, banks: Sequence[Tensor]) -> bytes:
        """A digest of what is impossible: edges, and values of input units."""
        digest = hashlib.sha256()
        for step in self.engine.plan.steps:
            if isinstance(step, SumStep):
                digest.update(_packed(banks[step.weight.bank]))
            elif isinstance(step, InputStep) and isinstance(step.family, FiniteFamily):
                digest.update(_packed(self._log_table(banks, step, step.family)))
        return digest.digest()

    @torch.no_grad()
    def _log_table(self, banks: Sequence[Tensor], step: InputStep, family: FiniteFamily) -> Tensor:
        """Log-probabilities [P, V, K] up to finite summands."""
        parameters = {n: select(banks[r.bank], r) for n, r in step.parameters.items()}
        if family.logits is not None:
            return parameters[family.logits]
        return family.log_table({name: p.double() for name, p in parameters.items()})


def _packed(logs: Tensor) -> bytes:
    """A bit for every hard zero."""
    return np.packbits((logs == -torch.inf).cpu().numpy()).tobytes()
