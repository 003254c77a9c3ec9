"""Other people's samplers, unmodified, with a circuit: do pairs of tokens follow the joint?

    python benchmarks/plugs.py --clones FOLDER

FOLDER holds clones of LLaDA, dllm, Fast-dLLM, mdlm, dInfer, dllm-plugin or sglang under these
names; what is not there is left out. Their sampling functions are read from the clones and run as
they are. Models and servers around them are not run, so of what they require only transformers is
needed.

The circuit is a known chain of four states and the backbone says nothing, so that the law of two
neighbours is known. Shown is the total variation between it and what was committed, at one, two and
eight steps a block, and at one step with marginals in place of draws, at temperature 1 where the
sampler has one. Of 400 texts the noise is .02 to .06; of 80, where one is taken at a time, .04 to
.09.

The second table is what a call costs, for a canvas of many blocks.
"""

from __future__ import annotations
import __future__

import ast
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import ModuleType, SimpleNamespace
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn
from toy import arguments, size

import pcflow as pf
from pcflow_diffusion import (
    CircuitHead,
    CircuitLM,
    CircuitLogits,
    circuit_algorithm,
    circuit_decoder,
    circuit_policy,
    circuit_transfer_index,
    dream_hook,
)

V = MASK = 4
PAD = 9
BLOCK, TEXTS, STEPS = 8, size(400, 8), (1, 2, 8)
STAY = torch.eye(V) * 0.92 + 0.02
LENGTH, STATES, TOKENS, LISTED = size((32, 256, 32_000, 256), (8, 4, 50, 8))
Sampler = Callable[[int, dict[str, Any]], Tensor]  # steps and settings to texts [B, N]


def chain(length: int) -> CircuitHead:
    """A head whose circuit is the chain."""
    emission, start = torch.eye(V) * (1 - 4e-4) + 1e-4, torch.full((V,), 1 / V)
    circuit = pf.hmm(
        length, V, pf.Categorical(V), initial=start, transition=STAY, emission=emission
    )
    return CircuitHead(pf.compile(circuit), MASK, coupling="product")


HEAD = chain(BLOCK)


class Flat(nn.Module):
    """A model that says nothing, with a cache of one layer that holds nothing."""

    device = torch.device("cpu")

    def forward(self, x: Tensor, *rest: Any, **named: Any) -> Any:
        """Logits that are all equal."""
        past = [(torch.zeros(1, 1, x.shape[1], 1),) * 2]
        return SimpleNamespace(logits=torch.zeros(*x.shape, V), past_key_values=past)


def prompts(length: int = 3) -> Tensor:
    """Texts of the chain."""
    seed = torch.Generator().manual_seed(1)
    return HEAD.model.sample(TEXTS, generator=seed)[:, :length].long()


def one_by_one() -> list[Tensor]:
    """Few prompts [1, 3] for what takes one text at a time: every token comes last as often."""
    return [torch.full((1, 3), number % V) for number in range(size(80, 4))]


def distance(texts: Tensor) -> float:
    """Total variation between neighbours in texts [B, N] and in the chain."""
    counts = torch.zeros(V, V)
    pairs = texts[:, :-1].flatten(), texts[:, 1:].flatten()
    counts.index_put_(pairs, torch.ones(()), accumulate=True)
    return float((counts / counts.sum() - STAY / V).abs().sum() / 2)


def code(*paths: Path, **known: Any) -> ModuleType:
    """Files of a clone as one module, without what they import that is not here."""
    module = ModuleType("clone_" + paths[-1].stem)
    vars(module).update({"Optional": Optional, "Union": Union, **known})
    sys.modules[module.__name__] = module  # where dataclasses look their annotations up
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tree.body = [node for node in tree.body if not missing(node)]
        late = __future__.annotations.compiler_flag
        exec(compile(tree, str(path), "exec", late, dont_inherit=True), vars(module))
    return module


def missing(node: ast.stmt) -> bool:
    """Whether this imports something that cannot be imported, such as the clone itself."""
    if isinstance(node, ast.ImportFrom):
        return bool(node.level) or find_spec((node.module or "").split(".")[0]) is None
    if isinstance(node, ast.Import):
        return any(find_spec(alias.name.split(".")[0]) is None for alias in node.names)
    return False


