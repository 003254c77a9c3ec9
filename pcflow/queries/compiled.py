"""The compiled circuit: an nn.Module with one method per query.

Legend: B batch, D variables, V categories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from pcflow.checks import check_device, check_kind, check_whole
from pcflow.circuit import Circuit, SumLayer, required_by
from pcflow.engine import (
    MACHINE,
    Engine,
    Machine,
    Plan,
    Pool,
    RowCount,
    StepTimes,
    Tables,
    differentiable_log_prob,
    in_ordinary_modes,
    make_plan,
    time_steps,
)
from pcflow.errors import SettingError
from pcflow.evidence import Evidence, Numbers, Potentials
from pcflow.logic import Automaton
from pcflow.plot import Diagram
from pcflow.queries.asked import Asked
from pcflow.queries.by_row import ByRow
from pcflow.queries.conditionals import ChainRule
from pcflow.queries.export import Export
from pcflow.queries.filtering import Filter
from pcflow.queries.given import Between, Given, engine_under
from pcflow.queries.held import Held
from pcflow.queries.mpe import MPE, mpe
from pcflow.queries.projection import ProjectedEvidence, project
from pcflow.queries.summary import Summary, about, summary


class CompiledCircuit(nn.Module, Asked):
    """A circuit as a few batched tensor operations; make one with `compile`.

    Its parameters are the circuit's, stacked: one tensor per bank of the plan. They are
    unconstrained logits, so any torch optimizer may move them. Evidence is always an argument:
    no query leaves anything behind on the model but what `memory` and `rows` print.

    Attributes:
        banks: the parameters. Edits are noticed; who edits a frozen one through `.data`, or by an
            array of numpy, calls `torch.autograd.graph.increment_version` on it.
        engine: plan, weights and memory, for code that needs the passes themselves.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> x = torch.tensor([[0.0, torch.nan, 2.0, 1.0]])
        >>> model.log_prob(x).shape, model.marginals(x).shape, model.sample(5, x).shape
        (torch.Size([1]), torch.Size([1, 4, 3]), torch.Size([5, 1, 4]))
    """

    def __init__(
        self,
        circuit: Circuit,
        plan: Plan,
        dtype: torch.dtype,
        memory: int,
        soft_dtype: torch.dtype | None,
        machine: Machine | None,
    ) -> None:
        """Stack the circuit's parameters into the plan's banks."""
        super().__init__()
        self._memory, self._soft_dtype, self._machine = memory, soft_dtype, machine
        self._structure = circuit
        self._plan = plan
        stacks = (torch.stack([p.value for p in bank]) for bank in plan.banks)
        self.banks = nn.ParameterList(nn.Parameter(s.to(dtype)) for s in stacks)
        self._like = nn.Buffer(torch.empty(0, dtype=dtype), persistent=False)
        self._connect()

    @property
    def plan(self) -> Plan:
        """The steps that a query runs; print it."""
        return self.engine.plan

    @property
    def rows(self) -> RowCount:
        """How many rows were evaluated since the model was made or moved; print it."""
        return self.engine.rows

    @property
    def dtype(self) -> torch.dtype:
        """The precision that queries run in: float32 or float64."""
        return self._like.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self._like.device

    @property
    def num_variables(self) -> int:
        """How many variables there are, D."""
        return self._structure.num_variables

    @property
    def num_categories(self) -> tuple[int | None, ...]:
        """Per variable its number of categories, None if it has no finite range."""
        return self._structure.num_categories

    @property
    def weight_places(self) -> tuple[tuple[str, int], ...]:
        """Where the weights of every sum layer are, from the root down: in which parameter and row.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(3)))
            >>> model.weight_places
            (('banks.2', 0), ('banks.1', 0), ('banks.1', 0))
        """
        place = {
            p: (n, row) for n, bank in enumerate(self._plan.banks) for row, p in enumerate(bank)
        }
        sums = [layer for layer in self._structure.layers if isinstance(layer, SumLayer)]
        found = (place[layer.weight] for layer in reversed(sums))
        return tuple((f"banks.{bank}", row) for bank, row in found)

    @property
    def circuit(self) -> Circuit:
        """A copy with the parameters as they are now, the same one while somebody holds it."""
        return self._export.circuit()

    @property
    def named(self) -> dict[str, Tensor]:
        """The parameters that rows may have of their own, by name."""
        return {f"banks.{number}": bank for number, bank in enumerate(self.engine.tables.banks)}

    @property
    def parameter_shapes(self) -> dict[str, torch.Size]:
        """What `parameters` of a query may hold, by the names of `named_parameters`.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
            >>> for name, shape in model.parameter_shapes.items():
            ...     print(name, tuple(shape))
            banks.0 (1, 3, 2)
            banks.1 (1, 2, 2)
            banks.2 (1, 1, 2)
        """
        return {name: parameter.shape for name, parameter in self.named.items()}

    def forward(self, evidence: Evidence | Numbers, parameters: ByRow | None = None) -> Tensor:
        """The same as `log_prob`, [B] (nats).

        Args:
            evidence: see `log_prob`.
            parameters: see `log_prob`.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(3)))
            >>> bool(model([[0, 2]]) == model.log_prob([[0, 2]]))
            True
        """
        return self.log_prob(evidence, parameters)

    @in_ordinary_modes
    def log_prob(self, evidence: Evidence | Numbers, parameters: ByRow | None = None) -> Tensor:
        """Log-probability [B] (nats) of evidence.

        Differentiable in parameters, potentials and values of variables without a finite range.

        Args:
            evidence: values [B, D], NaN where missing, or `Evidence`.
            parameters: some of the model's parameters, or their names, each with what it holds in
                every row, [B, *shape]; differentiable. All others are shared by the rows. See
                `parameter_shapes`.

        Returns:
            log sum_x p(x) prod_i lambda_i(x_i) over everything that is not observed; -inf where
            nothing is possible. There is no floor.

        Raises:
            EvidenceError: if the evidence does not fit the circuit.
            TypeMismatch: if `parameters` are no dict of tensors.
            SettingError: naming the parameter that is none of the model or does not fit, or whose
                numbers include NaN or +inf.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
            >>> model.log_prob(torch.tensor([[0, 2, 1, 1]])).shape
            torch.Size([1])

            Every row with emissions of its own:

            >>> logits = torch.randn(5, *model.parameter_shapes["banks.0"], requires_grad=True)
            >>> x = torch.zeros(5, 4).long()
            >>> model.log_prob(x, parameters={"banks.0": logits}).sum().backward()
            >>> logits.grad.shape
            torch.Size([5, 1, 3, 2])
        """
        return differentiable_log_prob(self.engine, self.evidence(evidence, parameters))

    @in_ordinary_modes
    def conditionals(self, evidence: Evidence | Numbers, parameters: ByRow | None = None) -> Tensor:
        """Log-probability (nats) of every variable given those before it, in one pass.

        The chain rule: what is returned adds up to `log_prob`. Differentiable in parameters,
        potentials and values of variables without a finite range, as `log_prob` is.

        Args:
            evidence: values [B, D], NaN where missing, or `Evidence`.
            parameters: by row, see `log_prob`.

        Returns:
            [B, D]: by how much the log-mass of what is known of variables 0, ..., j exceeds that of
            what is known of 0, ..., j - 1, all others being summed out. Observed values have a
            log-probability or log-density; what is missing has 0; what is told by intervals or
            potentials counts from its own place on, and not before. All that comes after something
            impossible is -inf, as that itself is.

        Raises:
            EvidenceError: if the evidence does not fit the circuit.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
            >>> x = torch.tensor([[0, 2, 1, 1]])
            >>> torch.allclose(model.conditionals(x).sum(dim=1), model.log_prob(x))
            True
        """
        return self._chain_rule.conditionals(self.evidence(evidence, parameters))

    @in_ordinary_modes
    def next_log_probs(
        self,
        evidence: Evidence | Numbers,
        variables: Iterable[int] | None = None,
        parameters: ByRow | None = None,
    ) -> Tensor:
        """Log-probabilities (nats) of all values of a variable given those before it.

        Differentiable as `conditionals` are, whose whole rows these are.

        Args:
            evidence: values [B, D], NaN where missing, or `Evidence`.
            variables: which variables are asked for, W of them, all by default.
            parameters: by row, see `log_prob`.

        Returns:
            [B, W, V], given what is known of the variables before each alone; categories that a
            variable does not have are -inf.

        Raises:
            PropertyRequired: if a variable that is asked for has no finite range.
            NoMassError: if what comes before a variable that is asked for is impossible.
            EvidenceError: if the evidence does not fit the circuit.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
            >>> model.next_log_probs(torch.tensor([[0, 2, 1, 1]]), variables=[2]).shape
            torch.Size([1, 1, 3])
        """
        return self._chain_rule.next_log_probs(self.evidence(evidence, parameters), variables)

    @in_ordinary_modes
    @torch.no_grad()
    def mpe(self, evidence: Evidence | Numbers, *, parameters: ByRow | None = None) -> MPE:
        """The most probable completion of the evidence, by max-product with backtracking.

        Exact if the circuit is proved deterministic. Otherwise (the problem is NP-hard) it is the
        best joint state of variables and latents, and its value a lower bound. The value is that
        of the returned state, by sum-product.

        Args:
            evidence: what is known of rows [B, D].
            parameters: some may be by row, see `log_prob`.

        Returns:
            States [B, D], their log-values [B] (nats), and whether they are proved exact.

        Raises:
            NoMassError: if some row of the evidence is impossible.
            EvidenceError: if the evidence does not fit the circuit.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
            >>> values, log_value, exact = model.mpe(torch.full((1, 4), torch.nan))
            >>> exact
            False
        """
        known = self.evidence(evidence, parameters)
        return mpe(self.engine, known, self._export.is_deterministic(known.parameters))

    @in_ordinary_modes
    def project(
        self,
        evidence: Evidence | Numbers,
        log_marginals: Numbers | Potentials,
        sweeps: int = 2,
        *,
        tolerance: float = 0.0,
        normalised: bool = False,
        parameters: ByRow | None = None,
    ) -> ProjectedEvidence:
        """Evidence whose potentials give the unobserved variables these marginals.

        Of all distributions with these marginals, the one that the returned evidence conditions the
        circuit to is the closest to the circuit's own posterior in KL divergence, once the sweeps
        have converged. No sweep lets the dual fall, sum_i sum_v m_i(v) log lambda_i(v) - log Z.
        Trees of dense sums and Hadamard products with one input layer per variable (`hmm`, `hclt`)
        are swept one variable after another; other circuits take simultaneous steps with a line
        search, and so do rows whose messages would underflow. Not differentiable.

        Args:
            evidence: what is observed; its potentials, if any, are where fitting starts, and what
                they rule out stays ruled out. Without any it starts at the circuit's own posterior.
            log_marginals: targets (nats) [B, D, V], normalised here; not read where
                observed. If the evidence lists categories, those of the listed ones, [B, D, k];
                so do `pcflow.Potentials` that list some, which then need not be in the evidence.
            sweeps: how often every variable is visited, at most.
            tolerance: a row is left alone once no marginal was off by as much as this.
            normalised: whether `log_marginals` are, over every variable's own categories; then a
                large tensor need not be gone over for it.
            parameters: some by row, see `log_prob`; the evidence that is returned keeps them.

        Raises:
            PropertyRequired: if a variable has no finite range.
            EvidenceError: if evidence or `log_marginals` do not fit the circuit.
            NoMassError: if some row of the evidence is impossible.
            SettingError: if `sweeps` is below 1, or `tolerance` negative.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(3, states=2, inputs=pf.Bernoulli()), dtype=torch.float64)
            >>> target = torch.tensor([[[0.1, 0.9], [0.5, 0.5], [0.8, 0.2]]]).log()
            >>> nothing = pf.Evidence(missing=torch.ones(1, 3, dtype=torch.bool))
            >>> fitted = model.project(nothing, target, sweeps=50)
            >>> torch.allclose(model.marginals(fitted).exp(), target.exp().double(), atol=1e-6)
            True
        """
        known = self.evidence(evidence, parameters)
        return project(self.engine, known, log_marginals, sweeps, tolerance, normalised)

    @in_ordinary_modes
    def filter(self, rows: int, parameters: ByRow | None = None) -> Filter:
        """A filter that is told one observation after another.

        Variables are observed in their order. A step of a hidden Markov chain, as `hmm` makes them,
        is a position, and one product with the transitions, however long the past. Of any other
        circuit (also of a naive Bayes model) it is a variable, and as long as the path to it: from
        where it parts from the path to the last.

        Args:
            rows: how many sequences go side by side, B.
            parameters: some by row, see `log_prob`; every sequence then has a circuit of its own.

        Raises:
            SettingError: if `rows` is below 1, or a parameter by row does not fit.
            TypeMismatch: if `parameters` are no dict of tensors.

        Examples:
            >>> import pcflow as pf
            >>> seen = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3))).filter(rows=2)
            >>> seen.observe(torch.tensor([0, 2])).shape, seen.next_log_probs().shape
            (torch.Size([2]), torch.Size([2, 3]))
        """
        check_whole("rows", rows)
        own, circuit = self.evidence(self.engine.nothing(rows), parameters).parameters, self.circuit
        held = Held(rows, self.device, self._export.of_rows(circuit, own))
        return Filter.of(circuit, held)

    @in_ordinary_modes
    def given(
        self, rule: Automaton, start: Numbers | None = None, final: Numbers | None = None
    ) -> Given:
        """The distribution given that the values obey a rule, with queries of its own.

        Exact, with the parameters of this model as they are at every query. Of hidden Markov chains
        and independent variables at the cost of one pass over the emission tables, whatever the
        rule, and of states times hidden states squared for every variable; of circuits whose
        products split stretches of variables, such as trees over regions in order, at that of up to
        states squared parts of every layer. What was built stays while somebody holds the result;
        after the model has moved to another device or precision, ask again.

        Args:
            rule: for the values of all variables, in their order; of a longer text, if they are a
                stretch of it that leads from `start` to `final`.
            start: the state of the rule before the first variable, for every row of evidence, [B];
                -1 for none, the first one by default.
            final: by what its states after the last variable are weighed (nats), [B, S] or [S]; by
                default 0 where strings may end and -inf elsewhere. Numbers, to which no gradient
                flows: queries are differentiable in parameters and potentials.

        Raises:
            EvidenceError: if `start` or `final` do not fit the rule.
            NotCompatible: if a product of the circuit splits variables that are no neighbours.
            PropertyRequired: if variables differ in their ranges.
            EmptyLanguage: if the rule accepts no string of as many categories as there are
                variables.
            SettingError: if the rule is about more categories than there are.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
            >>> given = model.given(~pf.Automaton.phrases([[0, 1]], num_categories=3))
            >>> bool(given.rule.accepts(given.sample(5)).all())
            True

            Eight variables, in two halves, the second from where the first has led:

            >>> rule, still = given.rule, torch.zeros(len(given.rule.next))
            >>> first = model.given(rule, start=torch.zeros(5), final=still).sample(1)[0]
            >>> second = model.given(rule, start=rule.run(first)).sample(1)[0]
            >>> bool(rule.accepts(torch.cat([first, second], dim=1)).all())
            True
        """
        check_kind("rule", rule, Automaton, "an Automaton")
        between = start is not None or final is not None
        found = self._given.get((rule, between))
        if found is None:
            with required_by("given"):
                found = engine_under(self.engine, rule, between)
            self._given[rule, between] = found
        about = self, rule, self._export.is_deterministic, found
        return Between(*about, start, final) if between else Given(*about)

    @in_ordinary_modes
    @torch.no_grad()
    def time_steps(self, evidence: Evidence | Numbers, repeats: int = 5) -> StepTimes:
        """Run evidence step by step and see how long each step of the plan takes.

        What it adds up to is an upward pass as `log_prob` makes it without gradients, on a GPU that
        is waited for after every step.

        Args:
            evidence: values [B, D], NaN where missing, or `Evidence`.
            repeats: how often; the least time of a step is told. One more run goes before.

        Returns:
            A value that prints as a table, and that `pf.plot.plan` draws.

        Raises:
            EvidenceError: if the evidence does not fit the circuit.
            SettingError: if `repeats` is below 1.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
            >>> times = model.time_steps(torch.zeros(8, 4))
            >>> times.rows, len(times.steps) == len(model.plan.steps)
            (8, True)
        """
        check_whole("repeats", repeats)
        return time_steps(self.engine, self.evidence(evidence), repeats)

    def summary(self) -> Summary:
        """The layers as a table: kind, units, folds, parameters, memory.

        Returns:
            A value that prints as the table; `rows` are its rows, `total` their sum.

        Examples:
            >>> import pcflow as pf
            >>> pf.compile(pf.naive_bayes([pf.Bernoulli(), pf.Gaussian()], units=2)).summary()
            level  layers                  folds   units    parameters           bytes     per row
                0  Bernoulli                   1       2             2               8           8
                0  Gaussian                    1       2             4              16           8
                1  product hadamard            1       2             0               0           8
                2  sum                         1       1             2               8           4
                   all                         4                     8              32          28
            CompiledCircuit(
              2 variables: 1 of 2 values, 1 without a finite range
              4 layers: 1 sum, 1 product, 2 inputs (Bernoulli, Gaussian)
              8 parameters in 4 banks
              float32 on cpu
            )
        """
        return summary(self.engine)

    def diagram(self, names: Sequence[str] | None = None, most: int = 40) -> Diagram:
        """Boxes and lines of a picture of its circuit; see `Circuit.diagram`.

        Args:
            names: of the variables; their numbers by default.
            most: of more layers, those of a kind and level are one box.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(2, states=3, inputs=pf.Bernoulli()))
            >>> len(model.diagram().nodes) == len(model.circuit.layers)
            True
        """
        return self._structure.diagram(names, most)

    def __repr__(self) -> str:
        """Variables, structure, parameters, precision and device."""
        return about(self.engine)

    def _connect(self) -> None:
        """Build the engine on the device where the parameters are now."""
        plan = self._plan.to(self._like.device, self._machine)
        banks = _Present(self.banks)
        tables = Tables(plan, banks, self._like, self._memory, self._soft_dtype)
        self.engine = Engine(self._structure, plan, tables, Pool(plan.machine.sheets), self._memory)
        self._export, self._chain_rule = Export(self.engine), ChainRule(self.engine)
        self._given: WeakValueDictionary[tuple[Automaton, bool], Engine] = WeakValueDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles are made of: nothing that was computed."""
        computed = "engine", "_export", "_chain_rule", "_given"
        return {k: v for k, v in self.__dict__.items() if k not in computed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Compute anew."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._connect()

    @in_ordinary_modes
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompiledCircuit:
        like = fn(self._like)
        _check_dtype(like.dtype)
        if like.is_meta:
            raise SettingError("device", str(like.device), "one that holds numbers")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._connect()
        return self


class _Present(Sequence[Tensor]):
    """The parameters of a list as they are now; the list itself looks each up by its name."""

    def __init__(self, banks: nn.ParameterList) -> None:
        self._by_name = banks._parameters  # which replaced ones enter

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Tensor]:
        return cast(Iterator[Tensor], iter(self._by_name.values()))

    def __getitem__(self, place: Any) -> Any:
        return tuple(self)[place]


