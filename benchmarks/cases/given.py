"""What the cases share: names of both versions, numbers of answers, data, evidence, circuits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pcflow as pf
import pcflow_diffusion as pd

Cases = Iterator[tuple[str, object]]
DTYPES = (torch.float32, torch.float64)

# ----------------------------------------------------------------------- names that changed
# Both versions run these cases. Where a public name, a signature or the form of an answer has
# changed, ask here which version it is (`hasattr`), and use what is defined here everywhere else.


def exported(model: pf.CompiledCircuit) -> pf.Circuit:
    """The circuit with the model's parameters as they are now."""
    return model.circuit


def potentials_of(evidence: pf.Evidence) -> object:
    """The log-potentials of soft evidence, and of which categories they are."""
    return evidence.log_potentials, evidence.categories


def tokenizer(count: int) -> Any:
    """What `save_denoiser` takes: a tokenizer, which was its characters."""
    characters = "\ufffd" + "".join(chr(97 + n) for n in range(count - 1))
    return pd.CharacterTokenizer(characters) if hasattr(pd, "CharacterTokenizer") else characters


def generate(
    backbone: pd.Backbone,
    prompt: Tensor,
    head: pd.CircuitHead | None,
    decoding: Mapping[str, Any],
    **settings: Any,
) -> Tensor:
    """Generated text, with the fields of a `Decoding`, blocks to the right hidden."""
    if not hasattr(pd, "Marginals"):
        return pd.generate(backbone, prompt, head, **settings, **decoding)  # type: ignore[call-arg]
    if "show" in signature(pd.generate).parameters:
        settings |= {"show": "blocks", "circuit_context": 0}
    return pd.generate(backbone, prompt, head, **settings, decoding=pd.Decoding(**decoding))


def infill(backbone: pd.Backbone, text: Tensor, head: pd.CircuitHead | None, **how: Any) -> Tensor:
    """Filled text; the circuit sees its window and no text beside it."""
    if "circuit_context" in signature(pd.infill).parameters:
        how |= {"circuit_context": 0}
    return pd.infill(backbone, text, head, **how)


def largest(logits: Any, k: int) -> Tensor:
    """The k largest of stored logits, whose others were spread out before they were left out."""
    numbers = logits if isinstance(logits, Tensor) else logits.log
    return numbers.topk(k, dim=-1).values


def drawn(head: pd.CircuitHead, logits: Tensor, x: Tensor, **how: Any) -> object:
    """What `CircuitHead.draw` tells."""
    if hasattr(pd, "Marginals"):
        k, dtype = head.top_k, head.model.dtype
        said = pd.Marginals.of(logits, x, head.mask_token_id, top_k=k, dtype=dtype)
        found = head.draw(said, **how)
    else:
        found = head.draw(logits, x, **how)  # type: ignore[call-arg]
    return found.tokens, found.drawn, found.confidence, found.score


def sampled(found: Any) -> object:
    """Tokens and confidence, of `CircuitHead.sample`."""
    tokens, confidence = found
    return tokens, confidence


inner_product = pf.inner_product if hasattr(pf, "inner_product") else pf.expectation
log_inner_product = pf.log_inner_product if hasattr(pf, "log_inner_product") else pf.log_expectation


def marginal_map(circuit: pf.Circuit, query: Iterable[int], evidence: Tensor) -> object:
    """The best values and their log-probability."""
    found = pf.marginal_map(circuit, query, evidence)
    return found.values, found.log_value


conditional = getattr(pf, "Batch", None) or pf.Conditional


# ----------------------------------------------------------------------- answers


def tensors(answer: object) -> list[Tensor]:
    """All numbers of an answer, whatever holds them."""
    match answer:
        case None:
            return []
        case Tensor():
            return [answer.detach().clone()]
        case bool() | int() | float():
            return [torch.tensor(float(answer), dtype=torch.float64)]
        case np.ndarray():
            return [torch.from_numpy(answer.copy())]
        case pf.CompiledCircuit():
            return tensors(exported(answer))
        case pf.Circuit():
            return [parameter.value for parameter in answer.parameters]
        case pf.Evidence():
            return tensors(potentials_of(answer))
        case nn.Module():
            return tensors(list(answer.parameters()))
    if is_dataclass(answer):
        answer = [getattr(answer, field.name) for field in fields(answer)]
    assert isinstance(answer, tuple | list), f"no numbers are known in {type(answer)}"
    return [tensor for part in answer for tensor in tensors(part)]


def seeded(seed: int = 0) -> torch.Generator:
    """A source of the same draws."""
    return torch.Generator().manual_seed(seed)


def codes(rows: int, variables: int = 6, categories: int = 3, seed: int = 0) -> Tensor:
    """Rows in which neighbours often have the same value."""
    generator = seeded(seed)
    x = torch.randint(categories, (rows, variables), generator=generator)
    copied = torch.rand(rows, variables, generator=generator) < 0.6
    for variable in range(1, variables):
        x[:, variable] = torch.where(copied[:, variable], x[:, variable - 1], x[:, variable])
    return x


