"""A batch: rows to learn from, what is given of them, and how much each of them counts.

Legend: B batch, D variables, f features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from inspect import signature
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pcflow.engine import Engine
from pcflow.errors import EvidenceError, FeatureError, TypeMismatch
from pcflow.evidence import CheckedEvidence, Evidence
from pcflow.queries import CompiledCircuit, Given, refuse_impossible


class Likelihood(Protocol):
    """What says how probable evidence is: a model, or a model given a rule."""

    @property
    def log_prob(self) -> Callable[..., Tensor]:
        """Log-probability [B] (nats) of evidence, differentiable in the parameters.

        A function of evidence; of evidence and features, where a `Batch` has such.
        """
        ...


@runtime_checkable
class Model(Likelihood, Protocol):
    """What is asked of a model that learns: a `CompiledCircuit`, or one with more beside it."""

    @property
    def num_variables(self) -> int:
        """How many variables there are, D."""
        ...

    @property
    def engine(self) -> Engine:
        """The passes of its circuit, by which EM and its kin count."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that may be learned, always in the same order."""
        ...


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows whose likelihood is to be learned, or their conditional likelihood if some is given.

    What is maximised is the weighted mean of log p(evidence) - log p(given) + offset: with all
    values as evidence and some of them given, the conditional likelihood of the others
    (discriminative training); with potentials given, the likelihood under a reweighted and
    normalised circuit.

    All rows that there are may be one batch, which `fit` takes as data and divides.

    Args:
        evidence: B rows.
        given: as many rows, each at least as probable as that of `evidence`, potentials apart;
            nothing by default.
        offset: [B], what does not depend on the circuit (nats); zeros by default.
        weight: [B], how much every row counts; ones by default.
        rows: [B], the numbers by which errors name the rows; 0, 1, ... by default.
        features: [B, ...], what the model is told of every row beside evidence, as a
            `ConditionalCircuit` is.

    Raises:
        EvidenceError: if the numbers of rows differ.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.naive_bayes([pf.Categorical(3)] * 4, units=2))
        >>> x = torch.randint(3, (6, 4))
        >>> label_hidden = torch.tensor([[True, False, False, False]]).expand(6, -1)
        >>> bool((Batch(x, pf.Evidence(x, label_hidden)).log_prob(model) <= 0).all())
        True
    """

    evidence: Evidence | Tensor
    given: Evidence | Tensor | None = None
    offset: Tensor | None = None
    weight: Tensor | None = None
    rows: Tensor | None = None
    features: Tensor | None = None

    def __post_init__(self) -> None:
        """Count the rows."""
        counts = {_count(name, part) for name, part in self._parts().items() if part is not None}
        if len(counts) != 1:
            raise EvidenceError(f"a batch needs equally many rows everywhere, got {counts}")

    def __len__(self) -> int:
        """How many rows."""
        return _count("evidence", self.evidence)

    @property
    def weights(self) -> Tensor:
        """How much every row counts [B]."""
        return torch.ones(len(self)) if self.weight is None else self.weight

    def log_prob(self, model: Likelihood) -> Tensor:
        """What is learned of every row [B] (nats), without its weight; differentiable.

        It is -inf where it is no number, because what is given is impossible too.

        Args:
            model: the likelihood that learns.

        Raises:
            EvidenceError: if the model is told features, and there are none, or the other way
                round; `FeatureError`, naming the row of the data, if a feature is no number.
        """
        check_told("a batch", model, self.features is not None)
        try:
            found = self._said(model, self.evidence)
            if self.given is not None:
                found = found - self._said(model, self.given)
        except FeatureError as error:
            if self.rows is None:
                raise
            row = int(self.rows[error.row])
            raise FeatureError(row, error.column, error.value) from error
        if self.offset is not None:
            found = found + self.offset.to(found)
        return found.masked_fill(~found.isfinite(), -torch.inf)

    def _said(self, model: Likelihood, evidence: Evidence | Tensor) -> Tensor:
        told = [] if self.features is None else [self.features]
        return model.log_prob(evidence, *told)

    def refuse_impossible(
        self,
        log_prob: Tensor,
        some: Tensor | None = None,
        why: Callable[[int], tuple[int, float] | None] = lambda row: None,
    ) -> None:
        """Raise if a row, or one of `some` of them, has no mass, and counts.

        Args:
            log_prob: of these rows (nats).
            some: which rows these are; all by default.
            why: of one of these, what is wrong with it.

        Raises:
            NoMassError: naming the rows.
        """
        rows = torch.arange(len(self)) if self.rows is None else self.rows
        rows, weight = (t.to(log_prob.device) for t in (rows, self.weights))
        if some is not None:
            rows, weight = rows[some], weight[some]
        refuse_impossible(log_prob.masked_fill(weight == 0, 0.0), "fit", rows, why)

    @torch.no_grad()
    def possible(self, model: Likelihood) -> Batch:
        """Those of its rows that have mass.

        Args:
            model: what is asked for its `log_prob`.

        Returns:
            The batch itself if all have.
        """
        there = (self.log_prob(model) > -torch.inf).cpu()
        if bool(there.all()):
            return self
        rows = torch.arange(len(self)) if self.rows is None else self.rows
        return replace(self, rows=rows).take(there.nonzero().squeeze(-1))

    def take(self, rows: Tensor) -> Batch:
        """Some of its rows.

        Args:
            rows: their places in the batch [R].
        """
        return Batch(**{name: _chosen(part, rows) for name, part in self._parts().items()})

    def fingerprint(self) -> list[Tensor]:
        """What tells these rows from others: the first, the last, and some in between."""
        places = torch.linspace(0, len(self) - 1, min(len(self), 1024), dtype=torch.float64)
        some = self.take(places.long())
        parts = (some.evidence, some.given, some.offset, some.weight, some.features)
        return [tensor for part in parts for tensor in _tensors(part)]

    def weighed(self, weight: Tensor) -> Batch:
        """The same rows, each counting so many times as much [B].

        Args:
            weight: by how much more each row counts [B].
        """
        return replace(self, weight=self.weights.to(weight) * weight)

    def unconditional(self) -> Batch:
        """The same, if nothing is given.

        Raises:
            TypeMismatch: if something is.
        """
        if self.given is not None:
            wanted = "rows of which nothing is given (Anemone or Gradient learn from others)"
            raise TypeMismatch("a batch", self, wanted)
        return self

    def _parts(self) -> dict[str, Any]:
        """All that it has, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def check_told(name: str, model: Likelihood, told: bool) -> None:
    """Refuse rows without features for a model that is told some, and the other way round.

    Args:
        name: of the rows.
        model: what learns from them, or judges them.
        told: whether they have features.

    Raises:
        EvidenceError: saying what to write.
    """
    kind = type(model).__name__
    if told and not _takes(model, evidence=None, features=None):
        how = "leave them out, or learn a ConditionalCircuit"
        raise EvidenceError(f"{name} has features, of which a {kind} knows nothing: {how}")
    if not told and not _takes(model, evidence=None):
        how = "Batch(y, features=x)"
        raise EvidenceError(f"{name} has no features, which a {kind} is told of every row: {how}")


