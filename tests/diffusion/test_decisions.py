"""Typed decisions against enumeration: every coupling and circuit, slots, lists, formulas.

Legend: B batch, L positions, V tokens, S states, N combinations of answers.
"""

import copy
from collections.abc import Sequence
from itertools import product
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.testing import enumerate_weights
from pcflow_diffusion import (
    CharacterTokenizer,
    CircuitHead,
    Coupling,
    LogLinear,
    Modulation,
    Projection,
)
from pcflow_diffusion.errors import AnswerError, ShapeMismatch, TokenOutOfRange, TypeMismatch
from pcflow_diffusion.head import decisions

L, V = 5, 3
MASK = V
COUPLINGS: dict[str, Coupling] = {
    "product": LogLinear(),
    "log-linear": LogLinear(0.8, 0.4),
    "ratio": LogLinear(1.0, 1.0),
    "projection": Projection(),
}
CIRCUITS = {
    "chain": lambda: pf.hmm(L, 3, pf.Categorical(V)),
    "tree": lambda: pf.hclt(torch.randint(V, (20, L)), 3, pf.Categorical(V)),
    "graph": lambda: pf.build_circuit(
        pf.structure.random_binary_tree(L, replicas=2, seed=1), pf.Categorical(V), 2
    ),
}
SLOTS = ({"one": range(0, 2), "two": range(3, 5)}, {"two": range(1, 3), "one": range(3, 4)})
"""With a position between, that is masked in some rows; in both orders."""


class World:
    """A circuit, tokens with two holes of two and of one or two masks, and logits."""

    def __init__(self, seed: int, circuit: str = "chain", slots: int = 0, rows: int = 2) -> None:
        torch.manual_seed(seed)
        self.circuit = CIRCUITS[circuit]()
        self.model = pf.compile(self.circuit, DEVICE, torch.float64)
        self.slots = SLOTS[slots]
        self.masked = torch.rand(rows, L) < 0.5
        for span in self.slots.values():
            self.masked[:, span.start : span.stop] = True
        self.x = torch.randint(V, (rows, L)).masked_fill(self.masked, MASK).to(DEVICE)
        self.logits = torch.randn(rows, L, V, dtype=torch.float64).to(DEVICE)
        self.questions = {name: self.some(len(self.slots[name])) for name in ("one", "two")}

    def some(self, width: int) -> list[list[int]]:
        """At least one of all strings of a width."""
        every = [list(text) for text in product(range(V), repeat=width)]
        order = torch.randperm(len(every)).tolist()
        return [every[i] for i in order[: int(torch.randint(1, len(every) + 1, ()))]]

    def head(self, coupling: str = "projection", **settings: object) -> CircuitHead:
        return CircuitHead(self.model, MASK, COUPLINGS[coupling], **settings)  # type: ignore[arg-type]

    def table(self, head: CircuitHead, **how: object) -> Tensor:
        how = {"slots": self.slots, "joint": True} | how
        return head.probabilities(self.logits, self.x, self.questions, **how)  # type: ignore[call-overload]

    def enumerated(self, head: CircuitHead) -> Tensor:
        """The same by adding up all states of the coupled joint."""
        every = enumerate_weights(self.circuit, head.couple(self.logits, self.x))
        return self.shares(every.states, every.log_weight)

    def shares(self, states: Tensor, log_weight: Tensor) -> Tensor:
        """Those of the answers, of states [S, L] with weights [B, S]."""
        weight = log_weight.softmax(dim=-1)
        found = torch.zeros(len(self.x), *map(len, self.questions.values()), dtype=torch.float64)
        for (i, one), (j, two) in product(*map(enumerate, self.questions.values())):
            fits = torch.ones(len(states), dtype=torch.bool)
            for name, answer in (("one", one), ("two", two)):
                places = list(self.slots[name])
                fits &= (states[:, places] == torch.tensor(answer)).all(dim=-1)
            found[:, i, j] = weight[:, fits].sum(dim=-1)
        return (found / found.sum(dim=(1, 2), keepdim=True)).to(DEVICE)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


