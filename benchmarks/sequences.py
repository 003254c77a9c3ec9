"""Hidden Markov models against hmmlearn, equal numbers first, as a Markdown table of ratios.

Both run in float64 on one thread, by turns; hmmlearn with its faster arithmetic ("scaling"), on
sequences of its own lengths, pcflow on rows that are padded with NaN. hmmlearn has no filter: to
say what is known after one more symbol it goes over the past again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from measure import interleaved, processor
from torch import Tensor
from toy import arguments, is_installed, size

import pcflow as pf

EPOCHS = size(10, 2)
Sides = tuple[Callable[[], Tensor], Callable[[], Tensor]]
"""The same numbers, of pcflow and of hmmlearn."""


@dataclass(frozen=True)
class Case:
    """Sequences of different lengths, and a model of them."""

    name: str
    rows: int
    lengths: tuple[int, int]
    states: int
    symbols: int

    @cached_property
    def circuit(self) -> pf.Circuit:
        """Random parameters."""
        inputs = pf.Categorical(self.symbols)
        return pf.hmm(self.lengths[1], self.states, inputs, generator=seeded())

    @cached_property
    def model(self) -> pf.CompiledCircuit:
        """Compiled in the peer's precision."""
        return pf.compile(self.circuit, dtype=torch.float64)

    @cached_property
    def padded(self) -> Tensor:
        """Sequences [B, L] that the model drew, NaN behind their ends."""
        low, high = self.lengths
        ends = torch.randint(low, high + 1, (self.rows, 1), generator=seeded())
        x = self.model.sample(self.rows, generator=seeded()).double()
        return x.masked_fill(torch.arange(high) >= ends, torch.nan)

    @cached_property
    def there(self) -> Tensor:
        """Where there is a symbol, [B, L]."""
        return ~self.padded.isnan()

    @cached_property
    def flat(self) -> tuple[Any, list[int]]:
        """The same as hmmlearn takes them: one column, and lengths."""
        column = self.padded[self.there].long().unsqueeze(1).numpy()
        return column, self.there.sum(dim=1).tolist()

    def peer(self) -> Any:
        """The same model."""
        from hmmlearn.hmm import CategoricalHMM

        peer = CategoricalHMM(
            self.states,
            n_iter=EPOCHS,
            tol=-float("inf"),
            init_params="",
            implementation="scaling",
            n_features=self.symbols,
        )
        start, move, emit = (p.value.double() for p in self.by_role())
        peer.startprob_ = start.softmax(dim=-1)[0].numpy()
        peer.transmat_ = move.softmax(dim=-1).numpy()
        peer.emissionprob_ = emit.softmax(dim=0).t().numpy()
        return peer

    def by_role(self) -> tuple[pf.Parameter, pf.Parameter, pf.Parameter]:
        """Initial distribution, transitions, emissions."""
        layers = self.circuit.layers
        emit = next(la.parameters["logits"] for la in layers if isinstance(la, pf.InputLayer))
        move = next(la.weight for la in layers if isinstance(la, pf.SumLayer))
        start = self.circuit.root
        assert isinstance(start, pf.SumLayer)
        return start.weight, move, emit


CASES = (
    Case("words", *size((5000, (2, 15), 12, 26), (8, (2, 4), 2, 3))),
    Case("sentences", *size((256, (8, 32), 128, 1000), (4, (3, 4), 3, 4))),
    Case("days", *size((100, (1000, 1000), 12, 26), (2, (6, 6), 2, 3))),
    Case("one long", *size((1, (5000, 5000), 12, 26), (1, (9, 9), 2, 3))),
)


def log_prob(case: Case) -> Sides:
    """The total log-likelihood."""
    peer, model = case.peer(), case.model
    return (
        torch.no_grad()(lambda: model.log_prob(case.padded).sum()),
        lambda: torch.tensor(peer.score(*case.flat), dtype=torch.float64),
    )


