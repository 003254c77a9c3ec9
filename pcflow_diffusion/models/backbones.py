"""Backbones: anything that maps tokens with masks [B, L] to logits [B, L, V].

The protocol, and adapters for the conventions of known models.

Tensor letters: B batch, L positions, V categories (real tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, Protocol

import torch
from torch import Tensor

from pcflow_diffusion.checks import check_count, check_id, check_logits
from pcflow_diffusion.errors import BackboneError, ShapeMismatch, TypeMismatch

PAST = ("cache", "past_key_values")
"""How transformers name it: from 5.24 on, and before."""


class Backbone(Protocol):
    """A masked diffusion language model, seen from outside.

    One that also takes `attention_mask=` is given it where rows are padded. Its mask is read off
    `mask_token_id` or `config.mask_token_id`, if it has either.
    """

    def __call__(self, tokens: Tensor, /) -> Tensor:
        """Logits [B, L, V] of tokens with masks [B, L]; row i is about token i."""
        ...


def logits_of(
    backbone: Callable[..., Any], tokens: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """What a backbone returns, or its logits, checked to be numbers [B, L, V] where tokens are.

    Args:
        backbone: maps tokens to logits [B, L, V], or to what holds them: an object with `.logits`,
            a mapping with "logits", or a tuple in which one tensor only could be logits.
        tokens: tokens with masks, [B, L].
        attention_mask: what is no padding, [B, L]; handed on if it is given.

    Returns:
        The logits [B, L, V].

    Raises:
        BackboneError: if it returns anything else.

    Examples:
        >>> logits_of(lambda tokens: torch.zeros(*tokens.shape, 5), torch.tensor([[1, 2]])).shape
        torch.Size([1, 2, 5])
    """
    if not callable(backbone):
        raise BackboneError(f"a backbone maps tokens to logits, got {type(backbone).__name__}")
    shown = {} if attention_mask is None else {"attention_mask": attention_mask}
    return read_logits(backbone(tokens, **shown), tokens)


def read_logits(output: Any, tokens: Tensor) -> Tensor:
    """The logits [B, L, V] of tokens [B, L] that a model's output is, or holds.

    Args:
        output: a tensor, or what has `logits`.
        tokens: what the model was asked about, [B, L].

    Returns:
        The logits [B, L, V].

    Raises:
        BackboneError: if there are none.

    Examples:
        >>> read_logits({"logits": torch.zeros(1, 2, 5)}, torch.tensor([[1, 2]])).shape
        torch.Size([1, 2, 5])
    """
    logits = _logits_in(output, tokens)
    try:
        check_logits("the backbone's logits", logits, tokens)
    except (ShapeMismatch, TypeMismatch) as error:
        raise BackboneError(str(error)) from None
    return logits  # type: ignore[no-any-return]


def _logits_in(output: Any, tokens: Tensor) -> Any:
    """The logits that an output of a model holds, or itself."""
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if not isinstance(output, tuple) or hasattr(output, "logits"):
        return getattr(output, "logits", output)
    tensors = [t for t in output if isinstance(t, Tensor) and t.is_floating_point()]
    found = [t for t in tensors if t.shape[:-1] == tokens.shape]
    if len(found) != 1:
        raise BackboneError(f"the backbone's tuple holds {len(found)} tensors that may be logits")
    return found[0]


def mask_of(backbone: object) -> int | None:
    """The id of the mask that a model has, itself or in its `config`; None if neither has one.

    Args:
        backbone: a model.

    Returns:
        The id, or None.

    Examples:
        >>> mask_of(llada(lambda tokens: torch.zeros(*tokens.shape, 5)))
    """
    return _number("mask_token_id", backbone, getattr(backbone, "config", None))


def vocabulary_of(backbone: object) -> int | None:
    """How many ids a model takes, by its `config`; None if that is not said.

    Args:
        backbone: a model.

    Returns:
        The number, or None.

    Examples:
        >>> vocabulary_of(torch.nn.Linear(2, 3)) is None
        True
    """
    if isinstance(backbone, _Adapted):
        return backbone.vocabulary_size
    return _number("vocab_size", getattr(backbone, "config", None))


def _number(name: str, *places: object) -> int | None:
    """The first whole number of this name, among attributes of objects or items of mappings."""
    for place in places:
        found = place.get(name) if isinstance(place, Mapping) else getattr(place, name, None)
        if isinstance(found, int):
            return found
    return None


def takes(name: str, backbone: object) -> bool:
    """Whether a backbone may be called with an argument of this name, by its signature.

    Args:
        name: of an argument.
        backbone: a model, or any function.

    Returns:
        Whether it may.

    Examples:
        >>> takes("attention_mask", lambda tokens, attention_mask: tokens)
        True
    """
    if isinstance(backbone, _Adapted):
        return name == "attention_mask" and backbone.takes_mask
    parameters = _parameters(backbone)
    open_ended = any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())
    return open_ended or name in parameters


def past_argument(backbone: object) -> str | None:
    """The name under which a model takes, and returns, what it computed of the text before.

    Args:
        backbone: a model.

    Returns:
        The name, or None.

    Examples:
        >>> past_argument(lambda tokens, past_key_values=None, use_cache=False: tokens)
        'past_key_values'
    """
    names = (name for name in PAST if not isinstance(backbone, _Adapted))
    return next((name for name in names if name in _parameters(backbone)), None)


def _parameters(backbone: object) -> Mapping[str, Parameter]:
    """What a backbone, or its `forward`, may be called with, if it can be found out."""
    try:
        return signature(getattr(backbone, "forward", backbone)).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return {}


@dataclass(frozen=True, eq=False)
class _Adapted:
    """A model, and what turns tokens and its logits into logits about each token.

    Attributes:
        mask_token_id: the id of the mask, if it is known.
        takes_mask: whether the model is shown padding, with an `attention_mask`.
        most: how many ids it takes, where neither its `config` nor its logits say so.
    """

    model: Callable[..., Any]
    convention: Callable[[Tensor, Tensor], Tensor]
    mask_token_id: int | None
    takes_mask: bool = False
    most: int | None = None

    @property
    def vocabulary_size(self) -> int | None:
        """Of the model."""
        found = vocabulary_of(self.model)
        return self.most if found is None else found

    def __call__(self, tokens: Tensor, /, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, L, V] of tokens [B, L]."""
        return self.convention(tokens, logits_of(self.model, tokens, attention_mask))


