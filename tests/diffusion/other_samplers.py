"""The decisive lines of other people's samplers, in our own words: what they ask, what they commit.

Legend: B batch, N positions of a canvas, n of a block, V tokens.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

Model = Callable[..., Any]


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The best token at every position, and its probability."""
    probability, token = logits.softmax(dim=-1).max(dim=-1)
    return token, probability


def commit(x: Tensor, tokens: Tensor, score: Tensor, counts: Sequence[int]) -> Tensor:
    """So many tokens of every row are committed, those of the highest scores."""
    x = x.clone()
    for row, count in enumerate(counts):
        best = score[row].topk(min(count, int((score[row] > -torch.inf).sum()))).indices
        x[row, best] = tokens[row, best]
    return x


def shares(total: int, steps: int) -> list[int]:
    """How many tokens each step commits: earlier ones take what does not divide."""
    return [total // steps + (step < total % steps) for step in range(steps)]


def llada(
    model: Model,
    prompt: Tensor,
    mask: int,
    *,
    gen_length: int,
    block_length: int,
    steps: int,
    guidance: float = 0.0,
    remasking: str = "low_confidence",
    **named: Any,
) -> Tensor:
    """LLaDA: all of the canvas is shown, and only the block may be committed."""
    start = prompt.shape[1]
    x = torch.cat([prompt, prompt.new_full((len(prompt), gen_length), mask)], dim=1)
    given = x != mask
    for stop in range(start + block_length, start + gen_length + 1, block_length):
        for count in shares(block_length, steps):
            if guidance:
                both = model(torch.cat([x, x.masked_fill(given, mask)]), **named).logits
                asked, free = both.chunk(2)
                logits = free + (guidance + 1) * (asked - free)
            else:
                logits = model(x, **named).logits
            tokens, score = greedy(logits)
            if remasking == "random":
                score = torch.rand_like(score)
            score[:, stop:] = -torch.inf
            score = score.masked_fill(x != mask, -torch.inf)
            x = commit(x, tokens, score, [count] * len(x))
    return x


def dllm(
    model: Model,
    prompts: Sequence[Tensor],
    mask: int,
    pad: int,
    *,
    gen_length: int,
    block_length: int,
    steps: int,
    right_shift: bool = False,
) -> list[Tensor]:
    """dllm: prompts of any lengths from the left, masks behind each, padding at the end."""
    lengths = [len(prompt) for prompt in prompts]
    x = torch.full((len(prompts), max(lengths) + gen_length), pad)
    attended = torch.zeros_like(x)
    for row, prompt in enumerate(prompts):
        x[row, : lengths[row]] = prompt
        x[row, lengths[row] : lengths[row] + gen_length] = mask
        attended[row, : lengths[row] + gen_length] = 1
    for block in range(1, gen_length // block_length + 1):
        for count in shares(block_length, steps):
            logits = model(x, attention_mask=attended).logits
            if right_shift:
                logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
            tokens, score = greedy(logits)
            for row, length in enumerate(lengths):
                score[row, length + block * block_length :] = -torch.inf
            x = commit(x, tokens, score.masked_fill(x != mask, -torch.inf), [count] * len(x))
    return [x[row, : length + gen_length] for row, length in enumerate(lengths)]


def bd3lm(
    model: Model,
    prompts: Sequence[Tensor],
    mask: int,
    pad: int,
    *,
    gen_length: int,
    block_length: int,
    steps: int,
) -> list[Tensor]:
    """BD3LM of dllm: the prefix, padded on the left, fills a cache; then blocks alone are shown."""
    lengths = [len(prompt) for prompt in prompts]
    width = -(-max(lengths) // block_length) * block_length
    x = torch.full((len(prompts), width), pad)
    for row, prompt in enumerate(prompts):
        x[row, width - lengths[row] :] = prompt
    for _ in range(gen_length // block_length):
        cache = model(x, attention_mask=_keys(x, pad, 0), use_cache=True).past_key_values
        block = x.new_full((len(x), block_length), mask)
        for count in shares(block_length, steps):
            seen = _keys(torch.cat([x, block], dim=1), pad, x.shape[1])
            logits = model(block, attention_mask=seen, past_key_values=cache).logits
            tokens, score = greedy(logits)
            score = score.masked_fill(block != mask, -torch.inf)
            block = commit(block, tokens, score, [count] * len(x))
        x = torch.cat([x, block], dim=1)
    return [x[row, width - length :] for row, length in enumerate(lengths)]


def _keys(x: Tensor, pad: int, first: int) -> Tensor:
    """Which keys the queries from the first on may see, [B, 1, Q, T]."""
    return (x != pad)[:, None, None].expand(-1, 1, x.shape[1] - first, -1)


def transfer_index(
    logits: Tensor,
    temperature: float,
    remasking: str,
    mask_index: Tensor,
    x: Tensor,
    count: int | None,
    threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Fast-dLLM: the tokens, and which of them to commit, by number or by threshold."""
    tokens, score = greedy(logits)
    score = score.masked_fill(~mask_index, -torch.inf)
    most = mask_index.sum(dim=-1).tolist() if count is None else [count] * len(x)
    after = commit(x, tokens, score, most)
    chosen = mask_index & (after != x)
    if threshold is not None:
        chosen &= (score >= threshold) | (score == score.amax(dim=-1, keepdim=True))
    return torch.where(mask_index, tokens, x), chosen


def fast_dllm(
    model: Model,
    prompt: Tensor,
    mask: int,
    *,
    gen_length: int,
    block_length: int,
    steps: int,
    dual: bool,
    threshold: float | None = None,
    choose: Callable[..., tuple[Tensor, Tensor]] = transfer_index,
) -> Tensor:
    """Fast-dLLM: the canvas once a block, then its rest (prefix cache) or the block (dual)."""
    x = torch.cat([prompt, prompt.new_full((len(prompt), gen_length), mask)], dim=1)
    for start in range(prompt.shape[1], x.shape[1], block_length):
        stop, counts = start + block_length, iter(shares(block_length, steps))
        output = model(x, use_cache=True)
        cache, logits, first, last = output.past_key_values, output.logits, 0, x.shape[1]
        while True:
            part = x[:, first:last]
            may = part == mask
            may[:, stop - first :] = False
            count = None if threshold is not None else next(counts)
            tokens, chosen = choose(logits, 0.0, "low_confidence", may, part, count, threshold)
            x[:, first:last] = torch.where(chosen, tokens, part)
            if not bool((x[:, start:stop] == mask).any()):
                break
            first, last = start, stop if dual else x.shape[1]
            replaced = torch.zeros_like(x, dtype=torch.bool)
            replaced[:, start:stop] = True
            more = {"replace_position": replaced} if dual else {}
            logits = model(x[:, first:last], past_key_values=cache, use_cache=True, **more).logits
    return x


def dream(
    model: Model,
    prompt: Tensor,
    mask: int,
    hook: Callable[[int, Tensor, Tensor], Tensor],
    *,
    gen_length: int,
    steps: int,
    algorithm: str,
) -> Tensor:
    """Dream: shift, hook, then each mask by chance ("origin") or the most certain ones."""
    x = torch.cat([prompt, prompt.new_full((len(prompt), gen_length), mask)], dim=1)
    times = torch.linspace(1, 1e-3, steps + 1)
    for step in range(steps):
        logits = model(x).logits
        logits = hook(step, x, torch.cat([logits[:, :1], logits[:, :-1]], dim=1))
        tokens, score = greedy(logits)
        share = 1.0 if step == steps - 1 else float(1 - times[step + 1] / times[step])
        if algorithm == "origin":
            now = (x == mask) & (torch.rand(x.shape) < share)
            x = torch.where(now, tokens, x)
        else:
            if algorithm == "topk_margin":
                best = logits.softmax(dim=-1).topk(2).values
                score = best[..., 0] - best[..., 1]
            elif algorithm == "entropy":
                p = logits.softmax(dim=-1)
                score = (p * (p + 1e-10).log()).sum(dim=-1)
            count = int((x == mask).sum() / len(x) * share)
            x = commit(x, tokens, score.masked_fill(x != mask, -torch.inf), [count] * len(x))
    return x


def mdlm(log_p_x0: Callable[[Tensor], Tensor], x: Tensor, mask: int, *, steps: int) -> Tensor:
    """MDLM: every mask is drawn from q(x_s | x_t), with what was said kept while nothing moves."""
    said = None
    for step in range(steps):
        t, s = 1 - step / steps, 1 - (step + 1) / steps
        said = log_p_x0(x).exp() if said is None else said
        q = said * (t - s)
        q[..., mask] = s
        drawn = torch.multinomial(q.flatten(0, 1), 1).view(x.shape)
        after = torch.where(x == mask, drawn, x)
        said, x = (said if bool((after == x).all()) else None), after
    return x


def subs(logits: Tensor, x: Tensor, mask: int) -> Tensor:
    """MDLM's parameterisation: the mask has no mass, and visible tokens stay."""
    logits = logits.clone()
    logits[..., mask] += -1e6
    logits = logits - logits.logsumexp(dim=-1, keepdim=True)
    kept = torch.full_like(logits, -1e6).scatter(-1, x.unsqueeze(-1), 0.0)
    return torch.where((x == mask).unsqueeze(-1), logits, kept)


class LowConfidence:
    """SGLang: an algorithm edits the ids of a batch of blocks in place."""

    def __init__(self, config: Any) -> None:
        self.block_size, self.mask_id = config.block_size, config.mask_id
        self.threshold = config.threshold

    def step(self, forward_batch: Any, full_logits: Tensor, states: list[Any]) -> list[bool]:
        x = forward_batch.input_ids.view(-1, self.block_size)
        masked = x == self.mask_id
        tokens, score = greedy(full_logits.view(*x.shape, -1))
        score = score.masked_fill(~masked, -torch.inf)
        chosen = (score > self.threshold) | (score == score.amax(dim=-1, keepdim=True))
        forward_batch.input_ids.copy_(torch.where(chosen & masked, tokens, x).view(-1))
        return list((~masked).all(dim=-1))


def batched_remask(
    logits: Tensor, input_draft: Tensor, mask_token_id: int, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The dLLM plugin of vLLM: all above a threshold, or what is as good as the best."""
    tokens, score = greedy(logits.float())
    masked = (input_draft == mask_token_id) & (tokens != mask_token_id)
    score = score.masked_fill(~masked, -torch.inf)
    least = (score.amax(dim=-1, keepdim=True) - 1e-5).clamp(-1000, threshold)
    draft = torch.where((score >= least) & masked, tokens, input_draft)
    return draft, (draft != mask_token_id).all(dim=-1), (draft != input_draft).sum(dim=-1)


class Policy:
    """The dLLM plugin of vLLM, one block at a time: the most certain ones of the draft."""

    def apply(self, *, input_draft: Sequence[int], logits: Any, remasking_config: Any) -> Any:
        draft = torch.tensor(input_draft)
        tokens, score = greedy(logits)
        score = score.masked_fill(draft != remasking_config["mask_token_id"], -torch.inf)
        count = remasking_config["num_transfer"]
        after = commit(draft[None], tokens[None], score[None], [count])[0]
        return SimpleNamespace(committed_token_ids=(), next_input_block=tuple(after.tolist()))


class Decoder:
    """dInfer: a decoder is given the logits of a block and writes into the text."""

    def __init__(self, temperature: float, threshold: float, mask_id: int) -> None:
        self.temperature, self.threshold, self.mask_id = temperature, threshold, mask_id

    def decode(self, logits: Tensor, block_start: int, block_end: int, x: Tensor) -> None:
        block = x[:, block_start:block_end]
        masked = block == self.mask_id
        tokens, score = greedy(logits)
        score = score.masked_fill(~masked, -torch.inf)
        least = (score.amax(dim=-1, keepdim=True) - 1e-5).clamp(-1000, self.threshold)
        x[:, block_start:block_end] = torch.where((score >= least) & masked, tokens, block)
