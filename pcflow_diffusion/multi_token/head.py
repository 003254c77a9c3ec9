"""A head that says what the next tokens are together: a circuit whose parameters a model emits.

The hidden state of a causal language model after some text becomes the parameters of a circuit over
the n tokens that follow (multi-token prediction with circuits, MTPC).

Legend: B batch, n tokens, V tokens of the vocabulary, W width of the hidden state, R rank, F folds,
K units.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import chain
from math import log, prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import pcflow as pf
from pcflow_diffusion.checks import (
    check_choice,
    check_count,
    check_generator,
    check_kind,
    check_rate,
    check_real,
    check_rows,
)
from pcflow_diffusion.errors import ShapeMismatch
from pcflow_diffusion.multi_token.acceptance import tempered

Kind = Literal["ff", "cp", "hmm", "tree"]

STAY = 0.9
"""How probable it is at first that a sum chooses the unit of its own number below."""

ABOUT = 0.1
"""By how much logits of units differ at first, so that they can learn different things."""


@dataclass(frozen=True, eq=False)
class Draft:
    """Tokens that were drawn together, and the conditionals of the distribution they came from.

    Attributes:
        tokens: those that were not known, [B, m].
        log_rows: of all tokens at each place, given all before it (nats), [B, m, V].

    Examples:
        >>> draft = Draft(torch.tensor([[1, 0]]), torch.tensor([[[0.2, 0.8], [0.5, 0.5]]]).log())
        >>> draft.log_q.exp()
        tensor([[0.8000, 0.5000]])
    """

    tokens: Tensor
    log_rows: Tensor

    @property
    def log_q(self) -> Tensor:
        """Of each drafted token, given all before it (nats), [B, m]."""
        return self.log_rows.gather(-1, self.tokens.unsqueeze(-1)).squeeze(-1)

    def next_log_q(self, position: Tensor) -> Tensor:
        """Log-probabilities [B, V] (nats) of all tokens at one position of every row.

        Args:
            position: [B], in 0..m - 1.
        """
        return self.log_rows[torch.arange(len(position), device=position.device), position]


class MultiTokenHead(nn.Module):
    """A circuit over the next tokens, with parameters from a hidden state.

    Of every unit over a token, the logits are the unembedding of a hidden state of its own, a low
    rank away from the model's. At first all units say what the model says of the next token. What
    chooses between units starts near the identity, the same for all texts, and moves with the
    hidden state unless it is `shared`.

    Args:
        unembedding: what makes logits of hidden states in the language model; it is copied.
        length: how many tokens ahead, n.
        kind: of circuit: "ff", independent tokens; "cp", a mixture of `states` such; "hmm", a
            hidden Markov chain with a transition for every step; "tree", a binary tree over halves.
        states: units, K; "ff" has one.
        rank: how much of the hidden state steers the circuit, R.
        shared: whether all texts have the same sum weights.

    Attributes:
        model: the circuit. What it has for parameters is what all texts have in common.

    Raises:
        SettingError: if a size is below 1, or there is no such kind.

    Examples:
        >>> head = MultiTokenHead(nn.Linear(8, 5), length=3, kind="cp", states=2, rank=4)
        >>> head(torch.zeros(2, 8), torch.tensor([[0, 4, 1], [3, 3, 2]])).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        unembedding: nn.Linear,
        length: int,
        kind: Kind = "hmm",
        states: int = 32,
        rank: int = 64,
        shared: bool = False,
    ) -> None:
        """Build the circuit and the maps."""
        super().__init__()
        check_kind("unembedding", unembedding, nn.Linear)
        for name, size in (("length", length), ("states", states), ("rank", rank)):
            check_count(name, size)
        check_choice("kind", kind, get_args(Kind))
        check_kind("shared", shared, bool)
        self.kind, self.length = kind, length
        self.unembedding = copy.deepcopy(unembedding).float().requires_grad_()
        self.width, vocabulary_size = unembedding.in_features, unembedding.out_features
        self.model = pf.compile(circuit_of(kind, length, vocabulary_size, states))
        tables = _tables(self.model)
        _start(self.model, tables)
        emitted = [name for name in self.model.parameter_shapes if name in tables or not shared]
        self.emitted = {name: self.model.parameter_shapes[name] for name in emitted}
        self.steering = nn.Sequential(nn.Linear(self.width, rank), nn.GELU())
        self.maps = nn.ModuleList(
            _Tokens(shape, self.width, rank) if name in tables else _Weights(shape, rank)
            for name, shape in self.emitted.items()
        )
        self.to(unembedding.weight.device)

    def circuit_parameters(self, hidden: Tensor) -> dict[str, Tensor]:
        """The circuit's parameters by name, one set for every hidden state.

        Args:
            hidden: [B, W].

        Raises:
            ShapeMismatch: if hidden states are of another width.
            SettingError: if a row of them is not finite.
        """
        hidden = check_real("hidden", hidden, "B", self.width).to(self.unembedding.weight)
        if not bool(hidden.isfinite().all()):
            row = int((~hidden.isfinite()).any(dim=1).nonzero()[0])
            raise pf.SettingError("hidden", f"NaN or infinity in row {row}", "finite")
        steering = self.steering(hidden)  # [B, R]
        common = dict(self.model.named_parameters())
        return {
            name: common[name] + move(hidden, steering, self.unembedding)
            for name, move in zip(self.emitted, self.maps, strict=True)
        }

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Log-probability (nats) of each token, given the hidden state and the tokens before it.

        Args:
            hidden: of the text before the first of the tokens, [B, W].
            tokens: [B, n].

        Returns:
            [B, n]; the sum is that of all tokens together.

        Raises:
            ShapeMismatch: if hidden states are of another width, or of another number of rows.
            SettingError: if a row of them is not finite.
            EvidenceError: if the tokens do not fit the circuit.
        """
        return self.model.conditionals(tokens, parameters=self._parameters_for(tokens, hidden))

    def next_log_probs(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities [B, n, V] (nats) of all tokens that might stand at each place.

        Args:
            hidden: [B, W].
            tokens: what stands there [B, n].
        """
        return self.model.next_log_probs(tokens, parameters=self._parameters_for(tokens, hidden))

    def _parameters_for(self, tokens: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        parameters = self.circuit_parameters(hidden)
        if isinstance(tokens, Tensor) and tokens.dim() == 2:  # all else the circuit refuses
            check_real("hidden", hidden, len(tokens), self.width)
        return parameters

    @torch.no_grad()
    def draft(
        self,
        hidden: Tensor,
        known: Tensor,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Draft:
        """Draw the tokens that are not known, together, given those that are.

        Args:
            hidden: of the text before the first token, [B, W].
            known: the first of the n tokens, as far as they are known, [B, n - m].
            generator: source of randomness; torch's global one by default.
            temperature: other than 1, every token comes from its conditional to the power
                1 / temperature, one after another; zero takes the most probable ones.

        Raises:
            ShapeMismatch: if hidden states are of another width, or all tokens are known.
            SettingError: if the temperature is negative, or not finite, or a hidden state is not.
            EvidenceError: if what is known does not fit the circuit.

        Examples:
            >>> head = MultiTokenHead(nn.Linear(8, 5), length=4, states=2, rank=4)
            >>> draft = head.draft(torch.zeros(2, 8), known=torch.tensor([[0], [3]]))
            >>> draft.tokens.shape, draft.log_q.shape, draft.next_log_q(torch.tensor([0, 2])).shape
            (torch.Size([2, 3]), torch.Size([2, 3]), torch.Size([2, 5]))
        """
        check_rows("known", known)
        check_generator(generator, known.device)
        check_rate("temperature", temperature)
        parameters, count = self.circuit_parameters(hidden), known.shape[1]
        if count >= self.length or len(known) != len(hidden):
            wanted = f"[{len(hidden)}, fewer than {self.length}]"
            raise ShapeMismatch(f"known must be {wanted}, got {tuple(known.shape)}")
        if temperature != 1 and len(known):
            return self._one_by_one(parameters, known, generator, temperature)
        values = pad(known, (0, self.length - count))  # [B, n]
        missing = torch.arange(self.length, device=known.device) >= count
        evidence = pf.Evidence(values, missing.expand(values.shape))
        drawn = self.model.sample(1, evidence, generator, parameters=parameters)[0].long()
        ahead = range(count, self.length)
        log_rows = self.model.next_log_probs(drawn, ahead, parameters=parameters)
        return Draft(drawn[:, count:], log_rows)

    def _one_by_one(
        self,
        parameters: dict[str, Tensor],
        known: Tensor,
        generator: torch.Generator | None,
        temperature: float,
    ) -> Draft:
        """Powers of conditionals are those of no circuit, so tokens are drawn along a filter."""
        seen = self.model.filter(len(known), parameters)
        for column in known.t():
            seen.observe(column)
        tokens, log_rows = [], []
        while seen.position < self.length:
            log_rows.append(tempered(seen.next_log_probs(), temperature))  # [B, V]
            drawn = torch.multinomial(log_rows[-1].exp(), 1, generator=generator).squeeze(-1)
            tokens.append(drawn)
            seen.observe(drawn)
        return Draft(torch.stack(tokens, dim=1), torch.stack(log_rows, dim=1))


class _Tokens(nn.Module):
    """Logits of units over tokens, [B, F, V, K], from hidden states of their own."""

    def __init__(self, shape: torch.Size, width: int, rank: int) -> None:
        super().__init__()
        folds, _, units = shape
        self.away = nn.Parameter(torch.randn(folds, units, width, rank) * ABOUT * rank**-0.5)

    def forward(self, hidden: Tensor, steering: Tensor, unembedding: nn.Linear) -> Tensor:
        away = torch.einsum("br,fkwr->bfkw", steering, self.away)
        logits: Tensor = unembedding(hidden[:, None, None] + away)  # [B, F, K, V]
        return logits.transpose(-1, -2)


class _Weights(nn.Module):
    """What sum weights of a text have besides those of all, at first nothing, [B, F, K, J]."""

    def __init__(self, shape: torch.Size, rank: int) -> None:
        super().__init__()
        self.shape, self.map = shape, nn.Linear(rank, prod(shape), bias=False)
        nn.init.zeros_(self.map.weight)

    def forward(self, hidden: Tensor, steering: Tensor, unembedding: nn.Linear) -> Tensor:
        return torch.as_tensor(self.map(steering).unflatten(-1, self.shape))


def circuit_of(kind: Kind, length: int, vocabulary_size: int, states: int) -> pf.Circuit:
    """A circuit over so many tokens, with random parameters.

    Examples:
        >>> print(circuit_of("tree", 4, 5, states=2))
        Circuit(4 variables, 14 layers, 66 parameters)
    """
    tokens = pf.Categorical(vocabulary_size)
    if kind == "hmm":
        return pf.hmm(length, states, tokens, homogeneous=False)
    if kind == "tree":
        return pf.build_circuit(pf.structure.quad_tree((1, length)), tokens, units=states)
    return pf.naive_bayes([tokens] * length, 1 if kind == "ff" else states)


def _tables(model: pf.CompiledCircuit) -> frozenset[str]:
    """The names of the parameters that are about tokens."""
    reads = (getattr(step, "parameters", {}).values() for step in model.plan.steps)
    return frozenset(f"banks.{read.bank}" for read in chain.from_iterable(reads))


@torch.no_grad()
def _start(model: pf.CompiledCircuit, tables: frozenset[str]) -> None:
    """Units over tokens nearly alike, sums over as many units near the identity, others even."""
    for name, parameter in model.named_parameters():
        units, below = parameter.shape[-2:]
        if name in tables:
            parameter.mul_(ABOUT)
        elif units == below and units > 1:
            odds = STAY / (1 - STAY) * (units - 1)
            parameter.copy_(log(odds) * torch.eye(units).expand(parameter.shape))
        else:
            parameter.zero_()
