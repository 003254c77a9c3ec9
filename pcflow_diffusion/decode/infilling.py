"""`infill`: every mask of a text, wherever it is."""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow_diffusion.checks import check_count
from pcflow_diffusion.decode.canvas import Callback, canvas_of, settled
from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.prompts import (
    Text,
    Tokens,
    bounds,
    check_known,
    device_of,
    read_text,
)
from pcflow_diffusion.errors import GenerationError
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models import Backbone, vocabulary_of


@torch.no_grad()
def infill(
    backbone: Backbone,
    tokens: Tokens,
    head: CircuitHead | None = None,
    *,
    steps: int,
    decoding: Decoding | None = None,
    circuit_context: int | None = None,
    attention_mask: Tensor | None = None,
    mask_token_id: int | None = None,
    callback: Callback | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill every mask of a text, wherever it is; the backbone sees all of it.

    Args:
        backbone: maps tokens [B, n] to logits [B, n, V].
        tokens: text with masks, [B, n] or [n], lists, or what a tokenizer returns; rows may have
            different masks.
        head: a `CircuitHead`, whose windows are laid over the masks; None draws independently.
            Tokens that its circuit does not know cut the text into texts of their own.
        steps: backbone calls at most.
        decoding: how tokens are decided; `Decoding()` by default.
        circuit_context: how many tokens to the left of the masks that it decides a window of the
            circuit shows at most; None as many as there is room for. Those to the right it shows
            where there is room.
        attention_mask: zero where a row is padded, on either side, [B, n]: there tokens stay, and
            neither backbone nor head sees them (see `generate`).
        mask_token_id: the backbone's mask; by default the head's, or the `mask_token_id` of the
            backbone or of its `config`.
        callback: is told of every step by a `Step`; what it returns is True to stop there.
        generator: source of randomness; torch's global one by default.

    Returns:
        Tokens without masks, [B, n].

    Raises:
        GenerationError: if there is an end, nobody says what a mask is or two contradict one
            another.
        PromptError: if there is padding between tokens.
        TokenOutOfRange: if there is an id outside of the backbone's vocabulary.
        SettingError: if `steps` is below 1.
        BackboneError: if the backbone does not return [B, n, V].
        LogitsError: if the logits are no distribution at a masked position.
        EmptyLanguage: if no text with these tokens obeys the constraint.
        NotCompatible: if the circuit cannot be asked under one.
        PropertyRequired: likewise.
        NoMassError: if the circuit holds what is known impossible, and so it is without what is to
            the left of the masks.
        ShapeMismatch: if the text is not tokens [B, n], or no number is an id.
        TypeMismatch: likewise.

    Examples:
        >>> backbone = lambda tokens: torch.eye(4)[:3].repeat(len(tokens), 1, 1)
        >>> infill(backbone, torch.tensor([[0, 4, 2]]), steps=1, mask_token_id=4)
        tensor([[0, 1, 2]])
    """
    text = read_text("tokens", tokens, attention_mask, device_of(head, backbone))
    check_count("steps", steps)
    how, mask = settled(backbone, head, decoding, mask_token_id)
    if how.end_token_id is not None:
        raise GenerationError("infill fills every mask: decoding.end_token_id is for generate")
    check_known("tokens", text, mask, vocabulary_of(backbone))
    own = Text(text.tokens.clone(), text.real, text.attended)
    where = text.real
    canvas = canvas_of(backbone, head, own, where, mask, how, circuit_context, generator, callback)
    for rows in text.groups(backbone):
        stops = bounds(text.real[rows])
        every = slice(int(stops[0].min()), int(stops[1].max()))
        canvas.fill(rows, every, every, steps)
    return canvas.tokens
