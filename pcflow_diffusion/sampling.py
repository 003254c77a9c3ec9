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
from pcflow_diffusion.ranking import Ranking, best, rank

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
) -> Draw:
    """Draw missing tokens from the joint that evidence with potentials stands for.

    Args:
        model: the circuit over the L positions.
        coupled: visible tokens and potentials.
        order: "joint" draws the latent path at temperature 1 and every token given the path to the
            power 1 / temperature (CoDD, Sec. 5.1); at temperature 1 these are exact draws.
            "sharpened" takes the potentials to that power first, then draws exactly (the reading of
            CoDD's Algorithm 1). "any_order" draws one token after another, each from its exact
            conditional to that power. "mpe" takes the most probable state, or the best that
            max-product finds.
        temperature: not negative; zero takes the most probable tokens.
        ranking: which token comes next, in any order.
        count: how many tokens to draw per row [B], in any order; all by default.
        generator: source of randomness; torch's global one by default.

    Raises:
        GenerationError: if the order is unknown or the temperature negative.
        NoMassError: if a row is impossible.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(4)))
        >>> nothing = pf.Evidence(log_potentials=torch.zeros(2, 3, 4))
        >>> draw(model, nothing, "any_order").tokens.shape
        torch.Size([2, 3])
    """
    check_order(order, temperature)
    if order == "any_order":
        return _one_by_one(model, coupled, count, temperature, ranking, generator)
    if order == "joint":
        found = model.sample_with_marginals(1, coupled, generator, temperature=temperature)
        tokens, log_q, missing = found.values[0], found.log_marginals[0], found.drawn
    else:
        missing = model.engine.check(coupled).missing
        sharp = _sharpened(coupled, temperature)
        best_state = order == "mpe"
        tokens = model.mpe(coupled)[0] if best_state else model.sample(1, sharp, generator)[0]
        log_q = model.marginals(coupled, tokens.unsqueeze(-1)).squeeze(-1)
    every = log_q.unsqueeze(-1)
    if ranking in ("margin", "entropy"):  # which ask for tokens that were not drawn as well
        every = model.marginals(coupled, coupled.categories)
    return Draw(tokens, missing, log_q.exp(), rank(ranking, every, generator=generator))


def temper(log_p: Tensor, temperature: float) -> Tensor:
    """Log-probabilities to the power 1 / temperature, unnormalised; zero leaves only the best."""
    if temperature == 0:
        first = log_p.argmax(dim=-1, keepdim=True)
        return torch.full_like(log_p, -torch.inf).scatter(-1, first, 0.0)
    return log_p / temperature


def _sharpened(coupled: Evidence, temperature: float) -> Evidence:
    assert coupled.log_potentials is not None
    sharp = temper(coupled.log_potentials, temperature)
    return Evidence(coupled.values, coupled.missing, sharp, coupled.categories)


def _one_by_one(
    model: CompiledCircuit,
    coupled: Evidence,
    count: Tensor | None,
    temperature: float,
    ranking: Ranking,
    generator: torch.Generator | None,
) -> Draw:
    """Every token from its conditional given those before it; only the circuit is asked again."""
    missing = model.engine.check(coupled).missing
    count = missing.sum(dim=-1) if count is None else count
    values = torch.zeros_like(missing, dtype=torch.long)
    if coupled.values is not None:
        values = torch.where(missing, values, coupled.values)
    still, rows = missing.clone(), torch.arange(len(missing), device=missing.device)
    listed = coupled.categories
    confidence = (~missing).to(model.banks[0].dtype)
    score = torch.zeros_like(confidence)
    for turn in range(int(count.max()) if len(count) else 0):
        now = Evidence(values, still, coupled.log_potentials, listed)
        found = model.marginals(now, listed)  # [B, L, V], or [B, L, k] of the listed tokens
        chosen = best(rank(ranking, found, generator=generator), still, torch.ones_like(count))
        chosen &= (turn < count).unsqueeze(-1)
        position = chosen.long().argmax(dim=-1)  # [B]; no harm where nothing is chosen
        own = found[rows, position]  # [B, V]
        place = torch.multinomial(temper(own, temperature).softmax(-1), 1, generator=generator)
        token = place if listed is None else listed[rows, position].gather(-1, place)
        values = torch.where(chosen, token, values)
        confidence = torch.where(chosen, own.gather(-1, place).exp(), confidence)
        score = torch.where(chosen, -float(turn), score)
        still &= ~chosen
    return Draw(values, missing & ~still, confidence, score)
