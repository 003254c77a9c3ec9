"""Training a circuit against a frozen backbone: the conditional objective (CoDD, Eq. 7).

Legend: N blocks, B batch, L positions, V tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pcflow import Batch, FitResult, Learner, fit
from pcflow_diffusion.checks import check_count, check_kind, check_weights
from pcflow_diffusion.errors import NothingMasked
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models.progress import shown
from pcflow_diffusion.train.blocks import BlockSource
from pcflow_diffusion.train.chain import LEARNER


def fit_conditional(
    head: CircuitHead,
    train: BlockSource,
    learner: Learner | None = None,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    validation: BlockSource | None = None,
    patience: int | None = None,
    weights: Tensor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    distributed: bool = False,
    progress: bool | None = None,
    generator: torch.Generator | None = None,
) -> FitResult:
    """Maximise log q(x0 | x) in the circuit's parameters, in place; the backbone is frozen.

    What is learned is log p(x0) + sum_masked log lambda_i(x0_i) - log Z with the potentials lambda
    of the head's coupling. The gradient is exact for the product; other couplings take their
    potentials from the circuit as it is at every step, and hold them fixed. Neither learner is sure
    to go up, so give validation blocks: the best parameters on them are kept. Tokens that the
    head's `top_k` leaves out are summed out, here and in what is returned.

    Args:
        head: whose circuit is trained; its modulation, if it has one, stays as it is.
        train: blocks in memory (`Blocks`) or on disk (`StoredLogits`).
        learner: `pcflow.Anemone`, by default with step 0.5 that decays, momentum 0.3 and a
            pseudocount of 1e-9, or `pcflow.Gradient`.
        epochs: how often to go over the blocks.
        batch_size: blocks per step.
        validation: blocks to judge by.
        patience: stop after this many epochs without improvement; needs validation blocks.
        weights: [N], how much every training block counts, such as `elbo_weights`.
        checkpoint: a file written after every epoch, from which an interrupted run goes on.
        distributed: share every batch among the processes of `torch.distributed`.
        progress: whether to show a progress bar; by default if standard error is a terminal.
        generator: source of the order of the blocks; torch's global one by default.

    Returns:
        Mean log q(x0 | x) by epoch, in nats per block; see `pcflow.fit`, which does the work and
        raises what else can go wrong.

    Raises:
        NothingMasked: if nothing is masked.
        ShapeMismatch: if shapes do not fit.
        TokenOutOfRange: if a token does not.

    Examples:
        >>> import pcflow as pf
        >>> from pcflow_diffusion import Blocks
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(5)))
        >>> x0, x = torch.randint(5, (32, 4)), torch.full((32, 4), 5)
        >>> train, head = Blocks(torch.zeros(32, 4, 5), x, x0), CircuitHead(model, 5, "product")
        >>> len(fit_conditional(head, train, epochs=3, progress=False).train)
        3
    """
    check_kind("head", head, CircuitHead)
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    with frozen(head.modulation):
        return fit(
            head.model,
            CoupledBlocks(head, train, weights),
            LEARNER if learner is None else learner,
            epochs=epochs,
            batch_size=batch_size,
            validation=None if validation is None else CoupledBlocks(head, validation),
            patience=patience,
            checkpoint=checkpoint,
            distributed=distributed,
            progress=shown(progress),
            generator=generator,
        )


class CoupledBlocks:
    """Blocks as `pcflow.Examples`: coupled to the circuit whenever they are asked for.

    Args:
        head: the circuit and its coupling.
        blocks: what the backbone says.
        weights: [N], how much every block counts; ones by default.

    Raises:
        ShapeMismatch: if there are not N weights.
        NothingMasked: if nothing is.
    """

    def __init__(
        self, head: CircuitHead, blocks: BlockSource, weights: Tensor | None = None
    ) -> None:
        """Check what can be checked without reading logits."""
        check_kind("blocks", blocks, BlockSource)
        if weights is not None:
            check_weights("weights", weights, len(blocks))
        if not bool((blocks.x == head.mask_token_id).any()):
            raise NothingMasked("there is nothing to learn from: no block has a masked token")
        self.head, self.blocks, self.weights = head, blocks, weights

    def __len__(self) -> int:
        """How many, N."""
        return len(self.blocks)

    def take(self, rows: Tensor) -> Batch:
        """Those with the given numbers [B], under the circuit as it is now."""
        some, device = self.blocks[rows], self.head.model.device
        weight = None if self.weights is None else self.weights[rows.to(self.weights.device)]
        x, x0 = some.x.to(device), some.x0.to(device)
        return self.head.conditional(some.logits.to(device), x, x0, weight)

    def fingerprint(self) -> list[Tensor]:
        """What is masked, weights, and the first block with what the backbone says about it."""
        first = self.blocks[torch.arange(1)]
        weights = [] if self.weights is None else [self.weights]
        logits = [first.logits] if isinstance(first.logits, Tensor) else first.logits.parts
        return [self.blocks.x, first.x0, *logits, *weights]


@contextmanager
def frozen(module: nn.Module | None) -> Iterator[None]:
    """Let no gradient reach a module's parameters for the time being."""
    learning = [] if module is None else [p for p in module.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
