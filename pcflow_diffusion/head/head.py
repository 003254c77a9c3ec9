"""`CircuitHead`: a circuit as the output layer of a masked diffusion language model.

Legend: B batch, L positions, V tokens. The circuit's variables are the positions; behind them stand
as many controls if the head is modulated.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pcflow import Batch, CompiledCircuit, Evidence, compile, marginalize
from pcflow_diffusion.errors import CouplingError, ShapeMismatch, TokenOutOfRange
from pcflow_diffusion.head.calibration import fit_log_linear
from pcflow_diffusion.head.controls import steered, token_marginals, with_tokens
from pcflow_diffusion.head.coupling import (
    NOT_MODULATED,
    Coupling,
    LogLinear,
    Projection,
    coupling_by_name,
    log_potentials_of,
)
from pcflow_diffusion.head.marginals import log_marginals
from pcflow_diffusion.head.ranking import Ranking
from pcflow_diffusion.head.sampling import Draw, Order, check_order, draw, temper


class CircuitHead(nn.Module):
    """Backbone logits and visible tokens to a joint distribution of the masked tokens.

    The backbone's marginals become potentials on the circuit's variables, and the circuit is
    conditioned on the visible tokens; probabilities, draws and marginals of the result are exact
    (CoDD, arXiv 2603.00045, Sec. 4; the couplings beyond the product are our own).

    Args:
        model: a compiled circuit over L token positions of V tokens each.
        mask_token_id: the id that stands for a masked token in `x`; V or a token below it, which
            then has no mass.
        coupling: "product", "ratio", "projection", or a `Coupling`.
        top_k: only the so many most probable tokens of the backbone are possible at a position, all
            by default. Exact for those, and only their rows of the circuit's tables are read.
        modulation: what steers the circuit by potentials on its latents or gates: a `Modulation`,
            or a module that is called alike. The circuit has 2 L variables then, as
            `pcflow.expose_latents` and `pcflow.add_gates` make of an HMM, and every position has a
            control, which is summed out. The coupling must be log-linear.

    Attributes:
        length: L.

    Raises:
        CouplingError: if the coupling is unknown or cannot be modulated, or `top_k` below 1.
        ShapeMismatch: if the circuit's positions do not all have the same number of categories, or
            there is not one control for each.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(5)))
        >>> head = CircuitHead(model, mask_token_id=5)
        >>> tokens, confidence = head.sample(torch.zeros(1, 4, 5), torch.tensor([[3, 5, 5, 1]]))
        >>> tokens[0, 0].item(), tokens[0, 3].item()
        (3, 1)
    """

    def __init__(
        self,
        model: CompiledCircuit,
        mask_token_id: int,
        coupling: str | Coupling = "projection",
        top_k: int | None = None,
        modulation: nn.Module | None = None,
    ) -> None:
        """Check the circuit and look up the coupling."""
        super().__init__()
        if top_k is not None and top_k < 1:
            raise CouplingError(f"top_k must be at least 1, got {top_k}")
        self.model, self.mask_token_id = model, mask_token_id
        self.modulation, self.top_k = modulation, top_k
        self.length = model.num_variables // (1 if modulation is None else 2)
        self.vocabulary_size = self._one_size(model.num_categories[: self.length])
        if modulation is not None:
            self._one_size(model.num_categories[self.length :])
        self.coupling = coupling_by_name(coupling) if isinstance(coupling, str) else coupling
        if modulation is not None and isinstance(self.coupling, Projection):
            raise CouplingError(NOT_MODULATED)
        self._shorter: dict[int, tuple[tuple[object, ...], CircuitHead]] = {}

    def over(self, length: int) -> CircuitHead:
        """The head over the first `length` positions, with the circuit's others summed out.

        It shares coupling and modulation; its circuit is a copy, made anew when parameters change.

        Raises:
            ShapeMismatch: if the circuit does not have that many positions.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(5)))
            >>> CircuitHead(model, mask_token_id=5).over(3).length
            3
        """
        if length == self.length:
            return self
        if not 0 < length < self.length:
            raise ShapeMismatch(f"the circuit has {self.length} positions: {length=}")
        circuit, like = self.model.circuit, self.model.banks[0]
        kept = self._shorter.get(length)
        made_for = (circuit, like.device, like.dtype)
        if kept is None or kept[0] != made_for:
            firsts = [0] if self.modulation is None else [0, self.length]
            keep = [first + place for first in firsts for place in range(length)]
            short = compile(marginalize(circuit, keep), like.device, like.dtype)
            head = CircuitHead(short, self.mask_token_id, self.coupling, None, self.modulation)
            kept = made_for, head
            self._shorter[length] = kept
        kept[1].coupling, kept[1].top_k = self.coupling, self.top_k
        return kept[1]

    def forward(self, logits: Tensor, x: Tensor) -> Tensor:
        """Log-marginals of the coupled joint at masked positions: for code that expects logits.

        Args:
            logits: the backbone's, [B, L, V].
            x: tokens with masks, [B, L].

        Returns:
            [B, L, V]; visible positions keep the backbone's logits. Not differentiable.

        Raises:
            ShapeMismatch: if shapes do not fit; TokenOutOfRange: if a token does not.
            NoMassError: if the visible tokens are impossible under the circuit.
        """
        coupled = self.couple(logits, x)
        log_q = token_marginals(self.model, coupled, self.length, coupled.categories)
        log_q = log_q.to(logits.dtype)
        if coupled.categories is not None:
            nowhere = torch.full_like(logits, -torch.inf)
            log_q = nowhere.scatter(-1, coupled.categories[:, : self.length], log_q)
        return torch.where((x == self.mask_token_id).unsqueeze(-1), log_q, logits)

    def couple(self, logits: Tensor, x: Tensor, temperature: float = 1.0) -> Evidence:
        """The evidence that turns the circuit into the coupled joint.

        Args:
            logits: the backbone's, [B, L, V].
            x: tokens with masks, [B, L].
            temperature: the backbone's marginals are coupled to the power 1 / temperature.

        Raises:
            ShapeMismatch: if shapes do not fit; TokenOutOfRange: if a token does not.
            CouplingError: if the logits leave no token possible at a masked position, or `top_k` is
                less than a control has values.
        """
        visible, (log_m, listed) = self._visible(logits, x), self._considered(logits, x)
        sharp = log_m if temperature == 1.0 else temper(log_m, temperature).log_softmax(dim=-1)
        coupled = self.coupling.couple(self.model, visible, sharp, listed)
        return steered(coupled, self._controls(visible, log_m, listed))

    def log_prob(self, logits: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """Log q(x0 | x) [B] (nats) of the masked tokens under the coupled joint.

        Two upward passes: one with the tokens observed, one with the potentials. Differentiable in
        logits, circuit and modulation, with r and the projection's potentials held fixed.

        Args:
            logits: the backbone's, [B, L, V].
            x: tokens with masks, [B, L].
            x0: the tokens, [B, L]; only those at masked positions are read.

        Returns:
            -inf where a token is not among the `top_k` listed.

        Raises:
            ShapeMismatch: if shapes do not fit; TokenOutOfRange: if a token does not.
        """
        rows, known = self._told(logits, x, x0)
        return rows.log_prob(self.model).masked_fill(~known.all(dim=-1), -torch.inf)

    def conditional(
        self, logits: Tensor, x: Tensor, x0: Tensor, weight: Tensor | None = None
    ) -> Batch:
        """Rows from which the circuit learns log q(x0 | x), in a form that `pcflow.fit` takes.

        A token that the backbone holds impossible, or that is not among the `top_k` listed, teaches
        the circuit nothing: it is summed out.

        Args:
            logits: the backbone's, [B, L, V].
            x: tokens with masks, [B, L].
            x0: the tokens, [B, L]; only those at masked positions are read.
            weight: how much every row counts, [B].

        Raises:
            ShapeMismatch: if shapes do not fit; TokenOutOfRange: if a token does not.
        """
        return replace(self._told(logits, x, x0)[0], weight=weight)

    def sample(
        self,
        logits: Tensor,
        x: Tensor,
        temperature: float = 1.0,
        order: Order = "joint",
        generator: torch.Generator | None = None,
        *,
        ranking: Ranking = "low_confidence",
    ) -> tuple[Tensor, Tensor]:
        """Draw all masked tokens from the coupled joint.

        Args:
            logits: the backbone's, [B, L, V].
            x: tokens with masks, [B, L].
            temperature: not negative; zero takes the most probable tokens.
            order: "joint" draws the latent path at temperature 1, then each token from its
                distribution given the path to the power 1 / temperature (CoDD, Sec. 5.1);
                "any_order" one token after another from its exact conditional; "sharpened" draws
                exactly from the joint coupled to marginals of that power (the reading of CoDD's
                Algorithm 1); "mpe" takes the most probable state. Only "mpe" and "any_order" at
                temperature zero are the same for every seed.
            generator: source of randomness; torch's global one by default.
            ranking: which token comes next, in any order.

        Returns:
            Tokens [B, L], visible ones kept, and confidence [B, L]: the probability of each token
            before temperature, under the coupled joint's marginals, or in any order under the
            conditional that it was drawn from; 1 where visible.

        Raises:
            ShapeMismatch: if shapes do not fit; TokenOutOfRange: if a token does not.
            GenerationError: if the order is unknown or the temperature negative.
            NoMassError: if the visible tokens are impossible under the circuit.
        """
        found = self.draw(logits, x, temperature, order, ranking, generator=generator)
        return found.tokens, found.confidence

    @torch.no_grad()
    def draw(
        self,
        logits: Tensor,
        x: Tensor,
        temperature: float = 1.0,
        order: Order = "joint",
        ranking: Ranking = "low_confidence",
        count: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Draw:
        """Like `sample`, with all that a decoder wants to know; `count` [B] tokens in any order."""
        check_order(order, temperature)
        coupled, sharp = self.couple(logits, x), None
        if order == "sharpened":
            sharp = self.couple(logits, x, temperature)
        how = (order, temperature, ranking, count, generator, self.length, sharp)
        return draw(self.model, coupled, *how)

    def fit_coupling(self, logits: Tensor, x: Tensor, x0: Tensor, buckets: int = 1) -> LogLinear:
        """Set the coupling to the `LogLinear` that is best on held-out examples.

        The log-likelihood is concave in (a, b), so the maximum is the global one. Examples that
        circuit or backbone hold impossible say nothing about the powers and are left out.

        Args:
            logits: the backbone's, [N, L, V].
            x: tokens with masks, [N, L].
            x0: the tokens, [N, L].
            buckets: of equal width, by the share of the L positions that is masked; each has powers
                of its own. One with fewer than 64 examples is fitted together with its neighbours
                on both sides, as many as it takes, in the end with all.

        Returns:
            The coupling, which the head uses from now on.

        Raises:
            ShapeMismatch: if shapes do not fit; TokenOutOfRange: if a token does not.
            CouplingError: if nothing is masked, nothing possible, or `buckets` below 1.
        """
        visible, tokens = self._visible(logits, x), self._filled(x, x0)
        log_m, listed = self._considered(logits.detach(), x)
        with torch.no_grad():
            controls = self._controls(visible, log_m, listed)
        self.coupling = fit_log_linear(
            self.model, visible, log_m, tokens, listed, buckets, controls
        )
        return self.coupling

    def choose_coupling(self, logits: Tensor, x: Tensor, x0: Tensor) -> Coupling:
        """Set the coupling to the one that makes held-out examples most probable.

        A backbone that knows more of single tokens than the circuit wants the projection, one that
        knows less the log-linear coupling. Tried are both, and projections onto m_i^a r_i^(1 - b),
        pooled with the fitted powers, and onto what lies half-way to m_i. All masked tokens count
        alike: mask the examples as they will be in use. With a modulation this is `fit_coupling`.

        Args:
            logits: the backbone's, [N, L, V].
            x: tokens with masks, [N, L].
            x0: the tokens, [N, L].

        Returns:
            The coupling, which the head uses from now on.

        Raises:
            ShapeMismatch, TokenOutOfRange, CouplingError: see `fit_coupling`.

        Examples:
            >>> import pcflow as pf
            >>> chain = pf.hmm(3, states=2, inputs=pf.Categorical(4))
            >>> head = CircuitHead(pf.compile(chain), mask_token_id=4)
            >>> logits, x, x0 = torch.zeros(8, 3, 4), torch.full((8, 3), 4), torch.eye(8, 3).long()
            >>> chosen = head.choose_coupling(logits, x, x0)
        """
        fitted = self.fit_coupling(logits, x, x0)
        if self.modulation is not None:
            return fitted
        assert isinstance(fitted.a, float) and isinstance(fitted.b, float)
        pools = [(1 + s * (fitted.a - 1), s * (1 - fitted.b)) for s in (0.0, 0.5, 1.0)]
        tried: list[Coupling] = [fitted, *(Projection(pool=pool) for pool in pools)]
        scores = [self._score(coupling, logits, x, x0) for coupling in tried]
        self.coupling = tried[scores.index(max(scores))]
        return self.coupling

    @torch.no_grad()
    def _score(self, coupling: Coupling, logits: Tensor, x: Tensor, x0: Tensor) -> float:
        """Total log q(x0 | x) (nats) under a coupling, of examples that are possible."""
        self.coupling = coupling
        log_q = self.log_prob(logits, x, x0)
        return float(log_q[log_q.isfinite()].double().sum())

    def _told(self, logits: Tensor, x: Tensor, x0: Tensor) -> tuple[Batch, Tensor]:
        """Rows about the tokens that are possible, and at which positions [B, L] they are."""
        coupled, tokens = self.couple(logits, x), self._filled(x, x0)
        potentials = log_potentials_of(coupled, tokens)  # [B, L]
        known = potentials > -torch.inf
        total = potentials.masked_fill(~known, 0.0).sum(dim=-1)
        return Batch(with_tokens(coupled, tokens, known), coupled, total), known

    def _one_size(self, sizes: tuple[int | None, ...]) -> int:
        """How many categories every one of some variables has."""
        if len(set(sizes)) != 1 or sizes[0] is None or len(sizes) != self.length:
            wanted = "one vocabulary at every position"
            wanted += "" if self.modulation is None else ", and one control for each"
            met = set(self.model.num_categories)
            raise ShapeMismatch(f"the circuit must have {wanted}: {met}")
        return sizes[0]

    def _controls(self, visible: Evidence, log_m: Tensor, listed: Tensor | None) -> Tensor | None:
        """Log-potentials [B, L, values] of the controls.

        Raises:
            ShapeMismatch: if the modulation returns others.
        """
        if self.modulation is None:
            return None
        found: Tensor = self.modulation(visible, log_m, listed)
        wanted = (*log_m.shape[:2], self.model.num_categories[-1])
        if found.shape != wanted:
            raise ShapeMismatch(f"modulation must return {wanted}, got {tuple(found.shape)}")
        return found.to(log_m.dtype)

    def _considered(self, logits: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the backbone says, [B, L, V]; or [B, L, k] and of which tokens."""
        visible, dtype = x != self.mask_token_id, self.model.banks[0].dtype
        return log_marginals(logits, visible, self.mask_token_id, self.top_k, dtype)

    def _filled(self, x: Tensor, x0: Tensor) -> Tensor:
        """The visible tokens of x, and those of x0 where x is masked."""
        tokens = torch.where(x == self.mask_token_id, x0, x)
        self._check_tokens("x0", tokens)
        return tokens

    def _visible(self, logits: Tensor, x: Tensor) -> Evidence:
        """The visible tokens as observations."""
        wanted = (*x.shape, self.vocabulary_size)
        if x.dim() != 2 or x.shape[1] != self.length or logits.shape != wanted:
            raise ShapeMismatch(
                f"x must be [B, {self.length}] and logits [B, {self.length}, "
                f"{self.vocabulary_size}], got {tuple(x.shape)} and {tuple(logits.shape)}"
            )
        masked = x == self.mask_token_id
        values = x.masked_fill(masked, 0)
        self._check_tokens("x", values)
        return Evidence(values, masked)

    def _check_tokens(self, name: str, tokens: Tensor) -> None:
        outside = (tokens < 0) | (tokens >= self.vocabulary_size)
        if bool(outside.any()):
            raise TokenOutOfRange(name, int(tokens[outside][0]), self.vocabulary_size)