WORLDS = st.builds(
    World, st.integers(0, 10**6), st.sampled_from(sorted(CIRCUITS)), st.sampled_from([0, 1])
)


@given(WORLDS, st.sampled_from(sorted(COUPLINGS)))
@settings(max_examples=of_fifty(20), deadline=None)
def test_the_joint_table_equals_enumeration(world: World, coupling: str) -> None:
    head = world.head(coupling)
    table = world.table(head)
    close(table, world.enumerated(head))
    close(table.sum(dim=(1, 2)), torch.ones(2, dtype=torch.float64, device=DEVICE))


@given(WORLDS, st.sampled_from(sorted(COUPLINGS)))
@settings(max_examples=of_fifty(10), deadline=None)
def test_of_each_question_it_is_the_marginal_of_the_joint(world: World, coupling: str) -> None:
    head = world.head(coupling)
    apart, table = world.table(head, joint=False), world.table(head)
    assert list(apart) == ["one", "two"]
    close(apart["one"], table.sum(dim=2))
    close(apart["two"], table.sum(dim=1))


@given(WORLDS, st.sampled_from(sorted(COUPLINGS)), st.integers(0, 10**6))
@settings(max_examples=of_fifty(10), deadline=None)
def test_a_formula_conditions_the_joint(world: World, coupling: str, seed: int) -> None:
    head, sizes = world.head(coupling), [len(texts) for texts in world.questions.values()]
    may = torch.rand(sizes, generator=torch.Generator().manual_seed(seed)) < 0.5
    may.view(-1)[0] = True
    numbers = {n: {tuple(t): i for i, t in enumerate(ts)} for n, ts in world.questions.items()}

    def allowed(answer: dict[str, Sequence[int]]) -> bool:
        return bool(may[tuple(numbers[name][tuple(text)] for name, text in answer.items())])

    free = world.table(head) * may.to(DEVICE)
    close(world.table(head, allowed=allowed), free / free.sum(dim=(1, 2), keepdim=True))
    close(
        world.table(head, allowed=allowed, joint=False)["two"],
        world.table(head, allowed=allowed).sum(dim=1),
    )


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_independent_slots_are_the_product_of_what_the_backbone_says(coupling: str) -> None:
    world = World(3)
    world.circuit = pf.build_circuit(pf.structure.fully_factorized(L), pf.Categorical(V))
    world.model = pf.compile(world.circuit, DEVICE, torch.float64)
    head = world.head(coupling)
    log_q = head(world.logits, world.x).log_softmax(dim=-1)
    each = []
    for name, texts in world.questions.items():
        places = torch.tensor(world.slots[name], device=DEVICE)
        nats = torch.stack([log_q[:, places, text].sum(dim=-1) for text in texts], dim=-1)
        each.append(nats.softmax(dim=-1))
    close(world.table(head), each[0].unsqueeze(2) * each[1].unsqueeze(1))
    if coupling in ("projection", "ratio"):  # which divide out what the circuit says by itself
        close(
            head(world.logits, world.x).softmax(-1)[world.masked],
            world.logits.softmax(-1)[world.masked],
        )


@given(st.integers(0, 10**6), st.sampled_from(sorted(COUPLINGS)))
@settings(max_examples=of_fifty(8), deadline=None)
def test_under_a_rule_answers_have_their_shares_of_what_obeys(seed: int, coupling: str) -> None:
    world = World(seed)
    rule = ~pf.Automaton.phrases([[0, 0], [2, 1]], V)
    head = world.head(coupling)
    every = enumerate_weights(world.circuit, head.couple(world.logits, world.x))
    bound = every.log_weight.masked_fill(~rule.accepts(every.states), -torch.inf)
    wanted = world.shares(every.states, bound)
    if bool(wanted.isfinite().all()):
        close(world.table(world.head(coupling, constraint=rule)), wanted)
    else:
        with pytest.raises(pf.NoMassError):
            world.table(world.head(coupling, constraint=rule))


