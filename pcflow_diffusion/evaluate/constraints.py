"""Text that has to obey a rule: how much of it does, what it is worth, and what it costs.

Every writer continues the same prompts with the same backbone, in as many steps per block. What is
valid is told from the text, not by the automaton. The judge, who tells how probable a text is, has
seen neither backbone nor circuit. Times are those of the processor.

Legend: N rows, P tokens of a prompt, T tokens written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from statistics import fmean, median, stdev
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pcflow_diffusion.decode import Decoding, generate
from pcflow_diffusion.evaluate.few_step import in_columns
from pcflow_diffusion.evaluate.ruled import BestString, Frontier, Task, write
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models.progress import bar

BUDGET, COLD = 16, 0.5  # tries, and a temperature
DRAWN = Decoding(temperature=1.0)
FREE = "coupled, no rule"
REJECTION = f"coupled, rejected up to {BUDGET - 1} times"
OURS = "coupled, rule"


class Writer(Protocol):
    """Writes after prompts."""

    def __call__(self, task: Task, steps: int, generator: torch.Generator) -> Tensor:
        """Prompts and what follows, [N, P + T], in so many steps per block."""
        ...


@dataclass(frozen=True, eq=False)
class Generated:
    """What `generate` writes.

    Attributes:
        head: couples tokens; None draws each by itself.
        how: tokens are decided.
        obeys: whether the rule is imposed.
    """

    head: CircuitHead | None
    how: Decoding = DRAWN
    obeys: bool = True

    def __call__(self, task: Task, steps: int, generator: torch.Generator) -> Tensor:
        """See `Writer`."""
        return generate(
            task.backbone,
            task.prompts,
            self.head,
            steps=steps * len(task.blocks()),
            gen_length=task.gen_length,
            block_length=task.block_length,
            decoding=replace(self.how, constraint=task.rule if self.obeys else None),
            show=task.show,
            context=task.context,
            mask_token_id=task.mask_token_id,
            generator=generator,
        )


@dataclass(frozen=True, eq=False)
class Rejected:
    """Another writer's texts, written again until they are valid, or the budget is spent."""

    writer: Writer
    budget: int = BUDGET

    def __call__(self, task: Task, steps: int, generator: torch.Generator) -> Tensor:
        """See `Writer`."""
        rows = self.writer(task, steps, generator)
        for _ in range(self.budget - 1):
            wrong = ~task.is_valid(rows[:, task.prompt_length :])
            if not bool(wrong.any()):
                break
            rows[wrong] = self.writer(task.of(wrong), steps, generator)
        return rows


@dataclass(frozen=True)
class Chosen:
    """What one of the other ways writes, see `ruled`."""

    temperature: float | None = None

    def __call__(self, task: Task, steps: int, generator: torch.Generator) -> Tensor:
        """See `Writer`."""
        choose = BestString() if self.temperature is None else Frontier(self.temperature, generator)
        return write(task, choose, steps)


def writers(head: CircuitHead) -> dict[str, Writer]:
    """All that are compared: draws with and without circuit and rule, and other ways to obey.

    Three decide as coldly as others do: from the left and coupled, tokens are drawn, tempered, or
    the surest is taken; the best string is that of the marginals, and that of the joint.
    """
    free = Generated(head, obeys=False)
    return {
        "independent, no rule": Generated(None, obeys=False),
        FREE: free,
        REJECTION: Rejected(free),
        "left to right, drawn": Chosen(temperature=1.0),
        "independent, rule": Generated(None),
        OURS: Generated(head),
        f"left to right, temperature {COLD}": Chosen(temperature=COLD),
        f"{OURS}, temperature {COLD}": Generated(head, Decoding(COLD)),
        "left to right, surest": Chosen(temperature=0.0),
        f"{OURS}, surest": Generated(head, Decoding()),
        "best string of marginals": Chosen(),
        f"{OURS}, best string": Generated(head, Decoding(order="mpe")),
    }


class Outcome(NamedTuple):
    """What texts are worth.

    Attributes:
        obeys: which share the rule accepts.
        valid: which share is valid, as what it says tells.
        right: which share is valid and all of it right.
        values: which share of the values is right.
        nats: per token of valid texts, under the judge; NaN if there is none.
        seconds: of the processor.
    """

    obeys: float
    valid: float
    right: float
    values: float
    nats: float
    seconds: float


