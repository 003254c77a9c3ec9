"""Evidence: what a query knows about each variable of each row: observed, missing or soft.

Evidence is an argument of a query, checked at the door and never stored on a model.
Legend: B batch, D variables, V categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pcflow.errors import EvidenceError, NoMassError


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known about each variable, per row; every combination of the three is allowed.

    A variable is *observed* where it has a value, *missing* where `missing` is true, where its
    value is NaN, or where there are no values at all. A missing variable with potentials is *soft*:
    the query computes log sum_x p(x) prod_i lambda_i(x_i) over what is not observed. Potentials of
    observed variables are not read.

    Args:
        values: [B, D], integers or floats; NaN is missing.
        missing: [B, D] bool.
        log_potentials: [B, D, V], log lambda (nats), -inf allowed. V is the largest number of
            categories in the circuit; entries past a variable's own number are not read.
        categories: [B, D, k], integers that differ within a variable: `log_potentials` [B, D, k]
            are those of these categories, and all others are impossible.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.hmm(2, states=2, inputs=pf.Categorical(3))
        >>> nothing = pf.Evidence(missing=torch.ones(1, 2, dtype=torch.bool))
        >>> bool(pf.compile(circuit).log_prob(nothing).abs() < 1e-6)
        True
    """

    values: Tensor | None = None
    missing: Tensor | None = None
    log_potentials: Tensor | None = None
    categories: Tensor | None = None

    def top_k(self, k: int) -> Evidence:
        """The same evidence with the k largest potentials of every variable; no other is possible.

        Exact for the potentials that are left, and much cheaper than all of them where there are
        many categories: only k rows of a table are read. Categories are listed from the lowest up.

        Raises:
            EvidenceError: if there are no potentials to choose from, or fewer than one is wanted.

        Examples:
            >>> soft = Evidence(log_potentials=torch.tensor([[[0.1, 0.6, 0.3]]]).log())
            >>> soft.top_k(2).categories
            tensor([[[1, 2]]])
        """
        if self.log_potentials is None or self.categories is not None or k < 1:
            raise EvidenceError("top_k needs log_potentials of all categories, and k of at least 1")
        size = min(k, self.log_potentials.shape[-1])
        listed = _largest(self.log_potentials.detach(), size).sort(dim=-1).values
        return Evidence(self.values, self.missing, self.log_potentials.gather(-1, listed), listed)

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
        }
        given = {name: t for name, t in fields.items() if t is not None}
        rows = {t.shape[0] for t in given.values() if t.dim() > 0}
        if len(rows) != 1:
            shapes = {name: tuple(t.shape) for name, t in given.items()}
            raise EvidenceError(f"evidence needs one common number of rows, got shapes {shapes}")
        return int(rows.pop())

    def check(
        self, num_categories: Sequence[int | None], device: torch.device, dtype: torch.dtype
    ) -> CheckedEvidence:
        """Validate against the variables of a circuit and bring to its device and precision.

        Args:
            num_categories: per variable, its number of categories or None.
            device: where the model lives.
            dtype: the model's floating type.

        Raises:
            EvidenceError: naming the argument, and where it applies the row, variable and value.
        """
        batch, width = self.batch_size, len(num_categories)
        values = _values(self.values, batch, width)
        missing = self._missing(values)
        clean = values if missing is None else values.masked_fill(missing, 0)
        _check_values(clean, num_categories)
        missing = torch.zeros(batch, width, dtype=torch.bool) if missing is None else missing
        finite = all(v is not None for v in num_categories)
        largest = max((v for v in num_categories if v is not None), default=0)
        listed = _listed(self.categories, self.log_potentials, batch, width)
        size = largest if listed is None else listed.shape[-1]
        potentials = _potentials(self.log_potentials, missing, num_categories, size)
        checked = CheckedEvidence(
            clean.to(device=device, dtype=torch.long if finite else dtype),
            missing.to(device),
            None if potentials is None else potentials.to(device=device, dtype=dtype),
            None if listed is None else listed.to(device),
            largest,
        )
        if listed is not None:
            _refuse_repeats(checked.rising[0], largest)
        return checked

    def _missing(self, values: Tensor) -> Tensor | None:
        """What is missing [B, D]; None if nothing can be."""
        if self.values is None:
            return torch.ones_like(values, dtype=torch.bool)
        given = None if self.missing is None else _mask(self.missing, *values.shape)
        if not values.is_floating_point():
            return None if given is None else given.to(values.device)
        absent = values.isnan()
        return absent if given is None else absent | given.to(values.device)


