"""Some values of a finite family, as they are: what a rule tells apart from the others."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pcflow.inputs.base import FiniteFamily, Params


@dataclass(frozen=True, eq=False)
class Share(FiniteFamily):
    """The units of a family where the variable has one of some values, and zero elsewhere.

    Units are not normalised: they add up to how probable these values are. So a share is no part of
    a circuit that people see, and is known by its identity.

    Args:
        whole: the family.
        values: the values that count, [V'].

    Attributes:
        place: of every value of the variable among these, -1 if it is none of them, [V].
    """

    whole: FiniteFamily
    values: Tensor
    place: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Number the values."""
        place = torch.full((self.whole.num_categories,), -1)
        place[self.values] = torch.arange(len(self.values))
        object.__setattr__(self, "place", place)

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        """Those of the variable."""
        return self.whole.num_categories

    @property
    def size(self) -> int:
        """Those that count."""
        return len(self.values)

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """Of the whole."""
        return self.whole.parameter_shapes(units)

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Of the whole."""
        return self.whole.initial(units, generator)

    def is_proper(self, params: Params) -> Tensor:
        """Whether the whole is."""
        return self.whole.is_proper(params)

    def log_table(self, params: Params) -> Tensor:
        """Rows of the whole table, [P, V', K]."""
        return self.rows(self.whole.log_table(params))

    def rows(self, table: Tensor) -> Tensor:
        """Those of a table [P, V, K] that count, [P, V', K]."""
        return table.index_select(1, self.values.to(table.device))

    def maximize(self, params: Params, flow: Tensor, pseudocount: float) -> dict[str, Tensor]:
        """Of the whole, which has seen nothing else."""
        every = flow.new_zeros(len(flow), self.num_categories, flow.shape[-1])
        every[:, self.values.to(flow.device)] = flow
        return self.whole.maximize(params, every, pseudocount)


MOST = 8
"""Values of a class that is so small that all such classes are read at once."""


@dataclass(frozen=True, eq=False)
class Few(Share):
    """A share of a few of the values that several such shares have between them.

    Those of the same values are equal, so that all layers of such classes are one step.

    Args:
        every: the share of all of these values.
        own: the numbers of its own among them, [W], the last ones -1 if there are fewer.
    """

    every: Share = field(kw_only=True)
    own: Tensor = field(kw_only=True)

    def __post_init__(self) -> None:
        """Values are numbered already."""
        object.__setattr__(self, "place", self.every.place)

    def __eq__(self, other: object) -> bool:
        """Whether it has the same table."""
        return isinstance(other, Few) and self.every is other.every

    def __hash__(self) -> int:
        """Of what is shared."""
        return hash(self.every)


def few(family: FiniteFamily, classes: Tensor) -> dict[int, Few]:
    """The shares of all small classes, of classes [V], on one table."""
    sizes = torch.bincount(classes)
    small = (sizes > 0) & (sizes <= MOST)
    labels = small.nonzero().squeeze(-1)
    values = small[classes].nonzero().squeeze(-1)
    values = values[classes[values].argsort(stable=True)]  # class by class
    numbers = torch.arange(len(values)).split(sizes[labels].tolist())
    own = pad_sequence(numbers, batch_first=True, padding_value=-1) if len(labels) else labels
    every, rows = Share(family, values), zip(labels.tolist(), own, strict=True)
    return {label: Few(family, values, every=every, own=row) for label, row in rows}
