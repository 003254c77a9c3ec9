"""Circuits of PyJuice: read as data, equal to what was written; whatever else is in a file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from juice_files import Categorical, distribution, importable, nodes_of, write

import pcflow as pf

DATA = Path(os.environ.get("PCFLOW_DATA", "")) / "jpc"
ABSENT = "set PCFLOW_DATA to a folder with jpc/NAME.jpc and answers NAME.npz; see the test"


def trees(layer: str) -> pf.Circuit:
    """A random tree."""
    graph = pf.structure.random_binary_tree(5, seed=1)
    generator = torch.Generator().manual_seed(0)
    return pf.build_circuit(graph, pf.Categorical(3), 4, layer, generator=generator)


def zeros() -> pf.Circuit:
    """A chain that never goes back."""
    chain = pf.hmm(4, 4, pf.Categorical(3), generator=torch.Generator().manual_seed(0))
    step = next(s for s in chain.layers if isinstance(s, pf.SumLayer) and s is not chain.root)
    return chain.replace({step.weight: torch.randn(4, 4).tril().masked_fill(TRIU, -torch.inf)})


TRIU = torch.ones(4, 4).triu(1).bool()
CASES = {
    "chain": lambda: pf.hmm(5, 8, pf.Categorical(3)),
    "chain of its own steps": lambda: pf.hmm(5, 8, pf.Categorical(3), homogeneous=False),
    "zeros": zeros,
    "cp": lambda: trees("cp"),
    "tucker": lambda: trees("tucker"),
}


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_what_is_read_is_what_was_written(
    tmp_path: Path, name: str, forward: bool, block: int
) -> None:
    circuit = CASES[name]()
    nodes = nodes_of(circuit, block, soft=block == 4, forward=forward)
    found = pf.read_juice(write(tmp_path / "a.jpc", nodes, protocol=4 + forward))
    x = torch.cartesian_prod(*[torch.arange(3)] * circuit.num_variables)
    wanted = pf.reference_log_prob(circuit, x)
    torch.testing.assert_close(pf.reference_log_prob(found, x), wanted, atol=1e-5, rtol=1e-5)
    if name != "tucker":  # whose products choose, by sums of their own
        assert len(found.parameters) == len(circuit.parameters)  # what was tied is tied


@pytest.mark.parametrize("name", ["hmm_categorical", "hmm_inhomogeneous", "hmm_extern_product"])
def test_files_of_pyjuice_have_its_answers(name: str) -> None:
    """Saved by `juice.save`; beside them inputs x and their log_prob, log_marginal of observed."""
    if not (DATA / f"{name}.jpc").is_file():
        pytest.skip(ABSENT)
    model = pf.compile(pf.read_juice(DATA / f"{name}.jpc"), dtype=torch.float64)
    told = {key: torch.from_numpy(array) for key, array in np.load(DATA / f"{name}.npz").items()}
    some = pf.Evidence(told["x"], ~told["observed"])
    torch.testing.assert_close(model.log_prob(told["x"]), told["log_prob"], atol=1e-6, rtol=0)
    torch.testing.assert_close(model.log_prob(some), told["log_marginal"], atol=1e-6, rtol=0)


def small() -> Any:
    """Nodes of a chain of two steps: two inputs, a product of one, a sum, a product, the root."""
    return nodes_of(pf.hmm(2, 2, pf.Categorical(3), generator=torch.Generator().manual_seed(0)))


def changed(number: int, **items: Any) -> Any:
    """The same with other items in one node."""
    nodes = small()
    nodes[number].update(items)
    return nodes


def last(kind: str, **items: Any) -> Any:
    """The same with other items in the last node of a kind that has parameters."""
    nodes = small()
    next(n for n in nodes[::-1] if n["type"] == kind and n.get("params") is not None).update(items)
    return nodes


class Bomb:
    """Does something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch bomb",)


class Gaussian(Categorical):
    """Inputs of another kind."""


def other_inputs() -> bytes:
    """A distribution that is not of categories."""
    with importable(Gaussian, "pyjuice.nodes.distributions.gaussian"):
        return pickle.dumps(Gaussian(3), protocol=4)


def cycle() -> Any:
    """A list that holds itself."""
    nodes = small()
    nodes.append(nodes)
    return nodes