def as_model(given: Circuit | CompiledCircuit) -> CompiledCircuit:
    """A model as it is; a circuit compiled in float64.

    Raises:
        TypeMismatch: if it is neither.
    """
    return given if isinstance(given, CompiledCircuit) else compile(given, dtype=torch.float64)


def as_circuit(given: Circuit | CompiledCircuit, name: str = "circuit") -> Circuit:
    """A circuit as it is; that of a model with its parameters as they are now.

    Raises:
        TypeMismatch: if it is neither.
    """
    if isinstance(given, CompiledCircuit):
        return given.circuit
    check_kind(name, given, Circuit, "a Circuit or a CompiledCircuit")
    return given


def _check_dtype(dtype: torch.dtype) -> None:
    good = (torch.float32, torch.float64)
    SettingError.check("dtype", dtype, "float32 or float64", lambda one: one in good)


@in_ordinary_modes
def compile(
    circuit: Circuit,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    fold: bool = True,
    memory: int = 1 << 30,
    soft_dtype: torch.dtype | None = None,
    machine: Machine | None = None,
) -> CompiledCircuit:
    """Compile a circuit to batched tensor operations.

    Args:
        circuit: any circuit; it is not changed.
        device: where to put the parameters.
        dtype: float32 or float64; torch's default by default.
        fold: False runs every layer by itself, to check the folding.
        memory: bytes that the values of one pass may take, and as many again for what is kept from
            query to query: tables that were computed from parameters. A batch that would take more
            runs in parts; gradients are then found part by part, by going up a second time. Tables
            that take more are computed anew, the oldest first.
        soft_dtype: `torch.bfloat16` multiplies potentials with tables of that precision, of all
            categories or of those that are listed. They are half as large, with no others beside
            them: up to twice as fast where there are many categories, and right to about three
            digits of every potential's weight. What is observed is not affected.
        machine: sizes that suit the machine; they change no answer. `Machine.of` the device where
            the model is, by default.

    Returns:
        The model, whose parameters are those of the circuit.

    Raises:
        TypeMismatch: if `circuit` is not a Circuit, or `machine` not a Machine.
        SettingError: if `dtype` is not float32 or float64, `soft_dtype` neither None nor bfloat16,
            `device` not here or without numbers, or `memory` not a positive integer.

    Examples:
        >>> import pcflow as pf
        >>> compile(pf.hmm(4, states=2, inputs=pf.Categorical(3))).num_variables
        4
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    check_kind("circuit", circuit, Circuit, "a Circuit")
    check_device(device)
    _check_dtype(dtype)
    either = (None, torch.bfloat16)
    SettingError.check("soft_dtype", soft_dtype, "None or bfloat16", lambda one: one in either)
    check_whole("memory", memory)
    check_kind("machine", machine, Machine | None, "a Machine")
    plan = make_plan(circuit, fold, machine or MACHINE)
    model = CompiledCircuit(circuit, plan, dtype, memory, soft_dtype, machine)
    stays = device is None or model.device == torch.device(device)
    return model if stays else model.to(device)
