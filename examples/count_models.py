"""Colour the map of Australia: count the ways, draw some, ask what follows, prefer one."""

import math
from itertools import combinations

import torch

import pcflow as pf

torch.manual_seed(0)

REGIONS = ["WA", "NT", "SA", "Q", "NSW", "V", "T"]
COLOURS = ["red", "green", "blue"]
BORDERS = "WA-NT WA-SA NT-SA NT-Q SA-Q SA-NSW SA-V Q-NSW NSW-V"


def says(region: str, colour: str) -> int:
    """The literal, counted from 1 as in DIMACS."""
    return 1 + REGIONS.index(region) * len(COLOURS) + COLOURS.index(colour)


def colours(state: torch.Tensor) -> str:
    """A state of 21 zeros and ones in words."""
    chosen = state.view(len(REGIONS), len(COLOURS)).argmax(-1).tolist()
    return ", ".join(f"{r} {COLOURS[c]}" for r, c in zip(REGIONS, chosen, strict=True))


# Every region has a colour and no second one, and neighbours differ.
clauses = [[says(region, colour) for colour in COLOURS] for region in REGIONS]
for region in REGIONS:
    clauses += [[-says(region, a), -says(region, b)] for a, b in combinations(COLOURS, 2)]
for a, b in (border.split("-") for border in BORDERS.split()):
    clauses += [[-says(a, colour), -says(b, colour)] for colour in COLOURS]
cnf = pf.CNF(clauses)

# The circuit is the uniform distribution over all models; sampling it is exact.
circuit, log_count = pf.compile_cnf(cnf)
model = pf.compile(circuit)
print(f"{cnf} has {pf.model_count(cnf)} models; {circuit}")
for state in model.sample(3):
    print("  ", colours(state))

# Evidence: how many models are left, and what they say about the rest.
known = torch.full((1, cnf.num_variables), torch.nan)
known[0, says("WA", "red") - 1] = 1.0
known[0, says("T", "green") - 1] = 1.0
left = math.exp(model.log_prob(known).item() + log_count)
print(f"\nWA red, T green: {left:.0f} models are left")
red = model.marginals(known)[0, :, 1].exp()  # [D]
for region in ("Q", "V", "NSW"):
    print(f"   then {region} is red with probability {red[says(region, 'red') - 1]:.2f}")

# Weights: somebody likes blue three times as much as other colours. Determinism makes MPE exact.
log_weights = torch.zeros(cnf.num_variables, 2)
for region in REGIONS:
    log_weights[says(region, "blue") - 1, 1] = math.log(3.0)
liked = pf.compile(pf.compile_cnf(cnf, log_weights).circuit)
best = liked.mpe(torch.full((1, cnf.num_variables), torch.nan))
print(f"\nmost liked (proved: {best.exact}), {best.log_value.exp().item():.3f} of all weight:")
print("  ", colours(best.values[0]))
