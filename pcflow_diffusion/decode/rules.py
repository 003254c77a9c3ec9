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
from pcflow_diffusion.head import Marginals, Stretch, label_of, narrowed, widened


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

    @property
    def living(self) -> Tensor:
        """Which states are not lost, bool [S+1]."""
        return torch.arange(len(self.after)) < len(self.after) - 1

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

    def stuck(self, tokens: Tensor, masked: Tensor) -> int | None:
        """The first place of a text [N] whose token no text that obeys has there, if one is."""
        here = torch.arange(len(self.after)) == self.automaton.start
        here = here & self.living
        for place, label in enumerate(self.label(tokens).tolist()):
            some = (here.float() @ self.ways) > 0
            known = torch.zeros_like(here).index_fill(0, self.after[here, label], True)
            there = (some if masked[place] else known) & self.living
            if not bool(there.any()):
                return place
            here = there
        return None

    def states(self, tokens: Tensor, start: Tensor) -> Tensor:
        """The states [B, N+1] before every token and after the last, from those of a start [B]."""
        found, labels = [start], self.label(tokens)
        for label in labels.unbind(dim=-1):
            found.append(self.after[found[-1], label])
        return torch.stack(found, dim=-1)

    def live(self, tokens: Tensor, masked: Tensor, ends: Tensor) -> Tensor:
        """From which states [B, N+1, S+1] texts can come to those where they may end, [B, S+1]."""
        found, labels = [ends], self.label(tokens)
        for place in reversed(range(tokens.shape[1])):
            known = found[-1].gather(-1, self.after[:, labels[:, place]].t())
            some = (found[-1].float() @ self.ways.t()) > 0
            found.append(torch.where(masked[:, place, None], some, known))
        return torch.stack(found[::-1], dim=1)


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
class Passage:
    """How texts pass through the rules they are under, from a place on to another.

    Attributes:
        rules: which there are.
        number: which of them each text is under, [B].
        free: how many of the first tokens no rule is about.
        start: the states behind these, [B].
        ends: the states in which each may be at the end, [B] rows bool [S+1].
    """

    rules: Sequence[Rule]
    number: Tensor
    free: int
    start: Tensor
    ends: Sequence[Tensor]

    def parts(self, tokens: Tensor, masked: Tensor, look: Look) -> Iterator[tuple[Tensor, Stretch]]:
        """Windows that are under one rule, and the stretch of it that each is.

        Args:
            tokens: of the texts, [B, N].
            masked: which of them are not known, bool [B, N]; nothing before a window is masked.
            look: the windows.
        """
        tokens, masked = tokens.cpu()[:, self.free :], masked.cpu()[:, self.free :]
        rows, first = look.rows[:, 0].cpu(), look.places[:, 0].cpu() - self.free  # [R]
        stop = first + look.places.shape[1]
        free = (-first).clamp_min(0)
        kinds = torch.stack([self.number[rows], free], dim=-1)
        for kind in kinds.unique(dim=0):
            some = (kinds == kind).all(dim=-1).nonzero().squeeze(-1)
            own, every = rows[some], torch.arange(len(some))
            rule = self.rules[int(kind[0])]
            states = rule.states(tokens[own], self.start[own])
            final = torch.stack([self.ends[row] for row in own.tolist()])
            live = rule.live(tokens[own], masked[own], final)
            start = states[every, first[some].clamp_min(0)]
            yield some, rule.stretch(int(kind[1]), start, live[every, stop[some]])


