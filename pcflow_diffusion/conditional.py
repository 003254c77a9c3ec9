"""Training a circuit against a frozen backbone: the conditional objective (CoDD, Eq. 7).

Legend: N examples, B batch, L positions, V tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from pcflow_diffusion.errors import ShapeMismatch
from pcflow_diffusion.head import CircuitHead


def fit_conditional(
    head: CircuitHead,
    logits: Tensor,
    x: Tensor,
    x0: Tensor,
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 0.02,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Maximise log q(x0 | x) per masked token by Adam on the circuit's parameters, in place.

    The backbone's logits are computed once, by the caller. The gradient is exact for the product
    coupling; other couplings hold the circuit's own marginals fixed.

    Args:
        head: whose circuit is trained.
        logits: the backbone's, [N, L, V].
        x: tokens with masks, [N, L].
        x0: the tokens, [N, L].
        steps: number of Adam steps.
        batch_size: examples per step.
        learning_rate: Adam's at the start; it falls linearly to zero.
        progress: whether to show a progress bar.
        generator: source of the batches; torch's global one by default.

    Returns:
        Nats per masked token, one number per step.

    Raises:
        ShapeMismatch: if shapes do not fit or nothing is masked; TokenOutOfRange: if a token does.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(5)))
        >>> head = CircuitHead(model, mask_token_id=5, coupling="product")
        >>> x0 = torch.randint(5, (32, 4))
        >>> x = torch.full((32, 4), 5)
        >>> losses = fit_conditional(head, torch.zeros(32, 4, 5), x, x0, steps=3, progress=False)
        >>> len(losses)
        3
    """
    if not bool((x == head.mask_token_id).any()):
        raise ShapeMismatch("fit_conditional needs examples with masked tokens")
    optimizer = torch.optim.Adam(head.model.parameters(), lr=learning_rate)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    losses: list[float] = []
    with tqdm(range(steps), disable=not progress, unit="step", desc="circuit, Eq. 7") as bar:
        for _ in bar:
            rows = torch.randint(len(x), (batch_size,), generator=generator, device=x.device)
            masked = (x[rows] == head.mask_token_id).sum().clamp_min(1)
            loss = -head.log_prob(logits[rows], x[rows], x0[rows]).sum() / masked
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            decay.step()
            losses.append(float(loss.detach()))
            recent = losses[-20:]
            bar.set_postfix(refresh=False, nats=f"{sum(recent) / len(recent):.3f}")
    return losses
