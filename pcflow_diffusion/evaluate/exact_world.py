"""An exact world: how far the sampled joint is from a truth that is known, without sampling.

    python -m pcflow_diffusion.evaluate exact-world

The backbone is replaced by the exact posteriors of a known circuit, the truth, so that all error is
the decoder's: tokens that are drawn together, and what a coupling makes of them. Everything is
added up over all sequences, so figures have no noise (the idea of arXiv 2602.19619). Prints tables
in Markdown and draws them.

Legend: B batch, N rows, L positions, V tokens, K states, C contexts: ways to show visible tokens. A
*table* is a distribution over sequences: a tensor with an axis for every position, of size V, or 1
if it does not depend on that position.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb
from pathlib import Path

import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.checks import Command, as_count, as_not_negative, as_seed
from pcflow_diffusion.errors import ShapeMismatch
from pcflow_diffusion.evaluate.figure import draw_exact_world
from pcflow_diffusion.head import CircuitHead, Projection
from pcflow_diffusion.models import Backbone, mask_exactly, sample_times

Positions = tuple[int, ...]

LARGEST = 10**7  # sequences that can be listed
CONVERGED = Projection(sweeps=300, tolerance=1e-7)


@dataclass(frozen=True)
class Errors:
    """How far a joint is from the truth.

    Attributes:
        kl: KL divergence of the joint from the truth (nats), sum of p log(p / q).
        tv: total variation, half the sum of absolute differences.
    """

    kl: float
    tv: float


def exact_backbone(truth: pf.CompiledCircuit) -> Backbone:
    """A denoiser that knows the truth: tokens [B, L] to its log-posteriors [B, L, V], as logits.

    The mask is V, the first id that is no token. It raises `NoMassError` where visible tokens are
    impossible.

    Args:
        truth: a model over the tokens.

    Returns:
        A backbone: tokens [B, L] to logits [B, L, V].

    Examples:
        >>> truth = pf.compile(pf.hmm(3, 2, pf.Categorical(2)))
        >>> exact_backbone(truth)(torch.tensor([[0, 2, 2]])).shape
        torch.Size([1, 3, 2])
    """
    mask = int(truth.num_categories[0] or 0)

    def backbone(tokens: Tensor) -> Tensor:
        masked = tokens == mask
        return truth.marginals(pf.Evidence(tokens.masked_fill(masked, 0), masked))

    return backbone


@dataclass(frozen=True, eq=False)
class ExactWorld:
    """A truth that stands in for the backbone, and a head whose joint is compared with it.

    Args:
        truth: a circuit over few tokens and positions, best in float64.
        head: couples the draws; None draws independently.

    Raises:
        ShapeMismatch: if there are more than ten million sequences, or the vocabulary is not the
            same at every position.

    Examples:
        >>> truth = pf.compile(pf.hmm(3, 2, pf.Categorical(2)), dtype=torch.float64)
        >>> world = ExactWorld(truth, CircuitHead(truth, mask_token_id=2, coupling="projection"))
        >>> world.one_step((0, 1, 2)).tv < 1e-6
        True
    """

    truth: pf.CompiledCircuit
    head: CircuitHead | None = None

    def __post_init__(self) -> None:
        """Check that sequences can be listed."""
        sizes = set(self.truth.num_categories)
        if len(sizes) != 1 or None in sizes or self.tokens**self.length > LARGEST:
            raise ShapeMismatch(
                f"the truth must have one vocabulary and at most {LARGEST:,} sequences: "
                f"{self.length} positions of {sizes}"
            )

    @property
    def length(self) -> int:
        """Number of positions, L."""
        return self.truth.num_variables

    @property
    def tokens(self) -> int:
        """Number of tokens, V."""
        return int(self.truth.num_categories[0] or 0)

    @cached_property
    def table(self) -> Tensor:
        """The truth, as a table."""
        return self._listed(self.truth).exp()

    @cached_property
    def log_circuit(self) -> Tensor:
        """The head's circuit as a table of log-probabilities; a constant without a head."""
        return torch.zeros(()) if self.head is None else self._listed(self.head.model)

    def one_step(self, masked: Positions) -> Errors:
        """Errors if some positions are drawn in one step and the truth shows the others.

        Args:
            masked: the positions, in 0..L - 1.

        Examples:
            >>> truth = pf.compile(pf.hmm(3, 2, pf.Categorical(2)), dtype=torch.float64)
            >>> ExactWorld(truth).one_step((1,)).tv < 1e-6  # one token: there is nothing to couple
            True
        """
        shown = self.table.sum(dim=masked, keepdim=True)
        return errors(self.table, shown * self.drawn(masked))

    def by_share(self) -> list[Errors]:
        """Errors of one step for 1, 2, ..., L masks, averaged over where they are."""
        every = range(self.length)
        found = [[self.one_step(m) for m in combinations(every, k + 1)] for k in every]
        return [_mean(same) for same in found]

    def by_steps(self) -> dict[int, Errors]:
        """Errors of sequences from masks alone, for every number of steps that divides L."""
        counts = [n for n in range(1, self.length + 1) if self.length % n == 0]
        return {n: errors(self.table, self.sampled(n)) for n in counts}

    def sampled(self, steps: int) -> Tensor:
        """The joint [V, ..., V] of sequences that are written in some steps, from masks alone.

        Every step draws all masked positions and commits an equal number of them, at random.

        Args:
            steps: how many; it divides L.

        Raises:
            ShapeMismatch: if the number of steps does not divide L.
        """
        if steps < 1 or self.length % steps:
            raise ShapeMismatch(f"{steps=} must divide the {self.length} positions")
        every, size = frozenset(range(self.length)), self.length // steps
        written = {frozenset[int](): self.table.new_ones(1)}
        for _ in range(steps):
            longer: dict[frozenset[int], Tensor] = {}
            for done, so_far in written.items():
                left = tuple(sorted(every - done))
                drawn = self.drawn(left) * so_far / comb(len(left), size)
                for chosen in combinations(left, size):
                    rest = tuple(i for i in left if i not in chosen)
                    kept = drawn.sum(dim=rest, keepdim=True) if rest else drawn
                    both = done | set(chosen)
                    longer[both] = longer[both] + kept if both in longer else kept
            written = longer
        return written[every]

    @torch.no_grad()
    def drawn(self, masked: Positions) -> Tensor:
        """What one step draws at masked positions given the others: conditional, [V, ..., V].

        Zero where the truth holds the visible tokens impossible.

        Args:
            masked: the positions, in 0..L - 1.
        """
        visible = tuple(i for i in range(self.length) if i not in masked)
        x = self._contexts(visible)
        possible = self.truth.log_prob(self._evidence(x)) > -torch.inf
        potentials = self.table.new_zeros(*x.shape, self.tokens)
        potentials[possible] = self._potentials(x[possible])
        log_q = self.log_circuit
        for i in masked:
            log_q = log_q + self._placed(potentials[:, i], visible, i)
        joint = (log_q - log_q.logsumexp(dim=masked, keepdim=True)).exp().nan_to_num(nan=0.0)
        return joint * self._placed(possible.unsqueeze(-1), visible, masked[0])

    def _potentials(self, x: Tensor) -> Tensor:
        """Log-potentials [C, L, V] of the head, or the backbone's log-marginals."""
        logits = exact_backbone(self.truth)(x)
        if self.head is None:
            return logits
        coupled = self.head.couple(logits, x)
        assert coupled.potentials is not None
        found = coupled.potentials
        return found.like(found.log.to(logits)).dense(self.tokens)

    def _contexts(self, visible: Positions) -> Tensor:
        """All ways to show tokens at these positions [C, L], the last changing fastest."""
        count = self.tokens ** len(visible)
        numbers = torch.arange(count, device=self.truth.device)
        x = numbers.new_full((count, self.length), self.tokens)
        for place, position in enumerate(reversed(visible)):
            x[:, position] = numbers // self.tokens**place % self.tokens
        return x

    def _evidence(self, x: Tensor) -> pf.Evidence:
        masked = x == self.tokens
        return pf.Evidence(x.masked_fill(masked, 0), masked)

    def _placed(self, rows: Tensor, visible: Positions, position: int) -> Tensor:
        """Rows [C, V or 1], one per context, about one position: a table."""
        sizes = [self.tokens] * len(visible)
        among = sum(i < position for i in visible)
        moved = rows.reshape(*sizes, rows.shape[-1]).movedim(-1, among)
        axes = [self.tokens if i in visible else 1 for i in range(self.length)]
        axes[position] = rows.shape[-1]
        return moved.reshape(axes)

    @torch.no_grad()
    def _listed(self, model: pf.CompiledCircuit) -> Tensor:
        """Log-probabilities of all sequences."""
        every = tuple(range(self.length))
        return model.log_prob(self._contexts(every)).view([self.tokens] * self.length)


