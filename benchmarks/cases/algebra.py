"""Circuits and formulas in; circuits, or numbers about them, out."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import pcflow as pf
from cases.given import (
    Cases,
    asked,
    circuits,
    codes,
    gaps,
    in_both,
    inner_product,
    log_inner_product,
    marginal_map,
    queried,
    seeded,
)


def algebra() -> Cases:
    """Circuits to circuits."""
    chain, tree, x = circuits()["hmm"], circuits()["Chow-Liu"], codes(8)
    other = pf.hmm(6, 2, pf.Categorical(3), generator=seeded(4))
    pair = [chain, tree]
    bits = pf.compile_cnf(pf.CNF([(1, 2, 3), (-1, -2), (-1, -3), (-2, -3)])).circuit
    yield "condition", [asked(pf.condition(c, {0: 1, 3: 2}), x[:, :4]) for c in pair]
    yield "marginalize", [asked(pf.marginalize(c, [4, 0, 2]), x[:, :3]) for c in pair]
    yield "restrict", [asked(pf.restrict(c, {0: [0, 2], 5: [1]}), x) for c in pair]
    yield "mixture", asked(pf.mixture([chain, tree, other], [0.2, 0.5, 0.3]), x)
    yield "multiply", asked(pf.multiply(chain, other), x)
    yield "multiply, compatible", asked(pf.multiply(tree, pf.power(tree, 0.5)), x)
    yield "power", [asked(pf.power(tree, by), x) for by in (0.5, 2.0)]
    yield "power of sums", asked(pf.power(other, 2.0), x)
    yield "from one hot", asked(pf.from_one_hot(bits, [[0, 1, 2]]), x[:, :1])
    yield "latents exposed", augmented(pf.expose_latents(chain), 3)
    yield "gates added", augmented(pf.add_gates(chain, 3, 0.2, seeded()), 3)


def augmented(circuit: pf.Circuit, values: int) -> object:
    """A circuit with controls behind its six variables: both known, and the controls soft."""
    x = codes(8, circuit.num_variables, values)
    hidden = torch.arange(x.shape[1]).expand_as(x) >= 6
    some = pf.Evidence(x, hidden, torch.randn(*x.shape, 3, generator=seeded()))
    model = pf.compile(circuit)
    return asked(circuit, x, some), model.marginals(some), model.mpe(some)


def information() -> Cases:
    """Exact numbers about distributions."""
    p, q = circuits()["Chow-Liu"], pf.power(circuits()["Chow-Liu"], 0.7)
    a, b = circuits()["hmm"], pf.hmm(6, 2, pf.Categorical(3), generator=seeded(4))
    yield "entropy", [pf.entropy(p), pf.renyi_entropy(p, 0.5), pf.renyi_entropy(a, 2)]
    yield "divergences", [pf.kl_divergence(p, q), pf.cross_entropy(p, q)]
    yield "other divergences", [pf.renyi_divergence(p, q, 2), pf.cauchy_schwarz_divergence(a, b)]
    yield "inner products", [inner_product(a, b), log_inner_product(a, b)]
    yield "moments", [pf.covariance(a), pf.moment(a, {0: 2, 3: 1}), pf.covariance(p)]
    yield "mutual information", [pf.mutual_information(c, [0, 1], [4]) for c in (p, a)]
    yield "of pairs", [pf.pairwise_mutual_information(c) for c in (p, a)]
    yield "marginal MAP", marginal_map(p, range(6), gaps(codes(4)))
    yield "deterministic MPE", [m.mpe(gaps(codes(4))) for m in in_both(p)]


def bounds_and_estimates() -> Cases:
    """What needs no property: bounds, and estimates with a seed."""
    x = gaps(codes(4))
    for name in ("hmm", "Poon-Domingos, cp", "LearnSPN"):
        circuit = circuits()[name]
        bounds = pf.entropy_lower_bound, pf.entropy_upper_bound
        yield f"{name}, entropy", [bound(circuit) for bound in bounds]
        yield f"{name}, mpe", [pf.mpe_lower_bound(circuit, x), pf.mpe_upper_bound(circuit, x)]
        query = [1, 3]
        free = x.clone()
        free[:, query] = torch.nan
        bounds = pf.map_lower_bound, pf.map_upper_bound
        yield f"{name}, map", [bound(circuit, query, free) for bound in bounds]
        other = circuits()["naive Bayes"]
        yield f"{name}, entropy estimate", pf.entropy_estimate(circuit, 200, seeded())
        yield f"{name}, kl estimate", pf.kl_estimate(circuit, other, 200, seeded())
        yield f"{name}, cross entropy", pf.cross_entropy_estimate(circuit, other, 200, seeded())
        mean = pf.expectation_estimate(circuit, lambda x: x.double().sum(dim=-1), 200, seeded())
        yield f"{name}, expectation", mean
        told = pf.mutual_information_estimate(circuit, 0, [1, 2], 200, seeded())
        yield f"{name}, mutual information", told


def logic() -> Cases:
    """Formulas to circuits, and counts."""
    cnf = pf.CNF([(1, -2, 4), (2, 3), (-3, -4, 5), (-1, 6), (-5, -6, 2)])
    log_weights = torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    every = torch.cartesian_prod(*[torch.arange(2)] * 6)
    chain = pf.hmm(6, 3, pf.Bernoulli(), generator=seeded())
    yield "count", pf.model_count(cnf)
    formula = pf.CNF.from_formula("(a | ~b) & (b -> c)", ["a", "b", "c"])
    yield "from a formula", asked(pf.compile_cnf(formula).circuit, every[:8, 3:])
    for ordered in (False, True):
        found = pf.compile_cnf(cnf, log_weights, ordered)
        label = "ordered" if ordered else "in any order"
        yield f"{label}, count", found.log_count
        yield f"{label}, log prob", asked(found.circuit, every, gaps(every[::9]))
        yield f"{label}, entropy", pf.entropy(found.circuit)
        possible = pf.compile(found.circuit).sample(4, generator=seeded())
        yield f"{label}, queries", [queried(m, gaps(possible)) for m in in_both(found.circuit)]
    given = pf.multiply(chain, pf.compile_cnf(cnf, ordered=True).circuit)
    yield "a chain given a formula", asked(given, every)
    with TemporaryDirectory() as folder:
        pf.write_dimacs(cnf, Path(folder) / "formula.cnf")
        yield "read again", pf.model_count(pf.read_dimacs(Path(folder) / "formula.cnf"))