def _takes(model: Likelihood, **told: None) -> bool:
    """Whether `log_prob` of a model may be asked so, whatever it calls its arguments."""
    if isinstance(model, CompiledCircuit | Given):
        return len(told) == 1  # what comes second are parameters
    try:
        signature(model.log_prob).bind(*told.values())
    except TypeError:
        return False
    return True


def _count(name: str, part: Evidence | Tensor) -> int:
    if isinstance(part, Evidence) and name in ("evidence", "given"):
        return part.batch_size
    if not isinstance(part, Tensor) or part.dim() == 0:
        raise TypeMismatch(name, part, "a tensor of a row for each example, or Evidence")
    return len(part)


def _chosen(part: Any, rows: Tensor) -> Any:
    """The rows of a part of a batch; of evidence, numbered from zero again."""
    if isinstance(part, Evidence):
        found = part.rows(rows)
        return found.by_itself if isinstance(found, CheckedEvidence) else found
    return part if part is None else part[rows.to(part.device)]


def _tensors(part: Evidence | Tensor | None) -> list[Tensor]:
    """What a part of a batch consists of."""
    if isinstance(part, Evidence):
        soft = part.log_potentials, part.categories
        found = (part.values, part.missing, *soft, part.lower, part.upper)
        return [tensor for tensor in found if tensor is not None] + _own(part)
    return [] if part is None else [part]


def _own(part: Evidence) -> list[Tensor]:
    """The parameters that rows have of their own, behind the numbers of their banks."""
    own = part.parameters if isinstance(part, CheckedEvidence) else None
    if own is None:
        return []
    banks = sorted(own.by_bank)
    return [torch.tensor(banks), *(own.by_bank[bank] for bank in banks)]


def totals(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum [2] in double, and the sum of the weights, both [B]."""
    log_prob, weight = log_prob.detach().double().cpu(), weight.double().cpu()
    log_prob = log_prob.masked_fill(weight == 0, 0.0)  # such a row may be impossible
    return torch.stack([weight @ log_prob, weight.sum()])
