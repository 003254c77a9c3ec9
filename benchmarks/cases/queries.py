"""What circuits of every kind are, answer, and learn from: their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import pcflow as pf
from cases.given import (
    DTYPES,
    Cases,
    asked,
    circuits,
    codes,
    gaps,
    gradients,
    in_both,
    known,
    seeded,
    soft,
)


def structures() -> Cases:
    """Parameters as they are drawn or learned, and all kinds of evidence."""
    for name, circuit in circuits().items():
        yield name, circuit
        yield f"{name}, log prob", [asked(circuit, *known(circuit).values())]
        yield f"{name}, reference", pf.reference_log_prob(circuit, soft(codes(8)))


def proofs() -> Cases:
    """Which circuits are proved to be what."""
    for name, circuit in circuits().items():
        found = circuit.properties
        told = found.structured_decomposable, found.deterministic, found.omni_compatible
        yield name, [proof is not None for proof in told]


def answers() -> Cases:
    """Every query of every circuit, in both precisions."""
    for name, circuit in circuits().items():
        few, models = known(circuit, rows=3), in_both(circuit)
        some = list(few.values())
        wanted = torch.randint(3, (3, 6, 1), generator=seeded())
        yield f"{name}, marginals", [m.marginals(e) for m in models for e in some]
        yield f"{name}, some marginals", [m.marginals(few["soft"], wanted) for m in models]
        yield f"{name}, mean", [m.mean(e) for m in models for e in some]
        yield f"{name}, sample", [m.sample(5, generator=seeded()) for m in models]
        yield f"{name}, sample given", [m.sample(4, e, seeded()) for m in models for e in some]
        yield f"{name}, sample sharper", [sharper(m, few["soft"]) for m in models]
        yield f"{name}, mpe", [m.mpe(e) for m in models for e in some]
        yield f"{name}, projection", [projected(m, few["missing"]) for m in models]


def sharper(model: pf.CompiledCircuit, evidence: pf.Evidence | Tensor) -> object:
    """Draws at other temperatures, with and without their marginals."""
    drawn = [model.sample(3, evidence, seeded(), temperature=heat) for heat in (0.0, 0.5)]
    return drawn, model.sample_with_marginals(3, evidence, seeded(1), temperature=0.7)


def projected(model: pf.CompiledCircuit, evidence: pf.Evidence | Tensor) -> object:
    """Evidence with chosen marginals, and how probable it is."""
    target = torch.randn(3, 6, 3, generator=seeded()).log_softmax(dim=-1)
    found = model.project(evidence, target, 3)
    until = model.project(evidence, target, 20, tolerance=1e-3)
    return found, found.mismatch, model.log_prob(found), model.marginals(found), until


def derivatives() -> Cases:
    """Gradients of every circuit, in both precisions."""
    for name, circuit in circuits().items():
        models = [pf.compile(circuit, dtype=dtype) for dtype in DTYPES for _ in known(circuit)]
        evidence = [some for _ in DTYPES for some in known(circuit).values()]
        yield name, [gradients(*pair) for pair in zip(models, evidence, strict=True)]


def ways_to_compile() -> Cases:
    """Without folding, in parts, in another precision of potentials."""
    chain = pf.hmm(12, 8, pf.Categorical(3), generator=seeded())
    ways: dict[str, dict[str, Any]] = {
        "not folded": {"fold": False},
        "in parts": {"memory": 4096},
        "bfloat16": {"soft_dtype": torch.bfloat16},
    }
    for name, how in ways.items():
        model, evidence = pf.compile(chain, **how), soft(codes(8, 12))
        drawn = model.sample(2, evidence, seeded())
        told = model.log_prob(evidence), model.marginals(evidence), drawn, model.mpe(evidence)
        yield name, [*told, gradients(model, evidence)]


def many_categories() -> Cases:
    """Tables that are read block by block, or by listed rows."""
    circuit = pf.hmm(4, 8, pf.Categorical(2500), generator=seeded())
    wide = pf.hmm(4, 8, pf.Categorical(2500), homogeneous=False, generator=seeded())
    for name, chain in {"tied": circuit, "not tied": wide}.items():
        for rows in (1, 40):
            x = torch.randint(2500, (rows, 4), generator=seeded())
            evidence, model = soft(x, 2500), pf.compile(chain)
            for label, some in {"soft": evidence, "listed": evidence.top_k(20)}.items():
                case = f"{name}, {rows} rows, {label}"
                yield f"{case}, log prob", model.log_prob(some)
                yield f"{case}, sample", model.sample(2, some, seeded())
                yield f"{case}, mpe", model.mpe(some)
                yield f"{case}, mean", model.mean(some)
                yield f"{case}, marginals", model.marginals(some, x.unsqueeze(-1))
                yield f"{case}, gradients", gradients(pf.compile(chain), some)
        yield f"{name}, sample", model.sample(20, generator=seeded())
        yield f"{name}, marginals", model.marginals(gaps(x)[:1])


def log_space() -> Cases:
    """Rows whose values underflow in float32, and then matter."""
    for name, (circuit, x) in {"two units": lost_units(), "Gaussians": many_gaussians()}.items():
        for dtype in DTYPES:
            model, hidden, label = pf.compile(circuit, dtype=dtype), x.clone(), f"{name}, {dtype}"
            hidden[:, 5] = torch.nan
            yield f"{label}, log prob", [model.log_prob(x), model.log_prob(hidden)]
            yield f"{label}, draws", [model.sample(6, hidden, seeded()), model.mean(hidden)]
            yield f"{label}, mpe", model.mpe(hidden)
            if model.num_categories[0] is not None:
                yield f"{label}, marginals", model.marginals(hidden)
            yield f"{label}, gradients", gradients(model, x)


def lost_units() -> tuple[pf.Circuit, Tensor]:
    """One unit is 1e-60 of the other until the last variable rules the other out."""
    ones = torch.tensor([0.9, 0.9 * 10.0 ** (-60 / 16)], dtype=torch.float64)
    odds, stay = pf.Parameter(ones.logit()), pf.Parameter.from_probs([[1.0, 0.0], [0.0, 1.0]])
    layers: list[Any] = [pf.InputLayer(v, pf.Bernoulli(), 2, {"logits": odds}) for v in range(16)]
    layer = layers[0]
    for leaf in [*layers[1:], pf.InputLayer(16, pf.Indicator([0, 1]), 2)]:
        layer = pf.ProductLayer([pf.SumLayer([layer], stay), leaf])
    x = torch.ones(3, 17)
    x[1, -1], x[2, -1] = 0.0, torch.nan
    return pf.Circuit(pf.SumLayer([layer], pf.Parameter.from_probs([[0.5, 0.5]]))), x


def many_gaussians() -> tuple[pf.Circuit, Tensor]:
    """Log-densities far below what a float32 holds."""
    circuit = pf.hmm(200, 3, pf.Gaussian(), generator=seeded())
    return circuit, 30.0 * torch.randn(3, 200, generator=seeded())
