"""Every public function with wrong types, shapes, dtypes and devices: a typed error, or an answer.

A table says how each is called rightly. Then every argument is made wrong in every way that there
is for its kind, one at a time.
"""

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pcflow as pf
import pcflow_diffusion as pd
from pcflow_diffusion import errors
from pcflow_diffusion.errors import LogitsError, ShapeMismatch
from pcflow_diffusion.models import Judge, TransformerConfig

V, L = 4, 3
MASK = V

Call = Callable[[Path], dict[str, Any]]
"""Right arguments by name, made anew."""


def backbone(tokens: Tensor) -> Tensor:
    return torch.zeros(*tokens.shape, V)


def head(**more: Any) -> pd.CircuitHead:
    model = pf.compile(pf.hmm(L, 2, pf.Categorical(V)))
    return pd.CircuitHead(model, MASK, **({"coupling": "product"} | more))


def modulated() -> pd.CircuitHead:
    model = pf.compile(pf.add_gates(pf.hmm(L, 2, pf.Categorical(V)), gates=2))
    return pd.CircuitHead(model, MASK, "product", modulation=pd.Modulation(V, 2, 4, 1))


def masked() -> Tensor:
    return torch.tensor([[MASK, 1, MASK], [0, MASK, 2]])


def blocks() -> pd.Blocks:
    return pd.Blocks(torch.zeros(2, L, V), masked(), masked().clamp_max(V - 1))


def denoiser() -> pd.Denoiser:
    return pd.Denoiser(pd.DenoiserConfig(V, width=8, depth=1, heads=1))


def stored(folder: Path) -> Path:
    rows = torch.zeros(2, L + 1, dtype=torch.long)
    pd.store_logits(backbone, folder / "stored", rows, masked(), progress=False)
    return folder / "stored"


def ahead() -> pd.MultiTokenHead:
    return pd.MultiTokenHead(torch.nn.Linear(8, V), L, states=2, rank=2)


def judge() -> pd.JudgeVerifier:
    return pd.JudgeVerifier(Judge(TransformerConfig(V, width=8, depth=1, heads=1)))


TOKENIZER = pd.CharacterTokenizer("abc\ufffd")


def saved(folder: Path) -> Path:
    pd.save_denoiser(denoiser(), folder / "denoiser", TOKENIZER)
    return folder / "denoiser"


class Theirs:
    """What a plug is put into."""

    mask_id, temperature, step, apply, decode = MASK, 0.0, print, print, print


LOGITS = {"logits": lambda: torch.zeros(2, L, V), "x": masked, "x0": lambda: masked() % V}

