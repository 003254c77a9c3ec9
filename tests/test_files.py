"""Files as the system has them: every writer and every reader of both packages, by a table each."""

import json
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from processes import ends, start
from safetensors.torch import load_file, save_file
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import Denoiser, DenoiserConfig, DiffusionError, StoredLogits, store_logits
from pcflow_diffusion.evaluate.figure import save_figure
from pcflow_diffusion.evaluate.sudoku import read_puzzles
from pcflow_diffusion.models import (
    CharacterTokenizer,
    Judge,
    TransformerConfig,
    load_denoiser,
    load_judge,
    load_text,
    save_denoiser,
    save_judge,
)
from pcflow_diffusion.models.subwords import SubwordTokenizer

FOLDERS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
MODEL = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(4)))
ROWS = torch.randint(4, (20, 3), generator=torch.Generator().manual_seed(0))
TREE = pf.chow_liu([[0, 0], [0, 1], [1, 1]])
DENOISER = Denoiser(DenoiserConfig(3, width=8, depth=1, heads=1))
JUDGE = Judge(TransformerConfig(3, width=8, depth=1, heads=1))
LETTERS = CharacterTokenizer("ab\ufffd")
SUBWORDS = SubwordTokenizer.fit(["banana bandana"], vocabulary_size=260)
SPEAKER = Denoiser(DenoiserConfig(SUBWORDS.vocabulary_size, width=8, depth=1, heads=1))
SHARD = "00000.safetensors"

Write = Callable[[Path], object]
Read = Callable[[Path], object]


def fit(path: Path) -> object:
    model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(4)))
    return pf.fit(model, ROWS, pf.EM(), epochs=2, checkpoint=path, progress=False)


def store(path: Path) -> StoredLogits:
    """Logits in the folder of a file that is named like a shard."""

    def says(tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 5)

    return store_logits(says, path.parent, ROWS, ROWS[:, 1:], top_k=2, progress=False)


def has_mass_one(model: pf.CompiledCircuit) -> None:
    nothing = torch.full((1, model.num_variables), torch.nan)
    assert model.log_prob(nothing).item() == pytest.approx(0.0, abs=1e-3)


WRITERS: dict[str, Write] = {
    SHARD: store,
    "native": lambda path: pf.save(MODEL, path),
    "checkpoint": fit,
    "psdd": lambda path: pf.write_psdd(TREE, path),
    "vtree": lambda path: pf.write_psdd(TREE, f"{path}.psdd", path),
    "cnf": lambda path: pf.write_dimacs(pf.CNF([(1, -2), (3,)]), path),
    "denoiser": lambda path: save_denoiser(DENOISER, path, LETTERS),
    "subwords": lambda path: save_denoiser(SPEAKER, path, SUBWORDS),
    "judge": lambda path: save_judge(JUDGE, path, LETTERS),
    "png": lambda path: save_figure(Figure(), path),
}

READERS: dict[str, Read] = {
    SHARD: lambda path: (StoredLogits(path.parent)[:], StoredLogits(path.parent).left_out),
    "native": lambda path: has_mass_one(pf.load(path)),
    "checkpoint": fit,
    "psdd": pf.read_psdd,
    "vtree": lambda path: pf.read_psdd(f"{path}.psdd", path),
    "cnf": pf.read_dimacs,
    "denoiser": lambda path: load_denoiser(path)[0](torch.tensor([[0, 3]])),
    "subwords": lambda path: load_denoiser(path)[1].encode("banana"),
    "judge": lambda path: load_judge(path)[0](torch.tensor([[0, 1]])),
    "text": load_text,
    "csv": read_puzzles,
    "bytes": pf.read_bytes,
}

BOTH = sorted(WRITERS.keys() & READERS.keys())
REFUSALS = (pf.FileFormatError, DiffusionError)


@contextmanager
def limited(limit: int, most: int) -> Iterator[None]:
    """Less of something than the process may have, for a while."""
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (soft, hard))


@contextmanager
def soon(seconds: float = 20.0) -> Iterator[None]:
    """An error if it takes long."""

    def late(*_: object) -> None:
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# writing


