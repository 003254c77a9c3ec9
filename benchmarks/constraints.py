"""What a rule costs: draws given an automaton against free draws, in the same run.

    python benchmarks/constraints.py [--toy] [--states 1024] [--length 32]

Rules of about 20 states over a vocabulary of 126,464 categories, an HMM, soft evidence for every
position: of all categories, and of the 64 largest. Times are of the processor, the least of several
interleaved runs.
"""

import argparse
import time
from collections.abc import Callable

import torch

import pcflow as pf


def least(runs: dict[str, Callable[[], object]], times: int) -> dict[str, float]:
    """Seconds of the processor."""
    found = {name: float("inf") for name in runs}
    for _ in range(times):
        for name, run in runs.items():
            start = time.process_time()
            run()
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


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--states", type=int, default=1024)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    V, K = (500, 8) if given.toy else (126_464, given.states)
    L, B, k = given.length, given.rows, 64
    generator = torch.Generator().manual_seed(0)
    model = pf.compile(pf.hmm(L, K, pf.Categorical(V), generator=generator)).requires_grad_(False)
    soft = model.evidence(
        pf.Evidence(log_potentials=2 * torch.randn(B, L, V, generator=generator))
    )
    print(f"V = {V:,}, K = {K:,}, L = {L}, {B} rows; seconds of the processor, and the ratio")
    print(f"{'rule':<24}{'states':>7}{'classes':>8}{'made':>7}{'potentials':>12}{'free':>8}{'given':>8}{'':>7}")
    for name, rule in rules(L, V).items():
        start = time.process_time()
        under = model.given(rule)
        made = time.process_time() - start
        wanted = torch.tensor(rule.sample(B, L, generator).tolist())
        log = soft.log_potentials.scatter(-1, wanted.unsqueeze(-1), 9.0)  # the rule can be obeyed
        every = model.evidence(pf.Evidence(log_potentials=log))
        for kind, known in (("all", every), (f"{k} listed", every.top_k(k))):
            known = model.evidence(known)
            runs: dict[str, Callable[[], object]] = {
                "free": lambda known=known: model.sample(1, known, generator),  # type: ignore[misc]
                "given": lambda known=known: under.sample(1, known, generator),  # type: ignore[misc]
            }
            for run in runs.values():
                run()
            found = least(runs, given.times)
            states, classes = rule.next.shape
            print(
                f"{name:<24}{states:>7}{classes:>8}{made:>7.2f}{kind:>12}{found['free']:>8.3f}"
                f"{found['given']:>8.3f}{found['given'] / found['free']:>7.2f}"
            )


if __name__ == "__main__":
    main()
