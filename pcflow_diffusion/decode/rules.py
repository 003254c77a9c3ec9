"""The rules that texts of a batch obey: in which states they are, and from which ones they can end.

A rule is about a text from some place on. What is known of a text moves its state, wherever it
stands; what is masked may be any token that may be written. A window of the circuit is drawn under
that part of the rule which leads from the state before it to one from which the rest can be
completed: so every text that is not finished can be.

Legend: B batch, N places, W width of a window, V tokens, C classes, S states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from pcflow import Automaton, EmptyLanguage
from pcflow_diffusion.decode.places import Look
from pcflow_diffusion.errors import GenerationError
from pcflow_diffusion.head import (
    CircuitHead,
    Marginals,
    Stretch,
    label_of,
    narrowed,
    widened,
)


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


@dataclass(frozen=True, eq=False)
class Course:
    """Texts on their way, each under a rule.

    Attributes:
        rules: which there are.
        number: which of them each text is under, [B].
        text: what is known of them.
    """

    rules: Sequence[Rule]
    number: Tensor
    text: Told

    def by_rule(self) -> Iterator[tuple[Tensor, Rule, Told]]:
        """The rows that are under a rule, the rule, and what is known of their texts."""
        for number in self.number.unique().tolist():
            own = (self.number == number).nonzero().squeeze(-1)
            yield own, self.rules[number], self.text.at(own)

    def passage(self, first: int, stop: int) -> Passage:
        """From the `first` place, before which nothing is masked, to the last before `stop`."""
        start, ends = torch.empty_like(self.number), [torch.empty(0)] * len(self.number)
        every = slice(None)
        for own, rule, text in self.by_rule():
            initial = torch.full((len(own),), rule.automaton.start)
            start[own] = rule.states(text.at(every, slice(first)), initial)[:, -1]
            live = rule.live(text.at(every, slice(stop, None)), rule.ends.unsqueeze(0))[:, 0]
            for row, end in zip(own.tolist(), live, strict=True):
                ends[row] = end
        idle = self.text.idle[:, first:stop]
        return Passage(self.rules, self.number, idle, start, ends)

    def widened(self, few: Marginals, said: Marginals) -> Marginals:
        """Some of what a backbone says of the texts, and what their rules need of the rest."""
        labels = [label_of(rule.automaton, said.vocabulary_size) for rule in self.rules]
        return widened(few, said, torch.stack(labels)[self.number])

    def check(self) -> None:
        """Refuse texts that cannot be completed.

        Raises:
            EmptyLanguage: naming the first of a rule, and why.
        """
        for own, rule, text in self.by_rule():
            live = rule.live(text, rule.ends.unsqueeze(0))[:, 0, rule.automaton.start]
            for row in (~live).nonzero()[:1, 0].tolist():
                alone = text.at(slice(row, row + 1))
                place, length = rule.stuck(alone), int((~alone.idle).sum())
                why = f"no text of {length} tokens obeys {rule.automaton} with what is known of it"
                if place is not None and not bool(alone.masked[0, place]):
                    token = int(alone.tokens[0, place])
                    why = f"token {token} at position {place} cannot stand there in what obeys"
                raise EmptyLanguage(f"row {int(own[row])}: {why}")


@dataclass(frozen=True, eq=False)
class Passage:
    """How some places of texts are passed through, each under a rule.

    Attributes:
        rules: which there are.
        number: which of them each text is under, [B].
        idle: which places no rule is about, bool [B, N].
        start: the states before the first place, [B].
        ends: in which states each text may be behind the last, [B] rows bool [S+1].
    """

    rules: Sequence[Rule]
    number: Tensor
    idle: Tensor
    start: Tensor
    ends: Sequence[Tensor]

    def heads(
        self, head: CircuitHead, look: Look, tokens: Tensor, masked: Tensor
    ) -> Iterator[tuple[Look, CircuitHead]]:
        """Windows that are drawn together, and the head under the stretches of a rule they are.

        Args:
            head: over windows of their width.
            look: the windows.
            tokens: of the texts, [B, N].
            masked: which of them are not known, bool [B, N]; nothing before a window is masked.
        """
        text = Told(tokens.cpu(), masked.cpu(), self.idle)
        rows, places = look.rows[:, 0].cpu(), look.places.cpu()  # [R], [R, W]
        free = self.idle[rows.unsqueeze(-1), places].sum(dim=-1)
        kinds = torch.stack([self.number[rows], free], dim=-1)
        for kind in kinds.unique(dim=0):
            some = (kinds == kind).all(dim=-1).nonzero().squeeze(-1)
            own, every, rule = rows[some], torch.arange(len(some)), self.rules[int(kind[0])]
            start = rule.states(text.at(own), self.start[own])[every, places[some, 0]]
            final = torch.stack([self.ends[row] for row in own.tolist()])
            live = rule.live(text.at(own), final)[every, places[some, -1] + 1]
            yield look.of(some), head.under(rule.stretch(int(kind[1]), start, live))


def turns(wanted: Tensor, text: Tensor) -> Iterator[Tensor]:
    """Parts of what is wanted [B, N], text after text, where rules go on over cuts in it."""
    number = (~text).cumsum(dim=-1)
    for one in number[wanted].unique().tolist():
        yield wanted & (number == one)


@dataclass(frozen=True, eq=False)
class Constraint:
    """The rules of a batch.

    Attributes:
        rules: which there are.
        number: which of them each row is under, [B].
    """

    rules: Sequence[Rule]
    number: Tensor

    def check_known(self, vocabulary_size: int) -> None:
        """Refuse rules about more tokens than a backbone says anything of.

        Raises:
            GenerationError: naming both numbers.
        """
        most = max((len(rule.written) for rule in self.rules), default=0)
        if most > vocabulary_size:
            what = f"a rule is about {most} tokens, the backbone about {vocabulary_size}"
            raise GenerationError(f"{what}: let it say its vocabulary_size, or narrow the rule")

    def course(self, rows: Tensor, tokens: Tensor, masked: Tensor, idle: Tensor) -> Course:
        """Some rows [b], of which is known what `Told` has."""
        text = Told(tokens.cpu(), masked.cpu(), idle.cpu())
        return Course(self.rules, self.number[rows.cpu()], text)


def constraint_of(
    given: Automaton | Sequence[Automaton],
    count: int,
    size: int | None,
    never: Sequence[int],
    end: int | None,
) -> Constraint:
    """The rules of a batch of texts.

    Args:
        given: one for all rows, or one for each.
        count: how many rows there are.
        size: how many tokens there are, V; None for as many as the rules know.
        never: tokens that are not written.
        end: the end of text, which is repeated after what obeys.

    Raises:
        GenerationError: if there are not as many rules as rows.
        EmptyLanguage: if nothing obeys a rule, ended so.
    """
    every = [given] * count if isinstance(given, Automaton) else list(given)
    if len(every) != count:
        raise GenerationError(f"{len(every)} rules for {count} rows")
    if end is not None:
        every = [ended(rule, end) for rule in every]
    number = {rule: place for place, rule in enumerate(dict.fromkeys(every))}
    written = torch.ones(size or max((r.num_categories for r in number), default=1)).bool()
    written[[token for token in never if 0 <= token < len(written)]] = False
    rules = [Rule(rule, written) for rule in number]
    for rule in rules:
        _ = rule.drawn  # refuses here, before a backbone is asked
    return Constraint(rules, torch.tensor([number[rule] for rule in every]).long())


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