def errors(truth: Tensor, joint: Tensor) -> Errors:
    """KL divergence (nats) and total variation of two distributions over the same sequences.

    Examples:
        >>> round(errors(torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])).tv, 6)
        0.4
    """
    held = truth > 0
    log_ratio = truth.log() - joint.log()
    kl = (truth * log_ratio)[held].sum()
    return Errors(float(kl), float((truth - joint).abs().sum() / 2))


def second_order_chain(
    length: int, tokens: int, sharpness: float = 2.0, generator: torch.Generator | None = None
) -> pf.Circuit:
    """A Markov chain of second order with random transitions, as a circuit.

    A state is a pair of tokens: the one before and the present one, which is what is seen.

    Args:
        length: number of positions.
        tokens: number of tokens, V.
        sharpness: standard deviation of the transitions' logits.
        generator: source of the transitions; torch's global one by default.

    Examples:
        >>> second_order_chain(6, tokens=3).num_variables
        6
    """
    V = tokens
    logits = sharpness * torch.randn(V, V, V, generator=generator, dtype=torch.float64)
    move = torch.full((V, V, V, V), -torch.inf, dtype=torch.float64)  # before, now -> now, next
    now = torch.arange(V)
    move[:, now, now] = logits
    seen = torch.eye(V, dtype=torch.float64).log().repeat(1, V)  # [V, K]
    start = sharpness * torch.randn(1, V * V, generator=generator, dtype=torch.float64)
    emit = {"logits": pf.Parameter(seen)}
    onward = pf.Parameter(move.view(V * V, V * V))
    below: pf.InputLayer | pf.ProductLayer = pf.InputLayer(
        length - 1, pf.Categorical(V), V * V, emit
    )
    for t in reversed(range(length - 1)):
        leaf = pf.InputLayer(t, pf.Categorical(V), V * V, emit)
        below = pf.ProductLayer([leaf, pf.SumLayer([below], onward)])
    return pf.Circuit(pf.SumLayer([below], pf.Parameter(start)))


