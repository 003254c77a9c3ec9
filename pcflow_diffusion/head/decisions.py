"""Typed decisions: how probable the answers are that may stand in the holes of a text.

Every allowed combination of answers is a row of evidence for the circuit: the tokens of the answers
observed, what else is masked summed out under the coupled joint.

Legend: B batch, L positions, V tokens, Q questions, N combinations of answers, n answers of a
question, W positions of its widest slot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor

from pcflow import CompiledCircuit, Evidence, Given, NoMassError, Potentials, SettingError
from pcflow_diffusion.checks import check_id, check_ids, check_kind, check_tokens
from pcflow_diffusion.errors import AnswerError, TypeMismatch
from pcflow_diffusion.head.likelihood import told_of
from pcflow_diffusion.head.marginals import Marginals
from pcflow_diffusion.head.tokenizers import encode
from pcflow_diffusion.head.widening import widened

Answer = str | Sequence[int]
Questions = Mapping[str, Sequence[Answer]]
Slots = Mapping[str, range]
Allowed = Callable[[dict[str, Answer]], bool]

MOST = 1 << 16
"""More combinations of answers are refused."""

AT_ONCE = 1 << 26
"""Potentials that are held at once."""


@dataclass(frozen=True, eq=False)
class Decisions:
    """Questions about a text with masks, as tokens.

    Attributes:
        answers: by question those of its answers, as wide as its slots, [n, W].
        slot: the number of the question whose slot a position is in, -1 elsewhere, [B, L].
        combinations: the answers that are possible together, by their numbers, [N, Q].
    """

    answers: dict[str, Tensor]
    slot: Tensor
    combinations: Tensor

    @classmethod
    def of(
        cls,
        questions: Questions,
        said: Marginals,
        slots: Slots | None,
        pad: int | None,
        allowed: Allowed | None,
        tokenizer: object,
    ) -> Decisions:
        """Check them and bring them to tokens; see `CircuitHead.probabilities`."""
        check_kind("questions", questions, Mapping)
        if not questions:
            raise SettingError("questions", questions, "at least one")
        slot = _runs(questions, said.masked) if slots is None else _spans(questions, slots, said)
        fill = None if pad is None else check_id("pad", pad)
        answers = {}
        for number, (question, texts) in enumerate(questions.items()):
            ids = _ids(question, texts, tokenizer)
            widths = (slot == number).sum(dim=1).tolist()
            answers[question] = _padded(question, ids, widths, fill).to(slot.device)
            check_tokens(f"answers to {question!r}", answers[question], said.vocabulary_size)
        return cls(answers, slot, _combinations(questions, allowed).to(slot.device))

    def listed(self, said: Marginals, logits: Tensor | Potentials) -> Marginals:
        """What the backbone says, of the tokens of all answers too where tokens are listed.

        Of listed logits no other token is possible, so they are left alone.
        """
        if said.listed is None or isinstance(logits, Potentials):
            return said
        needed = torch.cat([tokens.flatten() for tokens in self.answers.values()]).unique()
        label = torch.full((said.vocabulary_size,), -1, device=needed.device)
        label[needed] = torch.arange(len(needed), device=needed.device)
        x, mask = said.tokens.masked_fill(said.masked, said.mask_token_id), said.mask_token_id
        return widened(said, Marginals.of(logits, x, mask, dtype=said.log_m.dtype), label)

    def joint(self, model: CompiledCircuit | Given, said: Marginals, coupled: Evidence) -> Tensor:
        """Probabilities [B, n, n, ...] of all combinations, an axis for every question.

        Args:
            model: the circuit, or what it is given a rule.
            said: of which `coupled` was made.
            coupled: the evidence that couples the circuit.

        Raises:
            NoMassError: if no combination is possible in a row.
        """
        log_q = self._log_mass(model, said, coupled)  # [B, N]
        impossible = (log_q == -torch.inf).all(dim=1)
        if bool(impossible.any()):
            raise NoMassError(impossible.nonzero().flatten().tolist(), "probabilities")
        sizes = [len(tokens) for tokens in self.answers.values()]
        table = log_q.new_zeros(len(log_q), *sizes)
        table[(slice(None), *self.combinations.t())] = log_q.softmax(dim=1)
        return table

    def apart(self, table: Tensor) -> dict[str, Tensor]:
        """Of the joint of all questions that of each, [B, n]."""
        axes = range(1, table.dim())
        others = [[axis for axis in axes if axis != own] for own in axes]
        each = (table.sum(dim=some) if some else table for some in others)
        return dict(zip(self.answers, each, strict=True))

    def _log_mass(
        self, model: CompiledCircuit | Given, said: Marginals, coupled: Evidence
    ) -> Tensor:
        """Log-mass [B, N] (nats) under the circuit and its potentials, some rows at a time."""
        known = ~said.masked | (self.slot >= 0)
        rows = torch.arange(len(known), device=known.device)
        row = rows.repeat_interleave(len(self.combinations))
        tokens = self._written(said.tokens).flatten(0, 1)  # [B N, L]
        some = max(1, AT_ONCE // said.log_m.shape[1:].numel())
        parts = zip(row.split(some), tokens.split(some), strict=True)
        found = [_log_mass(model, coupled.rows(of), text, known[of]) for of, text in parts]
        return torch.cat(found).view(len(known), len(self.combinations))

    def _written(self, tokens: Tensor) -> Tensor:
        """Texts [B, N, L] of tokens [B, L] with every combination of answers in the slots."""
        texts = tokens.unsqueeze(1)
        for number, answers in enumerate(self.answers.values()):
            here = self.slot == number
            place = (here.cumsum(dim=1) - 1).clamp_min(0)
            of_each = answers[self.combinations[:, number]][:, place]  # [N, B, L]
            texts = torch.where(here.unsqueeze(1), of_each.transpose(0, 1), texts)
        return texts


def _log_mass(
    model: CompiledCircuit | Given, coupled: Evidence, tokens: Tensor, known: Tensor
) -> Tensor:
    """The same [B] of tokens [B, L] where known; -inf where one is not possible."""
    rows, possible = told_of(coupled, tokens, known)
    assert rows.offset is not None
    log_mass = model.log_prob(rows.evidence) + rows.offset
    return log_mass.masked_fill((possible != known).any(dim=1), -torch.inf)


def _runs(questions: Questions, masked: Tensor) -> Tensor:
    """Slots [B, L] where masks stand next to one another, question after question."""
    begins = masked.clone()
    begins[:, 1:] &= ~masked[:, :-1]
    slot = begins.cumsum(dim=1) - 1
    count = slot[:, -1] + 1
    if bool((wrong := count != len(questions)).any()):
        row = int(wrong.nonzero()[0])
        runs = f"as many as the runs of masks in row {row}, {int(count[row])}, or have slots"
        raise SettingError("questions", len(questions), runs)
    return slot.masked_fill(~masked, -1)


def _spans(questions: Questions, slots: Slots, said: Marginals) -> Tensor:
    """The given slots [B, L].

    Raises:
        AnswerError: if one is no range of masked positions, or two meet.
    """
    check_kind("slots", slots, Mapping)
    SettingError.check(
        "slots", list(slots), "one for every question", lambda s: set(s) == set(questions)
    )
    slot = torch.full_like(said.tokens, -1)
    for number, question in enumerate(questions):
        span = slots[question]
        check_kind(f"slots[{question!r}]", span, range)
        if len(span) == 0 or span.step != 1 or span.start < 0 or span.stop > said.length:
            raise AnswerError(question, f"its slot {span} is no span of {said.length} positions")
        here = slot[:, span.start : span.stop]
        if bool((here >= 0).any()):
            raise AnswerError(question, f"its slot {span} meets that of another question")
        if not bool(said.masked[:, span.start : span.stop].all()):
            raise AnswerError(question, f"its slot {span} is not masked in every row")
        here.fill_(number)
    return slot


def _ids(question: str, texts: Sequence[Answer], tokenizer: object) -> list[tuple[int, ...]]:
    """The tokens of every answer.

    Raises:
        AnswerError: if there is none, or one has no tokens.
        TypeMismatch: if one is neither text nor tokens, or a text and there is no tokenizer.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeMismatch(f"answers to {question!r} must be several, got {texts!r}")
    ids = [_ids_of(question, text, tokenizer) for text in texts]
    if not ids or not all(ids):
        raise AnswerError(question, "it needs answers of at least one token")
    return ids