@pytest.mark.parametrize("kind", ["latents", "gates"])
def test_a_steered_head_decides_as_it_judges_texts(kind: str) -> None:
    torch.manual_seed(0)
    plain = pf.hmm(L, 2, pf.Categorical(V))
    circuit = pf.expose_latents(plain) if kind == "latents" else pf.add_gates(plain, 3)
    modulation = Modulation(V, circuit.num_categories[-1], width=4, depth=1).double().to(DEVICE)
    torch.nn.init.normal_(modulation.out.weight)
    world = World(1)
    world.model = pf.compile(circuit, DEVICE, torch.float64)
    head = world.head("product", modulation=modulation)
    close(world.table(head), by_log_prob(world, head))


def by_log_prob(world: World, head: CircuitHead) -> Tensor:
    at = torch.zeros_like(world.masked).to(DEVICE)
    for span in world.slots.values():
        at[:, span.start : span.stop] = True
    nats = []
    for answers in product(*world.questions.values()):
        x0 = world.x.clone()
        for span, answer in zip(world.slots.values(), answers, strict=True):
            x0[:, span.start : span.stop] = torch.tensor(answer)
        nats.append(head.log_prob(world.logits, world.x, x0.clamp_max(V - 1), at))
    table = torch.stack(nats, dim=-1).softmax(dim=-1)
    return table.view(len(table), *map(len, world.questions.values())).detach()


def test_slots_are_the_runs_of_masks_wherever_they_stand_in_a_row() -> None:
    world = World(5, rows=3)
    head = world.head()
    world.x = torch.tensor([[3, 3, 0, 3, 3], [1, 3, 3, 2, 3], [3, 0, 1, 3, 3]], device=DEVICE)
    questions = {"one": [[0], [1], [2, 1]], "two": [[1], [2], [0, 0]]}
    runs = [(range(0, 2), range(3, 5)), (range(1, 3), range(4, 5)), (range(0, 1), range(3, 5))]
    with pytest.raises(AnswerError, match=r"'one': \(2, 1\) does not fit in a slot of 1 token"):
        head.probabilities(world.logits, world.x, questions, pad=0)
    for texts in questions.values():
        texts.pop()
    found = head.probabilities(world.logits, world.x, questions, pad=0, joint=True)
    for row, (one, two) in enumerate(runs):
        alone = head.probabilities(
            world.logits[row : row + 1],
            world.x[row : row + 1],
            questions,
            pad=0,
            joint=True,
            slots={"two": two, "one": one},
        )
        close(found[row : row + 1], alone)


@pytest.mark.parametrize("slots", [SLOTS[0], None])
def test_no_rows_have_no_tables(slots: dict[str, range] | None) -> None:
    world = World(5, rows=0)
    questions = {"one": [[0, 1], [1, 1]], "two": [[2]]}
    how = {"slots": slots, "pad": 0}
    found = world.head().probabilities(world.logits, world.x, questions, **how)  # type: ignore[call-overload]
    assert {name: part.shape for name, part in found.items()} == {"one": (0, 2), "two": (0, 1)}


def test_a_short_answer_is_filled_up() -> None:
    world = World(7)
    head = world.head()
    world.questions = {"one": [[1], [2, 2], [0, 1]], "two": [[2], [0]]}
    found = world.table(head, pad=1)
    world.questions = {"one": [[1, 1], [2, 2], [0, 1]], "two": [[2, 1], [0, 1]]}
    close(found, world.table(head))


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_rows_are_judged_some_at_a_time(coupling: str) -> None:
    world = World(11, rows=3)
    head = world.head(coupling)
    wanted = world.table(head)
    with patch.object(decisions, "AT_ONCE", 3 * L * V):
        close(world.table(head), wanted)