@dataclass(frozen=True, eq=False)
class CheckedEvidence:
    """Evidence that fits its circuit.

    Attributes:
        values: [B, D], zero where missing.
        missing: [B, D] bool.
        soft: log-potentials, [B, D, V] or [B, D, k] of the `categories`, or None.
        categories: [B, D, k] or None.
        largest: V, needed with `categories`.
        origin: which rows of a larger batch these are; None if they are not.
    """

    values: Tensor
    missing: Tensor
    soft: Tensor | None
    categories: Tensor | None = None
    largest: int = 0
    origin: Tensor | None = None

    @cached_property
    def log_potentials(self) -> Tensor | None:
        """Those of all categories [B, D, V], or None."""
        if self.soft is None or self.categories is None:
            return self.soft
        dense = self.soft.new_full((*self.missing.shape, self.largest), -torch.inf)
        return dense.scatter(-1, self.categories, self.soft)

    def potentials_of(self, row: Tensor, variable: Tensor, chosen: Tensor) -> Tensor:
        """Log-potentials [N, C] of chosen categories [N, C] of entries; -inf if not listed."""
        assert self.soft is not None
        if self.categories is None:
            return self.soft[row.unsqueeze(-1), variable.unsqueeze(-1), chosen]
        listed, soft = self.categories[row, variable], self.soft[row, variable]  # [N, k]
        if torch.equal(listed, chosen):
            return soft
        rising, order = (part[row, variable] for part in self.rising)
        place = torch.searchsorted(rising, chosen).clamp_max_(rising.shape[-1] - 1)
        found = soft.gather(-1, order.gather(-1, place))
        return found.masked_fill(rising.gather(-1, place) != chosen, -torch.inf)

    @cached_property
    def rising(self) -> tuple[Tensor, Tensor]:
        """The listed categories [B, D, k] from the lowest up, and where each is listed."""
        assert self.categories is not None
        rising, order = self.categories.sort(dim=-1)
        return rising, order

    @cached_property
    def any_missing(self) -> bool:
        """Whether anything is missing."""
        return bool(self.missing.any())

    @cached_property
    def by_variable(self) -> tuple[Tensor, Tensor]:
        """Values and missing, [D, B] each."""
        return self.values.t().contiguous(), self.missing.t().contiguous()

    def copy(self) -> CheckedEvidence:
        """The same with values that nobody edits from outside."""
        return replace(self, values=self.values.clone(), missing=self.missing.clone())

    def rows(self, index: Tensor) -> CheckedEvidence:
        """The rows of `index`, which know where they come from."""
        soft = None if self.soft is None else self.soft[index]
        listed = None if self.categories is None else self.categories[index]
        origin = index if self.origin is None else self.origin[index]
        return CheckedEvidence(
            self.values[index], self.missing[index], soft, listed, self.largest, origin
        )


def as_evidence(given: Evidence | Tensor) -> Evidence:
    """Evidence from a bare tensor of values.

    Raises:
        EvidenceError: if it is neither.
    """
    if isinstance(given, Evidence):
        return given
    if not isinstance(given, Tensor):
        raise EvidenceError(f"evidence must be a tensor or an Evidence, got {type(given).__name__}")
    return Evidence(values=given)


def refuse_impossible(log_value: Tensor, query: str, rows: Tensor | None = None) -> None:
    """Raise if some row has no mass.

    Args:
        log_value: log-probability [B].
        query: what cannot be answered.
        rows: [B], the numbers by which the rows are known; 0, 1, ... by default.

    Raises:
        NoMassError: naming the rows.
    """
    impossible = log_value == -torch.inf
    if impossible.any():
        places = impossible.nonzero().squeeze(-1)
        raise NoMassError((places if rows is None else rows[places]).tolist(), query)


def _largest(x: Tensor, k: int) -> Tensor:
    """Where the k largest of x [..., V] are, in any order.

    They all lie in the k groups with the largest maxima, and so on: on a CPU these are found
    quickly, and numpy chooses among them with vector instructions, which torch does not.
    """
    count = x.shape[-1]
    if x.device.type != "cpu":
        return x.topk(k, dim=-1, sorted=False).indices
    size = min(8, int((count / k) ** 0.5))
    if size < 4:
        numbers = (x if x.dtype == torch.float64 else x.float()).numpy()
        return torch.from_numpy(np.argpartition(numbers, count - k, axis=-1)[..., count - k :])
    groups = count // size  # group g holds the places g, g + groups, g + 2 groups, ...
    peaks = x[..., : size * groups].unflatten(-1, (size, groups)).amax(dim=-2)
    offset = torch.arange(0, size * groups, groups).unsqueeze(-1)
    rest = torch.arange(size * groups, count).expand(*x.shape[:-1], -1)
    inside = (_largest(peaks, k).unsqueeze(-2) + offset).flatten(-2)
    among = torch.cat([inside, rest], dim=-1)
    return among.gather(-1, _largest(x.gather(-1, among), k))


