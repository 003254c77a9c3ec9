"""What a model has computed of text that no longer changes, kept from step to step.

Legend: b some rows, n positions, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from pcflow_diffusion.errors import BackboneError
from pcflow_diffusion.models import read_logits


@dataclass(eq=False)
class Prefix:
    """A model that takes and returns what it computed, and that of the text before a block.

    It is computed with the first step of a block, and holds until the block is full. That is
    exact where a model lets no token see those of later blocks. One that lets it would by then
    compute others: there it is an approximation, the one that Fast-dLLM makes.

    Attributes:
        model: maps tokens to an object, or a mapping, with logits and a past.
        name: of the past, as an argument and in what the model returns.
        past: keys and values of every layer.
        length: of how many positions.
        owner: which text they are of.
    """

    model: Callable[..., Any]
    name: str
    past: Any = None
    length: int = 0
    owner: object = None

    def logits(
        self, tokens: Tensor, attention_mask: Tensor | None, owner: object, final: int
    ) -> Tensor:
        """Logits [b, n, V] of tokens [b, n], zero where the past is known.

        Args:
            tokens: as for a backbone.
            attention_mask: what of them is no padding, [b, n].
            owner: whose tokens these are: the past of others is forgotten.
            final: how many tokens, from the first on, will not change.

        Raises:
            BackboneError: if the model returns no logits, or nothing to keep.
        """
        known = self.length if owner == self.owner else 0
        shown = {} if attention_mask is None else {"attention_mask": attention_mask}
        past = {self.name: self.past if known else None, "use_cache": True}
        output = self.model(tokens[:, known:], **past, **shown)
        self.past = _first(self.kept(output), final, tokens.shape[1])
        self.length, self.owner = final, owner
        return pad(read_logits(output, tokens[:, known:]), (0, 0, known, 0))

    def kept(self, output: Any) -> Any:
        """What a model returned to be kept."""
        name = self.name
        past = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if past is None:
            raise BackboneError(f"the backbone returns no {name}, which cache=True keeps")
        return past


def _first(past: Any, length: int, of: int) -> Any:
    """The past of the first so many positions: a cache that crops, or tensors [b, H, n, E]."""
    if hasattr(past, "crop"):
        if of > length:
            past.crop(length - of)
        return past
    return tuple(tuple(tensor[:, :, :length] for tensor in layer) for layer in past)