@given(WORLDS, st.integers(1, V), st.booleans())
@settings(max_examples=of_fifty(15), deadline=None)
def test_answers_are_listed_whatever_the_head_lists(world: World, k: int, dense: bool) -> None:
    """Where nothing else is masked the product reads the potentials of the answers alone."""
    slots = torch.zeros(L, dtype=torch.bool)
    for span in world.slots.values():
        slots[span.start : span.stop] = True
    world.x[:, ~slots] = world.x[:, ~slots].clamp_max(V - 1)
    few = world.head("product", top_k=k)
    close(world.table(few), world.table(world.head("product", top_k=None)))
    if not dense:
        every = torch.arange(V, device=DEVICE).expand(2, L, V).flip(-1)
        whole, world.logits = (
            world.table(few),
            pf.Potentials.of(world.logits.gather(-1, every), every),
        )
        if k == V:
            close(world.table(few), whole)


def test_what_a_row_decides_does_not_depend_on_the_others_where_tokens_are_listed() -> None:
    torch.manual_seed(0)
    size = 40
    model = pf.compile(pf.hmm(L, 3, pf.Categorical(size)), DEVICE, torch.float64)
    head = CircuitHead(model, size, top_k="auto")
    x = torch.tensor([[size, size, 0, size, 1], [size, size, 4, size, 3]], device=DEVICE)
    logits = torch.randn(2, L, size, dtype=torch.float64, device=DEVICE)
    logits[0] *= 9  # few are needed
    questions, slots = {"one": [[3, 1], [39, 39]]}, {"one": range(2)}
    with (
        patch("pcflow_diffusion.head.listing.LARGE", 1),
        patch("pcflow_diffusion.head.listing.LEFT_OUT", 0.05),
    ):
        both = head.probabilities(logits, x, questions, slots=slots)["one"]
        alone = head.probabilities(logits[:1], x[:1], questions, slots=slots)["one"]
    close(both[:1], alone)