CALLS: dict[str, Call] = {
    "Blocks": lambda _: {name: make() for name, make in LOGITS.items()},
    "CharacterTokenizer": lambda _: {"characters": "ab\ufffd"},
    "CircuitHead": lambda _: {"model": head().model, "mask_token_id": V, "coupling": "ratio",
                              "top_k": 2, "modulation": None},
    "Decoding": lambda _: {"temperature": 1.0, "order": "joint", "ranking": "margin", "gamma": 0.5,
                           "threshold": 0.9, "top_k": 2, "top_p": 0.5, "suppress": [1],
                           "end_token_id": 2, "defer": [2], "guidance": 0.5, "remask": 0.5},
    "DenoiserConfig": lambda _: {"vocabulary_size": 4, "width": 16, "depth": 1, "heads": 2,
                                 "kernel": 3, "dropout": 0.1},
    "LogLinear": lambda _: {"a": 1.0, "b": 0.5},
    "Modulation": lambda _: {"vocabulary_size": 4, "values": 2, "width": 4, "depth": 1},
    "Projection": lambda _: {"sweeps": 2, "tolerance": 0.1, "pool": (1.0, 0.5)},
    "Marginals.of": lambda _: {"logits": torch.zeros(2, L, V), "x": masked(),
                               "mask_token_id": MASK, "suppress": (1,), "top_k": 2},
    "StoredLogits": lambda folder: {"folder": stored(folder)},
    "TransitionModulation": lambda _: {"vocabulary_size": 4, "states": 2, "rank": 1, "width": 4,
                                       "depth": 1},
    "coupled_nats_over_time": lambda _: {"head": head(), "backbone": denoiser(),
                                         "rows": torch.zeros(4, 5).long(), "schedule": "linear",
                                         "batch_size": 2},
    "elbo_weights": lambda _: {"times": torch.tensor([0.5, 1.0]), "schedule": "cosine"},
    "fingerprint": lambda _: {"tokenizer": TOKENIZER},
    "fit_conditional": lambda _: {"head": head(), "train": blocks(), "epochs": 1, "batch_size": 2,
                                  "weights": torch.ones(2), "progress": False},
    "fit_jointly": lambda _: {"head": head(), "backbone": denoiser(), "steps": 1, "batch_size": 2,
                              "rows": torch.zeros(4, 5).long(), "learning_rate": 0.1,
                              "circuit_learning_rate": 0.1, "progress": False},
    "fit_modulation": lambda _: {"head": modulated(), "train": blocks(), "epochs": 1,
                                 "learning_rate": 0.1, "circuit_learning_rate": 0.1,
                                 "weights": torch.ones(2), "progress": False},
    "generate": lambda _: {"backbone": backbone, "prompt": torch.zeros(2, 2).long(),
                           "head": head(), "steps": 2, "gen_length": 4, "block_length": 2,
                           "decoding": pd.Decoding(), "context": 1, "mask_token_id": MASK,
                           "pad_token_id": 1, "show": "blocks", "align": True,
                           "attention_mask": torch.ones(2, 2).long(), "callback": print,
                           "circuit_context": 1, "cache": False},
    "infill": lambda _: {"backbone": backbone, "tokens": masked(), "head": head(), "steps": 2,
                         "decoding": pd.Decoding(), "mask_token_id": MASK,
                         "attention_mask": torch.ones(2, L).long(), "callback": print,
                         "circuit_context": 1},
    "lengths_of": lambda _: {"tokens": masked(), "prompt_length": 1, "end_token_id": 2},
    "load_denoiser": lambda folder: {"path": saved(folder)},
    "mask_exactly": lambda _: {"x0": masked(), "ratio": 0.5, "mask_token_id": MASK},
    "mask_tokens": lambda _: {"x0": masked(), "ratio": torch.tensor([0.5, 1.0]),
                              "mask_token_id": MASK},
    "masked_diffusion_loss": lambda _: {**{n: make() for n, make in LOGITS.items()},
                                        "mask_token_id": MASK, "weights": torch.ones(2)},
    "mdlm": lambda _: {"model": backbone, "mask_token_id": MASK, "sigma": 0.0},
    "narrow": lambda _: {"model": backbone, "vocabulary_size": V},
    "minimum_cover": lambda _: {"positions": [1, 2], "width": 2, "start": 0, "stop": 4},
    "sample_times": lambda _: {"batch": 3},
    "save_denoiser": lambda folder: {"model": denoiser(), "path": folder / "new",
                                     "tokenizer": TOKENIZER},
    "schedule_by_name": lambda _: {"name": "linear"},
    "store_logits": lambda folder: {"backbone": backbone, "folder": folder / "logits",
                                    "rows": torch.zeros(2, L + 1).long(), "x": masked(),
                                    "top_k": 2, "shard_size": 1, "batch_size": 1,
                                    "progress": False},
    "CircuitLM": lambda _: {"model": backbone, "head": head(), "prompt_length": [1, 2],
                            "right_shift": True, "guidance": 0.5, "mode": "drawn"},
    "CircuitLogits": lambda _: {"head": head(), "mode": "marginal", "confidence": True,
                                "temperature": 0.5, "suppress": [1], "block_length": 2,
                                "generator": torch.Generator()},
    "CircuitLogits.__call__": lambda _: {"self": pd.CircuitLogits(head()), "x": masked(),
                                         "logits": torch.zeros(2, L, V),
                                         "left": torch.zeros(2, 1).long(), "wanted": masked(),
                                         "attended": torch.ones(2, L + 1).long()},
    "CircuitLM.forward": lambda _: {"self": pd.CircuitLM(backbone, head()), "input_ids": masked()},
    "dream_hook": lambda _: {"head": head(), "temperature": 0.5},
    "circuit_algorithm": lambda _: {"head": head(), "algorithm": Theirs},
    "circuit_decoder": lambda _: {"head": head(), "decoder": Theirs()},
    "circuit_policy": lambda _: {"head": head(), "policy": Theirs()},
    "circuit_processor": lambda _: {"head": head()},
    "circuit_remask": lambda _: {"head": head(), "batched_remask": print},
    "circuit_scheduler": lambda _: {"head": head(), "scheduler": Theirs()},
    "circuit_transfer_index": lambda _: {"head": head(), "get_transfer_index": print},
    "CausalVerifier": lambda _: {"model": backbone},
    "JudgeVerifier": lambda _: {"judge": judge().judge},
    "MultiTokenHead": lambda _: {"unembedding": torch.nn.Linear(8, V), "length": L, "kind": "cp",
                                 "states": 2, "rank": 2, "shared": True},
    "MultiTokenHead.forward": lambda _: {"self": ahead(), "hidden": torch.zeros(2, 8),
                                         "tokens": masked() % V},
    "MultiTokenHead.draft": lambda _: {"self": ahead(), "hidden": torch.zeros(2, 8),
                                       "known": masked()[:, :1] % V, "temperature": 0.5},
    "accept": lambda _: {"draft": masked() % V, "log_q": torch.zeros(2, L),
                         "next_log_q": lambda position: torch.zeros(2, V),
                         "verifier_log_p": torch.zeros(2, L + 1, V)},
    "fit_multi_token": lambda _: {"head": ahead(), "verifier": judge(), "steps": 1,
                                  "rows": torch.zeros(3, L + 2).long(), "batch_size": 2,
                                  "states": 2, "learning_rate": 0.1, "backbone": (),
                                  "discount": 0.5, "distillation": 0.5, "progress": False},
    "multi_token_loss": lambda _: {"head": ahead(), "hidden": torch.zeros(2, 8),
                                   "tokens": masked() % V, "discount": 0.5, "distillation": 0.5,
                                   "teacher_log_p": torch.zeros(2, L, V)},
    "speculate": lambda _: {"verifier": judge(), "head": ahead(), "gen_length": 2,
                            "prompt": torch.zeros(2, 2).long(), "temperature": 0.5,
                            "end_token_id": 0},
    "CircuitHead.over": lambda _: {"self": head(), "positions": 2},
    **{f"CircuitHead.{name}": (lambda _: {"self": head(), "logits": torch.zeros(2, L, V),
                                          "x": masked()})
       for name in ("forward", "couple", "sample")},
    **{f"CircuitHead.{name}": (lambda _: {"self": head(), **{n: m() for n, m in LOGITS.items()}})
       for name in ("log_prob", "conditional", "fit_coupling", "choose_coupling")},
    "CircuitHead.draw": lambda _: {"self": head(), "temperature": 1.0, "order": "mpe",
                                   "ranking": "margin",
                                   "said": pd.Marginals.of(torch.zeros(2, L, V), masked(), MASK)},
}  # fmt: skip

