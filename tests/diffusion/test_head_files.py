"""Heads come back from their files as they were; whatever else is in a file is refused."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from juice_files import nodes_of, write
from laws import of_fifty
from processes import ends, start
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import pcflow as pf
from pcflow_diffusion import (
    CircuitHead,
    Coupling,
    DiffusionError,
    LogLinear,
    Marginals,
    Modulation,
    Projection,
)
from pcflow_diffusion.errors import CheckpointError
from pcflow_diffusion.head import Stretch
from pcflow_diffusion.head.files import TOLD

L, V = 4, 5
MASK = V
SEEDS = st.integers(0, 10**6)
COUPLINGS: dict[str, Coupling] = {
    "product": LogLinear(),
    "fitted": LogLinear(0.8130194512, -0.4),
    "by share": LogLinear((0.9, 0.7, 1.1), (0.1, 0.3, 1 / 3)),
    "projection": Projection(3, 1e-4),
    "pooled": Projection(pool=(0.7, 0.2)),
}


def chain(seed: int) -> pf.Circuit:
    return pf.hmm(L, 3, pf.Categorical(V), generator=torch.Generator().manual_seed(seed))


def tree(seed: int) -> pf.Circuit:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(V, (20, L), generator=generator)
    return pf.hclt(rows, 2, pf.Categorical(V), generator=generator)


def latents(seed: int) -> pf.Circuit:
    return pf.expose_latents(chain(seed))


def gates(seed: int) -> pf.Circuit:
    return pf.add_gates(chain(seed), 3, generator=torch.Generator().manual_seed(seed))


def modulated(circuit: pf.Circuit, seed: int, dtype: torch.dtype) -> CircuitHead:
    torch.manual_seed(seed)
    modulation = Modulation(V, 3, width=4, depth=2)
    nn.init.normal_(modulation.out.weight)
    coupling = list(COUPLINGS.values())[seed % 3]
    model = pf.compile(circuit, dtype=dtype)
    return CircuitHead(model, MASK, coupling, None, modulation, "sha256:0a1b")


def same(one: CircuitHead, other: CircuitHead) -> None:
    """The same settings, probabilities and draws."""
    for name in ("coupling", "mask_token_id", "top_k", "tokenizer", "length", "vocabulary_size"):
        assert getattr(one, name) == getattr(other, name)
    assert one.model.dtype == other.model.dtype
    torch.manual_seed(3)
    logits, x0 = torch.randn(6, L, V), torch.randint(V, (6, L))
    x = torch.where(torch.rand(6, L) < 0.7, one.mask_token_id, x0)
    assert torch.equal(one.log_prob(logits, x, x0), other.log_prob(logits, x, x0))
    for order in ("joint", "any_order"):
        first, second = (
            head.sample(logits, x, order=order, generator=torch.Generator().manual_seed(7))  # type: ignore[arg-type]
            for head in (one, other)
        )
        assert all(map(torch.equal, vars(first).values(), vars(second).values()))


@settings(max_examples=of_fifty(12))
@given(
    SEEDS,
    st.sampled_from([chain, tree]),
    st.sampled_from(sorted(COUPLINGS)),
    st.sampled_from([None, 2, 9]),
    st.sampled_from([MASK, 2]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_head_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    make: Callable[[int], pf.Circuit],
    name: str,
    top_k: int | None,
    mask: int,
    dtype: torch.dtype,
) -> None:
    path = tmp_path_factory.getbasetemp() / "head"
    head = CircuitHead(pf.compile(make(seed), dtype=dtype), mask, COUPLINGS[name], top_k)
    head.save(path)
    same(head, CircuitHead.load(path))


@pytest.mark.parametrize("make", [latents, gates])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(2))
def test_a_modulated_head_comes_back_as_it_was(
    tmp_path: Path, make: Callable[[int], pf.Circuit], dtype: torch.dtype, seed: int
) -> None:
    head = modulated(make(seed), seed, dtype)
    head.save(tmp_path / "head")
    again = CircuitHead.load(tmp_path / "head")
    same(head, again)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "head").read_bytes()


@pytest.mark.parametrize("take", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))])
def test_heads_are_copied_and_pickled(take: Callable[[CircuitHead], CircuitHead]) -> None:
    head = modulated(gates(1), 1, torch.float32)
    head.over(2)  # which is kept
    again = take(head)
    same(head, again)
    assert again.over(2).length == 2
    assert again.model is not head.model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "head_file"
    modulated(latents(0), 0, torch.float32).save(path)
    return path


def contents(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_a_file_cut_off_anywhere_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for end in (0, 4, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="head_file"):
            CircuitHead.load(saved)


def test_files_of_something_else_are_refused(tmp_path: Path, saved: Path) -> None:
    other = tmp_path / "other"
    pf.save(pf.compile(chain(0)), other)
    with pytest.raises(CheckpointError, match="other does not describe a head"):
        CircuitHead.load(other)
    other.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError):
        CircuitHead.load(other)
    with pytest.raises(OSError, match="nowhere"):
        CircuitHead.load(tmp_path / "nowhere")


def damaged(told: dict[str, object], tensors: dict[str, Tensor]) -> dict[str, Callable[[], object]]:
    """Ways to damage a description or its tensors, in place."""
    settings, coupling, modulation = (told[n] for n in ("settings", "coupling", "modulation"))
    assert isinstance(settings, dict) and isinstance(coupling, dict)
    assert isinstance(modulation, dict)
    weight = "modulation.out.weight"
    return {
        "another format": lambda: told.update(format="pcflow_diffusion.head.1"),
        "no format": lambda: told.pop("format"),
        "no settings": lambda: told.pop("settings"),
        "a setting too much": lambda: settings.update(speed=3),
        "a setting too few": lambda: settings.pop("mask_token_id"),
        "a mask that is none": lambda: settings.update(mask_token_id=1.5),
        "top_k below 1": lambda: settings.update(top_k=0),
        "a tokenizer that is no text": lambda: settings.update(tokenizer=["a"]),
        "a coupling among settings": lambda: settings.update(coupling=3),
        "a modulation among settings": lambda: settings.update(modulation="a"),
        "a mask beyond all ids": lambda: settings.update(mask_token_id=10**30),
        "another kind of coupling": lambda: coupling.update(kind="os.system"),
        "powers that are none": lambda: coupling.update(a="rm"),
        "as many powers as not": lambda: coupling.update(a=[1.0, 2.0]),
        "an infinite power": lambda: coupling.update(a=float("inf")),
        "what cannot be modulated": lambda: told.update(coupling={"kind": "Projection"}),
        "no modulation": lambda: told.pop("modulation"),
        "a modulation of other sizes": lambda: modulation.update(width=5),
        "a modulation of many layers": lambda: modulation.update(depth=10**12),
        "a negative size": lambda: modulation.update(values=-1),
        "no emission": lambda: tensors.pop("5x3"),
        "half an emission": lambda: tensors.update({"5x3": torch.zeros(1, 2, 3)}),
        "an emission of whole numbers": lambda: tensors.update({"5x3": torch.ones(1, 5, 3).long()}),
        "a weight missing": lambda: tensors.pop(weight),
        "a weight that is NaN": lambda: tensors[weight].fill_(torch.nan),
        "a weight of another shape": lambda: tensors.update({weight: torch.zeros(2, 2)}),
        "a weight too much": lambda: tensors.update({"modulation.more": torch.zeros(2)}),
    }  # fmt: skip


@pytest.mark.parametrize(
    "way", damaged({n: {} for n in ("settings", "coupling", "modulation")}, {})
)
def test_what_contradicts_itself_is_refused(saved: Path, way: str) -> None:
    texts, tensors = contents(saved)
    told = json.loads(texts[TOLD])
    damaged(told, tensors)[way]()
    save_file(tensors, saved, metadata=texts | {TOLD: json.dumps(told)})
    with pytest.raises(CheckpointError, match="head_file"):
        CircuitHead.load(saved)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "null", '{"a": ' * 5000])
def test_what_is_no_description_is_refused(saved: Path, text: str) -> None:
    texts, tensors = contents(saved)
    save_file(tensors, saved, metadata=texts | {TOLD: text})
    with pytest.raises(CheckpointError, match="does not describe a head"):
        CircuitHead.load(saved)


def test_a_file_without_its_circuit_is_refused(saved: Path) -> None:
    texts, tensors = contents(saved)
    save_file(tensors, saved, metadata={TOLD: texts[TOLD]})
    with pytest.raises(CheckpointError, match="not a pcflow file"):
        CircuitHead.load(saved)


def test_the_file_of_a_head_is_one_of_its_circuit(saved: Path) -> None:
    rows = torch.randint(3, (5, 2 * L))
    told = pf.load(saved).log_prob(rows)
    assert torch.equal(told, CircuitHead.load(saved).model.log_prob(rows))


def test_a_file_that_is_replaced_while_it_is_read_is_no_mixture_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, path = pf.load, tmp_path / "head"
    CircuitHead(pf.compile(chain(0)), MASK, "ratio").save(path)

    def late(*given: object) -> pf.CompiledCircuit:
        CircuitHead(pf.compile(chain(1)), MASK, "product").save(path)
        return read(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("pcflow_diffusion.head.files.load", late)
    with pytest.raises(CheckpointError, match="was changed since it was opened"):
        CircuitHead.load(path)


def told(name: str) -> int:
    """Bytes of memory that Linux says this process has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def measure(what: str, path: Path, found: Path) -> None:
    """Write down how many times a file's size a process grows by writing it, or by reading it."""
    circuit = pf.hmm(4, 64, pf.Categorical(200_000))
    head = CircuitHead(pf.compile(circuit), 0)
    ways: dict[str, Callable[[], object]] = {
        "save": lambda: head.save(path),
        "load": lambda: CircuitHead.load(path),
        "read_juice": lambda: CircuitHead.read_juice(path, 0),
        "pf.read_juice": lambda: pf.read_juice(path),
    }
    if what == "load":
        head.save(path)
    elif what != "save":
        write(path, nodes_of(circuit))
    if what != "save":
        del head, circuit
    Path("/proc/self/clear_refs").write_text("5")  # peaks are from now on
    before = told("VmRSS")
    kept = ways[what]()
    found.write_text(str((told("VmHWM") - before) / path.stat().st_size))
    del kept


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are asked of Linux")
@pytest.mark.parametrize(
    ("what", "copies"), [("save", 1), ("load", 2), ("read_juice", 2), ("pf.read_juice", 2)]
)
def test_files_are_not_copied_in_memory(what: str, copies: int, tmp_path: Path) -> None:
    """A compiled circuit holds its parameters twice: as they were given, and as they are now."""
    found = tmp_path / "found"
    assert ends([start(measure, what, tmp_path / "file", found)]) == [0]
    assert float(found.read_text()) < copies + 0.2