def gaps(x: Tensor, share: float = 0.3) -> Tensor:
    """The same rows with NaN at some places, never at the first variable."""
    missing = torch.rand(x.shape, generator=seeded(1)) < share
    missing[:, 0] = False
    return x.double().masked_fill(missing, torch.nan)


def soft(x: Tensor, categories: int = 3) -> pf.Evidence:
    """Rows of which half is soft, and some categories are impossible."""
    generator = seeded(2)
    missing = torch.rand(x.shape, generator=generator) < 0.5
    log_potentials = torch.randn(*x.shape, categories, generator=generator)
    ruled_out = torch.rand(x.shape, generator=generator) < 0.3
    log_potentials[..., -1].masked_fill_(ruled_out, -torch.inf)
    return pf.Evidence(x, missing, log_potentials)


def known(circuit: pf.Circuit, rows: int = 8) -> dict[str, pf.Evidence | Tensor]:
    """Every kind of evidence about a circuit whose variables have three categories."""
    x = codes(rows, circuit.num_variables, seed=3)
    return {"values": x, "missing": gaps(x), "soft": soft(x), "listed": soft(x).top_k(2)}


def gradients(model: pf.CompiledCircuit, evidence: pf.Evidence | Tensor) -> object:
    """Of log-likelihoods: those of potentials, and of parameters, told as those of a circuit."""
    potentials = evidence.log_potentials if isinstance(evidence, pf.Evidence) else None
    if potentials is not None:
        potentials.requires_grad_()
    log_p = model.log_prob(evidence)
    (torch.linspace(0.5, 1.5, len(log_p)).to(log_p) @ log_p).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            gradient = parameter.grad
            parameter.copy_(torch.zeros_like(parameter) if gradient is None else gradient)
    return model, None if potentials is None else potentials.grad


def in_both(circuit: pf.Circuit) -> list[pf.CompiledCircuit]:
    """Compiled in both precisions."""
    return [pf.compile(circuit, dtype=dtype) for dtype in DTYPES]


def asked(circuit: pf.Circuit, *evidence: pf.Evidence | Tensor) -> object:
    """A circuit's parameters, and its log-likelihoods in both precisions."""
    return circuit, [model.log_prob(some) for model in in_both(circuit) for some in evidence]


def queried(model: pf.CompiledCircuit, holes: Tensor) -> object:
    """Draws, means and most probable values."""
    free, given = model.sample(3, generator=seeded()), model.sample(3, holes, seeded())
    return free, given, model.mean(holes), model.mpe(holes)


# ----------------------------------------------------------------------- circuits


@cache
def regions() -> dict[str, pf.RegionGraph]:
    """Region graphs of every kind over six variables."""
    return {
        "chain": pf.structure.chain(6),
        "fully factorized": pf.structure.fully_factorized(6),
        "binary tree": pf.structure.random_binary_tree(6, depth=2, replicas=2, seed=1),
        "quad tree": pf.structure.quad_tree((2, 3)),
        "quad graph": pf.structure.quad_graph((2, 3)),
        "Poon-Domingos": pf.structure.poon_domingos((2, 3), delta=1),
        "Chow-Liu tree": pf.structure.chow_liu_tree(codes(200)),
    }


@cache
def circuits() -> dict[str, pf.Circuit]:
    """Circuits of every builder over six variables of three categories."""
    three, rows = pf.Categorical(3), codes(400)
    found = {
        f"{name}, {layer}": pf.build_circuit(graph, three, 2, layer, seeded())
        for name, graph in regions().items()
        for layer in ("cp", "tucker")
    }
    spn = {"min_rows": 40, "significance": 1e-6}
    return found | {
        "hmm": pf.hmm(6, 3, three, generator=seeded()),
        "hmm, not homogeneous": pf.hmm(6, 3, three, homogeneous=False, generator=seeded()),
        "naive Bayes": pf.naive_bayes([three] * 6, 4, seeded()),
        "hclt": pf.hclt(rows, 3, three, generator=seeded()),
        "hclt, two trees": pf.hclt(rows, 3, three, trees=2, generator=seeded()),
        "Chow-Liu": pf.chow_liu(rows),
        "LearnSPN": pf.learn_spn(rows, three, **spn, generator=seeded()),
        "LearnSPN, k-means": pf.learn_spn(rows, three, clustering="kmeans", generator=seeded()),
        "mixture of trees": pf.mixture_of_trees(rows, 3, generator=seeded()),
        "by hand": by_hand(),
    }


def by_hand() -> pf.Circuit:
    """Products of both kinds, sums of both kinds, tied parameters, a weight of zero."""
    generator, three = seeded(), pf.Categorical(3)
    first = pf.InputLayer.random(0, three, 2, generator)
    layer: Any = first
    for variable in range(1, 6):
        leaf = pf.InputLayer(variable, three, 2, first.parameters)
        kinds = [pf.ProductLayer([layer, leaf], kind) for kind in ("hadamard", "kronecker")]
        dense = [pf.SumLayer.random([kind], 2, generator=generator) for kind in kinds]
        layer = pf.SumLayer.random(dense, 2, mixing=True, generator=generator)
    return pf.Circuit(pf.SumLayer([layer], pf.Parameter(torch.tensor([[0.0, -torch.inf]]))))
