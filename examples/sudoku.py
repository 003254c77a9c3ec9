"""Sudoku from rules alone, compiled to a circuit: count, infer, draw, and read a bad scan."""

from itertools import combinations

import torch

import pcflow as pf

torch.manual_seed(0)

# One Boolean for every cell and digit; the rules say of which of them exactly one is true.
cell = [[4 * c + digit for digit in range(4)] for c in range(16)]
rows = [range(4 * r, 4 * r + 4) for r in range(4)]
columns = [range(c, 16, 4) for c in range(4)]
boxes = [[corner + c for c in (0, 1, 4, 5)] for corner in (0, 2, 8, 10)]
once = [*cell, *([cell[c][d] for c in line] for line in rows + columns + boxes for d in range(4))]
clauses = [[1 + b for b in group] for group in once]
clauses += [[-1 - a, -1 - b] for group in once for a, b in combinations(group, 2)]

# The models of the formula, as a circuit over 16 cells of four digits each.
circuit = pf.from_one_hot(pf.compile_cnf(pf.CNF(clauses), ordered=True).circuit, cell)
model = pf.compile(circuit)
grids = pf.model_count(pf.CNF(clauses))
print(f"{grids} grids obey {len(clauses)} clauses; {circuit}")


def show(*several: torch.Tensor) -> None:
    """Grids side by side."""
    for row in range(4):
        parts = (" ".join(str(int(v) + 1) for v in grid.view(4, 4)[row]) for grid in several)
        print("   " + "     ".join(parts).replace("0", "."))


# Clues are evidence: how many solutions are left, what follows, and a few of them.
clues = torch.full((1, 16), torch.nan)
clues[0, [0, 5, 10]] = torch.tensor([0.0, 3.0, 1.0])
print(f"\nWith three clues {model.log_prob(clues).exp().item() * grids:.0f} grids are left:")
show(clues[0].nan_to_num(-1.0), *model.sample(3, clues)[:, 0])
chances = ", ".join(f"{p:.2f}" for p in model.marginals(clues)[0, 15].exp().tolist())
print(f"The last cell is 1, 2, 3 or 4 with probability {chances}")

# A blurred scan is soft evidence. The most likely digits cell by cell break rules; MPE cannot.
truth = model.sample(1)
blurred = 1.5 * torch.nn.functional.one_hot(truth, 4) + torch.randn(1, 16, 4)
scan = pf.Evidence(torch.full((1, 16), torch.nan), log_potentials=blurred.log_softmax(-1))
best = model.mpe(scan)
seen = blurred.argmax(-1)
print(f"\nA scan with {(seen != truth).sum()} of 16 digits misread, the best grid, and the truth:")
show(seen[0], best.values[0], truth[0])
print(f"The best grid (proved: {best.exact}) has {(best.values != truth).sum()} wrong digits")