@pytest.mark.parametrize("kind", WRITERS)
def test_a_new_file_has_the_mode_of_the_umask_an_old_one_keeps_its_own(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / kind
    for mask in (0o077, 0o022, 0o002):
        with umask(mask):
            WRITERS[kind](path)
        assert mode(path) == 0o666 & ~mask
        path.unlink()
    if kind != SHARD:  # a shard that is there is not written again
        WRITERS[kind](path)
        for old in (0o600, 0o640, 0o666, 0o755):
            path.chmod(old)
            with umask(0o022):
                WRITERS[kind](path)
            assert mode(path) == old


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != SHARD])
def test_links_are_followed(tmp_path: Path, kind: str) -> None:
    elsewhere, path = tmp_path / "elsewhere", tmp_path / kind
    elsewhere.mkdir()
    (tmp_path / "between").symlink_to(elsewhere / "file")
    path.symlink_to("between")
    WRITERS[kind](path)
    WRITERS[kind](path)
    assert path.is_symlink()
    assert [file.name for file in elsewhere.iterdir()] == ["file"]
    round_in_circles = tmp_path / "circle"
    round_in_circles.symlink_to("circle")
    with pytest.raises(OSError):
        pf.replace_file(round_in_circles, [b""])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_an_oserror_and_nothing_is_lost(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    WRITERS[kind](path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    if kind in (SHARD, "checkpoint"):  # what is there is done, and not written again
        path.unlink()
        del before[path]
    with limited(resource.RLIMIT_FSIZE, 10), pytest.raises(OSError):
        WRITERS[kind](path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_fit_that_a_full_disk_ended_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    start = pf.hmm(3, states=2, inputs=pf.Categorical(4))
    path = tmp_path / "checkpoint"

    def learn(epochs: int, checkpoint: Path | None = path) -> pf.FitResult:
        return pf.fit(
            pf.compile(start), ROWS, pf.EM(), epochs=epochs, checkpoint=checkpoint, progress=False
        )

    learn(2)
    before = path.read_bytes()
    with limited(resource.RLIMIT_FSIZE, 10), pytest.raises(OSError):
        learn(4)
    assert path.read_bytes() == before
    assert learn(4).train == learn(4, checkpoint=None).train


@pytest.mark.parametrize("kind", ["native", "psdd", "cnf", "denoiser", "png"])
def test_only_files_are_replaced(tmp_path: Path, kind: str) -> None:
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for target in (pipe, folder, Path("/dev/null")):
        with pytest.raises(OSError):
            WRITERS[kind](target)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert sorted(tmp_path.iterdir()) == [folder, pipe]


def replace_half(path: Path) -> None:
    """Begin to write a file, and die."""

    def parts() -> Iterator[bytes]:
        yield b"half" * 10_000
        os.kill(os.getpid(), signal.SIGKILL)

    pf.replace_file(path, parts())


def test_the_next_save_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "file.txt"
    pf.replace_file(path, [b"old"])
    assert ends([start(replace_half, path)]) == [-signal.SIGKILL]
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    pf.replace_file(other, [b"another"])
    assert len(list(tmp_path.iterdir())) == 3  # it is not its own
    pf.replace_file(path, [b"new"])
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_what_the_living_write_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)  # as long as names may be
    mine = tmp_path / f".{path.name[:100]}.config"
    mine.write_text("mine")

    def parts() -> Iterator[bytes]:
        yield b"outer"
        pf.replace_file(path, [b"inner"])
        assert path.read_bytes() == b"inner"

    pf.replace_file(path, parts())
    assert path.read_bytes() == b"outer"
    assert sorted(tmp_path.iterdir()) == [mine, path]


WITHOUT_LOCKS = """
import os, pkgutil, stat, sys, importlib
from pathlib import Path
import torch

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("O_NONBLOCK", "O_NOFOLLOW", "getuid", "geteuid", "fork", "sched_getaffinity"):
    delattr(os, name)


def unless_open(change):
    def changed(path, *others):
        real = os.path.realpath(path)
        opened = Path("/proc/self/fd").iterdir()
        if any(os.path.realpath(one) == real for one in opened):
            raise PermissionError(path)
        return change(path, *others)

    return changed


for name in ("replace", "rename", "unlink", "remove"):
    setattr(os, name, unless_open(getattr(os, name)))

import pcflow as pf, pcflow_diffusion

for package in (pf, pcflow_diffusion):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith(("__main__", ".harness")):  # which needs lm-eval
            importlib.import_module(module.name)

os.chdir(sys.argv[1])
os.umask(0o027)
model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(4)))
x = torch.tensor([[0, 3, 1]])
for mode in (0o640, 0o600, 0o666, 0o444):
    pf.save(model, "file")
    assert torch.equal(pf.load("file").log_prob(x), model.log_prob(x))
    assert stat.S_IMODE(os.stat("file").st_mode) == mode, mode
    os.chmod("file", {0o640: 0o600, 0o600: 0o666}.get(mode, 0o444))
pf.write_dimacs(pf.CNF([(1, -2)]), "cnf")
assert b"\\r" not in pf.read_bytes("cnf")


def parts():
    yield b"outer"
    pf.replace_file("link", [b"inner"])
    assert pf.read_bytes("file") == b"inner"
    pf.replace_file("left", [b"left"])
    scratch = next(Path().glob(".pcflow-*"))
    killed = scratch.with_name(scratch.name[:-16] + "killed")
    os.rename("left", killed)
    os.utime(killed, (1, 1))


os.symlink("file", "link")
pf.replace_file("link", parts())
assert pf.read_bytes("file") == b"outer"
assert len(list(Path().glob(".pcflow-*"))) == 1  # young enough to be somebody's until it is old
pf.replace_file("file", [b"next"])
assert sorted(os.listdir()) == ["cnf", "file", "link"]
for wrong in (".", "/dev/zero"):
    try:
        pf.replace_file(wrong, [b""])
        raise AssertionError(wrong)
    except OSError:
        pass
"""


def import_anew(script: str, folder: Path) -> None:
    """Run a script in a process where torch is there and our packages are not yet."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("pcflow", "pcflow_diffusion"):
            del sys.modules[name]
    sys.argv = ["script", str(folder)]
    exec(script, {"__name__": "__main__"})


def test_without_locks_and_where_no_open_file_is_renamed_it_works_too(tmp_path: Path) -> None:
    """As on Windows: every module is there, what is saved is loaded, and nothing is left."""
    assert ends([start(import_anew, WITHOUT_LOCKS, tmp_path)]) == [0]


# reading


@pytest.mark.parametrize("kind", READERS)
def test_nothing_but_a_file_is_read_and_nobody_is_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "vtree":
        WRITERS[kind](path)
        path.unlink()

    def refused() -> None:
        with soon(), pytest.raises((OSError, *REFUSALS)):
            READERS[kind](path)

    os.mkfifo(path)  # nobody writes to it
    refused()
    path.unlink()
    path.mkdir()
    refused()
    path.rmdir()
    path.symlink_to("/dev/zero")  # without end
    refused()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", [SHARD, "native", "checkpoint", "denoiser", "subwords", "judge"])
def test_every_reader_looks_at_numbers(tmp_path: Path, kind: str, value: float) -> None:
    path = tmp_path / kind
    WRITERS[kind](path)
    good = path.read_bytes()
    texts, tensors = pf.Container(path).texts, load_file(path)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or (kind, value) == (SHARD, -torch.inf):
            continue  # -inf is the logarithm of no mass at all
        if kind == "checkpoint" and value == value:
            continue  # parameters of certain events are infinite
        spoiled = tensor.clone()
        spoiled[0] = value
        save_file({**tensors, name: spoiled}, path, metadata=texts)
        with pytest.raises(REFUSALS):
            READERS[kind](path)
    path.write_bytes(good)
    READERS[kind](path)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
@pytest.mark.parametrize("size", [1.0, 40.0, 1e30, 3e38, torch.inf])
def test_what_is_loaded_is_a_distribution(tmp_path: Path, family: Any, size: float) -> None:
    """Numbers as large as they come: refused, or its mass is one where it can be added up."""
    path = tmp_path / "file"
    pf.save(pf.compile(pf.Circuit(pf.InputLayer.random(0, family))), path)
    texts, tensors = pf.Container(path).texts, load_file(path)
    for sign in (1, -1):
        save_file({n: torch.full_like(t, sign * size) for n, t in tensors.items()}, path, texts)
        try:
            model = pf.load(path)
        except pf.FileFormatError:
            assert size > 1.0
            continue
        if family.num_categories:
            states = torch.arange(family.num_categories).unsqueeze(-1)
            assert model.log_prob(states).logsumexp(0).item() == pytest.approx(0.0, abs=1e-3)
        else:
            assert model.log_prob(model.mpe(torch.full((1, 1), torch.nan)).values).isfinite().all()


def test_stored_logits_are_not_mapped(tmp_path: Path) -> None:
    path = tmp_path / SHARD
    whole = store(path)
    assert len(whole[:]) == len(ROWS)
    good = path.read_bytes()
    path.write_bytes(good[:-200])  # the same file, shorter
    for rows in (slice(None), [0], [len(ROWS) - 1]):
        with pytest.raises(DiffusionError, match="changed"):
            whole[rows]
    path.write_bytes(good[:-200] + bytes(200))
    os.utime(path, (1, 1))
    with pytest.raises(DiffusionError, match="changed"):
        whole[:]


def test_tokens_of_stored_blocks_are_of_the_vocabulary_but_for_one_mask(tmp_path: Path) -> None:
    path = tmp_path / SHARD
    store(path)
    texts, tensors = pf.Container(path).texts, load_file(path)
    for ids, fine in (((5, 5), True), ((9, 0), True), ((5, 6), False), ((-1, 5), False)):
        x = tensors["x"].clone()
        x[0, 0], x[1, 1] = ids
        save_file({**tensors, "x": x}, path, metadata=texts)
        if fine:
            StoredLogits(tmp_path)
        else:
            with pytest.raises(DiffusionError, match="x holds token"):
                StoredLogits(tmp_path)


def test_containers_are_safetensors(tmp_path: Path) -> None:
    """What we write, the library reads, and the other way round."""
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    tensors = {str(d): torch.arange(6).view(2, 3).to(d).t() for d in dtypes}
    tensors |= {"scalar": torch.tensor(2.0), "none": torch.empty(0, 3)}
    pf.Container.write(tmp_path / "ours", tensors, {"a": "\u00e9", "b": ""})
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "theirs", {"a": "1"})
    for found in (load_file(tmp_path / "ours"), pf.Container(tmp_path / "theirs").tensors()):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)
    ours = pf.Container(tmp_path / "ours")
    assert ours.texts == {"a": "\u00e9", "b": ""}
    rows = ours.read(str(torch.float64), torch.tensor([2, 0, 2]))
    assert torch.equal(rows, tensors[str(torch.float64)][[2, 0, 2]])
    with pytest.raises(TypeError, match="complex64"):
        pf.Container.write(tmp_path / "no", {"a": torch.zeros(1, dtype=torch.complex64)}, {})
    assert not (tmp_path / "no").exists()


# hostile files


BOMBS: list[Any] = [None, -1, 0, 1, 3, 10**9, 10**18, 10**30, 1.5, "", "x", [], {}, [[]], True]


def damaged(data: st.DataObject, told: Any) -> Any:
    """JSON with something else at one place in it."""
    if not isinstance(told, (dict, list)) or not told or data.draw(st.integers(0, 9)) == 0:
        return data.draw(st.sampled_from(BOMBS))
    keys = list(told) if isinstance(told, dict) else list(range(len(told)))
    key = data.draw(st.sampled_from(keys))
    copy = dict(told) if isinstance(told, dict) else list(told)
    match data.draw(st.integers(0, 9)):
        case 0:
            del copy[key]
        case 1 if isinstance(copy, list):
            copy += [copy[key]] * data.draw(st.sampled_from([1, 50]))
        case 2:
            copy[key] = copy[data.draw(st.sampled_from(keys))]
        case _:
            copy[key] = damaged(data, told[key])
    return copy


def with_other_json(data: st.DataObject, content: bytes) -> bytes:
    """A container whose header, or what a text in it says, is damaged."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    texts = header["__metadata__"]
    name = data.draw(st.sampled_from(["", *texts]))
    try:
        texts[name] = json.dumps(damaged(data, json.loads(texts[name])))
    except (KeyError, ValueError):  # the header itself, or a text that is no JSON
        header = damaged(data, header)
    told = json.dumps(header).encode()
    return len(told).to_bytes(8, "little") + told + content[8 + length :]


def with_other_bytes(data: st.DataObject, content: bytes) -> bytes:
    """Cut off, or with other bytes in a few places."""
    if data.draw(st.booleans()):
        return content[: data.draw(st.integers(0, len(content)))]
    spoiled = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(spoiled)))
        new = st.binary(max_size=4) | st.sampled_from([b"9" * 30, b"-", b" 0 ", b"\n", b"1e999"])
        spoiled[place : place + data.draw(st.integers(0, 4))] = data.draw(new)
    return bytes(spoiled)