@dataclass(frozen=True, eq=False)
class Course:
    """Texts on their way, each under a rule.

    Attributes:
        rules: which there are.
        number: which of them each text is under, [B].
        begin: the place from which on they are about the texts.
        tokens: of all places, [B, N].
        masked: which of them are not known, bool [B, N].
    """

    rules: Sequence[Rule]
    number: Tensor
    begin: int
    tokens: Tensor
    masked: Tensor

    def passage(self, first: int, stop: int) -> Passage:
        """From the `first` place, before which nothing is masked, to the last before `stop`."""
        free = max(0, self.begin - first)
        start, ends = torch.empty_like(self.number), [torch.empty(0)] * len(self.number)
        for own, rule, tokens, masked in self.by_rule():
            initial = torch.full((len(own),), rule.automaton.start)
            start[own] = rule.states(tokens[:, self.begin : first + free], initial)[:, -1]
            last = rule.ends.expand(len(own), -1)
            live = rule.live(tokens[:, stop:], masked[:, stop:], last)[:, 0]
            for row, end in zip(own.tolist(), live, strict=True):
                ends[row] = end
        return Passage(self.rules, self.number, free, start, ends)

    def by_rule(self) -> Iterator[tuple[Tensor, Rule, Tensor, Tensor]]:
        """The rows that are under a rule, the rule, and what is known of their texts."""
        for number in self.number.unique().tolist():
            own = (self.number == number).nonzero().squeeze(-1)
            yield own, self.rules[number], self.tokens[own], self.masked[own]

    def widened(self, few: Marginals, said: Marginals) -> Marginals:
        """Some of what a backbone says of the texts, and what their rules need of the rest."""
        labels = [label_of(rule.automaton, said.vocabulary_size) for rule in self.rules]
        return widened(few, said, torch.stack(labels)[self.number])

    def check(self, rows: Sequence[int]) -> None:
        """Refuse texts that cannot be completed.

        Args:
            rows: the numbers by which they are known.

        Raises:
            EmptyLanguage: naming the first of them, and why.
        """
        length = self.tokens.shape[1] - self.begin
        for own, rule, tokens, masked in self.by_rule():
            last = rule.ends.expand(len(own), -1)
            live = rule.live(tokens[:, self.begin :], masked[:, self.begin :], last)
            for some in (~live[:, 0, rule.automaton.start]).nonzero()[:1, 0].tolist():
                place = rule.stuck(tokens[some, self.begin :], masked[some, self.begin :])
                what = f"no text of {length} tokens obeys {rule.automaton}"
                if place is not None:
                    position = self.begin + place
                    token = int(tokens[some, position])
                    what += f": nor what goes up to token {token} at position {position}"
                raise EmptyLanguage(f"row {rows[int(own[some])]}: {what}")


@dataclass(frozen=True, eq=False)
class Constraint:
    """The rules of a batch.

    Attributes:
        rules: which there are.
        number: which of them each row is under, [B].
        begin: the place from which on they are about each row, [B].
    """

    rules: Sequence[Rule]
    number: Tensor
    begin: Tensor

    def check_known(self, vocabulary_size: int) -> None:
        """Refuse rules about more tokens than a backbone says anything of.

        Raises:
            GenerationError: naming both numbers.
        """
        most = max((len(rule.written) for rule in self.rules), default=0)
        if most > vocabulary_size:
            what = f"a rule is about {most} tokens, the backbone about {vocabulary_size}"
            raise GenerationError(f"{what}: let it say its vocabulary_size, or narrow the rule")

    def course(self, rows: Tensor, tokens: Tensor, masked: Tensor) -> Course:
        """Some rows [b], whose rules begin at one place, of which [b, N] is known."""
        rows = rows.cpu()
        begin = int(self.begin[rows[0]])
        return Course(self.rules, self.number[rows], begin, tokens.cpu(), masked.cpu())


def constraint_of(
    given: Automaton | Sequence[Automaton],
    begin: Tensor,
    size: int | None,
    never: Sequence[int],
    end: int | None,
) -> Constraint:
    """The rules of a batch of texts.

    Args:
        given: one for all rows, or one for each.
        begin: where the text of each row begins that they are about, [B].
        size: how many tokens there are, V; None for as many as the rules know.
        never: tokens that are not written.
        end: the end of text, which is repeated after what obeys.

    Raises:
        GenerationError: if there are not as many rules as rows.
        EmptyLanguage: if nothing obeys a rule, ended so.
    """
    every = [given] * len(begin) if isinstance(given, Automaton) else list(given)
    if len(every) != len(begin):
        raise GenerationError(f"{len(every)} rules for {len(begin)} rows")
    if end is not None:
        every = [ended(rule, end) for rule in every]
    number = {rule: place for place, rule in enumerate(dict.fromkeys(every))}
    written = torch.ones(size or max((r.num_categories for r in number), default=1)).bool()
    written[[token for token in never if 0 <= token < len(written)]] = False
    rules = [Rule(rule, written) for rule in number]
    for rule in rules:
        _ = rule.drawn  # refuses here, before a backbone is asked
    return Constraint(rules, torch.tensor([number[rule] for rule in every]).long(), begin.cpu())


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
