"""A circuit on an 8-billion-parameter model on a card: what a block costs, as a Markdown table.

    python benchmarks/gpu_head.py

Blocks of LLaDA's size, all masked: 32 positions, 126,464 tokens, a hidden Markov model of 1,024
states, with tables in float32 and in bfloat16 for soft evidence. Log Z and posteriors of a block,
and one coupled sample by every coupling, of all tokens and of the 256 best of every position.

The floor is arithmetic or memory traffic at the card's own rates, measured in the same run, of the
matrix products that cannot be spared: one with the table going up and one going down, as many of
the chain's, and the logits read once. Log Z needs one such product, posteriors two, and so does a
sample by the product, for its tokens' marginals; a log-linear coupling one more, for those of the
circuit; the projection two more per sweep. Of listed tokens only their rows are read.

The backbone is one step of a model of LLaDA's sizes (8.0 billion parameters, transformers' Llama)
with random bfloat16 weights over 512 positions, logits of the block's 32 alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_rates import (
    DEVICE,
    MEMORY,
    Outcome,
    Rates,
    Table,
    Work,
    give_back,
    in_a_line,
    milliseconds,
    ratio,
    require_card,
    timed,
)
from measure import Run, forward
from toy import arguments, is_installed, size

import pcflow as pf
from pcflow_diffusion import CircuitHead, LogLinear, Projection

LENGTH, STATES, TOKENS, LISTED = size((32, 1024, 126_464, 256), (4, 8, 64, 8))
CONTEXT = size(512, 8)
BATCHES = size((1, 8, 64), (1, 2))
COUPLINGS = {  # with the products that a sample cannot spare
    "product": ("product", 2),
    "log-linear": (LogLinear(a=0.9, b=0.4), 3),
    "projection": (Projection(), 2 + 2 * Projection().sweeps),
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what is done.
        run: does it once.
        work: the least that it must do.
    """

    name: str
    run: Run
    work: Work


def main() -> None:
    """Measure, print."""
    arguments(__doc__).parse_args()
    require_card()
    rates = Rates.measured()
    table = Table("what", "batch", "ms", "time over the floor", "share of the backbone's step")
    steps = backbone_steps(table, rates)
    give_back()
    circuit = pf.hmm(LENGTH, STATES, pf.Categorical(TOKENS))
    for dtype in (None, torch.bfloat16):
        model = pf.compile(circuit, DEVICE, memory=MEMORY, soft_dtype=dtype)
        model.requires_grad_(False)
        for batch in BATCHES:
            with table.attempt(f"B={batch}"):
                measure(table, rates, steps[batch], model, batch, dtype or torch.float32)
    table.end(rates)


@torch.no_grad()
def backbone_steps(table: Table, rates: Rates) -> dict[int, Outcome]:
    """How long a step takes, by batch."""
    found: dict[int, Outcome] = dict.fromkeys(BATCHES, "not measured")
    try:
        model, width = backbone()
    except Exception as error:  # such as a library of another version: all else can be measured
        table.row("the backbone's step", "", in_a_line(error))
        return found
    parameters = sum(weight.numel() for weight in model.parameters())
    for batch in BATCHES:
        ids = torch.randint(TOKENS, (batch, CONTEXT), device=DEVICE)

        def step(ids: torch.Tensor = ids) -> None:
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state  # [B, C, H]
            model.lm_head(hidden[:, -LENGTH:])

        (found[batch],) = timed(step)
        flops = 2.0 * batch * (CONTEXT * parameters - (2 * CONTEXT - LENGTH) * TOKENS * width)
        floor = rates.floor(Work(half_flops=flops, bytes=2.0 * parameters))
        took = milliseconds(found[batch]), ratio(found[batch], floor)
        table.row(f"the backbone's step, {parameters / 1e9:.1f} B", str(batch), *took, "")
    return found


def backbone() -> tuple[Any, int]:
    """A model with random weights, and its width; nothing is initialised that is then replaced."""
    if not is_installed("transformers"):
        raise ImportError("transformers is not installed")
    from transformers import LlamaConfig, LlamaForCausalLM

    width, inner, layers, heads = size((4096, 12_288, 32, 32), (16, 32, 2, 2))
    config = LlamaConfig(
        vocab_size=TOKENS,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device=DEVICE).requires_grad_(False).eval()
    for weight in (*model.parameters(), *model.buffers()):
        weight.normal_(std=0.02)
    return model, width


def measure(
    table: Table,
    rates: Rates,
    step: Outcome,
    model: pf.CompiledCircuit,
    batch: int,
    dtype: torch.dtype,
) -> None:
    """All rows of a batch size, with a table of one precision."""
    logits = 3 * torch.randn(batch, LENGTH, TOKENS, device=DEVICE)
    kind = str(dtype).removeprefix("torch.")
    for row in [*bare(logits, dtype), *soft(model, logits, dtype), *samples(model, logits, dtype)]:
        (found,) = table.time(row.run)
        share = "" if isinstance(found, str) or isinstance(step, str) else f"{found / step:.2%}"
        over = ratio(found, rates.floor(row.work))
        table.row(f"{row.name}, {kind}", str(batch), milliseconds(found), over, share)


def bare(logits: torch.Tensor, dtype: torch.dtype) -> list[Row]:
    """The product with the table, and nothing else."""
    rows = logits.flatten(0, 1).to(dtype)
    table = torch.rand(TOKENS, STATES, device=DEVICE).to(dtype)
    out = torch.empty(len(rows), STATES, device=DEVICE, dtype=dtype)
    once = least(len(logits), dtype, 1)
    return [Row("bare matrix product", lambda: torch.mm(rows, table, out=out), once)]


def soft(model: pf.CompiledCircuit, logits: torch.Tensor, dtype: torch.dtype) -> list[Row]:
    """Soft evidence at every position."""
    missing = torch.ones(logits.shape[:2], dtype=torch.bool, device=DEVICE)
    potentials = logits.log_softmax(dim=-1)
    evidence = pf.Evidence(missing=missing, log_potentials=potentials)
    batch = len(logits)
    return [
        Row("log Z", forward(lambda: model.log_prob(evidence)), least(batch, dtype, 1)),
        Row("posteriors", lambda: model.marginals(evidence), least(batch, dtype, 2)),
    ]


def samples(model: pf.CompiledCircuit, logits: torch.Tensor, dtype: torch.dtype) -> list[Row]:
    """A coupled sample, by every coupling, of all tokens and of the best."""
    mask = TOKENS - 1
    x = torch.full(logits.shape[:2], mask, device=DEVICE)
    rows = []
    for name, (coupling, products) in COUPLINGS.items():
        for listed in (None, LISTED):
            head = CircuitHead(model, mask, coupling, top_k=listed)
            among = "" if listed is None else f" of the top {listed}"
            work = least(len(logits), dtype, products, listed)
            draw = partial(head.sample, logits, x)
            rows.append(Row(f"sample{among}, {name}", draw, work))
    return rows


def least(batch: int, dtype: torch.dtype, products: int, listed: int | None = None) -> Work:
    """So many products with the table and along the chain, and the logits read once."""
    rows, symbols = batch * LENGTH, listed or TOKENS
    with_table = 2.0 * products * rows * symbols * STATES
    along = 2.0 * products * rows * STATES**2
    read = TOKENS if listed is None else min(TOKENS, rows * listed)
    moved = float(products * read * STATES * dtype.itemsize + rows * TOKENS * 4)
    if dtype == torch.bfloat16:
        return Work(along, with_table, moved)
    return Work(along + with_table, bytes=moved)


if __name__ == "__main__":
    main()
