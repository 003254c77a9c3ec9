"""`infill`: every mask of a text, wherever it is."""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow_diffusion.backbones import Backbone
from pcflow_diffusion.checks import check_count, check_generator, check_rows
from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.span import span_of
from pcflow_diffusion.errors import GenerationError
from pcflow_diffusion.head import CircuitHead


@torch.no_grad()
def infill(
    backbone: Backbone,
    tokens: Tensor,
    head: CircuitHead | None = None,
    *,
    steps: int,
    decoding: Decoding | None = None,
    circuit_context: int | None = None,
    mask_token_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill every mask of a text, wherever it is; the backbone sees all of it.

    Args:
        backbone: maps tokens [B, n] to logits [B, n, V].
        tokens: text with masks, [B, n]; rows may have different ones.
        head: a `CircuitHead`, whose windows are laid over the masks; None draws independently.
        steps: backbone calls at most.
        decoding: how tokens are decided; `Decoding()` by default.
        circuit_context: how many tokens to the left of the masks that it decides a window of the
            circuit shows at most; None as many as there is room for. Those to the right it shows
            where there is room.
        mask_token_id: the backbone's mask; by default the head's, or `backbone.mask_token_id`.
        generator: source of randomness; torch's global one by default.

    Returns:
        Tokens without masks, [B, n].

    Raises:
        GenerationError: if there is an end, nobody says what a mask is or two contradict one
            another.
        SettingError: if `steps` is below 1.
        BackboneError: if the backbone does not return [B, n, V].
        LogitsError: if the logits are no distribution at a masked position.
        ShapeMismatch, TypeMismatch: if the text is not tokens [B, n], or no number is an id.

    Examples:
        >>> backbone = lambda tokens: torch.eye(4)[:3].repeat(len(tokens), 1, 1)
        >>> infill(backbone, torch.tensor([[0, 4, 2]]), steps=1, mask_token_id=4)
        tensor([[0, 1, 2]])
    """
    check_rows("tokens", tokens)
    check_count("steps", steps)
    check_generator(generator, tokens.device)
    span = span_of(backbone, head, mask_token_id, decoding, generator, circuit_context)
    if span.how.end_token_id is not None:
        raise GenerationError("infill fills every mask: decoding.end_token_id is for generate")
    return span.fill(tokens, torch.arange(len(tokens), device=tokens.device), 0, 0, steps)