def check_categories(categories: Tensor, evidence: CheckedEvidence) -> Tensor:
    """Categories [B, D, C] to ask of a circuit, on the device of the evidence.

    Raises:
        EvidenceError: if they are not integers of that shape, or one is in no variable's range.
    """
    batch, width = evidence.values.shape
    if categories.is_floating_point() or categories.shape[:-1] != (batch, width):
        raise EvidenceError(
            f"categories must be integers [{batch}, {width}, C], got {categories.dtype} "
            f"{tuple(categories.shape)}"
        )
    wrong = (categories < 0) | (categories >= evidence.largest)
    if wrong.any():
        row, variable, _ = (int(i) for i in wrong.nonzero()[0])
        raise EvidenceError(
            f"categories: row {row}, variable {variable} must be in 0..{evidence.largest - 1}"
        )
    return categories.to(evidence.values.device).long()


def _values(values: Tensor | None, batch: int, width: int) -> Tensor:
    if values is None:
        return torch.zeros(batch, width, dtype=torch.long)
    if values.shape != (batch, width):
        raise EvidenceError(
            f"values must be [B, {width}] for {width} variables, got {tuple(values.shape)}"
        )
    if values.is_complex():
        raise EvidenceError("values must be real")
    return values.detach().long() if values.dtype == torch.bool else values.detach()


def _mask(missing: Tensor, batch: int, width: int) -> Tensor:
    if missing.shape != (batch, width) or missing.dtype != torch.bool:
        raise EvidenceError(
            f"missing must be bool [{batch}, {width}], got {missing.dtype} {tuple(missing.shape)}"
        )
    return missing


def _check_values(values: Tensor, num_categories: Sequence[int | None]) -> None:
    if values.numel():  # the usual case first, in as few passes as it takes
        least, most = torch.aminmax(values)
        whole = not values.is_floating_point() or bool((values == values.long()).all())
        if whole and least >= 0 and most < min(v or 0 for v in num_categories):
            return
    limit = torch.tensor([torch.inf if v is None else v for v in num_categories]).to(values.device)
    finite = limit.isfinite()
    _refuse(values, (values < 0) & finite | (values >= limit), num_categories)
    if values.is_floating_point():
        _refuse(values, ~values.isfinite() | (finite & (values != values.round())), num_categories)


def _refuse(values: Tensor, wrong: Tensor, num_categories: Sequence[int | None]) -> None:
    if not wrong.any():
        return
    row, variable = (int(i) for i in wrong.nonzero()[0])
    categories = num_categories[variable]
    wanted = "a finite number" if categories is None else f"an integer in 0..{categories - 1}"
    raise EvidenceError(
        f"values: row {row}, variable {variable} is {values[row, variable].item()}, "
        f"but must be {wanted}"
    )


def _listed(
    categories: Tensor | None, potentials: Tensor | None, batch: int, width: int
) -> Tensor | None:
    if categories is None:
        return None
    if potentials is None or categories.is_floating_point() or categories.dim() != 3:
        raise EvidenceError("categories must be integers [B, D, k], with log_potentials of theirs")
    if categories.shape[:2] != (batch, width) or categories.shape[-1] < 1:
        wanted = f"[{batch}, {width}, k]"
        raise EvidenceError(f"categories must be {wanted}, got {tuple(categories.shape)}")
    return categories.long()


def _refuse_repeats(rising: Tensor, largest: int) -> None:
    wrong = (rising[..., 0] < 0) | (rising[..., -1] >= largest)
    wrong |= (rising[..., 1:] == rising[..., :-1]).any(dim=-1)
    if wrong.any():
        row, variable = (int(i) for i in wrong.nonzero()[0])
        raise EvidenceError(
            f"categories: row {row}, variable {variable} must list different integers in "
            f"0..{largest - 1}"
        )


def _potentials(
    potentials: Tensor | None, missing: Tensor, num_categories: Sequence[int | None], size: int
) -> Tensor | None:
    if potentials is None:
        return None
    if potentials.shape != (*missing.shape, size):
        wanted = (*missing.shape, size)
        raise EvidenceError(f"log_potentials must be {wanted}, got {tuple(potentials.shape)}")
    if not potentials.is_floating_point():
        raise EvidenceError(f"log_potentials must be floating point, got {potentials.dtype}")
    peak = potentials.detach().amax(dim=-1).to(missing.device)  # [B, D]; NaN and +inf survive amax
    _refuse_potential(peak, peak.isnan() | (peak == torch.inf), "NaN or +inf")
    dense = torch.tensor([v is None for v in num_categories], device=missing.device)
    if dense.any():
        shaped = (potentials.detach() != 0).any(dim=-1).to(missing.device)
        _refuse_potential(peak, shaped & missing & dense, "not 0, but it has no finite range")
    return potentials


def _refuse_potential(peak: Tensor, wrong: Tensor, what: str) -> None:
    if wrong.any():
        row, variable = (int(i) for i in wrong.nonzero()[0])
        raise EvidenceError(f"log_potentials: row {row}, variable {variable} is {what}")
