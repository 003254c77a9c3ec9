"""Texts of a batch on their way through the rules that they obey.

A rule is about a part of a text. A window of the circuit is drawn under that stretch of it which
leads from the state before the window to one from which the rest can be completed: so every text
that is not finished can be.

Legend: B batch, N places, W width of a window, R windows, V tokens, S states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow import Automaton, EmptyLanguage
from pcflow_diffusion.decode.places import Look
from pcflow_diffusion.decode.rules import Rule, Told, ended
from pcflow_diffusion.errors import GenerationError
from pcflow_diffusion.head import CircuitHead, Marginals, label_of, widened


@dataclass(frozen=True, eq=False)
class Course:
    """Texts on their way, each under a rule.

    Attributes:
        rules: which there are.
        number: which of them each text is under, [B].
        text: what is known of them.

    Examples:
        >>> rules = constraint_of(Automaton.options([[0, 1], [1, 1]]), 1, 2, never=[], end=None)
        >>> tokens, masked = torch.tensor([[0, 9]]), torch.tensor([[False, True]])
        >>> course = rules.course(torch.tensor([0]), tokens, masked, torch.zeros(1, 2).bool())
        >>> course.check()  # it can be completed
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
        """The part of the texts that is still to be written.

        Args:
            first: a place before which nothing is masked.
            stop: the place behind its last.
        """
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
        """Some of what a backbone says of the texts, and what their rules need of the rest.

        Args:
            few: the listed part of it.
            said: all that the backbone says of the same places.
        """
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

    Examples:
        >>> rules = constraint_of(Automaton.options([[0, 1], [1, 1]]), 1, 2, never=[], end=None)
        >>> tokens, masked = torch.tensor([[0, 9]]), torch.tensor([[False, True]])
        >>> course = rules.course(torch.tensor([0]), tokens, masked, torch.zeros(1, 2).bool())
        >>> course.passage(1, 2).start.shape
        torch.Size([1])
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
    """Parts of what is wanted [B, N], text after text, where rules go on over cuts in it.

    Args:
        wanted: positions to be decided, bool [B, N].
        text: which text every position belongs to, [B, N].

    Returns:
        The parts, bool [B, N] each.

    Examples:
        >>> text = torch.tensor([[True, True, False, True]])  # two texts, cut by one that is none
        >>> [part.int().tolist() for part in turns(text, text)]
        [[[1, 1, 0, 0]], [[0, 0, 0, 1]]]
    """
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

    Returns:
        The rules, ready to be asked about all texts.

    Raises:
        GenerationError: if there are not as many rules as rows.
        EmptyLanguage: if nothing obeys a rule, ended so.

    Examples:
        >>> rule = Automaton.options([[0, 1], [1, 1]])
        >>> constraint_of(rule, count=2, size=3, never=[2], end=None).number
        tensor([0, 0])
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