@contextmanager
def little_memory(most: int = 1 << 30) -> Iterator[None]:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    with limited(resource.RLIMIT_AS, pages * resource.getpagesize() + most):
        yield


@FOLDERS
@given(data=st.data())
@pytest.mark.parametrize("kind", BOTH)
def test_damaged_files_are_refused_or_read_and_nothing_else(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    path = tmp_path / kind
    path.unlink(missing_ok=True)
    WRITERS[kind](path)
    content = path.read_bytes()
    damage = with_other_bytes
    if content[8:9] == b"{" and data.draw(st.integers(0, 3)) > 0:
        damage = with_other_json
    path.write_bytes(damage(data, content))
    with soon(), little_memory():
        try:
            READERS[kind](path)
        except REFUSALS as error:
            assert str(tmp_path) in str(error) or kind == SHARD


WHOLE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": WHOLE | {"shape": [1] * 100 + [2]}},
        {"a": WHOLE | {"shape": [2**40, 2**40]}},
        {"a": WHOLE | {"shape": [-2, -1]}},
        {"a": WHOLE | {"shape": [2.0]}},
        {"a": WHOLE | {"dtype": "F33"}},
        {"a": WHOLE | {"data_offsets": [0, 4]}},
        {"a": WHOLE, "b": WHOLE},
        {"a": WHOLE | {"data_offsets": [8, 16]}},
        {"a": WHOLE, "__metadata__": {"b": 1}},
        {"a": WHOLE, "__metadata__": []},
        {"a": []},
        {},
    ],
)
def test_headers_that_do_not_fit_are_refused(tmp_path: Path, header: dict[str, Any]) -> None:
    told = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(len(told).to_bytes(8, "little") + told + bytes(8))
    with pytest.raises(pf.FileFormatError, match="truncated or not"):
        pf.Container(tmp_path / "file")