NAN = np.array([float("nan")] * 6, np.float32)
REFUSED: dict[str, tuple[Any, str]] = {
    "global": ([print], "names 'builtins.print'"),
    "reduce": (changed(0, scope=Bomb()), "which is not data"),
    "reduce inside": (changed(0, dist=pickle.dumps(Bomb())), "not read, only categorical"),
    "other inputs": (changed(0, dist=other_inputs()), "gaussian.Gaussian' are not read"),
    "no pickle inside": (changed(0, dist=b"abc"), "node 0"),
    "a text inside": (changed(0, dist="abc"), "node 0"),
    "categories": (changed(0, dist=distribution(4)), "node"),
    "cycle": (cycle(), "not a list of nodes"),
    "numbers": ([1, 2], "not a list of nodes"),
    "nothing": ([], "not a list of nodes"),
    "a text": ("abc", "not a list of nodes"),
    "kind": (changed(0, type="Leaf"), "neither Input, Product nor Sum"),
    "no kind": ([{}], "node 0"),
    "two variables": (changed(0, scope=[0, 1]), "node 0"),
    "negative": (changed(0, scope=[-1]), "no whole number"),
    "bool": (changed(0, block_size=True), "no whole number"),
    "child later": (changed(-1, chs=(9,)), "a child comes later"),
    "missing tie": (changed(0, source_node=77), "node 0"),
    "tie of another kind": (last("Input", source_node=len(small()) - 1, params=None), "node"),
    "not normalised": (last("Input", params=np.full(6, 0.5, np.float32)), "sum to 1.5"),
    "nan": (last("Input", params=NAN), "sum to nan"),
    "below zero": (last("Input", params=np.float32([2, -1, 0] * 2)), "unit 0"),
    "too few": (last("Input", params=np.ones(3, np.float32)), "node"),
    "integers": (last("Input", params=np.ones(6, np.int64)), "no probabilities"),
    "texts": (last("Input", params=np.array(["a"] * 6)), "what is no number"),
    "objects": (last("Input", params=np.array([1, None], object)), "what is no number"),
    "from outside": (last("Sum", external_params=b"abc"), "come from outside"),
    "edge twice": (last("Sum", edge_ids=np.int64([[0, 0], [0, 0]])), "comes twice"),
    "edge to nowhere": (last("Sum", edge_ids=np.int64([[0, 0], [0, 9]])), "leads to no block"),
    "huge": (changed(0, num_node_blocks=1 << 40), "node"),
    "several roots": (small()[:-1], "unit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_files_are_refused_without_a_trace(
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    nodes, match = REFUSED[name]
    with pytest.raises(pf.FileFormatError, match=match):
        pf.read_juice(write(tmp_path / "a.jpc", nodes))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpc"]
    assert capfd.readouterr() == ("", "")


RAW = {
    "empty": b"",
    "a gigabyte": b"\x80\x04\x8e" + (1 << 30).to_bytes(8, "little") + b"abc",
    "more than there is memory": b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little"),
    "build": b"\x80\x04}}b.",
    "text protocol": b"(lp0\nI1\na.",
    "call of a number": b"\x80\x04K\x01)R.",
    "deep key": b"\x80\x04}" + b")" + b"\x85" * 200_000 + b"K\x01s.",
    "nothing on the stack": b"\x80\x04a.",
    "no mark": b"\x80\x04t.",
    "no memo": b"\x80\x04h\x05.",
    "two things": b"\x80\x04K\x01K\x02.",
    "a text with escapes": b"\x80\x04S'\\8'\n.",
    "persistent": b"\x80\x04K\x01Q.",
    "extension": b"\x80\x04\x82\x01.",
    "not a pickle": b"psdd 5",
}


def test_a_small_file_does_not_become_a_large_circuit(tmp_path: Path) -> None:
    """Numbers that stand in the file once are not kept for every node that names them."""
    unit = {"type": "Input", "num_node_blocks": 1, "block_size": 1, "chs": (), "source_node": None}
    shared = unit | {"dist": distribution(1 << 18), "params": np.full(1 << 18, 2**-18, np.float32)}
    path = write(tmp_path / "a.jpc", [shared | {"scope": [v]} for v in range(100)])
    assert path.stat().st_size < 1 << 21
    with pytest.raises(pf.FileFormatError, match="over and over"):
        pf.read_juice(path)


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_pickle_of_nodes_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.jpc"
    path.write_bytes(RAW[name])
    with pytest.raises(pf.FileFormatError, match=r"a\.jpc: no circuit of PyJuice"):
        pf.read_juice(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = pickle.dumps(small(), protocol=4)
    path = tmp_path / "a.jpc"
    for stop in range(0, len(whole), 7):
        path.write_bytes(whole[:stop])
        with pytest.raises(pf.FileFormatError):
            pf.read_juice(path)


@given(st.data())
def test_damaged_files_are_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(pickle.dumps(small(), protocol=4))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(0, 3))
        content[place : place + length] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.mktemp("damaged") / "a.jpc"
    path.write_bytes(bytes(content))
    try:
        assert isinstance(pf.read_juice(path), pf.Circuit)
    except pf.FileFormatError as error:
        assert str(path) in str(error)


def test_products_of_chosen_blocks_by_hand(tmp_path: Path) -> None:
    """Two units, of which a product reads the second alone, and the first."""
    unit = {"type": "Input", "num_node_blocks": 2, "block_size": 1, "chs": (), "source_node": None}
    probs = np.float32([0.25, 0.75, 0.5, 0.5])
    nodes: list[dict[str, Any]] = [
        unit | {"scope": [v], "dist": distribution(2), "params": probs} for v in (0, 1)
    ]
    sizes = {"num_node_blocks": 1, "block_size": 1, "source_node": None}
    nodes.append(sizes | {"type": "Product", "chs": (0, 1), "edge_ids": np.int64([[1, 0]])})
    found = pf.read_juice(write(tmp_path / "a.jpc", nodes))
    assert pf.compile(found).log_prob(torch.tensor([[0, 1]])).exp().item() == pytest.approx(0.375)
