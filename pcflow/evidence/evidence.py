"""Evidence: what a query knows of each variable of each row: observed, missing, soft or bounded.

Evidence is an argument of a query, checked at the door and never stored on a model.
Legend: B batch, D variables, V categories, U intervals of a variable.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from pcflow.errors import EvidenceError
from pcflow.evidence.domain import Domain
from pcflow.evidence.intervals import Intervals
from pcflow.evidence.numbers import Numbers, as_tensor
from pcflow.evidence.parameters import RowParameters
from pcflow.evidence.potentials import Potentials
from pcflow.evidence.weighed import Weighed


@dataclass(frozen=True, eq=False, init=False)
class Evidence:
    """What is known about each variable, per row; every combination is allowed.

    A variable is *observed* where it has a value, *missing* where `missing` is true, where its
    value is NaN, or where there are no values at all. A missing variable with potentials is *soft*:
    the query computes log sum_x p(x) prod_i lambda_i(x_i) over what is not observed. A missing
    variable with bounds is known to lie in an interval, both ends included, or in one of several:
    the query sums or integrates over these alone. Potentials and bounds of observed variables are
    not read.

    Args:
        values: [B, D], integers or floats; NaN is missing.
        missing: [B, D] bool.
        log_potentials: [B, D, V], log lambda (nats), -inf allowed. V is the largest number of
            categories in the circuit; entries past a variable's own number are not read.
        categories: [B, D, k], integers that differ within a variable: `log_potentials` [B, D, k]
            are those of these categories, and all others are impossible.
        lower: [B, D], or [B, D, U] for the union of U intervals: where they begin. NaN or -inf is
            no bound; an interval that is NaN at both ends is none.
        upper: the same, where they end. A single real number has no mass: give it as a value.

    Each may be a tensor, an array or nested lists; what cannot be read as real numbers is refused.

    Raises:
        EvidenceError: naming the argument. Whether all fits a circuit is looked at by its queries.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(3)))
        >>> nothing = pf.Evidence(missing=torch.ones(1, 2, dtype=torch.bool))
        >>> bool(model.log_prob(nothing).abs() < 1e-6)
        True
        >>> x = torch.tensor([[1, torch.nan], [2, torch.nan]])
        >>> either = model.log_prob(pf.Evidence(lower=[[1, torch.nan]], upper=[[2, torch.nan]]))
        >>> torch.allclose(either, model.log_prob(x).logsumexp(0))
        True
    """

    values: Tensor | None = None
    missing: Tensor | None = None
    log_potentials: Tensor | None = None
    categories: Tensor | None = None
    lower: Tensor | None = field(default=None, kw_only=True)
    upper: Tensor | None = field(default=None, kw_only=True)

    def __init__(
        self,
        values: Numbers | None = None,
        missing: Numbers | None = None,
        log_potentials: Numbers | None = None,
        categories: Numbers | None = None,
        *,
        lower: Numbers | None = None,
        upper: Numbers | None = None,
    ) -> None:
        """Read what is given as tensors."""
        given = {
            "values": values,
            "missing": missing,
            "log_potentials": log_potentials,
            "categories": categories,
            "lower": lower,
            "upper": upper,
        }
        for name, numbers in given.items():
            tensor = None if numbers is None else as_tensor(name, numbers)
            object.__setattr__(self, name, tensor)

    @cached_property
    def potentials(self) -> Potentials | None:
        """The log-potentials as one value, be they of all categories or listed."""
        log = self.log_potentials
        return None if log is None else Potentials.of(log, self.categories)

    def top_k(self, k: int) -> Evidence:
        """The same evidence with the k largest potentials of every variable; no other is possible.

        Exact for the potentials that are left, and much cheaper than all of them where there are
        many categories: only k rows of a table are read. Of all categories they are listed from the
        lowest up.

        Args:
            k: how many are left.

        Returns:
            Evidence with potentials [B, D, k].

        Raises:
            EvidenceError: if there are no potentials to choose from, or fewer than one is wanted.

        Examples:
            >>> soft = Evidence(log_potentials=torch.tensor([[[0.1, 0.6, 0.3]]]).log())
            >>> soft.top_k(2).categories
            tensor([[[1, 2]]])
        """
        if self.potentials is None or k < 1:
            raise EvidenceError("top_k needs log_potentials, and k of at least 1")
        return self.with_potentials(self.potentials.top_k(k))

    def with_potentials(self, potentials: Potentials) -> Evidence:
        """The same observations with other potentials, to be checked by the next query.

        Args:
            potentials: of these rows and variables.

        Examples:
            >>> import pcflow as pf
            >>> nothing = pf.Evidence(torch.full((1, 1), torch.nan))
            >>> half = pf.Potentials.of(torch.full((1, 1, 2), 0.5).log())
            >>> halved = nothing.with_potentials(half)
            >>> coin = pf.compile(pf.naive_bayes([pf.Bernoulli()], units=1))
            >>> bool((coin.log_prob(halved).exp() - 0.5).abs() < 1e-6)
            True
        """
        about = potentials.log, potentials.categories
        return Evidence(self.values, self.missing, *about, lower=self.lower, upper=self.upper)

    def rows(self, index: Tensor) -> Evidence:
        """The rows of `index`, in that order.

        Args:
            index: numbers of rows.

        Returns:
            Evidence of as many rows.

        Examples:
            >>> Evidence([[0, 1], [2, 3], [4, 5]]).rows(torch.tensor([2, 0])).values
            tensor([[4, 5],
                    [0, 1]])
        """
        given = {part.name: getattr(self, part.name) for part in fields(Evidence)}
        return Evidence(
            **{n: None if t is None else t[index.to(t.device)] for n, t in given.items()}
        )

    @property
    def batch_size(self) -> int:
        """Number of rows, B.

        Raises:
            EvidenceError: if nothing is given, or the numbers of rows differ.
        """
        fields = {
            "values": self.values,
            "missing": self.missing,
            "log_potentials": self.log_potentials,
            "lower": self.lower,
            "upper": self.upper,
        }
        given = {name: t for name, t in fields.items() if t is not None}
        rows = {t.shape[0] for t in given.values() if t.dim() > 0}
        if len(rows) != 1:
            shapes = {name: tuple(t.shape) for name, t in given.items()}
            raise EvidenceError(f"evidence needs one common number of rows, got shapes {shapes}")
        return int(rows.pop())


@dataclass(frozen=True, eq=False)
class CheckedEvidence(Evidence):
    """Evidence that fits its circuit, and is complete: `CompiledCircuit.evidence` makes it.

    Queries of circuits with the same `domain` take it as it is; others check it again. Its tensors
    may be those that it was made from, and must not be edited.

    Attributes:
        values: [B, D], zero where missing; integers, if all variables have a finite range.
        missing: [B, D] bool.
        log_potentials: [B, D, V], or [B, D, k] of the `categories`, or None; see `potentials`. What
            bounds of finite variables rule out is -inf here.
        categories: [B, D, k] or None.
        lower: [B, D, U] or None, NaN where there is no interval; intervals do not meet.
        upper: [B, D, U] or None.
        log_gates: what every row weighs parts of its circuit by (nats), [B, G], or None.
        parameters: those that every row has of its own, or None.
        domain: what it was checked against.
        origin: which rows of a larger batch these are; None if they are not.
        whole: that batch, where one was cut in parts.
        weighed: what input units made of the potentials before, or None.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(3)))
        >>> known = model.evidence([[2, torch.nan]])
        >>> known.values, known.missing
        (tensor([[2, 0]]), tensor([[False,  True]]))
    """

    values: Tensor
    missing: Tensor
    domain: Domain = field(kw_only=True)
    log_gates: Tensor | None = field(default=None, kw_only=True)
    parameters: RowParameters | None = field(default=None, kw_only=True)
    origin: Tensor | None = field(default=None, kw_only=True)
    whole: CheckedEvidence | None = field(default=None, kw_only=True)
    weighed: Weighed | None = field(default=None, kw_only=True)

    @cached_property
    def hidden(self) -> Tensor:
        """What is missing [B, D], where it can be looked at: on the CPU."""
        return self.missing.cpu()

    def seen(self, hidden: Tensor, any_missing: bool | None = None) -> CheckedEvidence:
        """The same, after a look at what is missing.

        Args:
            hidden: what is missing [B, D], on the CPU.
            any_missing: whether anything is, if that is known.
        """
        self.__dict__["hidden"] = hidden
        if any_missing is not None:
            self.__dict__["any_missing"] = any_missing
        return self

    @cached_property
    def any_missing(self) -> bool:
        """Whether anything is missing."""
        return bool(self.hidden.any())

    @property
    def told(self) -> Tensor | None:
        """Of which variables something is known [B, D], on the CPU; None if of all.

        Potentials and intervals tell something.
        """
        if self.potentials is not None or not self.any_missing:
            return None
        return ~self.hidden if self.bounded is None else ~self.hidden | self.bounded

    @cached_property
    def bounded(self) -> Tensor | None:
        """Which missing real variables lie in intervals [B, D], on the CPU; None if none does."""
        if self.lower is None or self.upper is None:
            return None
        there = Intervals(self.lower, self.upper).there & self.missing & self.domain.real
        there = there.cpu()
        return there if bool(there.any()) else None

    @cached_property
    def nearby(self) -> Tensor:
        """Values [B, D], and something near those that lie in intervals; zero where missing."""
        if self.bounded is None or self.lower is None or self.upper is None:
            return self.values
        middle = Intervals(self.lower, self.upper).middle.to(self.values.dtype)
        return torch.where(self.bounded.to(middle.device), middle, self.values)

    @cached_property
    def by_variable(self) -> Tensor:
        """Values [D, B], which nobody edits from outside."""
        return self.values.t().clone(memory_format=torch.contiguous_format)

    @cached_property
    def missing_by_variable(self) -> Tensor:
        """What is missing [D, B]."""
        return self.missing.t().contiguous()

    def observing(self, values: Tensor, where: Tensor) -> CheckedEvidence:
        """The same, with some values observed as well.

        Args:
            values: [B, D]; those that are not observed may be anything.
            where: which are, bool [B, D].

        Raises:
            EvidenceError: if a value does not fit its variable.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(3)))
            >>> first = model.evidence(torch.tensor([[2.0, torch.nan]]))
            >>> first.observing(torch.tensor([[0, 1]]), first.missing).values
            tensor([[2, 1]])
        """
        told = self.domain.fitting(values.masked_fill(~where, 0))
        where = where.to(self.missing.device)
        values = torch.where(where, told, self.values)
        return replace(self, values=values, missing=self.missing & ~where)

    def copy(self) -> CheckedEvidence:
        """The same with values that nobody edits from outside."""
        lower, upper = (None if end is None else end.clone() for end in (self.lower, self.upper))
        values, missing = self.values.clone(), self.missing.clone()
        return replace(self, values=values, missing=missing, lower=lower, upper=upper)

    def with_potentials(self, potentials: Potentials) -> Evidence:
        """See `Evidence`.

        Raises:
            EvidenceError: if rows have parameters of their own, which would be lost.
        """
        self.of_shared("with_potentials")
        return super().with_potentials(potentials)

    @property
    def forgotten(self) -> CheckedEvidence:
        """The same rows, of which nothing is known any more."""
        missing = torch.ones_like(self.missing)
        known = replace(self, missing=missing, log_potentials=None, categories=None)
        return replace(known, lower=None, upper=None)

    def of_shared(self, query: str) -> CheckedEvidence:
        """Itself, for a query that reads the same parameters in all rows.

        Args:
            query: its name, for the refusal.

        Raises:
            EvidenceError: if rows have parameters of their own, naming the query.
        """
        if self.parameters is not None:
            raise EvidenceError(f"{query} takes no parameters by row")
        return self

    @property
    def by_itself(self) -> CheckedEvidence:
        """The same, as a batch of its own: itself, if it is no part of another."""
        if self.origin is None:
            return self
        return replace(self, origin=None, whole=None).seen(self.hidden)

    def rows(self, index: Tensor) -> CheckedEvidence:
        """The rows of `index`, which know where they come from."""
        parts = (self.log_potentials, self.categories, self.lower, self.upper, self.log_gates)
        log, listed, lower, upper, gates = (None if t is None else t[index] for t in parts)
        return CheckedEvidence(
            self.values[index],
            self.missing[index],
            log,
            listed,
            lower=lower,
            upper=upper,
            domain=self.domain,
            log_gates=gates,
            parameters=None if self.parameters is None else self.parameters.rows(index),
            origin=index if self.origin is None else self.origin[index],
        )