@pytest.mark.parametrize("kind", BOTH)
def test_every_truncation_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    WRITERS[kind](path)
    content = path.read_bytes().rstrip()  # without its last line end a text is still whole
    if kind == "psdd":  # and a number has as many digits as it has
        content = content.rpartition(b" ")[0]
    for length in range(0, len(content), 1 + len(content) // 60):
        path.write_bytes(content[:length])
        with pytest.raises(REFUSALS):
            READERS[kind](path)


# sizes


def chain_of_a_psdd(path: Path, size: int) -> None:
    lines = [f"T 0 {2 * size} {size + 1} -0.693147"]
    for v in range(size, 0, -1):
        last, place = len(lines) - 1, 2 * v - 2
        lines += [f"T {last + 1} {place} {v} -0.693147"]
        lines += [f"D {last + 2} {place + 1} 1 {last + 1} {last} 0.0"]
    path.write_text(f"psdd {len(lines)}\n" + "\n".join(lines) + "\n")


def chain_of_a_vtree(path: Path, size: int) -> None:
    chain_of_a_psdd(Path(f"{path}.psdd"), size)
    pf.write_psdd(pf.read_psdd(f"{path}.psdd"), f"{path}.psdd", path)


def long_clause(path: Path, size: int) -> None:
    literals = " ".join(map(str, range(1, 20 * size + 1)))
    path.write_text(f"p cnf {20 * size} 1\n{literals} 0\n")


def many_clauses(path: Path, size: int) -> None:
    lines = [f"{v} {-v - 1} {v + 2} 0\n" for v in range(1, 5 * size + 1)]
    path.write_text(f"p cnf {5 * size + 2} {5 * size}\n" + "".join(lines))


def nested_sums(path: Path, size: int) -> None:
    layer: Any = pf.InputLayer.random(0, pf.Categorical(2))
    for _ in range(size):
        layer = pf.SumLayer.random([layer])
    pf.save(pf.compile(pf.Circuit(layer)), path)


LARGE: dict[str, tuple[Callable[[Path, int], None], Read]] = {
    "psdd": (chain_of_a_psdd, READERS["psdd"]),
    "vtree": (chain_of_a_vtree, READERS["vtree"]),
    "long clause": (long_clause, READERS["cnf"]),
    "clauses": (many_clauses, READERS["cnf"]),
    "sums": (nested_sums, READERS["native"]),
}


@pytest.mark.parametrize("kind", LARGE)
def test_reading_takes_time_in_proportion(tmp_path: Path, kind: str) -> None:
    """Eight times as much, in far less than 64 times the time."""
    write, read = LARGE[kind]
    seconds = []
    for size in (100, 800):
        write(tmp_path / "file", size)
        seconds.append(min(cpu_seconds(read, tmp_path / "file") for _ in range(3)))
    assert seconds[1] < 24 * seconds[0]


def cpu_seconds(read: Read, path: Path) -> float:
    before = time.process_time()
    read(path)
    return time.process_time() - before


def test_a_tensor_is_copied_once_however_many_layers_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    pf.save(MODEL, path)
    texts, tensors = dict(pf.Container(path).texts), load_file(path)
    described = json.loads(texts["pcflow"])
    described["layers"] = described["layers"][:1] * 500 + [
        {**layer, "inputs": [500 + i for i in layer.get("inputs", [])]}
        for layer in described["layers"]
    ]
    save_file(tensors, path, metadata={"pcflow": json.dumps(described)})
    made, make = [], pf.Parameter.__post_init__
    monkeypatch.setattr(
        pf.Parameter, "__post_init__", lambda self: (made.append(self), make(self))[1]
    )
    pf.load(path)
    assert len(made) == len(MODEL.circuit.parameters)


def test_counts_that_nobody_can_hold_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("p cnf 100000000000000000 1\n1 0\n")
    with pytest.raises(pf.FileFormatError, match=r"line 2: 100000000000000000 variables"):
        pf.read_dimacs(path)
    with pytest.raises(pf.StructureError, match="more than"):
        pf.CNF([[1]], 10**17)


@pytest.mark.parametrize("told", [{"texts": {"of": 1}}, {"texts": {1: "of"}}, {"tensors": {1: 2}}])
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, told: dict) -> None:
    pf.save(MODEL, tmp_path / "file")
    before = (tmp_path / "file").read_bytes()
    with pytest.raises(pf.TypeMismatch):
        pf.save(MODEL, tmp_path / "file", **told)
    assert (tmp_path / "file").read_bytes() == before


def test_products_of_products_do_not_count_beyond_all_measure(tmp_path: Path) -> None:
    path = tmp_path / "file"
    pf.save(MODEL, path)
    texts, tensors = dict(pf.Container(path).texts), load_file(path)
    described = json.loads(texts["pcflow"])
    doubling = [{"kind": "kronecker", "inputs": [i, i]} for i in range(60)]  # 2^(2^60) units
    described["layers"] = described["layers"][:1] + doubling
    save_file(tensors, path, metadata={"pcflow": json.dumps(described)})
    with soon(), pytest.raises(pf.FileFormatError, match="too many units"):
        pf.load(path)
