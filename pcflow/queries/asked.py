"""Queries that are the same of a model and of a model given a rule.

Legend: B batch, D variables, V categories.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from pcflow.engine import Drawn, Engine, Memory, in_ordinary_modes
from pcflow.errors import EvidenceError
from pcflow.evidence import CheckedEvidence, Evidence, Numbers, check
from pcflow.queries.by_row import ByRow, check_parameters, rows_of
from pcflow.queries.draws import Draws, sample, sample_with_marginals
from pcflow.queries.marginals import marginals
from pcflow.queries.mean import mean


class Asked(ABC):
    """What has an engine, and the door for its evidence.

    Attributes:
        engine: what answers.
        has_rows: whether there are rows to tell apart even where no evidence is given.
    """

    engine: Engine
    has_rows: bool = False

    @property
    def memory(self) -> Memory:
        """What is kept from query to query, and how much that may be; print it.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
            >>> model.marginals(torch.full((1, 4), torch.nan)).shape
            torch.Size([1, 4, 3])
            >>> print(model.memory)
            parameters                      48 bytes
            weights                         24 bytes
            table                           24 bytes
            sheets                         208 bytes
            gradients                        0 bytes
            computed from parameters: 48 of at most 1,073,741,824 bytes
        """
        return self.engine.held

    @property
    @abstractmethod
    def named(self) -> dict[str, Tensor]:
        """The parameters that rows may have of their own, by name."""

    @in_ordinary_modes
    def evidence(
        self, given: Evidence | Numbers, parameters: ByRow | None = None
    ) -> CheckedEvidence:
        """Evidence that fits, which queries take without checking it again.

        Args:
            given: values [B, D], NaN where missing, or `Evidence`.
            parameters: see `CompiledCircuit.log_prob`.

        Returns:
            All that is known: `values`, `missing`, and `potentials` if there are any. It may share
            the tensors it was given, which must then not be edited.

        Raises:
            EvidenceError: if it does not fit, naming the argument, row, variable and value; or if
                it has parameters by row, and is given others.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(3)))
            >>> known = model.evidence(torch.tensor([[2.0, torch.nan, 1.0]]))
            >>> known.missing
            tensor([[False,  True, False]])
            >>> bool((model.sample(5, known)[..., 0] == 2).all())
            True
        """
        known, plan = check(given, self.engine.domain), self.engine.plan
        if parameters is None or rows_of(parameters) is None:
            return known
        if known.parameters is not None:
            raise EvidenceError("the evidence has parameters by row already")
        fitting = parameters, self.named, plan, self.engine.domain, len(known.values)
        return replace(known, parameters=check_parameters(*fitting)).seen(known.hidden)

    def nothing(self, parameters: ByRow | None = None) -> CheckedEvidence:
        """Evidence of which all is missing, in a row for each that parameters are given for."""
        rows = rows_of(parameters)
        return self.evidence(self.engine.nothing(1 if rows is None else rows), parameters)

    @in_ordinary_modes
    @torch.no_grad()
    def marginals(
        self,
        evidence: Evidence | Numbers,
        categories: Numbers | None = None,
        *,
        variables: Iterable[int] | None = None,
        parameters: ByRow | None = None,
    ) -> Tensor:
        """Posterior log-probabilities (nats) of every variable given the evidence.

        An observed variable has all its mass on its value; categories that a variable does not
        have are -inf, and so may be those whose probability the precision cannot hold (in float32
        below 1e-38). Not differentiable.

        Args:
            evidence: values [B, D], NaN where missing, or `Evidence`.
            categories: [B, D, C], integers below V: whose probabilities are wanted, all by default.
                Where these are few, few rows of large tables are read.
            variables: which variables are asked for, W of them, all by default; in place of D where
                `categories` are given and in what is returned.
            parameters: some by row, see `CompiledCircuit.log_prob`.

        Returns:
            [B, D, V], or [B, D, C] of the given categories.

        Raises:
            PropertyRequired: if a variable that is asked for has no finite range.
            NoMassError: if some row of the evidence is impossible.
            EvidenceError: if the evidence or the categories do not fit the circuit.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
            >>> x = torch.tensor([[0.0, torch.nan, 1.0, 1.0]])
            >>> model.marginals(x)[0, 0].exp()
            tensor([1., 0., 0.])
            >>> model.marginals(x, categories=torch.zeros(1, 4, 1).long()).shape
            torch.Size([1, 4, 1])
            >>> model.marginals(x, variables=[1]).shape
            torch.Size([1, 1, 3])
        """
        return marginals(self.engine, self.evidence(evidence, parameters), categories, variables)

    @in_ordinary_modes
    @torch.no_grad()
    def mean(self, evidence: Evidence | Numbers, *, parameters: ByRow | None = None) -> Tensor:
        """Posterior mean [B, D] of every variable given the evidence; observed values are kept.

        Of a finite variable it is the mean of its values 0, 1, ... as numbers. Not differentiable.

        Args:
            evidence: what is known of rows [B, D].
            parameters: some may be by row, see `CompiledCircuit.log_prob`.

        Returns:
            Means [B, D].

        Raises:
            NoMassError: if some row of the evidence is impossible.
            EvidenceError: if the evidence does not fit the circuit.

        Examples:
            >>> import pcflow as pf
            >>> circuit = pf.hmm(2, states=3, inputs=pf.Gaussian())
            >>> pf.compile(circuit).mean(torch.tensor([[1.5, torch.nan]])).shape
            torch.Size([1, 2])
        """
        return mean(self.engine, self.evidence(evidence, parameters))

    @in_ordinary_modes
    @torch.no_grad()
    def sample(
        self,
        n: int,
        evidence: Evidence | Numbers | None = None,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
        parameters: ByRow | None = None,
    ) -> Tensor:
        """Exact draws [n, D], or [n, B, D] given evidence; observed values are kept.

        Args:
            n: number of draws (per row of evidence).
            evidence: values, missing ones and potentials to condition on.
            generator: source of randomness; torch's global one by default.
            temperature: other than 1, draw the latent path as it is and then every finite variable
                from its distribution given the path to the power 1 / temperature; zero takes the
                most probable value (CoDD, arXiv 2603.00045, Sec. 5.1).
            parameters: some by row, see `CompiledCircuit.log_prob`; draws are then [n, B, D].

        Raises:
            NoMassError: if some row of the evidence is impossible.
            EvidenceError: if the evidence does not fit the circuit.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
            >>> model.sample(5).shape
            torch.Size([5, 4])
        """
        without = evidence is None and not parameters
        known = (
            self.nothing(parameters) if evidence is None else self.evidence(evidence, parameters)
        )
        values = sample(self.engine, n, known, Drawn(generator, temperature))
        return values[:, 0] if without and not self.has_rows else values

    @in_ordinary_modes
    @torch.no_grad()
    def sample_with_marginals(
        self,
        n: int,
        evidence: Evidence | Numbers,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
        parameters: ByRow | None = None,
    ) -> Draws:
        """Draws as `sample` makes them, and the posterior log-probability of each drawn value.

        Both come from one upward pass; the marginals are those before temperature.

        Args:
            n: number of draws per row of evidence.
            evidence: values, missing ones and potentials to condition on.
            generator: source of randomness; torch's global one by default.
            temperature: see `sample`.
            parameters: some by row, see `CompiledCircuit.log_prob`.

        Returns:
            `values` [n, B, D], `log_marginals` [n, B, D] (nats), 0 where observed, and what was
            not, `drawn` [B, D].

        Raises:
            PropertyRequired: if a variable has no finite range.
            NoMassError: if some row of the evidence is impossible.
            EvidenceError: if the evidence does not fit the circuit.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
            >>> drawn = model.sample_with_marginals(5, torch.tensor([[0.0, 1.0, torch.nan, 2.0]]))
            >>> drawn.values.shape, bool((drawn.log_marginals[..., 0] == 0).all())
            (torch.Size([5, 1, 4]), True)
        """
        route = Drawn(generator, temperature)
        return sample_with_marginals(self.engine, n, self.evidence(evidence, parameters), route)
