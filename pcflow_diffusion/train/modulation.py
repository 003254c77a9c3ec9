"""Modulation: a small network between the backbone and the circuit's latents or gates.

CoDD (arXiv 2603.00045, Appendix E) has the backbone steer the circuit: by potentials on its latent
variables (E.1, `pcflow.expose_latents`), or by parameters of its own for every example (E.2,
`pcflow.add_gates`). Here both are potentials on control variables, worked out from what every
backbone says anyway, its marginals.

Legend: B batch, L positions, V tokens (all of them, or the k that are listed), S values of a
control, W width.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from pcflow import Evidence, FitResult, Gradient, fit
from pcflow_diffusion.errors import CouplingError, RatioOutOfRange
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.train.blocks import BlockSource
from pcflow_diffusion.train.conditional import CoupledBlocks, frozen


class Modulation(nn.Module):
    """Log-potentials of one control per position, from the backbone's marginals.

    Every position is the mean of its tokens' vectors under the backbone, or the vector of its
    visible token; residual convolutions mix neighbours. Its last layer starts at zero, so that
    training starts at the circuit as it is.

    Args:
        vocabulary_size: V.
        values: of a control, S: the states of `expose_latents`, the gates of `add_gates`.
        width: of the vectors, W.
        depth: number of convolutions, each over five positions.

    Raises:
        RatioOutOfRange: if a number is below 1.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.expose_latents(pf.hmm(4, states=2, inputs=pf.Categorical(5)))
        >>> head = CircuitHead(pf.compile(circuit), 5, "product", modulation=Modulation(5, 2))
        >>> head.sample(torch.zeros(1, 4, 5), torch.tensor([[3, 5, 5, 1]]))[0].shape
        torch.Size([1, 4])
    """

    def __init__(self, vocabulary_size: int, values: int, width: int = 64, depth: int = 3) -> None:
        """Draw the first weights from torch's global generator."""
        super().__init__()
        if min(vocabulary_size, values, width, depth) < 1:
            numbers = f"{vocabulary_size=}, {values=}, {width=}, {depth=}"
            raise RatioOutOfRange(f"a modulation needs numbers of at least 1, got {numbers}")
        self.tokens = nn.Embedding(vocabulary_size, width)
        self.masked = nn.Parameter(torch.zeros(width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.mixing = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2) for _ in range(depth))
        self.out = nn.Linear(width, values)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, evidence: Evidence, log_m: Tensor, categories: Tensor | None = None
    ) -> Tensor:
        """Log-potentials [B, L, S] (nats), in the modulation's precision.

        Args:
            evidence: the visible tokens, and which are missing.
            log_m: the backbone's normalised log-marginals [B, L, V]; not read where visible.
            categories: [B, L, k], the tokens that `log_m` [B, L, k] is about.
        """
        assert evidence.values is not None and evidence.missing is not None
        hidden = self.masked + self._expected(log_m.to(self.masked.dtype).exp(), categories)
        missing = evidence.missing.unsqueeze(-1)
        hidden = torch.where(missing, hidden, self.tokens(evidence.values))  # [B, L, W]
        for norm, mix in zip(self.norms, self.mixing, strict=True):
            hidden = hidden + mix(torch.relu(norm(hidden)).mT).mT
        found: Tensor = self.out(hidden)
        return found

    def _expected(self, m: Tensor, categories: Tensor | None) -> Tensor:
        """Mean vector [B, L, W] of the tokens under marginals."""
        if categories is None:
            return m @ self.tokens.weight
        bags = torch.nn.functional.embedding_bag(
            categories.flatten(0, 1),
            self.tokens.weight,
            per_sample_weights=m.flatten(0, 1),
            mode="sum",
        )
        found: Tensor = bags.unflatten(0, m.shape[:2])
        return found


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
        RatioOutOfRange: if a learning rate is out of range.
        ShapeMismatch: if shapes do not fit or nothing is masked; TokenOutOfRange: if a token does
            not fit.

    Examples:
        >>> import pcflow as pf
        >>> from pcflow_diffusion import Blocks
        >>> model = pf.compile(pf.add_gates(pf.hmm(4, 2, pf.Categorical(5)), gates=3))
        >>> train = Blocks(torch.zeros(9, 4, 5), torch.full((9, 4), 5), torch.randint(5, (9, 4)))
        >>> head = CircuitHead(model, 5, "product", modulation=Modulation(5, 3))
        >>> len(fit_modulation(head, train, epochs=2, progress=False).train)
        2
    """
    if head.modulation is None:
        raise CouplingError("the head has no modulation to fit; fit_conditional trains its circuit")
    if not (learning_rate > 0 and circuit_learning_rate >= 0):
        raise RatioOutOfRange(f"out of range: {learning_rate=}, {circuit_learning_rate=}")
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
            progress=progress,
            generator=generator,
        )


class _Modulated(nn.Module):
    """Circuit and modulation as one model, whose parameters `fit` keeps together."""

    def __init__(self, head: CircuitHead) -> None:
        super().__init__()
        self.circuit, self.modulation = head.model, head.modulation
        self.num_variables, self.engine = head.model.num_variables, head.model.engine
        self.log_prob = head.model.log_prob
