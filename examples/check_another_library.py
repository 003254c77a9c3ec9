"""Point `check_density` at objects of other libraries, and let Hypothesis shrink what it finds.

Runs in seconds without any of them, on ten lines with a mistake in them. With all of them, in an
environment of its own, it takes some minutes:
pip install 'pcflow[testing]' libcirkit==0.3.1 spflow==1.1.0 pomegranate==1.1.2
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pcflow.testing import LawBroken, check_density

Queries = dict[str, Callable[..., Any]]


@dataclass(frozen=True)
class Mixture:
    """A mixture of products in whole numbers: parameters a and b of every component and variable.

    Binary variables have odds a : b, real ones mean a and standard deviation b.
    """

    weights: tuple[int, ...]
    parameters: tuple[tuple[tuple[int, int], ...], ...]
    real: bool

    def __str__(self) -> str:
        """One component per line."""
        lines = []
        for weight, row in zip(self.weights, self.parameters, strict=True):
            told = [f"N({a}, {b}^2)" if self.real else f"P(1)={b / (a + b):.3f}" for a, b in row]
            lines.append(f"    {weight / sum(self.weights):.3f} x ({', '.join(told)})")
        return "\n".join(lines)

    @property
    def shares(self) -> Tensor:
        """Weights [K]."""
        return torch.tensor(self.weights) / sum(self.weights)

    @property
    def numbers(self) -> Tensor:
        """Parameters [K, D, 2]."""
        return torch.tensor(self.parameters, dtype=torch.float32)

    @property
    def ones(self) -> Tensor:
        """Probabilities of value one [K, D]."""
        return self.numbers[..., 1] / self.numbers.sum(-1)

    @property
    def variables(self) -> int:
        """D."""
        return len(self.parameters[0])

    def rows(self) -> Tensor:
        """Draws [500, D] of a real one, by which to lay grids."""
        generator = torch.Generator().manual_seed(0)
        unit = torch.multinomial(self.shares, 500, replacement=True, generator=generator)
        mean, std = self.numbers[unit].unbind(-1)
        return mean + std * torch.randn(mean.shape, generator=generator)


@st.composite
def mixtures(draw: st.DrawFn, real: bool) -> Mixture:
    """Up to three components over up to four variables, two and two if real; no odds are even."""
    number = st.integers(1, 9)
    pair = st.tuples(number, number).filter(lambda ab: real or ab[0] != ab[1])
    row = st.tuples(*[pair] * draw(st.integers(1, 2 if real else 4)))
    components = draw(st.integers(1, 2 if real else 3))
    weights, parameters = (draw(st.tuples(*[of] * components)) for of in (number, row))
    return Mixture(weights, parameters, real)


def by_hand(mixture: Mixture) -> Queries:
    """Ten lines of our own, with the mistake that is made most often."""

    def parts(x: Tensor) -> Tensor:
        one = x.unsqueeze(1) * mixture.ones + (1 - x.unsqueeze(1)) * (1 - mixture.ones)
        return mixture.shares * one.nan_to_num(nan=1.0).prod(-1)  # [B, K]

    def mpe(x: Tensor) -> Tensor:
        component = parts(x).argmax(dim=-1)  # the likeliest component: here is the mistake
        return torch.where(x.isnan(), mixture.ones[component].round(), x)

    def log_marginal(x: Tensor) -> Tensor:
        return parts(x).sum(-1).log()

    return {"log_prob": log_marginal, "log_marginal": log_marginal, "mpe": mpe}


def spflow(mixture: Mixture) -> Queries:
    """A sum over a product over leaves."""
    from spflow.meta import Scope
    from spflow.modules.leaves import Bernoulli, Normal
    from spflow.modules.products import Product
    from spflow.modules.sums import Sum

    scope, units = Scope(range(mixture.variables)), len(mixture.weights)
    if mixture.real:
        loc, scale = (t.T.unsqueeze(-1) for t in mixture.numbers.unbind(-1))  # [D, K, 1]
        leaves = Normal(scope, out_channels=units, loc=loc, scale=scale)
    else:
        leaves = Bernoulli(scope, out_channels=units, probs=mixture.ones.T.unsqueeze(-1))
    model = Sum(Product(leaves), weights=mixture.shares)

    def log_prob(x: Tensor) -> Tensor:
        return model.log_likelihood(x.float()).flatten()

    def copies(n: int, row: Tensor) -> Tensor:
        return row.float().repeat(n, 1)

    queries: Queries = {
        "log_prob": log_prob,
        "log_marginal": log_prob,
        "sample": model.sample,
        "sample_given by sample(data=...)": lambda n, row: model.sample(data=copies(n, row)),
        "sample_given by sample_with_evidence": lambda n, row: model.sample_with_evidence(
            copies(n, row)
        ),
    }
    if mixture.real:
        return queries
    return queries | {
        "mpe by mpe(data=...)": lambda x: model.mpe(data=x.float()),
        "mpe by sample_with_evidence": lambda x: model.sample_with_evidence(x.float(), is_mpe=True),
    }


def cirkit(mixture: Mixture) -> Queries:
    """A folded circuit: an input layer per variable, a product, a sum; divided by its total."""
    from cirkit.backend.torch.queries import IntegrateQuery, SamplingQuery
    from cirkit.pipeline import PipelineContext
    from cirkit.symbolic.circuit import Circuit
    from cirkit.symbolic.initializers import ConstantTensorInitializer
    from cirkit.symbolic.layers import CategoricalLayer, GaussianLayer, HadamardLayer, SumLayer
    from cirkit.symbolic.parameters import Parameter, TensorParameter
    from cirkit.utils.scope import Scope

    units, variables, numbers = len(mixture.weights), mixture.variables, mixture.numbers
    weights = mixture.shares
    if not mixture.real:  # logits are log-odds, so every component has a total of its own
        weights = weights / numbers.sum(-1).prod(-1)

    def constant(value: Tensor) -> Any:
        start = ConstantTensorInitializer(value.numpy())
        return Parameter.from_input(TensorParameter(*value.shape, initializer=start))

    def leaf(variable: int) -> Any:
        scope, here = Scope([variable]), numbers[:, variable]
        if mixture.real:
            mean, stddev = (constant(t) for t in here.unbind(-1))
            return GaussianLayer(scope, units, mean=mean, stddev=stddev)
        return CategoricalLayer(scope, units, num_categories=2, logits=constant(here.log()))

    inputs = [leaf(v) for v in range(variables)]
    top = SumLayer(units, 1, weight=constant(weights.unsqueeze(0)))
    product = [HadamardLayer(units, variables)] if variables > 1 else []
    below = {**{layer: inputs for layer in product}, top: product or inputs}
    context = PipelineContext(backend="torch", semiring="lse-sum", fold=True)
    model = context.compile(Circuit([*inputs, *product, top], below, [top]))
    total = context.integrate(model)().flatten()
    integrate = IntegrateQuery(model)

    def cast(x: Tensor) -> Tensor:
        return x.float() if mixture.real else x.long()

    def log_marginal(x: Tensor) -> Tensor:
        found = integrate(cast(x.nan_to_num(nan=0.0)), integrate_vars=x.isnan())
        return found.flatten() - total

    def in_parts(x: Tensor) -> Tensor:
        """As many rows at once as there are variables; it raises for most other numbers."""
        parts = (part.repeat(variables, 1)[:variables] for part in x.split(variables))
        return torch.cat([log_marginal(part) for part in parts])[: len(x)]

    queries: Queries = {
        "log_prob": lambda x: model(cast(x)).flatten() - total,
        "log_marginal": log_marginal,
    }
    if mixture.real:
        return queries | {"sample": lambda n: SamplingQuery(model)(n)[0]}
    return queries | {"log_marginal of as many rows as variables": in_parts}


def pomegranate(mixture: Mixture) -> Queries:
    """A mixture of independent variables, with masked tensors for what is missing."""
    from pomegranate.distributions import Categorical, Normal
    from pomegranate.gmm import GeneralMixtureModel

    if mixture.real:
        mean, std = mixture.numbers.unbind(-1)
        parts = [Normal(m, s**2, covariance_type="diag") for m, s in zip(mean, std, strict=True)]
    else:
        parts = [
            Categorical(row / row.sum(-1, keepdim=True), check_data=False)
            for row in mixture.numbers
        ]
    model = GeneralMixtureModel(parts, priors=mixture.shares, check_data=False)

    def cast(x: Tensor) -> Tensor:
        return x.float() if mixture.real else x.long()

    def log_prob(x: Tensor) -> Tensor:
        return model.log_probability(cast(x))

    def log_marginal(x: Tensor) -> Tensor:
        known = torch.masked.MaskedTensor(cast(x.nan_to_num(nan=0.0)), ~x.isnan())
        return model.log_probability(known)

    return {"log_prob": log_prob, "log_marginal": log_marginal, "sample": model.sample}


def smallest(
    make: Callable[[Mixture], Queries], name: str, real: bool, known: set[str]
) -> tuple[Mixture, Exception] | None:
    """The smallest mixture for which a query breaks a law that is not known to be broken."""
    seen: list[Mixture] = []

    @settings(
        max_examples=40,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(mixtures(real))
    def holds(mixture: Mixture) -> None:
        seen[:] = [mixture]
        torch.manual_seed(0)
        queries = make(mixture)
        asked = {} if name == "log_prob" else {name.split()[0]: queries[name]}
        if real and name.startswith("sample"):  # real draws are compared with marginals
            asked["log_marginal"] = queries["log_marginal"]
        try:
            check_density(
                queries["log_prob"],
                [None if real else 2] * mixture.variables,
                **asked,
                rows=mixture.rows() if real else None,
                draws=500,
            )
        except LawBroken as error:
            if not known.issuperset(error.laws):
                raise

    try:
        holds()
    except Exception as error:
        return seen[0], error
    return None


def report(title: str, make: Callable[[Mixture], Queries], real: bool) -> None:
    """Every query of one library."""
    print(f"\n== {title}, {'normal' if real else 'binary'} variables")
    known: set[str] = set()
    for name in make(Mixture((1,), (((1, 2),),), real)):
        found = smallest(make, name, real, known)
        if found is None:
            print(f"{name}: every law holds")
        else:
            mixture, error = found
            told = f"{type(error).__name__}: {error}"
            if isinstance(error, LawBroken):
                told = str(error)
                known |= set(error.laws) if name == "log_prob" else set()
            print(f"{name}: of\n{mixture}\n    " + told.replace("\n", "\n    "))


PEERS = {"spflow": spflow, "libcirkit": cirkit, "pomegranate": pomegranate}

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of the others
    report("ten lines of our own", by_hand, real=False)
    for package, peer in PEERS.items():
        try:
            title = f"{package} {version(package)}"
        except PackageNotFoundError:
            print(f"\n== {package} is not installed: pip install {package}")
        else:
            for kind in (False, True):
                report(title, peer, kind)
