"""What a circuit is made of: parameters, and layers of input, sum and product units.

A layer is a vector of units with one scope. Layers are frozen and compared by identity. Each knows
its own arithmetic: what a unit reads (`edges`, `factors`), and how values of its inputs are laid
beside its weights (`read`) or put together (`combine`), whatever they are and in whatever algebra.

Legend: K units, V categories, J units read by a sum, H inputs of a mixing sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import compress
from math import isinf, isnan, prod
from types import MappingProxyType
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor

from pcflow.checks import (
    as_iterable,
    as_numbers,
    check_generator,
    check_kind,
    check_kinds,
    check_tensor,
    check_whole,
)
from pcflow.errors import SettingError, StructureError, TypeMismatch
from pcflow.inputs import FiniteFamily, InputFamily

Index = TypeVar("Index", int, Tensor)

MODERATE = 40.0
"""Parameters are unconstrained, so numbers up to here are right for every family: exponentials of
twice as much are still numbers. Of larger ones the family is asked."""


class Immutable:
    """What never changes, and is known by its identity: a copy is the thing itself."""

    def __copy__(self) -> Self:
        """Itself."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """Itself: what is tied stays tied, and nothing is copied."""
        return self


@dataclass(frozen=True, eq=False)
class Parameter(Immutable):
    """A tensor of unconstrained parameters; layers that hold the same object are tied.

    Args:
        value: the parameters, usually logits; copied to the CPU, never edited.

    Raises:
        StructureError: if it is not of real numbers, or contains NaN.

    Examples:
        >>> Parameter.from_probs([[0.6, 0.4]]).value.softmax(-1)
        tensor([[0.6000, 0.4000]], dtype=torch.float64)
    """

    value: Tensor = field(repr=False)
    is_moderate: bool = field(init=False, repr=False)  # within +-MODERATE
    _proper: set[object] = field(init=False, repr=False)  # families whose units it makes

    def __post_init__(self) -> None:
        """Copy the value, so that nobody edits it from outside, and look at its numbers once."""
        check_tensor("value", self.value)
        if not self.value.is_floating_point():
            raise TypeMismatch("value", self.value, "of floating point")
        value = self.value.detach().to("cpu", copy=True)
        flat = value.as_strided((value.numel(),), (1,))  # what is transposed would be copied
        low, high = (end.item() for end in flat.aminmax()) if value.numel() else (0.0, 0.0)
        if isnan(low):
            raise StructureError("a parameter contains NaN")
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "is_moderate", low >= -MODERATE and high <= MODERATE)
        object.__setattr__(self, "_proper", set())

    @classmethod
    def from_probs(cls, probs: Tensor | Iterable[object]) -> Parameter:
        """Logits whose softmax gives these probabilities.

        Args:
            probs: nonnegative, and one in sum along whichever axis the layer normalises.

        Raises:
            StructureError: if one is negative.

        Examples:
            >>> Parameter.from_probs(torch.tensor([0.5, 0.5])).value
            tensor([-0.6931, -0.6931])
        """
        given = probs if isinstance(probs, Tensor) else as_numbers("probs", probs)
        if (given < 0).any():
            raise StructureError("probabilities must not be negative")
        return cls(given.log())

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew from its value."""
        return type(self), (self.value,)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return tuple(self.value.shape)

    def __repr__(self) -> str:
        """Shape only."""
        return f"Parameter{self.shape}"


class Fixed(Parameter):
    """Log-weights as they are: they need not add up to one, and nobody learns them."""


