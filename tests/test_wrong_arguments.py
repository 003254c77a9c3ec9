"""Every public function of pcflow with wrong types, shapes and values: a typed error, or an answer.

A table says how each is called rightly. Then every argument is made wrong in every way that there
is for its kind, one at a time.
"""

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from juice_files import nodes_of, write
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import pcflow as pf

D, V = 3, 3

Call = Callable[[Path], dict[str, Any]]
"""Right arguments by name, made anew."""


@cache
def chain() -> pf.Circuit:
    return pf.hmm(D, 2, pf.Categorical(V), generator=seeded())


@cache
def tree() -> pf.Circuit:
    return pf.chow_liu(rows())


def bits() -> pf.Circuit:
    return pf.compile_cnf(pf.CNF([(1, 2), (-1, -2)])).circuit


def psdd() -> pf.Circuit:
    return pf.chow_liu(rows() % 2)


def model() -> pf.CompiledCircuit:
    return pf.compile(chain())


@cache
def rule() -> pf.Automaton:
    return pf.Automaton.lengths(0, None, num_categories=V)


def rows() -> Tensor:
    return torch.tensor([[0, 1, 2], [2, 1, 0], [1, 1, 2], [0, 0, 1]])


def nothing() -> Tensor:
    return torch.full((1, D), torch.nan)


@cache  # to make them takes longer than most of what draws on them
def axes() -> Axes:
    return Figure().subplots()


@pytest.fixture(autouse=True)
def _new_axes() -> None:
    axes.cache_clear()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def layers() -> list[pf.InputLayer]:
    return [pf.InputLayer.random(v, pf.Categorical(V), 2) for v in range(2)]


def logits(*shape: int) -> pf.Parameter:
    return pf.Parameter(torch.zeros(shape))


def region_graph() -> pf.RegionGraph:
    return pf.structure.chain(D)


def soft() -> dict[str, Any]:
    return {"values": rows().float(), "missing": torch.ones(4, D, dtype=torch.bool),
            "log_potentials": torch.zeros(4, D, 2),
            "categories": torch.tensor([0, 2]).expand(4, D, 2)}  # fmt: skip


