"""A checkpoint is believed as a whole or not at all, and only by the fit that it belongs to."""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import pcflow as pf
from pcflow.io import pack, read_file, unpack, write_file
from pcflow.learn.checkpoint import must_be_like
from pcflow.learn.data import NUMBERS, Source
from pcflow.learn.team import ALONE

MAKE: dict[str, Callable[[], pf.Learner]] = {
    "EM": pf.EM,
    "Anemone": pf.Anemone,
    "Adam": pf.Gradient,
    "momentum": lambda: pf.Gradient(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
}


def model_of(dtype: torch.dtype = torch.float64) -> pf.CompiledCircuit:
    generator = torch.Generator().manual_seed(0)
    circuit = pf.naive_bayes([pf.Categorical(3)] * 2, units=2, generator=generator)
    return pf.compile(circuit, dtype=dtype)


def rows(count: int = 20, seed: int = 0) -> Tensor:
    return torch.randint(3, (count, 2), generator=torch.Generator().manual_seed(seed)).float()


def run(file: Path, learner: pf.Learner | None = None, **more: Any) -> pf.FitResult:
    given = {"train": rows(), "epochs": 2, "batch_size": 8} | more
    given.setdefault("model", None)
    given["model"] = given["model"] or model_of()
    learner = pf.Anemone() if learner is None else learner
    return pf.fit(learner=learner, checkpoint=file, progress=False, **given)


def children(nest: Any) -> list[Any]:
    """Keys or numbers of what a nest holds."""
    if isinstance(nest, dict):
        return list(nest)
    return list(range(len(nest))) if isinstance(nest, list | tuple) else []


def paths(nest: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of everything in a nest, itself apart."""
    for key in children(nest):
        yield (*before, key)
        yield from paths(nest[key], (*before, key))


def replaced(nest: Any, path: tuple[Any, ...], edit: Callable[[Any, Any], Any]) -> Any:
    """A copy in which `edit` has had what holds the end of a path, and the end."""
    if len(path) == 1:
        return edit(copy.copy(nest), path[0])
    if isinstance(nest, tuple):
        return tuple(replaced(list(nest), path, edit))
    nest = copy.copy(nest)
    nest[path[0]] = replaced(nest[path[0]], path[1:], edit)
    return nest


def put(value: Any) -> Callable[[Any, Any], Any]:
    def edit(nest: Any, key: Any) -> Any:
        changed = nest if isinstance(nest, dict) else list(nest)
        changed[key] = value
        return type(nest)(changed)

    return edit


def drop(nest: Any, key: Any) -> Any:
    changed = nest if isinstance(nest, dict) else list(nest)
    del changed[key]
    return type(nest)(changed)


def spoiled(tensor: Tensor, number: float) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = number
    return tensor


def wrong_values(path: tuple[Any, ...], value: Any) -> Iterator[tuple[str, Any]]:
    """The table of corruptions: nothing of it may stand in place of a value."""
    curve = path[0] in ("train", "validation")
    yield "a string", "seven"
    yield "a dict", {"seven": 7} if isinstance(value, list | tuple) else [7]
    match value:
        case Tensor():
            yield "a number", 7
            yield "nothing", None
            yield "longer", torch.cat([value.reshape(-1)] * 2 + [value.reshape(-1)[:1]])
            yield "another type", value.to(torch.float32 if value.dtype != torch.float32 else int)
            if value.is_floating_point():
                yield "NaN", spoiled(value, math.nan)
                yield "+inf", spoiled(value, math.inf)
            else:
                yield "no random state", torch.zeros_like(value)
            if value.dim() == 0 or "sq" in str(path[-1]) or "square" in str(path[-1]):
                yield "negative", spoiled(value, -1.0)
        case bool() | None:
            yield "a number", 7
        case int():
            yield "negative", -1
            yield "no whole number", value + 0.5
            yield "a boolean", True
        case float():
            yield "NaN", math.nan
            yield "+inf", math.inf
            yield "a whole number", 1
            if not curve:
                yield "negative", -0.1
        case list() | tuple():
            yield "longer", type(value)([*value, *(value or [7])[:1]])
            yield "a number", 7
        case dict():
            yield "longer", value | {"seven": 7}
            yield "a number", 7


def corrupted(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """States that are wrong in one place, with what is wrong there."""
    for path in paths(state):
        value: Any = state
        for key in path:
            value = value[key]
        name = ".".join(map(str, path))
        yield f"{name}: missing", replaced(state, path, drop)
        for what, wrong in wrong_values(path, value):
            yield f"{name}: {what}", replaced(state, path, put(wrong))


@pytest.mark.parametrize(
    ("name", "judged"), [("EM", False), ("Anemone", True), ("Adam", False), ("momentum", False)]
)
def test_a_checkpoint_that_is_wrong_in_one_place_is_refused_before_anything_runs(
    name: str, judged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, model = tmp_path / "fit", model_of()
    more: dict[str, Any] = {"validation": rows(9, 1)} if judged else {}
    more |= {"generator": torch.Generator().manual_seed(1)} if judged else {}
    run(file, MAKE[name](), **more)
    described, tensors = read_file(file, 1)
    state = unpack(described["checkpoint"], tensors)
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    for reads in ("in_order", "shuffled"):
        monkeypatch.setattr(Source, reads, lambda *_: pytest.fail("it ran"))
    count = 0
    for what, wrong in corrupted(state):
        aside: dict[str, Tensor] = {}
        packed = pack(wrong, aside)
        write_file(file, aside, described | {"checkpoint": packed})
        try:
            run(file, MAKE[name](), model=model, epochs=9, **more)
        except pf.FileFormatError as error:
            assert str(file) in str(error)
        else:
            pytest.fail(f"believed: {what}")
        count += 1
    assert count > 50
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "packed",
    [
        None,
        7,
        [],
        {"dict": 7},
        {"dict": [["train"]]},
        {"dict": [[["train"], []]]},
        {"dict": [[{"dict": []}, 1]]},
        {"tensor": "no such"},
        {"tensor": ["train"]},
        {"dict": [["train", {"tensor": 7}]]},
    ],
)
def test_what_is_no_nest_is_refused(packed: object, tmp_path: Path) -> None:
    file = tmp_path / "fit"
    run(file)
    described, tensors = read_file(file, 1)
    write_file(file, tensors, described | {"checkpoint": packed})
    with pytest.raises(pf.FileFormatError):
        run(file)


@pytest.mark.parametrize("key", ["about", "checkpoint"])
def test_what_lacks_a_part_is_no_checkpoint(key: str, tmp_path: Path) -> None:
    file = tmp_path / "fit"
    run(file)
    described, tensors = read_file(file, 1)
    write_file(file, tensors, {name: part for name, part in described.items() if name != key})
    with pytest.raises(pf.FileFormatError, match="not a checkpoint"):
        run(file)


@pytest.mark.parametrize(
    ("found", "like", "told"),
    [
        ({"a": 7}, {"a": 0.5}, "the type of it.a is int, not float"),
        ({"b": 7}, {"a": 7}, r"what it holds is .*'b'.*, not .*'a'"),
        ([1, 2], [1], "the length of it is 2, not 1"),
        ([torch.zeros(2)], [torch.zeros(1)], r"the shape of it.0 is \(2,\), not \(1,\)"),
        ([torch.zeros(1).int()], [torch.zeros(1)], "the type of it.0 is torch.int32, not torch.fl"),
        ({"a": -0.5}, {"a": 0.0}, "it.a cannot be -0.5"),
        ([torch.tensor(-1)], [torch.tensor(0)], "it.0 cannot be -1"),
    ],
)
def test_where_a_nest_is_not_like_another_is_said(found: Any, like: Any, told: str) -> None:
    must_be_like(like, like, "it")
    with pytest.raises(pf.FileFormatError, match=f"^{told}"):
        must_be_like(found, like, "it")


def other_rows() -> dict[str, tuple[Any, str]]:
    x = rows()
    one = x.clone()
    one[7, 1] += 1e-6
    return {
        "a number changed": (one, "train.content.0"),
        "another order": (x.flip(0), "train.content.0"),
        "another type": (x.double(), "train.content.0"),
        "fewer": (x[:-1], "train.rows is 20 there and 19 here"),
        "a loader": (DataLoader(TensorDataset(x), batch_size=8), "train.content"),
    }


@pytest.mark.parametrize("what", other_rows())
def test_other_data_are_refused_and_named(what: str, tmp_path: Path) -> None:
    data, told = other_rows()[what]
    run(tmp_path / "fit")
    with pytest.raises(pf.FileFormatError, match=told):
        run(tmp_path / "fit", train=data)
    run(tmp_path / "judged", validation=rows())
    with pytest.raises(pf.FileFormatError, match=told.replace("train", "validation")):
        run(tmp_path / "judged", validation=data)


SETTINGS: dict[str, tuple[pf.Learner, pf.Learner]] = {
    "learner.kind": (pf.EM(), pf.MiniBatchEM()),
    "learner.pseudocount": (pf.EM(), pf.EM(0.1)),
    "learner.step": (pf.Anemone(), pf.Anemone(0.3)),
    "learner.momentum": (pf.Anemone(), pf.Anemone(momentum=0.5)),
    "learner.decay": (pf.Gradient(), pf.Gradient(decay=True)),
    "learner.start.optimizer.param_groups.0.lr": (
        pf.Gradient(partial(torch.optim.SGD, lr=0.1)),
        pf.Gradient(lambda parameters: torch.optim.SGD(parameters, lr=0.2)),
    ),
    "learner.start.optimizer.param_groups.0": (pf.Gradient(), pf.Gradient(torch.optim.SGD)),
}


@pytest.mark.parametrize("told", SETTINGS)
def test_other_settings_are_refused_and_named(told: str, tmp_path: Path) -> None:
    one, other = SETTINGS[told]
    run(tmp_path / "fit", one)
    with pytest.raises(pf.FileFormatError, match=f"is of another fit, {told}.* there and .* here"):
        run(tmp_path / "fit", other)
    run(tmp_path / "fit", copy.copy(one), epochs=3)


def test_another_precision_and_other_frozen_parameters_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "fit", model=model_of(torch.float32))
    with pytest.raises(pf.FileFormatError, match=r"parameters\.0 is 'torch.float32 .* 'torch.fl"):
        run(tmp_path / "fit")
    model = model_of(torch.float32)
    model.banks[0].requires_grad_(False)
    with pytest.raises(pf.FileFormatError, match=r"learned\.0 is True there and False here"):
        run(tmp_path / "fit", model=model)


def test_frozen_parameters_are_resumed(tmp_path: Path) -> None:
    ends = []
    for epochs in ((2, 5), (5,)):
        for name in ("Adam", "Anemone"):
            for last in epochs:
                model = model_of()
                model.banks[0].requires_grad_(False)
                draws, file = torch.Generator().manual_seed(3), tmp_path / f"{name}{len(epochs)}"
                run(file, MAKE[name](), model=model, epochs=last, generator=draws)
            ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(ends[0], ends[2])
    assert torch.equal(ends[1], ends[3])


class Made:
    """Rows that are made when they are asked for, known by a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return 20

    def take(self, chosen: Tensor) -> Tensor:
        return rows(20, self.seed)[chosen]


class Known(Made):
    def fingerprint(self) -> list[Tensor]:
        return [torch.tensor(self.seed)]


def test_rows_that_are_made_are_known_by_their_fingerprint(tmp_path: Path) -> None:
    run(tmp_path / "made", train=Made(0))
    run(tmp_path / "made", train=Made(1), epochs=3)  # by their number alone
    run(tmp_path / "known", train=Known(0))
    with pytest.raises(pf.FileFormatError, match=r"train\.content\.0"):
        run(tmp_path / "known", train=Known(1))
    with pytest.raises(pf.FileFormatError, match=r"train\.content"):
        run(tmp_path / "known", train=Made(0))


def test_of_a_large_array_few_rows_are_read(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(4 * NUMBERS, 2))
    source = Source("train", mapped, 2, 8, ALONE)
    taken, take = [], source.data.take  # type: ignore[union-attr]
    source.data.take = lambda some: (taken.append(some), take(some))[1]  # type: ignore
    about = source.about
    assert sum(map(len, taken)) * 2 <= NUMBERS
    assert {0, len(mapped) - 1} <= set(torch.cat(taken).tolist())
    for place in (0, -1):
        mapped[place] += 1
        assert source.about != about
        about = source.about


@pytest.mark.parametrize("ways", [(False, True), (True, False)])
def test_a_fit_goes_on_whatever_way_its_steps_are_computed(
    ways: tuple[bool, bool], tmp_path: Path
) -> None:
    def learner(fused: bool) -> pf.Gradient:
        return pf.Gradient(partial(torch.optim.Adam, lr=0.05, fused=fused))

    def after(epochs: int, fused: bool, file: Path) -> list[float]:
        over = lambda result: len(result.train) == epochs  # noqa: E731
        how = {"batch_size": 5, "generator": torch.Generator().manual_seed(1), "progress": False}
        model = model_of()
        settings = {"learner": learner(fused), "after_epoch": over, "checkpoint": file, **how}
        return pf.fit(model, rows(), epochs=4, **settings).train

    before, then = ways
    half = after(2, before, tmp_path / "half")
    whole = after(4, before, tmp_path / "whole")
    assert half == whole[:2]
    assert after(4, then, tmp_path / "half") == pytest.approx(whole, abs=1e-5)
