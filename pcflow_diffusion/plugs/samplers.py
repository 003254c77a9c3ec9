"""Doors that samplers leave open: hooks, schedulers, processors, decoders, algorithms, policies.

Each hands on what it is given with other logits, see `CircuitLogits`; none imports what it is for.

Legend: B batch, N positions of a canvas or a block, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcflow_diffusion.errors import GenerationError, TypeMismatch
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.plugs.logits import CircuitLogits

BLOCKS = "sees a block without what is before and behind it, so it obeys no rule: take CircuitLM"


def dream_hook(head: CircuitHead, **settings: Any) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """For Dream: `generation_logits_hook_func` of `diffusion_generate`, at temperature 0.

    Dream shifts its logits before the hook sees them, so nothing is to be shifted here.

    Args:
        head: the circuit.
        settings: what `CircuitLogits` takes.

    Returns:
        A function of step, tokens with masks [B, N] and logits [B, N, V].

    Examples:
        >>> import pcflow as pf
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), mask_token_id=5)
        >>> hook = dream_hook(head)
        >>> hook(0, torch.tensor([[1, 5, 5]]), torch.zeros(1, 3, 5)).shape
        torch.Size([1, 3, 5])
    """
    joint = CircuitLogits(head, **settings)

    def hook(step: Any, x: Tensor, logits: Tensor) -> Tensor:
        return joint(logits, x)

    return hook


def circuit_scheduler(head: CircuitHead, scheduler: Any, **settings: Any) -> Any:
    """For diffusers: a `BlockRefinementScheduler` whose `step` draws the block from the joint.

    It sees the block alone. A `CircuitLM` as the pipeline's model also sees what is before it, and
    needs no other scheduler.

    Args:
        head: the circuit.
        scheduler: a scheduler; it stays as it is.
        settings: what `CircuitLogits` takes.

    Returns:
        A copy of the scheduler. Its `step` raises `GenerationError` at a temperature above zero,
        which goes into `settings`, and without a mask.

    Examples:
        >>> import pcflow as pf
        >>> from types import SimpleNamespace
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), mask_token_id=5)
        >>> theirs = SimpleNamespace(step=lambda logits, t, x, **given: logits.argmax(dim=-1))
        >>> ours = circuit_scheduler(head, theirs)
        >>> ours.step(torch.zeros(1, 4, 5), 0, torch.tensor([[1, 5, 5, 5]]), mask_token_id=5).shape
        torch.Size([1, 4])
    """
    _check_has("scheduler", scheduler, "step")
    joint, made = _of_blocks(head, settings), copy(scheduler)
    step = made.step

    def drawn(model_output: Tensor, timestep: Any, sample: Tensor, **given: Any) -> Any:
        joint.check_mask(given.get("mask_token_id"))
        joint.check_temperature(given.get("temperature", 0.0))
        return step(joint(model_output, sample), timestep, sample, **given)

    made.step = drawn
    return made


def circuit_processor(head: CircuitHead, **settings: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """For transformers: a logits processor, such as DiffusionGemma's `generate` takes.

    The canvas has no masks and its sampler draws at a temperature, keeps what is stable, and reads
    the logits again: so these are the joint's marginals, never draws. With the projection they are
    the model's own, so the coupling should be log-linear.

    Args:
        head: the circuit; its mask is no token of the texts.
        settings: what `CircuitLogits` takes beside `mode`.

    Returns:
        A function of the text before the canvas and scores of the canvas, [B, N, V].

    Examples:
        >>> import pcflow as pf
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), mask_token_id=5)
        >>> process = circuit_processor(head)
        >>> process(torch.tensor([[1, 2]]), torch.zeros(1, 3, 5)).shape
        torch.Size([1, 3, 5])
    """
    joint = CircuitLogits(head, mode="marginal", **settings)

    def process(input_ids: Tensor, scores: Tensor) -> Tensor:
        canvas = torch.full_like(scores[..., 0], head.mask_token_id, dtype=input_ids.dtype)
        return joint(scores, canvas, left=input_ids[:, -head.length :]).to(scores.dtype)

    return process


def circuit_transfer_index(
    head: CircuitHead, get_transfer_index: Callable[..., Any], **settings: Any
) -> Callable[..., Any]:
    """For Fast-dLLM: what takes the place of its function `get_transfer_index`.

    It draws where the function may commit, and nowhere else.

    Args:
        head: the circuit.
        get_transfer_index: theirs, of (logits, temperature, remasking, mask_index, x, ...).
        settings: what `CircuitLogits` takes.

    Returns:
        A function that is called alike, and raises `GenerationError` at a temperature above zero.

    Examples:
        >>> import pcflow as pf
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), mask_token_id=5)
        >>> theirs = lambda logits, temperature, how, may, x: (logits.argmax(dim=-1), may)
        >>> ours = circuit_transfer_index(head, theirs)
        >>> x = torch.tensor([[1, 5, 5, 5]])
        >>> tokens, transferred = ours(torch.zeros(1, 4, 5), 0.0, "low_confidence", x == 5, x)
        >>> tokens.shape
        torch.Size([1, 4])
    """
    _check_has("get_transfer_index", get_transfer_index, "__call__")
    joint = _of_blocks(head, settings)

    def transfer(
        logits: Tensor,
        temperature: float,
        how: str,
        may: Tensor,
        x: Tensor,
        *rest: Any,
        **named: Any,
    ) -> Any:
        joint.check_temperature(temperature)
        drawn = joint(logits, x, wanted=may)
        return get_transfer_index(drawn, temperature, how, may, x, *rest, **named)

    return transfer


def circuit_decoder(head: CircuitHead, decoder: Any, **settings: Any) -> Any:
    """For dInfer: a `ParallelDecoder` whose `decode` draws the block from the joint.

    Args:
        head: the circuit.
        decoder: a decoder with `mask_id` and `temperature`; it stays as it is.
        settings: what `CircuitLogits` takes.

    Returns:
        A copy of the decoder.

    Raises:
        GenerationError: if the decoder has another mask, or a temperature above zero.

    Examples:
        >>> import pcflow as pf
        >>> from types import SimpleNamespace
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), mask_token_id=5)
        >>> greedy = lambda logits, start, end, x: logits.argmax(dim=-1)
        >>> theirs = SimpleNamespace(decode=greedy, mask_id=5, temperature=0.0)
        >>> x = torch.tensor([[1, 2, 5, 5]])
        >>> circuit_decoder(head, theirs).decode(torch.zeros(1, 2, 5), 2, 4, x).shape
        torch.Size([1, 2])
    """
    _check_has("decoder", decoder, "decode", "mask_id", "temperature")
    joint, made = CircuitLogits(head, **settings), copy(decoder)
    joint.check_mask(decoder.mask_id)
    joint.check_temperature(decoder.temperature)
    decode = made.decode

    def drawn(
        logits: Tensor, block_start: int, block_end: int, x: Any, *rest: Any, **named: Any
    ) -> Any:
        ruled = joint.constraint is not None
        left = x[:, 0 if ruled else max(0, block_start - head.length) : block_start]
        right = x[:, block_end:] if ruled else None
        new = joint(logits, x[:, block_start:block_end], left=left, right=right)
        return decode(new, block_start, block_end, x, *rest, **named)

    made.decode = drawn
    return made


def circuit_algorithm(head: CircuitHead, algorithm: type, **settings: Any) -> type:
    """For SGLang: a subclass of a `DllmAlgorithm` whose `step` draws the block from the joint.

    Args:
        head: the circuit.
        algorithm: a class such as `LowConfidence`.
        settings: what `CircuitLogits` takes.

    Returns:
        A class, to be entered in `algo_name_to_cls` under its name: that of the algorithm after
        "Circuit".

    Examples:
        >>> import pcflow as pf
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), mask_token_id=5)
        >>> class Greedy:
        ...     block_size, mask_id = 4, 5
        ...     def step(self, forward_batch, logits_output, states):
        ...         return logits_output.argmax(dim=-1)
        >>> circuit_algorithm(head, Greedy).__name__
        'CircuitGreedy'
    """
    _check_has("algorithm", algorithm, "step", "__mro__")
    joint = _of_blocks(head, settings)

    def step(self: Any, forward_batch: Any, logits_output: Any, states: Any) -> Any:
        joint.check_mask(self.mask_id)
        x = forward_batch.input_ids.view(-1, self.block_size)
        logits = getattr(logits_output, "full_logits", logits_output)  # [B * N, V]
        drawn = joint(logits.view(*x.shape, -1), x).view(logits.shape)
        if logits is not logits_output:
            logits_output = copy(logits_output)
            logits_output.full_logits = drawn
        else:
            logits_output = drawn
        return algorithm.step(self, forward_batch, logits_output, states)  # type: ignore[attr-defined]

    return type(f"Circuit{algorithm.__name__}", (algorithm,), {"step": step})


@dataclass(frozen=True)
class _Policy:
    """A remasking policy that sees other logits."""

    joint: CircuitLogits
    policy: Any

    def apply(
        self,
        *,
        input_draft: Sequence[int],
        logits: Any = None,
        remasking_config: Mapping[str, Any] | None = None,
    ) -> Any:
        """One step of the policy, on logits [N, V] of which the draft's masks are drawn."""
        if logits is None:
            raise GenerationError("a policy with a circuit needs logits")
        logits = torch.as_tensor(logits)
        draft = torch.as_tensor(list(input_draft), device=logits.device)
        drawn = self.joint(logits.unsqueeze(0), draft.unsqueeze(0))[0]
        return self.policy.apply(
            input_draft=input_draft, logits=drawn, remasking_config=remasking_config
        )