WITHOUT = {  # protocols, errors, what others return, and what asks when it is called
    "Backbone", "Coupling", "Denoiser", "DiffusionError", "Draw", "Marginals", "Schedule",
    "Step", "dream", "llada",
}  # fmt: skip

OTHERS: list[Any] = ["word", 1.5, -1, float("nan"), [[1.0]], object(), 1 + 2j, {}]
FREE = {"progress", "modulation", "path", "folder"}  # truth, what can be called, names of files


def wrong(right: Any) -> Iterator[Any]:
    """Everything that could stand there by mistake."""
    yield from OTHERS
    if right is not None and not isinstance(right, int | float):
        yield 3
    if isinstance(right, Tensor):
        yield from (right[0], right.unsqueeze(0), right[:1], right[..., :-1], right[..., :0])
        yield from (right.to(torch.complex64), right.to(torch.uint8), right.to("meta"), right - 9)
        yield from (right.float() + 0.5, right.float() * torch.nan, right.bool(), right.tolist())
    else:
        yield torch.zeros(2)


def cases() -> Iterator[Any]:
    for name, make in CALLS.items():
        for argument in inspect_arguments(name, make):
            yield pytest.param(name, argument, id=f"{name}-{argument}")


def inspect_arguments(name: str, make: Call) -> list[str]:
    if name in ("load_denoiser", "StoredLogits"):  # whose only argument is a file
        return []
    found = make(Path("nowhere"))
    return [key for key in found if key not in FREE | {"self"}]


