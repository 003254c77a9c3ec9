"""What people wait for while they train: whole steps, of models of many kinds.

`speed.py --long` runs them in one process that goes on and on, both sides by turns: one table of
subjects, who else computes the same and with which parameters, times one table of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import prod

import images
import torch
import trees
from measure import Run, Workload, agree, backward, forward, renewed
from torch import Tensor, nn
from toy import size

import pcflow as pf
from pcflow.engine import InputStep

LENGTH, LONG = size((32, 1024), (4, 8))
STATES, SYMBOLS, BATCH = size((256, 1000, 64), (4, 10, 8))
WIDE, TOKENS, MANY = size((1024, 32_768, 256), (8, 64, 8))
DELTA = size(4, 2)  # of a Poon-Domingos circuit
LATENT = size(64, 2)  # states of a hidden Chow-Liu tree


@dataclass(frozen=True)
class Subject:
    """A model, rows for it, and who else computes the same of them.

    Attributes:
        model: ours.
        x: rows [B, D].
        peer: whose `theirs` is; nobody's by default.
        theirs: a module with the same parameters; None if there is none, or it is not installed.
        tables: what it keeps while parameters stay, if it takes such.
        products: those that a step up and down cannot do without.
    """

    model: pf.CompiledCircuit
    x: Tensor
    peer: str = ""
    theirs: nn.Module | None = None
    tables: tuple[Tensor, ...] = ()
    products: Run | None = None

    def ours(self) -> Tensor:
        """Log-probabilities [B]."""
        return self.model.log_prob(self.x)

    @property
    def kept(self) -> Callable[[], Tensor] | None:
        """Theirs, as long as parameters stay."""
        theirs = self.theirs
        return theirs and (lambda: theirs(self.x, *self.tables))

    @property
    def sides(self) -> Iterator[tuple[nn.Module, Callable[[], Tensor]]]:
        """Modules and their log-probabilities, ours first."""
        yield self.model, self.ours
        theirs = self.theirs
        if theirs is not None:
            yield theirs, lambda: theirs(self.x)

    def goal(self, faster: float) -> float | None:
        """What is promised against the peer that it is promised against."""
        return faster if self.peer == "libcirkit" else None

    @property
    def flops(self) -> float:
        """Of a pass up."""
        return float(len(self.x) * self.model.plan.flops)

    @property
    def numbers(self) -> float:
        """Every unit written once and read once; weights, and the rows of tables that are named."""
        plan, batch = self.model.plan, len(self.x)
        leaves = [step for step in plan.steps if isinstance(step, InputStep)]
        banks = {read.bank for step in leaves for read in step.parameters.values()}
        tables = sum(prod(parameter.shape) for bank in banks for parameter in plan.banks[bank])
        rows = batch * sum(step.folds * step.units for step in leaves)
        weights = plan.parameter_count - tables
        return 2.0 * batch * plan.numbers_per_row + weights + min(tables, rows)


def image(regions: str, units: int) -> Subject:
    """Of 28 x 28 pixels of 256 categories."""
    model, theirs, x = images.both(images.Structure(regions, "cp", units), images.BATCH)
    return Subject(model, x, "libcirkit", theirs)


def hclt() -> Subject:
    """A hidden Chow-Liu tree of as many pixels; its structure is that of binary ones."""
    kinds = torch.rand(4, images.SIDE**2)
    table = kinds[torch.randint(4, (500,))].bernoulli().long()
    model = pf.compile(pf.hclt(table, LATENT, pf.Categorical(images.CATEGORIES)))
    return Subject(model, torch.randint(images.CATEGORIES, (images.BATCH, images.SIDE**2)))


def gaussians() -> Subject:
    """A binary tree, of whose columns three in ten are missing."""
    model, _, x = trees.both()
    return Subject(model, x.masked_fill(torch.rand(x.shape) < 0.3, torch.nan))


class Loop(nn.Module):
    """A hidden Markov model by hand: one vector a row, scaled, in a loop that autograd follows."""

    def __init__(self, start: Tensor, move: Tensor, emit: Tensor) -> None:
        """Of logits [1, K], [K, K] and [V, K]."""
        super().__init__()
        self.logits = nn.ParameterList(nn.Parameter(p.clone()) for p in (start, move, emit))

    def tables(self) -> tuple[Tensor, ...]:
        """Probabilities: of the start, transposed moves, and emissions by symbol."""
        start, move, emit = self.logits
        return start.softmax(dim=-1)[0], move.softmax(dim=-1).t(), emit.softmax(dim=0)

    def forward(self, x: Tensor, *kept: Tensor) -> Tensor:
        """Log-probability [B] of symbols [B, L], by tables that may be kept."""
        start, move, emit = kept or self.tables()
        symbols = x.t().contiguous()
        units, scale = emit[symbols[-1]], torch.zeros(len(x))
        for one in symbols[:-1].flip(0):
            units = (units @ move) * emit[one]
            peak = units.amax(dim=-1)
            units = units / peak.unsqueeze(-1)
            scale = scale + peak.log()
        return (units @ start).log() + scale


def hmm(length: int, states: int, symbols: int, batch: int) -> Subject:
    """Against a bare loop, and the bare products."""
    circuit = pf.hmm(length, states, pf.Categorical(symbols))
    values = {p.shape: p.value for p in circuit.parameters}
    loop = Loop(*(values[shape] for shape in [(1, states), (states, states), (symbols, states)]))
    model, x = pf.compile(circuit), torch.randint(symbols, (batch, length))
    with torch.no_grad():
        tables = loop.tables()
    agree(lambda: model.log_prob(x), lambda: loop(x))
    rows, matrix = torch.rand(batch, states), torch.rand(states, states)
    found, edges = torch.empty_like(rows), torch.empty_like(matrix)

    def products() -> None:
        for _ in range(length - 1):
            torch.mm(rows, matrix, out=found)
            torch.mm(rows, matrix.t(), out=found)
            torch.mm(rows.t(), rows, out=edges)

    return Subject(model, x, "bare loop", loop, tables, products)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    **{
        f"{regions} K={units}": partial(image, regions, units)
        for regions, units in product(("quad_tree", "quad_graph"), (images.FEW, images.MANY))
    },
    f"poon_domingos K={images.FEW}": partial(image, "poon_domingos", images.FEW),
    f"HCLT K={LATENT}": hclt,
    "Gaussians, 30% missing": gaussians,
}
CHAINS: dict[str, Callable[[], Subject]] = {
    f"HMM {length:,} x {states:,} x {symbols:,}": partial(hmm, length, states, symbols, batch)
    for length, states, symbols, batch in [
        (LENGTH, STATES, SYMBOLS, BATCH),
        (LONG, STATES, SYMBOLS, BATCH),
        (LENGTH, STATES, TOKENS, MANY),
        (LENGTH, WIDE, TOKENS, MANY),
    ]
}


@dataclass(frozen=True)
class Step:
    """Both sides of a step, as a `Workload` has them.

    Attributes:
        passes: how many passes up its arithmetic is.
        moved: how often it reads or writes every parameter, beyond what passes read.
    """

    peer: str
    ours: Run
    theirs: Run | None
    passes: int
    moved: int
    goal: float | None = None


def infer(subject: Subject) -> Step:
    """One pass up; parameters stay."""
    ours, *theirs = (forward(run) for run in (subject.ours, subject.kept) if run)
    return Step(subject.peer, ours, next(iter(theirs), None), 1, 0, subject.goal(6.0))


def train(subject: Subject) -> Step:
    """Up and down for all gradients, with other parameters each time."""
    ours, *theirs = (backward(module, renewed(module, run)) for module, run in subject.sides)
    return Step(subject.peer, ours, next(iter(theirs), None), 3, 2, subject.goal(5.0))


def adam(subject: Subject) -> Step:
    """The same, and a step of one optimizer on both sides."""
    ours, *theirs = (_moved(module, run) for module, run in subject.sides)
    return Step(subject.peer, ours, next(iter(theirs), None), 3, 9, subject.goal(5.0))


def _moved(module: nn.Module, run: Callable[[], Tensor]) -> Run:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        run().mean().neg().backward()
        optimizer.step()

    return step


def learn(learner: pf.Learner, moved: int, subject: Subject) -> Step:
    """A step of a learner that counts, which may take a fifth more than up and down."""
    run, batches = learner.start(subject.model), [pf.Batch(subject.x)]
    once = train(subject).ours
    return Step("forward and backward", lambda: run.step(batches), once, 3, moved, 1 / 1.2)


def bare(subject: Subject) -> Step:
    """A step of Anemone against the products that it cannot do without."""
    step = learn(pf.Anemone(), ANEMONE, subject)
    return replace(step, peer="bare products", theirs=subject.products, goal=1 / 1.5)


def draw(subject: Subject) -> Step:
    """A draw of each row, half observed, which may take half as long again as its log_prob."""
    model = subject.model
    x = subject.x.float().masked_fill(torch.rand(subject.x.shape) < 0.5, torch.nan)
    once = forward(lambda: model.log_prob(x))
    return Step("log_prob of the rows", lambda: model.sample(1, x), once, 1, 0, 1 / 1.5)


ANEMONE = 6  # times it moves every parameter: table, counts and their sums, written and read
STEPS: dict[str, Callable[[Subject], Step]] = {
    "forward": infer,
    "forward and backward": train,
    "a step of Adam": adam,
    "a step of EM": partial(learn, pf.EM(), 4),
    "a step of mini-batch EM": partial(learn, pf.MiniBatchEM(), 5),
    "a step of Anemone": partial(learn, pf.Anemone(), ANEMONE),
    "conditional draws": draw,
}


JUDGED = (
    f"(quad_tree K=({images.FEW}|{images.MANY})|quad_graph K={images.FEW}): (?!.*mini)"
    f"|{WIDE:,} x {TOKENS:,}: .*products"
)
"""A regular expression of the rows that matter most: image circuits, and the widest chain."""


def workloads() -> dict[str, Callable[[], Workload]]:
    """Builders by name."""
    rows = [*product(SUBJECTS | CHAINS, STEPS), *product(CHAINS, ["a step of Anemone, products"])]
    return {f"{subject}: {step}": partial(workload, subject, step) for subject, step in rows}


def workload(subject: str, step: str) -> Workload:
    """A row of the table."""
    about = (SUBJECTS | CHAINS)[subject]()
    made = (STEPS | {"a step of Anemone, products": bare})[step](about)
    numbers = about.numbers * min(made.passes, 2) + about.model.plan.parameter_count * made.moved
    return Workload(
        f"{subject}: {step}",
        made.peer,
        made.ours,
        made.theirs,
        about.flops * made.passes,
        numbers,
        goal=made.goal,
    )
