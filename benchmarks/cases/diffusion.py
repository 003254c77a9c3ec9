"""Heads, generation, training: the public face of pcflow_diffusion."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import pcflow as pf
import pcflow_diffusion as pd
from cases.given import (
    Cases,
    drawn,
    exported,
    generate,
    infill,
    largest,
    sampled,
    seeded,
    tokenizer,
)

TOKENS, MASK, LENGTH = 7, 7, 6


@cache
def chain() -> pf.Circuit:
    """Six positions of seven tokens."""
    return pf.hmm(LENGTH, 4, pf.Categorical(TOKENS), homogeneous=False, generator=seeded(7))


def head(
    coupling: str | pd.Coupling = "product", dtype: torch.dtype = torch.float32, **settings: Any
) -> pd.CircuitHead:
    """A circuit head."""
    return pd.CircuitHead(pf.compile(chain(), dtype=dtype), MASK, coupling, **settings)


def blocks(count: int, ratio: float = 0.6) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, L, V], tokens with masks and tokens, both [N, L]."""
    logits = 1.5 * torch.randn(count, LENGTH, TOKENS, generator=seeded(8))
    x0 = torch.randint(TOKENS, (count, LENGTH), generator=seeded(9))
    x = pd.mask_exactly(x0, ratio, MASK, seeded(10))
    return logits, x, x0


def backbone(tokens: Tensor) -> Tensor:
    """Logits that depend on a token and on those beside it."""
    tables = torch.randn(3, TOKENS + 1, TOKENS, generator=seeded(11))
    near = [tables[place][tokens.roll(place - 1, dims=1)] for place in range(3)]
    return 2.0 * (near[0] + near[1] + near[2])


def couplings() -> dict[str, str | pd.Coupling]:
    """Couplings of every kind."""
    return {
        "product": "product",
        "ratio": "ratio",
        "projection": "projection",
        "log-linear": pd.LogLinear(0.8, 0.3),
        "log-linear by share": pd.LogLinear((0.9, 0.8, 0.7), (0.1, 0.3, 0.5)),
        "pooled projection": pd.Projection(3, tolerance=1e-4, pool=(0.9, 0.2)),
    }


def heads() -> Cases:
    """Log-likelihoods, their gradients, marginals and draws of every coupling."""
    settings: dict[str, dict[str, Any]] = {"": {}, ", top 3": {"top_k": 3}}
    for name, coupling in couplings().items():
        for label, how in settings.items():
            for dtype in (torch.float32, torch.float64):
                some, case = head(coupling, dtype, **how), f"{name}{label}, {dtype}"
                logits, x, x0 = blocks(6)
                yield f"{case}, log prob", some.log_prob(logits, x, x0)
                yield f"{case}, forward", some(logits, x)
                if label:
                    yield f"{case}, among the listed", among_the_listed(some(logits, x), logits)
                yield f"{case}, coupled", some.couple(logits, x)
                yield f"{case}, draws", draws(some, logits, x)
                yield f"{case}, gradients", gradients(some, logits, x, x0)


def among_the_listed(log_q: Tensor, logits: Tensor) -> Tensor:
    """Marginals [B, L, V], as they were when the three that are listed shared all of the mass."""
    others = logits < logits.topk(3, dim=-1).values[..., -1:]
    return log_q.masked_fill(others, -torch.inf).log_softmax(dim=-1)


def draws(some: pd.CircuitHead, logits: Tensor, x: Tensor) -> object:
    """In every order, at several temperatures, by every ranking."""
    found: list[object] = []
    how: dict[str, Any]
    for order in ("joint", "any_order", "sharpened", "mpe"):
        for temperature in (1.0, 0.5, 0.0):
            how = {"temperature": temperature, "order": order, "generator": seeded()}
            found.append(sampled(some.sample(logits, x, **how)))
    for ranking in ("low_confidence", "margin", "entropy", "random"):
        how = {"order": "any_order", "ranking": ranking, "generator": seeded()}
        found.append(drawn(some, logits, x, **how))
    count = torch.tensor([1, 2, 1, 3, 2, 1])
    some_of_them = drawn(some, logits, x, order="any_order", count=count, generator=seeded())
    return found, drawn(some, logits, x, generator=seeded()), some_of_them


