"""Training a head on text that a model reads.

Legend: N rows, L positions, B batch, S states of a row, n tokens, V tokens of the vocabulary, W
width of the hidden state.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from pcflow_diffusion.checks import (
    check_count,
    check_generator,
    check_kind,
    check_rate,
    check_rows,
    check_tokens,
)
from pcflow_diffusion.errors import ShapeMismatch, TypeMismatch
from pcflow_diffusion.models.progress import bar
from pcflow_diffusion.multi_token.head import MultiTokenHead
from pcflow_diffusion.multi_token.loss import multi_token_loss
from pcflow_diffusion.multi_token.verifier import Verifier, read


def fit_multi_token(
    head: MultiTokenHead,
    verifier: Verifier,
    rows: Tensor,
    *,
    steps: int,
    batch_size: int = 8,
    states: int = 16,
    learning_rate: float = 3e-3,
    backbone: Iterable[nn.Parameter] = (),
    discount: float = 0.9,
    distillation: float = 0.5,
    progress: bool | None = None,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Minimise `multi_token_loss` at places of text, in the head and, if wanted, the model.

    Args:
        head: what is trained, in place.
        verifier: the model, which reads the text and teaches.
        rows: text, [N, L], with L above the head's length.
        steps: number of steps.
        batch_size: rows per step, B.
        states: how many places of every row the head learns from, S.
        learning_rate: of Adam; it falls linearly to zero.
        backbone: parameters of the model that learn as well, a tenth as fast; by default none. What
            the model says itself of the next token changes with them, and nothing here holds it.
        discount: see `multi_token_loss`.
        distillation: see `multi_token_loss`.
        progress: whether to show a progress bar; by default if standard error is a terminal.
        generator: source of rows and places; torch's global one by default.

    Returns:
        The loss of every step.

    Raises:
        ShapeMismatch: if rows are too short.
        SettingError: if a number is out of range.
        TypeMismatch: if `backbone` is none, or frozen.

    Examples:
        >>> from pcflow_diffusion.models import Judge, TransformerConfig
        >>> from pcflow_diffusion.multi_token import JudgeVerifier
        >>> judge = Judge(TransformerConfig(vocabulary_size=7, width=16, depth=1, heads=2)).eval()
        >>> head, text = MultiTokenHead(judge.head, 4, states=2, rank=4), torch.randint(7, (9, 20))
        >>> len(fit_multi_token(head, JudgeVerifier(judge), text, steps=2, progress=False))
        2
    """
    _check(head, rows)
    backbone = _parameters(backbone)
    check_generator(generator, rows.device)
    for name, count in (("steps", steps), ("batch_size", batch_size), ("states", states)):
        check_count(name, count)
    check_rate("learning_rate", learning_rate)
    learned = [{"params": list(head.parameters()), "lr": learning_rate}]
    if backbone:
        learned += [{"params": backbone, "lr": 0.1 * learning_rate}]
    optimizer = torch.optim.Adam(learned)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    losses: list[float] = []
    for _ in bar(range(steps), progress, unit="step", desc="multi-token head"):
        some = torch.randint(len(rows), (batch_size,), generator=generator, device=rows.device)
        with torch.set_grad_enabled(bool(backbone)):
            batch = some_places(verifier, rows[some].long(), head.length, states, generator)
        loss = multi_token_loss(head, *batch, discount=discount, distillation=distillation)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        decay.step()
        losses.append(float(loss.detach()))
    return losses


def some_places(
    verifier: Verifier,
    rows: Tensor,
    length: int,
    count: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states at some places of text, the tokens behind each, and what the model says there.

    Args:
        verifier: reads the text.
        rows: [N, L].
        length: how many tokens behind each place, n.
        count: how many places of every row, S.
        generator: source of the places.

    Returns:
        [N S, W], [N S, n] and log-probabilities (nats) [N S, n, V].
    """
    hidden, log_p = read(verifier, rows)  # [N, L, W], [N, L, V]
    most = rows.shape[1] - length
    place = torch.randint(
        most, (len(rows), count, 1), generator=generator, device=rows.device
    )  # [N, S, 1]
    row = torch.arange(len(rows), device=rows.device)[:, None, None]
    ahead = place + torch.arange(length, device=rows.device)  # [N, S, n]
    states = hidden[row.squeeze(-1), place.squeeze(-1)]
    return (
        states.flatten(0, 1),
        rows[row, ahead + 1].flatten(0, 1),
        log_p[row, ahead].flatten(0, 1),
    )


def _parameters(given: object) -> list[nn.Parameter]:
    """Parameters of a model, some of which learn if there are any."""
    if not isinstance(given, Iterable) or isinstance(given, Tensor):
        raise TypeMismatch(f"backbone must be parameters, got {type(given).__name__}")
    found = list(given)
    for one in found:
        check_kind("each of backbone", one, nn.Parameter)
    if found and not any(one.requires_grad for one in found):
        raise TypeMismatch("backbone must be parameters that learn, and all are frozen")
    return found


def _check(head: MultiTokenHead, rows: Tensor) -> None:
    check_kind("head", head, MultiTokenHead)
    check_rows("rows", rows)
    check_tokens("rows", rows, head.unembedding.out_features)
    if rows.shape[1] <= head.length or len(rows) == 0:
        wanted = f"[N, more than {head.length}]"
        raise ShapeMismatch(f"rows must be {wanted} with at least one row, got {tuple(rows.shape)}")
