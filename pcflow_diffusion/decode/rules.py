"""A rule as decoding reads it: where texts have come to under it, and from where they can end.

What is known of a text moves its state, wherever it stands; what is masked may be any token that
may be written.

Legend: B batch, N places, V tokens, C classes, S states.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from pcflow import Automaton
from pcflow_diffusion.errors import GenerationError
from pcflow_diffusion.head import Stretch, narrowed


@dataclass(frozen=True, eq=False)
class Told:
    """What is known of texts, or of some of their places.

    Attributes:
        tokens: [B, N].
        masked: which of them are not known, bool [B, N].
        idle: which of them no rule is about, bool [B, N].
    """

    tokens: Tensor
    masked: Tensor
    idle: Tensor

    def at(self, rows: Tensor | slice, places: slice = slice(None)) -> Told:
        """Some rows and places."""
        return Told(*(part[rows, places] for part in vars(self).values()))


@dataclass(frozen=True, eq=False)
class Rule:
    """An automaton with a class for tokens that it does not know and a state for what is lost.

    Attributes:
        automaton: the rule.
        written: which tokens may be written, bool [V].
    """

    automaton: Automaton
    written: Tensor

    @cached_property
    def drawn(self) -> Automaton:
        """The rule, states and all, as far as it is about tokens that may be drawn.

        Raises:
            GenerationError: if it has states to which others alone lead.
        """
        few = narrowed(self.automaton, len(self.written))
        if not torch.equal(few.next, self.automaton.next[:, : few.next.shape[1]]):
            what = f"only the first {len(self.written)} tokens are drawn here, and in {few} of them"
            raise GenerationError(f"{what} not all states of {self.automaton} can be reached")
        return few

    @cached_property
    def after(self) -> Tensor:
        """The state after every state and class, the last of which are lost, [S+1, C+1]."""
        known = self.automaton.next
        states, classes = known.shape
        after = torch.full((states + 1, classes + 1), states)
        after[:-1, :-1] = known.where(known >= 0, states)
        return after

    @cached_property
    def ends(self) -> Tensor:
        """In which states a text may end, bool [S+1]."""
        return torch.cat([self.automaton.accept, torch.tensor([False])])

    @cached_property
    def ways(self) -> Tensor:
        """Whether some token that may be written leads from a state to another, [S+1, S+1]."""
        labels = self.label(self.written.nonzero().squeeze(-1)).unique()
        here = torch.arange(len(self.after)).unsqueeze(-1).expand(-1, len(labels))
        there = self.after[:, labels]
        nowhere = torch.zeros(len(self.after), len(self.after))
        return nowhere.index_put((here, there), torch.ones(()))

    def stretch(self, free: int, start: Tensor, ends: Tensor) -> Stretch:
        """From states [B], behind so many tokens of any kind, to some of others, bool [B, S+1]."""
        start = start.where(start < len(self.after) - 1, -1)
        if not free:
            return Stretch(self.drawn, start, ends[:, :-1].float().log())
        more, twin = behind(self.drawn, free)
        return Stretch(more, torch.zeros_like(start), ends[:, twin].float().log())

    def label(self, tokens: Tensor) -> Tensor:
        """The classes of tokens, the last for those that it does not know."""
        size = self.automaton.num_categories
        known = (tokens >= 0) & (tokens < size)
        label = self.automaton.classes[tokens.clamp(0, size - 1)]
        return label.where(known, self.after.shape[1] - 1)

    def states(self, text: Told, start: Tensor) -> Tensor:
        """The states [B, N+1] before every token and after the last, from those of a start [B]."""
        found = [start]
        for label, idle in zip(self.label(text.tokens).t(), text.idle.t(), strict=True):
            found.append(found[-1].where(idle, self.after[found[-1], label]))
        return torch.stack(found, dim=-1)

    def live(self, text: Told, ends: Tensor) -> Tensor:
        """From which states [B, N+1, S+1] texts can come to those where they may end, [B, S+1].

        Those may be given once for all, [1, S+1].
        """
        found, onward = [ends], self.ways.t()
        columns = self.label(text.tokens).t(), text.masked.t(), text.idle.t()
        alike = (text.masked & ~text.idle).all(dim=0)  # where one row says it for all
        for label, masked, idle, all_masked in reversed([*zip(*columns, alike, strict=True)]):
            last = found[-1]
            some = (last.float() @ onward) > 0
            if not all_masked:
                known = last.expand(len(label), -1).gather(-1, self.after[:, label].t())
                some = torch.where(masked.unsqueeze(-1), some, known)
                some = torch.where(idle.unsqueeze(-1), last, some)
            found.append(some)
        return torch.stack([one.expand(len(text.tokens), -1) for one in found[::-1]], dim=1)

    def stuck(self, text: Told) -> int | None:
        """The first place of a single text whose token nothing that obeys has there, if one is."""
        here = torch.arange(len(self.after)) == self.automaton.start
        for place, label in enumerate(self.label(text.tokens[0]).tolist()):
            if bool(text.idle[0, place]):
                continue
            there = here.float() @ self.ways > 0
            if not text.masked[0, place]:
                there = torch.zeros_like(here).index_fill(0, self.after[here, label], True)
            there[-1] = False
            if not bool(there.any()):
                return place
            here = there
        return None


@lru_cache(maxsize=64)
def behind(rule: Automaton, free: int) -> tuple[Automaton, Tensor]:
    """A rule behind so many tokens of any kind, and which of its states each of it is, -1 for none.

    Examples:
        >>> behind(Automaton.options([[0, 1]]), free=2)[1]
        tensor([-1, -1,  0,  1,  2])
    """
    more = Automaton.lengths(free, free, rule.num_categories) + rule
    token = [int((more.classes == label).nonzero()[0]) for label in range(more.next.shape[1])]
    here = int(more.run(torch.zeros(1, free))[0])
    twin, found = torch.full((len(more.next),), -1), [(here, rule.start)]
    for here, state in found:  # which grows meanwhile
        if twin[here] < 0 <= state:
            twin[here] = state
            there = rule.next[state, rule.classes[token]]
            found += zip(more.next[here].tolist(), there.tolist(), strict=True)
    return more, twin


@lru_cache(maxsize=64)
def ended(rule: Automaton, end: int) -> Automaton:
    """The strings of a rule and the end of text behind them, once they have any as often as fits.

    Examples:
        >>> rule = ended(Automaton.options([[0], [0, 0]]), end=1)
        >>> rule.accepts([[0, 1, 1], [0, 0, 1], [0, 1, 0]])
        tensor([ True,  True, False])
    """
    padded = rule.padded(end)
    classes = (torch.arange(padded.num_categories) == end).long()
    return padded & Automaton(classes, [[0, 1], [-1, 1]], start=0, accept=[True, True])
