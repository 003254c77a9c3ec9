"""The chain rule in one pass against a row for every prefix, and the steps of a filter.

A circuit without `conditionals` finds log p(x_j | x_<j) as differences of log-probabilities of all
prefixes, which are so many rows of evidence. Both sides are compared first, then take turns; the
time of `log_prob` alone, one pass up, stands beside them. A filter goes along long chains and along
the leaves of a tree: the time of a step after a short past, and after a long one. All is time of
the processor, on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from measure import interleaved, processor
from torch import Tensor
from toy import arguments, size

import pcflow as pf

LENGTH = size(64, 4)
LONG = size(4096, 32)


def seeded() -> torch.Generator:
    """The same randomness every time."""
    return torch.Generator().manual_seed(0)


def circuits() -> dict[str, tuple[pf.Circuit, int]]:
    """Chains, trees whose leaves are in order, and such whose leaves are not; rows of a batch."""
    halves, squares = (pf.structure.quad_tree((n, LENGTH // n)) for n in (1, size(8, 2)))
    pixels, few = pf.Categorical(16), pf.Categorical(size(320, 5))
    rows = torch.randint(2, (500, LENGTH), generator=seeded())
    rows[:, 1:] ^= rows[:, :-1]
    return {
        "chain of 16, K 64, V 320": (pf.hmm(size(16, 3), size(64, 2), few), size(128, 2)),
        f"chain of {LENGTH}, K 256, V 320": (pf.hmm(LENGTH, size(256, 2), few), size(32, 2)),
        f"halves of {LENGTH}, K 32": (pf.build_circuit(halves, pixels, size(32, 2)), size(128, 2)),
        "8 x 8 in rows, K 32": (pf.build_circuit(squares, pixels, size(32, 2)), size(128, 2)),
        f"hclt of {LENGTH}, K 16": (pf.hclt(rows, size(16, 2), pf.Bernoulli()), size(128, 2)),
    }


def by_prefixes(model: pf.CompiledCircuit, x: Tensor) -> Tensor:
    """The same from a row for every prefix."""
    rows, count = x.shape
    after = torch.ones(count, count).triu(1).bool().repeat(rows, 1)
    each = model.log_prob(pf.Evidence(x.repeat_interleave(count, 0), after)).view(rows, count)
    return torch.cat([each[:, :1], each.diff(dim=1)], dim=1)


def alone(ask: Callable[[], Tensor]) -> Callable[[], object]:
    """Without a gradient."""
    return torch.no_grad()(ask)


def learning(ask: Callable[[], Tensor], model: pf.CompiledCircuit) -> Callable[[], object]:
    """With the gradient of all parameters."""
    return lambda: torch.autograd.grad(ask().sum(), list(model.parameters()))


def rows_of(name: str, circuit: pf.Circuit, batch: int, repeats: int) -> str:
    """Two lines of the table."""
    model, peer = pf.compile(circuit), pf.compile(circuit)  # each with memory of its own
    x = model.sample(batch, generator=seeded())
    sides: list[Callable[[], Tensor]] = [
        lambda: model.log_prob(x),
        lambda: model.conditionals(x),
        lambda: by_prefixes(peer, x),
    ]
    torch.testing.assert_close(sides[1](), sides[2](), rtol=1e-3, atol=1e-3)
    lines = []
    models = model, model, peer
    for how, runs in (
        ("forward", [alone(side) for side in sides]),
        ("and backward", [*map(learning, sides, models)]),
    ):
        up, ours, theirs = interleaved(runs, repeats, clock=time.process_time)
        cells = f"{1e3 * ours:.1f} | {ours / up:.1f} | {theirs / ours:.1f} x"
        lines.append(f"| {name}, {batch} rows | {how} | {cells} |")
    return "\n".join(lines)


def steps_of(name: str, circuit: pf.Circuit) -> str:
    """How long a step takes early and late."""
    seen, column, times = pf.compile(circuit).filter(8), torch.zeros(8), []
    for _ in range(circuit.num_variables):
        began = time.process_time()
        seen.next_log_probs()
        seen.observe(column)
        times.append(1e6 * (time.process_time() - began))
    eighth = len(times) // 8
    cells = [median(part) for part in (times[eighth : 2 * eighth], times[-2 * eighth : -eighth])]
    return f"| {name} | {cells[0]:.0f} | {cells[1]:.0f} |"


def main() -> None:
    """Compare, then time."""
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=size(9, 1))
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"one thread of {processor()}\n")
    print("| circuit | | conditionals, ms | of one `log_prob` | faster than prefixes by |")
    print("|---|---|---|---|---|")
    for name, (circuit, batch) in circuits().items():
        print(rows_of(name, circuit, batch, repeats), flush=True)
    chain, other = (pf.hmm(LONG, 16, pf.Categorical(26)) for _ in range(2))
    halves = pf.build_circuit(pf.structure.quad_tree((1, LONG)), pf.Categorical(26), 16)
    print("\n| a step of a filter, 8 rows | early, microseconds | late |\n|---|---|---|")
    print(steps_of(f"chain of {LONG}", chain))
    print(steps_of(f"two chains of {LONG}, mixed", pf.mixture([chain, other], [0.5, 0.5])))
    print(steps_of(f"halves of {LONG}", halves))


if __name__ == "__main__":
    main()
