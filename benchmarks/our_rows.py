"""Every query on circuits of every kind, without peers: what `two_commits` times.

Only public names, so that older and newer versions run the same rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch
from measure import Run, backward, em_step, fit_step, forward, renewed
from psdd import Generator
from toy import size

import pcflow as pf

BATCH = size(64, 4)
SIDE = size(28, 4)
TOKENS, LISTED = size((8192, 256), (16, 4))


def hmm() -> pf.Circuit:
    """A homogeneous hidden Markov model."""
    length, states, symbols = size((32, 128, 1000), (4, 3, 5))
    return pf.hmm(length, states, pf.Categorical(symbols))


def quad_tree() -> pf.Circuit:
    """A tree over an image."""
    return _image(pf.structure.quad_tree((SIDE, SIDE)))


def quad_graph() -> pf.Circuit:
    """Regions of an image that are split in several ways."""
    return _image(pf.structure.quad_graph((SIDE, SIDE)))


def _image(regions: pf.RegionGraph) -> pf.Circuit:
    values, units = size((64, 16), (3, 2))
    return pf.build_circuit(regions, pf.Categorical(values), units)


def hclt() -> pf.Circuit:
    """A hidden Chow-Liu tree."""
    return pf.hclt(_table(), size(32, 2), pf.Categorical(2))


def learned_spn() -> pf.Circuit:
    """An irregular circuit, with many small layers."""
    return pf.learn_spn(_table(), pf.Bernoulli(), generator=torch.Generator().manual_seed(0))


def psdd() -> pf.Circuit:
    """A deterministic circuit, made up."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.psdd"
        path.write_text(str(Generator(*size((200, 12), (12, 2)), seed=0)))
        return pf.read_psdd(path)


def small() -> pf.Circuit:
    """So small that only what a call costs is left."""
    return pf.hmm(4, 2, pf.Categorical(3))


def _table() -> torch.Tensor:
    """Binary rows of four hidden kinds."""
    rows, columns = size((2000, 48), (100, 6))
    chances = torch.rand(4, columns)[torch.randint(4, (rows,))]
    return chances.bernoulli().long()


Query = Callable[[pf.Circuit, torch.Tensor], Run]


def infer(circuit: pf.Circuit, x: torch.Tensor) -> Run:
    """One pass up."""
    model = pf.compile(circuit)
    return forward(lambda: model.log_prob(x))


def train(circuit: pf.Circuit, x: torch.Tensor) -> Run:
    """One pass up and one down for all gradients; parameters are new each time."""
    model = pf.compile(circuit)
    return backward(model, renewed(model, lambda: model.log_prob(x)))


def em(circuit: pf.Circuit, x: torch.Tensor) -> Run:
    """Expected counts and new parameters."""
    return em_step(pf.compile(circuit), x)


def anemone(circuit: pf.Circuit, x: torch.Tensor) -> Run:
    """Flows, and a step along them."""
    return fit_step(pf.compile(circuit), x, pf.Anemone(0.01))


def sample(circuit: pf.Circuit, x: torch.Tensor) -> Run:
    """Unconditional draws."""
    model = pf.compile(circuit)
    return lambda: model.sample(len(x))


def conditional_sample(circuit: pf.Circuit, x: torch.Tensor) -> Run:
    """A draw of each row, half observed."""
    model, half = pf.compile(circuit), _half(x)
    return lambda: model.sample(1, half)


def marginals(circuit: pf.Circuit, x: torch.Tensor) -> Run:
    """Posteriors of each row, half observed."""
    model, half = pf.compile(circuit), _half(x)
    return lambda: model.marginals(half)


def mpe(circuit: pf.Circuit, x: torch.Tensor) -> Run:
    """The best completion of each row, half observed."""
    model, half = pf.compile(circuit), _half(x)
    return lambda: model.mpe(half)


def project(circuit: pf.Circuit, x: torch.Tensor) -> Run:
    """Potentials that give the half that is not observed other marginals."""
    model, half = pf.compile(circuit), _half(x)
    target = torch.randn(model.marginals(half).shape).log_softmax(dim=-1)  # [B, D, V]
    evidence = pf.Evidence(half)
    return lambda: model.project(evidence, target)


def compiling(circuit: pf.Circuit, x: torch.Tensor) -> Run:
    """From layers to a module."""
    return lambda: pf.compile(circuit)


def _half(x: torch.Tensor) -> torch.Tensor:
    return x.float().masked_fill(torch.rand(x.shape) < 0.5, torch.nan)


def soft(most: int | None, query: str) -> Run:
    """A language model's potentials over a block, all of them or the largest."""
    length, states = size((32, 256), (4, 2))
    model = pf.compile(pf.hmm(length, states, pf.Categorical(TOKENS)))
    potentials = torch.randn(4, length, TOKENS).log_softmax(dim=-1)
    missing = torch.ones(4, length, dtype=torch.bool)
    evidence = pf.Evidence(missing=missing, log_potentials=potentials)
    if most is not None:
        evidence = evidence.top_k(most)
    return forward(lambda: getattr(model, query)(evidence))


CIRCUITS = (hmm, quad_tree, quad_graph, hclt, learned_spn, psdd, small)
QUERIES = {
    "forward": infer,
    "forward and backward": train,
    "a step of EM": em,
    "a step of Anemone": anemone,
    "samples": sample,
    "conditional samples": conditional_sample,
    "marginals": marginals,
    "MPE": mpe,
    "compile": compiling,
}
PROJECTED = (hmm, hclt, learned_spn)


def rows() -> dict[str, Callable[[], Run]]:
    """Builders by name."""
    found: dict[str, Callable[[], Run]] = {}
    for build, (name, query) in product(CIRCUITS, QUERIES.items()):
        found[f"{_name(build)}: {name}"] = partial(on, build, query)
    for build in PROJECTED:
        found[f"{_name(build)}: project"] = partial(on, build, project)
    for query, most in product(("log_prob", "marginals"), (None, LISTED)):
        which = "soft evidence" if most is None else f"soft evidence, top {most}"
        found[f"hmm of {TOKENS} tokens, {which}: {query}"] = partial(soft, most, query)
    return found


def _name(build: Callable[[], pf.Circuit]) -> str:
    return build.__name__.replace("_", " ")


def on(build: Callable[[], pf.Circuit], query: Query) -> Run:
    """A query on rows that the circuit draws itself."""
    circuit, x = drawn(build)
    return query(circuit, x)


@cache
def drawn(build: Callable[[], pf.Circuit]) -> tuple[pf.Circuit, torch.Tensor]:
    """The circuit, and rows [B, D] of it."""
    torch.manual_seed(0)
    circuit = build()
    return circuit, pf.compile(circuit).sample(1 if build is small else BATCH)