def posteriors(case: Case) -> Sides:
    """Of every state at every symbol."""
    peer, model = case.peer(), case.model
    return (
        lambda: pf.state_posteriors(model, case.padded)[case.there].exp(),
        lambda: torch.from_numpy(peer.predict_proba(*case.flat)),
    )


def paths(case: Case) -> Sides:
    """Log-values of the best paths: where two are equally good, either may be told."""
    peer, model = case.peer(), case.model
    lengths = case.there.sum(dim=1)
    return (
        lambda: pf.viterbi(model, case.padded, lengths).log_value.sum(),
        lambda: torch.tensor(peer.decode(*case.flat)[0], dtype=torch.float64),
    )


def epochs(case: Case) -> Sides:
    """The log-likelihood before every epoch of EM, from the same start."""
    model = pf.compile(case.circuit, dtype=torch.float64)
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def ours() -> Tensor:
        model.load_state_dict(start)
        curve = pf.fit(
            model, case.padded, pf.EM(pseudocount=0.0), epochs=EPOCHS, progress=False
        ).train
        return torch.tensor(curve, dtype=torch.float64) * case.rows

    def theirs() -> Tensor:
        peer = case.peer().fit(*case.flat)
        return torch.tensor(list(peer.monitor_.history)[-EPOCHS:], dtype=torch.float64)

    return ours, theirs


def filtering(case: Case) -> Sides:
    """What is known of the state after every symbol of some long rows, one symbol at a time."""
    ends, longest = case.there.sum(dim=1).topk(min(16, case.rows))
    rows = case.padded[longest, : int(ends.min())]
    peer, model = case.peer(), case.model

    def ours() -> Tensor:
        seen, found = model.filter(len(rows)), []
        for symbols in rows.t():
            seen.observe(symbols)
            found.append(seen.log_states)
        return torch.stack(found).exp()  # [L, B, K]

    def theirs() -> Tensor:
        found = []
        for t in range(1, rows.shape[1] + 1):
            past = rows[:, :t].long().reshape(-1, 1).numpy()
            known = peer.predict_proba(past, [t] * len(rows))
            found.append(torch.from_numpy(known[t - 1 :: t].copy()))
        return torch.stack(found)

    return ours, theirs


QUESTIONS = {
    "log_prob": log_prob,
    "state_posteriors": posteriors,
    "viterbi": paths,
    f"{EPOCHS} epochs of EM": epochs,
    "filter, symbol by symbol": filtering,
}
TOO_SLOW = {("days", "filter, symbol by symbol"), ("one long", "filter, symbol by symbol")}
"""For hmmlearn, which would take minutes to go over the past a thousand times."""


def main() -> None:
    """Compare, then time."""
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=size(9, 1))
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"one thread of {processor()}\n")
    print("| sequences | question | pcflow, ms | pcflow is faster by |\n|---|---|---|---|")
    for case in CASES:
        for name, question in QUESTIONS.items():
            print(row(case, name, question, repeats), flush=True)


def row(case: Case, name: str, question: Callable[[Case], Sides], repeats: int) -> str:
    """One line of the table."""
    low, high = case.lengths
    lengths = str(high) if low == high else f"{low}..{high}"
    about = f"{case.name}: {case.rows:,} x {lengths}, {case.states} states, {case.symbols} symbols"
    if not is_installed("hmmlearn"):
        return f"| {about} | {name} | | not installed |"
    if (case.name, name) in TOO_SLOW:
        return f"| {about} | {name} | | not asked |"
    ours, theirs = question(case)
    torch.testing.assert_close(ours(), theirs(), rtol=1e-8, atol=1e-9)
    mine, other = interleaved([ours, theirs], repeats)
    return f"| {about} | {name} | {1e3 * mine:.1f} | {other / mine:.2f} x |"


def seeded() -> torch.Generator:
    """The same numbers each time."""
    return torch.Generator().manual_seed(0)


if __name__ == "__main__":
    main()
