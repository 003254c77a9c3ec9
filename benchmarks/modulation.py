"""A circuit that the backbone steers, against the same circuit without (CoDD, Appendix E).

    python benchmarks/modulation.py

From one hidden Markov model of text: the static product, potentials on the states (E.1), gates
over several transitions or a transition moved at low rank (both E.2), all trained on the same
blocks against the same frozen denoiser, with the circuit, for the same number of passes (Eq. 7,
Adam). Then the log-linear coupling, as it is fitted to the text-trained circuit, with its circuit
trained on, and with E.1 on top. Every method has the same two step sizes for its circuit, of which
the better is taken, by blocks that the table is not about. Prints Markdown: nats per masked token
on held-out blocks, with the same masks for all.
"""

from __future__ import annotations

import time

import torch
from conditional import adam
from toy import arguments, size

import pcflow as pf
from pcflow_diffusion import (
    Blocks,
    CircuitHead,
    Modulation,
    TransitionModulation,
    fit_conditional,
    fit_modulation,
)
from pcflow_diffusion.evaluate import gap_table, markdown
from pcflow_diffusion.evaluate.setting import fit_circuit, prepare
from pcflow_diffusion.models import BLOCK

RATIOS = [0.5, 0.7, 0.85, 1.0]
STEPS = (0.03, 0.1)  # Adam's, of the circuit


def main() -> None:
    """Train all and print."""
    parser = arguments(__doc__)
    parser.add_argument("--states", type=int, default=size(128, 4), help="of the HMM (%(default)s)")
    parser.add_argument("--gates", type=int, default=size(4, 2), help="of E.2 (%(default)s)")
    parser.add_argument("--rank", type=int, default=size(4, 1), help="of E.2 (%(default)s)")
    parser.add_argument(
        "--rows", type=int, default=size(2048, 32), help="training blocks (%(default)s)"
    )
    parser.add_argument(
        "--epochs", type=int, default=size(6, 1), help="passes over them (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    material = prepare(None, train=False, minutes=0.0, seed=given.seed)
    circuit = fit_circuit(material, given.states, rows=size(8_000, 100))
    generator = torch.Generator().manual_seed(given.seed)
    seen = material.examples(material.some(given.rows, generator), generator)
    chosen_by = material.examples(material.calibration, generator)

    mask = material.tokenizer.mask_token_id
    static = CircuitHead(circuit, mask, "product")
    print(f"HMM with {given.states} states, {given.rows} blocks of {BLOCK} tokens.\n")
    heads = {"product, circuit of the text": static}
    for kind in ("static", "E.1", "E.2, gates", "E.2, low rank"):
        ways = given.rank if kind == "E.2, low rank" else given.gates
        heads[f"product, {kind}"] = best(static, kind, ways, seen, chosen_by, given.epochs)
    fitted = CircuitHead(circuit, mask, "product")
    fitted.fit_coupling(chosen_by.logits, chosen_by.x, chosen_by.x0)
    heads["log-linear, circuit of the text"] = fitted
    for kind in ("static", "E.1"):
        found = best(fitted, kind, given.gates, seen, chosen_by, given.epochs)
        found.fit_coupling(chosen_by.logits, chosen_by.x, chosen_by.x0)
        heads[f"log-linear, {kind}"] = found
    masks = torch.Generator().manual_seed(given.seed)
    judged = material.judged[: size(None, 2)]
    table = gap_table(
        material.denoiser, circuit, heads, judged, RATIOS, generator=masks, progress=False
    )
    print(f"\n{markdown(table, RATIOS)}")


def best(
    start: CircuitHead, kind: str, ways: int, seen: Blocks, chosen_by: Blocks, epochs: int
) -> CircuitHead:
    """The head trained with each step size, of which the better one."""
    found = {}
    for step in STEPS:
        began = time.perf_counter()
        head = train(start, kind, ways, seen, step, epochs)
        with torch.no_grad():
            log_q = head.log_prob(chosen_by.logits, chosen_by.x, chosen_by.x0).sum()
        found[step] = float(log_q), head
        spent = time.perf_counter() - began
        print(
            f"{kind}, step {step}: {float(log_q) / len(chosen_by):.2f} nats a block, {spent:.0f} s"
        )
    return max(found.values(), key=lambda pair: pair[0])[1]


def train(
    start: CircuitHead, kind: str, ways: int, seen: Blocks, step: float, epochs: int
) -> CircuitHead:
    """A copy of the head, modulated or not, after some passes; so many gates, or of such rank."""
    generator, circuit = torch.Generator().manual_seed(0), start.model.circuit
    mask, tokens = start.mask_token_id, start.vocabulary_size
    if kind == "static":
        head = CircuitHead(pf.compile(circuit), mask, start.coupling)
        fit_conditional(head, seen, adam(step), epochs=epochs, progress=False, generator=generator)
        return head
    root = circuit.root
    assert isinstance(root, pf.SumLayer)
    states = root.weight.shape[1]
    modulation: Modulation | TransitionModulation
    if kind == "E.1":
        circuit, modulation = pf.expose_latents(circuit), Modulation(tokens, states)
    elif kind == "E.2, gates":
        circuit, modulation = pf.add_gates(circuit, ways, 0.3, generator), Modulation(tokens, ways)
    else:
        circuit, modulation = pf.untie(circuit), TransitionModulation(tokens, states, ways)
    head = CircuitHead(pf.compile(circuit), mask, start.coupling, modulation=modulation)
    fit_modulation(
        head, seen, epochs=epochs, circuit_learning_rate=step, progress=False, generator=generator
    )
    return head


if __name__ == "__main__":
    main()
