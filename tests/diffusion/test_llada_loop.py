"""`generate` without a head is the loop that LLaDA publishes, token by token.

The loop stands here in our own words: the whole canvas is shown, every masked token is the best
one, those of the block that are preferred are committed, in numbers that are spread over the steps
of a block with the larger ones first. It is compared where logits hold no mass of the mask itself:
`generate` never commits a mask and ranks without its mass, LLaDA's loop does neither. And noise for
the random ranking is drawn for the block alone; LLaDA's draws it for all of the canvas.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

from pcflow_diffusion import Decoding, generate

V, ROWS, PROMPT, LENGTH = 11, 1000, 3, 8
MASK = V


class Mixer:
    """A random model in which every token, masks too, changes all logits."""

    def __init__(self, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        self.tokens = torch.randn(V + 1, 16, generator=g, dtype=torch.float64)
        self.places = torch.randn(64, 16, generator=g, dtype=torch.float64)
        self.mix = torch.randn(64, 64, generator=g, dtype=torch.float64)
        self.out = torch.randn(16, V, generator=g, dtype=torch.float64)

    def __call__(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        own = self.tokens[tokens] + self.places[:n]
        return torch.tanh(own + self.mix[:n, :n] @ own / n) @ self.out


def shares(masked: Tensor, steps: int) -> Tensor:
    """How many tokens every row commits in every step, [B, steps]: one more in the first few."""
    total = masked.sum(dim=1, keepdim=True)
    return total // steps + (torch.arange(steps) < total % steps)


def reference(
    backbone: Mixer,
    prompt: Tensor,
    steps: int,
    block_length: int,
    scale: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The loop; with a generator the ranking is random."""
    start, blocks = prompt.shape[1], LENGTH // block_length
    canvas = torch.cat([prompt, torch.full((len(prompt), LENGTH), MASK)], dim=1)
    for block in range(blocks):
        low = start + block * block_length
        high = low + block_length
        counts = shares(canvas[:, low:high] == MASK, steps // blocks)
        for count in counts.T:
            logits = backbone(canvas)
            if scale > 0:
                blank = canvas.clone()
                blank[:, :start] = MASK
                without = backbone(blank)
                logits = without + (scale + 1) * (logits - without)
            best = logits.argmax(dim=-1)
            sure = logits.softmax(dim=-1).gather(-1, best.unsqueeze(-1)).squeeze(-1)
            if generator is not None and bool((canvas[:, low:high] == MASK).any()):
                sure[:, low:high] = torch.rand(
                    len(prompt), high - low, generator=generator
                ).double()
            sure[:, :low] = sure[:, high:] = -torch.inf
            sure[canvas != MASK] = -torch.inf
            place = sure.argsort(dim=-1, descending=True).argsort(dim=-1)
            canvas = torch.where(place < count.unsqueeze(-1), best, canvas)
    return canvas


def prompts(rows: int = ROWS, seed: int = 0) -> Tensor:
    return torch.randint(V, (rows, PROMPT), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [0.0, 1.5])
@pytest.mark.parametrize("block_length", [1, 2, 4, 8])
def test_a_thousand_rows_are_the_same_at_every_block_length(
    block_length: int, scale: float
) -> None:
    backbone, rows, blocks = Mixer(1), prompts(), LENGTH // block_length
    for each in {1, 2, 3, block_length, block_length + 2}:  # more steps than tokens, too
        found = generate(
            backbone,
            rows,
            steps=each * blocks,
            gen_length=LENGTH,
            block_length=block_length,
            mask_token_id=MASK,
            decoding=Decoding(guidance=scale),
        )
        assert torch.equal(found, reference(backbone, rows, each * blocks, block_length, scale))


@pytest.mark.parametrize("block_length", [1, 2, 4, 8])
def test_a_thousand_rows_are_the_same_in_random_order(block_length: int) -> None:
    backbone, rows, blocks = Mixer(2), prompts(), LENGTH // block_length
    for each in {1, 2, block_length, block_length + 1}:
        found = generate(
            backbone,
            rows,
            steps=each * blocks,
            gen_length=LENGTH,
            block_length=block_length,
            mask_token_id=MASK,
            decoding=Decoding(ranking="random"),
            generator=torch.Generator().manual_seed(3),
        )
        noise = torch.Generator().manual_seed(3)
        wanted = reference(backbone, rows, each * blocks, block_length, generator=noise)
        assert torch.equal(found, wanted)


def test_hidden_masks_and_no_guidance_are_something_else() -> None:
    """The comparison can fail: nearly every row differs where one of both is left out."""
    backbone, rows = Mixer(1), prompts()
    how = {"steps": 4, "gen_length": LENGTH, "block_length": 4, "mask_token_id": MASK}
    hidden = generate(backbone, rows, **how, show="blocks")  # type: ignore[arg-type]
    guided = generate(backbone, rows, **how, decoding=Decoding(guidance=1.5))  # type: ignore[arg-type]
    wanted = reference(backbone, rows, 4, 4)
    for other in (hidden, guided):
        assert (other != wanted).any(dim=1).double().mean() > 0.5


@settings(max_examples=of_fifty(50))
@given(st.integers(1, 12), st.integers(1, 15))
def test_steps_commit_as_many_as_there(length: int, steps: int) -> None:
    committed: list[int] = []
    generate(
        Mixer(0),
        prompts(rows=1),
        steps=steps,
        gen_length=length,
        block_length=length,
        mask_token_id=MASK,
        callback=lambda step: committed.append(int(step.committed.sum())),
    )
    wanted = shares(torch.ones(1, length), steps).long()[0]
    assert committed == wanted[wanted > 0].tolist()