def llada(model: Callable[[Tensor], Any]) -> Backbone:
    """LLaDA's convention: logits at position i are about token i (Nie et al. 2025).

    Rows of different lengths are asked one length after another, because LLaDA's published code
    pays no attention to an `attention_mask`. A model that does needs no adapter.

    Args:
        model: maps tokens to logits [B, L, V], or to an object with `.logits`. The backbone has the
            mask of the model or of its `config`.

    Returns:
        A backbone: tokens [B, L] to logits [B, L, V].

    Examples:
        >>> backbone = llada(lambda tokens: torch.zeros(*tokens.shape, 5))
        >>> backbone(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 5])
    """
    return _Adapted(model, lambda tokens, logits: logits, mask_of(model))


def dream(model: Callable[[Tensor], Any]) -> Backbone:
    """Dream's convention: logits at position i - 1 are about token i (Ye et al. 2025).

    Nothing is about token 0, which is visible in practice; it gets the logits at position 0. Rows
    of different lengths are asked one length after another.

    Args:
        model: maps tokens to logits [B, L, V], or to an object with `.logits`. The backbone has the
            mask of the model or of its `config`.

    Returns:
        A backbone: tokens [B, L] to logits [B, L, V].

    Examples:
        >>> backbone = dream(lambda tokens: tokens[..., None].float())
        >>> backbone(torch.tensor([[5, 6, 7]]))[0, :, 0]
        tensor([5., 5., 6.])
    """

    def shifted(tokens: Tensor, logits: Tensor) -> Tensor:
        return torch.cat([logits[:, :1], logits[:, :-1]], dim=1)

    return _Adapted(model, shifted, mask_of(model))


def mdlm(model: Callable[..., Any], mask_token_id: int, sigma: float | None = None) -> Backbone:
    """MDLM's SUBS parameterisation (Sahoo et al. 2024, Sec. 3.2.3), normalised.

    The mask token has probability zero, and a visible token is carried over with probability one.

    Args:
        model: maps tokens to logits [B, L, V] whose V counts the mask, or an object with `.logits`.
        mask_token_id: the id of the mask; the backbone has it as an attribute.
        sigma: the noise level that published models take as their second argument, one for every
            row; those that were trained without a time are given 0. None gives them tokens alone.

    Returns:
        A backbone: tokens [B, L] to log-probabilities [B, L, V] (nats).

    Examples:
        >>> backbone = mdlm(lambda tokens: torch.zeros(*tokens.shape, 3), mask_token_id=2)
        >>> backbone(torch.tensor([[2, 0]])).exp()
        tensor([[[0.5000, 0.5000, 0.0000],
                 [1.0000, 0.0000, 0.0000]]])
    """
    mask_token_id = check_id("mask_token_id", mask_token_id)

    def at_sigma(tokens: Tensor) -> Any:
        assert sigma is not None
        return model(tokens, torch.full((len(tokens),), float(sigma), device=tokens.device))

    def substituted(tokens: Tensor, logits: Tensor) -> Tensor:
        ids = torch.arange(logits.shape[-1], device=logits.device)
        never = torch.full((), -torch.inf, dtype=logits.dtype, device=logits.device)
        proposed = torch.where(ids == mask_token_id, never, logits).log_softmax(dim=-1)
        carried = torch.where(ids == tokens[..., None], torch.zeros_like(never), never)
        return torch.where((tokens == mask_token_id)[..., None], proposed, carried)

    return _Adapted(model if sigma is None else at_sigma, substituted, mask_token_id)


def narrow(model: Callable[..., Any], vocabulary_size: int) -> Backbone:
    """A model whose logits are about more ids than there are tokens: the surplus has no mass.

    Vocabularies are often rounded up for the sake of the machine, or end in ids that no text holds;
    a circuit knows the tokens alone.

    Args:
        model: a backbone.
        vocabulary_size: V; logits of ids from V on are left out. The mask may be one of them.

    Returns:
        A backbone: tokens [B, L] to logits [B, L, V].

    Raises:
        SettingError: if V is below 1.
        BackboneError: when called, if there are fewer logits than V.

    Examples:
        >>> narrow(lambda tokens: torch.zeros(*tokens.shape, 7), 5)(torch.tensor([[1, 6]])).shape
        torch.Size([1, 2, 5])
    """
    check_count("vocabulary_size", vocabulary_size)

    def narrowed(tokens: Tensor, logits: Tensor) -> Tensor:
        if logits.shape[-1] < vocabulary_size:
            raise BackboneError(f"{logits.shape[-1]} logits, fewer than {vocabulary_size=}")
        return logits[..., :vocabulary_size]

    takes_mask = takes("attention_mask", model)
    return _Adapted(model, narrowed, mask_of(model), takes_mask, most=torch.iinfo(torch.long).max)