def test_what_has_no_file_is_refused_and_an_old_file_stays(saved: Path) -> None:
    before, head = saved.read_bytes(), CircuitHead.load(saved)

    class Own(LogLinear):
        def couple(self, model: pf.CompiledCircuit, said: Marginals) -> pf.Evidence:
            return said.soft(said.log_m)

    modulation, head.modulation = head.modulation, nn.Identity()
    with pytest.raises(DiffusionError, match="Identity"):
        head.save(saved)
    head.modulation, head.coupling = modulation, Own()
    with pytest.raises(DiffusionError, match="Own"):
        head.save(saved)
    assert saved.read_bytes() == before


@pytest.mark.parametrize("name", ["fit_coupling", "choose_coupling"])
def test_an_error_on_the_way_leaves_the_head_as_it_was(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = CircuitHead(pf.compile(chain(0)), MASK, "ratio")
    x0, x = torch.randint(V, (20, L)), torch.full((20, L), MASK)
    before, calls, last = dict(vars(head)), 0, 0
    log_prob = pf.CompiledCircuit.log_prob

    def counted(*given: object) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == last:
            raise KeyboardInterrupt
        return log_prob(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(pf.CompiledCircuit, "log_prob", counted)
    getattr(copy.deepcopy(head), name)(torch.zeros(20, L, V), x, x0)
    for failing in (1, 2, calls - 1, calls):
        last, calls = failing, 0
        with pytest.raises(KeyboardInterrupt):
            getattr(head, name)(torch.zeros(20, L, V), x, x0)
        assert vars(head) == before


def test_a_shorter_head_is_as_the_longer_one_is_now() -> None:
    head = CircuitHead(pf.compile(chain(0)), MASK, "ratio")
    head.over(2)
    head.coupling, head.top_k, head.mask_token_id, head.tokenizer = LogLinear(0.5), 2, 1, "abc"
    short = head.over(2)
    for name in ("coupling", "top_k", "mask_token_id", "tokenizer"):
        assert getattr(short, name) == getattr(head, name)


def test_a_shorter_head_is_under_the_stretch_of_the_longer_one() -> None:
    rule = pf.Automaton.options([[0, 1, 2, 3]], num_categories=V)
    head = CircuitHead(pf.compile(chain(0)), MASK)
    stretch = Stretch(rule, torch.tensor([1, 2]), torch.zeros(2, len(rule.next)))
    x = torch.full((2, 2), MASK)
    found = head.under(stretch).over(2).sample(torch.zeros(2, 2, V), x).tokens
    assert found.tolist() == [[1, 2], [2, 3]]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))])
