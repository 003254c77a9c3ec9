"""Ten measurements given ten others: three densities, who is best, and who knows how sure to be.

    python examples/conditional_density.py     # writes conditional_density.png

Of 569 tumours scikit-learn has ten measurements, each as the mean over cells and as that of the
worst cells. What are the worst like, given the means? A conditional circuit, a mixture density
network of the same width, and a joint circuit over all twenty, conditioned on the means. Needs
scikit-learn: pip install 'pcflow[sklearn]'.
"""

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import pyplot
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

import pcflow as pf
from pcflow.estimator import CircuitDensity

WIDTH, DRAWS = 64, 200
EPOCHS, PATIENCE, STEP = 200, 15, 2e-3  # of both networks, by Adam


class Density(NamedTuple):
    """What is compared: log p(y | x) [B], y in part unknown, and draws [n, B, D] of y."""

    log_prob: Callable[[Tensor, Tensor], Tensor]
    sample: Callable[[int, Tensor], Tensor]


class Rows(NamedTuple):
    """Inputs [N, f] and outputs [N, D]."""

    x: Tensor
    y: Tensor


class MixtureDensityNetwork(nn.Module):
    """A mixture of independent normals, all of whose parameters a network gives (Bishop 1994)."""

    def __init__(self, inputs: int, outputs: int, parts: int) -> None:
        """Of so many parts."""
        super().__init__()
        self.outputs, self.parts = outputs, parts
        self.body = nn.Sequential(nn.Linear(inputs, WIDTH), nn.SiLU())
        self.out = nn.Linear(WIDTH, parts * (2 * outputs + 1))

    def forward(self, x: Tensor) -> tuple[Tensor, torch.distributions.Normal]:
        """Log-shares [B, parts] and normals [B, parts, D]."""
        logits, rest = self.out(self.body(x)).split([self.parts, 2 * self.parts * self.outputs], 1)
        mean, log_std = rest.view(-1, self.parts, 2, self.outputs).unbind(2)
        return logits.log_softmax(-1), torch.distributions.Normal(mean, log_std.exp())

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        """Log p(y | x) [B]; NaN is left out."""
        log_share, normal = self(x)
        known = ~y.isnan()
        each = normal.log_prob(y.nan_to_num().unsqueeze(1)).where(known.unsqueeze(1), 0.0)
        return (log_share + each.sum(-1)).logsumexp(-1)

    def sample(self, n: int, x: Tensor) -> Tensor:
        """Draws [n, B, D]."""
        log_share, normal = self(x)
        part = torch.distributions.Categorical(logits=log_share).sample((n,))  # [n, B]
        index = part[..., None, None].expand(-1, -1, 1, self.outputs)
        return normal.sample((n,)).gather(2, index).squeeze(2)


def mixture_density_network(train: Rows, held_out: Rows, parts: int) -> tuple[Density, float]:
    """Learned by Adam, stopped where rows that were held out are likeliest."""
    network = MixtureDensityNetwork(train.x.shape[1], train.y.shape[1], parts).double()
    optimizer = torch.optim.Adam(network.parameters(), lr=STEP)
    best, since, kept = -math.inf, 0, network.state_dict()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(train.x)).split(32):
            optimizer.zero_grad()
            (-network.log_prob(train.y[rows], train.x[rows]).mean()).backward()
            optimizer.step()
        with torch.no_grad():
            found = float(network.log_prob(held_out.y, held_out.x).mean())
        since = 0 if found > best else since + 1
        if since == 0:
            best, kept = found, {name: w.clone() for name, w in network.state_dict().items()}
        if since == PATIENCE:
            break
    network.load_state_dict(kept)
    return Density(network.log_prob, network.sample), best


def conditional_circuit(train: Rows, held_out: Rows, units: int) -> tuple[Density, float]:
    """A hidden tree over the outputs, whose parameters a network moves row by row."""
    model = pf.compile(pf.hclt(train.y, units, pf.Gaussian()), dtype=torch.float64)
    conditional = pf.ConditionalCircuit(model, train.x.shape[1], hidden=(WIDTH,), rank=1)
    result = pf.fit(
        conditional,
        pf.Batch(train.y, features=train.x),
        pf.Gradient(lambda parameters: torch.optim.Adam(parameters, lr=STEP)),
        batch_size=32,
        epochs=EPOCHS,
        validation=pf.Batch(held_out.y, features=held_out.x),
        patience=PATIENCE,
        progress=False,
    )
    density = Density(conditional.log_prob, lambda n, x: conditional(x).sample(n))
    return density, max(result.validation)


