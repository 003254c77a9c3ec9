"""Modulation: a small network between the backbone and the circuit's latents or gates.

CoDD (arXiv 2603.00045, Appendix E) has the backbone steer the circuit: by potentials on its latent
variables (E.1, `pcflow.expose_latents`), or by parameters of its own for every example (E.2,
`pcflow.add_gates`). Here both are potentials on control variables, worked out from what every
backbone says anyway, its marginals.

Legend: B batch, L positions, V tokens (all of them, or the k that are listed), S values of a
control, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from pcflow_diffusion.checks import check_count
from pcflow_diffusion.errors import ShapeMismatch
from pcflow_diffusion.head.marginals import Marginals


class Modulation(nn.Module):
    """Log-potentials of one control per position, from the backbone's marginals.

    Every position is the mean of its tokens' vectors under the backbone, or the vector of its
    visible token; residual convolutions mix neighbours. Its last layer starts at zero, so that
    training starts at the circuit as it is.

    Args:
        vocabulary_size: how many tokens there are, V.
        values: of a control, S: the states of `expose_latents`, the gates of `add_gates`.
        width: of the vectors, W.
        depth: number of convolutions, each over five positions.

    Attributes:
        sizes: these four numbers by name.

    Raises:
        SettingError: if a number is below 1.

    Examples:
        >>> import pcflow as pf
        >>> from pcflow_diffusion import CircuitHead
        >>> circuit = pf.expose_latents(pf.hmm(4, states=2, inputs=pf.Categorical(5)))
        >>> head = CircuitHead(pf.compile(circuit), 5, "product", modulation=Modulation(5, 2))
        >>> head.sample(torch.zeros(1, 4, 5), torch.tensor([[3, 5, 5, 1]])).tokens.shape
        torch.Size([1, 4])
    """

    def __init__(self, vocabulary_size: int, values: int, width: int = 64, depth: int = 3) -> None:
        """Draw the first weights from torch's global generator."""
        super().__init__()
        sizes = {"vocabulary_size": vocabulary_size, "values": values, "width": width}
        self.sizes = sizes | {"depth": depth}
        for name, size in self.sizes.items():
            check_count(name, size)
        self.tokens = nn.Embedding(vocabulary_size, width)
        self.masked = nn.Parameter(torch.zeros(width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.mixing = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2) for _ in range(depth))
        self.out = nn.Linear(width, values)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, said: Marginals) -> Tensor:
        """Log-potentials [B, L, S] (nats), in the modulation's precision.

        Args:
            said: the visible tokens, and what the backbone says of the others.
        """
        hidden = self.masked + self._expected(said)
        hidden = torch.where(said.masked.unsqueeze(-1), hidden, self.tokens(said.tokens))
        for norm, mix in zip(self.norms, self.mixing, strict=True):
            hidden = hidden + mix(torch.relu(norm(hidden)).mT).mT
        found: Tensor = self.out(hidden)
        return found

    def _expected(self, said: Marginals) -> Tensor:
        """Mean vector [B, L, W] of the tokens under marginals."""
        m = said.log_m.to(self.masked.dtype).exp()
        weight = self.tokens.weight

        def some(listed: Tensor) -> Tensor:
            shares = m.flatten(0, 1)
            bags = embedding_bag(
                listed.flatten(0, 1), weight, per_sample_weights=shares, mode="sum"
            )
            found: Tensor = bags.unflatten(0, m.shape[:2])
            return found

        return said.potentials.read(lambda: m @ weight, some)


def check_fits(modulation: nn.Module, vocabulary_size: int, values: int) -> None:
    """Refuse a `Modulation` for other tokens or controls; others are asked when they are used.

    Raises:
        ShapeMismatch: if it is one.
    """
    if not isinstance(modulation, Modulation):
        return
    found = modulation.sizes["vocabulary_size"], modulation.sizes["values"]
    if found != (vocabulary_size, values):
        raise ShapeMismatch(
            f"the modulation is about {found[0]} tokens and {found[1]} values of a control, "
            f"the circuit about {vocabulary_size} and {values}"
        )
