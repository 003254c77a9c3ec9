"""Transitions that the backbone gives every row anew: CoDD's Appendix E.2, at low rank.

CoDD (arXiv 2603.00045): the backbone predicts a part of the circuit's parameters for every example.
Here it is what is added to the logits of a chain's transitions, position by position.

Legend: B batch, L positions, V tokens, K states, r rank, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pcflow import CompiledCircuit
from pcflow_diffusion.checks import check_count
from pcflow_diffusion.errors import ShapeMismatch
from pcflow_diffusion.head.marginals import Marginals
from pcflow_diffusion.head.modulation import Modulation


class TransitionModulation(nn.Module):
    """Logits of transitions for every row and position: the circuit's plus V_t U_t' of rank r.

    The circuit is `pcflow.untie` of a homogeneous chain: every step has a transition of its own, to
    be given row by row, and all begin as the same. They stay so: what is moved is their mean, which
    learns as one matrix. U_t [K, r] is about the states that a step leads to, V_t about those that
    it comes from; the initial distribution moves by the sum of the columns of U_0. What a
    `Modulation` says at a position are U and V. U begins at zero, so that training starts at the
    circuit as it is.

    Args:
        vocabulary_size: how many tokens there are, V.
        states: of the chain, K.
        rank: r.
        width: of the vectors, W.
        depth: number of convolutions, each over five positions.

    Attributes:
        sizes: these five numbers by name.

    Raises:
        SettingError: if a number is below 1.

    Examples:
        >>> import pcflow as pf
        >>> from pcflow_diffusion import CircuitHead
        >>> chain = pf.compile(pf.untie(pf.hmm(4, states=2, inputs=pf.Categorical(5))))
        >>> head = CircuitHead(chain, 5, "product", modulation=TransitionModulation(5, 2, rank=1))
        >>> head.sample(torch.zeros(1, 4, 5), torch.tensor([[3, 5, 5, 1]])).tokens.shape
        torch.Size([1, 4])
    """

    def __init__(
        self, vocabulary_size: int, states: int, rank: int = 4, width: int = 64, depth: int = 3
    ) -> None:
        """Draw the first weights from torch's global generator."""
        super().__init__()
        self.sizes = {"vocabulary_size": vocabulary_size, "states": states, "rank": rank}
        self.sizes |= {"width": width, "depth": depth}
        for name, size in self.sizes.items():
            check_count(name, size)
        self.network = Modulation(vocabulary_size, 2 * states * rank, width, depth)
        with torch.no_grad():  # were V zero as well, no gradient would say where to go
            self._factors(self.network.out.bias)[1].normal_()

    def forward(self, said: Marginals) -> Tensor:
        """U and V of every position, [B, L, 2, K, r], in the modulation's precision.

        Args:
            said: the visible tokens, and what the backbone says of the others.
        """
        return self._factors(self.network(said))

    def parameters_of(
        self, model: CompiledCircuit, said: Marginals
    ) -> dict[str | nn.Parameter, Tensor]:
        """What the chain's weights are in every row, by name, as its queries take it.

        Args:
            model: the chain.
            said: what the backbone says.

        Raises:
            ShapeMismatch: if its steps have come apart, by training that knew nothing of this.
        """
        into, out_of = self(said).to(model.dtype).unbind(2)  # [B, L, K, r]
        named, (first, *steps) = dict(model.named_parameters()), self._names(model)
        initial = named[first] + into[:, 0].sum(-1)[:, None, None]  # [B, 1, 1, K]
        found: dict[str | nn.Parameter, Tensor] = {first: initial}
        if steps:
            moves = torch.stack([named[name] for name in steps])  # [L - 1, 1, K, K]
            if not _are_alike(moves):
                raise ShapeMismatch(f"{self._about}, whose steps have come apart since")
            mean = moves.mean(0)  # [1, K, K]
            learned = mean - mean.detach()  # zero: all are alike, and a mean would be rounded
            shared = moves[0].detach() + learned.nan_to_num()  # of -inf, which stays so
        for t, name in enumerate(steps, start=1):
            found[name] = shared + (out_of[:, t] @ into[:, t].mT).unsqueeze(1)  # [B, 1, K, K]
        return found

    def check_fits(self, model: CompiledCircuit, vocabulary_size: int) -> None:
        """Refuse a circuit that is no chain of such states, untied and homogeneous.

        Args:
            model: the circuit of a head.
            vocabulary_size: the number of its tokens.

        Raises:
            ShapeMismatch: if it is not.
        """
        states, tokens = self.sizes["states"], self.sizes["vocabulary_size"]
        names, shapes = self._names(model), model.parameter_shapes
        wanted = [(1, 1, states), *[(1, states, states)] * (model.num_variables - 1)]
        fits = [tuple(shapes[name]) for name in names] == wanted and len({*names}) == len(names)
        named = dict(model.named_parameters())
        if not fits or (names[1:] and not _are_alike(torch.stack([named[n] for n in names[1:]]))):
            raise ShapeMismatch(self._about)
        if tokens != vocabulary_size:
            raise ShapeMismatch(
                f"the modulation is about {tokens} tokens, the circuit about {vocabulary_size}"
            )

    @property
    def _about(self) -> str:
        chain = f"a homogeneous chain of {self.sizes['states']} states"
        return f"the modulation is about pcflow.untie of {chain}"

    def _names(self, model: CompiledCircuit) -> list[str]:
        """The parameters that are weights, from the first position on."""
        return [name for name, _ in model.weight_places]

    def _factors(self, flat: Tensor) -> Tensor:
        found: Tensor = flat.unflatten(-1, (2, self.sizes["states"], self.sizes["rank"]))
        return found


def _are_alike(moves: Tensor) -> bool:
    """Whether all transitions [L - 1, 1, K, K] are the same."""
    return bool((moves == moves[0]).all())
