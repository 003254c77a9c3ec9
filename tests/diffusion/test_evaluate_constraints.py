"""Writers under rules against enumeration, records by hand, tables, and the command."""

import re
from dataclasses import replace
from itertools import product
from math import isnan

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from laws import of_fifty
from rules import automata
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CircuitHead
from pcflow_diffusion.evaluate import constraints_by_task, records
from pcflow_diffusion.evaluate.constraints import (
    FREE,
    OURS,
    REJECTION,
    Outcome,
    Rejected,
    judged,
    markdown,
    measure,
    writers,
)
from pcflow_diffusion.evaluate.ruled import BestString, Block, Frontier, Task, best_string, write

L, SIZES = 3, st.integers(1, 3)
few = settings(max_examples=of_fifty(20))


@st.composite
def blocks(draw, from_the_left=False):
    """A block in the middle of a text, some of it written, of which the rest can be completed."""
    rule, before, behind = draw(automata(SIZES)), draw(SIZES), draw(st.integers(0, 2))
    V, total = rule.num_categories, before + L + behind
    assume(rule.log_count(total) > -torch.inf)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    text = rule.sample(4, total, generator)
    masked = torch.rand(4, L, generator=generator) < 0.7
    if from_the_left:
        masked = masked.cummax(dim=-1).values
    log_m = torch.randn(4, L, V, generator=generator, dtype=torch.float64).log_softmax(-1)
    known = torch.full_like(log_m, -torch.inf)
    known.scatter_(-1, text[:, before : before + L, None], 0.0)
    log_m = torch.where(masked[..., None], log_m, known)
    live = rule.live(total)[before : before + L + 1]
    return Block(log_m, masked, rule.run(text[:, :before]), live, rule)


def possible(block: Block, row: int) -> dict[tuple[int, ...], float]:
    """By string that can stand there, the sum of its log-marginals."""
    rule, found = block.rule, {}
    for string in product(range(rule.num_categories), repeat=L):
        state, live = int(block.state[row]), True
        for place, token in enumerate(string):
            state = int(rule.next[state, rule.classes[token]])
            live = live and state >= 0 and bool(block.live[place + 1, state])
            if not live:
                break
        score = float(block.log_m[row, range(L), string].sum())
        if live and score > -torch.inf:
            found[string] = score
    return found


@few
@given(blocks())
def test_the_best_string_is_the_best_of_all(block) -> None:
    for row, string in enumerate(best_string(block).tolist()):
        every = possible(block, row)
        assert every[tuple(string)] == pytest.approx(max(every.values()))


@few
@given(blocks(from_the_left=True))
def test_the_frontier_takes_one_token_after_another(block) -> None:
    count = torch.full((4,), 2)
    tokens, commit = Frontier(temperature=0.0)(block, count)
    for row, string in enumerate(tokens.tolist()):
        every = possible(block, row)
        for place, token in enumerate(string):
            allowed = {s[place] for s in every if s[:place] == tuple(string[:place])}
            log_m = block.log_m[row, place]
            assert token in allowed
            assert log_m[token] == max(log_m[other] for other in allowed)
        first = block.masked[row].nonzero().flatten()[:2].tolist()
        assert commit[row].nonzero().flatten().tolist() == first


@few
@given(blocks())
def test_the_best_string_commits_what_is_surest(block) -> None:
    tokens, commit = BestString()(block, torch.ones(4).long())
    score = block.log_m.gather(-1, tokens[..., None])[..., 0]
    for row in range(4):
        if bool(block.masked[row].any()):
            assert score[row][commit[row]] == score[row][block.masked[row]].max()
        else:
            assert not bool(commit[row].any())


class Even:
    """A judge to whom all tokens are alike."""

    def nats(self, rows: Tensor, last: int) -> Tensor:
        return torch.ones(len(rows), last)


def flat_task(rule: pf.Automaton, T: int, L: int) -> Task:
    """Texts of a backbone that knows nothing, and says so by chance."""
    V = rule.num_categories

    def backbone(tokens: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int((tokens == V).sum()))
        return 2 * torch.randn(*tokens.shape, V, generator=generator)

    prompts = torch.zeros(3, 2).long()
    return Task(backbone, prompts, rule, rule.accepts, Even(), T, L, mask_token_id=V)


