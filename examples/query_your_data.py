"""Build a circuit on your own table, with gaps and mixed columns, and ask it questions."""

import torch

import pcflow as pf

torch.manual_seed(0)

# A table of days: season (4), rain (yes/no), temperature (degrees), umbrellas sold (0..5).
N = 2_000
season = torch.randint(4, (N,))
rain = (torch.rand(N) < torch.tensor([0.5, 0.3, 0.15, 0.45])[season]).long()
warmth = torch.tensor([3.0, 13.0, 24.0, 11.0])[season] - 2.0 * rain + 3.0 * torch.randn(N)
sold = (4.0 * rain + torch.rand(N) * 2).long()
days = torch.stack([season, rain, warmth, sold], dim=1)  # [N, 4]
days[torch.rand(N, 4) < 0.1] = torch.nan  # a tenth was never written down

# One input family per column, a random tree of sums and products over them. `initialize` gives
# inputs the scale of their columns.
columns = [pf.Categorical(4), pf.Bernoulli(), pf.Gaussian(), pf.Categorical(6)]
regions = pf.structure.random_binary_tree(4, replicas=2, seed=0)
circuit = pf.initialize(pf.build_circuit(regions, inputs=columns, units=8), days[:1_800])
model = pf.compile(circuit)
result = pf.fit(model, days[:1_800], epochs=40, validation=days[1_800:], patience=5)
print(f"held-out log-likelihood: {result.validation[result.best_epoch]:.3f} nats per day\n")

# How likely is rain, given only that five umbrellas were sold on a winter day?
nan = torch.nan
winter = torch.tensor([[0, nan, nan, 5], [0, nan, nan, 0]])
for rains in (0.0, 1.0):
    asked = winter.clone()
    asked[:, 1] = rains
    p = (model.log_prob(asked) - model.log_prob(winter)).exp()
    print(f"P(rain = {rains:.0f} | winter, 5 sold or 0 sold) = {p[0]:.3f} or {p[1]:.3f}")

# Fill in what is missing: the most probable completion, and draws that show how sure it is.
filled = model.mpe(winter)
print("\nmost probable completion:", filled.values[0].tolist(), "proved:", filled.exact)
draws = model.sample(1_000, evidence=winter)[:, 0]  # [1000, 4]
print(f"temperature on such a day: {draws[:, 2].mean():.1f} +- {draws[:, 2].std():.1f} degrees")
