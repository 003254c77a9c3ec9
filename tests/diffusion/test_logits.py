"""Logits on disk: what is read is what the backbone said, whatever interrupts or damages it."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import pcflow as pf
from pcflow import SettingError
from pcflow_diffusion import Blocks, StoredLogits, store_logits
from pcflow_diffusion.errors import (
    DiffusionError,
    ShapeMismatch,
    StoreError,
    TokenOutOfRange,
)

N, CONTEXT, LENGTH, V = 11, 2, 3, 7
MASK = V


class Backbone:
    """Logits that tell every position of every text from every other; counts the rows it sees."""

    def __init__(self, dtype: torch.dtype = torch.float32, shift: float = 0.0) -> None:
        self.seen, self.dtype, self.shift, self.limit = 0, dtype, shift, 10**9

    def __call__(self, tokens: Tensor) -> Tensor:
        if self.seen >= self.limit:
            raise KeyboardInterrupt
        self.seen += len(tokens)
        place = torch.arange(tokens.shape[1])[:, None] + 1
        token = tokens.sum(dim=1)[:, None, None] + tokens[..., None]
        noise = torch.sin((token * place + 1.0) * (torch.arange(V) + 1.3 + self.shift))
        return (3 * noise).to(self.dtype)


@pytest.fixture
def material() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(V, (N, CONTEXT + LENGTH), generator=generator)
    masked = torch.rand(N, LENGTH, generator=generator) < 0.5
    return rows, rows[:, CONTEXT:].masked_fill(masked, MASK)


def wanted(rows: Tensor, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return Backbone(dtype)(torch.cat([rows[:, :CONTEXT], x], dim=1))[:, CONTEXT:]


def store(folder: Path, material: tuple[Tensor, Tensor], **more: object) -> StoredLogits:
    settings: dict[str, object] = {"shard_size": 4, "batch_size": 3, "progress": False}
    backbone = more.pop("backbone", Backbone())
    return store_logits(backbone, folder, *material, **(settings | more))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard_size", [1, 4, 11, 100])
def test_what_is_read_is_what_the_backbone_said(
    tmp_path: Path, material: tuple[Tensor, Tensor], dtype: torch.dtype, shard_size: int
) -> None:
    rows, x = material
    stored = store(tmp_path, material, backbone=Backbone(dtype), shard_size=shard_size)
    assert len(list(tmp_path.iterdir())) == -(-N // shard_size)
    for found in (stored, StoredLogits(tmp_path)):
        assert len(found) == N
        every = found[:]
        assert torch.equal(every.logits, wanted(rows, x, dtype))
        assert every.logits.dtype == dtype
        assert torch.equal(every.x, x)
        assert torch.equal(every.x0, rows[:, CONTEXT:])
        assert torch.equal(found.x, x)


def test_rows_are_chosen_like_those_of_a_tensor(
    tmp_path: Path, material: tuple[Tensor, Tensor]
) -> None:
    stored, logits = store(tmp_path, material), wanted(*material)
    choices: tuple[Tensor | slice | list[int], ...] = (
        torch.tensor([7, 0, 7, -1]), slice(2, 9, 3), [10, 3], torch.arange(N) % 2 == 0,
        torch.arange(0),
    )  # fmt: skip
    for rows in choices:
        found = stored[rows]
        assert isinstance(found, Blocks)
        assert torch.equal(found.logits, logits[rows])
        assert torch.equal(found.x, material[1][rows])
    with pytest.raises(IndexError):
        stored[torch.tensor([N])]


def test_batches_go_over_all_blocks_once_in_order_or_shuffled(
    tmp_path: Path, material: tuple[Tensor, Tensor]
) -> None:
    stored, logits = store(tmp_path, material), wanted(*material)
    parts = list(stored.batches(4))
    assert [len(part) for part in parts] == [4, 4, 3]
    assert torch.equal(torch.cat([part.logits for part in parts]), logits)

    def shuffled(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        found = stored.batches(4, shuffle=True, generator=generator)
        return torch.cat([part.logits for part in found])

    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    assert torch.equal(shuffled(5), logits[order])
    assert torch.equal(shuffled(5), shuffled(5))
    assert not torch.equal(shuffled(5), shuffled(6))


@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_largest_stay_listed_and_the_mass_of_others_is_told(
    tmp_path: Path, material: tuple[Tensor, Tensor], k: int
) -> None:
    stored, logits = store(tmp_path, material, top_k=k), wanted(*material)
    found, top = stored[:].logits, logits.topk(k)
    assert isinstance(found, pf.Potentials) and found.categories is not None
    torch.testing.assert_close(found.log, top.values)
    torch.testing.assert_close(found.log, logits.gather(-1, found.categories))
    left_out = 1 - logits.softmax(-1).gather(-1, top.indices).sum(-1)  # [N, L]
    masked = stored.x == stored.x.max()
    assert stored.left_out == pytest.approx(float(left_out[masked].mean()), rel=1e-5)
    assert stored.top_k == k


def test_all_tokens_listed_are_all_logits(tmp_path: Path, material: tuple[Tensor, Tensor]) -> None:
    stored = store(tmp_path, material, top_k=V)
    assert stored.top_k is None
    assert torch.equal(stored[:].logits, wanted(*material))


@pytest.mark.parametrize("top_k", [None, 2])
def test_an_interrupted_run_goes_on_at_the_first_missing_shard(
    tmp_path: Path, material: tuple[Tensor, Tensor], top_k: int | None
) -> None:
    backbone = Backbone()
    backbone.limit = 8  # in the second of three shards of 4
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path, material, backbone=backbone, top_k=top_k)
    assert [path.name for path in tmp_path.iterdir()] == ["00000.safetensors"]
    with pytest.raises(StoreError, match="1 of 3 shards"):
        StoredLogits(tmp_path)
    first = (tmp_path / "00000.safetensors").stat().st_mtime_ns
    again = Backbone()
    stored = store(tmp_path, material, backbone=again, top_k=top_k)
    assert again.seen == 1 + N - 4  # the first block, to see that it is the same backbone
    assert (tmp_path / "00000.safetensors").stat().st_mtime_ns == first
    whole = store(tmp_path / "whole", material, top_k=top_k)
    assert all(map(torch.equal, parts(stored[:]), parts(whole[:])))
    (tmp_path / "00001.safetensors").unlink()
    mended = store(tmp_path, material, top_k=top_k)
    assert all(map(torch.equal, parts(mended[:]), parts(whole[:])))


def test_a_folder_about_something_else_is_refused_and_kept(
    tmp_path: Path, material: tuple[Tensor, Tensor]
) -> None:
    rows, x = material
    store(tmp_path, material)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    others: dict[str, Callable[[], object]] = {
        "other blocks or masks": lambda: store(tmp_path, (rows.flip(0), x)),
        "blocks or masks": lambda: store(tmp_path, (rows, rows[:, CONTEXT:])),
        "shard_size=4": lambda: store(tmp_path, material, shard_size=5),
        "top_k=None": lambda: store(tmp_path, material, top_k=2),
        "another backbone": lambda: store(tmp_path, material, backbone=Backbone(shift=0.1)),
    }
    for what, call in others.items():
        with pytest.raises(StoreError, match=what):
            call()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_dtype_is_refused_by_its_name(
    tmp_path: Path, material: tuple[Tensor, Tensor]
) -> None:
    for top_k in (None, 3):
        folder = tmp_path / str(top_k)
        store(folder, material, top_k=top_k)
        with pytest.raises(StoreError, match=r"in torch.float32, not torch.bfloat16"):
            store(folder, material, top_k=top_k, backbone=Backbone(torch.bfloat16))


def test_the_same_logits_of_other_tokens_are_those_of_another_backbone(
    tmp_path: Path, material: tuple[Tensor, Tensor]
) -> None:
    store(tmp_path, material, top_k=3)
    with pytest.raises(StoreError, match="another backbone"):
        store(tmp_path, material, top_k=3, backbone=lambda tokens: Backbone()(tokens).flip(-1))
    edit(tmp_path / "00000.safetensors", lambda tensors, _: tensors["categories"].fill_(V))
    with pytest.raises(StoreError, match="another backbone"):
        store(tmp_path, material, top_k=3)


def test_ties_may_be_listed_in_another_order(
    tmp_path: Path, material: tuple[Tensor, Tensor]
) -> None:
    def even(tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, V)

    store(tmp_path, material, top_k=3, backbone=even)
    edit(tmp_path / "00000.safetensors", lambda tensors, _: tensors["categories"].add_(1).fmod_(V))
    store(tmp_path, material, top_k=3, backbone=even)


def test_the_bar_counts_blocks_and_can_be_silenced(
    tmp_path: Path, material: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path / "a", material)
    assert capsys.readouterr().err == ""
    store(tmp_path / "b", material, progress=True)
    assert "11/11" in capsys.readouterr().err
    store(tmp_path / "b", material, progress=True)  # nothing left to do
    assert "11/11" in capsys.readouterr().err


def test_what_cannot_be_stored_is_refused(tmp_path: Path, material: tuple[Tensor, Tensor]) -> None:
    rows, x = material
    for wrong in ((rows[:3], x), (rows[:, :2], x), (rows[0], x[0]), (rows[:0], x[:0])):
        with pytest.raises(ShapeMismatch):
            store(tmp_path / "a", wrong)
    for name in ("top_k", "shard_size", "batch_size"):
        with pytest.raises(SettingError, match=name):
            store(tmp_path / "a", material, **{name: 0})
    assert not (tmp_path / "a").exists()


def edit(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object]) -> None:
    """Write a shard again with other tensors or another header."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
    change(tensors, header)
    save_file(tensors, path, metadata=header)


