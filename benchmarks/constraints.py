"""What a rule costs: draws given an automaton against free draws, in the same run.

    python benchmarks/constraints.py [--toy] [--states 1024] [--length 32] [--rows 1]

Rules of about 20 states over a vocabulary of 126,464 categories, an HMM, soft evidence for every
position: of all categories, and of the 64 largest. Times are of the processor, the least of several
interleaved runs. Before that, how long a rule takes to make: of a pattern of 56 characters (with
outlines-core), of 1,000 options, and of these with others; and how long the same again takes.
"""

import random
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from toy import TOY, arguments

import pcflow as pf


def least_of_draws(
    known: pf.Evidence,
    generator: torch.Generator,
    models: dict[str, pf.CompiledCircuit | pf.Given],
    times: int,
) -> dict[str, float]:
    """Seconds of the processor, the least of several turns after one that fills what is kept."""
    found = dict.fromkeys(models, float("inf"))
    for turn in range(times + 1):
        for name, model in models.items():
            start = time.process_time()
            model.sample(1, known, generator)
            if turn:
                found[name] = min(found[name], time.process_time() - start)
    return found


def rules(length: int, V: int) -> dict[str, pf.Automaton]:
    """One that holds of most texts, one of few, each of some 20 states."""
    phrase = list(range(20))
    fields = [{t} if t % 3 == 0 else set(range(t, t + V // 8)) for t in range(length)]
    return {
        "no phrase of 20 tokens": ~pf.Automaton.phrases([phrase], num_categories=V),
        "a phrase of 19 tokens": pf.Automaton.phrases([phrase[:19]], num_categories=V),
        "a template": pf.Automaton.template(fields, num_categories=V),
    }


PATTERN = r'\{"id": [0-9]{1,4}, "on": "[0-9]{4}-[0-9]{2}-[0-9]{2}"\}'
LETTERS = 'abcdefghijklmnopqrstuvwxyz0123456789 {}[]":,.-_'


def seconds(make: Callable[[], object]) -> tuple[object, float]:
    """What is made, and the time of the processor."""
    start = time.process_time()
    made = make()
    return made, time.process_time() - start


def made(V: int) -> None:
    """Print how long rules take to make."""
    choose = random.Random(0)
    texts = dict.fromkeys(LETTERS)
    while len(texts) < V - 1:
        texts["".join(choose.choices(LETTERS, k=choose.randrange(2, 7)))] = None
    words = [[choose.randrange(1, V) for _ in range(choose.randrange(2, 9))] for _ in range(1000)]
    options = pf.Automaton.options(words, num_categories=V)
    others = pf.Automaton.options([word[:3] for word in words[:300]], num_categories=V)
    ways: dict[str, Callable[[], object]] = {
        "1,000 options": lambda: pf.Automaton.options(words, num_categories=V),
        "the same, padded": lambda: options.padded(0),
        "and 300 others behind": lambda: options + others,
    }
    if find_spec("outlines_core"):
        vocabulary = [*list(texts)[: V - 1], None]
        pattern = f"a pattern of {len(PATTERN)} characters"
        ways[pattern] = lambda: pf.Automaton.regex(PATTERN, vocabulary, end=V - 1)
    for name, make in ways.items():
        rule, took = seconds(make)
        print(f"{name:<32}{took:>7.2f} seconds  {rule}")


def main() -> None:
    """Print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--states", type=int, default=1024)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    V, K = (500, 8) if TOY else (126_464, given.states)
    L, B, k = given.length, given.rows, 64
    made(V)
    generator = torch.Generator().manual_seed(0)
    model = pf.compile(pf.hmm(L, K, pf.Categorical(V), generator=generator)).requires_grad_(False)
    soft = 2 * torch.randn(B, L, V, generator=generator)
    print(f"V = {V:,}, K = {K:,}, L = {L}, {B} rows; seconds of the processor, and the ratio")
    print(
        f"{'rule':<24}{'states':>7}{'classes':>8}{'made':>7}{'again':>8}{'potentials':>12}"
        f"{'free':>8}{'given':>8}{'ratio':>7}"
    )
    for name, rule in rules(L, V).items():
        under, first = seconds(lambda rule=rule: model.given(rule))
        _, again = seconds(lambda rule=rule: model.given(rule))
        wanted = rule.sample(B, L, generator)
        log = soft.scatter(-1, wanted.unsqueeze(-1), 9.0)  # so that the rule can be obeyed
        every = pf.Evidence(log_potentials=log)
        for kind, known in (("all", every), (f"{k} listed", every.top_k(k))):
            known = model.evidence(known)
            models = {"free": model, "given": under}
            found = least_of_draws(known, generator, models, given.times)
            states, classes = rule.next.shape
            print(
                f"{name:<24}{states:>7}{classes:>8}{first:>7.2f}{again:>8.4f}{kind:>12}"
                f"{found['free']:>8.3f}{found['given']:>8.3f}{found['given'] / found['free']:>7.2f}"
            )


if __name__ == "__main__":
    main()
