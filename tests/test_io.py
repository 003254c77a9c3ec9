"""Files: what is written comes back, what is broken is refused, what was there survives."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import pcflow as pf
from pcflow.io import files


def everything() -> pf.Circuit:
    """Every kind of layer and family, with ties, hard zeros and both products."""
    odds = pf.InputLayer.random(0, pf.Bernoulli(), 2)
    tied = pf.InputLayer(1, pf.Bernoulli(), 2, odds.parameters)
    literals = pf.InputLayer(2, pf.Indicator([2, 0], 3), 2)
    table = pf.InputLayer.random(2, pf.Categorical(3), 2)
    third = pf.SumLayer.random([literals, table], 2, mixing=True)
    fourth = pf.InputLayer.random(3, pf.Gaussian(min_std=0.5), 2)
    grid = pf.ProductLayer([odds, tied], "kronecker")
    lower = pf.SumLayer.random([grid], 2)
    whole = pf.ProductLayer([lower, third, fourth])
    weight = pf.Parameter.from_probs([[1.0, 0.0]])
    return pf.Circuit(pf.SumLayer([whole], weight))


@pytest.fixture
def model() -> pf.CompiledCircuit:
    return pf.compile(everything())


@pytest.fixture
def path(tmp_path: Path, model: pf.CompiledCircuit) -> Path:
    file = tmp_path / "circuit.safetensors"
    pf.save(model, file)
    return file


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fold", [True, False])
def test_a_file_gives_back_structure_ties_settings_and_bits(
    tmp_path: Path, dtype: torch.dtype, fold: bool
) -> None:
    model = pf.compile(everything(), dtype=dtype, fold=fold)
    with torch.no_grad():
        for bank in model.banks:
            bank.mul_(1.5)  # trained since
    pf.save(model, tmp_path / "a")
    loaded = pf.load(tmp_path / "a")
    for was, now in zip(model.circuit.layers, loaded.circuit.layers, strict=True):
        assert repr(was) == repr(now)
    for before, after in zip(model.circuit.parameters, loaded.circuit.parameters, strict=True):
        assert after.value.dtype == dtype
        assert torch.equal(before.value, after.value)
    inputs = [x for x in loaded.circuit.layers if isinstance(x, pf.InputLayer)]
    first = next(x for x in inputs if x.variable == 0)
    second = next(x for x in inputs if x.variable == 1)
    assert first.parameters["logits"] is second.parameters["logits"]
    pf.save(loaded, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_circuit_without_parameters_can_be_saved(tmp_path: Path) -> None:
    literal = pf.Circuit(pf.InputLayer(0, pf.Indicator(1)))
    pf.save(pf.compile(literal), tmp_path / "literal")
    loaded = pf.load(tmp_path / "literal")
    assert loaded.log_prob(torch.tensor([[1], [0]])).exp().tolist() == [1.0, 0.0]


def test_every_truncation_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in [*range(0, 40), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(pf.FileFormatError, match=str(path)):
            pf.load(path)


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.target, "boom")


def test_pickles_are_named_and_never_executed(path: Path, tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    path.write_bytes(pickle.dumps(Bomb(crater)))
    with pytest.raises(pf.FileFormatError, match="pickle"):
        pf.load(path)
    torch.save({"bomb": Bomb(crater)}, path)
    with pytest.raises(pf.FileFormatError, match="pickle or a zip"):
        pf.load(path)
    assert not crater.exists()


def test_foreign_files_are_refused(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(pf.FileFormatError, match="safetensors"):
        pf.load(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(pf.FileFormatError, match="not a pcflow file"):
        pf.load(path)
    save_file({"weight": torch.zeros(3)}, path, metadata={"pcflow": '{"version": 99}'})
    with pytest.raises(pf.FileFormatError, match="version 99, not 1"):
        pf.load(path)
    with pytest.raises(FileNotFoundError):
        pf.load(path.with_name("nothing"))


Layers = list[dict[str, Any]]


def of_kind(layers: Layers, kind: str) -> dict[str, Any]:
    return next(layer for layer in layers if layer["kind"] == kind)


def evil_family(layers: Layers) -> None:
    of_kind(layers, "input")["family"] = "__import__"


def evil_settings(layers: Layers) -> None:
    of_kind(layers, "input")["settings"] = {"num_categories": 10**12, "__class__": "os"}


def huge_variable(layers: Layers) -> None:
    tables = [x for x in layers if x.get("family") == "Categorical"]
    tables[0]["settings"] = {"num_categories": 10**12}


def huge_indicator(layers: Layers) -> None:
    literals = [x for x in layers if x.get("family") == "Indicator"]
    literals[0]["settings"] = {"values": [0, 1], "num_categories": 10**12}


def forward_reference(layers: Layers) -> None:
    of_kind(layers, "sum")["inputs"] = [len(layers) + 5]


def self_reference(layers: Layers) -> None:
    of_kind(layers, "sum")["inputs"] = [layers.index(of_kind(layers, "sum"))]


def negative_index(layers: Layers) -> None:
    of_kind(layers, "sum")["inputs"] = [-1]


def overlap(layers: Layers) -> None:
    of_kind(layers, "kronecker")["inputs"] = [0, 0]


def unknown_kind(layers: Layers) -> None:
    of_kind(layers, "kronecker")["kind"] = "eval"


def no_such_tensor(layers: Layers) -> None:
    of_kind(layers, "sum")["weight"] = ["elsewhere", 0]


def no_such_row(layers: Layers) -> None:
    of_kind(layers, "sum")["weight"][1] = 10**6


def absurd_row(layers: Layers) -> None:
    of_kind(layers, "sum")["weight"][1] = 10**30


def parameters_that_are_none(layers: Layers) -> None:
    of_kind(layers, "input")["parameters"] = 5


def wrong_shape(layers: Layers) -> None:
    sums = [layer for layer in layers if layer["kind"] == "sum"]
    sums[0]["weight"], sums[-1]["weight"] = sums[-1]["weight"], sums[0]["weight"]


def many_units(layers: Layers) -> None:
    of_kind(layers, "input")["units"] = 10**15


def far_variable(layers: Layers) -> None:
    of_kind(layers, "input")["variable"] = 10**9


def nothing_at_all(layers: Layers) -> None:
    layers.clear()


def strings(layers: Layers) -> None:
    layers[0] = "input"  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "damage",
    [
        evil_family,
        evil_settings,
        huge_variable,
        huge_indicator,
        forward_reference,
        self_reference,
        negative_index,
        overlap,
        unknown_kind,
        no_such_tensor,
        no_such_row,
        absurd_row,
        parameters_that_are_none,
        wrong_shape,
        many_units,
        far_variable,
        nothing_at_all,
        strings,
    ],
)
def test_hostile_descriptions_are_refused(path: Path, damage: Callable[[Layers], None]) -> None:
    header, tensors = _open(path)
    described = json.loads(header["pcflow"])
    damage(described["layers"])
    save_file(tensors, path, metadata={"pcflow": json.dumps(described)})
    with pytest.raises(pf.FileFormatError, match="does not describe a circuit") as refused:
        pf.load(path)
    assert str(path) in str(refused.value)


def test_hostile_json_and_tensors_are_refused(path: Path) -> None:
    header, tensors = _open(path)
    for text in ("", "{", "[" * 100_000, "17", "null", '{"version": 1}'):
        save_file(tensors, path, metadata={"pcflow": text})
        with pytest.raises(pf.FileFormatError):
            pf.load(path)
    spoiled = {name: torch.full_like(t, torch.nan) for name, t in tensors.items()}
    save_file(spoiled, path, metadata=header)
    with pytest.raises(pf.FileFormatError, match="NaN"):
        pf.load(path)
    save_file({n: t.to(torch.int32) for n, t in tensors.items()}, path, metadata=header)
    with pytest.raises(pf.FileFormatError, match="float32 or float64"):
        pf.load(path)


def _open(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata()), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    path: Path, model: pf.CompiledCircuit, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        pf.save(model, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("row", [-1, 3])
def test_rows_that_are_not_there_are_not_read(row: int, tmp_path: Path) -> None:
    pf.Container.write(
        tmp_path / "file", {"a": torch.arange(6).view(3, 2), "b": torch.zeros(2)}, {}
    )
    found = pf.Container(tmp_path / "file")
    assert torch.equal(found.read("a", [2, 0, 2]), torch.tensor([[4, 5], [0, 1], [4, 5]]))
    with pytest.raises(IndexError, match=f"no row {row}, only 3"):
        found.read("a", [0, row])


def test_what_else_a_file_holds_is_kept_and_not_read(
    tmp_path: Path, model: pf.CompiledCircuit
) -> None:
    more = {"more.rows": torch.arange(6).view(3, 2), "z": torch.full((2,), torch.nan)}
    pf.save(model, tmp_path / "a", {"about": "[1]"}, more)
    pf.save(model, tmp_path / "b")
    found = pf.Container(tmp_path / "a")
    assert torch.equal(found.read("more.rows"), more["more.rows"]) and found.told("about") == [1]
    for source in (tmp_path / "a", found):
        pf.save(pf.load(source), tmp_path / "c")
        assert (tmp_path / "c").read_bytes() == (tmp_path / "b").read_bytes()
    for name in ("", "3x4", "_", ".a"):
        with pytest.raises(pf.SettingError, match="letter"):
            pf.save(model, tmp_path / "a", tensors={name: torch.zeros(1)})


def test_tensors_are_stacked_as_they_are_written(tmp_path: Path) -> None:
    parts = [torch.randn(2, 3) for _ in range(4)]
    pf.Container.write(tmp_path / "a", {"x": parts, "y": parts[0]}, {})
    pf.Container.write(tmp_path / "b", {"x": torch.stack(parts), "y": parts[0]}, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_saved_file_is_as_readable_as_others(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o644


def test_save_needs_a_model_and_a_directory(model: pf.CompiledCircuit, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        pf.save(model, tmp_path / "no" / "such" / "folder")
    with pytest.raises(TypeError, match="Circuit"):
        pf.save(everything(), tmp_path / "a")  # type: ignore[arg-type]
