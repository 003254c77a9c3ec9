"""Text under a rule, as others write it: from independent marginals, step by step.

`BestString` is the dynamic program of DINGO (arXiv 2505.23061): of all strings that obey, the one
whose tokens are the most probable, each by itself. `Frontier` masks one token after another, from
the left, by what the automaton allows next, as grammars are masked in servers of causal models.
Both know how much text is left, so that neither runs into a dead end.

Legend: N rows, P tokens of a prompt, T tokens written, L of a block, V tokens, C classes, S states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow import Automaton
from pcflow_diffusion.evaluate.few_step import Reader
from pcflow_diffusion.head import Marginals, best, temper
from pcflow_diffusion.models import Backbone


@dataclass(frozen=True, eq=False)
class Task:
    """Texts to write after prompts, the rule for them, and who tells whether they are good.

    Attributes:
        backbone: maps tokens [N, n] to logits [N, n, V].
        prompts: [N, P].
        rule: for the T tokens that follow.
        is_valid: which texts [N, T] obey, bool [N]; told from what they say, not by the automaton.
        judge: tells how probable texts are.
        gen_length: how many tokens to write, T.
        block_length: L, of which T is a multiple.
        mask_token_id: the backbone's mask.
        show: what the backbone sees of later blocks, as in `generate`.
        context: how many tokens before a block it sees; None for all.
        share_right: of every text [N, T] after a prompt [N, P], which share of what it says is
            right, [N]; None where nothing is right or wrong.
    """

    backbone: Backbone
    prompts: Tensor
    rule: Automaton
    is_valid: Callable[[Tensor], Tensor]
    judge: Reader
    gen_length: int
    block_length: int
    mask_token_id: int
    show: Literal["all", "blocks"] = "all"
    context: int | None = None
    share_right: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def prompt_length(self) -> int:
        """P."""
        return self.prompts.shape[1]

    def of(self, rows: Tensor) -> Task:
        """The same of some prompts."""
        return replace(self, prompts=self.prompts[rows])

    def blocks(self) -> list[slice]:
        """Where in a row they lie."""
        first = self.prompt_length
        starts = range(first, first + self.gen_length, self.block_length)
        return [slice(start, start + self.block_length) for start in starts]

    def said(self, rows: Tensor, block: slice) -> Marginals:
        """What the backbone says of a block of rows [N, P + T]."""
        low = 0 if self.context is None else max(0, block.start - self.context)
        high = rows.shape[1] if self.show == "all" else block.stop
        logits = self.backbone(rows[:, low:high])[:, block.start - low : block.stop - low]
        return Marginals.of(logits, rows[:, block], self.mask_token_id)


@dataclass(frozen=True, eq=False)
class Block:
    """What is known of a block in a step.

    Attributes:
        log_m: log-probability of every token, [N, L, V]; of what is written it is certain.
        masked: what is not written, bool [N, L].
        state: of the automaton before the block, [N].
        live: in which states it may be before and after every token, bool [L + 1, S].
        rule: the automaton.
    """

    log_m: Tensor
    masked: Tensor
    state: Tensor
    live: Tensor
    rule: Automaton


class Choice(Protocol):
    """Decides tokens in one step."""

    def __call__(self, block: Block, count: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [N, L], and which of them to commit: `count` [N] of those that are masked."""
        ...


def write(task: Task, choose: Choice, steps: int) -> Tensor:
    """Prompts and what is written after them [N, P + T], in so many steps per block.

    Raises:
        EmptyLanguage: if no text of T tokens obeys.
    """
    P, live = task.prompt_length, task.rule.live(task.gen_length)
    rows = pad(task.prompts, (0, task.gen_length), value=task.mask_token_id)
    for place in task.blocks():
        state = task.rule.run(rows[:, P : place.start])
        here = live[place.start - P : place.stop - P + 1]
        for left in range(steps, 0, -1):
            said = task.said(rows, place)
            block = Block(_certain(said), said.masked, state, here, task.rule)
            count = (said.masked.sum(dim=-1) + left - 1) // left
            tokens, commit = choose(block, count)
            rows[:, place] = torch.where(commit, tokens, rows[:, place])
    return rows