def function(name: str) -> Callable[..., Any]:
    found: Any = pd
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def test_the_table_is_complete() -> None:
    public = {name for name in pd.__all__ if callable(getattr(pd, name))}
    told = {name.split(".")[0] for name in CALLS}
    assert public == (told | WITHOUT)


@pytest.mark.parametrize("name", CALLS)
def test_truth_values_are_no_whole_numbers(name: str, tmp_path: Path) -> None:
    right = CALLS[name](tmp_path)
    for argument in (key for key, value in right.items() if type(value) is int):
        with pytest.raises(pf.PcflowError):
            function(name)(**(CALLS[name](tmp_path / argument) | {argument: True}))


@pytest.mark.parametrize("name", CALLS)
def test_right_arguments_are_taken(name: str, tmp_path: Path) -> None:
    function(name)(**CALLS[name](tmp_path))


@pytest.mark.parametrize(("name", "argument"), list(cases()))
def test_wrong_arguments_are_refused_in_words(name: str, argument: str, tmp_path: Path) -> None:
    """By an error of ours that says which argument; or it is understood all the same."""
    for number, _ in enumerate(wrong(CALLS[name](tmp_path)[argument])):
        right = CALLS[name](tmp_path / str(number))
        bad = list(wrong(right[argument]))[number]
        try:
            function(name)(**(right | {argument: bad}))
        except (pf.PcflowError, OSError):
            pass
        except Exception as error:
            pytest.fail(f"{argument}={bad!r}: {type(error).__name__}: {error}")


@pytest.mark.parametrize("name", ["log_prob", "conditional", "fit_coupling", "choose_coupling"])
def test_tokens_of_another_shape_are_not_spread_over_the_batch(name: str) -> None:
    """A row, one row for all, and a column would broadcast."""
    x0 = masked() % V
    for wrong_x0 in (x0[0], x0[:1], x0[:, :1], x0.unsqueeze(0), torch.zeros(()).long()):
        with pytest.raises(ShapeMismatch, match=r"x0 must be \(2, 3\)"):
            getattr(head(), name)(torch.zeros(2, L, V), masked(), wrong_x0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_no_distribution_are_one_error_everywhere(value: float) -> None:
    logits = torch.zeros(2, L, V)
    logits[1, 1] = value  # which is masked
    for call in (
        lambda: head()(logits, masked()),
        lambda: head().sample(logits, masked()),
        lambda: head().log_prob(logits, masked(), masked() % V),
        lambda: head().fit_coupling(logits, masked(), masked() % V),
        lambda: head().choose_coupling(logits, masked(), masked() % V),
        lambda: pd.infill(lambda _: logits, masked(), head(), steps=1),
        lambda: pd.infill(lambda _: logits, masked(), steps=1, mask_token_id=MASK),
    ):
        with pytest.raises(LogitsError, match="row 1, position 1"):
            call()


def test_logits_that_cannot_be_stored_are_named_by_their_row_of_all(tmp_path: Path) -> None:
    rows = torch.arange(7).unsqueeze(-1).repeat(1, L)

    def hates_five(tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, 9)
        logits[tokens == 5] = torch.nan
        return logits

    for shard_size, batch_size in ((9, 9), (3, 2), (2, 1)):
        with pytest.raises(LogitsError, match="row 5, position 0"):
            pd.store_logits(
                hates_five, tmp_path / str(shard_size), rows, rows, shard_size=shard_size,
                batch_size=batch_size, progress=False,
            )  # fmt: skip


def test_errors_are_of_one_hierarchy_and_travel() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert all(issubclass(kind, pf.PcflowError) for kind in kinds)
    raised = (
        errors.TokenOutOfRange("x", 9, 4, (1, 2)),
        errors.LogitsError(1, 2, "hold nan"),
        errors.ShapeMismatch("x"),
    )
    for error in raised:
        for same in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert type(same) is type(error)
            assert (str(same), vars(same)) == (str(error), vars(error))