def written(path: Path, write: Callable[[Path], None]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    return path


def keep_juice(path: Path) -> None:
    write(path, nodes_of(chain()))


def score(x: Tensor) -> Tensor:
    return x[:, 0]


def of_one(_: Path) -> dict[str, Any]:
    return {"circuit": tree()}


def of_two(_: Path) -> dict[str, Any]:
    return {"p": tree(), "q": tree()}


CALLS: dict[str, Call] = {
    "EM": lambda _: {"pseudocount": 0.1},
    "Anemone": lambda _: {"step": 0.5, "momentum": 0.5, "pseudocount": 0.1},
    "MiniBatchEM": lambda _: {"step": 0.5, "pseudocount": 0.1},
    "Gradient": lambda _: {"optimizer": torch.optim.Adam},
    "Batch": lambda _: {"evidence": rows(), "given": pf.Evidence(rows()), "rows": torch.arange(4),
                        "offset": torch.zeros(4), "weight": torch.ones(4)},
    "Automaton": lambda _: {"classes": torch.tensor([0, 1, 1]), "next": torch.zeros(1, 2).long(),
                            "start": 0, "accept": torch.ones(1)},
    "Automaton.options": lambda _: {"options": [[0, 1], [2]], "num_categories": 3},
    "Automaton.phrases": lambda _: {"phrases": [[0, 1], [2]], "num_categories": 3},
    "Automaton.lengths": lambda _: {"least": 1, "most": 2, "num_categories": 3},
    "Automaton.template": lambda _: {"parts": [0, None, {1, 2}, rule()], "num_categories": 3},
    "Automaton.numbers": lambda _: {"lower": 1, "upper": 2, "digits": range(10),
                                    "num_categories": 12},
    "Automaton.of": lambda _: {"given": {"edges": [(0, 1, [True])], "initial_state": 0,
                                         "accept_states": [1]}, "num_categories": 1, "end": None},
    "Automaton.draw": lambda _: {"self": rule(), "names": list(range(V)), "axes": axes()},
    **({"Automaton.regex": lambda _: {"pattern": "a+", "vocabulary": ["a", "b"], "end": 1},
        "Automaton.json_schema": lambda _: {"schema": '{"type": "boolean"}', "end": 0,
                                            "vocabulary": ["", "true", "false"]}}
       if find_spec("outlines_core") else {}),
    "Automaton.padded": lambda _: {"self": rule(), "end": 2},
    "Automaton.widened": lambda _: {"self": rule(), "num_categories": 4},
    "Automaton.accepts": lambda _: {"self": rule(), "x": rows()},
    "Automaton.run": lambda _: {"self": rule(), "x": rows()},
    "Automaton.circuit": lambda _: {"self": rule(), "length": 2},
    "Automaton.live": lambda _: {"self": rule(), "length": 2},
    "Automaton.log_count": lambda _: {"self": rule(), "length": 2},
    "Automaton.sample": lambda _: {"self": rule(), "n": 2, "length": 2, "generator": seeded()},
    "CNF": lambda _: {"clauses": [(1, -2)], "num_variables": 2},
    "Evidence": lambda _: soft(),
    "Parameter": lambda _: {"value": torch.zeros(2)},
    "Parameter.from_probs": lambda _: {"probs": [0.5, 0.5]},
    "InputLayer": lambda _: {"variable": 0, "family": pf.Categorical(V), "units": 2,
                             "parameters": {"logits": logits(V, 2)}},
    "InputLayer.random": lambda _: {"variable": 0, "family": pf.Categorical(V), "units": 2,
                                    "generator": seeded()},
    "SumLayer": lambda _: {"inputs": layers()[:1], "weight": logits(1, 2)},
    "SumLayer.random": lambda _: {"inputs": layers()[:1], "units": 1, "generator": seeded()},
    "ProductLayer": lambda _: {"inputs": layers(), "kind": "kronecker"},
    "Circuit": lambda _: {"root": chain().root},
    "Region": lambda _: {"variables": [0, 1]},
    "Partition": lambda _: {"region": pf.Region([0, 1]), "parts": (pf.Region([0]), pf.Region([1]))},
    "RegionGraph": lambda _: {"root": region_graph().root, "partitions": region_graph().partitions},
    "Bernoulli": lambda _: {},
    "Binomial": lambda _: {"total_count": 3},
    "Categorical": lambda _: {"num_categories": 3},
    "DiscretizedLogistic": lambda _: {"num_categories": 3, "min_scale": 0.1},
    "Exponential": lambda _: {"min_mean": 0.1},
    "Gaussian": lambda _: {"min_std": 0.1},
    "Histogram": lambda _: {"edges": [0.0, 1.0]},
    "Indicator": lambda _: {"values": [0, 1], "num_categories": 2},
    "Inflated": lambda _: {"density": pf.Gaussian(), "at": 1.0},
    "LogNormal": lambda _: {"min_std": 0.1},
    "Poisson": lambda _: {"min_rate": 0.1},
    "ConditionalCircuit": lambda _: {"model": model(), "features": 2, "hidden": (4,), "rank": 1,
                                     "per_row": model().parameter_shapes},
    "compile": lambda _: {"circuit": chain(), "device": "cpu", "dtype": torch.float64,
                          "memory": 1 << 20,
                          "soft_dtype": torch.bfloat16, "machine": pf.Machine()},
    "Machine": lambda _: {"strip": 4096, "sheets": 2, "edges": 1 << 24},
    "add_gates": lambda _: {"circuit": chain(), "gates": 2, "noise": 0.1, "generator": seeded()},
    "expose_latents": of_one,
    "initialize": lambda _: {"circuit": chain(), "data": rows(), "generator": seeded(),
                             "weights": torch.ones(4)},
    "build_circuit": lambda _: {"region_graph": region_graph(), "inputs": pf.Categorical(V),
                                "units": 2, "layer": "cp", "generator": seeded()},
    "hmm": lambda _: {"length": D, "states": 2, "inputs": pf.Categorical(V),
                      "generator": seeded(), "initial": torch.ones(2) / 2,
                      "transition": torch.ones(2, 2) / 2, "emission": torch.ones(2, V) / V},
    "naive_bayes": lambda _: {"inputs": [pf.Categorical(V)], "units": 2, "generator": seeded()},
    "chow_liu": lambda _: {"data": rows(), "alpha": 1.0, "weights": torch.ones(4)},
    "hclt": lambda _: {"data": rows(), "units": 2, "inputs": pf.Categorical(V),
                       "trees": 1, "generator": seeded(), "weights": torch.ones(4)},
    "mixture_of_trees": lambda _: {"data": rows(), "components": 2, "alpha": 1.0,
                                   "generator": seeded()},
    "learn_spn": lambda _: {"data": rows(), "inputs": pf.Categorical(V), "min_rows": 2,
                            "significance": 0.1, "clusters": 2, "clustering": "em",
                            "pseudocount": 1.0, "generator": seeded()},
    "stationary": lambda _: {"circuit": chain()},
    "unroll": lambda _: {"circuit": chain(), "length": 5},
    "untie": lambda _: {"circuit": chain()},
    "condition": lambda _: {"circuit": chain(), "values": {0: 1}},
    "marginalize": lambda _: {"circuit": chain(), "keep": [0, 2]},
    "restrict": lambda _: {"circuit": chain(), "allowed": {0: [1]}},
    "mixture": lambda _: {"circuits": [chain(), chain()], "weights": [0.5, 0.5]},
    "multiply": lambda _: {"p": chain(), "q": chain()},
    "power": lambda _: {"circuit": tree(), "exponent": 0.5},
    "from_one_hot": lambda _: {"circuit": bits(), "groups": [[0, 1]]},
    "compile_cnf": lambda _: {"cnf": pf.CNF([(1, 2)]), "log_weights": torch.zeros(2, 2)},
    "model_count": lambda _: {"cnf": pf.CNF([(1, 2)])},
    "entropy": of_one,
    "entropy_lower_bound": lambda _: {"model": chain()},
    "entropy_upper_bound": lambda _: {"model": chain()},
    "entropy_estimate": lambda _: {"model": chain(), "n": 3, "generator": seeded()},
    "expectation_estimate": lambda _: {"model": chain(), "function": score, "n": 3,
                                       "generator": seeded()},
    "mutual_information_estimate": lambda _: {"model": chain(), "a": 0, "b": [1], "n": 3,
                                              "generator": seeded()},
    **{name: (lambda _: {"p": chain(), "q": chain(), "n": 3, "generator": seeded()})
       for name in ("cross_entropy_estimate", "kl_estimate")},
    **{name: of_two for name in ("cross_entropy", "kl_divergence", "cauchy_schwarz_divergence",
                                 "inner_product", "log_inner_product")},
    "renyi_entropy": lambda _: {"circuit": tree(), "order": 0.5},
    "renyi_divergence": lambda _: {**of_two(_), "order": 0.5},
    **{name: (lambda _: {"model": chain(), "evidence": nothing()})
       for name in ("mpe_lower_bound", "mpe_upper_bound")},
    **{name: (lambda _: {"model": chain(), "query": [0], "evidence": nothing()})
       for name in ("map_lower_bound", "map_upper_bound")},
    "marginal_map": lambda _: {"circuit": tree(), "query": range(D), "evidence": nothing()},
    "state_posteriors": lambda _: {"circuit": chain(), "evidence": nothing()},
    "viterbi": lambda _: {"circuit": chain(), "evidence": nothing(), "lengths": torch.tensor([2])},
    "moment": lambda _: {"circuit": chain(), "powers": {0: 2}},
    "covariance": of_one,
    "mutual_information": lambda _: {"circuit": chain(), "a": 0, "b": [1]},
    "pairwise_mutual_information": of_one,
    **{name: of_one for name in ("is_deterministic", "prove_deterministic",
                                 "prove_structured_decomposable")},
    "prove_omni_compatible": lambda _: {"circuit": pf.naive_bayes([pf.Bernoulli()] * 2, 1)},
    "prove_compatible": lambda _: {"p": chain(), "q": chain()},
    "reference_log_prob": lambda _: {"circuit": chain(), "evidence": rows(), "parameters": {}},
    "fit": lambda _: {"model": model(), "train": rows(), "learner": pf.EM(), "epochs": 1,
                      "batch_size": 2, "validation": rows(), "patience": 1,
                      "weights": torch.ones(4), "validation_weights": torch.ones(4),
                      "impossible": "skip", "generator": seeded(), "progress": False},
    "grow": lambda _: {"circuit": chain(), "copies": 2, "noise": 0.1, "generator": seeded()},
    "prune": lambda _: {"model": model(), "data": rows(), "keep": 0.5},
    "save": lambda folder: {"model": model(), "path": folder / "model", "dtype": torch.bfloat16,
                            "texts": {"of": "mine"}, "tensors": {"mine": torch.ones(1)}},
    "load": lambda folder: {"path": written(folder / "model", lambda p: pf.save(model(), p)),
                            "device": "cpu", "dtype": torch.float64, "memory": 1 << 20,
                            "soft_dtype": torch.bfloat16, "machine": pf.Machine()},
    "write_psdd": lambda folder: {"circuit": psdd(), "path": folder / "psdd"},
    "read_psdd": lambda folder: {
        "path": written(folder / "psdd", lambda p: pf.write_psdd(psdd(), p))},
    "read_nnf": lambda folder: {
        "path": written(folder / "nnf", lambda p: pf.replace_file(p, [b"nnf 1 0 2\nA 0\n"])),
        "num_variables": 3},
    "read_sdd": lambda folder: {
        "path": written(folder / "sdd", lambda p: pf.replace_file(p, [b"sdd 1\nT 0\n"])),
        "vtree": written(folder / "vtree", lambda p: pf.replace_file(p, [b"vtree 1\nL 0 1\n"]))},
    "read_uai": lambda folder: {
        "path": written(folder / "uai", lambda p: pf.replace_file(p, [b"MARKOV 1 2 0\n"]))},
    "read_juice": lambda folder: {
        "path": written(folder / "jpc", keep_juice)},
    "write_dimacs": lambda folder: {"cnf": pf.CNF([(1, 2)]), "path": folder / "cnf"},
    "read_dimacs": lambda folder: {
        "path": written(folder / "cnf", lambda p: pf.write_dimacs(pf.CNF([(1, 2)]), p))},
    **{f"CompiledCircuit.{name}": (lambda _: {"self": model(), "evidence": nothing()})
       for name in ("conditionals", "log_prob", "mean", "mpe")},
    "CompiledCircuit.next_log_probs": lambda _: {"self": model(), "evidence": nothing(),
                                                 "variables": [0]},
    "CompiledCircuit.evidence": lambda _: {"self": model(), "given": nothing()},
    "CompiledCircuit.marginals": lambda _: {"self": model(), "evidence": nothing(),
                                            "categories": torch.zeros(1, 1, 1).long(),
                                            "variables": [0]},
    **{f"CompiledCircuit.{name}": (lambda _: {"self": model(), "n": 2, "evidence": nothing(),
                                              "generator": seeded(), "temperature": 0.5})
       for name in ("sample", "sample_with_marginals")},
    "CompiledCircuit.time_steps": lambda _: {"self": model(), "evidence": nothing(), "repeats": 1},
    **{f"{name}.diagram": (lambda _, one=one: {"self": one(), "names": ["a", "b", "c"], "most": 9})
       for name, one in (("Circuit", chain), ("CompiledCircuit", model),
                         ("RegionGraph", region_graph))},
    "plot.graph": lambda _: {"of": chain(), "names": ["a", "b", "c"], "most": 9, "axes": axes()},
    "plot.svg": lambda _: {"of": chain(), "names": ["a", "b", "c"], "most": 9},
    "plot.marginals": lambda _: {"log_marginals": torch.zeros(1, D, V), "axes": axes(),
                                 "evidence": nothing(), "names": ["a", "b", "c"], "rows": ["one"]},
    "plot.dependence": lambda _: {"information": torch.zeros(D, D), "names": ["a", "b", "c"],
                                  "axes": axes()},
    "plot.images": lambda _: {"values": torch.zeros(2, 4, 6), "shape": (2, 3), "axes": axes(),
                              "given": torch.zeros(4, 6), "labels": ["a", "b", "c"],
                              "limits": (0, 1)},
    "plot.training": lambda _: {"result": pf.FitResult([-1.0], [-1.0], 0), "axes": axes()},
    "plot.gap": lambda _: {"table": {"a": [1.0]}, "ratios": [0.5], "spread": {"a": [0.1]},
                           "references": ["a"], "axes": axes()},
    "plot.plan": lambda _: {"times": model().time_steps(rows(), repeats=1), "axes": axes()},
    "CompiledCircuit.given": lambda _: {"self": model(), "rule": rule()},
    **{f"Given.{name}": lambda _: {"self": model().given(rule()), "evidence": nothing()}
       for name in ("log_mass", "log_prob", "marginals", "mean", "mpe")},
    "Given.sample": lambda _: {"self": model().given(rule()), "n": 2, "evidence": nothing(),
                               "generator": seeded(), "temperature": 1.0},
    "CompiledCircuit.filter": lambda _: {"self": model(), "rows": 2},
    "Filter.observe": lambda _: {"self": model().filter(4), "x": torch.tensor([0, 1, 2, 0])},
    "Filter.next_log_probs": lambda _: {"self": model().filter(2), "emission": 0},
    "CompiledCircuit.project": lambda _: {"self": model(), "evidence": nothing(), "sweeps": 1,
                                          "log_marginals": torch.zeros(1, D, V),
                                          "tolerance": 0.1},
}  # fmt: skip

WITHOUT = {  # protocols, what others return, and names of errors
    "CheckedEvidence", "Compatible", "Conditioned", "Container", "Deterministic", "Draws",
    "Estimate", "Examples", "FitInterrupted",
    "FitResult", "Learner", "MAP", "MPE", "ModelCount", "Network", "OmniCompatible", "Potentials",
    "ProjectedEvidence", "Properties", "Run", "StructuredDecomposable", "Team", "Viterbi",
    "read_bytes", "replace_file",
    "DensityFamily", "ExponentialFamily", "FiniteFamily", "InputFamily",  # to derive from
    "Decomposable", "Smooth",
    "register_family",  # what it is given stays: tests/test_own_family.py
}  # fmt: skip

FOR_ROOMS = {  # what other rooms describe and draw by
    "plot.axes_of", "plot.by_depth", "plot.counted", "plot.names_of", "plot.scope_text",
    "plot.span", "plot.titled",
}  # fmt: skip

ANOTHER = {"Evidence": lambda **given: model().log_prob(pf.Evidence(**given))}  # asked when used

OTHERS: list[Any] = [
    None, "word", 1.5, -1, float("nan"), [[1.0]], ["a"], object(), 1 + 2j, {}, {"a": 1}, {7: 7},
]  # fmt: skip
FREE = {"progress", "path", "vtree", "self", "schema"}  # truth, files, and {}: any JSON, a minute


def wrong(right: Any) -> Iterator[Any]:
    """Everything that could stand there by mistake."""
    yield from OTHERS
    yield from (model(), pf.structure.chain(D), torch.zeros(2), np.zeros((2, 2)))
    if not isinstance(right, int | float):
        yield 3
    if isinstance(right, pf.Circuit):
        yield from (right.root, [right], pf.hmm(1, 1, pf.Gaussian()))
    else:
        yield chain()
    if isinstance(right, Tensor):
        yield from (right[0], right.unsqueeze(0), right[:1], right[..., :-1], right[..., :0])
        yield from (right.to(torch.complex64), right.to("meta"), right.long() - 9, right.bool())
        yield from (right.float() + 0.5, right.float() * torch.nan, right.tolist())


def function(name: str) -> Callable[..., Any]:
    if name in ANOTHER:
        return ANOTHER[name]
    found: Any = pf
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def test_the_table_is_complete() -> None:
    public = {name for name in pf.__all__ if callable(getattr(pf, name))}
    errors = {name for name in public if isinstance(getattr(pf, name), type)
              and issubclass(getattr(pf, name), Exception)}  # fmt: skip
    told = {name.split(".")[0] for name in CALLS} - {"plot"}
    assert public - errors == told | WITHOUT
    pictures = {f"plot.{n}" for n in pf.plot.__all__ if n.islower()} - FOR_ROOMS
    assert pictures == {name for name in CALLS if name.startswith("plot.")}


@pytest.mark.parametrize("name", CALLS)
def test_truth_values_are_no_whole_numbers(name: str, tmp_path: Path) -> None:
    right = CALLS[name](tmp_path)
    for argument in (key for key, value in right.items() if type(value) is int):
        with pytest.raises(pf.PcflowError):
            function(name)(**(CALLS[name](tmp_path / argument) | {argument: True}))


@pytest.mark.parametrize("name", CALLS)
def test_right_arguments_are_taken(name: str, tmp_path: Path) -> None:
    function(name)(**CALLS[name](tmp_path))


@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments_are_refused_in_words(name: str, tmp_path: Path) -> None:
    """By an error of ours, or a system's for files; or they are understood all the same."""
    complaints = []
    right = CALLS[name](tmp_path)
    for argument in right.keys() - FREE:
        for bad in wrong(right[argument]):
            try:
                function(name)(**(CALLS[name](tmp_path) | {argument: bad}))
            except (pf.PcflowError, OSError):
                pass
            except Exception as error:
                complaints.append(f"{argument}={bad!r}: {type(error).__name__}: {error}")
    assert not complaints, "\n".join(complaints)


@pytest.mark.skipif(find_spec("outlines_core") is None, reason="needs outlines-core")
@pytest.mark.parametrize("schema", [3, None, [1], "", "{", object(), {"type": object()}])
def test_schemas_that_are_none_are_refused(schema: Any) -> None:
    kind = pf.PatternError if isinstance(schema, str | dict) else pf.TypeMismatch
    with pytest.raises(kind):
        pf.Automaton.json_schema(schema, ["", "true", "false"], 0)


@pytest.mark.parametrize("name", CALLS)
def test_a_seed_is_no_generator(name: str, tmp_path: Path) -> None:
    given = CALLS[name](tmp_path)
    if "generator" in given:
        with pytest.raises(
            pf.TypeMismatch, match=r"generator must be a torch\.Generator .* a seed"
        ):
            function(name)(**(given | {"generator": 0}))


class Elsewhere(torch.Generator):
    """A generator that says it is on a device where nothing here is."""

    device = torch.device("meta")  # type: ignore[assignment]


@pytest.mark.parametrize(
    "draw",
    [
        lambda generator: model().sample(2, generator=generator),
        lambda generator: model().sample_with_marginals(2, nothing(), generator),
        lambda generator: pf.hmm(D, 2, pf.Categorical(V), generator=generator),
        lambda generator: pf.entropy_estimate(model(), 10, generator),
    ],
)
def test_a_generator_on_another_device_is_refused(draw: Callable[[torch.Generator], Any]) -> None:
    with pytest.raises(pf.SettingError, match=r"generator must be on \w+.*, got 'one on meta'"):
        draw(Elsewhere())


def test_variables_are_whole_numbers_of_numpy_too() -> None:
    zero, two = np.int64(0), np.int64(2)
    assert pf.marginalize(chain(), [zero, two]).num_variables == 2
    assert pf.condition(chain(), {zero: 1}).num_variables == 2
    assert pf.restrict(chain(), {two: [np.int64(1)]}).num_variables == D
    assert pf.marginal_map(tree(), [zero, 1, two], nothing()).values.shape == (1, D)


@pytest.mark.parametrize(
    ("name", "more"),
    [("entropy", ()), ("covariance", ()), ("power", (0.5,)), ("marginalize", ([0, 1],)),
     ("moment", ({0: 1},)), ("grow", ()), ("expose_latents", ())],
)  # fmt: skip
def test_queries_take_circuits_and_models(name: str, more: tuple[Any, ...]) -> None:
    function(name)(tree(), *more)
    function(name)(pf.compile(tree()), *more)
