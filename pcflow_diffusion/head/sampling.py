"""How tokens are drawn from a coupled joint, once its potentials are known.

Legend: B batch, L positions, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pcflow import CompiledCircuit, Evidence
from pcflow_diffusion.errors import GenerationError
from pcflow_diffusion.head.controls import token_marginals
from pcflow_diffusion.head.ranking import Ranking, best, rank

Order = Literal["joint", "sharpened", "any_order", "mpe"]


@dataclass(frozen=True, eq=False)
class Draw:
    """Tokens, and how sure of each the joint was before temperature.

    Attributes:
        tokens: [B, L], visible ones kept; where nothing was drawn, zero.
        drawn: which positions were drawn now, bool [B, L].
        confidence: probability of every token [B, L]: its marginal under the joint, or, drawing one
            after another, the conditional that it was drawn from. 1 where visible, 0 where nothing
            was drawn.
        score: how much the ranking prefers each position, [B, L]; in any order, those drawn first.
    """

    tokens: Tensor
    drawn: Tensor
    confidence: Tensor
    score: Tensor


def check_order(order: str, temperature: float) -> None:
    """Refuse an unknown order, or a temperature below zero.

    Raises:
        GenerationError: naming what there is.
    """
    if order not in get_args(Order):
        raise GenerationError(f"order must be one of {get_args(Order)}, got {order!r}")
    if not temperature >= 0:
        raise GenerationError(f"temperature must not be negative, got {temperature}")


@torch.no_grad()
def draw(
    model: CompiledCircuit,
    coupled: Evidence,
    order: Order = "joint",
    temperature: float = 1.0,
    ranking: Ranking = "low_confidence",
    count: Tensor | None = None,
    generator: torch.Generator | None = None,
    length: int | None = None,
    sharp: Evidence | None = None,
) -> Draw:
    """Draw missing tokens from the joint that evidence with potentials stands for.

    Args:
        model: the circuit; variables behind its L positions are controls.
        coupled: visible tokens and potentials.
        order: "joint" draws the latent path at temperature 1 and every token given the path to the
            power 1 / temperature (CoDD, Sec. 5.1); at temperature 1 these are exact draws.
            "sharpened" draws exactly from `sharp` (the reading of CoDD's Algorithm 1). "any_order"
            draws one token after another, each from its exact conditional to that power. "mpe"
            takes the most probable state, or the best that max-product finds.
        temperature: not negative; zero takes the most probable tokens.
        ranking: which token comes next, in any order.
        count: how many tokens to draw per row [B], in any order; all by default.
        generator: source of randomness; torch's global one by default.
        sharp: the evidence that "sharpened" draws from: of marginals that were coupled to the power
            1 / temperature.
        length: L, by default the number of variables. Controls are summed out, except in "mpe",
            which takes the best state of tokens and controls.

    Raises:
        GenerationError: if the order is unknown, the temperature negative, or `sharp` not given
            where it is drawn from.
        NoMassError: if a row is impossible.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(4)))
        >>> nothing = pf.Evidence(log_potentials=torch.zeros(2, 3, 4))
        >>> draw(model, nothing, "any_order").tokens.shape
        torch.Size([2, 3])
    """
    check_order(order, temperature)
    if order == "sharpened" and sharp is None:
        raise GenerationError('"sharpened" draws from another joint, which `sharp` is to give')
    length = model.num_variables if length is None else length
    if order == "any_order":
        return _one_by_one(model, coupled, count, temperature, ranking, generator, length)
    if order == "joint":
        found = model.sample_with_marginals(1, coupled, generator, temperature=temperature)
        values, log_q, missing = found.values[0], found.log_marginals[0], found.drawn
    else:
        missing = model.engine.check(coupled).missing
        if order == "mpe":
            values = model.mpe(coupled).values
        else:
            assert sharp is not None
            values = model.sample(1, sharp, generator)[0]
        log_q = model.marginals(coupled, values.unsqueeze(-1)).squeeze(-1)
    log_q = log_q[:, :length]
    every = log_q.unsqueeze(-1)
    if ranking in ("margin", "entropy"):  # which ask for tokens that were not drawn as well
        every = token_marginals(model, coupled, length, coupled.categories)
    score = rank(ranking, every, generator=generator)
    return Draw(values[:, :length], missing[:, :length], log_q.exp(), score)


def temper(log_p: Tensor, temperature: float) -> Tensor:
    """Log-probabilities to the power 1 / temperature, unnormalised; zero leaves only the best."""
    if temperature == 0:
        first = log_p.argmax(dim=-1, keepdim=True)
        return torch.full_like(log_p, -torch.inf).scatter(-1, first, 0.0)
    return log_p / temperature


def _one_by_one(
    model: CompiledCircuit,
    coupled: Evidence,
    count: Tensor | None,
    temperature: float,
    ranking: Ranking,
    generator: torch.Generator | None,
    length: int,
) -> Draw:
    """Every token from its conditional given those before it; only the circuit is asked again."""
    missing = model.engine.check(coupled).missing
    count = missing[:, :length].sum(dim=-1) if count is None else count
    values = torch.zeros_like(missing, dtype=torch.long)  # [B, D]
    if coupled.values is not None:
        values = torch.where(missing, values, coupled.values)
    unknown, rows = missing.clone(), torch.arange(len(missing), device=missing.device)
    tokens, still = values[:, :length], unknown[:, :length]  # views: the rest are controls
    listed = coupled.categories
    confidence = (~still).to(model.banks[0].dtype)
    score = torch.zeros_like(confidence)
    for turn in range(int(count.max()) if len(count) else 0):
        now = Evidence(values, unknown, coupled.log_potentials, listed)
        found = token_marginals(model, now, length, listed)  # [B, L, V], or [B, L, k] of the listed
        chosen = best(rank(ranking, found, generator=generator), still, torch.ones_like(count))
        chosen &= (turn < count).unsqueeze(-1)
        position = chosen.long().argmax(dim=-1)  # [B]; any where nothing is chosen, and even there
        own = found[rows, position].masked_fill(~chosen.any(dim=-1, keepdim=True), 0.0)  # [B, V]
        place = torch.multinomial(temper(own, temperature).softmax(-1), 1, generator=generator)
        token = place if listed is None else listed[rows, position].gather(-1, place)
        tokens.copy_(torch.where(chosen, token, tokens))
        confidence = torch.where(chosen, own.gather(-1, place).exp(), confidence)
        score = torch.where(chosen, -float(turn), score)
        still &= ~chosen
    return Draw(tokens, missing[:, :length] & ~still, confidence, score)
