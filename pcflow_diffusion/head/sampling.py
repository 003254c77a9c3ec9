"""How tokens are drawn from a coupled joint, once its potentials are known.

Legend: B batch, L positions, V tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow import CompiledCircuit, Evidence, Given, SettingError
from pcflow_diffusion.checks import check_choice
from pcflow_diffusion.errors import GenerationError
from pcflow_diffusion.head.controls import observed, token_marginals
from pcflow_diffusion.head.marginals import temper
from pcflow_diffusion.head.ranking import Ranking, best, rank

Order = Literal["joint", "sharpened", "any_order", "mpe"]


@dataclass(frozen=True, eq=False)
class Draw:
    """Tokens, and how sure of each the joint was before temperature; unpacks as these two.

    Attributes:
        tokens: [B, L], visible ones kept; where nothing was drawn, zero.
        confidence: probability of every token [B, L]: its marginal under the joint, or, drawing one
            after another, the conditional that it was drawn from. 1 where visible, 0 where nothing
            was drawn.
        drawn: which positions were drawn now, bool [B, L].
        score: how much the ranking prefers each position, [B, L]; in any order, those drawn first.

    Examples:
        >>> zeros = torch.zeros(1, 2)
        >>> tokens, confidence = Draw(zeros.long(), zeros, zeros.bool(), zeros)
        >>> tokens
        tensor([[0, 0]])
    """

    tokens: Tensor
    confidence: Tensor
    drawn: Tensor
    score: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        """Tokens and confidence."""
        return iter((self.tokens, self.confidence))

    def __getitem__(self, place: int) -> Tensor:
        """Tokens or confidence."""
        return (self.tokens, self.confidence)[place]


def check_order(order: str, temperature: float) -> None:
    """Refuse an unknown order, or a temperature below zero.

    Args:
        order: a name.
        temperature: a number.

    Raises:
        SettingError: naming what there is.

    Examples:
        >>> check_order("joint", 0.7)
    """
    check_choice("order", order, get_args(Order))
    SettingError.check(
        "temperature", temperature, "finite and not negative", lambda t: 0 <= t < inf
    )


@torch.no_grad()
def draw(
    model: CompiledCircuit | Given,
    coupled: Evidence,
    length: int,
    *,
    temperature: float = 1.0,
    order: Order = "joint",
    sharp: Evidence | None = None,
    ranking: Ranking = "low_confidence",
    count: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Draw:
    """Draw missing tokens from the joint that evidence with potentials stands for.

    Args:
        model: the circuit, or the circuit given a rule; variables behind its L positions are
            controls. They are summed out, except in "mpe", which takes the best state of tokens and
            controls.
        coupled: visible tokens and potentials, as couplings make them.
        length: how many positions there are, L.
        temperature: not negative; zero takes the most probable tokens.
        order: "joint" draws the latent path at temperature 1 and every token given the path to the
            power 1 / temperature (CoDD, Sec. 5.1); at temperature 1 these are exact draws.
            "sharpened" draws exactly from `sharp` (the reading of CoDD's Algorithm 1). "any_order"
            draws one token after another, each from its exact conditional to that power. "mpe"
            takes the most probable state, or the best that max-product finds.
        sharp: the evidence that "sharpened" draws from: of marginals that were coupled to the power
            1 / temperature.
        ranking: which token comes next, in any order.
        count: how many tokens to draw per row [B], in any order; all by default.
        generator: source of randomness; torch's global one by default.

    Raises:
        SettingError: if the order is unknown, or the temperature negative.
        GenerationError: if `sharp` is not given where it is drawn from.
        NoMassError: if a row is impossible.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(4)))
        >>> zeros = torch.zeros(2, 3, dtype=torch.long)
        >>> nothing = pf.Evidence(zeros, zeros == 0, torch.zeros(2, 3, 4))
        >>> draw(model, nothing, length=3, order="any_order").tokens.shape
        torch.Size([2, 3])
    """
    check_order(order, temperature)
    if order == "any_order":
        return _one_by_one(model, coupled, length, temperature, ranking, count, generator)
    if order == "joint":
        found = model.sample_with_marginals(1, coupled, generator, temperature=temperature)
        values, log_q = found.values[0], found.log_marginals[0]
    else:
        values = _state(model, coupled, order, sharp, generator)
        log_q = model.marginals(coupled, values.unsqueeze(-1)).squeeze(-1)
    log_q = log_q[:, :length]
    every = log_q.unsqueeze(-1)
    if ranking in ("margin", "entropy"):  # which ask for tokens that were not drawn as well
        every = token_marginals(model, coupled, length, coupled.categories)
    score = rank(ranking, every, log_q, generator)
    return Draw(values[:, :length], log_q.exp(), observed(coupled)[1][:, :length], score)


def _state(
    model: CompiledCircuit | Given,
    coupled: Evidence,
    order: Order,
    sharp: Evidence | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Values [B, D]: the most probable ones, or drawn from `sharp`."""
    if order == "mpe":
        return model.mpe(coupled).values
    if sharp is None:
        raise GenerationError('"sharpened" draws from another joint, which `sharp` is to give')
    return model.sample(1, sharp, generator)[0]


def _one_by_one(
    model: CompiledCircuit | Given,
    coupled: Evidence,
    length: int,
    temperature: float,
    ranking: Ranking,
    count: Tensor | None,
    generator: torch.Generator | None,
) -> Draw:
    """Every token from its conditional given those before it; only the circuit is asked again."""
    values, missing = (t[:, :length] for t in observed(coupled))
    count = missing.sum(dim=-1) if count is None else count
    tokens, still = values.masked_fill(missing, 0), missing
    rows = torch.arange(len(missing), device=missing.device)
    known = model.evidence(coupled)
    assert known.potentials is not None
    behind, dtype = known.values.shape[1] - length, known.potentials.log.dtype
    confidence = (~still).to(dtype)
    score = torch.zeros_like(confidence)
    for turn in range(int(count.max()) if len(count) else 0):
        now = known.observing(pad(tokens, (0, behind)), pad(~still, (0, behind)))
        found = token_marginals(model, now, length, coupled.categories)  # [B, L, V] or [B, L, k]
        chosen = best(rank(ranking, found, generator=generator), still, torch.ones_like(count))
        chosen &= (turn < count).unsqueeze(-1)
        position = chosen.long().argmax(dim=-1)  # [B]; any where nothing is chosen, and even there
        own = found[rows, position].masked_fill(~chosen.any(dim=-1, keepdim=True), 0.0)  # [B, V]
        place = torch.multinomial(temper(own, temperature).softmax(-1), 1, generator=generator)
        token = known.potentials[rows, position].category(place.squeeze(-1)).unsqueeze(-1)
        tokens = torch.where(chosen, token, tokens)
        confidence = torch.where(chosen, own.gather(-1, place).exp(), confidence)
        score = torch.where(chosen, -float(turn), score)
        still = still & ~chosen
    return Draw(tokens, confidence, missing & ~still, score)