def _ids_of(question: str, text: Answer, tokenizer: object) -> tuple[int, ...]:
    if not isinstance(text, str):
        return check_ids(f"answers to {question!r}", text)
    if tokenizer is None:
        raise TypeMismatch(f"the answer {text!r} is a text: give tokenizer=, or its token ids")
    return encode(tokenizer, text)


def _padded(
    question: str, ids: Sequence[tuple[int, ...]], widths: Sequence[int], pad: int | None
) -> Tensor:
    """Answers as wide as the widest slot, [n, W].

    Raises:
        AnswerError: if one is longer than a slot, or shorter and nothing fills it, or two are
            the same.
    """
    widths = widths or [max(map(len, ids))]  # where there are no rows
    narrowest, widest = min(widths), max(widths)
    for answer in ids:
        if len(answer) > narrowest:
            raise AnswerError(question, f"{answer} does not fit in a slot of {narrowest} tokens")
        if len(answer) < widest and pad is None:
            raise AnswerError(
                question, f"{answer} does not fill a slot of {widest} tokens: give pad="
            )
    filled = [(*answer, *[pad or 0] * (widest - len(answer))) for answer in ids]
    if len(set(filled)) != len(filled):
        raise AnswerError(question, "two of its answers are the same tokens")
    return torch.tensor(filled)


def _combinations(questions: Questions, allowed: Allowed | None) -> Tensor:
    """The answers that may be given together, by their numbers, [N, Q].

    Raises:
        AnswerError: if none may.
        SettingError: if there are more than `MOST`.
    """
    counts = [len(texts) for texts in questions.values()]
    SettingError.check(
        "combinations of answers", prod(counts), f"at most {MOST:,}", lambda n: n <= MOST
    )
    every = torch.cartesian_prod(*map(torch.arange, counts)).view(-1, len(counts))  # [N, Q]
    if allowed is None:
        return every
    if not callable(allowed):
        raise TypeMismatch(f"allowed must be a function of answers, got {allowed!r}")
    chosen = product(*questions.values())
    may = torch.tensor([bool(allowed(dict(zip(questions, some, strict=True)))) for some in chosen])
    if not bool(may.any()):
        raise AnswerError(", ".join(questions), "no combination of answers is allowed")
    return every[may]