def _certain(said: Marginals) -> Tensor:
    """Log-marginals [N, L, V], visible tokens having all of the mass."""
    known = torch.full_like(said.log_m, -torch.inf).scatter(-1, said.tokens.unsqueeze(-1), 0.0)
    return torch.where(said.masked.unsqueeze(-1), said.log_m, known)


def best_string(block: Block) -> Tensor:
    """The string [N, L] whose tokens are the most probable, each by itself, of those that obey."""
    rule, L = block.rule, block.masked.shape[1]
    S, C = rule.next.shape
    peak, token = _best_of_classes(block.log_m, rule.classes, C)  # [N, L, C]
    after = rule.next.flatten() % (S + 1)  # [S * C]; the last state is nowhere
    score = torch.full((len(peak), S), -torch.inf, dtype=peak.dtype)
    score.scatter_(1, block.state.unsqueeze(1), 0.0)
    way = torch.empty(L, len(peak), S, dtype=torch.long)  # which class of which state led there
    for t in range(L):
        ways = (score.unsqueeze(-1) + peak[:, t].unsqueeze(1)).flatten(1)  # [N, S * C]
        score, way[t] = (found[:, :S] for found in _best_ways(ways, after, S + 1))
        score = score.masked_fill(~block.live[t + 1], -torch.inf)
    tokens, state = torch.empty_like(block.masked, dtype=torch.long), score.argmax(dim=-1)
    for t in reversed(range(L)):
        last = way[t].gather(1, state.unsqueeze(1))
        tokens[:, t], state = token[:, t].gather(1, last % C).squeeze(1), (last // C).squeeze(1)
    return tokens


def _best_of_classes(log_m: Tensor, classes: Tensor, C: int) -> tuple[Tensor, Tensor]:
    """The largest number of every class, and its token, [N, L, C] each."""
    members = [(classes == label).nonzero().squeeze(1) for label in range(C)]
    found = [log_m[..., some].max(dim=-1) for some in members]
    tokens = [some[best.indices] for some, best in zip(members, found, strict=True)]
    return torch.stack([best.values for best in found], -1), torch.stack(tokens, -1)


def _best_ways(ways: Tensor, after: Tensor, S: int) -> tuple[Tensor, Tensor]:
    """The largest number of the ways [N, W] that lead to every state, and which it is, [N, S]."""
    where = after.expand_as(ways)
    score = ways.new_full((len(ways), S), -torch.inf).scatter_reduce(1, where, ways, "amax")
    number = torch.arange(ways.shape[1]).where(ways == score.gather(1, where), -1)
    nothing = number.new_full((len(ways), S), -1)
    return score, nothing.scatter_reduce(1, where, number, "amax")


@dataclass(frozen=True)
class BestString:
    """Of the best string that obeys, the tokens that are the most probable come first."""

    def __call__(self, block: Block, count: Tensor) -> tuple[Tensor, Tensor]:
        """See `Choice`."""
        tokens = best_string(block)
        score = block.log_m.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return tokens, best(score, block.masked, count)


@dataclass(frozen=True)
class Frontier:
    """Token after token from the left, each from its own marginal as far as the rule allows it.

    Attributes:
        temperature: zero takes the most probable token that is allowed.
        generator: source of randomness; torch's global one by default.
    """

    temperature: float = 1.0
    generator: torch.Generator | None = None

    def __call__(self, block: Block, count: Tensor) -> tuple[Tensor, Tensor]:
        """See `Choice`."""
        rule, state = block.rule, block.state
        tokens = torch.empty_like(block.masked, dtype=torch.long)
        for t, live in enumerate(block.live[1:]):
            after = rule.next[state][:, rule.classes]  # [N, V]
            allowed = (after >= 0) & live[after]
            share = temper(block.log_m[:, t].masked_fill(~allowed, -torch.inf), self.temperature)
            token = share.softmax(dim=-1).multinomial(1, generator=self.generator)
            tokens[:, t], state = token.squeeze(1), after.gather(1, token).squeeze(1)
        return tokens, block.masked & (block.masked.cumsum(dim=-1) <= count.unsqueeze(-1))
