"""Hidden Markov models on a GPU, against PyJuice and bare matrix products, as a Markdown table.

    pip install pyjuice==2.6.3 .
    python benchmarks/gpu.py

Absolute times, ratios, and how much of the card's own rates (measured in the same run) they reach.
Both sides carry the same parameters, and their log-likelihoods must agree. Without the peer
(`--no-peer`, and `--device cpu` to try the script) only pcflow's column is filled.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import Machine, Run, interleaved
from torch import Tensor

import pcflow as pf

STATES, SYMBOLS, LENGTH, BATCH = 1024, 4096, 64, 256
WIDE, TOKENS, BLOCK = 1024, 32_768, 32


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-peer", action="store_true", help="leave PyJuice out")
    parser.add_argument("--repeats", type=int, default=30, help="timed turns (%(default)s)")
    parser.add_argument("--scale", type=int, default=1, help="divide all sizes, to try the script")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing is measured; see --device")
    torch.manual_seed(0)
    machine = _machine(device, given.repeats)
    print("| workload | ms | peer | its ms | faster by | time over the floor |")
    print("|---|---|---|---|---|---|", flush=True)
    for row in [*_chain(device, given.scale, not given.no_peer), *_soft(device, given.scale)]:
        name, ours, peer, theirs, flops, numbers = row
        runs = [_synced(run, device) for run in (ours, theirs) if run is not None]
        times = interleaved(runs, given.repeats)
        floor = max(flops / machine.flops, numbers / machine.numbers)
        other = (f"{times[1] * 1e3:.3f}", f"{times[1] / times[0]:.2f} x") if theirs else ("", "")
        cells = [name, f"{times[0] * 1e3:.3f}", peer, *other, f"{times[0] / floor:.1f} x"]
        print(f"| {' | '.join(cells)} |", flush=True)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(
        f"\n{card}, torch {torch.__version__}; medians of {given.repeats} interleaved runs. "
        f"GEMM {machine.flops / 1e12:.1f} TFLOP/s, copy {4 * machine.numbers / 1e9:.0f} GB/s."
    )


Row = tuple[str, Run, str, Run | None, float, float]


def _chain(device: torch.device, scale: int, with_peer: bool) -> list[Row]:
    """Scoring, and a training step: expected counts and new parameters."""
    states, symbols, batch = STATES // scale, SYMBOLS // scale, BATCH // scale
    circuit = pf.hmm(LENGTH, states, pf.Categorical(symbols))
    model = pf.compile(circuit, device)
    x = torch.randint(symbols, (batch, LENGTH), device=device)
    theirs: Any = None
    if with_peer:
        theirs = _pyjuice(circuit, states, symbols).to(device)
        agreed = theirs(x).flatten().double().cpu()
        torch.testing.assert_close(
            model.log_prob(x).detach().double().cpu(), agreed, rtol=1e-3, atol=0
        )

    def peer_step() -> None:
        theirs(x)
        theirs.backward(x, flows_memory=0.0)
        theirs.mini_batch_em(step_size=1.0, pseudocount=0.0)

    learner = pf.EM()
    flops = 2.0 * LENGTH * batch * states**2
    numbers = float(LENGTH * batch * states * 4)
    name = f"HMM {LENGTH} x {states} states x {symbols} symbols B={batch}: "
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
            lambda: learner.epoch(model, [x]),
            "PyJuice",
            peer_step if theirs is not None else None,
            3 * flops,
            3 * numbers,
        ),
    ]


def _soft(device: torch.device, scale: int) -> list[Row]:
    """Log Z and posteriors of a language model's potentials over one block."""
    wide, tokens = WIDE // scale, TOKENS // scale
    circuit = pf.hmm(BLOCK, wide, pf.Categorical(tokens))
    table = torch.rand(tokens, wide, device=device)
    rows: list[Row] = []
    for batch in (1, 8):
        soft = torch.randn(batch, BLOCK, tokens, device=device).log_softmax(dim=-1)
        missing = torch.ones(batch, BLOCK, dtype=torch.bool, device=device)
        evidence = pf.Evidence(missing=missing, log_potentials=soft)
        flat = soft.exp().flatten(0, 1)
        out = torch.empty(len(flat), wide, device=device)
        bare = _product(flat, table, out)
        for dtype in (None, torch.bfloat16):
            model = pf.compile(circuit, device, soft_dtype=dtype)
            name = f"HMM {BLOCK} x {wide} states x {tokens:,} tokens B={batch}, all masked: "
            kind = "" if dtype is None else ", bfloat16 table"
            flops, numbers = 2.0 * len(flat) * tokens * wide, float(tokens * wide)
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


def _pyjuice(circuit: pf.Circuit, states: int, symbols: int) -> Any:
    """The same hidden Markov model there."""
    import pyjuice as juice

    values = {p.shape: p.value for p in circuit.parameters}
    nodes = juice.structures.HMM(
        seq_length=LENGTH,
        num_latents=states,
        num_emits=symbols,
        alpha=values[(states, states)].softmax(dim=1),
        beta=values[(symbols, states)].softmax(dim=0).t().contiguous(),
        gamma=values[(1, states)].softmax(dim=1)[0],
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
