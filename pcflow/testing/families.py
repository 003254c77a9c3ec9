"""Laws of input families, as `pcflow/inputs/base.py` states them, for one's own.

Legend: P parameter sets, B batch, V categories, K units, S statistics, N rows, Q points.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import pcflow.io as files
from pcflow.circuit import Circuit, InputLayer, SumLayer
from pcflow.errors import FileFormatError
from pcflow.inputs import FAMILIES, DensityFamily, FiniteFamily, InputFamily
from pcflow.queries import compile
from pcflow.testing.breach import Breach, compare_entries, demand, generator
from pcflow.testing.family_densities import DENSITY, DENSITY_UNITS, Unit, units_of
from pcflow.testing.family_intervals import INTERVAL_UNITS, INTERVALS, says_masses
from pcflow.testing.family_updates import LEARNING

Parameters = dict[str, Tensor]
FamilyLaw = Callable[..., Iterator[Breach]]

SETS = 2
"""Parameter sets that are checked side by side."""
EXACT = 1e-9


def check_input_family(family: InputFamily | type[InputFamily], units: int = 3) -> None:
    """Check the laws that the engine, EM and files rely on, of one's own input family.

    Settings, shapes, normalisation, mode, mean, moments, draws, intervals if it says `log_mass`,
    updates that maximise a weighted likelihood, pseudocounts, `of_units`, `fitted`; saved and
    loaded if it is registered.
    Densities are summed over whole numbers if all draws are such, and integrated otherwise, with
    what `atoms` says besides.

    Args:
        family: an instance, or a class that needs no settings.
        units: how many units to check side by side, where settings fix that.

    Raises:
        LawBroken: naming every law that does not hold, each with its witness.

    Examples:
        >>> from pcflow.inputs import Poisson
        >>> check_input_family(Poisson)
    """
    family = family() if isinstance(family, type) else family
    _demand(SETTINGS[:1], family, units)  # without it the others cannot even be asked
    _demand(SETTINGS[1:], family, units)
    draws = [family.initial(units, generator(seed)) for seed in range(SETS)]
    params = {name: torch.stack([d[name] for d in draws]).double() for name in draws[0]}
    if isinstance(family, DensityFamily):
        _check_density(family, params)
    else:
        _demand(FINITE[:1], family, params)
        _demand(FINITE[1:], family, params)
    if params:
        _demand(LEARNING, family, params)
    _demand([_saved_and_loaded], family, units)  # last: only what is a distribution can be loaded


def _check_density(family: DensityFamily, params: Parameters) -> None:
    """Normalisation, draws and numbers, and what it says of intervals.

    Raises:
        LawBroken: if a law does not hold.
    """
    _demand(DENSITY[:1], family, params)
    units = units_of(family, params)
    _demand(DENSITY[1:], family, params, of_units=DENSITY_UNITS, units=units)
    if says_masses(family):
        _demand(INTERVALS[:1], family, params)
        _demand(INTERVALS[1:], family, params, of_units=INTERVAL_UNITS, units=units)


def _demand(
    laws: Sequence[FamilyLaw],
    family: InputFamily,
    asked: Any,
    of_units: Sequence[FamilyLaw] = (),
    units: Sequence[Unit] = (),
) -> None:
    """Try laws of a family and what they are asked of, and those of its units with them.

    Raises:
        LawBroken: naming every law that does not hold.
    """
    tried = [partial(law, family, asked) for law in laws]
    tried += [partial(law, family, units) for law in of_units]
    demand(tried, f"family    {family!r}")


# settings and shapes


def _equal_settings_are_equal(family: InputFamily, units: int) -> Iterator[Breach]:
    law = "families are frozen dataclasses, equal if their settings are"
    frozen = dataclasses.is_dataclass(family) and getattr(family, "__dataclass_params__").frozen  # noqa: B009
    if not frozen:
        yield Breach(law, repr(family), "@dataclass(frozen=True)", type(family).__name__)
        return
    again = copy.deepcopy(family)
    if again != family or hash(again) != hash(family) or repr(again) != repr(family):
        yield Breach(law, "a deep copy", repr(family), f"{again!r}, equal: {again == family}")


def _shapes(family: InputFamily, units: int) -> Iterator[Breach]:
    law = "`initial` gives the shapes of `parameter_shapes`"
    initial = family.initial(units, generator())
    shapes = {name: tuple(value.shape) for name, value in initial.items()}
    wanted = family.parameter_shapes(units)
    if shapes != wanted:
        yield Breach(law, f"{units} units", str(wanted), str(shapes))
    if any(shape[-1:] != (units,) for shape in wanted.values()):
        law = "the last axis of every parameter is units"
        yield Breach(law, f"{units} units", f"(..., {units})", str(wanted))


def _initial_is_drawn_from_the_generator(family: InputFamily, units: int) -> Iterator[Breach]:
    law = "`initial` draws from the generator that it is given"
    first, second = (family.initial(units, generator(1)) for _ in range(2))
    for name, value in first.items():
        if not torch.equal(value, second[name]):
            yield Breach(law, name, str(value.tolist()), str(second[name].tolist()))


SETTINGS = (
    _shapes,
    _equal_settings_are_equal,
    _initial_is_drawn_from_the_generator,
)


# finite families


def _tables_are_normalised(family: FiniteFamily, params: Parameters) -> Iterator[Breach]:
    law = "the table sums to one"
    total = family.log_table(params).double().exp().sum(dim=-2)
    yield from compare_entries(law, total, torch.ones_like(total), EXACT)


def _tables_have_their_shape(family: FiniteFamily, params: Parameters) -> Iterator[Breach]:
    shape = tuple(family.log_table(params).shape)[-2:]
    units = next(iter(params.values())).shape[-1] if params else shape[-1]
    if shape != (family.num_categories, units):
        wanted = f"[P, {family.num_categories}, {units}]"
        yield Breach("`log_table` is [P, V, K]", f"{units} units", wanted, str(shape))


def _tables_agree(family: FiniteFamily, params: Parameters) -> Iterator[Breach]:
    law = "`table` is the exponential of `log_table`"
    yield from compare_entries(law, family.table(params), family.log_table(params).exp(), EXACT)


def _logits_are_what_they_say(family: FiniteFamily, params: Parameters) -> Iterator[Breach]:
    if family.logits is not None:
        law = "`log_table` is the log-softmax of the parameter named by `logits`"
        wanted = params[family.logits].log_softmax(dim=-2)
        yield from compare_entries(law, family.log_table(params), wanted, EXACT)


def _table_gradients(family: FiniteFamily, params: Parameters) -> Iterator[Breach]:
    if params:
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        log_table = family.log_table(leaves)
        flow = torch.rand(log_table.shape, generator=generator()).double()
        slopes = torch.autograd.grad(log_table, list(leaves.values()), flow)
        found = family.table_gradient(params, family.table(params), flow)
        for name, slope in zip(leaves, slopes, strict=True):
            law = "`table_gradient` is the derivative of `log_table`"
            yield from compare_entries(law, found[name], slope, EXACT, f"of {name}")


def _finite_units_can_be_chosen(family: FiniteFamily, params: Parameters) -> Iterator[Breach]:
    table = family.log_table(params)
    units = [table.shape[-1] - 1, 0]
    found = family.of_units(units).log_table({n: p[..., units] for n, p in params.items()})
    yield from compare_entries(
        "`of_units` is the family of those units", found, table[..., units], EXACT
    )


FINITE = (
    _tables_have_their_shape,
    _tables_are_normalised,
    _tables_agree,
    _logits_are_what_they_say,
    _table_gradients,
    _finite_units_can_be_chosen,
)


# files


def _saved_and_loaded(family: InputFamily, units: int) -> Iterator[Breach]:
    if FAMILIES.get(type(family).__name__) is not type(family):
        return
    layer = InputLayer.random(0, family, units, generator())
    model = compile(Circuit(SumLayer.random([layer], generator=generator())), dtype=torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        files.save(model, f"{folder}/family.safetensors")
        try:
            first: Any = files.load(f"{folder}/family.safetensors").circuit.layers[0]
            loaded: object = first.family
        except FileFormatError as error:
            loaded = error
    if loaded != family:
        law = "a family is the same after a file"
        yield Breach(law, "settings", repr(family), repr(loaded))
