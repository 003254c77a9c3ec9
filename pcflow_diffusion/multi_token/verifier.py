"""Causal language models as verifiers: what they have read, and what they expect, at every place.

Legend: B batch, L positions, c of them kept, V tokens, W width of the hidden state.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor
from torch.nn.functional import pad

from pcflow_diffusion.checks import check_kind, check_real
from pcflow_diffusion.errors import BackboneError, ShapeMismatch, TypeMismatch
from pcflow_diffusion.models import Judge, past_argument, read_logits
from pcflow_diffusion.multi_token.acceptance import are_distributions, at_least_single


class Reading(NamedTuple):
    """What a causal model makes of tokens.

    Attributes:
        hidden: its state after each token, which its unembedding reads, [B, L - c, W].
        log_p: log-probabilities (nats) of the token after each, [B, L - c, V].

    Examples:
        >>> import torch
        >>> hidden, log_p = Reading(torch.zeros(1, 2, 8), torch.zeros(1, 2, 5).log_softmax(dim=-1))
        >>> log_p.shape
        torch.Size([1, 2, 5])
    """

    hidden: Tensor
    log_p: Tensor


class Verifier(Protocol):
    """A causal language model, seen from outside: no token sees those behind it.

    If it has a method `select`, which is told rows [A] by their places and means that the next call
    is about these alone, in this order, then rows of a text that are done are not read any more.
    """

    def __call__(self, tokens: Tensor, kept: int = 0, /) -> Reading:
        """Read tokens [B, L], of which the first `kept` are as in the call before.

        What comes back is about those from there on.
        """
        ...


def read(verifier: Verifier, tokens: Tensor, kept: int = 0) -> Reading:
    """What a verifier makes of tokens [B, L] from `kept` on, with log-probabilities to draw from.

    Raises:
        BackboneError: if it is none, or returns anything else than what `Reading` says.
    """
    if not callable(verifier):
        raise BackboneError(f"a verifier reads tokens, got {type(verifier).__name__}")
    found, shape = verifier(tokens, kept), (len(tokens), tokens.shape[1] - kept)
    if not isinstance(found, tuple) or len(found) != 2:
        raise BackboneError(f"a verifier returns a Reading, got {type(found).__name__}")
    try:
        check_real("the verifier's hidden states", found[0], *shape, "W")
        check_real("the verifier's log_p", found[1], *shape, "V")
    except (TypeMismatch, ShapeMismatch) as error:
        raise BackboneError(str(error)) from error
    log_p = found[1] if found[1].dtype.itemsize >= 4 else _log_probs(found[1])
    if not are_distributions(log_p):
        raise BackboneError(
            "the verifier's log_p must be distributions: some are no number, or -inf"
        )
    return Reading(found[0], log_p)


class JudgeVerifier:
    """A judge as a verifier; it computes all anew in every call.

    Args:
        judge: the model.

    Examples:
        >>> import torch
        >>> from pcflow_diffusion.models import TransformerConfig
        >>> judge = Judge(TransformerConfig(vocabulary_size=7, width=16, depth=1, heads=2))
        >>> JudgeVerifier(judge)(torch.tensor([[6, 3, 0]])).log_p.shape
        torch.Size([1, 3, 7])
    """

    def __init__(self, judge: Judge) -> None:
        """Keep the model."""
        check_kind("judge", judge, Judge)
        self.judge = judge

    def __call__(self, tokens: Tensor, kept: int = 0) -> Reading:
        """Read tokens [B, L] from the first that is not `kept`; see `Verifier`."""
        start = self.judge.config.vocabulary_size
        hidden = self.judge.read(pad(tokens, (1, 0), value=start))[:, 1 + kept :]  # [B, L - c, W]
        return Reading(hidden, _log_probs(self.judge.head(hidden)))

    def select(self, rows: Tensor) -> None:
        """Go on with some rows, of which nothing is kept.

        Args:
            rows: numbers of rows of the last call, [A].

        Examples:
            >>> import torch
            >>> from pcflow_diffusion.models import TransformerConfig
            >>> judge = Judge(TransformerConfig(vocabulary_size=7, width=16, depth=1, heads=2))
            >>> JudgeVerifier(judge).select(torch.tensor([0, 2]))
        """


class CausalVerifier:
    """A causal model of `transformers` as a verifier, which keeps keys and values of the text.

    Where the cache forgets, as windows and recurrent states do, it computes all anew in every call.

    Args:
        model: called with tokens, `output_hidden_states=True` and a cache; the last of its hidden
            states is what its unembedding reads.

    Raises:
        BackboneError: when called, if the model takes no cache, or returns no logits or no hidden
            states.

    Examples:
        >>> from transformers import GPT2LMHeadModel  # doctest: +SKIP
        >>> model = GPT2LMHeadModel.from_pretrained("gpt2")  # doctest: +SKIP
        >>> hidden, log_p = CausalVerifier(model)(torch.tensor([[464]]))  # doctest: +SKIP
    """

    def __init__(self, model: Any) -> None:
        """Nothing is kept yet."""
        self.model, self.past_name = model, past_argument(model)
        self.past: Any = None
        self.length = 0

    def __call__(self, tokens: Tensor, kept: int = 0) -> Reading:
        """Read tokens [B, L] from the first that is not `kept`; see `Verifier`."""
        if self.past_name is None:
            raise BackboneError(f"{type(self.model).__name__} takes no cache")
        known = 0 if self.past is None else kept
        if known:
            self.past.crop(known - self.length)
        past = {self.past_name: self.past if known else None, "use_cache": True}
        new = tokens[:, known:]
        output = self.model(new, output_hidden_states=True, **past)
        states = getattr(output, "hidden_states", None)
        if states is None:
            raise BackboneError(f"{type(self.model).__name__} returns no hidden states")
        self.past, self.length = _croppable(getattr(output, self.past_name, None)), tokens.shape[1]
        said = read_logits(output, new)[:, kept - known :]
        return Reading(states[-1][:, kept - known :], _log_probs(said))

    def select(self, rows: Tensor) -> None:
        """Keep what was computed of some rows alone.

        Args:
            rows: numbers of rows of the last call, [A].
        """
        if self.past is not None:
            self.past.batch_select_indices(rows)


def _croppable(past: Any) -> Any:
    """A cache from which any number of the last tokens can be taken, or none."""
    keeps_all = getattr(past, "is_croppable", False) and not any(past.is_sliding)
    return past if keeps_all else None


def _log_probs(logits: Tensor) -> Tensor:
    """Normalised, at least in float32; log-probabilities that were rounded, too."""
    return at_least_single(logits).log_softmax(dim=-1)
