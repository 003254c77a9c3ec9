"""Pictures say what the numbers say: boxes, lines, bars and colours are read off and compared."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

import pcflow as pf
from pcflow.io import digest
from pcflow.plot.layout import lay_out
from pcflow.plot.numbers import HIGH
from pcflow.plot.style import BLUE, BOXES, GREY, HIDDEN, INK, LINES, SHADES
from pcflow.testing import circuits, mixed_families, region_graphs

SVG = "{http://www.w3.org/2000/svg}"
NAMES = st.none() | st.just([f"<column {n} & {n * 'more'}>" for n in range(6)])


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    """No figure stays, and no setting of matplotlib was changed."""
    before = dict(mpl.rcParams)
    yield
    pyplot.close("all")
    assert dict(mpl.rcParams) == before


def light(color: object) -> float:
    """Relative luminance, from black, 0, to white, 1."""
    parts = np.array(to_rgb(color))  # type: ignore[arg-type]
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def edges_of(drawn: pf.Circuit | pf.RegionGraph) -> int:
    if isinstance(drawn, pf.Circuit):
        return sum(len(layer.inputs) for layer in drawn.layers)
    return sum(1 + len(partition.parts) for partition in drawn.partitions)


def nodes_of(drawn: pf.Circuit | pf.RegionGraph) -> int:
    if isinstance(drawn, pf.Circuit):
        return len(drawn.layers)
    return len(drawn.regions) + len(drawn.partitions)


DRAWN = circuits(families=mixed_families()) | region_graphs()


@given(DRAWN, NAMES, st.sampled_from([0, 1000]))
def test_no_boxes_overlap_and_lines_lead_downwards(
    drawn: pf.Circuit | pf.RegionGraph, names: list[str] | None, most: int
) -> None:
    count = drawn.num_variables
    diagram = drawn.diagram(None if names is None else names[:count], most)
    layout = lay_out(diagram)
    for a, b in combinations(layout.boxes, 2):
        beside = abs(a.x - b.x) >= (a.width + b.width) / 2 - 1e-6
        assert beside or abs(a.y - b.y) >= (a.height + b.height) / 2
    for box in layout.boxes:
        assert box.width / 2 <= box.x <= layout.width - box.width / 2
        assert box.height / 2 <= box.y <= layout.height - box.height / 2
    for edge, curve in zip(diagram.edges, layout.curves, strict=True):
        assert diagram.nodes[edge.above].row < diagram.nodes[edge.below].row
        assert curve.start[1] < curve.end[1]
    if most:
        assert (len(diagram.nodes), len(diagram.edges)) == (nodes_of(drawn), edges_of(drawn))
    else:
        assert len(diagram.nodes) <= nodes_of(drawn)
        assert counts(diagram) == nodes_of(drawn)


def counts(diagram: pf.plot.Diagram) -> int:
    """What the boxes for several nodes say they stand for."""
    lines = [line.lstrip("+\N{MULTIPLICATION SIGN}\N{CIRCLED TIMES} ").split()
             for node in diagram.nodes for line in node.lines]  # fmt: skip
    nouns = ("input", "sum", "product", "region", "partition")
    return sum(int(line[0]) for line in lines if len(line) > 1 and line[1].rstrip("s") in nouns)


@given(DRAWN, NAMES)
@settings(max_examples=of_fifty(20))
def test_an_svg_has_a_box_for_every_layer(
    drawn: pf.Circuit | pf.RegionGraph, names: list[str] | None
) -> None:
    told = None if names is None else names[: drawn.num_variables]
    root = ElementTree.fromstring(pf.plot.svg(drawn, told, most=1000))
    boxes = root.findall(f"{SVG}g[@class='node']")
    assert len(boxes) == nodes_of(drawn)
    assert len(root.findall(f"{SVG}path[@class='edge']")) == edges_of(drawn)
    written = {text.text for text in root.iter(f"{SVG}text")}
    if told is None and isinstance(drawn, pf.Circuit):
        assert {f"x{v}" for v in range(drawn.num_variables)} <= written
    assert pf.plot.svg(drawn) == drawn._repr_svg_()


WORDS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=4)
RULES = st.builds(pf.Automaton.options, WORDS, st.just(5))
RULES |= st.builds(pf.Automaton.phrases, WORDS, st.just(5))
RULES |= RULES.map(lambda rule: rule.padded(4)) | RULES.map(lambda rule: ~rule)


@given(RULES, st.sampled_from([0, 1000]))
def test_an_automaton_has_a_box_for_every_state_and_an_arrow_for_every_way(
    rule: pf.Automaton, most: int
) -> None:
    named = list(zip(rule.classes.tolist(), "vwxyz", strict=True))
    classes = rule.to_networkx().edges(data="classes")
    ways = {(a, b): "".join(name for c, name in named if c in some) for a, b, some in classes}
    diagram = rule.diagram("vwxyz", most)
    layout = lay_out(diagram)
    for a, b in combinations(layout.boxes, 2):
        beside = abs(a.x - b.x) >= (a.width + b.width) / 2 - 1e-6
        assert beside or abs(a.y - b.y) >= (a.height + b.height) / 2
    for curve in layout.curves:
        assert curve.head[0] == curve.end
        assert all(0 <= x <= layout.width and 0 <= y <= layout.height for x, y in curve.inner)
    if most:
        labels = {(a, b): label.replace(" ", "") for a, b, label in diagram.edges}
        assert labels == {pair: f"{of[:4]}{'...' * (len(of) > 4)}" for pair, of in ways.items()}
        ends = ["end" in " ".join(node.lines[1:]) for node in diagram.nodes]
        assert ends == rule.accept.tolist() == [node.kind == "end" for node in diagram.nodes]
        forward = {b: diagram.nodes[a].row + 1 for a, b in reversed(ways) if a != b}
        assert all(diagram.nodes[b].row <= row for b, row in forward.items())
    else:
        counts = [int(node.lines[0].split()[0]) for node in diagram.nodes]
        assert sum(counts) == len(rule.accept)
        ends = [int(node.lines[1].split()[0]) for node in diagram.nodes if len(node.lines) > 1]
        assert sum(ends) == int(rule.accept.sum())


def test_notebooks_show_an_automaton() -> None:
    rule = pf.Automaton.options([[0, 1, 2], [0, 2]]).padded(3)
    root = ElementTree.fromstring(rule._repr_svg_())
    kinds = "g[@class='node']", "path[@class='edge']", "polygon[@class='head']", "text"
    assert [len(root.findall(f"{SVG}{kind}")) for kind in kinds] == [4, 5, 5, 5]
    axes = rule.draw("abcd")
    gids = [patch.get_gid() for patch in axes.patches]
    assert (gids.count("node"), gids.count("edge"), gids.count("head")) == (4, 5, 5)
    assert {"a", "b", "c", "d", "0", "start", "end"} == {t.get_text() for t in axes.texts} - set(
        "123"
    )
    large = pf.Automaton.lengths(200, 300, 3)
    assert len(large.diagram().nodes) == 12 and len(large._repr_svg_()) < 10_000


def test_boxes_say_kind_scope_and_units() -> None:
    a, b = (pf.InputLayer.random(v, pf.Gaussian(), units=2) for v in (0, 1))
    pairs = pf.ProductLayer([a, b], "kronecker")
    circuit = pf.Circuit(pf.SumLayer.random([pairs]))
    nodes = circuit.diagram(["age", "size"]).nodes
    assert [(node.kind, node.row, node.lines) for node in nodes] == [
        ("input", 2, ("age", "Gaussian", "2 units")),
        ("input", 2, ("size", "Gaussian", "2 units")),
        ("product", 1, ("\N{CIRCLED TIMES}  4 units", "age, size")),
        ("sum", 0, ("+  1 unit", "age, size")),
    ]  # fmt: skip
    graph = pf.structure.chain(3)
    told = [(node.kind, node.lines) for node in graph.diagram().nodes]
    assert told.count(("partition", ())) == 2
    assert ("region", ("x0-x2",)) in told and ("region", ("x1, x2",)) in told


def test_a_picture_on_axes_is_that_of_the_svg() -> None:
    circuit = pf.hmm(3, states=2, inputs=pf.Bernoulli())
    axes = pf.plot.graph(circuit, ["a", "b", "c"])
    gids = [patch.get_gid() for patch in axes.patches]
    assert (gids.count("node"), gids.count("edge")) == (8, 7)
    root = ElementTree.fromstring(pf.plot.svg(circuit, ["a", "b", "c"]))
    assert sorted(t.get_text() for t in axes.texts) == sorted(
        str(t.text) for t in root.iter(f"{SVG}text")
    )
    axes.figure.canvas.draw()
    boxes = [p.get_window_extent() for p in axes.patches if p.get_gid() == "node"]
    for text in axes.texts:  # what is written stays in its box
        inner = text.get_window_extent()
        assert any(
            box.x0 <= inner.x0 and inner.x1 <= box.x1 and box.y0 <= inner.y0 and inner.y1 <= box.y1
            for box in boxes
        ), text.get_text()


def test_text_shrinks_with_the_axes() -> None:
    figure, halves = pyplot.subplots(1, 2, figsize=(4, 3))
    graph = pf.structure.quad_tree((4, 4))
    assert pf.plot.graph(graph, axes=halves[0]) is halves[0]
    assert not halves[1].texts and pyplot.get_fignums() == [figure.number]
    assert max(text.get_fontsize() for text in halves[0].texts) < 5
    assert max(text.get_fontsize() for text in pf.plot.graph(graph).texts) == pytest.approx(9)


def test_large_ones_are_drawn_by_level() -> None:
    graph = pf.structure.quad_tree((28, 28))
    diagram = graph.diagram()
    assert len(diagram.nodes) < 15
    assert ("16 regions of 49 variables",) in [node.lines for node in diagram.nodes]
    assert counts(pf.build_circuit(graph, pf.Bernoulli(), 2).diagram()) == 2218
    long = pf.hmm(300, states=2, inputs=pf.Bernoulli())
    assert len(long.diagram().nodes) <= 12 and counts(long.diagram()) == len(long.layers)
    assert long.diagram().title == "Circuit: 300 variables, 899 layers, 8 parameters"


@pytest.mark.parametrize("place", range(0, 40, 3))
def test_whatever_stands_for_several_levels_has_a_reader(place: int) -> None:
    layer: Any = pf.InputLayer.random(0, pf.Bernoulli())
    for level in range(40):
        other = pf.InputLayer.random(1, pf.Bernoulli())
        layer = pf.SumLayer.random([pf.ProductLayer([other, layer]) if level == place else layer])
    diagram = pf.Circuit(layer).diagram()
    read = {edge.below for edge in diagram.edges}
    assert {n for n, node in enumerate(diagram.nodes) if node.row} == read
    assert counts(diagram) == 43


def test_long_names_are_cut() -> None:
    circuit = pf.naive_bayes([pf.Bernoulli()] * 2, units=1)
    long = ["the height of the oldest child", "age"]
    lines = {node.lines[0] for node in circuit.diagram(long).nodes}
    assert {"the height of the...", "age"} <= lines
    assert "&lt;&amp;" in pf.plot.svg(circuit, ["<&", "age"])


def test_names_are_no_formulas() -> None:
    circuit = pf.naive_bayes([pf.Bernoulli()] * 2, units=1)
    axes = pf.plot.graph(circuit, ["$x^$", "a_$"])
    axes.figure.canvas.draw()
    assert "$x^$" in {text.get_text() for text in axes.texts}


def test_models_are_drawn_as_their_circuits() -> None:
    circuit = pf.hmm(3, states=2, inputs=pf.Bernoulli())
    assert pf.plot.svg(pf.compile(circuit)) == pf.plot.svg(circuit)
    with pytest.raises(pf.TypeMismatch, match="of must be a Circuit, a CompiledCircuit, a Region"):
        pf.plot.graph(pf.Circuit)  # type: ignore[arg-type]


def test_nodes_of_networkx_have_attributes() -> None:
    circuit = pf.build_circuit(pf.structure.chain(3), pf.Bernoulli(), 2)
    graph = circuit.to_networkx()
    for layer in circuit.layers:
        about = graph.nodes[layer]
        assert about["scope"] == circuit.scope(layer) and about["units"] == layer.units
        assert about["kind"] in type(layer).__name__.lower()
    regions = pf.structure.chain(3).to_networkx()
    kinds = [about["kind"] for _, about in regions.nodes(data=True)]
    assert (kinds.count("region"), kinds.count("partition")) == (5, 2)
    assert all(
        about["scope"] == getattr(node, "region", node).variables
        for node, about in regions.nodes(data=True)
    )


@given(circuits(max_variables=3, families=mixed_families()))
def test_the_repr_of_a_small_circuit_builds_it_again(circuit: pf.Circuit) -> None:
    told = repr(circuit)
    if told == str(circuit):
        assert len(circuit.layers) > 32 or sum(p.value.numel() for p in circuit.parameters) > 100
        return
    again = eval(told, {"torch": torch} | vars(pf))
    assert digest(again) == digest(circuit) and "\n" not in told
    for a, b in zip(again.parameters, circuit.parameters, strict=True):
        assert torch.equal(a.value, b.value) and a.value.dtype == b.value.dtype


def test_reprs_of_large_ones_are_short() -> None:
    graph = pf.structure.quad_tree((28, 28))
    assert repr(graph) == "RegionGraph(784 variables, 325 partitions)"
    circuit = pf.build_circuit(graph, pf.Bernoulli(), 2)
    assert repr(circuit) == str(circuit) == "Circuit(784 variables, 2,218 layers, 6,002 parameters)"
    assert "-torch.inf" in repr(pf.Circuit(pf.InputLayer(0, pf.Categorical(2), 1, {
        "logits": pf.Parameter.from_probs([[1.0], [0.0]])})))  # fmt: skip


def test_a_model_prints_in_a_few_lines() -> None:
    inputs = [pf.Categorical(3), pf.Categorical(3), pf.Gaussian()]
    model = pf.compile(pf.naive_bayes(inputs, units=2), dtype=torch.float64)
    assert str(model).splitlines() == [
        "CompiledCircuit(",
        "  3 variables: 2 of 3 values, 1 without a finite range",
        "  5 layers: 1 sum, 1 product, 3 inputs (Categorical, Gaussian)",
        "  18 parameters in 4 banks",
        "  float64 on cpu",
        ")",
    ]
    assert str(torch.nn.Sequential(model)).count("CompiledCircuit") == 1


@given(circuits(max_variables=4))
@settings(max_examples=of_fifty(20))
def test_a_summary_adds_up(circuit: pf.Circuit) -> None:
    model = pf.compile(circuit)
    total = model.summary().total
    assert total.folds == len(circuit.layers)
    assert total.parameters == sum(p.value.numel() for p in circuit.parameters)
    assert total.bytes == model.memory.parameters
    assert total.bytes_per_row == 4 * sum(layer.units for layer in circuit.layers)
    assert len(str(model.summary()).splitlines()) == len(model.summary().rows) + 8


def test_a_summary_of_levels() -> None:
    model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(5)))
    rows = model.summary().rows
    assert rows[0][1:] == ("Categorical", 3, 2, 10, 40, 24)
    assert sum(row.parameters for row in rows[1:]) == 4 + 2  # tied transitions once


@given(circuits(max_variables=4), st.integers(1, 5))
@settings(max_examples=of_fifty(15))
def test_steps_are_timed_and_change_nothing(circuit: pf.Circuit, rows: int) -> None:
    model = pf.compile(circuit)
    x = torch.full((rows, circuit.num_variables), torch.nan)
    before = model.log_prob(x)
    times = model.time_steps(x, repeats=1)
    assert (len(times.steps), times.rows) == (len(model.plan.steps), rows)
    assert all(step.seconds > 0 for step in times.steps)
    assert torch.equal(model.log_prob(x), before)
    axes = pf.plot.plan(times)
    widths = [patch.get_width() for patch in axes.patches]
    assert sum(widths) == pytest.approx(1e3 * times.seconds)
    assert len(widths) == min(len(times.steps), 25)
    pyplot.close("all")


def test_bars_of_steps_have_the_colour_of_their_kind() -> None:
    model = pf.compile(pf.hmm(30, states=2, inputs=pf.Bernoulli()))
    times = model.time_steps(torch.zeros(3, 30))
    axes = pf.plot.plan(times)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == f"{len(times.steps) - 24} others"
    for label, bar in zip(labels[1:], axes.patches[1:], strict=True):
        step = times.steps[int(label.split()[0])]
        assert step.label in label and bar.get_facecolor()[:3] == to_rgb(BOXES[step.kind].edge)
        assert bar.get_width() == pytest.approx(1e3 * step.seconds)
    least = min(bar.get_width() for bar in axes.patches[1:])
    assert sum(1e3 * step.seconds > least + 1e-12 for step in times.steps) <= 23
    assert axes.get_xlabel() == "milliseconds for 3 rows"
    assert "more steps" in str(times)


def test_heights_are_probabilities() -> None:
    model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(4)), dtype=torch.float64)
    x = torch.tensor([[1.0, torch.nan, torch.nan], [torch.nan] * 3])
    log_marginals = model.marginals(x)
    axes = pf.plot.marginals(log_marginals, x, names=["a", "b", "c"], rows=["one", "none"])
    bars = {
        (round(bar.get_y()), int(bar.get_x() + 0.5 * bar.get_width() + 0.5), n % 4): bar
        for n, bar in enumerate(axes.patches)
    }
    for (y, variable, value), bar in bars.items():
        row = 1 - y
        assert bar.get_height() == pytest.approx(
            HIGH * float(log_marginals[row, variable, value].exp())
        )
        seen = (row, variable) == (0, 0)
        assert bar.get_facecolor()[:3] == to_rgb(GREY if seen else BLUE)
    assert len(bars) == 2 * 3 * 4
    assert [t.get_text() for t in axes.get_yticklabels()] == ["one", "none"]
    assert "grey where observed" in axes.get_title()
    hidden = pf.Evidence(x.nan_to_num(0.0), missing=x.isnan())
    again = pf.plot.marginals(log_marginals, hidden)
    assert [b.get_facecolor() for b in again.patches] == [b.get_facecolor() for b in axes.patches]
    assert len(pf.plot.marginals(log_marginals[0]).patches) == 12


def test_more_dependence_is_darker() -> None:
    circuit = pf.hmm(5, states=3, inputs=pf.Categorical(4))
    information = pf.pairwise_mutual_information(circuit)
    axes = pf.plot.dependence(information, ["a", "b", "c", "d", "e"])
    image = axes.images[0]
    shown = np.ma.filled(image.get_array(), np.nan)
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_array_equal(shown[off], information.numpy()[off])
    assert np.isnan(shown[~off]).all() and len(axes.texts) == 20
    assert axes.figure.axes[1].get_ylabel() == "mutual information (nats)"
    shades = [light(image.cmap(image.norm(value))[:3]) for value in np.sort(shown[off])]
    assert shades == sorted(shades, reverse=True) and shades[0] > 0.9 > 0.1 > shades[-1]
    assert not pf.plot.dependence(torch.rand(13, 13)).texts


def pixels(axes: Axes) -> Any:
    """What is shown; NaN, which is masked, as -1."""
    return np.ma.filled(axes.images[0].get_array(), -1.0)


def test_pixels_are_values() -> None:
    x = torch.arange(12.0).view(3, 4)
    x[1, 2] = torch.nan
    axes = pf.plot.images(x, (2, 2))
    mosaic = pixels(axes)
    assert mosaic.shape == (5, 5, 3)  # two by two, a line between
    np.testing.assert_allclose(mosaic[:2, :2, 0], x[0].view(2, 2) / 11)
    np.testing.assert_allclose(mosaic[1, 3], HIDDEN)
    assert (mosaic[3:, 3:] == 1).all() and (mosaic[2] == 1).all()  # no fourth image
    assert not axes.get_xticklabels()


def test_completions_stand_beside_what_was_given() -> None:
    x = torch.tensor([[0.0, 1.0, torch.nan], [4.0, torch.nan, torch.nan]])
    filled = torch.stack([x.nan_to_num(2.0), x.nan_to_num(3.0)])
    axes = pf.plot.images(filled, (1, 3), given=x)
    mosaic = pixels(axes)
    assert mosaic.shape == (3, 11, 3)
    np.testing.assert_allclose(mosaic[0, 2], HIDDEN)
    np.testing.assert_allclose(mosaic[2, 4:7, 0], [1.0, 0.5, 0.5])
    np.testing.assert_allclose(mosaic[2, 8:, 0], [1.0, 0.75, 0.75])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["given", "1", "2"]
    wide = pf.plot.images(filled, (1, 3), labels=["a", "b"], limits=(0, 8))
    np.testing.assert_allclose(pixels(wide)[2, 0], 0.5)
    assert pixels(pf.plot.images(torch.rand(4, 12), (2, 2, 3))).shape == (5, 5, 3)


def test_a_training_curve_has_the_numbers() -> None:
    result = pf.FitResult([-3.0, -2.0, -1.5], [-3.5, -2.2, -2.4], best_epoch=1)
    axes = result.plot()
    train, validation, best = axes.lines
    np.testing.assert_array_equal(train.get_data(), [[1, 2, 3], result.train])
    np.testing.assert_array_equal(validation.get_ydata(), result.validation)
    assert list(best.get_xdata()) == [2, 2] and best.get_label() == "best epoch, 2"
    assert "nats" in axes.get_ylabel()
    assert len(pf.plot.training(pf.FitResult([-1.0], best_epoch=0)).lines) == 2


def test_the_gap_has_a_line_for_every_method() -> None:
    table = {"all at once": [1.0, 3.0], "ours": [0.9, 1.5], "one by one": [0.8, 1.0]}
    spread = {name: [0.1, 0.2] for name in table}
    plain = ["all at once", "one by one"]
    axes = pf.plot.gap(table, [0.5, 1.0], spread, plain)
    lines = {line.get_label(): line for line in axes.lines if line.get_label() in table}
    for name, values in table.items():
        np.testing.assert_array_equal(lines[name].get_data(), [[0.5, 1.0], values])
    assert lines["ours"].get_color() == LINES[0].color and lines["ours"].get_marker() == "o"
    looks = {(lines[name].get_color(), lines[name].get_linestyle()) for name in plain}
    assert len(looks) == 2
    assert len(axes.collections) == 3  # the bars
    with pytest.raises(pf.SettingError, match="table must be 2 numbers for every method"):
        pf.plot.gap({"ours": [1.0]}, [0.5, 1.0])
    for setting in ("references", "spread"):
        given = {setting: {"our": [1.0]}}
        with pytest.raises(pf.SettingError, match=f"{setting} must be .*of the methods 'ours'"):
            pf.plot.gap({"ours": [1.0]}, [0.5], **given)


@pytest.mark.parametrize(
    "message, draw",
    [
        (r"log_marginals must be of shape", lambda: pf.plot.marginals(torch.zeros(3))),
        (r"log_marginals\[0, 1, 0\] must be a number, got nan",
         lambda: pf.plot.marginals([[[0.0], [torch.nan]]])),
        (r"log_marginals must be logarithms of .*, got 0.5", lambda: pf.plot.marginals([[[0.5]]])),
        (r"information\[0, 1\] must be a number, got nan",
         lambda: pf.plot.dependence([[0.0, torch.nan], [0.0, 0.0]])),
    ],
)  # fmt: skip
def test_what_is_no_number_is_named(message: str, draw) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(pf.SettingError, match=message):
        draw()


def test_colours_are_told_apart_without_colour() -> None:
    assert len({look.marker for look in LINES}) == len(LINES)
    for box in BOXES.values():  # contrast as WCAG 2.1 wants it for text
        assert (light(box.fill) + 0.05) / (light(INK) + 0.05) > 7
    assert light(mpl.colormaps[SHADES](1.0)[:3]) < 0.1 < max(HIDDEN) - min(HIDDEN)


@pytest.mark.parametrize("draw", [
    lambda axes: pf.plot.graph(pf.structure.chain(2), axes=axes),
    lambda axes: pf.plot.marginals(torch.zeros(1, 1, 1), axes=axes),
    lambda axes: pf.plot.dependence(torch.zeros(2, 2), axes=axes),
    lambda axes: pf.plot.images(torch.zeros(1, 4), (2, 2), axes=axes),
    lambda axes: pf.plot.training(pf.FitResult([-1.0], best_epoch=0), axes),
    lambda axes: pf.plot.gap({"a": [1.0]}, [1.0], axes=axes),
    lambda axes: pf.plot.plan(
        pf.compile(pf.hmm(2, 2, pf.Bernoulli())).time_steps(torch.zeros(1, 2), 1), axes),
    lambda axes: pf.Automaton.options([[0, 1]]).draw(axes=axes),
])  # fmt: skip
def test_axes_are_taken_and_returned(draw) -> None:  # type: ignore[no-untyped-def]
    _, axes = pyplot.subplots()
    assert draw(axes) is axes and len(pyplot.get_fignums()) == 1
    with pytest.raises(pf.TypeMismatch, match="axes must be matplotlib Axes"):
        draw(pyplot)
