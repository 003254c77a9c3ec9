"""The recipe of `inputs/base.py`, followed: a family of one's own, and everything works with it."""

import abc
import copy
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from device import DEVICE
from torch import Tensor

import pcflow as pf
from pcflow.inputs import FAMILIES
from pcflow.testing import check_input_family


@dataclass(frozen=True)
class Geometric(pf.ExponentialFamily):
    """Failures 0, 1, 2, ... before the first success, whose log-odds are `logits` [K]."""

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        return {"logits": (units,)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return {"logits": torch.randn(units, generator=generator)}

    def log_prob(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        logits = params["logits"].unsqueeze(-2)  # [F, 1, K]
        again = torch.nn.functional.logsigmoid(-logits)
        return torch.nn.functional.logsigmoid(logits) + x.unsqueeze(-1) * again

    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        return torch.exp(-params["logits"])

    def mode(self, params: Mapping[str, Tensor]) -> Tensor:
        return torch.zeros_like(params["logits"])

    def sample(
        self, params: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        logits = params["logits"]
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device).to(logits)
        return (uniform.log() / torch.nn.functional.logsigmoid(-logits)).floor()

    def statistics(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1)

    def moments(self, params: Mapping[str, Tensor]) -> Tensor:
        return torch.exp(-params["logits"]).unsqueeze(-2)

    def matching(self, moments: Tensor) -> dict[str, Tensor]:
        return {"logits": -moments.squeeze(-2).clamp_min(1e-6).log()}


@pytest.fixture
def registered() -> Iterator[type[Geometric]]:
    yield pf.register_family(Geometric)
    del FAMILIES["Geometric"]


def test_a_family_of_ones_own_is_learned_queried_drawn_and_kept(
    tmp_path: Path, registered: type[Geometric]
) -> None:
    check_input_family(Geometric)
    regions = pf.structure.random_binary_tree(2)
    circuit = pf.build_circuit(regions, [Geometric(), pf.Bernoulli()], units=2)
    model = pf.compile(circuit, DEVICE, torch.float64)

    counts = torch.arange(400, dtype=torch.float64)
    grid = torch.cartesian_prod(counts, counts[:2])
    assert model.log_prob(grid).logsumexp(0).item() == pytest.approx(0.0, abs=1e-3)

    x = torch.tensor([[0.0, 1], [1, 1], [7, 0], [torch.nan, 0], [9, torch.nan], [0, 1]] * 10)
    for learner in (pf.EM(), pf.Anemone(), pf.MiniBatchEM(), pf.Gradient()):
        result = pf.fit(model, x, learner, epochs=6, progress=False)
        assert result.train[-1] > result.train[0]

    torch.testing.assert_close(
        pf.reference_log_prob(model.circuit, x.double()), model.log_prob(x).detach().cpu()
    )
    drawn = model.sample(30_000, generator=torch.Generator(DEVICE).manual_seed(0))
    weights = model.log_prob(grid).exp().detach().cpu()
    assert drawn[:, 0].mean().item() == pytest.approx((weights * grid[:, 0]).sum().item(), rel=0.05)
    best = model.mpe(torch.tensor([[torch.nan, 0.0]]))
    assert best.values[0, 0] == 0.0

    pf.save(model, tmp_path / "own")
    again = pf.load(tmp_path / "own", DEVICE)
    assert torch.equal(again.log_prob(x), model.log_prob(x))
    assert isinstance(again.circuit.layers[0], pf.InputLayer)
    for twin in (pickle.loads(pickle.dumps(circuit)), copy.deepcopy(circuit)):
        assert twin.layers[0].family == circuit.layers[0].family  # type: ignore[union-attr]


def test_a_file_that_names_a_family_nobody_registered_is_refused(
    tmp_path: Path, registered: type[Geometric], monkeypatch: pytest.MonkeyPatch
) -> None:
    pf.save(pf.compile(pf.Circuit(pf.InputLayer.random(0, registered()))), tmp_path / "own")
    pf.load(tmp_path / "own")
    monkeypatch.delitem(FAMILIES, "Geometric")
    with pytest.raises(pf.FileFormatError, match="Geometric"):
        pf.load(tmp_path / "own")


def test_a_name_is_given_to_one_family_only(registered: type[Geometric]) -> None:
    before = dict(FAMILIES)
    clash = type("Categorical", (Geometric,), {})
    for family in (registered, clash, pf.Gaussian):
        with pytest.raises(pf.SettingError, match=family.__name__) as refused:
            pf.register_family(family)
        assert refused.value.name == "family"
    assert before == FAMILIES


class Unfinished(pf.DensityFamily, abc.ABC):
    """A family without any of its methods."""


@pytest.mark.parametrize(
    "family", [Unfinished, pf.DensityFamily, Geometric(), "Geometric", int, None], ids=str
)
def test_only_classes_of_families_are_registered(family: object) -> None:
    with pytest.raises(pf.TypeMismatch, match="family must be a dataclass of an input family"):
        pf.register_family(family)  # type: ignore[type-var]