def test_copies_hold_nothing_that_was_made_of_a_head(copied) -> None:
    model = pf.compile(pf.hmm(4, 2, pf.Categorical(2000)))
    head = CircuitHead(model, 2000, constraint=pf.Automaton.phrases([[3]], num_categories=2000))
    hash(head.constraint)  # which it remembers
    fresh, logits, x = len(pickle.dumps(head)), torch.zeros(1, 4, 2000), torch.full((1, 4), 2000)
    wanted = head(logits, x)
    for span in (2, 3):
        assert head.over(span).law.log_probability < 0
    twin = copied(head)
    assert len(pickle.dumps(twin)) < 1.2 * fresh and len(pickle.dumps(head)) < 1.2 * fresh
    assert torch.equal(twin(logits, x), wanted)


def test_a_head_is_made_of_what_pyjuice_saved(tmp_path: Path) -> None:
    circuit = pf.hmm(4, 3, pf.Categorical(5), generator=torch.Generator().manual_seed(0))
    path = write(tmp_path / "model.jpc", nodes_of(circuit))
    found = CircuitHead.read_juice(path, mask_token_id=4, coupling="product", top_k=3)
    wanted = CircuitHead(pf.compile(circuit), 4, "product", top_k=3)
    x = torch.tensor([[4, 2, 4, 4]])
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found(logits, x), wanted(logits, x), atol=1e-5, rtol=1e-5)
    assert (found.top_k, found.mask_token_id) == (3, 4)
