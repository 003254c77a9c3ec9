"""Circuits against a backbone: Anemone against Adam on Eq. 7, and joint training against frozen.

    python benchmarks/conditional.py

Both learners start from the same hidden Markov model of text, see the same blocks and are run with
several step sizes, which all fall linearly to zero. Adam makes `--epochs` passes; the best of
its step sizes on held-out blocks is the mark. Anemone then has a half and a third of these passes.
Runs are timed by turns, without validation in between. Prints Markdown.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from toy import arguments, size

import pcflow as pf
from pcflow_diffusion import (
    Blocks,
    CircuitHead,
    DenoiserConfig,
    coupled_nats_over_time,
    fit_conditional,
    fit_jointly,
)
from pcflow_diffusion.evaluate.setting import fit_circuit, prepare
from pcflow_diffusion.models import BLOCK, train_denoiser

STEPS = {"Adam": (0.03, 0.1, 0.3, 1.0), "Anemone": (0.25, 0.5, 1.0)}


def adam(step: float) -> pf.Gradient:
    """Adam whose step decays."""
    return pf.Gradient(lambda parameters: torch.optim.Adam(parameters, lr=step), decay=True)


def anemone(step: float) -> pf.Anemone:
    """Anemone whose step decays."""
    return pf.Anemone(step, momentum=0.3, decay=True)


LEARNERS: dict[str, Callable[[float], pf.Learner]] = {"Adam": adam, "Anemone": anemone}


def main() -> None:
    """Train all and print."""
    parser = arguments(__doc__)
    parser.add_argument("--states", type=int, default=size(128, 4), help="of the HMM (%(default)s)")
    parser.add_argument(
        "--rows", type=int, default=size(4096, 32), help="training blocks (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=size(6, 3), help="of Adam (%(default)s)")
    parser.add_argument("--turns", type=int, default=size(3, 1), help="of timing (%(default)s)")
    parser.add_argument("--joint-steps", type=int, default=size(200, 2), help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    material = prepare(None, train=False, minutes=0.0, seed=given.seed)
    circuit = fit_circuit(material, given.states, rows=size(8_000, 100))
    print(f"HMM with {given.states} states, {given.rows} blocks of {BLOCK} tokens.\n")
    print("| coupling | learner | passes | step | nats per masked token | seconds | of Adam's |")
    print("|---|---|---|---|---|---|---|", flush=True)
    generator = torch.Generator().manual_seed(given.seed)
    seen = material.examples(material.some(given.rows, generator), generator)
    held_out = torch.cat([material.judged, material.calibration])[: size(None, 8)]
    judged = material.examples(held_out, generator)
    for coupling in ("product", "projection"):
        compare(circuit, coupling, seen, judged, given.epochs, given.turns)
    print("\n| training | steps | held-out objective, nats per masked token |\n|---|---|---|")
    compare_joint(circuit, material.train, held_out, given.joint_steps)


def compare(
    circuit: pf.CompiledCircuit,
    coupling: str,
    seen: Blocks,
    judged: Blocks,
    epochs: int,
    turns: int,
) -> None:
    """Both learners on one coupling: choose step sizes, then time by turns."""
    mask = int(seen.logits.shape[-1])
    print(f"| {coupling} | none | 0 | | {nats(CircuitHead(circuit, mask, coupling), judged):.4f} |")
    runs: dict[tuple[str, int], tuple[float, float]] = {}
    budgets = [("Adam", epochs), ("Anemone", epochs // 2), ("Anemone", epochs // 3)]
    for learner, passes in budgets:
        found = {
            step: nats(train(circuit, coupling, mask, seen, learner, step, passes)[0], judged)
            for step in STEPS[learner]
        }
        best = min(found, key=lambda step: found[step])
        runs[learner, passes] = best, found[best]
    seconds: dict[tuple[str, int], list[float]] = {run: [] for run in runs}
    for _ in range(turns):
        for (learner, passes), (step, _) in runs.items():
            spent = train(circuit, coupling, mask, seen, learner, step, passes)[1]
            seconds[learner, passes].append(spent)
    slowest = median(seconds["Adam", epochs])
    for (learner, passes), (step, reached) in runs.items():
        spent = median(seconds[learner, passes])
        print(
            f"| {coupling} | {learner} | {passes} | {step} | {reached:.4f} | {spent:.1f} "
            f"| {spent / slowest:.2f} |",
            flush=True,
        )


def train(
    circuit: pf.CompiledCircuit,
    coupling: str,
    mask: int,
    seen: Blocks,
    learner: str,
    step: float,
    passes: int,
) -> tuple[CircuitHead, float]:
    """A copy of the circuit after some passes, and the seconds that they took."""
    head = CircuitHead(copy.deepcopy(circuit), mask, coupling)
    generator, teacher = torch.Generator().manual_seed(0), LEARNERS[learner](step)
    began = time.perf_counter()
    fit_conditional(head, seen, teacher, epochs=passes, progress=False, generator=generator)
    return head, time.perf_counter() - began


@torch.no_grad()
def nats(head: CircuitHead, judged: Blocks) -> float:
    """Nats per masked token of the coupled joint."""
    joint = head.log_prob(judged.logits, judged.x, judged.x0).double().sum()
    return -float(joint) / int((judged.x == head.mask_token_id).sum())


def compare_joint(circuit: pf.CompiledCircuit, rows: Tensor, judged: Tensor, steps: int) -> None:
    """Circuit alone, and circuit with backbone, from the same small denoiser."""
    vocabulary_size = circuit.num_categories[0]
    assert vocabulary_size is not None
    config = DenoiserConfig(vocabulary_size, width=96, depth=2, heads=2)
    denoiser = train_denoiser(rows, config, steps=steps, progress=False)
    for name, rate in (("start", None), ("circuit alone", 0.0), ("jointly", 1e-3)):
        head = CircuitHead(copy.deepcopy(circuit), vocabulary_size, "product")
        backbone, generator = copy.deepcopy(denoiser), torch.Generator().manual_seed(0)
        if rate is not None:
            fit_jointly(
                head, backbone, rows, steps=steps, learning_rate=rate, progress=False,
                generator=generator,
            )  # fmt: skip
        masks = torch.Generator().manual_seed(1)
        found = coupled_nats_over_time(head, backbone, judged, generator=masks)
        print(f"| {name} | {0 if rate is None else steps} | {found:.4f} |", flush=True)


if __name__ == "__main__":
    main()