def heat(how: dict[str, Any]) -> float:
    """The temperature at which a sampler draws from marginals by itself."""
    return 1.0 if how.get("mode") == "marginal" else 0.0


def llada(clone: Path) -> dict[str, Sampler]:
    """LLaDA's `generate`."""
    generate = code(clone / "generate.py").generate

    def run(steps: int, how: dict[str, Any], remasking: str) -> Tensor:
        lm = CircuitLM(Flat(), HEAD, **how)
        sizes = {"steps": 2 * steps, "gen_length": 2 * BLOCK, "block_length": BLOCK}
        more = {"temperature": heat(how), "remasking": remasking, "mask_id": MASK}
        found: Tensor = generate(lm, prompts(), **sizes, **more)
        return found[:, 2:]

    return {
        "generate": lambda steps, how: run(steps, how, "low_confidence"),
        "generate, random": lambda steps, how: run(steps, how, "random"),
    }


def dllm(clone: Path) -> dict[str, Sampler]:
    """The samplers of dllm, with prompts of different lengths."""
    core = clone / "dllm" / "core"
    files = [core / "schedulers" / "alpha.py"]
    files += [core / "samplers" / f"{name}.py" for name in ("utils", "base", "mdlm", "bd3lm")]
    module = code(*files)
    ids = SimpleNamespace(mask_token_id=MASK, bos_token_id=PAD, eos_token_id=PAD, pad_token_id=PAD)
    asked = [row[: 1 + number % 3] for number, row in enumerate(prompts())]

    def run(name: str, steps: int, how: dict[str, Any], **more: Any) -> Tensor:
        lm = CircuitLM(Flat(), HEAD, **how, right_shift=more.get("right_shift_logits", False))
        config = getattr(module, f"{name}Config")(
            max_new_tokens=2 * BLOCK, block_size=BLOCK, steps=2 * steps, temperature=heat(how)
        )
        found = getattr(module, name)(model=lm, tokenizer=ids).sample(asked, config, **more)
        ends = [len(row) for row in asked]
        if name == "BD3LMSampler":  # padded on the left, to whole blocks
            return found[:, -2 * BLOCK - 1 :]
        cut = [row[end - 1 : end + 2 * BLOCK] for row, end in zip(found, ends, strict=True)]
        return torch.stack(cut)

    return {
        "MDLMSampler": lambda steps, how: run("MDLMSampler", steps, how),
        "MDLMSampler, shifted": lambda steps, how: run(
            "MDLMSampler", steps, how, right_shift_logits=True
        ),
        "BD3LMSampler": lambda steps, how: run("BD3LMSampler", steps, how),
    }


def fast_dllm(clone: Path) -> dict[str, Sampler]:
    """The three functions of Fast-dLLM for LLaDA, one text at a time, and its Dream."""
    module = code(clone / "llada" / "generate.py")
    theirs = module.get_transfer_index

    def run(name: str, steps: int, how: dict[str, Any], inside: bool = False) -> Tensor:
        lm = Flat() if inside else CircuitLM(Flat(), HEAD, **how)
        module.get_transfer_index = (
            circuit_transfer_index(HEAD, theirs, **how) if inside else theirs
        )
        sizes = {"steps": 2 * steps, "gen_length": 2 * BLOCK, "block_length": BLOCK}
        more = {"temperature": heat(how), "mask_id": MASK}
        more |= {"threshold": 0.0} if steps == 1 else {}  # with a cache it takes two steps or this
        found = [getattr(module, name)(lm, row, **sizes, **more)[0] for row in one_by_one()]
        return torch.cat(found)[:, 2:]

    names = ("generate", "generate_with_prefix_cache", "generate_with_dual_cache")
    rows: dict[str, Sampler] = {
        name: lambda steps, how, name=name: run(name, steps, how) for name in names
    }
    rows["get_transfer_index"] = lambda steps, how: run("generate", steps, how, inside=True)
    return rows | dream(clone / "dream" / "model" / "generation_utils.py")


