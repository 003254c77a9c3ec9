"""`CircuitLM`: a masked diffusion language model of which unmodified samplers draw from the joint.

Legend: B batch, N positions of what a call is about, C visible ones before it, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pcflow import SettingError
from pcflow_diffusion.backbones import mask_of
from pcflow_diffusion.checks import check_ids, check_rows
from pcflow_diffusion.errors import BackboneError, GenerationError
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.plugs.logits import CircuitLogits


@dataclass(frozen=True, eq=False)
class _Text:
    """What the last call without a cache was about.

    Attributes:
        tokens: [B, N].
        given: which of them were visible when the text was met first, bool [B, N].
    """

    tokens: Tensor
    given: Tensor


class CircuitLM(nn.Module):
    """A language model whose logits a sampler may take the best of, and has drawn from the joint.

    It is called as the model is and returns what the model returns, with other logits: see
    `CircuitLogits`, which makes them. So greedy samplers of LLaDA, dllm, Fast-dLLM, diffusers and
    others work as they are. Calls may be about all of a text, about the rest from a block on, or
    about a block alone: those have `past_key_values`, and are drawn given what was on the left in
    the last call without. So it remembers one batch of texts: do not share it between threads.
    Attributes that it does not have are the model's, such as `config`.

    Args:
        model: maps tokens [B, N], and whatever it is called with beside them, to logits [B, N, V],
            or to an object, a mapping or a tuple with them.
        head: the circuit.
        prompt_length: how many tokens of a row are given, or of every row [B]. By default those
            that are visible when a text is met first. With it and `block_length` no more is drawn
            than the block of the first mask.
        right_shift: whether the sampler takes logits at i - 1 to be about token i, as Dream's do.
            Then the token at 0 is visible.
        guidance: w of classifier-free guidance, as in LLaDA: logits u + (w + 1) (l - u), where u
            are those of the text with all that was given masked. It doubles the model's calls.
        settings: what `CircuitLogits` takes beside: `mode`, `confidence`, `temperature`,
            `suppress`, `block_length`, `generator`.

    Raises:
        SettingError, TypeMismatch: if a setting is out of range.
        GenerationError: if the model has another mask than the head, itself or in its `config`.

    Examples:
        >>> import pcflow as pf
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), mask_token_id=5)
        >>> lm = CircuitLM(lambda tokens: torch.zeros(*tokens.shape, 5), head)
        >>> lm(torch.tensor([[1, 5, 5]])).argmax(dim=-1).shape  # a joint draw of two tokens
        torch.Size([1, 3])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        head: CircuitHead,
        prompt_length: int | Sequence[int] | None = None,
        right_shift: bool = False,
        guidance: float = 0.0,
        **settings: Any,
    ) -> None:
        """Check every setting."""
        super().__init__()
        if not callable(model):
            raise BackboneError(f"a model maps tokens to logits, got {type(model).__name__}")
        SettingError.check("guidance", guidance, "finite and not negative", lambda w: 0 <= w < inf)
        self.model, self.head, self.joint = model, head, CircuitLogits(head, **settings)
        self.right_shift, self.guidance = right_shift, guidance
        self.prompt_length = _lengths(prompt_length)
        if (mask := mask_of(model)) is not None:
            self.joint.check_mask(mask)
        self._text: _Text | None = None

    def __getattr__(self, name: str) -> Any:
        """What is not here is the model's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)

    @property
    def device(self) -> torch.device:
        """Where model and circuit are."""
        return self.head.model.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the model, or of the circuit if the model has none."""
        return getattr(self.model, "dtype", self.head.model.dtype)

    def forward(self, input_ids: Tensor, *rest: Any, **named: Any) -> Any:
        """What the model returns, with logits that say what was drawn.

        Args:
            input_ids: tokens with masks, [B, N].
            rest: what the model takes, and gets as it is.
            named: the same; `attention_mask` also says what is padding, and `past_key_values` that
                this is not all of the text.

        Raises:
            BackboneError: if the model returns no logits [B, N, V].
            GenerationError: if the sampler guides, which mixes two draws; or if something is asked
                of a call with a cache that it cannot do.
            ShapeMismatch, TypeMismatch, TokenOutOfRange, LogitsError: see `CircuitHead.couple`.
            NoMassError: if the model allows of nothing that the circuit does.
        """
        check_rows("input_ids", input_ids)
        cached = _is_cached(named.get("past_key_values"))
        left = self._left(input_ids, named) if cached else input_ids[:, :0]
        width = left.shape[1] + input_ids.shape[1]
        attended = _attended(named.get("attention_mask"), len(input_ids), width)
        if cached:
            self._refuse_cache()
        else:
            self._text = self._met(input_ids)
            self._refuse_guidance(input_ids, self._text.given, attended)
        output = self.model(input_ids, *rest, **named)
        raw = _logits_in(output, input_ids)
        found = self.joint(
            self._guided(raw, input_ids, rest, named),
            input_ids,
            left=left,
            wanted=None if cached else self._block(input_ids),
            attended=attended,
        )
        if self.right_shift:
            found = torch.cat([found[:, 1:], raw[:, -1:].to(found.dtype)], dim=1)
        return _with_logits(output, found)

    def _guided(
        self, logits: Tensor, x: Tensor, rest: tuple[Any, ...], named: dict[str, Any]
    ) -> Tensor:
        """Logits [B, N, V] about the tokens at their positions, after guidance."""
        if self.guidance:
            assert self._text is not None
            without = x.masked_fill(self._text.given, self.head.mask_token_id)
            other = _logits_in(self.model(without, *rest, **named), x)
            logits = other + (self.guidance + 1) * (logits - other)
        return torch.cat([logits[:, :1], logits[:, :-1]], dim=1) if self.right_shift else logits

    def _met(self, x: Tensor) -> _Text:
        """A text; it is the last one, gone on, in rows that contradict that nowhere."""
        if self.prompt_length is not None:
            places = torch.arange(x.shape[1], device=x.device)
            given = (places < self.prompt_length.to(x.device)).expand(x.shape)
            return _Text(x.clone(), given & (x != self.head.mask_token_id))
        given, last = x != self.head.mask_token_id, self._text
        if last is not None and last.tokens.shape == x.shape and last.tokens.device == x.device:
            both = given & (last.tokens != self.head.mask_token_id)
            same = ((x == last.tokens) | ~both).all(dim=-1, keepdim=True)
            given = given & (last.given | ~same)
        return _Text(x.clone(), given)

    def _block(self, x: Tensor) -> Tensor | None:
        """The masks [B, N] of the block that has the first one, if blocks are known."""
        length = self.joint.block_length
        if self.prompt_length is None or length is None:
            return None
        masked, start = x == self.head.mask_token_id, self.prompt_length.to(x.device)
        first = masked.byte().argmax(dim=-1, keepdim=True)
        stop = start + ((first - start) // length + 1) * length  # [B, 1]
        return masked & (torch.arange(x.shape[1], device=x.device) < stop)

    def _left(self, x: Tensor, named: dict[str, Any]) -> Tensor:
        """Visible tokens [B, C] before those of a call with a cache, as far as they are known."""
        if self._text is None or len(self._text.tokens) != len(x):
            return x[:, :0]
        text, mask = self._text.tokens, self.head.mask_token_id
        start = _place(named.get("replace_position"), text, x, mask)
        before, there = text[:, :start], text[:, start : start + x.shape[1]]
        here = x[:, : there.shape[1]]
        agree = (there == here) | (there == mask) | (here == mask)
        if not bool(agree.all()) or bool((before == mask).any()):
            return x[:, :0]
        return before[:, -self.head.length :]

    def _refuse_cache(self) -> None:
        """Refuse what a call with a cache cannot do."""
        if self.guidance or self.right_shift:
            asked = "guidance" if self.guidance else "right_shift"
            raise GenerationError(f"{asked} needs all of the text: call the model without a cache")

    def _refuse_guidance(self, x: Tensor, given: Tensor, attended: Tensor | None) -> None:
        """Refuse a batch whose second half is the first with all that is given masked."""
        if self.joint.mode == "marginal" or len(x) % 2 or not len(x):
            return
        (x, other), given = x.chunk(2), given.chunk(2)[0]
        asked = given if attended is None else given & attended.chunk(2)[0]  # padding may stay
        differ = x != other
        hidden = (other == self.head.mask_token_id) | ~differ
        guided = hidden & (differ | ~asked) & (given | ~differ)  # [B / 2, N]
        if bool((guided.all(dim=-1) & asked.any(dim=-1)).all()):
            raise GenerationError(
                "the sampler guides: it would mix two draws. Switch its guidance off and take "
                "CircuitLM(..., guidance=w), which acts before the circuit"
            )


def _lengths(given: int | Sequence[int] | None) -> Tensor | None:
    """How many tokens are given, [B, 1] or [1, 1]."""
    if given is None:
        return None
    lengths = check_ids("prompt_length", [given] if isinstance(given, int) else given)
    wanted = "one number for every row, or for all"
    SettingError.check("prompt_length", lengths, wanted, lambda _: min(lengths) >= 0)
    return torch.tensor(lengths).unsqueeze(-1)


def _is_cached(past: Any) -> bool:
    """Whether there is something in a cache."""
    length = getattr(past, "get_seq_length", None)
    return past is not None and (length is None or int(length()) > 0)


def _place(replaced: Any, text: Tensor, x: Tensor, mask: int) -> int:
    """Where in a text [B, T] a call with a cache begins: it replaces, follows, or is the rest."""
    if isinstance(replaced, Tensor):
        return int(replaced[0].byte().argmax())
    if isinstance(replaced, tuple):
        return int(replaced[0])
    return text.shape[1] if bool((text != mask).all()) else max(0, text.shape[1] - x.shape[1])


def _attended(mask: Any, rows: int, width: int) -> Tensor | None:
    """Which of the last positions [B, width] are no padding, of a mask [B, T] or [B, H, Q, T]."""
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
        return None
    seen = mask >= 0 if mask.is_floating_point() and mask.dim() == 4 else mask != 0
    seen = seen.flatten(1, -2).any(dim=1) if mask.dim() == 4 else seen  # [B, T]
    known = seen[:, -width:].expand(rows, -1)
    return pad(known, (width - known.shape[1], 0), value=True)


def _logits_in(output: Any, x: Tensor) -> Tensor:
    """The logits [B, N, V] in what a model returned."""
    if isinstance(output, tuple):
        output = output[0]
    elif isinstance(output, Mapping):
        output = output.get("logits")
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.shape[:-1] != x.shape:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        wanted = f"[{len(x)}, {x.shape[1]}, V]"
        raise BackboneError(f"the model must return logits {wanted}, got {found}")
    return logits


def _with_logits(output: Any, logits: Tensor) -> Any:
    """The same with other logits."""
    if isinstance(output, Tensor):
        return logits
    if isinstance(output, tuple):
        return (logits, *output[1:])
    changed = copy(output)
    if isinstance(output, Mapping):
        changed["logits"] = logits
    else:
        changed.logits = logits
    return changed
