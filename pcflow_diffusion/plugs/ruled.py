"""Which rule the texts of a sampler are under, and what of them it is about.

Legend: B batch, N positions that are known of, C ones behind them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow import Automaton, SettingError
from pcflow_diffusion.checks import check_ids
from pcflow_diffusion.decode import Decoding
from pcflow_diffusion.errors import GenerationError, ShapeMismatch
from pcflow_diffusion.head import CircuitHead


def rule_of(
    head: CircuitHead, given: Automaton | Sequence[Automaton] | None
) -> Automaton | Sequence[Automaton] | None:
    """The rule, or one for every row, that is given or the head's; one that its circuit can take.

    Raises:
        GenerationError: if both have one.
        TypeMismatch: if what is given is none.
        NotCompatible: see `pcflow.CompiledCircuit.given`.
        PropertyRequired: likewise.
    """
    if given is not None and head.constraint is not None:
        raise GenerationError("head and plug have a constraint each: a & b is both")
    found = head.constraint if given is None else Decoding(constraint=given).constraint
    if found is not None:
        head.check_takes_rules()
    return found


def lengths_of_prompts(given: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """How many tokens are given in every row, or one number for all.

    Raises:
        SettingError: if one is below zero, or there is none.
        TypeMismatch: if they are no whole numbers.
    """
    if given is None:
        return None
    lengths = check_ids("prompt_length", [given] if isinstance(given, int) else given)
    wanted = "one number for every row, or for all"
    SettingError.check("prompt_length", lengths, wanted, lambda _: min(lengths) >= 0)
    return lengths


def outside(lengths: Sequence[int], x: Tensor, right: Tensor, attended: Tensor | None) -> Tensor:
    """What no rule is about of texts and what is on their right, bool [B, N + C].

    Args:
        lengths: of their prompts; none for none.
        x: the texts, [B, N].
        right: what is behind them, [B, C].
        attended: what of them is no padding, bool [B, N]; all by default.

    Raises:
        ShapeMismatch: if there are other numbers of texts and prompts.

    Examples:
        >>> x = torch.zeros(2, 3)
        >>> outside([1, 2], x, x[:, :1], None)
        tensor([[ True, False, False, False],
                [ True,  True, False, False]])
    """
    start = torch.tensor(list(lengths) or [0], device=x.device).unsqueeze(-1)
    if len(start) not in (1, len(x)):
        raise ShapeMismatch(f"{len(start)} prompt lengths for {len(x)} rows")
    width = x.shape[1] + right.shape[1]
    given = (torch.arange(width, device=x.device) < start).expand(len(x), width)
    return given if attended is None else given | pad(~attended, (0, right.shape[1]))
