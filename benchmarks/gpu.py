"""Hidden Markov models on a GPU, against PyJuice and bare matrix products, as a Markdown table.

    pip install pyjuice==2.6.3 .
    python benchmarks/gpu.py

Absolute times, ratios, and how much of the card's own rates (measured in the same run) they reach.
Both sides carry the same parameters, and their log-likelihoods must agree. Without the peer only
pcflow's column is filled. At toy size it runs on a CPU too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import Machine, Run, em_step, interleaved
from torch import Tensor
from toy import TOY, arguments, is_installed, size

import pcflow as pf

STATES, SYMBOLS, LENGTH, BATCH = size((1024, 4096, 64, 256), (8, 16, 4, 4))
WIDE, TOKENS, BLOCK = size((1024, 32_768, 32), (8, 32, 4))


def main() -> None:
    """Measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=size(30, 1), help="(%(default)s)")
    given = parser.parse_args()
    if not torch.cuda.is_available() and not TOY:
        sys.exit("no CUDA device: nothing is measured")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    machine = _machine(device, given.repeats)
    print("| workload | ms | peer | its ms | faster by | time over the floor |")
    print("|---|---|---|---|---|---|", flush=True)
    for row in [*_chain(device), *_soft(device)]:
        name, ours, peer, theirs, flops, numbers = row
        runs = [_synced(run, device) for run in (ours, theirs) if run is not None]
        times = interleaved(runs, given.repeats)
        floor = max(flops / machine.flops, numbers / machine.numbers)
        other = ["not installed", ""]
        if theirs is not None:
            other = [f"{times[1] * 1e3:.3f}", f"{times[1] / times[0]:.2f} x"]
        cells = [name, f"{times[0] * 1e3:.3f}", peer, *other, f"{times[0] / floor:.1f} x"]
        print(f"| {' | '.join(cells)} |", flush=True)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(
        f"\n{card}, torch {torch.__version__}; medians of {given.repeats} interleaved runs. "
        f"GEMM {machine.flops / 1e12:.1f} TFLOP/s, copy {4 * machine.numbers / 1e9:.0f} GB/s."
    )


Row = tuple[str, Run, str, Run | None, float, float]


def _chain(device: torch.device) -> list[Row]:
    """Scoring, and a training step: expected counts and new parameters."""
    circuit = pf.hmm(LENGTH, STATES, pf.Categorical(SYMBOLS))
    model = pf.compile(circuit, device)
    x = torch.randint(SYMBOLS, (BATCH, LENGTH), device=device)
    theirs: Any = None
    if device.type == "cuda" and is_installed("pyjuice"):
        theirs = _pyjuice(circuit).to(device)
        agreed = theirs(x).flatten().double().cpu()
        torch.testing.assert_close(
            model.log_prob(x).detach().double().cpu(), agreed, rtol=1e-3, atol=0
        )

    def peer_step() -> None:
        theirs(x)
        theirs.backward(x, flows_memory=0.0)
        theirs.mini_batch_em(step_size=1.0, pseudocount=0.0)

    flops = 2.0 * LENGTH * BATCH * STATES**2
    numbers = float(LENGTH * BATCH * STATES * 4)
    name = f"HMM {LENGTH} x {STATES} states x {SYMBOLS} symbols B={BATCH}: "
    return [
        (
            name + "log_prob",
            torch.no_grad()(lambda: model.log_prob(x)),
            "PyJuice",
            (lambda: theirs(x)) if theirs is not None else None,
            flops,
            numbers,
        ),
        (
            name + "a step of EM",
            em_step(model, x),
            "PyJuice",
            peer_step if theirs is not None else None,
            3 * flops,
            3 * numbers,
        ),
    ]


def _soft(device: torch.device) -> list[Row]:
    """Log Z and posteriors of a language model's potentials over one block."""
    circuit = pf.hmm(BLOCK, WIDE, pf.Categorical(TOKENS))
    table = torch.rand(TOKENS, WIDE, device=device)
    rows: list[Row] = []
    for batch in (1, 8):
        soft = torch.randn(batch, BLOCK, TOKENS, device=device).log_softmax(dim=-1)
        missing = torch.ones(batch, BLOCK, dtype=torch.bool, device=device)
        evidence = pf.Evidence(missing=missing, log_potentials=soft)
        flat = soft.exp().flatten(0, 1)
        out = torch.empty(len(flat), WIDE, device=device)
        bare = _product(flat, table, out)
        for dtype in (None, torch.bfloat16):
            model = pf.compile(circuit, device, soft_dtype=dtype)
            name = f"HMM {BLOCK} x {WIDE} states x {TOKENS:,} tokens B={batch}, all masked: "
            kind = "" if dtype is None else ", bfloat16 table"
            flops, numbers = 2.0 * len(flat) * TOKENS * WIDE, float(TOKENS * WIDE)
            log_z = torch.no_grad()(_query(model.log_prob, evidence))
            posteriors = _query(model.marginals, evidence)
            rows += [
                (name + "log Z" + kind, log_z, "bare matrix product", bare, flops, numbers),
                (name + "posteriors" + kind, posteriors, "the same", bare, 2 * flops, 2 * numbers),
            ]
    return rows


def _query(query: Callable[[pf.Evidence], Tensor], evidence: pf.Evidence) -> Run:
    return lambda: query(evidence)


def _product(rows: Tensor, table: Tensor, out: Tensor) -> Run:
    return lambda: torch.mm(rows, table, out=out)


def _pyjuice(circuit: pf.Circuit) -> Any:
    """The same hidden Markov model there."""
    import pyjuice as juice

    values = {p.shape: p.value for p in circuit.parameters}
    nodes = juice.structures.HMM(
        seq_length=LENGTH,
        num_latents=STATES,
        num_emits=SYMBOLS,
        alpha=values[(STATES, STATES)].softmax(dim=1),
        beta=values[(SYMBOLS, STATES)].softmax(dim=0).t().contiguous(),
        gamma=values[(1, STATES)].softmax(dim=1)[0],
    )
    return juice.compile(nodes)


def _synced(run: Run, device: torch.device) -> Run:
    if device.type != "cuda":
        return run

    def finished() -> None:
        run()
        torch.cuda.synchronize(device)

    return finished


def _machine(device: torch.device, repeats: int) -> Machine:
    size = 4096 if device.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=device)
    source = torch.randn(1 << 26 if device.type == "cuda" else 1 << 24, device=device)
    target, product = torch.empty_like(source), torch.empty_like(a)
    runs: list[Run] = [lambda: torch.mm(a, b, out=product), lambda: target.copy_(source)]
    gemm, copy = interleaved([_synced(run, device) for run in runs], repeats)
    return Machine(2 * size**3 / gemm, 2 * source.numel() / copy)


if __name__ == "__main__":
    main()
