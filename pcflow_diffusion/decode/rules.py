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
    def drawn(self) -> tuple[Automaton, Tensor]:
        """The rule as far as it is about tokens that may be drawn, and where its states are there.

        Raises:
            GenerationError: if it has states to which others alone lead.
        """
        return of_so_many(self.automaton, len(self.written))

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
        nowhere = torch.zeros(len(self.after), len(self.after), dtype=torch.bool)
        return nowhere.index_put((here, there), torch.tensor(True)).float()

    def stretch(self, free: int, start: Tensor, ends: Tensor) -> Stretch:
        """From states [B], behind so many tokens of any kind, to some of others, bool [B, S+1]."""
        few, twin = self.drawn
        if free:
            few, own = behind(few, free)
            start, twin = torch.zeros_like(start), twin[own].where(own >= 0, -1)
        else:
            place = torch.cat([twin.argsort(), torch.tensor([-1])])
            start = place[start]
        return Stretch(few, start, ends[:, twin].float().log())

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
def of_so_many(rule: Automaton, size: int) -> tuple[Automaton, Tensor]:
    """A rule for so many tokens, the first ones, and which of its states each of that is.

    Raises:
        GenerationError: if others alone lead to some of its states.

    Examples:
        >>> of_so_many(Automaton.options([[0, 1], [2, 1]]), size=2)[1]
        tensor([0, 1, 2])
    """
    if rule.num_categories <= size:
        return rule.widened(size), torch.arange(len(rule.next))
    few = narrowed(rule, size)
    if len(few.next) < len(rule.next):
        what = f"only the first {size} tokens are drawn here, and in {few} of them"
        hint = f"if texts hold no others, take rule & Automaton.lengths(0, None, {size})"
        raise GenerationError(f"{what} not all states of {rule} can be reached: {hint}")
    return few, twins(few, few.start, rule)


@lru_cache(maxsize=64)
def behind(rule: Automaton, free: int) -> tuple[Automaton, Tensor]:
    """A rule behind so many tokens of any kind, and which of its states each of it is, -1 for none.

    Examples:
        >>> behind(Automaton.options([[0, 1]]), free=2)[1]
        tensor([-1, -1,  0,  1,  2])
    """
    more = Automaton.lengths(free, free, rule.num_categories) + rule
    return more, twins(more, int(more.run(torch.zeros(1, free))[0]), rule)


def twins(more: Automaton, first: int, rule: Automaton) -> Tensor:
    """Which states of a rule those of an automaton are that goes on as it does from some state on.

    Returns:
        A number for every state of `more`, -1 for those that do not come after the first.
    """
    token = [int((more.classes == label).nonzero()[0]) for label in range(more.next.shape[1])]
    labels, twin, found = rule.classes[token], torch.full((len(more.next),), -1), [first]
    twin[first] = rule.start
    for here in found:  # which grows meanwhile
        there = more.next[here]
        new = (there >= 0) & (twin[there] < 0)
        twin[there[new]] = rule.next[twin[here], labels][new]
        found += there[new].unique().tolist()
    return twin


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
