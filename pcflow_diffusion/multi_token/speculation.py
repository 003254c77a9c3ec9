"""Draft and verify: several tokens in every call of a causal model, with exactly its law.

What a call of the model says of the token after the last one is drawn from at once; given that
token, the head drafts those behind it from the state that the model was in before. The next call
reads them all.

Legend: B batch, A rows of it that are read, P tokens of the prompt, G generated, m drafted,
n = m + 1, V tokens, W width of the hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow_diffusion.checks import (
    check_count,
    check_generator,
    check_id,
    check_kind,
    check_rate,
    check_rows,
    check_tokens,
)
from pcflow_diffusion.errors import GenerationError, ShapeMismatch, TokenOutOfRange
from pcflow_diffusion.multi_token.acceptance import accept, tempered
from pcflow_diffusion.multi_token.head import MultiTokenHead
from pcflow_diffusion.multi_token.verifier import Reading, Verifier, read


@dataclass(frozen=True, eq=False)
class Speculated:
    """What was written, and how often the model was asked.

    Attributes:
        tokens: prompt and what follows it, [B, P + G]; what is behind a token that ends the text is
            that token again.
        written: how many tokens of every row follow the prompt, with the one that ends it, [B].
        calls: how many calls of the model that took, [B].

    Examples:
        >>> tokens, written, calls = torch.zeros(1, 9).long(), torch.tensor([6]), torch.tensor([2])
        >>> Speculated(tokens, written, calls).per_call
        3.0
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
    *,
    temperature: float = 1.0,
    end_token_id: int | None = None,
) -> Speculated:
    """Continue prompts as the model alone would, in fewer calls.

    Rows go on by as much as was accepted in each. Those that are done are read no more, if the
    verifier can `select` the others.

    Args:
        verifier: the model, whose law the text has.
        head: drafts.
        prompt: tokens, at least one in a row, [B, P].
        gen_length: how many follow, G. Nothing behind these is drafted or read.
        generator: source of randomness; torch's global one by default.
        temperature: what the model says of every token is taken to the power 1 / temperature, and
            so are the draft's conditionals; at zero the text is the model's greedy one.
        end_token_id: the token that ends a text.

    Returns:
        The texts, how many calls of the model they took, and what these wrote.

    Raises:
        GenerationError: if there is no prompt, or the head has but one token.
        SettingError: if `gen_length` is below 1, or `temperature` negative or not finite.
        ShapeMismatch: if model and head are about other tokens, or hidden states.
        TokenOutOfRange: if `end_token_id` is none of the tokens.

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
    size = head.unembedding.out_features
    check_tokens("prompt", prompt, size)
    check_count("gen_length", gen_length)
    check_generator(generator, prompt.device)
    check_rate("temperature", temperature)
    end = None if end_token_id is None else check_id("end_token_id", end_token_id)
    if end is not None and not 0 <= end < size:
        raise TokenOutOfRange("end_token_id", end, size)
    if prompt.shape[1] == 0:
        raise GenerationError("a prompt needs at least one token")
    if head.length == 1:
        raise GenerationError("a head over one token has none to draft: length must be at least 2")
    loop = _Loop(verifier, head, generator, temperature, prompt.shape[1] + gen_length, end)
    text = found = loop.begin(prompt)
    while bool(loop.active(text).any()):
        text = loop.go_on(loop.rest(text))
        found = found.renewed(text)
    return Speculated(loop.filled(found), found.lengths - prompt.shape[1], found.calls)


@dataclass(frozen=True, eq=False)
class _Text:
    """Rows of different lengths, left-aligned: what is behind a row's end no token of it sees.

    Attributes:
        row: which rows of the batch these are, [A].
        tokens: [A, P + 1 + G + n], with room for what is drafted and not kept.
        lengths: how many of them stand, [A]; the model has read all but the last one.
        hidden: the model's state then, [A, W].
        calls: how many there were for each, [A].
        ended: whether the last of them ends the text, [A].
    """

    row: Tensor
    tokens: Tensor
    lengths: Tensor
    hidden: Tensor
    calls: Tensor
    ended: Tensor

    def some(self, rows: Tensor) -> _Text:
        """Some rows, by their places."""
        return _Text(**{name: held[rows] for name, held in vars(self).items()})

    def renewed(self, later: _Text) -> _Text:
        """The same with what became of some of its rows."""
        now = vars(later)
        held = {n: of.index_copy(0, later.row, now[n]) for n, of in vars(self).items()}
        return _Text(**held)


@dataclass(frozen=True)
class _Loop:
    """How texts go on until they are done.

    Attributes:
        goal: the length at which a row is done.
        end: the token that ends a text, if there is one.
    """

    verifier: Verifier
    head: MultiTokenHead
    generator: torch.Generator | None
    temperature: float
    goal: int
    end: int | None

    def begin(self, prompt: Tensor) -> _Text:
        """The prompts, and the first token after each."""
        hidden, log_p = (found[:, -1] for found in read(self.verifier, prompt))
        said, known = log_p.shape[-1], self.head.unembedding.out_features
        if said != known:
            raise ShapeMismatch(f"the verifier is about {said} tokens, the head about {known}")
        law = tempered(log_p, self.temperature).exp()
        first = torch.multinomial(law, 1, generator=self.generator).squeeze(-1)  # [B]
        room = self.goal - prompt.shape[1] + self.head.length
        tokens = pad(torch.cat([prompt, first.unsqueeze(-1)], dim=1), (0, room))
        lengths = torch.full_like(first, prompt.shape[1] + 1)
        row = torch.arange(len(prompt), device=prompt.device)
        return _Text(row, tokens, lengths, hidden, torch.ones_like(row), first == self._end)

    @property
    def _end(self) -> int:
        """The token that ends a text; without one a number that no token has."""
        return -1 if self.end is None else self.end

    def active(self, text: _Text) -> Tensor:
        """Which rows go on, [A]."""
        return (text.lengths < self.goal) & ~text.ended

    def rest(self, text: _Text) -> _Text:
        """The rows that go on, if the model can be asked about these alone."""
        active, select = self.active(text), getattr(self.verifier, "select", None)
        if select is None or bool(active.all()):
            return text
        rows = active.nonzero().squeeze(-1)
        select(rows)
        return text.some(rows)

    def go_on(self, text: _Text) -> _Text:
        """Draft, let the model read it, and keep what stands and one token more."""
        rows, active = torch.arange(len(text.tokens), device=text.tokens.device), self.active(text)
        last = text.tokens[rows, text.lengths - 1].unsqueeze(-1)  # [A, 1]
        draft = self.head.draft(text.hidden, last, self.generator, self.temperature)
        tokens = _written(text.tokens, text.lengths, draft.tokens, active)
        hidden, log_p = self._read(replace(text, tokens=tokens), draft.tokens.shape[1])
        log_p = tempered(log_p, self.temperature)
        how = draft.log_q, draft.next_log_q, log_p, self.generator
        stands, token = accept(draft.tokens, *how)
        tokens = _written(tokens, text.lengths + stands, token.unsqueeze(-1), active)
        lengths = torch.where(active, text.lengths + stands + 1, text.lengths)
        lengths, ended = self._cut(tokens, text.lengths, lengths)
        hidden = torch.where(active.unsqueeze(-1), hidden[rows, stands], text.hidden)
        calls = text.calls + active.long()
        return _Text(text.row, tokens, lengths, hidden, calls, text.ended | ended)

    def _read(self, text: _Text, ahead: int) -> Reading:
        """What the model makes of the last token of every row and those drafted behind it.

        Nothing is read from which no token of a text follows; rows that are done, and places behind
        the goal, get what does not matter.
        """
        going = text.lengths[self.active(text)]
        kept = int(going.min()) - 1
        end = min(int(going.max()) + ahead, self.goal - 1)
        found = read(self.verifier, text.tokens[:, :end], kept)
        steps = torch.arange(-1, ahead, device=text.tokens.device)
        place = (text.lengths.unsqueeze(-1) + steps).clamp(kept, end - 1) - kept  # [A, m + 1]
        row = torch.arange(len(place), device=place.device).unsqueeze(-1)
        return Reading(found.hidden[row, place], found.log_p[row, place])

    def _cut(self, tokens: Tensor, before: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Lengths [A] of rows that had others before, cut where they end; and whether they do."""
        lengths = lengths.clamp(max=self.goal)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        new = (place >= before.unsqueeze(-1)) & (place < lengths.unsqueeze(-1))
        ends = new & (tokens == self._end)
        ended = ends.any(dim=-1)
        return torch.where(ended, ends.long().argmax(dim=-1) + 1, lengths), ended

    def filled(self, text: _Text) -> Tensor:
        """Tokens up to the goal; behind the end of a row there is the one that ends it."""
        place = torch.arange(self.goal, device=text.tokens.device)
        behind = place >= text.lengths.unsqueeze(-1)
        return text.tokens[:, : self.goal].masked_fill(behind, self._end)


def _written(into: Tensor, start: Tensor, tokens: Tensor, where: Tensor) -> Tensor:
    """With tokens [A, k] from places [A] on in some rows."""
    place = start.unsqueeze(-1) + torch.arange(tokens.shape[1], device=start.device)
    return into.scatter(1, place, tokens.where(where.unsqueeze(-1), into.gather(1, place)))
