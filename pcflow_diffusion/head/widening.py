"""Lists of tokens that hold what a rule needs: the best token of each of its classes.

Tokens of one class lead a rule everywhere to the same state. So whatever text of the possible
tokens obeys it, one of the best ones does.

Legend: B batch, L positions, V tokens, k columns: the V, or those that are listed; M masked ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pcflow import Automaton, CompiledCircuit
from pcflow_diffusion.head.controls import token_marginals
from pcflow_diffusion.head.marginals import Marginals


def label_of(rule: Automaton, vocabulary_size: int) -> Tensor:
    """The class of every one of so many tokens, [V]; -1 for those that a rule does not know.

    Args:
        rule: over tokens.
        vocabulary_size: how many tokens, V.

    Returns:
        The classes [V].

    Examples:
        >>> from pcflow import Automaton
        >>> label_of(Automaton.phrases([[1]], 2), 3)[2]
        tensor(-1)
    """
    label = torch.full((vocabulary_size,), -1)
    known = rule.classes[:vocabulary_size]
    label[: len(known)] = known
    return label


def widened(few: Marginals, said: Marginals, label: Tensor) -> Marginals:
    """Some of what a backbone says, and the best token of each class of a rule besides.

    Args:
        few: what is considered of it.
        said: all of it.
        label: the class of every token, -1 for none, [V]; or of each row, [B, V].

    Returns:
        What the backbone says of these tokens.

    Examples:
        >>> said = Marginals.of(torch.tensor([[[3.0, 2.0, 1.0, 0.0]]]), torch.tensor([[9]]), 9)
        >>> widened(said.few(1), said, torch.tensor([0, 0, 1, 1])).listed
        tensor([[[0, 2]]])
    """
    if few is said or not bool(said.masked.any()):
        return few
    every = label.to(said.tokens.device).unsqueeze(-2).expand(*said.tokens.shape, -1)
    labels = said.potentials.among(every)  # [B, L, k]
    keep = said.potentials.among(few.potentials.dense(said.vocabulary_size) > -torch.inf)
    keep[said.masked] |= best_of_each(said.log_m[said.masked], labels[said.masked])
    log = said.log_m.masked_fill(~keep & said.masked.unsqueeze(-1), -torch.inf)
    if few.listed is None:
        return replace(few, log_m=log.log_softmax(dim=-1))
    keep &= said.masked.unsqueeze(-1)
    place = marked(keep, int(keep.sum(dim=-1).amax()))
    listed = place if said.listed is None else said.listed.gather(-1, place)
    log = log.gather(-1, place).masked_fill(~said.masked.unsqueeze(-1), 0.0)
    share = log.logsumexp(dim=-1).clamp_max(0.0).masked_fill(~said.masked, 0.0)
    log_m, share = log.log_softmax(dim=-1), said.log_listed + share
    return replace(few, log_m=log_m, listed=listed, log_listed=share)


def possible(model: CompiledCircuit, said: Marginals, rows: Sequence[int]) -> Marginals:
    """What a backbone says, in some rows only of tokens that a circuit allows beside what is known.

    Where it allows none of them, or not what is known, all of it.
    """
    here = torch.tensor(rows, device=said.tokens.device)
    here = here[model.log_prob(said.at(here).visible()) > -torch.inf]
    some, found, share = said.at(here), said.log_m.clone(), said.log_listed.clone()
    log_r = token_marginals(model, some.visible(), said.length, some.listed)  # [b, L, V or k]
    log = some.log_m.masked_fill(log_r == -torch.inf, -torch.inf)
    there = (log > -torch.inf).any(dim=-1) & some.masked  # [b, L]
    log = log.where(there.unsqueeze(-1), some.log_m)
    found[here] = log.log_softmax(dim=-1)
    share[here] += log.logsumexp(dim=-1).clamp_max(0.0).masked_fill(~there, 0.0)
    return replace(said, log_m=found, log_listed=share)


def marked(flags: Tensor, count: int) -> Tensor:
    """The places [..., count] that are marked [..., k], filled up with the first that are not.

    Examples:
        >>> marked(torch.tensor([[False, True, True], [False, False, True]]), count=2)
        tensor([[1, 2],
                [0, 2]])
    """
    spare = count - flags.sum(dim=-1, keepdim=True)
    taken = flags | ((~flags).cumsum(dim=-1) <= spare)
    return taken.nonzero()[:, -1].view(*flags.shape[:-1], count)


def best_of_each(log: Tensor, labels: Tensor) -> Tensor:
    """Of the possible columns of every label the largest, the first of these, bool [M, k].

    Args:
        log: [M, k]; those of -inf are impossible.
        labels: [M, k], of which -1 is none.

    Examples:
        >>> best_of_each(torch.tensor([[1.0, 2.0, 2.0, 0.0]]), torch.tensor([[0, 0, 0, 1]]))
        tensor([[False,  True, False,  True]])
    """
    place, count = labels + 1, int(labels.max()) + 2
    best = log.new_full((len(log), count), -torch.inf).scatter_reduce(-1, place, log, "amax")
    there = (log == best.gather(-1, place)) & (log > -torch.inf) & (labels >= 0)
    column = torch.arange(log.shape[-1], device=log.device).expand(log.shape)
    nowhere = log.shape[-1]
    first = column.new_full((len(log), count), nowhere).scatter_reduce(
        -1, place, column.where(there, nowhere), "amin"
    )
    return first.gather(-1, place) == column.where(there, -1)