def learn_hmm(
    truth: pf.CompiledCircuit, states: int, generator: torch.Generator | None = None
) -> pf.CompiledCircuit:
    """A hidden Markov model learned from 20,000 draws of the truth, by expectation maximisation."""
    family = pf.Categorical(int(truth.num_categories[0] or 0))
    circuit = pf.hmm(truth.num_variables, states, family, generator=generator)
    model = pf.compile(circuit, dtype=torch.float64)
    rows, times = truth.sample(20_000, generator=generator).unique(dim=0, return_counts=True)
    em = pf.EM(pseudocount=0.1)
    pf.fit(model, rows, em, epochs=40, weights=times, progress=False, generator=generator)
    return model


def couplings(
    truth: pf.CompiledCircuit,
    circuit: pf.CompiledCircuit,
    generator: torch.Generator | None = None,
) -> dict[str, CircuitHead]:
    """A head for every coupling, by name; log-linear is fitted to 4,000 draws of the truth."""
    mask = int(truth.num_categories[0] or 0)
    named = {name: CircuitHead(circuit, mask, name) for name in ("product", "ratio")}
    x0 = truth.sample(4_000, generator=generator)
    x = mask_exactly(x0, sample_times(len(x0), generator), mask, generator)
    logits = exact_backbone(truth)(x)
    for name, buckets in (("log-linear, fitted", 1), ("log-linear, fitted by share", 3)):
        named[name] = CircuitHead(circuit, mask, "product")
        named[name].fit_coupling(logits, x, x0, buckets)
    named["projection, 2 sweeps"] = CircuitHead(circuit, mask, "projection")
    named["projection, converged"] = CircuitHead(circuit, mask, CONVERGED)
    return named