def test_texts_go_through_a_tokenizer() -> None:
    world = World(13)
    head, letters = world.head(), CharacterTokenizer("ab�")
    named = {"one": ["ab", "ba"], "two": ["b", "aa"]}
    world.questions = {"one": [[0, 1], [1, 0]], "two": [[1, 2], [0, 0]]}
    wanted = world.table(head)
    world.questions = named  # type: ignore[assignment]

    def encode(text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        ids = ["ab".index(letter) for letter in text]
        return SimpleNamespace(ids=[2, *ids] if add_special_tokens else ids)

    def only_ids(text: str, add_special_tokens: bool = True) -> list[int]:
        return list(encode(text, add_special_tokens).ids)

    for tokenizer in (letters, SimpleNamespace(encode=encode), SimpleNamespace(encode=only_ids)):
        close(world.table(head, tokenizer=tokenizer, pad=2), wanted)
    for wrong in (None, "a path", 3):
        with pytest.raises(TypeMismatch, match="tokenizer"):
            world.table(head, tokenizer=wrong, pad=2)


def test_an_impossible_answer_has_no_share_and_a_row_without_any_is_named() -> None:
    world = World(17)
    world.questions = {"one": [[0, 0], [1, 1]], "two": [[2, 2]]}
    world.logits[:, 0, 0] = -torch.inf
    table = world.table(world.head())
    close(table[:, 0], torch.zeros_like(table[:, 0]))
    close(table[:, 1], torch.ones_like(table[:, 1]))
    world.logits[1, 1, 1] = -torch.inf
    with pytest.raises(pf.NoMassError) as caught:
        world.table(world.head())
    assert caught.value.rows == (1,)


QUESTIONS = {"one": [[0, 1], [1, 1]], "two": [[2, 2], [1, 0]]}
GOOD = {"one": range(0, 2), "two": range(3, 5)}


@pytest.mark.parametrize(
    ("error", "told", "change"),
    [
        (pf.SettingError, "questions", {"questions": {}}),
        (TypeMismatch, "questions must be a Mapping", {"questions": [[0, 1]]}),
        (TypeMismatch, "several", {"questions": QUESTIONS | {"two": "ab"}}),
        (TypeMismatch, "several", {"questions": QUESTIONS | {"two": 3}}),
        (TypeMismatch, "whole number", {"questions": QUESTIONS | {"two": [[0, 0.5]]}}),
        (TypeMismatch, "answers to 'two'", {"questions": QUESTIONS | {"two": [1, 2]}}),
        (AnswerError, "'two': it needs", {"questions": QUESTIONS | {"two": []}}),
        (AnswerError, "'two': it needs", {"questions": QUESTIONS | {"two": [[0, 0], []]}}),
        (AnswerError, "'one': .*does not fit", {"questions": QUESTIONS | {"one": [[0, 1, 1]]}}),
        (AnswerError, "'one': .*give pad", {"questions": QUESTIONS | {"one": [[0]]}}),
        (AnswerError, "'one': two", {"questions": QUESTIONS | {"one": [[0], [0, 2]]}, "pad": 2}),
        (TokenOutOfRange, "answers to 'one' holds", {"questions": QUESTIONS | {"one": [[0, V]]}}),
        (
            TokenOutOfRange,
            "answers to 'one' holds",
            {"questions": QUESTIONS | {"one": [[0]]}, "pad": V},
        ),
        (TypeMismatch, "pad", {"pad": "x"}),
        (pf.SettingError, "slots", {"slots": {"one": range(2)}}),
        (TypeMismatch, "slots", {"slots": [range(2)]}),
        (TypeMismatch, "slots", {"slots": GOOD | {"one": 2}}),
        (AnswerError, "'one': its slot .* is no span", {"slots": GOOD | {"one": range(0)}}),
        (AnswerError, "'two': its slot .* is no span", {"slots": GOOD | {"two": range(4, 6)}}),
        (AnswerError, "'two': its slot .* is no span", {"slots": GOOD | {"two": range(0, 4, 2)}}),
        (AnswerError, "'two': its slot .* meets", {"slots": GOOD | {"two": range(1, 3)}}),
        (AnswerError, "'two': its slot .* is not masked", {"slots": GOOD | {"two": range(2, 4)}}),
        (AnswerError, "no combination", {"allowed": lambda answer: False}),
        (TypeMismatch, "allowed", {"allowed": {"one": 1}}),
        (ShapeMismatch, "x must be", {"x": torch.full((2, 3), MASK)}),
        (pf.SettingError, "runs of masks in row 1, 1,", {"slots": None}),
    ],
)
def test_what_does_not_fit_is_refused(
    error: type[Exception], told: str, change: dict[str, object]
) -> None:
    x = torch.tensor([[MASK, MASK, 0, MASK, MASK], [MASK, MASK, 2, MASK, MASK]])
    if change.get("slots", GOOD) is None:
        x[1, 2] = MASK
    logits, model = torch.zeros(2, L, V), pf.compile(CIRCUITS["chain"]())
    how = {"logits": logits, "x": x, "questions": QUESTIONS, "slots": GOOD} | change
    with pytest.raises(error, match=told):
        CircuitHead(model, MASK).probabilities(**how)  # type: ignore[call-overload]


def test_too_many_combinations_are_refused_before_any_is_made() -> None:
    torch.manual_seed(0)
    x = torch.tensor([[2, 0] * 20])
    head = CircuitHead(pf.compile(pf.hmm(40, 2, pf.Categorical(2))), 2)
    questions = {f"{n}": [[0], [1]] for n in range(20)}
    with pytest.raises(pf.SettingError, match="combinations of answers must be at most 65,536"):
        head.probabilities(torch.zeros(1, 40, 2), x, copy.deepcopy(questions))
