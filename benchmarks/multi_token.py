"""Multi-token heads that draft for a causal model of characters, against decoding it plainly.

    python benchmarks/multi_token.py --judge judge.safetensors

A judge of the English text is trained, or read if the file is there. For it, heads over the same
number of tokens are trained on the same places of the same text: independent tokens, a mixture, a
hidden Markov chain, a binary tree. All then continue the same held-out prompts, row by row and side
by side; so does the judge alone, in turns with them. It computes all anew in every call, with or
without drafts. Prints Markdown: characters per call of the judge, and per second of processor time.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from toy import arguments, size

from pcflow_diffusion.models import (
    CharacterTokenizer,
    Judge,
    TransformerConfig,
    load_judge,
    load_text,
    save_judge,
    train_judge,
    windows,
)
from pcflow_diffusion.multi_token import (
    JudgeVerifier,
    Kind,
    MultiTokenHead,
    Verifier,
    fit_multi_token,
    speculate,
)

KINDS: tuple[Kind, ...] = ("ff", "cp", "hmm", "tree")
PROMPT = 32  # characters
PLAIN = "the judge alone"


@dataclass
class Spent:
    """What some decoder wrote, and what it took.

    Attributes:
        written: characters, those that were cut off at the end, too.
        calls: of the judge, row by row.
        kept: characters that were asked for.
        seconds: of processor time.
    """

    written: int = 0
    calls: int = 0
    kept: int = 0
    seconds: float = 0.0


def main() -> None:
    """Train all, decode by turns and print."""
    parser = arguments(__doc__)
    parser.add_argument("--judge", type=Path, help="a file to read or write")
    parser.add_argument("--minutes", type=float, default=25.0, help="of its training (%(default)s)")
    parser.add_argument("--length", type=int, default=6, help="tokens ahead (%(default)s)")
    parser.add_argument("--states", type=int, default=size(16, 2), help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=size(300, 2), help="of a head (%(default)s)")
    parser.add_argument("--generated", type=int, default=size(64, 6), help="(%(default)s)")
    parser.add_argument("--turns", type=int, default=size(4, 1), help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    text = load_text()
    judge, tokenizer = judge_of(text.train, text.held_out, given.judge, given.minutes)
    verifier = JudgeVerifier(judge)
    train = windows(tokenizer.encode(text.train), 96, 32)
    held_out = windows(tokenizer.encode(text.held_out), 96, 96)
    print(f"\nJudge: {float(judge.nats(held_out[:64], 64).mean()):.3f} nats a character.\n")

    heads = {}
    for kind in KINDS:
        heads[kind], told = head_of(kind, judge, verifier, train, given)
        print(f"{kind}: {told}", flush=True)
    decoders = {PLAIN: plain} | {kind: drafted(head) for kind, head in heads.items()}
    prompts = held_out[torch.linspace(0, len(held_out) - 1, 32).long(), :PROMPT]
    print("\n| | rows | characters per call of the judge | per second | times the judge alone |")
    print("|---|---|---|---|---|")
    for rows in (1, 32):
        report(rows, by_turns(decoders, verifier, prompts, rows, given))


def judge_of(
    train: str, held_out: str, path: Path | None, minutes: float
) -> tuple[Judge, CharacterTokenizer]:
    """The judge of a file, or one that is trained, and its tokenizer."""
    if path is not None and path.exists():
        judge, tokenizer = load_judge(path)
        assert isinstance(tokenizer, CharacterTokenizer)
        return judge.requires_grad_(False), tokenizer
    tokenizer = CharacterTokenizer.fit(train)
    wide = size({"width": 128, "depth": 3}, {"width": 16, "depth": 1})
    judge = train_judge(
        tokenizer.encode(train[: size(None, 4_000)]),
        TransformerConfig(tokenizer.vocabulary_size, **wide),
        held_out=tokenizer.encode(held_out[: size(None, 1_000)]),
        **size({"minutes": minutes}, {"steps": 2}),
        progress=False,
    )
    if path is not None:
        save_judge(judge, path, tokenizer)
    return judge.requires_grad_(False), tokenizer


def head_of(
    kind: Kind, judge: Judge, verifier: Verifier, train: Tensor, given: Namespace
) -> tuple[MultiTokenHead, str]:
    """A trained head, and what that took."""
    torch.manual_seed(given.seed)
    head = MultiTokenHead(judge.head, given.length, kind, given.states)
    begun = time.process_time()
    losses = fit_multi_token(
        head,
        verifier,
        train,
        steps=given.steps,
        batch_size=4,
        learning_rate=6e-3,
        progress=False,
        generator=torch.Generator().manual_seed(given.seed),
    )
    last = losses[-len(losses) // 10 :]
    count = sum(p.numel() for p in head.parameters())
    seconds = time.process_time() - begun
    return head, f"loss {sum(last) / len(last):.3f}, {count:,} parameters, {seconds:.0f} s"


Decoder = Callable[[Verifier, Tensor, int, torch.Generator], tuple[int, int]]


@torch.no_grad()
def plain(
    verifier: Verifier, prompt: Tensor, count: int, generator: torch.Generator
) -> tuple[int, int]:
    """One token in every call."""
    tokens = prompt
    for _ in range(count):
        log_p = verifier(tokens, tokens.shape[1] - 1).log_p[:, -1]
        tokens = torch.cat([tokens, torch.multinomial(log_p.exp(), 1, generator=generator)], 1)
    return count * len(prompt), count * len(prompt)


def drafted(head: MultiTokenHead) -> Decoder:
    """Several tokens in every call."""

    def decode(
        verifier: Verifier, prompt: Tensor, count: int, generator: torch.Generator
    ) -> tuple[int, int]:
        found = speculate(verifier, head, prompt, count, generator)
        return int(found.written.sum()), int(found.calls.sum())

    return decode


def by_turns(
    decoders: dict[str, Decoder],
    verifier: Verifier,
    prompts: Tensor,
    rows: int,
    given: Namespace,
) -> dict[str, Spent]:
    """What decoders make of so many prompts at a time, one decoder after another."""
    found = {name: Spent() for name in decoders}
    for turn in range(given.turns if rows == 1 else 1 + given.turns // 8):
        some = prompts[turn : turn + 1] if rows == 1 else prompts
        for name, decode in decoders.items():
            generator, begun = torch.Generator().manual_seed(turn), time.process_time()
            written, calls = decode(verifier, some, given.generated, generator)
            found[name].seconds += time.process_time() - begun
            found[name].written += written
            found[name].calls += calls
            found[name].kept += len(some) * given.generated
    return found


def report(rows: int, found: dict[str, Spent]) -> None:
    """Lines of the table."""
    alone = found[PLAIN].seconds
    for name, spent in found.items():
        per_call, rate = spent.written / spent.calls, spent.kept / spent.seconds
        print(f"| {name} | {rows} | {per_call:.2f} | {rate:.0f} | {alone / spent.seconds:.2f} |")


if __name__ == "__main__":
    main()
