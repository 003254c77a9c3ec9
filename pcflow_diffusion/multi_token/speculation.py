"""Draft and verify: several tokens in every call of a causal model, with exactly its law.

What a call of the model says of the token after the last one is drawn from at once; given that
token, the head drafts those behind it from the state that the model was in before. The next call
reads them all.

Legend: B batch, P tokens of the prompt, G generated, m drafted, n = m + 1, V tokens, W width of the
hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow_diffusion.checks import (
    check_count,
    check_generator,
    check_kind,
    check_rows,
    check_tokens,
)
from pcflow_diffusion.errors import GenerationError, ShapeMismatch
from pcflow_diffusion.multi_token.acceptance import accept
from pcflow_diffusion.multi_token.head import MultiTokenHead
from pcflow_diffusion.multi_token.verifier import Reading, Verifier, read


@dataclass(frozen=True, eq=False)
class Speculated:
    """What was written, and how often the model was asked.

    Attributes:
        tokens: prompt and what follows it, [B, P + G].
        written: how many tokens every row had when it was done, the surplus too, [B].
        calls: how many calls of the model that took, [B].
    """

    tokens: Tensor
    written: Tensor
    calls: Tensor

    @property
    def per_call(self) -> float:
        """Tokens per call of the model; without drafts it is one."""
        return float(self.written.sum() / self.calls.sum())


@torch.no_grad()
def speculate(
    verifier: Verifier,
    head: MultiTokenHead,
    prompt: Tensor,
    gen_length: int,
    generator: torch.Generator | None = None,
) -> Speculated:
    """Continue prompts as the model alone would, in fewer calls.

    Rows go on by as much as was accepted in each; those that are done wait for the others.

    Args:
        verifier: the model, whose law the text has.
        head: drafts.
        prompt: tokens, at least one in a row, [B, P].
        gen_length: how many follow, G. The model reads up to n - 2 drafted tokens behind these,
            for which it must have room.
        generator: source of randomness; torch's global one by default.

    Returns:
        The texts, how many calls of the model they took, and what these wrote.

    Raises:
        GenerationError: if there is no prompt, or the head has but one token.
        SettingError: if `gen_length` is below 1.
        ShapeMismatch: if model and head are about other tokens, or hidden states.

    Examples:
        >>> from pcflow_diffusion.models import Judge, TransformerConfig
        >>> from pcflow_diffusion.multi_token import JudgeVerifier
        >>> judge = Judge(TransformerConfig(vocabulary_size=7, width=16, depth=1, heads=2)).eval()
        >>> head = MultiTokenHead(judge.head, length=4, states=2, rank=4)
        >>> speculate(JudgeVerifier(judge), head, torch.tensor([[6, 3]]), gen_length=9).tokens.shape
        torch.Size([1, 11])
    """
    check_kind("head", head, MultiTokenHead)
    check_rows("prompt", prompt)
    check_tokens("prompt", prompt, head.unembedding.out_features)
    check_count("gen_length", gen_length)
    check_generator(generator, prompt.device)
    if prompt.shape[1] == 0:
        raise GenerationError("a prompt needs at least one token")
    if head.length == 1:
        raise GenerationError("a head over one token has none to draft: length must be at least 2")
    text = _Text.begin(verifier, head, prompt, gen_length, generator)
    while text.active.any():
        text.go_on(verifier, head, generator)
    total = prompt.shape[1] + gen_length
    return Speculated(text.tokens[:, :total], text.lengths - prompt.shape[1], text.calls)


@dataclass(eq=False)
class _Text:
    """Rows of different lengths, left-aligned: what is behind a row's end no token of it sees.

    Attributes:
        tokens: [B, P + 1 + G + 2 n], with room for drafts of rows that are done.
        lengths: how many of them stand, [B]; the model has read all but the last one.
        hidden: the model's state then, [B, W].
        calls: how many there were for each, [B].
        goal: the length at which a row is done.
    """

    tokens: Tensor
    lengths: Tensor
    hidden: Tensor
    calls: Tensor
    goal: int

    @classmethod
    def begin(
        cls,
        verifier: Verifier,
        head: MultiTokenHead,
        prompt: Tensor,
        gen_length: int,
        generator: torch.Generator | None,
    ) -> _Text:
        """The prompts, and the first token after each."""
        hidden, log_p = (found[:, -1] for found in read(verifier, prompt))
        said, known = log_p.shape[-1], head.unembedding.out_features
        if said != known:
            raise ShapeMismatch(f"the verifier is about {said} tokens, the head about {known}")
        first = torch.multinomial(log_p.exp(), 1, generator=generator)  # [B, 1]
        tokens = pad(torch.cat([prompt, first], dim=1), (0, gen_length + 2 * head.length))
        lengths = torch.full_like(first.squeeze(1), prompt.shape[1] + 1)
        goal = prompt.shape[1] + gen_length
        return cls(tokens, lengths, hidden, torch.ones_like(lengths), goal)

    @property
    def active(self) -> Tensor:
        """Which rows go on, [B]."""
        return self.lengths < self.goal

    def go_on(
        self, verifier: Verifier, head: MultiTokenHead, generator: torch.Generator | None
    ) -> None:
        """Draft, let the model read it, and keep what stands and one token more."""
        rows, active = torch.arange(len(self.tokens), device=self.tokens.device), self.active
        last = self.tokens[rows, self.lengths - 1].unsqueeze(-1)  # [B, 1]
        draft = head.draft(self.hidden, last, generator)
        self._write(self.lengths, draft.tokens)
        hidden, log_p = self._read(verifier, draft.tokens.shape[1])
        stands, token = accept(draft.tokens, draft.log_q, draft.next_log_q, log_p, generator)
        self._write(self.lengths + stands, token.unsqueeze(-1))
        self.hidden = torch.where(active.unsqueeze(-1), hidden[rows, stands], self.hidden)
        self.lengths = torch.where(active, self.lengths + stands + 1, self.lengths)
        self.calls = self.calls + active.long()

    def _read(self, verifier: Verifier, ahead: int) -> Reading:
        """What the model makes of the last token of every row and those drafted behind it.

        Rows that are done are not read further than the others, and get what does not matter.
        """
        kept = int(self.lengths.min()) - 1
        end = int(self.lengths[self.active].max()) + ahead
        found = read(verifier, self.tokens[:, :end], kept)
        steps = torch.arange(-1, ahead, device=self.tokens.device)
        place = (self.lengths.unsqueeze(-1) + steps).clamp(max=end - 1) - kept  # [B, m + 1]
        row = torch.arange(len(place), device=place.device).unsqueeze(-1)
        return Reading(found.hidden[row, place], found.log_p[row, place])

    def _write(self, start: Tensor, tokens: Tensor) -> None:
        """Put tokens [B, k] from places [B] on into the rows that go on."""
        place = start.unsqueeze(-1) + torch.arange(tokens.shape[1], device=start.device)
        tokens = tokens.where(self.active.unsqueeze(-1), self.tokens.gather(1, place))
        self.tokens = self.tokens.scatter(1, place, tokens)