@few
@given(automata(SIZES), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_what_is_written_obeys(rule, count, length, steps) -> None:
    assume(rule.log_count(count * length) > -torch.inf)
    task = flat_task(rule, count * length, length)
    for choose in (BestString(), Frontier(0.0), Frontier(1.0, torch.Generator().manual_seed(0))):
        rows = write(task, choose, steps)
        assert torch.equal(rows[:, :2], task.prompts)
        assert rule.accepts(rows[:, 2:]).all()


def test_all_writers_obey_that_should() -> None:
    rule = pf.Automaton.template([{0, 1}, 2, {0, 2}, 1])
    task = flat_task(rule, 4, 2)
    head = CircuitHead(pf.compile(pf.hmm(2, 2, pf.Categorical(3))), 3)
    found = measure(task, writers(head), (1, 2), (0, 1), progress=False)
    for name, row in found.items():
        valid = [one.valid for cell in row.values() for one in cell]
        assert min(valid) == 1.0 or "no rule" in name or name == REJECTION
    assert min(one.valid for one in found[FREE][1]) < 1.0


def test_rejection_writes_again_what_is_not_valid() -> None:
    rule, asked = pf.Automaton.template([{0, 1, 2}, 1]), []

    def stubborn(task: Task, steps: int, generator: torch.Generator) -> Tensor:
        asked.append(len(task.prompts))
        text = torch.full((len(task.prompts), 2), 2)
        text[:1] = 1  # one more is valid every time
        return torch.cat([task.prompts, text], dim=1)

    task = flat_task(rule, 2, 2)
    for budget, valid in ((1, 1), (2, 2), (9, 3)):
        asked.clear()
        rows = Rejected(stubborn, budget)(task, 1, torch.Generator())
        assert int(rule.accepts(rows[:, 2:]).sum()) == valid
        assert asked == [3, 2, 1][:budget]


def test_only_valid_texts_are_judged() -> None:
    class Sum(Even):
        def nats(self, rows: Tensor, last: int) -> Tensor:
            return rows[:, -last:].float()

    task = replace(flat_task(pf.Automaton.template([None, 1], 4), 2, 2), judge=Sum())
    rows = torch.tensor([[0, 0, 3, 1], [0, 0, 3, 3], [0, 0, 1, 1]])
    found = judged(task, rows, 5.0)
    assert (
        found.obeys == found.valid == pytest.approx(2 / 3)
        and found.nats == 1.5
        and found.seconds == 5.0
    )
    assert isnan(found.values) and isnan(found.right)  # nothing is right or wrong
    share = torch.tensor([1.0, 0.0, 0.5])
    strict = replace(task, is_valid=lambda texts: texts[:, 0] == 1)
    assert judged(strict, rows, 5.0).obeys == found.obeys
    assert judged(strict, rows, 5.0).valid == pytest.approx(1 / 3)
    told = judged(replace(task, share_right=lambda prompts, texts: share), rows, 5.0)
    assert told.right == pytest.approx(1 / 3) and told.values == pytest.approx(0.5)


def test_times_are_in_those_of_free_draws() -> None:
    def cell(seconds: float) -> list[Outcome]:
        return [Outcome(1.0, 1.0, 0.0, 0.0, 1.0, seconds)] * 3

    table = markdown({FREE: {1: cell(2.0)}, OURS: {1: cell(3.0)}})
    assert table.endswith("| coupled, no rule | 1.0 |\n| coupled, rule | 1.5 |")
    assert "obeys" in table and "share valid" not in table  # which would say the same once more


# records

ROWS = records.rows(100, torch.Generator().manual_seed(0))
ANSWERS = ROWS[:, records.PROMPT :]


def test_records_obey_and_are_right() -> None:
    assert records.rule().accepts(ANSWERS).all()
    assert records.are_valid(ANSWERS).all()
    assert (records.share_right(ROWS[:, : records.PROMPT], ANSWERS) == 1).all()
    assert len({row.json() for row in map(records.read, ANSWERS)}) > 30


@few
@given(st.integers(0, 99), st.integers(0, records.ANSWER - 1), st.integers(0, 81))
def test_rule_and_pattern_say_the_same(row, place, token) -> None:
    changed = ANSWERS[row].clone()
    changed[place] = token
    accepted = bool(records.rule().accepts(changed[None]))
    assert accepted == bool(records.are_valid(changed[None]))


def test_values_are_compared_with_the_nearest_record() -> None:
    def share(asked: str, said: tuple[str, ...]) -> float:
        words = records.tokenizer()
        prompt, text = words.encode(asked + ":"), records.City(*said).json()
        return float(records.share_right(prompt[None], words.encode(text)[None]))

    assert share("OH", ("Akron", "330", "OH", "443")) == 1.0
    assert share("OH", ("Akron", "216", "OH", "443")) == 0.75
    assert share("330", ("Toledo", "419", "OH", "436")) == 0.25
    assert share("IL", ("Springfield", "413", "MA", "011")) == 0.25
    assert share("OH", ("Akron", "130", "OH", "443")) == 0.0  # not valid


# the command


def test_the_command_prints_tables(monkeypatch, capsys) -> None:
    class Few:
        def __getattr__(self, name: str) -> object:
            return getattr(records, name)

        def rows(self, count: int, generator: torch.Generator) -> Tensor:
            return records.rows(min(count, 40), generator)

    monkeypatch.setattr(constraints_by_task, "records", Few())
    size = ["--steps", "1", "--count", "4", "--seeds", "1", "--training-steps", "2"]
    constraints_by_task.main(["--task", "records", *size])
    shown = capsys.readouterr().out
    assert re.search(r"Records, 4 texts for each of 1 seeds", shown)
    assert "| coupled, rule | 1.000 ± 0.000 |" in shown


def test_english_says_what_it_needs(monkeypatch, capsys) -> None:
    monkeypatch.setattr(constraints_by_task, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        constraints_by_task.main(["--task", "english"])
    assert "pip install 'pcflow[constraints]'" in capsys.readouterr().err