def dream(file: Path) -> dict[str, Sampler]:
    """Dream's `_sample` with the hook, which is given one block at most."""

    class Model(code(file).DreamGenerationMixin, Flat):  # type: ignore[misc]
        """Flat logits under Dream's sampler."""

    def run(algorithm: str, steps: int, how: dict[str, Any]) -> Tensor:
        settings = SimpleNamespace(
            output_history=False,
            return_dict_in_generate=False,
            max_length=3 + BLOCK,
            mask_token_id=MASK,
            steps=steps,
            eps=1e-3,
            alg=algorithm,
            alg_temp=None,
            temperature=heat(how),
            top_p=None,
            top_k=None,
        )
        hook = dream_hook(HEAD, **how)
        found: Tensor = Model()._sample(prompts(), None, settings, lambda step, x, logits: x, hook)
        return found[:, 2:]

    names = ("origin", "maskgit_plus", "topk_margin", "entropy")
    return {f"Dream, {name}": lambda steps, how, name=name: run(name, steps, how) for name in names}


def mdlm(clone: Path) -> dict[str, Sampler]:
    """MDLM's update with a cache; the parameterisation is theirs, too."""
    tree = ast.parse((clone / "diffusion.py").read_text(encoding="utf-8"))
    wanted = ("_sample_categorical", "_subs_parameterization", "_ddpm_caching_update")
    parts = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in wanted
    ]
    theirs: dict[str, Any] = {"torch": torch}
    exec(compile(ast.Module(parts, []), "diffusion.py", "exec"), theirs)

    def run(steps: int, how: dict[str, Any]) -> Tensor:
        lm = CircuitLM(lambda x: torch.zeros(*x.shape, V + 1), HEAD, confidence=False, **how)
        us = SimpleNamespace(mask_index=MASK, neg_infinity=-1e6, noise=lambda t: (t, t))
        us.config = SimpleNamespace(noise=SimpleNamespace(type="loglinear"))
        us.forward = lambda x, sigma: theirs["_subs_parameterization"](us, lm(x), x)
        x, said = torch.full((TEXTS, 2 * BLOCK), MASK), None
        for step in range(steps):
            t = torch.full((TEXTS, 1), 1 - step / steps)
            said, after = theirs["_ddpm_caching_update"](us, x, t, 1 / steps, p_x0=said)
            x, said = after, (said if torch.equal(after, x) else None)
        return torch.where(x == MASK, lm(x).argmax(dim=-1), x)

    return {"_ddpm_caching_update": run}


def dinfer(clone: Path) -> dict[str, Sampler]:
    """Decoder of dInfer, which is given the logits of a block and the text."""
    folder = clone / "python" / "dinfer" / "decoding"
    torch.compiler.set_stance("force_eager")
    decoder = code(folder / "utils.py", folder / "parallel_strategy.py").ThresholdParallelDecoder

    def run(steps: int, how: dict[str, Any]) -> Tensor:
        least = dict(zip(STEPS, (0.0, 0.5, 1.0), strict=True))[steps]
        made = circuit_decoder(HEAD, decoder(heat(how), least, mask_id=MASK), **how)
        x = torch.cat([prompts(), torch.full((TEXTS, 2 * BLOCK), MASK)], dim=1)
        for start in (3, 3 + BLOCK):
            while bool((x[:, start : start + BLOCK] == MASK).any()):
                made.decode(torch.zeros(TEXTS, BLOCK, V), start, start + BLOCK, x)
        return x[:, 2:]

    return {"ThresholdParallelDecoder": run}