Found = Mapping[str, Mapping[int, Sequence[Outcome]]]
"""By writer and steps per block, what was found with every seed."""


def judged(task: Task, rows: Tensor, seconds: float) -> Outcome:
    """What rows [N, P + T] are worth."""
    prompts, texts = rows.tensor_split([task.prompt_length], dim=1)
    valid, values = task.is_valid(texts), torch.full((len(rows),), nan)
    nats = task.judge.nats(rows, last=task.gen_length).double().mean(dim=1)
    if task.share_right is not None:
        values = task.share_right(prompts, texts)
    return Outcome(
        float(task.rule.accepts(texts).double().mean()),
        float(valid.double().mean()),
        float((values == 1).double().where(~values.isnan(), nan).mean()),
        float(values.mean()),
        float(nats[valid].mean()),
        seconds,
    )


def measure(
    task: Task,
    compared: Mapping[str, Writer],
    steps: Sequence[int],
    seeds: Sequence[int],
    progress: bool | None = None,
) -> dict[str, dict[int, list[Outcome]]]:
    """What every writer writes with every seed, by turns."""
    found: dict[str, dict[int, list[Outcome]]] = {
        name: {count: [] for count in steps} for name in compared
    }
    cells = [(seed, count, name) for seed in seeds for count in steps for name in compared]
    for seed, count, name in bar(cells, progress, desc="writing", unit="run"):
        generator, start = torch.Generator().manual_seed(seed), time.process_time()
        rows = compared[name](task, count, generator)
        found[name][count].append(judged(task, rows, time.process_time() - start))
    return found


ABOUT = {
    "obeys": "share that obeys the rule",
    "valid": "share valid",
    "right": "share right as a whole",
    "values": "share of values right",
    "nats": "nats per token of valid text",
}


def markdown(found: Found) -> str:
    """A table of everything that is measured: means over seeds, and their standard deviation.

    The last is of times, in those of coupled draws without a rule in as many steps. A dash stands
    where nothing is valid. What says the same as the table before it is left out.

    Examples:
        >>> text = Outcome(obeys=0.5, valid=0.5, right=nan, values=nan, nats=1.0, seconds=0.1)
        >>> print(markdown({FREE: {2: [text, text]}}))
        | share that obeys the rule, by steps per block | 2 |
        |---|---|
        | coupled, no rule | 0.500 ± 0.000 |
        <BLANKLINE>
        | nats per token of valid text, by steps per block | 2 |
        |---|---|
        | coupled, no rule | 1.000 ± 0.000 |
        <BLANKLINE>
        | time, of coupled, no rule, by steps per block | 2 |
        |---|---|
        | coupled, no rule | 1.0 |
    """
    tables, columns = [], [str(count) for count in next(iter(found.values()))]
    last: dict[str, list[str]] = {}
    for field, about in ABOUT.items():
        rows = _means(found, field)
        if rows != last and any(cell != DASH for row in rows.values() for cell in row):
            tables.append(in_columns(f"{about}, {BY}", columns, rows))
            last = rows
    return "\n\n".join([*tables, in_columns(f"time, of {FREE}, {BY}", columns, _times(found))])


BY, DASH = "by steps per block", "\N{EN DASH}"


def _means(found: Found, field: str) -> dict[str, list[str]]:
    return {
        name: [_mean([getattr(one, field) for one in cell]) for cell in row.values()]
        for name, row in found.items()
    }


def _mean(numbers: Sequence[float]) -> str:
    known = [number for number in numbers if not isnan(number)]
    if not known:
        return DASH
    spread = stdev(known) if len(known) > 1 else 0.0
    return f"{fmean(known):.3f} ± {spread:.3f}"


def _times(found: Found) -> dict[str, list[str]]:
    def seconds(name: str, count: int) -> float:
        return median(one.seconds for one in found[name][count])

    return {
        name: [f"{seconds(name, count) / seconds(FREE, count):.1f}" for count in row]
        for name, row in found.items()
    }