def circuit_policy(head: CircuitHead, policy: Any, **settings: Any) -> Any:
    """For the dLLM plugin of vLLM: a `RemaskingPolicy` that commits draws from the joint.

    Args:
        head: the circuit.
        policy: a policy that is greedy in the logits [N, V] of a block.
        settings: what `CircuitLogits` takes.

    Returns:
        The policy, to be used in place of the given one.

    Examples:
        >>> import pcflow as pf
        >>> from types import SimpleNamespace
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), mask_token_id=5)
        >>> greedy = lambda *, logits, **given: logits.argmax(dim=-1)
        >>> ours = circuit_policy(head, SimpleNamespace(apply=greedy))
        >>> ours.apply(input_draft=[1, 5, 5, 5], logits=torch.zeros(4, 5)).shape
        torch.Size([4])
    """
    _check_has("policy", policy, "apply")
    return _Policy(_of_blocks(head, settings), policy)


def circuit_remask(
    head: CircuitHead, batched_remask: Callable[..., Any], **settings: Any
) -> Callable[..., Any]:
    """For the dLLM plugin of vLLM: what takes the place of its function `batched_remask`.

    Args:
        head: the circuit.
        batched_remask: theirs, of (logits [B, N, V], input_draft [B, N], mask_token_id, threshold).
        settings: what `CircuitLogits` takes.

    Returns:
        A function that is called alike.

    Examples:
        >>> import pcflow as pf
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), mask_token_id=5)
        >>> theirs = lambda logits, draft, mask_token_id, threshold: logits.argmax(dim=-1)
        >>> ours = circuit_remask(head, theirs)
        >>> ours(torch.zeros(1, 4, 5), torch.tensor([[1, 5, 5, 5]]), 5, threshold=0.9).shape
        torch.Size([1, 4])
    """
    _check_has("batched_remask", batched_remask, "__call__")
    joint = _of_blocks(head, settings)

    def remask(logits: Tensor, input_draft: Tensor, mask_token_id: int, threshold: float) -> Any:
        joint.check_mask(mask_token_id)
        return batched_remask(joint(logits, input_draft), input_draft, mask_token_id, threshold)

    return remask


def _of_blocks(head: CircuitHead, settings: Mapping[str, Any]) -> CircuitLogits:
    """Logits of a sampler that shows blocks alone.

    Raises:
        GenerationError: if they are to obey a rule.
    """
    joint = CircuitLogits(head, **settings)
    if joint.constraint is not None:
        raise GenerationError(f"the sampler {BLOCKS}")
    return joint


def _check_has(name: str, theirs: object, *attributes: str) -> None:
    """Refuse what cannot be what it is for.

    Raises:
        TypeMismatch: naming what it lacks.
    """
    for attribute in attributes:
        if not hasattr(theirs, attribute):
            raise TypeMismatch(f"{name} must have {attribute}, got {type(theirs).__name__}")
