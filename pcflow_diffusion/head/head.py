"""`CircuitHead`: a circuit as the output layer of a masked diffusion language model.

Legend: B batch, L positions, V tokens. The circuit's variables are the positions; behind them stand
as many controls if the head is modulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor, nn

from pcflow import (
    Automaton,
    Batch,
    CompiledCircuit,
    Evidence,
    Given,
    NoMassError,
    Potentials,
)
from pcflow_diffusion.checks import (
    check_alike,
    check_choice,
    check_flags,
    check_generator,
    check_id,
    check_kind,
    check_rows,
    check_tokens,
)
from pcflow_diffusion.errors import CouplingError, ShapeMismatch, TypeMismatch
from pcflow_diffusion.head.calibration import Purpose, choose, fit_log_linear
from pcflow_diffusion.head.controls import Steering, token_marginals
from pcflow_diffusion.head.coupling import (
    NOT_MODULATED,
    Coupling,
    LogLinear,
    Projection,
    coupling_by_name,
)
from pcflow_diffusion.head.decisions import Allowed, Decisions, Questions, Slots
from pcflow_diffusion.head.derived import Derived, Stretch
from pcflow_diffusion.head.likelihood import log_prob_of, told_of
from pcflow_diffusion.head.listing import TopK, check_top_k, most_listed
from pcflow_diffusion.head.marginals import Marginals
from pcflow_diffusion.head.modulation import check_fits
from pcflow_diffusion.head.parts import Parts
from pcflow_diffusion.head.ranking import Ranking, check_ranking
from pcflow_diffusion.head.sampling import Draw, Order, check_order, draw
from pcflow_diffusion.head.transitions import TransitionModulation
from pcflow_diffusion.head.widening import label_of, possible, widened


class CircuitHead(Parts):
    """Backbone logits and visible tokens to a joint distribution of the masked tokens.

    The backbone's marginals become potentials on the circuit's variables, and the circuit is
    conditioned on the visible tokens; probabilities, draws and marginals of the result are exact
    (CoDD, arXiv 2603.00045, Sec. 4; the couplings beyond the product are our own).

    Args:
        model: a compiled circuit over L token positions of V tokens each.
        mask_token_id: the id that stands for a masked token in `x`; V or a token below it, which
            then has no mass.
        coupling: "product", "ratio", "projection", or a `Coupling`.
        top_k: of how many tokens a position is a joint made, and drawn: the so many most probable
            ones of the backbone; None for all. By default, "auto", all of a vocabulary below 16,384
            tokens; of a larger one as few as leave at most 1e-4 of the position's mass out, and at
            most 1,024. Exact for those, and only their rows of the circuit's tables are read.
        modulation: what steers the circuit by potentials on its latents or gates: a `Modulation`,
            or a module that is called alike. The circuit has 2 L variables then, as
            `pcflow.expose_latents` and `pcflow.add_gates` make of an HMM, and every position has a
            control, which is summed out. Or a `TransitionModulation`, which gives every row
            transitions of its own. The coupling must be log-linear.
        tokenizer: what tells the tokenizer apart whose ids these are, see `fingerprint`; kept with
            the head, and compared by `from_pretrained`.
        constraint: a rule that texts obey. `generate`, `infill` and samplers with a `CircuitLM`
            carry its state from window to window; what is asked of the head itself is about texts
            of L tokens that obey it. Lists are widened by the best token of every class of the
            rule, and others are impossible. Couplings and training do not see it.

    Attributes:
        length: how many positions there are, L.
        derived: circuits that were made of this one, and are kept.

    Raises:
        CouplingError: if the coupling is unknown or cannot be modulated, or a modulated head is
            given a rule.
        SettingError: if `top_k` is a number below 1 or another word.
        ShapeMismatch: if the circuit's positions do not all have the same number of categories,
            there is not one control for each, or the `Modulation` is about others.
        TypeMismatch: if `model` is no compiled circuit, `mask_token_id` no whole number of 64 bits,
            `tokenizer` no text, or `constraint` no `pcflow.Automaton`.

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
        top_k: TopK = "auto",
        modulation: nn.Module | None = None,
        tokenizer: str | None = None,
        constraint: Automaton | None = None,
    ) -> None:
        """Check the circuit and look up the coupling."""
        super().__init__()
        check_kind("model", model, CompiledCircuit)
        check_top_k(top_k)
        if tokenizer is not None:
            check_kind("tokenizer", tokenizer, str)
        self.model, self.mask_token_id = model, check_id("mask_token_id", mask_token_id)
        self.modulation, self.top_k, self.tokenizer = modulation, top_k, tokenizer
        self.length = model.num_variables // (2 if self.has_controls else 1)
        self.vocabulary_size = self._one_size(model.num_categories[: self.length])
        if isinstance(modulation, TransitionModulation):
            modulation.check_fits(model, self.vocabulary_size)
        elif modulation is not None:
            values = self._one_size(model.num_categories[self.length :])
            check_fits(modulation, self.vocabulary_size, values)
        self.coupling = coupling_by_name(coupling) if isinstance(coupling, str) else coupling
        if modulation is not None and isinstance(self.coupling, Projection):
            raise CouplingError(NOT_MODULATED)
        self.constraint = self.checked_rule(constraint)
        self.stretch: Stretch | None = None
        self.derived = Derived()

    def extra_repr(self) -> str:
        """What `repr` says beside the modules: sizes, coupling, what is listed, and the rule."""
        most = most_listed(self.top_k, self.vocabulary_size)
        listed = "all tokens" if most is None else f"{'up to ' * (self.top_k == 'auto')}{most:,}"
        rule = "" if self.constraint is None else f"\n{self.constraint}"
        return (
            f"{self.length} positions, {self.vocabulary_size:,} tokens, mask {self.mask_token_id}\n"
            f"{self.coupling}\n"
            f"top_k={self.top_k!r}: lists {listed}{rule}"
        )

    def forward(self, logits: Tensor, x: Tensor) -> Tensor:
        """Log-marginals of the coupled joint at masked positions: for code that expects logits.

        Tokens that are drawn from them, or the best of each, are independent of one another: what
        the circuit knows of pairs is gone. `sample` draws from the joint, and `CircuitLM` has
        unmodified samplers do so.

        Args:
            logits: the backbone's, [B, L, V].
            x: tokens with masks, [B, L].

        Returns:
            [B, L, V]; visible positions keep the backbone's logits, and tokens that are not listed
            its probability. Not differentiable.

        Raises:
            ShapeMismatch: see `couple`.
            TypeMismatch: likewise.
            TokenOutOfRange: likewise.
            LogitsError: likewise.
            NoMassError: if the visible tokens are impossible under the circuit.
        """
        check_kind("logits", logits, Tensor)
        said = self._said(logits, x)
        coupled = self._coupled(said)
        log_q = token_marginals(self.law, coupled, self.length, coupled.categories)
        log_q = self._spread(said, logits, x, log_q).to(logits.dtype)
        return torch.where(said.masked.unsqueeze(-1), log_q, logits)

    def left_out(self, logits: Tensor | Potentials, x: Tensor) -> Tensor:
        """The backbone's mass of the tokens that are not listed, [B, L]; zero where visible.

        A draw takes none of them: its law is within the sum over positions, in total variation, of
        that which `log_prob` gives.

        Args:
            logits: the backbone's, [B, L, V]; or `pcflow.Potentials` of the only possible tokens.
            x: tokens with masks, [B, L].

        Raises:
            ShapeMismatch: see `couple`.
            TypeMismatch: likewise.
            TokenOutOfRange: likewise.
            LogitsError: likewise.

        Examples:
            >>> import pcflow as pf
            >>> head = CircuitHead(pf.compile(pf.hmm(2, 2, pf.Categorical(4))), 4, top_k=3)
            >>> head.left_out(torch.zeros(1, 2, 4), torch.tensor([[4, 1]]))
            tensor([[0.2500, 0.0000]])
        """
        return self._said(logits, x).left_out

    def couple(self, logits: Tensor | Potentials, x: Tensor) -> Evidence:
        """The evidence that turns the circuit into the coupled joint.

        Args:
            logits: the backbone's, [B, L, V]; or `pcflow.Potentials` of the only possible tokens.
            x: tokens with masks, [B, L].

        Raises:
            ShapeMismatch: if these are no logits and tokens of the circuit.
            TypeMismatch: likewise.
            TokenOutOfRange: if a visible token does not fit.
            LogitsError: if a masked position has no distribution.

        Examples:
            >>> import pcflow as pf
            >>> head = CircuitHead(pf.compile(pf.hmm(2, 2, pf.Categorical(4))), mask_token_id=4)
            >>> evidence = head.couple(torch.randn(1, 2, 4), torch.tensor([[4, 1]]))
            >>> head.model.sample(3, evidence)[:, 0, 1]
            tensor([1, 1, 1])
        """
        return self._coupled(self._said(logits, x))

    def log_prob(
        self, logits: Tensor | Potentials, x: Tensor, x0: Tensor, at: Tensor | None = None
    ) -> Tensor:
        """Log q(x0 | x) [B] (nats) of the masked tokens under the coupled joint.

        Two upward passes: one with the tokens observed, one with the potentials. Differentiable in
        logits, circuit and modulation, with r and the projection's potentials held fixed.

        Args:
            logits: the backbone's, [B, L, V]; or `pcflow.Potentials` of the only possible tokens.
            x: tokens with masks, [B, L].
            x0: the tokens, [B, L]; only those at masked positions are read.
            at: of which masked positions, bool [B, L], all by default: the others are summed out.

        A token that is not listed has the backbone's own probability, independently of the others,
        and what is listed shares the rest: of all V ** L texts the probabilities add up to one.

        Raises:
            ShapeMismatch: see `couple`.
            TypeMismatch: likewise.
            TokenOutOfRange: likewise.
            LogitsError: likewise.

        Examples:
            >>> import pcflow as pf
            >>> head = CircuitHead(pf.compile(pf.hmm(3, 2, pf.Categorical(4))), mask_token_id=4)
            >>> x, x0 = torch.tensor([[4, 4, 1], [1, 2, 1]]).unsqueeze(1)
            >>> logits = torch.randn(1, 3, 4)
            >>> first = head.log_prob(logits, x, x0, at=torch.tensor([[True, False, False]]))
            >>> torch.isclose(first, head(logits, x)[:, 0, 1], atol=1e-4)  # its marginal
            tensor([True])
        """
        said = self._said(logits, x)
        if at is not None:
            at = check_flags("at", at, said.tokens)
        asked = torch.ones_like(said.masked) if at is None else at | ~said.masked
        tokens = self._filled(said, x0)
        alone = said.log_prob_unlisted(logits, tokens)
        if self.constraint is not None:
            alone = torch.full_like(alone, -inf)
        log_q = log_prob_of(self.law, self._coupled(said), tokens, asked, alone)
        if said.listed is None or self.constraint is not None:
            return log_q
        return log_q + said.log_listed.masked_fill(~(asked & said.lists(tokens)), 0.0).sum(dim=-1)

    @overload
    def probabilities(
        self,
        logits: Tensor | Potentials,
        x: Tensor,
        questions: Questions,
        *,
        joint: Literal[False] = False,
        slots: Slots | None = None,
        pad: int | None = None,
        allowed: Allowed | None = None,
        tokenizer: object = None,
    ) -> dict[str, Tensor]: ...

    @overload
    def probabilities(
        self,
        logits: Tensor | Potentials,
        x: Tensor,
        questions: Questions,
        *,
        joint: Literal[True],
        slots: Slots | None = None,
        pad: int | None = None,
        allowed: Allowed | None = None,
        tokenizer: object = None,
    ) -> Tensor: ...

    @torch.no_grad()
    def probabilities(
        self,
        logits: Tensor | Potentials,
        x: Tensor,
        questions: Questions,
        *,
        joint: bool = False,
        slots: Slots | None = None,
        pad: int | None = None,
        allowed: Allowed | None = None,
        tokenizer: object = None,
    ) -> Tensor | dict[str, Tensor]:
        """How probable the answers to questions are that stand in holes of the text.

        Of all texts that have one of its answers in every question's hole, the shares under the
        coupled joint, and under the head's rule if it has one; masks elsewhere are summed out.
        Exact. Where tokens are listed, those of the answers are too.

        Args:
            logits: the backbone's, [B, L, V]; or `pcflow.Potentials` of the only possible tokens.
            x: tokens with masks, [B, L].
            questions: by name the answers to choose from, each a text or its token ids; at most
                65,536 combinations of them.
            joint: of all questions together, or of each with the others summed out.
            slots: where the answers stand, ranges of masked positions; by default the runs of masks
                of every row, as many as questions, in their order.
            pad: the token that fills a slot behind an answer that is shorter.
            allowed: whether answers, by question, may be given together; all may by default.
            tokenizer: what makes tokens of answers that are texts: one of this package, of
                `transformers` or `tokenizers`.

        Returns:
            [B, n, n, ...], an axis for every question in their order, and all add up to one; or by
            question [B, n]. Not differentiable.

        Raises:
            ShapeMismatch: see `couple`.
            TypeMismatch: likewise.
            TokenOutOfRange: likewise.
            LogitsError: likewise.
            AnswerError: if an answer does not fit its slot, or no combination is allowed.
            SettingError: if slots and questions are not as many, or combinations too many.
            NoMassError: if no combination is possible in a row.

        Examples:
            >>> import pcflow as pf
            >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), mask_token_id=5)
            >>> logits, x = torch.randn(1, 4, 5), torch.tensor([[5, 5, 0, 5]])
            >>> questions = {"route": [[1, 2], [3, 3]], "urgent": [[1], [2], [4]]}
            >>> head.probabilities(logits, x, questions, joint=True).shape
            torch.Size([1, 2, 3])
            >>> one = lambda answer: answer["route"] == [1, 2] or answer["urgent"] == [4]
            >>> head.probabilities(logits, x, questions, allowed=one)["urgent"].shape
            torch.Size([1, 3])
        """
        said = self._said(logits, x)
        asked = Decisions.of(questions, said, slots, pad, allowed, tokenizer)
        said = asked.listed(said, logits)
        table = asked.joint(self.law, said, self._coupled(said))
        return table if joint else asked.apart(table)

    def conditional(
        self, logits: Tensor | Potentials, x: Tensor, x0: Tensor, weight: Tensor | None = None
    ) -> Batch:
        """Rows from which the circuit learns log q(x0 | x), in a form that `pcflow.fit` takes.

        A token that the backbone holds impossible, or that is not among the `top_k` listed, teaches
        the circuit nothing: it is summed out.

        Args:
            logits: the backbone's, [B, L, V]; or `pcflow.Potentials` of the only possible tokens.
            x: tokens with masks, [B, L].
            x0: the tokens, [B, L]; only those at masked positions are read.
            weight: how much every row counts, [B].

        Raises:
            ShapeMismatch: see `couple`.
            TypeMismatch: likewise.
            TokenOutOfRange: likewise.
            LogitsError: likewise.

        Examples:
            >>> import pcflow as pf
            >>> head = CircuitHead(pf.compile(pf.hmm(2, 2, pf.Categorical(4))), mask_token_id=4)
            >>> x, x0 = torch.tensor([[4, 1]]), torch.tensor([[2, 1]])
            >>> batch = head.conditional(torch.randn(1, 2, 4), x, x0)
            >>> batch.log_prob(head.model).shape
            torch.Size([1])
        """
        said = self._said(logits, x)
        tokens = self._filled(said, x0)
        rows, _ = told_of(self._coupled(said), tokens)
        return replace(rows, weight=weight)

    def sample(
        self,
        logits: Tensor | Potentials,
        x: Tensor,
        *,
        temperature: float = 1.0,
        order: Order = "joint",
        generator: torch.Generator | None = None,
    ) -> Draw:
        """Draw all masked tokens from the coupled joint.

        Args:
            logits: the backbone's, [B, L, V]; or `pcflow.Potentials` of the only possible tokens.
            x: tokens with masks, [B, L].
            temperature: not negative; zero takes the most probable tokens.
            order: "joint" draws the latent path at temperature 1, then each token from its
                distribution given the path to the power 1 / temperature (CoDD, Sec. 5.1);
                "any_order" one token after another from its exact conditional; "sharpened" draws
                exactly from the joint coupled to marginals of that power (the reading of CoDD's
                Algorithm 1); "mpe" takes the most probable state. Only "mpe" and "any_order" at
                temperature zero are the same for every seed.
            generator: source of randomness; torch's global one by default.

        Returns:
            Tokens [B, L], visible ones kept, and confidence [B, L]: the probability of each token
            before temperature, under the coupled joint's marginals, or in any order under the
            conditional that it was drawn from; 1 where visible. `Draw` unpacks as these two.

        Raises:
            ShapeMismatch: see `couple`.
            TypeMismatch: likewise.
            TokenOutOfRange: likewise.
            LogitsError: likewise.
            SettingError: if the order is unknown or the temperature negative.
            NoMassError: if the visible tokens are impossible under the circuit.

        Examples:
            >>> import pcflow as pf
            >>> head = CircuitHead(pf.compile(pf.hmm(2, 2, pf.Categorical(4))), mask_token_id=4)
            >>> logits = torch.tensor([0.0, -torch.inf, -torch.inf, -torch.inf]).expand(1, 2, 4)
            >>> head.sample(logits, torch.tensor([[4, 1]])).tokens
            tensor([[0, 1]])
        """
        said = self._read(logits, x)
        return self.draw(said, temperature=temperature, order=order, generator=generator)

    @torch.no_grad()
    def draw(
        self,
        said: Marginals,
        *,
        temperature: float = 1.0,
        order: Order = "joint",
        ranking: Ranking = "low_confidence",
        count: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Draw:
        """Like `sample`, of marginals that are there already, as decoders draw.

        Args:
            said: what the backbone says; of these the `top_k` most probable tokens are taken.
            temperature: see `sample`, as `order`.
            order: how to draw.
            ranking: which token comes next in any order, and what the score of a `Draw` is.
            count: how many tokens to draw per row [B], in any order; all by default.
            generator: source of randomness; torch's global one by default.

        Raises:
            ShapeMismatch: if `said` is not about the circuit.
            TypeMismatch: likewise.
            TokenOutOfRange: likewise.
            SettingError: see `sample`.

        Examples:
            >>> import pcflow as pf
            >>> head = CircuitHead(pf.compile(pf.hmm(2, 2, pf.Categorical(4))), mask_token_id=4)
            >>> said = Marginals.of(torch.randn(1, 2, 4), torch.tensor([[4, 1]]), mask_token_id=4)
            >>> head.draw(said, temperature=0.5).confidence.shape
            torch.Size([1, 2])
        """
        check_order(order, temperature)
        check_ranking(ranking)
        check_kind("said", said, Marginals)
        few = self._fitting(said)
        check_generator(generator, self.model.device)
        how = partial(
            self._drawn,
            temperature=temperature,
            order=order,
            ranking=ranking,
            count=count,
            generator=generator,
        )
        try:
            return how(few)
        except NoMassError as error:
            if self.constraint is None or few is said:
                raise
            return how(self._obeying(said, few, error.rows))

    def _drawn(self, few: Marginals, temperature: float, order: Order, **how: Any) -> Draw:
        """A draw of what is listed."""
        sharp = self._coupled(few, temperature) if order == "sharpened" else None
        about = self.law, self._coupled(few), self.length
        return draw(*about, temperature=temperature, order=order, sharp=sharp, **how)

    def fit_coupling(
        self, logits: Tensor | Potentials, x: Tensor, x0: Tensor, buckets: int = 1
    ) -> LogLinear:
        """Set the coupling to the `LogLinear` that is best on held-out examples.

        The log-likelihood is concave in (a, b), so the maximum is the global one. Examples that
        circuit or backbone hold impossible say nothing about the powers and are left out.

        Args:
            logits: the backbone's, [N, L, V]; or `pcflow.Potentials` of the only possible tokens.
            x: tokens with masks, [N, L].
            x0: the tokens, [N, L].
            buckets: of equal width, by the share of the L positions that is masked; each has powers
                of its own. One with fewer than 64 examples is fitted together with its neighbours
                on both sides, as many as it takes, in the end with all.

        Returns:
            The coupling, which the head uses from now on.

        Raises:
            ShapeMismatch: see `couple`.
            TypeMismatch: likewise.
            TokenOutOfRange: likewise.
            LogitsError: likewise.
            CouplingError: if nothing is masked, or nothing possible.
            SettingError: if `buckets` is below 1.

        Examples:
            >>> import pcflow as pf
            >>> head = CircuitHead(pf.compile(pf.hmm(3, 2, pf.Categorical(4))), mask_token_id=4)
            >>> logits, x, x0 = torch.zeros(8, 3, 4), torch.full((8, 3), 4), torch.eye(8, 3).long()
            >>> head.fit_coupling(logits, x, x0) is head.coupling
            True
        """
        held_out = self._held_out(logits, x, x0)
        self.coupling = fitted = fit_log_linear(self.model, *held_out, buckets)
        return fitted

    def choose_coupling(
        self,
        logits: Tensor | Potentials,
        x: Tensor,
        x0: Tensor,
        *,
        for_: Purpose = "likelihood",
    ) -> Coupling:
        """Set the coupling to the one that suits held-out examples best.

        For likelihood it is the one that makes them most probable. A backbone that knows more of
        single tokens than the circuit wants the projection, one that knows less the log-linear
        coupling. Tried are both, and projections onto m_i^a r_i^(1 - b), pooled with the fitted
        powers, and onto what lies half-way to m_i.

        Draws want something else: an a below one also flattens an overconfident backbone, which is
        right on average and spoils single texts. For drawing the two are separated. A temperature
        calibrates the backbone, fitted to tokens each by itself, without the circuit. Given
        calibrated marginals, b of m_i / r_i^b is fitted, the projection tried, and the better one
        taken; it is then used on the marginals as they are. So a backbone that is as right and
        surer gets the same coupling.

        All masked tokens count alike: mask the examples as they will be in use. With a modulation
        only log-linear couplings are tried. An error on the way leaves the head as it was.

        Args:
            logits: the backbone's, [N, L, V]; or `pcflow.Potentials` of the only possible tokens.
            x: tokens with masks, [N, L].
            x0: the tokens, [N, L].
            for_: "likelihood" of text that is there, or "drawing" of text that is not.

        Returns:
            The coupling, which the head uses from now on.

        Raises:
            ShapeMismatch: see `couple`.
            TypeMismatch: likewise.
            TokenOutOfRange: likewise.
            LogitsError: likewise.
            CouplingError: see `fit_coupling`.
            SettingError: if it is for something else.

        Examples:
            >>> import pcflow as pf
            >>> chain = pf.hmm(3, states=2, inputs=pf.Categorical(4))
            >>> head = CircuitHead(pf.compile(chain), mask_token_id=4)
            >>> logits, x, x0 = torch.zeros(8, 3, 4), torch.full((8, 3), 4), torch.eye(8, 3).long()
            >>> chosen = head.choose_coupling(logits, x, x0, for_="drawing")
        """
        check_choice("for_", for_, get_args(Purpose))
        self.coupling = chosen = choose(self.model, *self._held_out(logits, x, x0), for_)
        return chosen

    @torch.no_grad()
    def _held_out(
        self, logits: Tensor | Potentials, x: Tensor, x0: Tensor
    ) -> tuple[Marginals, Tensor, Steering]:
        """What the backbone says of examples, their tokens [N, L], and what steers the circuit."""
        said = self._fitting(self._read(logits, x))
        return said, self._filled(said, x0), self._steering(said)

    def _coupled(self, said: Marginals, temperature: float = 1.0) -> Evidence:
        """The coupled joint as evidence; the circuit is steered by marginals as they are."""
        coupled = self.coupling.couple(self.model, said.tempered(temperature))
        return self._steering(said).of(coupled)

    def _steering(self, said: Marginals) -> Steering:
        """What the modulation makes of what the backbone says."""
        if isinstance(self.modulation, TransitionModulation):
            own = self.modulation.parameters_of(self.model, said)
            return Steering(self.model, parameters=own)
        return Steering(self.model, self._controls(said))

    def _controls(self, said: Marginals) -> Tensor | None:
        """Log-potentials [B, L, values] of the controls.

        Raises:
            ShapeMismatch: if the modulation returns others.
        """
        if self.modulation is None:
            return None
        found: Tensor = self.modulation(said)
        wanted = (*said.tokens.shape, self.model.num_categories[-1])
        if found.shape != wanted:
            raise ShapeMismatch(f"modulation must return {wanted}, got {tuple(found.shape)}")
        return found.to(said.log_m.dtype)

    def _spread(self, said: Marginals, logits: Tensor, x: Tensor, log_q: Tensor) -> Tensor:
        """Log-probabilities [B, L, V] of all tokens, from those [B, L, k] of what is listed."""
        if said.listed is None:
            return log_q
        if self.constraint is not None:  # nothing else obeys for certain
            return Potentials.of(log_q, said.listed).dense(self.vocabulary_size)
        log_m = Marginals.of(logits, x, self.mask_token_id, dtype=log_q.dtype).log_m
        log_q = log_q[..., : said.listed.shape[-1]]  # controls of more values make lists longer
        log_q = log_q + said.log_listed.unsqueeze(-1)
        surplus = said.log_m == -torch.inf  # of a list that is longer than need be
        own = torch.where(surplus, log_m.gather(-1, said.listed), log_q)
        return log_m.scatter(-1, said.listed, own)

    def _said(self, logits: Tensor | Potentials, x: Tensor) -> Marginals:
        """What the backbone says of the tokens that a draw takes, in the circuit's precision."""
        said = self._read(logits, x)
        return self._obeying(said, self._fitting(said))

    def _read(self, logits: Tensor | Potentials, x: Tensor) -> Marginals:
        """What the backbone says; under a rule of all tokens."""
        check_rows("x", x, self.length)
        listed = isinstance(logits, Potentials) and logits.categories is not None
        return Marginals.of(
            logits,
            x,
            self.mask_token_id,
            top_k=self.top_k if self.constraint is None else None,
            dtype=self.model.dtype,
            vocabulary_size=self.vocabulary_size if listed else None,
        )

    def _fitting(self, said: Marginals) -> Marginals:
        """Marginals about the circuit's tokens, of the `top_k` most probable ones."""
        found = (*said.tokens.shape, said.vocabulary_size)
        if found[1:] != (self.length, self.vocabulary_size):
            wanted = f"[B, {self.length}, {self.vocabulary_size}]"
            surplus = found[2] > self.vocabulary_size and found[1] == self.length
            hint = f"; narrow(backbone, {self.vocabulary_size}) leaves the surplus without mass"
            raise ShapeMismatch(f"logits must be {wanted}, got {found}{hint if surplus else ''}")
        if said.tokens.device != self.model.device:
            where = f"on {said.tokens.device}, the circuit on {self.model.device}"
            raise TypeMismatch(f"logits and x are {where}")
        check_tokens("x", said.tokens, self.vocabulary_size)
        few = said.few(self.top_k)
        if self.constraint is None:
            return few
        return widened(few, said, label_of(self.constraint, self.vocabulary_size))

    def _obeying(
        self, said: Marginals, few: Marginals, impossible: Sequence[int] = ()
    ) -> Marginals:
        """What is listed; in rows of which no text obeys, of the tokens that the circuit allows."""
        if self.constraint is None or few is said:
            return few
        rows: set[int] = set()
        more = set(impossible) or self._without_mass(few)
        while more:
            rows |= more
            few = self._fitting(possible(self.model, said, sorted(rows)))
            more = self._without_mass(few) - rows
        return few

    @torch.no_grad()
    def _without_mass(self, few: Marginals) -> set[int]:
        """The rows of which no text that is listed obeys, or those that a coupling meets first."""
        assert isinstance(self.law, Given)
        try:
            log_mass = self.law.log_mass(self._coupled(few))
        except NoMassError as error:
            return set(error.rows)
        return set((log_mass == -inf).nonzero().flatten().tolist())

    def _filled(self, said: Marginals, x0: Tensor) -> Tensor:
        """The visible tokens, and those of x0 where x is masked."""
        check_alike("x0", x0, said.tokens)
        tokens = torch.where(said.masked, x0, said.tokens)
        check_tokens("x0", tokens, self.vocabulary_size)
        return tokens

    def _one_size(self, sizes: tuple[int | None, ...]) -> int:
        """How many categories every one of some variables has."""
        if len(set(sizes)) != 1 or sizes[0] is None or len(sizes) != self.length:
            wanted = "one vocabulary at every position"
            wanted += ", and one control for each" if self.has_controls else ""
            met = set(self.model.num_categories)
            raise ShapeMismatch(f"the circuit must have {wanted}: {met}")
        return sizes[0]