def vllm(clone: Path) -> dict[str, Sampler]:
    """The default policy of the dLLM plugin of vLLM, one request at a time."""
    package = next(path for path in clone.glob("*dllm_plugin") if path.is_dir())
    parts = [package / "config.py"]
    parts += [package / "remasking" / f"{name}.py" for name in ("base", "llada2_default")]
    module = code(*parts)
    size_of_draft = module.DRAFT_SIZE

    def run(steps: int, how: dict[str, Any]) -> Tensor:
        policy = circuit_policy(HEAD, module.Llada2DefaultRemaskingPolicy(), **how)
        config = {"mask_token_id": MASK, "commit_confidence_threshold": 2.0}
        config["num_transfer"] = -(-size_of_draft // steps)
        found = []
        for prompt in one_by_one():
            draft, done = (int(prompt[0, 0]), *[MASK] * (size_of_draft - 1)), ()
            while not done:
                logits = torch.zeros(size_of_draft, V)
                after = policy.apply(input_draft=draft, logits=logits, remasking_config=config)
                draft, done = after.next_input_block, after.committed_token_ids
            found.append(torch.tensor(done))
        return torch.stack(found)

    return {"Llada2DefaultRemaskingPolicy": run}


def sglang(clone: Path) -> dict[str, Sampler]:
    """SGLang's algorithm by confidence."""
    folder = clone / "python" / "sglang" / "srt" / "dllm" / "algorithm"
    files = folder / "base.py", folder / "low_confidence.py"
    theirs = code(*files, is_npu=bool, LogitsProcessorOutput=object).LowConfidence

    def run(steps: int, how: dict[str, Any]) -> Tensor:
        least = dict(zip(STEPS, (0.0, 0.5, 1.0), strict=True))[steps]
        config = SimpleNamespace(block_size=BLOCK, mask_id=MASK, first_done_first_out_mode=False)
        config.algorithm_config = {"threshold": least}
        algorithm = circuit_algorithm(HEAD, theirs, **how)(config)
        ids = torch.full((TEXTS * BLOCK,), MASK)
        batch = SimpleNamespace(input_ids=ids, batch_size=TEXTS)
        while bool((ids == MASK).any()):
            algorithm.step(batch, torch.zeros(TEXTS * BLOCK, V), [None] * TEXTS)
        return ids.view(TEXTS, BLOCK)

    return {"LowConfidence": run}


CLONES: dict[str, Callable[[Path], dict[str, Sampler]]] = {
    "LLaDA": llada,
    "dllm": dllm,
    "Fast-dLLM": fast_dllm,
    "mdlm": mdlm,
    "dInfer": dinfer,
    "dllm-plugin": vllm,
    "sglang": sglang,
}


def rows(clones: Path | None) -> Iterator[str]:
    """The first table, of the clones that are there."""
    yield f"{'':12} {'':32} {'1 step':>7} {'2':>5} {'8':>5} {'marginals':>10}"
    for name, samplers in CLONES.items():
        if clones is None or not (clones / name).is_dir():
            yield f"{name:12} no clone"
            continue
        for sampler, run in samplers(clones / name).items():
            found = []
            for steps, how in [*((s, {}) for s in STEPS), (1, {"mode": "marginal"})]:
                torch.manual_seed(7)
                found.append(distance(run(steps, how)))
            cells = "".join(f" {one:5.2f}" for one in found[1:3])
            yield f"{name:12} {sampler:32} {found[0]:7.2f}{cells} {found[3]:10.2f}"


def costs() -> Iterator[str]:
    """The second table: milliseconds of a call, the model's own not counted."""
    circuit = pf.compile(pf.hmm(LENGTH, STATES, pf.Categorical(TOKENS)))
    head = CircuitHead(circuit, TOKENS, coupling="product", top_k=LISTED)
    canvas = torch.full((1, 64 + 4 * LENGTH), TOKENS)
    canvas[:, :64] = 1
    logits = torch.randn(*canvas.shape, TOKENS)
    block = LENGTH * 3 // 4
    for name, joint in {
        "all masks of the canvas": CircuitLogits(head),
        f"a block of {LENGTH}": CircuitLogits(head, block_length=LENGTH),
        f"a block of {block}": CircuitLogits(head, block_length=block),
    }.items():
        yield f"{name:28} {timed(lambda joint=joint: joint(logits, canvas)):8.1f} ms"
    alone = logits[:, :LENGTH], canvas[:, -LENGTH:]
    yield f"{'head.sample of one window':28} {timed(lambda: head.sample(*alone)):8.1f} ms"
    yield f"{'a copy of the logits':28} {timed(lambda: logits.clone()):8.1f} ms"


def timed(run: Callable[[], object]) -> float:
    """The median of seven, in milliseconds, after one that is not counted."""
    run()
    found = []
    for _ in range(size(7, 1)):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return 1000 * median(found)


def main() -> None:
    """Print both tables."""
    parser = arguments(__doc__)
    parser.add_argument("--clones", type=Path, help="a folder of clones, by their names")
    for line in rows(parser.parse_args().clones):
        print(line, flush=True)
    print(
        f"\na canvas of 64 + {4 * LENGTH} tokens, {LENGTH} positions, {STATES} states, "
        f"{TOKENS} tokens, top_k={LISTED}"
    )
    for line in costs():
        print(line, flush=True)


if __name__ == "__main__":
    main()