def markdown(table: Mapping[str, Sequence[Errors]], columns: Sequence[str]) -> str:
    """Rows by name, in Markdown: KL in nats, and in brackets the total variation.

    Examples:
        >>> print(markdown({"factorised": [Errors(0.25, 0.125)]}, ["100 %"]))
        | KL in nats (total variation) | 100 % |
        |---|---|
        | factorised | 0.250 (0.125) |
    """
    lines = [f"| KL in nats (total variation) | {' | '.join(columns)} |"]
    lines.append("|---|" + "---|" * len(columns))
    for name, row in table.items():
        cells = " | ".join(f"{max(e.kl, 0.0):.3f} ({e.tv:.3f})" for e in row)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, add everything up, print the tables, draw the picture."""
    given = _parse(arguments)
    generator = torch.Generator().manual_seed(given.seed)
    chain = second_order_chain(given.length, given.tokens, given.sharpness, generator)
    truth = pf.compile(chain, dtype=torch.float64)
    learned = learn_hmm(truth, given.states, generator)
    worlds = {"factorised": ExactWorld(truth)}
    for kind, circuit in ((f"HMM-{given.states}", learned), ("truth", truth)):
        for name, head in couplings(truth, circuit, generator).items():
            worlds[f"{name}; {kind}"] = ExactWorld(truth, head)
    shares = {name: world.by_share() for name, world in worlds.items()}
    percents = [f"{(k + 1) / given.length:.0%}" for k in range(given.length)]
    print(f"One step, by share masked (coupling; circuit):\n\n{markdown(shares, percents)}")
    steps = {name: world.by_steps() for name, world in worlds.items()}
    counts = list(steps["factorised"])
    rows = {name: list(found.values()) for name, found in steps.items()}
    print(f"\nWhole sequences, by number of steps:\n\n{markdown(rows, [str(n) for n in counts])}")
    draw_exact_world(given.out, _kl(shares), _kl(rows), counts)
    print(f"\nPicture: {given.out}")


def _kl(table: Mapping[str, Sequence[Errors]]) -> dict[str, list[float]]:
    return {name: [e.kl for e in row] for name, row in table.items()}


def _mean(found: Sequence[Errors]) -> Errors:
    return Errors(sum(e.kl for e in found) / len(found), sum(e.tv for e in found) / len(found))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Command("pcflow_diffusion.evaluate exact-world", __doc__)
    parser.add_argument("--length", type=as_count, default=6, help="positions (%(default)s)")
    parser.add_argument("--tokens", type=as_count, default=6, help="(%(default)s)")
    parser.add_argument(
        "--sharpness", type=as_not_negative, default=2.0, help="of the truth (%(default)g)"
    )
    parser.add_argument(
        "--states", type=as_count, default=8, help="of the learned HMM (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("pcflow_exact_world.png"))
    parser.add_argument("--seed", type=as_seed, default=0)
    return parser.parse_args(arguments)