def gradients(some: pd.CircuitHead, logits: Tensor, x: Tensor, x0: Tensor) -> object:
    """Of possible log-likelihoods, in logits and in the circuit."""
    logits = logits.clone().requires_grad_()
    log_q = some.log_prob(logits, x, x0)
    log_q[log_q.isfinite()].sum().backward()
    return logits.grad, [parameter.grad for parameter in some.model.parameters()]


def other_lengths() -> Cases:
    """A head over fewer positions."""
    logits, x, x0 = (part[:, :4] for part in blocks(5))
    for name in ("product", "ratio", "projection"):
        short = head(name).over(4)
        yield f"{name}, log prob", short.log_prob(logits, x, x0)
        yield f"{name}, sample", sampled(short.sample(logits, x, generator=seeded()))


def choosing_a_coupling() -> Cases:
    """Powers fitted to examples, and the coupling that suits them best."""
    examples = blocks(200)
    for name, buckets in {"fitted": 1, "fitted by share": 2}.items():
        yield name, head().fit_coupling(*examples, buckets)
        yield f"{name}, top 4", head(top_k=4).fit_coupling(*examples, buckets)
    some = head()
    yield "chosen", [some.choose_coupling(*examples), some.log_prob(*blocks(5))]


def decodings(some: pd.CircuitHead | None) -> dict[str, dict[str, Any]]:
    """Several ways to decode; a head has a `top_k` of its own."""
    ways: dict[str, dict[str, Any]] = {
        "best of a path": {"order": "joint"},
        "warm": {"temperature": 1.0},
        "margin": {"temperature": 0.5, "ranking": "margin"},
        "entropy": {"temperature": 0.5, "ranking": "entropy"},
        "random": {"temperature": 0.5, "ranking": "random"},
        "any order": {"order": "any_order", "temperature": 0.7},
        "sharpened": {"order": "sharpened", "temperature": 0.7},
        "mpe": {"order": "mpe"},
        "gamma": {"gamma": 0.7, "temperature": 1.0},
        "threshold": {"threshold": 0.5, "temperature": 1.0},
        "top k": {"top_k": 3, "temperature": 1.0},
        "top p": {"top_p": 0.8, "temperature": 1.0},
        "suppressed": {"suppress": (0, 2), "temperature": 1.0},
        "ending": {"end_token_id": 1, "temperature": 1.0},
    }
    return ways if some is None else {name: ways[name] for name in ways if name != "top k"}


def generation() -> Cases:
    """Blocks as long as the circuit, shorter ones, and windows; with and without a head."""
    prompt = torch.randint(TOKENS, (4, 5), generator=seeded(12))
    prompt[1, :2] = prompt[2, :3] = MASK + 1  # padding
    heads = {
        "no head": None,
        "product": head(),
        "projection": head("projection"),
        "listed": head("ratio", top_k=4),
    }
    for name, some in heads.items():
        for label, decoding in decodings(some).items():
            texts = [
                generate(
                    backbone,
                    prompt.clamp(max=MASK - 1),
                    some,
                    decoding,
                    steps=12 // length * 2,
                    gen_length=12,
                    block_length=length,
                    mask_token_id=MASK,
                    generator=seeded(),
                )
                for length in (3, 6, 12)
            ]
            yield f"{name}, {label}", texts
        padded = generate(
            backbone,
            prompt,
            some,
            {"temperature": 1.0},
            steps=4,
            gen_length=12,
            block_length=6,
            mask_token_id=MASK,
            context=3,
            pad_token_id=MASK + 1,
            generator=seeded(),
        )
        yield f"{name}, padded", padded


def infilling() -> Cases:
    """Masks anywhere."""
    text = torch.randint(TOKENS, (5, 15), generator=seeded(13))
    text = pd.mask_tokens(text, 0.5, MASK, seeded(14))
    heads = {"no head": None, "product": head(), "projection": head("projection")}
    for name, some in heads.items():
        for label, decoding in decodings(some).items():
            if label == "ending":  # which is for `generate` alone
                continue
            filled = infill(
                backbone,
                text,
                some,
                steps=4,
                mask_token_id=MASK,
                decoding=pd.Decoding(**decoding),
                generator=seeded(),
            )
            yield f"{name}, {label}", filled
    covers = [pd.minimum_cover([3, 5, 9, 17], width, 2, 20) for width in (2, 4, 6)]
    yield "windows", [[window.start, window.stop] for cover in covers for window in cover]


