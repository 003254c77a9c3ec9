"""`CircuitLM`: a masked diffusion language model of which unmodified samplers draw from the joint.

Legend: B batch, N positions of what a call is about, C visible ones before it, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pcflow import SettingError
from pcflow_diffusion.checks import check_count, check_rows
from pcflow_diffusion.decode import guided
from pcflow_diffusion.errors import BackboneError, GenerationError, ShapeMismatch
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models import mask_of, read_logits
from pcflow_diffusion.plugs.calls import (
    attended_in,
    by_name,
    length_of,
    past_of,
    place,
    with_logits,
)
from pcflow_diffusion.plugs.logits import CircuitLogits


@dataclass(frozen=True, eq=False)
class _Text:
    """What the last call without a cache was about.

    Attributes:
        tokens: [B, N], and what was put into a cache behind them since.
        given: which of them were visible when the text was met first, bool [B, N].
    """

    tokens: Tensor
    given: Tensor


class CircuitLM(nn.Module):
    """A language model whose logits a sampler may take the best of, and has drawn from the joint.

    It is called as the model is and returns what the model returns, with other logits: see
    `CircuitLogits`, which makes them. So greedy samplers of LLaDA, dllm, Fast-dLLM, diffusers and
    others work as they are. Calls may be about all of a text, about the rest from a block on, or
    about a block alone: those have `past_key_values`, or a `cache`, and are drawn given what was on
    the left in the last call without. So it remembers one batch of texts: threads, and generations
    that take turns, need one each. Attributes that it does not have are the model's, such as
    `config`; not its `generate`, which would ask the model alone.

    Args:
        model: maps tokens [B, N], and whatever it is called with beside them, to logits [B, N, V],
            or to an object, a mapping or a tuple with them.
        head: the circuit.
        prompt_length: how many tokens of a row are given, or of every row [B]. By default those
            that are visible when a text is met first: in a call of another shape, with other given
            tokens or with more masks than the last one. Say it to a sampler that shows more of a
            text with every block, or masks tokens again. With it and `block_length` no more is
            drawn than the block of the first mask.
        right_shift: whether the sampler takes logits at i - 1 to be about token i, as Dream's do.
            Then the token at 0 is visible.
        guidance: w of classifier-free guidance, as in LLaDA: logits u + (w + 1) (l - u), where u
            are those of the text with all that was given masked. It doubles the model's calls.
        gen_length: how many tokens there are to be after the prompt, if the sampler does not show
            all of them from the first call on. Only a rule asks for it.
        settings: what `CircuitLogits` takes beside: `mode`, `confidence`, `temperature`,
            `suppress`, `block_length`, `generator`, `constraint`: a rule for what comes after the
            prompt, whose length must be said then.

    Raises:
        SettingError: if a setting is out of range.
        TypeMismatch: likewise.
        GenerationError: if the model has another mask than the head, itself or in its `config`; or
            if there is a rule, and it is not said where the prompt ends.

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
        gen_length: int | None = None,
        **settings: Any,
    ) -> None:
        """Check every setting."""
        super().__init__()
        if not callable(model):
            raise BackboneError(f"a model maps tokens to logits, got {type(model).__name__}")
        SettingError.check("guidance", guidance, "finite and not negative", lambda w: 0 <= w < inf)
        self.model, self.head, self.right_shift, self.guidance = model, head, right_shift, guidance
        self.joint = CircuitLogits(head, **settings, prompt_length=prompt_length)
        lengths = self.joint.lengths
        self.prompt_length = torch.tensor(lengths).unsqueeze(-1) if lengths else None
        self.gen_length = gen_length
        if self.joint.constraint is not None and not lengths:
            raise GenerationError("a rule is about what comes after a prompt: say prompt_length")
        if gen_length is not None:
            check_count("gen_length", gen_length)
        if (mask := mask_of(model)) is not None:
            self.joint.check_mask(mask)
        self._text: _Text | None = None

    def __getattr__(self, name: str) -> Any:
        """What is not here is the model's, but for what would generate without the circuit."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
        found = getattr(self.model, name)
        if "generate" in name and callable(found):
            raise AttributeError(
                f"{name} is the model's own and would not ask the circuit: hand this to a sampler "
                "that takes a model, or take one of the other plugs, such as dream_hook"
            )
        return found

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
            named: the same; `attention_mask` also says what is padding, and `past_key_values` or
                `cache` that this is not all of the text.

        Raises:
            BackboneError: if the model returns no logits [B, N, V].
            GenerationError: if the sampler guides, which mixes two draws; or if something is asked
                of a call with a cache that it cannot do.
            ShapeMismatch: see `CircuitHead.couple`.
            TypeMismatch: likewise.
            TokenOutOfRange: likewise.
            LogitsError: likewise.
            NoMassError: if the model allows of nothing that the circuit does.
        """
        check_rows("input_ids", input_ids)
        said = by_name(self.model, input_ids, rest, named)
        past = past_of(said)
        left = self._left(input_ids, past, said)
        attended = attended_in(said, left, input_ids)
        self._follow(input_ids, past)
        if past is None:
            self._refuse_guidance(input_ids, attended)
        output = self.model(input_ids, *rest, **named)
        raw = read_logits(output, input_ids)
        found = self.joint(
            self._guided(raw, input_ids, rest, named),
            input_ids,
            left=left,
            wanted=self._block(input_ids) if past is None else None,
            attended=attended,
            right=self._right(left, input_ids),
        )
        if self.right_shift:
            found = torch.cat([found[:, 1:], raw[:, -1:].to(found.dtype)], dim=1)
        return with_logits(output, raw, found)

    def _guided(
        self, logits: Tensor, x: Tensor, rest: tuple[Any, ...], named: dict[str, Any]
    ) -> Tensor:
        """Logits [B, N, V] about the tokens at their positions, after guidance."""
        if self.guidance:
            assert self._text is not None
            without = x.masked_fill(self._text.given, self.head.mask_token_id)
            other = read_logits(self.model(without, *rest, **named), x)
            logits = guided(logits, other, self.guidance)
        return torch.cat([logits[:, :1], logits[:, :-1]], dim=1) if self.right_shift else logits

    def _met(self, x: Tensor) -> _Text:
        """A text; it is the last one, gone on, in rows where no given token and no mask is new."""
        if self.prompt_length is not None:
            return _Text(x.clone(), self._prompts(x) & (x != self.head.mask_token_id))
        masked, last = x == self.head.mask_token_id, self._text
        given = ~masked
        if last is not None and last.tokens.shape == x.shape and last.tokens.device == x.device:
            before = last.tokens == self.head.mask_token_id
            same = ((x == last.tokens) | ~last.given).all(dim=-1)
            same &= masked.sum(dim=-1) <= before.sum(dim=-1)
            given = given & (last.given | ~same.unsqueeze(-1))
        return _Text(x.clone(), given)

    def _prompts(self, x: Tensor) -> Tensor:
        """Which of the tokens are in prompts, whose length was said, bool [B, N]."""
        assert self.prompt_length is not None
        if len(self.prompt_length) not in (1, len(x)):
            raise ShapeMismatch(f"{len(self.prompt_length)} prompt lengths for {len(x)} rows")
        places = torch.arange(x.shape[1], device=x.device)
        return (places < self.prompt_length.to(x.device)).expand(x.shape)

    def _block(self, x: Tensor) -> Tensor | None:
        """The masks [B, N] of the block that has the first one, if blocks are known."""
        length = self.joint.block_length
        if self.prompt_length is None or length is None:
            return None
        masked, start = x == self.head.mask_token_id, self.prompt_length.to(x.device)
        first = masked.byte().argmax(dim=-1, keepdim=True)
        stop = start + ((first - start) // length + 1) * length  # [B, 1]
        return masked & (torch.arange(x.shape[1], device=x.device) < stop)

    def _left(self, x: Tensor, past: Any, said: dict[str, Any]) -> Tensor:
        """Visible tokens [B, C] before those of a call with a cache, as far as they are known."""
        if past is None:
            return x[:, :0]
        if self._text is None or len(self._text.tokens) != len(x):
            return self._unknown(x)
        text, mask = self._text.tokens, self.head.mask_token_id
        start = place(said.get("replace_position"), length_of(past), text, x, mask)
        before, there = text[:, :start], text[:, start : start + x.shape[1]]
        here = x[:, : there.shape[1]]
        agree = (there == here) | (there == mask) | (here == mask)
        gap = before.shape[1] < start or bool((before == mask).any())
        if gap or not bool(agree.all()):
            return self._unknown(x)
        return before if self.joint.constraint else before[:, -self.head.length :]

    def _unknown(self, x: Tensor) -> Tensor:
        """Nothing before the tokens of a call, of which something is not known.

        Raises:
            GenerationError: if a rule asks for it.
        """
        if self.joint.constraint:
            raise GenerationError("a rule needs all that is before a block, which is not known")
        return x[:, :0]

    def _right(self, left: Tensor, x: Tensor) -> Tensor | None:
        """Tokens and masks [B, C'] behind those of a call and all before it, if a rule asks."""
        if not self.joint.constraint:
            return None
        assert self._text is not None and self.prompt_length is not None
        known = self._text.tokens[:, left.shape[1] + x.shape[1] :]
        if self.gen_length is None:
            return known
        whole = int(self.prompt_length.max()) + self.gen_length
        more = max(0, whole - left.shape[1] - x.shape[1] - known.shape[1])
        return pad(known, (0, more), value=self.head.mask_token_id)

    def _follow(self, x: Tensor, past: Any) -> None:
        """Remember what a call is about.

        Raises:
            GenerationError: if there is a cache, and it cannot do what is asked.
        """
        if past is None:
            self._text = self._met(x)
        elif self.guidance or self.right_shift:
            asked = "guidance" if self.guidance else "right_shift"
            raise GenerationError(f"{asked} needs all of the text: call the model without a cache")
        elif self._text is not None and not bool((x == self.head.mask_token_id).any()):
            self._text = self._grown(self._text, x, length_of(past))

    def _grown(self, text: _Text, x: Tensor, length: int | None) -> _Text | None:
        """A text when tokens enter a cache of some length; None if that is not known."""
        if bool((text.tokens == self.head.mask_token_id).any()):
            return text  # a canvas, of which the cache is
        if length is None or len(text.tokens) != len(x):
            return None
        if length != text.tokens.shape[1]:
            return text
        return _Text(torch.cat([text.tokens, x], dim=1), pad(text.given, (0, x.shape[1])))

    def _refuse_guidance(self, x: Tensor, attended: Tensor | None) -> None:
        """Refuse a batch whose second half is the first with all that is given masked."""
        if self.joint.mode == "marginal" or len(x) % 2 or not len(x):
            return
        assert self._text is not None
        (x, other), given = x.chunk(2), self._text.given.chunk(2)[0]
        asked = given if attended is None else given & attended.chunk(2)[0]  # padding may stay
        differ = x != other
        hidden = (other == self.head.mask_token_id) | ~differ
        same = hidden & (differ | ~asked) & (given | ~differ)  # [B / 2, N]
        if bool((same.all(dim=-1) & asked.any(dim=-1)).all()):
            raise GenerationError(
                "the sampler guides: it would mix two draws. Switch its guidance off and take "
                "CircuitLM(..., guidance=w), which acts before the circuit"
            )