def joint_circuit(train: Rows, held_out: Rows, units: int) -> tuple[Density, float]:
    """`CircuitDensity` over inputs and outputs: p(y | x) = p(x, y) / p(x)."""
    inputs, columns = train.x.shape[1], train.x.shape[1] + train.y.shape[1]
    normal = {column: pf.Gaussian() for column in range(columns)}
    estimator = CircuitDensity(units, categorical=[], families=normal, random_state=0)
    estimator.fit(torch.cat([train.x, train.y], 1).numpy())

    def log_prob(y: Tensor, x: Tensor) -> Tensor:
        both = torch.cat([x, y], 1)
        alone = torch.cat([x, torch.full_like(y, torch.nan)], 1)
        found = estimator.score_samples(both.numpy()) - estimator.score_samples(alone.numpy())
        return torch.from_numpy(found)

    def sample(n: int, x: Tensor) -> Tensor:
        alone = torch.cat([x, torch.full((len(x), columns - inputs), torch.nan)], 1).repeat(n, 1)
        drawn = estimator.impute(alone.numpy(), how="sample", random_state=0)
        return torch.from_numpy(drawn).unflatten(0, (n, -1))[..., inputs:]

    return Density(log_prob, sample), float(log_prob(held_out.y, held_out.x).mean())


METHODS = {  # and the sizes of which rows that were held out choose one
    "mixture density network": (mixture_density_network, (1, 3, 10)),
    "joint circuit, conditioned": (joint_circuit, (4, 8, 16)),
    "conditional circuit": (conditional_circuit, (4, 8, 16)),
}


def split(seed: int) -> list[Rows]:
    """Three fifths to learn from, one to choose by, one to judge by; in units of the first."""
    values = np.log(load_breast_cancer().data + 0.01)  # skewed, and some are zero
    order = np.random.default_rng(seed).permutation(len(values))
    parts = np.split(order, [3 * len(order) // 5, 4 * len(order) // 5])
    mean, std = values[parts[0]].mean(0), values[parts[0]].std(0)
    tables = [torch.from_numpy((values[rows] - mean) / std) for rows in parts]
    return [Rows(table[:, :10], table[:, 20:]) for table in tables]


@torch.no_grad()
def draw_picture(found: dict[str, Density], shares: dict[str, Tensor], row: Rows, out: str) -> None:
    """How often outputs fall below each quantile, and what is said of two outputs of a row."""
    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3.4))
    levels = torch.linspace(0, 1, 101)
    axes[0].plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    for name, share in shares.items():
        below = [(share <= level).double().mean() for level in levels]
        axes[0].plot(levels, below, label=name)
    axes[0].set(xlabel="quantile", ylabel="share of values below", title="calibration")
    axes[0].legend(fontsize=7)
    first, second = 0, 6  # radius and concavity
    line = torch.linspace(-1.5, 1.5, 40, dtype=torch.float64)
    grid = torch.cartesian_prod(row.y[0, first] + line, row.y[0, second] + line)
    y = torch.full((len(grid), row.y.shape[1]), torch.nan, dtype=torch.float64)
    y[:, [first, second]] = grid
    for place, (name, density) in zip(axes[1:], found.items(), strict=True):
        height = density.log_prob(y, row.x.expand(len(y), -1)).exp().view(40, 40)
        place.contour(row.y[0, first] + line, row.y[0, second] + line, height.T)
        place.plot(row.y[0, first], row.y[0, second], "k+", markersize=10)
        place.set(xlabel="worst radius", ylabel="worst concavity", title=name)
    figure.tight_layout()
    figure.savefig(out, dpi=120)


def main() -> None:
    """Learn all, print how good they are, and draw the last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="splits of the table (%(default)s)")
    parser.add_argument("--out", default="conditional_density.png")
    given = parser.parse_args()
    nats: dict[str, list[float]] = {name: [] for name in METHODS}
    held: dict[str, list[float]] = {name: [] for name in METHODS}
    for seed in range(given.seeds):
        torch.manual_seed(seed)
        train, held_out, test = split(seed)
        found, shares = {}, {}
        for name, (method, sizes) in METHODS.items():
            each = [method(train, held_out, size) for size in sizes]
            found[name] = density = max(each, key=lambda pair: pair[1])[0]
            with torch.no_grad():
                nats[name].append(float(density.log_prob(test.y, test.x).mean()))
                below = density.sample(DRAWS, test.x) <= test.y  # [n, B, D]
            shares[name] = below.double().mean(0).flatten()
            inside = (shares[name] - 0.5).abs() <= 0.4
            held[name].append(float(inside.double().mean()))
    print(f"{'':28s} nats per row   central 80 % of draws hold")
    for name in METHODS:
        spread = f" +- {np.std(nats[name]):.2f}" if given.seeds > 1 else ""
        print(f"{name:28s} {np.mean(nats[name]):6.2f}{spread:8s} {np.mean(held[name]):.0%}")
    draw_picture(found, shares, Rows(test.x[:1], test.y[:1]), given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
