"""A chain from given matrices: the forward algorithm by hand, zeros that stay, refusals."""

import pytest
import torch
from device import DEVICE
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.learn import Learner

LEARNERS: dict[str, Learner] = {
    "em": pf.EM(),
    "smoothed em": pf.EM(0.5),
    "anemone": pf.Anemone(),
    "mini-batch": pf.MiniBatchEM(),
    "adam": pf.Gradient(),
}


def distribution(*shape: int, zeros: float = 0.0) -> Tensor:
    found = torch.rand(shape, dtype=torch.float64)
    gone = torch.rand(shape) < zeros
    gone[..., 0] = False
    found = found.masked_fill(gone, 0.0)
    return found / found.sum(-1, keepdim=True)


def forward(x: Tensor, initial: Tensor, transition: Tensor, emission: Tensor) -> Tensor:
    """Probability of one row; [L - 1, K, K] and [L, K, V]."""
    state = initial * emission[0, :, x[0]]
    for t in range(1, len(x)):
        state = (state @ transition[t - 1]) * emission[t, :, x[t]]
    return state.sum()


@given(st.integers(1, 4), st.integers(1, 3), st.booleans(), st.sampled_from([0.0, 0.4]))
def test_matrices_are_those_of_the_forward_algorithm(
    length: int, states: int, tied: bool, zeros: float
) -> None:
    start = distribution(states, zeros=zeros)
    moves = distribution(length - 1, states, states, zeros=zeros)
    emits = distribution(length, states, 3, zeros=zeros)
    if tied:
        moves = distribution(states, states, zeros=zeros).expand(length - 1, -1, -1)
        emits = emits[:1].expand(length, -1, -1)
    shown = moves[0] if tied and length > 1 else torch.eye(states) if tied else moves
    chain = pf.hmm(
        length, states, pf.Categorical(3), tied,
        initial=start, transition=shown, emission=emits[0] if tied else emits,
    )  # fmt: skip
    model = pf.compile(chain, DEVICE, torch.float64)
    x = torch.cartesian_prod(*[torch.arange(3)] * length).view(-1, length)
    wanted = torch.stack([forward(row, start, moves, emits) for row in x])
    torch.testing.assert_close(model.log_prob(x).exp().detach().cpu(), wanted)


@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
def test_given_zeros_stay(learner: Learner) -> None:
    """A chain that only goes on, whose first state says one thing."""
    steps = [[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1]]
    says = [[0, 0.5, 0.5], [0.4, 0, 0.6], [0.1, 0.9, 0]]
    chain = pf.hmm(5, 3, pf.Categorical(3), initial=[1, 0, 0], transition=steps, emission=says)
    model = pf.compile(chain, DEVICE)
    x = model.sample(40, generator=torch.Generator(DEVICE).manual_seed(0))
    pf.fit(model, x, learner, epochs=3, batch_size=10, progress=False)
    for before, after in zip(chain.parameters, model.circuit.parameters, strict=True):
        assert torch.equal(before.value.exp() == 0, after.value.exp() == 0)
        learned = (before.value.exp() - after.value.exp()).abs().max() > 1e-6
        assert learned or before.shape == (1, 3)


def test_what_is_not_given_is_drawn_as_before() -> None:
    plain, given_one = (
        pf.hmm(4, 2, pf.Bernoulli(), generator=torch.Generator().manual_seed(0), **more)  # type: ignore[arg-type]
        for more in ({}, {"initial": [0.5, 0.5]})
    )
    ours, its = plain.parameters, given_one.parameters
    same = [torch.equal(a.value, b.value) for a, b in zip(ours, its, strict=True)]
    assert same.count(False) == 1


def test_emissions_of_other_families() -> None:
    chain = pf.hmm(2, 2, pf.Bernoulli(), emission=[[0.25, 0.75], [1.0, 0.0]])
    first = chain.layers[0]
    assert isinstance(first, pf.InputLayer)
    torch.testing.assert_close(
        first.log_table().exp(), torch.tensor([[0.25, 1.0], [0.75, 0.0]]).double()
    )
    numbers = {"mean": [0.0, 5.0], "log_std": torch.zeros(2)}
    chain = pf.hmm(2, 2, pf.Gaussian(), initial=[0, 1], emission=numbers)
    assert pf.compile(chain).mean(torch.full((1, 2), torch.nan))[0, 0] == 5
    mixed = [pf.Categorical(2), pf.Gaussian()]
    chain = pf.hmm(2, 2, mixed, homogeneous=False, emission=[[[0.5, 0.5], [0, 1]], numbers])
    assert chain.num_categories == (2, None)


HALF = [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"initial": [0.5, 0.2, 0.3]}, r"initial must be \[2\], got \[3\]"),
        ({"initial": [0.5, 0.6]}, "initial: the numbers are no probabilities"),
        ({"initial": [torch.nan, 1]}, "initial: the numbers are no probabilities"),
        ({"transition": [[0.5, 0.5], [1.5, -0.5]]}, "transition: the numbers of row 1 are no"),
        ({"transition": [[HALF] * 2]}, r"transition must be \[2, 2\]"),
        ({"transition": HALF, "homogeneous": False}, r"transition must be \[3, 2, 2\]"),
        ({"emission": HALF}, r"emission must be \[2, 3\], got \[2, 2\]"),
        ({"emission": [[1, 0, 0]] * 2, "homogeneous": False}, "emission must be 4, one for each"),
        ({"emission": {"logits": [0.0, 1.0]}, "homogeneous": False}, "got dict"),
        ({"emission": {"logits": [0.0, 1.0]}}, "needs parameters"),
        ({"emission": HALF, "inputs": pf.Gaussian()}, "emission of Gaussian.* by name"),
        ({"emission": [[1, 0, 0], [0.5, 0, 0.5]], "inputs": pf.Binomial(2)}, "Binomial.* can say"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, object], told: str) -> None:
    more = {"inputs": pf.Categorical(3)} | given
    with pytest.raises(pf.StructureError, match=told):
        pf.hmm(4, 2, **more)  # type: ignore[arg-type]
    for name in ("initial", "transition", "emission"):
        with pytest.raises(pf.EvidenceError, match=f"{name} must be"):
            pf.hmm(4, 2, pf.Categorical(3), **{name: "even"})  # type: ignore[arg-type]


def test_a_position_of_several_variables_has_several_emissions() -> None:
    numbers = {"mean": [0.0, 5.0], "log_std": [0.0, 0.0]}
    says = [[[0.5, 0.5], [0, 1]], numbers]
    families = [[pf.Categorical(2), pf.Gaussian()]]
    for tied in (True, False):
        given = says if tied else [says] * 3
        chain = pf.hmm(3, 2, families, tied, initial=[0, 1], emission=given)
        known = pf.compile(chain).mean(torch.full((1, 6), torch.nan))
        assert known[0, :2].tolist() == [1, 5]
    with pytest.raises(pf.StructureError, match="emission must be 2, one for each variable, got 1"):
        pf.hmm(3, 2, families, emission=says[:1])
