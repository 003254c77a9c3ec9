"""`check_input_family` passes our families, and every law of it catches something of its own."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import pcflow as pf
from pcflow.inputs import FAMILIES, InputFamily
from pcflow.inputs.base import Params
from pcflow.testing import LawBroken, check_input_family

OURS: list[InputFamily | type[InputFamily]] = [
    pf.Bernoulli,
    pf.Categorical(4),
    pf.Binomial(1),
    pf.Binomial(5),
    pf.DiscretizedLogistic(5),
    pf.Indicator([1, 0, 1], 3),
    pf.Gaussian,
    pf.Exponential,
    pf.LogNormal,
    pf.Inflated(pf.LogNormal()),
    pf.Inflated(pf.Gaussian(), at=-1.5),
    pf.Poisson,
    pf.Histogram([0.5, 1.5, 3.0, 6.0]),
    pf.Histogram([0.0, 1.5, 4.0, 1000.0]),
]


@pytest.mark.parametrize("family", OURS, ids=str)
def test_our_families_keep_every_law(family: InputFamily | type[InputFamily]) -> None:
    check_input_family(family)


def test_the_kit_takes_as_many_units_as_the_settings_fix() -> None:
    check_input_family(pf.Indicator([2, 0, 1, 1], 3), units=4)
    with pytest.raises(pf.StructureError, match="4 units"):
        check_input_family(pf.Indicator([2, 0, 1, 1], 3))


def test_every_family_of_ours_is_checked() -> None:
    checked = {f.__name__ if isinstance(f, type) else type(f).__name__ for f in OURS}
    assert checked == {name for name in FAMILIES if name in pf.__all__}


class Unequal(pf.Bernoulli):
    """Settings that are not compared: no dataclass equality."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Thawed(pf.Bernoulli):
    """Settings that can be changed."""

    __dataclass_params__ = SimpleNamespace(frozen=False)


class TooFew(pf.Bernoulli):
    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        return {"logits": (units, 1)}


