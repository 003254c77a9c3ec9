"""Training a modulation and its circuit against a frozen backbone (CoDD, Appendix E)."""

from __future__ import annotations

import os
from math import inf

import torch
from torch import Tensor, nn

from pcflow import FitResult, Gradient, SettingError, fit
from pcflow_diffusion.checks import check_count, check_kind, check_rate
from pcflow_diffusion.errors import CouplingError
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models.progress import shown
from pcflow_diffusion.train.blocks import BlockSource
from pcflow_diffusion.train.conditional import CoupledBlocks, frozen


def fit_modulation(
    head: CircuitHead,
    train: BlockSource,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    circuit_learning_rate: float = 0.1,
    validation: BlockSource | None = None,
    patience: int | None = None,
    weights: Tensor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    generator: torch.Generator | None = None,
) -> FitResult:
    """Maximise log q(x0 | x) in modulation and circuit together, in place; the backbone is frozen.

    The objective of `fit_conditional` (CoDD, Eq. 7), by Adam with steps that fall linearly to zero.
    The gradient is exact; of a log-linear coupling with b, the circuit's own marginals, which know
    nothing of the modulation, are held fixed.

    Args:
        head: whose modulation and circuit are trained.
        train: blocks in memory (`Blocks`) or on disk (`StoredLogits`).
        epochs: how often to go over the blocks.
        batch_size: blocks per step.
        learning_rate: the modulation's.
        circuit_learning_rate: the circuit's; zero leaves it as it is, and costs less.
        validation: blocks to judge by; the best parameters on them are kept.
        patience: stop after this many epochs without improvement; needs validation blocks.
        weights: [N], how much every training block counts, such as `elbo_weights`.
        checkpoint: a file written after every epoch, from which an interrupted run goes on.
        progress: whether to show a progress bar; by default if standard error is a terminal.
        generator: source of the order of the blocks; torch's global one by default.

    Returns:
        Mean log q(x0 | x) by epoch, in nats per block; see `pcflow.fit`, which does the work and
        raises what else can go wrong.

    Raises:
        CouplingError: if the head has no modulation.
        SettingError: if a learning rate is out of range.
        NothingMasked: if nothing is masked.
        ShapeMismatch: if shapes do not fit.
        TokenOutOfRange: if a token does not fit.

    Examples:
        >>> import pcflow as pf
        >>> from pcflow_diffusion import Blocks, Modulation
        >>> model = pf.compile(pf.add_gates(pf.hmm(4, 2, pf.Categorical(5)), gates=3))
        >>> train = Blocks(torch.zeros(9, 4, 5), torch.full((9, 4), 5), torch.randint(5, (9, 4)))
        >>> head = CircuitHead(model, 5, "product", modulation=Modulation(5, 3))
        >>> len(fit_modulation(head, train, epochs=2, progress=False).train)
        2
    """
    check_kind("head", head, CircuitHead)
    if head.modulation is None:
        raise CouplingError("the head has no modulation to fit; fit_conditional trains its circuit")
    SettingError.check("learning_rate", learning_rate, "positive", lambda rate: 0 < rate < inf)
    check_rate("circuit_learning_rate", circuit_learning_rate)
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    learned = [
        {"params": list(head.modulation.parameters()), "lr": learning_rate},
        {"params": list(head.model.parameters()), "lr": circuit_learning_rate},
    ]
    with frozen(head.model if circuit_learning_rate == 0 else None):
        return fit(
            _Modulated(head),
            CoupledBlocks(head, train, weights),
            Gradient(lambda _: torch.optim.Adam(learned), decay=True),
            epochs=epochs,
            batch_size=batch_size,
            validation=None if validation is None else CoupledBlocks(head, validation),
            patience=patience,
            checkpoint=checkpoint,
            progress=shown(progress),
            generator=generator,
        )


class _Modulated(nn.Module):
    """Circuit and modulation as one model, whose parameters `fit` keeps together."""

    def __init__(self, head: CircuitHead) -> None:
        super().__init__()
        self.circuit, self.modulation = head.model, head.modulation
        self.num_variables, self.engine = head.model.num_variables, head.model.engine
        self.log_prob = head.model.log_prob