def about(**more: object) -> Callable[[dict[str, Tensor], dict[str, str]], object]:
    def change(_: dict[str, Tensor], header: dict[str, str]) -> None:
        header["about"] = json.dumps(json.loads(header["about"]) | more)

    return change


def swap(folder: Path) -> None:
    a, b = folder / "00000.safetensors", folder / "00001.safetensors"
    a.rename(folder / "c")
    b.rename(a)
    (folder / "c").rename(b)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": lambda f: (f / "00001.safetensors").unlink(),
    "all gone": lambda f: [path.unlink() for path in f.iterdir()],
    "cut": lambda f: (f / "00001.safetensors").write_bytes(
        (f / "00001.safetensors").read_bytes()[:-50]
    ),
    "empty": lambda f: (f / "00001.safetensors").write_bytes(b""),
    "pickle": lambda f: (f / "00001.safetensors").write_bytes(pickle.dumps({"a": 1})),
    "foreign": lambda f: save_file({"a": torch.ones(1)}, f / "00000.safetensors"),
    "format": lambda f: edit(f / "00000.safetensors", lambda _, h: h.update(format="other")),
    "no json": lambda f: edit(f / "00000.safetensors", lambda _, h: h.update(about="{")),
    "deep json": lambda f: edit(
        f / "00000.safetensors", lambda _, h: h.update(about="[" * 100_000)
    ),
    "a list": lambda f: edit(f / "00000.safetensors", lambda _, h: h.update(about="[1]")),
    "too many rows": lambda f: edit(f / "00000.safetensors", about(rows=10**18)),
    "shards beyond numbers": lambda f: edit(f / "00000.safetensors", about(shard_size=10**30)),
    "no shard size": lambda f: edit(f / "00000.safetensors", about(shard_size=0)),
    "half a row": lambda f: edit(f / "00000.safetensors", about(rows=10.5)),
    "text for a number": lambda f: edit(f / "00000.safetensors", about(vocabulary_size="7")),
    "another key": lambda f: edit(f / "00000.safetensors", about(x=1)),
    "another digest": lambda f: edit(f / "00001.safetensors", about(digest="0")),
    "swapped": swap,
    "a tensor less": lambda f: edit(f / "00001.safetensors", lambda t, _: t.pop("logits")),
    "a tensor more": lambda f: edit(
        f / "00001.safetensors", lambda t, _: t.update(z=torch.ones(1))
    ),
    "fewer rows": lambda f: edit(
        f / "00001.safetensors", lambda t, _: t.update(x=t["x"][:2].clone())
    ),
    "other types": lambda f: edit(f / "00001.safetensors", lambda t, _: t.update(x=t["x"].float())),
    "tokens beyond": lambda f: edit(f / "00001.safetensors", lambda t, _: t["x0"].fill_(V)),
    "negative tokens": lambda f: edit(f / "00001.safetensors", lambda t, _: t["x0"].fill_(-1)),
    "listed beyond": lambda f: edit(f / "00001.safetensors", lambda t, _: t["categories"].fill_(V)),
    "listed negative": lambda f: edit(
        f / "00001.safetensors", lambda t, _: t["categories"].fill_(-1)
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_hostile_folders_are_refused(
    tmp_path: Path, material: tuple[Tensor, Tensor], damage: str
) -> None:
    store(tmp_path, material, top_k=2)
    DAMAGES[damage](tmp_path)
    with pytest.raises(DiffusionError) as caught:
        StoredLogits(tmp_path)[:]
    assert isinstance(caught.value, StoreError | TokenOutOfRange)


def test_logits_of_another_vocabulary_are_refused(
    tmp_path: Path, material: tuple[Tensor, Tensor]
) -> None:
    store(tmp_path, material)
    for path in tmp_path.iterdir():
        edit(path, about(vocabulary_size=9))
    with pytest.raises(StoreError, match=r"3, 9\)"):
        StoredLogits(tmp_path)


def test_every_truncation_is_refused(tmp_path: Path, material: tuple[Tensor, Tensor]) -> None:
    store(tmp_path, material)
    path = tmp_path / "00002.safetensors"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError):
            StoredLogits(tmp_path)
        with pytest.raises(StoreError):
            store(tmp_path, material)


def parts(blocks: Blocks) -> list[Tensor]:
    """Logits, and whose they are if some are listed."""
    return [blocks.logits] if isinstance(blocks.logits, Tensor) else blocks.logits.parts