def training() -> Cases:
    """Circuits trained against a backbone, with it, and with a modulation."""
    train, judged = pd.Blocks(*blocks(60)), pd.Blocks(*blocks(20, 0.4))
    how: dict[str, Any] = {"epochs": 2, "batch_size": 16, "progress": False}
    for name in ("product", "ratio", "projection"):
        for learner in (None, pf.Gradient()):
            some = head(name)
            told = pd.fit_conditional(
                some, train, learner, validation=judged, generator=seeded(), **how
            )
            kind = "Anemone" if learner is None else "Gradient"
            yield f"conditional, {name}, {kind}", [told, some.model]
    some, weights = head(top_k=4), torch.linspace(0.5, 1.5, 60)
    told = pd.fit_conditional(some, train, weights=weights, generator=seeded(), **how)
    yield "conditional, listed and weighted", [told, some.model]
    for name, circuit in {
        "latents": pf.expose_latents(chain()),
        "gates": pf.add_gates(chain(), 4, generator=seeded()),
    }.items():
        yield f"modulated {name}", modulated(circuit, train, how)


def modulated(circuit: pf.Circuit, train: pd.Blocks, how: dict[str, Any]) -> object:
    """Trained circuit and modulation, and what the head says and draws with them."""
    torch.manual_seed(3)
    modulation = pd.Modulation(TOKENS, 4, width=8, depth=1)
    some = pd.CircuitHead(pf.compile(circuit), MASK, "product", modulation=modulation)
    told = pd.fit_modulation(some, train, generator=seeded(), **how)
    logits, x, x0 = blocks(5)
    return told, some.model, modulation, some.log_prob(logits, x, x0), draws_of(some, logits, x)


def draws_of(some: pd.CircuitHead, logits: Tensor, x: Tensor) -> object:
    """Marginals, and one draw."""
    return some(logits, x), sampled(some.sample(logits, x, generator=seeded()))


def denoisers() -> Cases:
    """The small backbone: what it says, its loss, and trained with a circuit."""
    rows = torch.randint(TOKENS, (24, LENGTH + 4), generator=seeded(15))
    x = pd.mask_tokens(rows, 0.5, MASK, seeded(16))
    torch.manual_seed(1)
    model = pd.Denoiser(pd.DenoiserConfig(TOKENS, width=16, depth=1, heads=2)).eval()
    logits = model(x)
    loss = pd.masked_diffusion_loss(logits, x, rows, MASK)
    loss.sum().backward()
    yield "logits", logits
    yield "loss", [loss, pd.masked_diffusion_loss(logits, x, rows, MASK, torch.linspace(1, 2, 24))]
    yield "gradients", [parameter.grad for parameter in model.parameters()]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "denoiser.safetensors"
        pd.save_denoiser(model, path, tokenizer(TOKENS))
        yield "read again", pd.load_denoiser(path)[0](x)
        store = pd.store_logits(model, Path(folder) / "all", rows, x[:, 4:], progress=False)
        some = pd.store_logits(model, Path(folder) / "k", rows, x[:, 4:], top_k=3, progress=False)
        for name, stored in {"stored": store, "stored, top 3": some}.items():
            batches = list(stored.batches(10, shuffle=True, generator=seeded()))
            yield name, [[batch.logits, batch.x, batch.x0] for batch in batches]
            yield f"{name}, largest", [[largest(b.logits, 3), b.x, b.x0] for b in batches]
    joint, how = head(), {"schedule": "cosine", "generator": seeded()}
    losses = pd.fit_jointly(joint, model, rows, steps=4, batch_size=8, progress=False, **how)
    yield "trained jointly", [losses, exported(joint.model), list(model.parameters())]
    yield "nats over time", pd.coupled_nats_over_time(joint, model, rows, generator=seeded())


def masks_and_conventions() -> Cases:
    """Times, weights and masks of the objective, and how models number their logits."""
    x0, times = blocks(6)[2], pd.sample_times(6, seeded())
    yield "times", [times, pd.sample_times(6, seeded(), antithetic=False)]
    for name in ("linear", "cosine", "geometric"):
        schedule = pd.schedule_by_name(name)
        weights = [pd.elbo_weights(times, name), schedule.weights(times), schedule.alpha(times)]
        yield name, [*weights, schedule.mask_probability(times)]
    x = pd.mask_tokens(x0, times, MASK, seeded())
    yield "masks", [x, pd.mask_exactly(x0, 0.5, MASK, seeded())]
    adapted = [pd.llada(backbone), pd.dream(backbone), pd.mdlm(backbone, MASK)]
    yield "conventions", [model(x) for model in adapted]
