"""Training by Anemone on a card, in tokens per second, as a Markdown table.

    python benchmarks/gpu_train.py

Hidden Markov models over blocks of 32 tokens, steps of a whole batch. A step must at least read and
write every parameter, every count that is remembered and every count of its own once: the share of
the rate of a copy that this comes to is the share of peak bandwidth. The floor is that, or the
arithmetic of one pass up and down.
"""

from __future__ import annotations

from itertools import product

import torch
from gpu_rates import (
    DEVICE,
    MEMORY,
    Rates,
    Table,
    Work,
    milliseconds,
    ratio,
    require_card,
)
from toy import arguments, size

import pcflow as pf

LENGTH, ROWS = size((32, 256), (4, 4))
STATES, TOKENS = size(((256, 1024, 4096), (32_768, 126_464)), ((4, 8), (16, 32)))


def main() -> None:
    """Measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="of a batch (%(default)s)")
    rows = parser.parse_args().rows
    require_card()
    rates = Rates.measured()
    columns = ("tokens per second", "ms per step", "share of bandwidth", "time over the floor")
    table = Table("states", "vocabulary", *columns, "peak memory, GiB")
    for states, tokens in product(STATES, TOKENS):
        with table.attempt(f"{states:,} | {tokens:,}"):
            measure(table, rates, states, tokens, rows)
    table.end(f"{rates} Batches of {rows} x {LENGTH} tokens.")


def measure(table: Table, rates: Rates, states: int, tokens: int, rows: int) -> None:
    """One row."""
    circuit = pf.hmm(LENGTH, states, pf.Categorical(tokens))
    model = pf.compile(circuit, DEVICE, memory=MEMORY)
    batch = pf.Batch(torch.randint(tokens, (rows, LENGTH), device=DEVICE))
    run = pf.Anemone().start(model)
    _forget_peak()
    (seconds,) = table.time(lambda: run.step([batch]))
    moved = 6 * 4.0 * model.plan.parameter_count
    work = Work(3.0 * rows * model.plan.flops, bytes=moved)
    sizes = (f"{states:,}", f"{tokens:,}")
    if isinstance(seconds, str):
        table.row(*sizes, seconds)
        return
    speed, share = rows * LENGTH / seconds, moved / seconds / rates.bytes
    cells = (f"{speed:,.0f}", milliseconds(seconds), f"{share:.0%}")
    table.row(*sizes, *cells, ratio(seconds, rates.floor(work)), _peak())


def _forget_peak() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak() -> str:
    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if DEVICE.type == "cuda" else ""


if __name__ == "__main__":
    main()
