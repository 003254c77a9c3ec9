# %% [markdown]
# # Logic and counting
#
# A formula of propositional logic divides all states into those that satisfy
# it, its *models*, and the rest. To find one model is hard; to *count* them is
# harder. Once the formula is compiled to a circuit, counting is one pass
# upward, a uniform draw one pass downward, and so is every question about the
# solutions.
#
# ## Compile rules
#
# A four by four sudoku: every cell has one digit, and no digit occurs twice in
# a row, column or box. One Boolean for each of 16 cells and 4 digits says
# "cell c has digit d"; rules are clauses over them, in numbers as DIMACS
# writes them (from 1 up, negative for "not").

# %%
import math
from itertools import combinations

import torch
from matplotlib import pyplot as plt

import pcflow as pf

torch.manual_seed(0)
cells = [[4 * cell + digit for digit in range(4)] for cell in range(16)]
lines = [range(4 * row, 4 * row + 4) for row in range(4)]
lines += [range(column, 16, 4) for column in range(4)]
lines += [[corner + c for c in (0, 1, 4, 5)] for corner in (0, 2, 8, 10)]
groups = cells + [
    [cells[c][d] for c in line] for line in lines for d in range(4)
]

clauses = [[1 + b for b in group] for group in groups]  # at least one
for group in groups:  # no two
    clauses += [[-1 - a, -1 - b] for a, b in combinations(group, 2)]
cnf = pf.CNF(clauses)

circuit, log_count = pf.compile_cnf(cnf, ordered=True)
print(f"{len(clauses)} clauses over {cnf.num_variables} Booleans")
print(f"{pf.model_count(cnf)} grids; log of it {log_count:.4f}")
print(circuit.properties)

# %% [markdown]
# 288 is the number of all sudokus of this size. The printed lines are
# *proofs*: the circuit is **decomposable** (products multiply what has no
# variable in common, so counts multiply) and **deterministic** (sums add up
# cases that exclude each other, so counts add up). That is why one pass
# counts. `from_one_hot` turns Booleans into 16 variables of 4 values each;
# entropy is now the logarithm of the count, because the circuit is the uniform
# distribution over all solutions.

# %%
grid = pf.from_one_hot(circuit, cells)
model = pf.compile(grid)
print(grid)
print(f"exp(entropy) = {math.exp(pf.entropy(grid)):.3f}")


def show(*grids: torch.Tensor, names: tuple[str, ...] = ()) -> None:
    """Grids side by side; what is missing is left blank."""
    figure, places = plt.subplots(
        1, len(grids), figsize=(1.7 * len(grids), 1.9), squeeze=False
    )
    for n, (place, cells) in enumerate(zip(places[0], grids, strict=True)):
        values = cells.reshape(4, 4)
        place.imshow(values, cmap="Pastel1", vmin=0, vmax=8)
        place.set(xticks=[1.5], yticks=[1.5], xticklabels=[], yticklabels=[])
        place.grid(color="black")
        place.tick_params(length=0)
        place.set_title(names[n] if names else "", fontsize=9)
        for c, value in enumerate(values.flatten().tolist()):
            if value == value:
                place.text(
                    c % 4, c // 4, f"{value + 1:.0f}", ha="center", va="center"
                )


show(*model.sample(4))

# %% [markdown]
# ## Clues are evidence
#
# Three clues leave some grids. How many, and what do they say of the other
# cells? The probability of the clues is the share of grids that have them.
# Each cell's posterior is the share of the remaining grids with that digit. No
# search, no enumeration.

# %%
clues = torch.full((1, 16), torch.nan)
clues[0, [0, 5, 10]] = torch.tensor([0.0, 3.0, 1.0])
left = model.log_prob(clues).exp().item() * 288
print(f"{left:.0f} grids are left")
posterior = model.marginals(clues)[0].exp()  # [16, 4]
print("last cell: ", [round(p, 3) for p in posterior[15].tolist()])
show(
    clues[0],
    *model.sample(3, clues)[:, 0],
    names=("clues", *["one of them"] * 3),
)

# %% [markdown]
# ## The surprise: read a bad scan
#
# Somebody photographed a solved grid, and a digit recogniser gives four scores
# for each cell; in four cells of ten the best score is that of a wrong digit.
# Cell by cell nothing can be done. But rules are known, and scores are *soft
# evidence*: each value of a cell is weighed by its score,
#
# $$q(x) \propto p(x) \prod_c \lambda_c(x_c).$$
#
# The most probable grid under $q$ is found exactly, because the circuit is
# deterministic, and `mpe` says that it is (`exact=True`).

# %%
truth = model.sample(1)
scores = 1.2 * torch.nn.functional.one_hot(truth, 4) + torch.randn(1, 16, 4)
scan = pf.Evidence(
    torch.full((1, 16), torch.nan), log_potentials=scores.log_softmax(-1)
)
read = scores.argmax(-1)
best = model.mpe(scan)
print(f"cell by cell {(read != truth).sum()} of 16 wrong")
print(
    f"under the rules {(best.values != truth).sum()} wrong, exact: {best.exact}"
)
show(read[0], best.values[0], truth[0], names=("scan", "best grid", "truth"))

# %% [markdown]
# One such scan proves nothing. Here are two hundred of them, as one batch:

# %%
truths = model.sample(200)
scores = 1.2 * torch.nn.functional.one_hot(truths, 4) + torch.randn(200, 16, 4)
scans = pf.Evidence(
    torch.full((200, 16), torch.nan), log_potentials=scores.log_softmax(-1)
)
read, best = scores.argmax(-1), model.mpe(scans).values
print(
    f"cells right: {(read == truths).double().mean():.1%} cell by cell,",
    end=" ",
)
print(f"{(best == truths).double().mean():.1%} under the rules")
whole = [(found == truths).all(-1).double().mean() for found in (read, best)]
print(f"grids right: {whole[0]:.1%} and {whole[1]:.1%}")

# %% [markdown]
# ## A rule on top of a learned model
#
# Rules and what was learned from data are both circuits, and *compatible* ones
# (which split variables alike) have a product that is a circuit again: $p(x
# \mid \text{rule}) = p(x)\,[\,\text{rule}\,]\,/\,Z$. Here a chain over three
# coins is given that `x1 or not x2` and `x2 or x3` hold. $Z$, the probability
# that the chain obeys by itself, comes with it.

# %%
coins = pf.hmm(3, states=2, inputs=pf.Bernoulli())
rule = pf.compile_cnf(pf.CNF([[1, -2], [2, 3]]), ordered=True)
obeys = pf.multiply(coins, rule.circuit)
states = math.exp(rule.log_count)
z = pf.inner_product(coins, rule.circuit) * states
print(f"{states:.0f} of 8 states obey; the chain does in {z:.1%}")
every = torch.cartesian_prod(*[torch.arange(2.0)] * 3)
for state, p in zip(
    every.int().tolist(),
    pf.compile(obeys).log_prob(every).exp().tolist(),
    strict=True,
):
    print(state, f"{p:.3f}")

# %% [markdown]
# ## What to read next
#
# * [What is guaranteed](../guarantees.md): which query needs which property,
#   and what a refusal says.
# * [Files](../files.md): formulas compiled by others (SDD, d-DNNF), and
#   networks.
# * [count_models.py](../examples/count_models.py) colours a map, with
#   preferences.