@dataclass(frozen=True, eq=False, repr=False)
class InputLayer(Immutable):
    """Units of one input family over one variable.

    Args:
        variable: index of the variable.
        family: the input family, for example `Categorical(10)`.
        units: number of units.
        parameters: the family's parameters by name; may be shared between layers.

    Raises:
        StructureError: if a parameter is missing, unknown or of the wrong shape, or the numbers of
            a unit are those of no distribution.

    Examples:
        >>> from pcflow.inputs import Bernoulli
        >>> odds = torch.logit(torch.tensor([0.45, 0.99]))
        >>> InputLayer(0, Bernoulli(), units=2, parameters={"logits": Parameter(odds)})
        InputLayer(variable 0, Bernoulli(), 2 units)
    """

    variable: int
    family: InputFamily
    units: int = 1
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every parameter's shape and numbers."""
        check_whole("variable", self.variable, least=0)
        check_kind("family", self.family, InputFamily, "an input family")
        check_whole("units", self.units)
        check_kind("parameters", self.parameters, Mapping, "a mapping from names to parameters")
        check_kinds("parameters", self.parameters.values(), Parameter, "a Parameter")
        wanted = self.family.parameter_shapes(self.units)
        given = {name: parameter.shape for name, parameter in self.parameters.items()}
        if wanted != given:
            raise StructureError(f"{self}: needs parameters {wanted}, got {given}")
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))
        if not all(parameter.is_moderate for parameter in self.parameters.values()):
            self._check_numbers()

    @classmethod
    def random(
        cls,
        variable: int,
        family: InputFamily,
        units: int = 1,
        generator: torch.Generator | None = None,
    ) -> InputLayer:
        """A layer with the family's random initial parameters.

        Args:
            variable: its number.
            family: what its values are like.
            units: how many stand side by side.
            generator: randomness; torch's global one if not given.

        Raises:
            TypeMismatch: if `family` is no input family.
            SettingError: if `units` is no positive number.
        """
        check_kind("family", family, InputFamily, "an input family")
        check_whole("units", units)
        check_generator(generator)
        initial = family.initial(units, generator)
        return cls(variable, family, units, {n: Parameter(v) for n, v in initial.items()})

    @property
    def inputs(self) -> tuple[Layer, ...]:
        """None: this is a leaf."""
        return ()

    def float64(self) -> dict[str, Tensor]:
        """The parameters by name [..., K], in float64."""
        return {name: p.value.double() for name, p in self.parameters.items()}

    def log_table(self) -> Tensor:
        """Log-probabilities [V, K] (nats, float64) of a family with a finite range."""
        assert isinstance(self.family, FiniteFamily)
        one = {name: value.unsqueeze(0) for name, value in self.float64().items()}
        return self.family.log_table(one).double().squeeze(0)

    def _check_numbers(self) -> None:
        """Refuse units that are no distributions; of tied parameters only once."""
        first, *others = self.parameters.values()
        key = self.family, *others
        if key in first._proper:
            return
        proper = self.family.is_proper({n: p.value[None] for n, p in self.parameters.items()})[0]
        if not proper.all():
            unit = int((~proper).nonzero()[0])
            told = {n: p.value[..., unit].tolist() for n, p in self.parameters.items()}
            raise StructureError(f"{self}: unit {unit} is no distribution with {str(told)[:80]}")
        first._proper.add(key)

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew from its arguments: a mapping proxy cannot be pickled."""
        return type(self), (self.variable, self.family, self.units, dict(self.parameters))

    def __repr__(self) -> str:
        """Variable, family and size."""
        return f"InputLayer(variable {self.variable}, {self.family}, {self.units} units)"


@dataclass(frozen=True, eq=False, repr=False)
class SumLayer(Immutable):
    """Weighted sums (mixtures) of the units of its inputs, which are read side by side.

    Args:
        inputs: layers of equal scope.
        weight: logits. A dense layer has [K, total units of the inputs]; a mixing layer has
            [K, number of inputs] and unit k mixes unit k of every input, all of K units.
            Weights are the softmax over the last axis; -inf is a hard zero.
        mixing: whether unit k reads only unit k of every input.

    Raises:
        StructureError: if the weight's shape does not fit, or a row has no weight at all.

    Examples:
        >>> from pcflow.inputs import Indicator
        >>> either = [InputLayer(0, Indicator(v)) for v in (0, 1)]
        >>> SumLayer(either, Parameter.from_probs([[0.6, 0.4]]))
        SumLayer(2 inputs, 1 units)
    """

    inputs: tuple[Layer, ...]
    weight: Parameter
    mixing: bool = False
    units: int = field(init=False)

    def __init__(self, inputs: Iterable[Layer], weight: Parameter, mixing: bool = False) -> None:
        """Check the weight against the inputs."""
        inputs = tuple(as_iterable("inputs", inputs))
        check_kinds("inputs", inputs, Layer, "a layer")
        check_kind("weight", weight, Parameter, "a Parameter")
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "mixing", mixing)
        object.__setattr__(self, "units", weight.shape[0] if weight.shape else 0)
        if not self.inputs:
            raise StructureError("a sum layer needs at least one input")
        widths = [layer.units for layer in self.inputs]
        columns = len(widths) if mixing else sum(widths)
        if len(weight.shape) != 2 or self.units < 1 or weight.shape[1] != columns:
            raise StructureError(f"{self}: weight must be [K, {columns}], got {weight.shape}")
        if mixing and any(width != self.units for width in widths):
            raise StructureError(f"{self}: mixing needs inputs of {self.units} units, got {widths}")
        if not weight.is_moderate and any(map(isinf, weight.value.amax(dim=-1).tolist())):
            raise StructureError(f"{self}: a row of the weight is +inf or has no weight at all")

    @classmethod
    def random(
        cls,
        inputs: Iterable[Layer],
        units: int = 1,
        mixing: bool = False,
        generator: torch.Generator | None = None,
    ) -> SumLayer:
        """A layer with standard normal logits.

        Args:
            inputs: the layers that are added up.
            units: how many sums.
            mixing: whether unit k adds up the units k of all inputs, rather than all units.
            generator: randomness; torch's global one if not given.

        Raises:
            TypeMismatch: if an input is no layer.
            SettingError: if `units` is no positive number.
        """
        check_whole("units", units)
        check_generator(generator)
        inputs = tuple(as_iterable("inputs", inputs))
        check_kinds("inputs", inputs, Layer, "a layer")
        columns = len(inputs) if mixing else sum(layer.units for layer in inputs)
        return cls(inputs, Parameter(torch.randn(units, columns, generator=generator)), mixing)

    def log_weight(self) -> Tensor:
        """Normalised log-weights (nats, float64): [K, J], mixing [K, H]."""
        return self.weight.value.double().log_softmax(dim=-1)

    def dense_log_weight(self) -> Tensor:
        """The same [K, J], whether the layer mixes or not."""
        weight = self.log_weight()
        if not self.mixing:
            return weight
        each = torch.full((self.units, len(self.inputs), self.units), -torch.inf).to(weight)
        units = torch.arange(self.units)
        each[units, :, units] = weight
        return each.flatten(1)

    @property
    def unit_by_unit(self) -> bool:
        """Whether unit k reads nothing but unit k of every input."""
        return self.mixing

    def columns(self) -> list[Tensor]:
        """For every input, which column of the weight is about each of its units [units]."""
        if self.mixing:
            return [torch.full((self.units,), h) for h in range(len(self.inputs))]
        widths = [child.units for child in self.inputs]
        return list(torch.arange(sum(widths)).split(widths))

    def edges(self) -> list[list[Unit]]:
        """For every unit, the units to which it gives a weight above zero, in their order."""
        used = (self.weight.value > -torch.inf).tolist()
        if self.mixing:
            return [[(la, k) for la in compress(self.inputs, row)] for k, row in enumerate(used)]
        units = [(child, k) for child in self.inputs for k in range(child.units)]
        return [list(compress(units, row)) for row in used]

    def read(self, below: Sequence[Tensor]) -> Tensor:
        """Values [..., units] of the inputs, to meet the weights: [..., 1, J], mixing [..., K, H].

        Args:
            below: values of every input, [..., units] each.

        Examples:
            >>> from pcflow.inputs import Bernoulli
            >>> bits = [InputLayer.random(0, Bernoulli(), units=2) for _ in range(3)]
            >>> values = [torch.zeros(5, 2) for _ in bits]
            >>> [SumLayer.random(bits, 2, mixing).read(values).shape for mixing in (False, True)]
            [torch.Size([5, 1, 6]), torch.Size([5, 2, 3])]
        """
        if self.mixing:
            return torch.stack(tuple(below), dim=-1)
        return torch.cat(tuple(below), dim=-1).unsqueeze(-2)

    def add_up(self, below: Sequence[Tensor], weight: Tensor) -> Tensor:
        """Sums [..., K] of the inputs' values.

        Args:
            below: values of every input, [..., units] each.
            weight: of the shape of the layer's, normalised.
        """
        if self.mixing:
            return (self.read(below) * weight).sum(dim=-1)
        return self.read(below).squeeze(-2) @ weight.t()

    def __repr__(self) -> str:
        """Number of inputs and size."""
        return f"SumLayer({len(self.inputs)} inputs, {self.units} units)"


@dataclass(frozen=True, eq=False, repr=False)
class ProductLayer(Immutable):
    """Products of units of inputs with disjoint scopes.

    Args:
        inputs: at least two layers.
        kind: "hadamard" multiplies unit k of every input (all of K units); "kronecker" multiplies
            every combination of units, the last input's index running fastest.

    Raises:
        StructureError: if there are fewer than two inputs, or units differ under "hadamard".

    Examples:
        >>> from pcflow.inputs import Gaussian
        >>> ProductLayer([InputLayer.random(v, Gaussian(), 2) for v in range(2)], "kronecker")
        ProductLayer(kronecker, 2 inputs, 4 units)
    """

    inputs: tuple[Layer, ...]
    kind: Literal["hadamard", "kronecker"] = "hadamard"
    units: int = field(init=False)

    def __init__(
        self, inputs: Iterable[Layer], kind: Literal["hadamard", "kronecker"] = "hadamard"
    ) -> None:
        """Check the number of inputs and their units."""
        inputs = tuple(as_iterable("inputs", inputs))
        check_kinds("inputs", inputs, Layer, "a layer")
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "kind", kind)
        widths = [layer.units for layer in self.inputs]
        kinds = ("hadamard", "kronecker")
        SettingError.check("kind", kind, " or ".join(kinds), lambda one: one in kinds)
        if len(widths) < 2:
            raise StructureError(f"a product layer needs at least two inputs, got {len(widths)}")
        if kind == "hadamard" and len(set(widths)) > 1:
            raise StructureError(f"a hadamard product needs inputs of equal units, got {widths}")
        units = widths[0] if kind == "hadamard" else prod(widths)
        object.__setattr__(self, "units", units)

    @property
    def unit_by_unit(self) -> bool:
        """Whether unit k reads nothing but unit k of every input."""
        return self.kind == "hadamard"

    def factors(self, unit: Index) -> list[tuple[Layer, Index]]:
        """The units that a unit multiplies, each with its layer.

        Args:
            unit: its number, or a tensor of numbers.

        Examples:
            >>> from pcflow.inputs import Gaussian
            >>> inputs = [InputLayer.random(v, Gaussian(), units=3) for v in range(2)]
            >>> [unit for _, unit in ProductLayer(inputs, "kronecker").factors(5)]
            [1, 2]
        """
        if self.kind == "hadamard":
            return [(child, unit) for child in self.inputs]
        found = []
        for child in reversed(self.inputs):
            found.append((child, unit % child.units))
            unit = unit // child.units
        return found[::-1]

    def unit_of(self, units: Sequence[Tensor]) -> Tensor:
        """`factors` undone: the unit [...] that multiplies given ones.

        Args:
            units: one of every input, numbers [...].
        """
        if self.kind == "hadamard":
            return units[0]
        return _ravel(units, self.inputs)

    def group(self, places: Sequence[int]) -> Tensor:
        """For every unit [K], that of the product of only some of the inputs.

        Args:
            places: which of the inputs, by their order.
        """
        if self.kind == "hadamard":
            return torch.arange(self.units)
        own = self.factors(torch.arange(self.units))
        return _ravel([own[p][1] for p in places], [own[p][0] for p in places])

    def combine(self, below: Sequence[Tensor], times: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Values [..., K] from those of the inputs.

        Args:
            below: values of every input, [..., units] each.
            times: what multiplies two of them, or adds their logarithms.

        Examples:
            >>> from pcflow.inputs import Gaussian
            >>> inputs = [InputLayer.random(v, Gaussian(), units=2) for v in range(2)]
            >>> values = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
            >>> ProductLayer(inputs, "kronecker").combine(values, torch.mul)
            tensor([3., 4., 6., 8.])
        """
        if self.kind == "hadamard":
            return reduce(times, below)
        return reduce(lambda a, b: times(a.unsqueeze(-1), b.unsqueeze(-2)).flatten(-2), below)

    def __repr__(self) -> str:
        """Kind, number of inputs and size."""
        return f"ProductLayer({self.kind}, {len(self.inputs)} inputs, {self.units} units)"


Layer = InputLayer | SumLayer | ProductLayer
Unit = tuple[Layer, int]


def _ravel(units: Sequence[Tensor], layers: Sequence[Layer]) -> Tensor:
    """Which combination of units of layers this is, the last layer's index running fastest."""
    whole = torch.zeros_like(units[0])
    for unit, layer in zip(units, layers, strict=True):
        whole = whole * layer.units + unit
    return whole


def layer_parameters(layer: Layer) -> tuple[Parameter, ...]:
    """The parameters that a layer holds, in a fixed order."""
    match layer:
        case InputLayer():
            return tuple(layer.parameters.values())
        case SumLayer():
            return (layer.weight,)
        case ProductLayer():
            return ()