class UnitsFirst(pf.Categorical):
    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        return {"logits": (units, self.num_categories)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return {"logits": torch.randn(units, self.num_categories, generator=generator)}


class Global(pf.Bernoulli):
    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return {"logits": torch.randn(units)}


@dataclass(frozen=True)
class Forgetful(pf.Gaussian):
    """A file does not bring back its setting."""

    min_std: float = 1e-3
    scale: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", float(torch.rand(())))


class Flat(pf.Categorical):
    def log_table(self, params: Params) -> Tensor:
        return super().log_table(params).transpose(-1, -2)


class Loaded(pf.Binomial):
    def log_table(self, params: Params) -> Tensor:
        return super().log_table(params) + 1e-3


class OtherTable(pf.Binomial):
    def table(self, params: Params) -> Tensor:
        return super().table(params).flip(-2)

    def maximize(self, params: Params, flow: Tensor, pseudocount: float) -> dict[str, Tensor]:
        counts = flow + pseudocount * super().table(params)
        return super().maximize(params, counts, 0.0)

    def table_gradient(self, params: Params, table: Tensor, flow: Tensor) -> dict[str, Tensor]:
        return super().table_gradient(params, super().table(params), flow)


class Misnamed(pf.Binomial):
    logits: ClassVar[str | None] = "logits"


class Steep(pf.Bernoulli):
    def table_gradient(self, params: Params, table: Tensor, flow: Tensor) -> dict[str, Tensor]:
        return {n: 1.01 * g for n, g in super().table_gradient(params, table, flow).items()}


class AllUnits(pf.Indicator):
    def of_units(self, units: Any) -> Any:
        return self


class Lazy(pf.Bernoulli):
    """Half way to the maximum, which is still uphill."""

    def maximize(self, params: Params, flow: Tensor, pseudocount: float) -> dict[str, Tensor]:
        best = super().maximize(params, flow + pseudocount, 0.0)["logits"]
        best = best.clamp(-20, 20)
        return {"logits": torch.lerp(params["logits"], best, 0.9)}


class Downhill(pf.Bernoulli):
    def maximize(self, params: Params, flow: Tensor, pseudocount: float) -> dict[str, Tensor]:
        found = super().maximize(params, flow + pseudocount, 0.0)["logits"]
        return {"logits": torch.where(flow.sum(-2) > 0, found.clamp(-3, 3) + 5, params["logits"])}


class Restless(pf.Bernoulli):
    def maximize(self, params: Params, flow: Tensor, pseudocount: float) -> dict[str, Tensor]:
        found = super().maximize(params, flow, pseudocount)["logits"]
        unused = (flow + pseudocount).sum(-2) == 0
        return {"logits": found.masked_fill(unused, 0.0)}


class Unsmoothed(pf.Binomial):
    """Pseudocounts are twice what they say."""

    def maximize(self, params: Params, flow: Tensor, pseudocount: float) -> dict[str, Tensor]:
        return super().maximize(params, flow, 2 * pseudocount)


class Editing(pf.Bernoulli):
    def update(
        self, params: Params, x: Tensor, weight: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        found = super().update(params, x, weight, pseudocount)
        weight.mul_(0.5)
        return found


class Gapless(pf.Bernoulli):
    """What is missing counts as zero."""

    def tally(self, x: Tensor, weight: Tensor) -> Tensor:
        return super().tally(x.nan_to_num(nan=0.0), weight)


class Unbounded(pf.Poisson):
    """A column of zeros has a rate that is no number."""

    def maximize(
        self, params: Params, weight: Tensor, statistics: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        found = super().maximize(params, weight, statistics, pseudocount)["log_rate"]
        return {"log_rate": found.masked_fill(found < -10, torch.nan)}


class Averaging(pf.Bernoulli):
    """Every unit is fitted to the rows of all."""

    def fitted(self, x: Tensor, weight: Tensor, pseudocount: float = 0.0) -> dict[str, Tensor]:
        return super().fitted(x, weight.mean(-1, keepdim=True).expand_as(weight), pseudocount)


class Certain(pf.Bernoulli):
    """Fitted without the pseudocount."""

    def fitted(self, x: Tensor, weight: Tensor, pseudocount: float = 0.0) -> dict[str, Tensor]:
        return super().fitted(x, weight, 0.0)


class Broad(pf.Gaussian):
    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        return super().log_prob(params, x) + 0.01


class Merged(pf.Gaussian):
    """`mean` of the wrong shape."""

    def mean(self, params: Params) -> Tensor:
        return params["mean"].flatten()


class Untied(pf.Gaussian):
    """One parameter set serves as many columns as it has values."""

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        found = super().log_prob(params, x)
        return found if len(params["mean"]) == len(x) else found + 0.1


class Wide(pf.Gaussian):
    def sample(self, params: Params, generator: torch.Generator | None = None) -> Tensor:
        return super().sample({**params, "log_std": params["log_std"] + 0.2}, generator)


class Unseeded(pf.Gaussian):
    def sample(self, params: Params, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(params)


class Beside(pf.Gaussian):
    def mode(self, params: Params) -> Tensor:
        return params["mean"] + 0.1


class Off(pf.Gaussian):
    def mean(self, params: Params) -> Tensor:
        return 1.05 * params["mean"]


class Noncentral(pf.Gaussian):
    """The second moment is that about zero, and the update makes up for it."""

    def moments(self, params: Params) -> Tensor:
        return super().moments(params) + params["mean"].square().unsqueeze(-2)

    def maximize(
        self, params: Params, weight: Tensor, statistics: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        statistics = statistics + pseudocount * super().moments(params)
        return super().maximize(params, weight + pseudocount, statistics, 0.0)


class Immovable(pf.Gaussian):
    """Averages are never moved to where they are counted from."""

    def recentred(self, tallies: Tensor, weight: Tensor, before: Params, params: Params) -> Tensor:
        return tallies


class ShiftedUnits(pf.Gaussian):
    def of_units(self, units: Any) -> Any:
        return Broad(self.min_std)


class Narrow(pf.Gaussian):
    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        return super().log_prob(params, x).double()


class Spoiled(pf.Exponential):
    """-inf by a logarithm of zero: its slope is NaN."""

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        inside = (x >= 0).to(x).unsqueeze(-1) * (params["log_mean"] * 0 + 1).unsqueeze(-2)
        return super().log_prob(params, x.clamp_min(0.0)) + inside.log()


class Closed(pf.Gaussian):
    """What is beyond one is forgotten."""

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        return super().log_mass(params, lower, upper.clamp_max(1.0))


class Clumsy(pf.Poisson):
    """The lower end does not belong to the interval."""

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        return super().log_mass(params, torch.where(lower > 0, lower + 1, lower), upper)


class Cancelling(pf.Gaussian):
    """A difference of numbers near one."""

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        everything = torch.full_like(lower, -torch.inf)
        below = [
            super(Cancelling, self).log_mass(params, everything, x).exp() for x in (lower, upper)
        ]
        return (below[1] - below[0]).clamp_min(1e-300).log()


class Twofold(pf.Exponential):
    """A law of its own for intervals: twice as long waits."""

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        return super().log_mass(params, lower / 2, upper / 2)


class Midway(pf.Exponential):
    def mean_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        return 0.9 * super().mean_within(params, lower, upper)

    def moments_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        return super().mean_within(params, lower, upper).unsqueeze(-2)


class Untruncated(pf.Exponential):
    def moments_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        return self.moments(params).unsqueeze(1).expand(*lower.shape, -1, -1)


class Outside(pf.Gaussian):
    def mode_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        return self.mode(params).unsqueeze(-2).expand(*lower.shape, -1)


class Escaping(pf.Gaussian):
    def sample_within(self, params: Params, *ends: Any) -> Tensor:
        return self.sample(params, ends[-1])


class Brittle(pf.Exponential):
    """No mass, by a logarithm of zero."""

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        start = lower.clamp_min(0.0).unsqueeze(-1)
        mass = -torch.expm1((start - upper.unsqueeze(-1)) * torch.exp(-params["log_mean"])[:, None])
        exact = super().log_mass(params, lower, upper)
        return torch.where(mass > 0, exact, mass.clamp_min(0.0).log())


class Skewed(pf.Exponential):
    """An axis too few."""

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        return super().log_mass(params, lower, upper)[..., 0]


class Doubled(pf.Gaussian):
    def mean_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        return super().mean_within(params, lower, upper).double()


NARROW = "the mass of a narrow interval is the density times its width"
INTEGRAL = "the mass of an interval is the integral of the density"
MEAN = "`mean_within` is the mean within the interval"
EXPECTED = "`moments_within` are the expected statistics within the interval"
INSIDE = "draws from an interval lie in it, and follow the density"
MAXIMUM = "an update is the maximum of the weighted likelihood"
FITTED = "`fitted` fits every unit to its own rows, and one without rows to all of them"
BROKEN: list[tuple[InputFamily, str, *tuple[str, ...]]] = [  # with what else follows
    (Thawed(), "families are frozen dataclasses, equal if their settings are"),
    (
        Unequal(),
        "families are frozen dataclasses, equal if their settings are",
    ),
    (TooFew(), "`initial` gives the shapes of `parameter_shapes`"),
    (UnitsFirst(2), "the last axis of every parameter is units"),
    (Global(), "`initial` draws from the generator that it is given"),
    (Forgetful(), "a family is the same after a file"),
    (Flat(4), "`log_table` is [P, V, K]"),
    (Loaded(3), "the table sums to one"),
    (OtherTable(3), "`table` is the exponential of `log_table`"),
    (Misnamed(1), "`log_table` is the log-softmax of the parameter named by `logits`"),
    (Steep(), "`table_gradient` is the derivative of `log_table`"),
    (AllUnits([0, 1, 2], 3), "`of_units` is the family of those units"),
    (Lazy(), MAXIMUM, FITTED),
    (Downhill(), "an update never lowers the likelihood", MAXIMUM),
    (Restless(), "a unit without any weight keeps its parameters", FITTED),
    (Unsmoothed(4), "pseudocounts are observations"),
    (Editing(), "pseudocounts are observations", "an update edits nothing that it is given"),
    (Gapless(), "an update never lowers the likelihood", MAXIMUM, FITTED),
    (Unbounded(), "an update never lowers the likelihood"),
    (Averaging(), FITTED),
    (Certain(), "fitted to one value with pseudocounts, no value is impossible"),
    (Merged(), "answers have the shapes of the base class"),
    (Untied(), "one parameter set serves many columns"),
    (Broad(), "the density integrates to one"),
    (Wide(), "draws follow the density"),
    (Unseeded(), "the same generator gives the same draws"),
    (Beside(), "no value is likelier than the mode"),
    (Off(), "`mean` is the mean"),
    (Noncentral(), "`moments` are what is expected of `tally`"),
    (Immovable(), "`recentred` is the tally from other parameters"),
    (ShiftedUnits(), "`of_units` is the family of those units"),
    (Narrow(), "answers have the precision of the parameters"),
    (Spoiled(), "impossible values do not spoil the derivatives"),
    (Skewed(), "answers about intervals have the shapes of the base class"),
    (Doubled(), "answers about intervals have the precision of the parameters"),
    (Closed(), "the mass of all numbers is one", NARROW, INTEGRAL, INSIDE),
    (Clumsy(), "the mass of an interval is that of its parts", NARROW, INTEGRAL, MEAN, EXPECTED),
    (Cancelling(), NARROW),
    (Twofold(), NARROW, INTEGRAL),
    (Midway(), MEAN),
    (Untruncated(), EXPECTED),
    (Outside(), "`mode_within` is in the interval, and no value there is likelier"),
    (Escaping(), INSIDE),
    (Brittle(), "intervals without mass do not spoil the derivatives"),
]


@pytest.mark.parametrize("case", BROKEN, ids=[type(case[0]).__name__ for case in BROKEN])
def test_every_law_of_families_catches_something(
    case: tuple[InputFamily, *tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, *laws = case
    monkeypatch.setitem(FAMILIES, type(family).__name__, type(family))
    with pytest.raises(LawBroken) as caught:
        check_input_family(family)
    assert caught.value.laws == tuple(laws)
    assert repr(family) in str(caught.value)
