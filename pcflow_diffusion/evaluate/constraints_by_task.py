"""Text that has to obey: JSON of a schema, and English with rules of many kinds.

    python -m pcflow_diffusion.evaluate constraints [--task records] [--count 100] [--seeds 3]

JSON is of records in which one field is given (`records`): a small denoiser and a circuit learn
them first, and values can be right. English is what the shipped denoiser writes; its rules are
regular expressions, which need `pip install 'pcflow[constraints]'`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.checks import Command, as_count, as_seed
from pcflow_diffusion.evaluate import records
from pcflow_diffusion.evaluate.constraints import markdown, measure, writers
from pcflow_diffusion.evaluate.counting import CountingReader
from pcflow_diffusion.evaluate.few_step_of_text import judge_of
from pcflow_diffusion.evaluate.ruled import Task
from pcflow_diffusion.evaluate.setting import fit_circuit, prepare
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models import CONTEXT, DenoiserConfig, TrainingConfig, train_denoiser
from pcflow_diffusion.models.progress import shown

ROWS = (8_000, 8_000, 100)  # of records: to learn from, for the judge, and to be asked for
STEPS = (1, 2, 4, 8)
HOW = TrainingConfig(
    batch_size=64, whole_window=0.0, short_window=0.0, context=records.PROMPT, block=records.ANSWER
)
"""Prompts are never masked, nor cut off."""


def record_task(count: int, training_steps: int, seed: int) -> tuple[Task, CircuitHead]:
    """Records to write, and a head for them: a denoiser and a circuit that learned others."""
    generator = torch.Generator().manual_seed(seed)
    train, judged, asked = (records.rows(n, generator) for n in ROWS)
    words = records.tokenizer()
    denoiser = train_denoiser(
        train,
        DenoiserConfig(words.vocabulary_size, width=64, depth=2, heads=2),
        steps=training_steps,
        seed=seed,
        training=HOW,
    )
    circuit = _circuit_of(train, words.vocabulary_size, generator)
    task = Task(
        denoiser,
        asked[:count, : records.PROMPT],
        records.rule(),
        records.are_valid,
        CountingReader(judged.flatten(), words.vocabulary_size),
        gen_length=records.ANSWER,
        block_length=records.BLOCK,
        mask_token_id=words.mask_token_id,
        share_right=records.share_right,
    )
    return task, CircuitHead(circuit, words.mask_token_id)


def _circuit_of(rows: Tensor, V: int, generator: torch.Generator) -> pf.CompiledCircuit:
    """A chain over whole rows; at first its states like to stay, so it learns to remember."""
    K, length = 64, rows.shape[1]
    stay = (0.9 * torch.eye(K) + 0.1 / K).expand(length - 1, K, K)
    chain = pf.hmm(length, K, pf.Categorical(V), False, generator, transition=stay)
    circuit = pf.compile(chain)
    pf.fit(circuit, rows, pf.EM(pseudocount=1e-3), epochs=40, progress=shown(), generator=generator)
    return circuit


ENGLISH = {
    "speaks, and closes what it opens": r"[^“”]*(“[^“”]*”[^“”]*)+",
    "ends as a sentence does": r"(?s:.)*[.!?]”?",
    "lacks the letter o": r"[^oO]*",
}
SEEN, WRITTEN = 32, 16  # tokens of a prompt, and of each of two blocks
BLOCKS = {"records": records.BLOCK, "english": WRITTEN}  # tokens, by task


def english_tasks(count: int, states: int, seed: int) -> tuple[dict[str, Task], CircuitHead]:
    """Two short blocks of the shipped text after held-out prompts, by rule, and a head for them."""
    generator = torch.Generator().manual_seed(seed)
    material = prepare(None, train=False, minutes=0, seed=seed)
    words = material.tokenizer
    head = CircuitHead(fit_circuit(material, states), words.mask_token_id, "product")
    fresh = material.examples(material.calibration, generator)
    head.fit_coupling(fresh.logits, fresh.x, fresh.x0)
    judge = judge_of(material, minutes=0, seed=seed)

    def task(pattern: str) -> Task:
        def are_valid(texts: Tensor) -> Tensor:
            return torch.tensor([re.fullmatch(pattern, words.decode(t)) is not None for t in texts])

        return Task(
            material.denoiser,
            material.judged[:count, CONTEXT - SEEN : CONTEXT].long(),
            pf.Automaton.regex(pattern, words.vocabulary),
            are_valid,
            judge,
            gen_length=2 * WRITTEN,
            block_length=WRITTEN,
            mask_token_id=words.mask_token_id,
            show="blocks",
        )

    return {name: task(pattern) for name, pattern in ENGLISH.items()}, head


def show(name: str, task: Task, head: CircuitHead, given: argparse.Namespace) -> None:
    """Measure a task and print its tables."""
    found = measure(task, writers(head), given.steps, range(given.seeds))
    print(f"\n{name}, {len(task.prompts)} texts for each of {given.seeds} seeds", flush=True)
    print(f"\n{markdown(found)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train, write, print the tables."""
    given = _parse(arguments)
    torch.manual_seed(given.seed)
    if "records" in given.task:
        show("Records", *record_task(given.count, given.training_steps, given.seed), given)
    if "english" in given.task:
        tasks, head = english_tasks(given.count, given.states, given.seed)
        for name, task in tasks.items():
            show(f"English that {name}", task, head, given)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Command("pcflow_diffusion.evaluate constraints", __doc__)
    parser.add_argument("--task", nargs="+", choices=BLOCKS, default=list(BLOCKS), help="(both)")
    parser.add_argument(
        "--steps", type=as_count, nargs="+", default=STEPS, help="per block (1 2 4 8)"
    )
    parser.add_argument("--count", type=as_count, default=100, help="texts per seed, up to 100")
    parser.add_argument("--seeds", type=as_count, default=3, help="of the draws (%(default)s)")
    parser.add_argument(
        "--training-steps", type=as_count, default=1200, help="of records' denoiser (%(default)s)"
    )
    parser.add_argument(
        "--states", type=as_count, default=128, help="of English's HMM (%(default)s)"
    )
    parser.add_argument("--seed", type=as_seed, default=0, help="of training and prompts")
    given = parser.parse_args(arguments)
    if given.count > ROWS[-1]:
        parser.error(f"--count must lie in 1 to {ROWS[-1]}")
    most = min(BLOCKS[name] for name in given.task)
    if max(given.steps) > most:
        parser.error(f"--steps must lie in 1 to {most}, the length of a block")
    if "english" in given.task and find_spec("outlines_core") is None:
        parser.error("rules for English need outlines-core: pip install 'pcflow[constraints]'")
    return given
