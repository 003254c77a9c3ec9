"""`ConditionalCircuit`: a circuit whose parameters a network moves, row by row.

Legend: B rows, f features, W width, D variables, M x N the last two axes of a parameter, r rank.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from pcflow.checks import as_iterable, check_kind, check_kinds, check_whole
from pcflow.engine import Engine
from pcflow.errors import EvidenceError, FeatureError, FileFormatError, SettingError
from pcflow.evidence import CheckedEvidence, Evidence, Numbers, as_tensor
from pcflow.io import MALFORMED, Container, load, save
from pcflow.learn.gradient import scales
from pcflow.queries import MPE, CompiledCircuit

TOLD, PREFIX = "conditional", "network."
"""The text of a file that says what the network is, and how the names of its tensors begin."""


class ConditionalCircuit(nn.Module):
    """p(y | features): a network says by how much every row moves a circuit's parameters.

    Row b has the parameters theta + delta(features_b). Theta are those of the circuit, and learn
    with the network; delta begins at zero, so that a new one is the circuit as it is, trained or
    not (conditional sum-product networks, Shao et al. 2020; hypernetworks, Ha et al. 2017).
    Locations, such as means, move by multiples of the scale that their unit has now. Everything
    that a circuit answers stays exact in every row.

    To `fit`, a `Batch` of all rows is data: `fit(conditional, Batch(y, features=features))`, by
    `Gradient`, as counting knows of no network. Features may come out of another network, which
    gradients reach.

    Args:
        model: the circuit over y; it is shared, not copied.
        features: how many numbers are known of a row, f.
        hidden: widths of the hidden layers; none, and every delta is linear in the features.
        rank: r, and deltas are matrices U V' of rank r over the last two axes of a parameter, where
            these are fewer numbers; whole matrices by default.
        per_row: names of the parameters that differ by row, among `model.parameter_shapes`; all by
            default. The others are shared by all rows.

    Attributes:
        sizes: what it was given beside the model, by name.

    Raises:
        SettingError: if a size is below 1, or there is no parameter of some name.
        TypeMismatch: if `model` is no `CompiledCircuit`.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.naive_bayes([pf.Gaussian()] * 2, units=3)
        >>> conditional = pf.ConditionalCircuit(pf.compile(circuit), features=5)
        >>> features, y = torch.randn(4, 5), torch.randn(4, 2)
        >>> conditional.log_prob(y, features).shape, conditional(features).sample(10).shape
        (torch.Size([4]), torch.Size([10, 4, 2]))
    """

    def __init__(
        self,
        model: CompiledCircuit,
        features: int,
        hidden: Iterable[int] = (64,),
        rank: int | None = None,
        per_row: Iterable[str] | None = None,
    ) -> None:
        """Draw the network's first weights from torch's global generator."""
        super().__init__()
        check_kind("model", model, CompiledCircuit, "a CompiledCircuit")
        shapes = model.parameter_shapes
        names = list(shapes if per_row is None else as_iterable("per_row", per_row))
        check_kinds("per_row", names, str, "a name")
        self.model = model
        self.sizes: dict[str, Any] = {
            "features": features,
            "hidden": list(as_iterable("hidden", hidden)),
            "rank": rank,
            "per_row": list(dict.fromkeys(names)),
        }
        self.network = _Network(model, **self.sizes).to(model.device, model.dtype)

    @property
    def num_variables(self) -> int:
        """How many variables there are, D."""
        return self.model.num_variables

    @property
    def engine(self) -> Engine:
        """The circuit's."""
        return self.model.engine

    def forward(self, features: Numbers) -> Conditioned:
        """The distribution of y in every row, given its features.

        Args:
            features: [B, f].

        Raises:
            EvidenceError: if they are not such numbers; `FeatureError` if one is NaN or infinite.

        Examples:
            >>> import pcflow as pf
            >>> circuit = pf.compile(pf.naive_bayes([pf.Gaussian()] * 2, units=3))
            >>> given = pf.ConditionalCircuit(circuit, features=5)(torch.randn(4, 5))
            >>> given.mean().shape
            torch.Size([4, 2])
        """
        told = as_tensor("features", features).to(self.model.device, self.model.dtype)
        wanted = self.sizes["features"]
        if told.dim() != 2 or told.shape[1] != wanted:
            raise EvidenceError(f"features must be [B, {wanted}], got {list(told.shape)}")
        if not bool(told.isfinite().all()):
            row, column = (~told.isfinite()).nonzero()[0].tolist()
            raise FeatureError(row, column, told[row, column].item())
        theta, deltas = dict(self.model.named_parameters()), self.network(told)
        moved: dict[str | nn.Parameter, Tensor] = {
            name: theta[name] + delta for name, delta in deltas.items()
        }
        return Conditioned(self.model, moved, len(told))

    def log_prob(self, evidence: Evidence | Numbers, features: Numbers) -> Tensor:
        """Log-probability [B] (nats) of evidence given features, differentiable.

        Args:
            evidence: values [B, D], NaN where missing, or `Evidence`.
            features: [B, f].

        Raises:
            EvidenceError: if they do not fit.

        Examples:
            >>> import pcflow as pf
            >>> circuit = pf.compile(pf.naive_bayes([pf.Gaussian()] * 2, units=3))
            >>> conditional = pf.ConditionalCircuit(circuit, features=5)
            >>> conditional.log_prob([[0.5, torch.nan]], torch.randn(1, 5)).shape
            torch.Size([1])
        """
        return self(features).log_prob(evidence)  # type: ignore[no-any-return]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write circuit and network to one safetensors file, in one step; never a pickle.

        Args:
            path: where to.

        Raises:
            OSError: if it cannot be written; an old file is left as it was.

        Examples:
            >>> import tempfile, pcflow as pf
            >>> model = pf.compile(pf.naive_bayes([pf.Gaussian()] * 2, units=3))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     pf.ConditionalCircuit(model, features=5).save(f"{folder}/conditional")
            ...     pf.ConditionalCircuit.load(f"{folder}/conditional").sizes["features"]
            5
        """
        told = {"sizes": self.sizes, "order": _order(self.model)}
        weights = {f"{PREFIX}{n}": weight for n, weight in self.network.state_dict().items()}
        save(self.model, path, {TOLD: json.dumps(told)}, weights)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: torch.device | str | None = None
    ) -> ConditionalCircuit:
        """Read a file of `save`; nothing in it is executed, and the circuit is proved again.

        Args:
            path: the file.
            device: where to put the parameters.

        Raises:
            FileFormatError: if the file is truncated, of another format, contradicts itself, or
                was written of a circuit that was compiled otherwise (`fold`, `machine`).
            OSError: if it cannot be read.
        """
        file = Container(path)
        told, model = file.told(TOLD), load(file, device)
        try:
            return cls._restored(model, file, told)
        except MALFORMED as error:
            raise FileFormatError(f"{path}: does not describe a network ({error})") from error

    @classmethod
    def _restored(cls, model: CompiledCircuit, file: Container, told: Any) -> Self:
        sizes = dict(told["sizes"])
        if told["order"] != _order(model):
            raise ValueError("the circuit was compiled with other settings")
        with torch.device("meta"):  # before anything large is made
            wanted = {
                f"{PREFIX}{n}": w.shape for n, w in _Network(model, **sizes).state_dict().items()
            }
        there = {n: shape for n, shape in file.shapes.items() if n.startswith(PREFIX)}
        if there != wanted or not all(file.dtypes[n].is_floating_point for n in there):
            raise ValueError("its tensors are not those of such a network")
        with torch.random.fork_rng(devices=[]):  # what is drawn is written over
            found = cls(model, **sizes)
        found.network.load_state_dict({n.removeprefix(PREFIX): file.read(n) for n in wanted})
        return found


@dataclass(frozen=True, eq=False)
class Conditioned:
    """A circuit with parameters of its own in every row: what is known given features.

    Evidence has B rows; by default nothing is known.

    Args:
        model: the circuit.
        parameters: by name, [B, *shape].
        rows: how many rows there are, B.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Bernoulli()))
        >>> given = Conditioned(model, {"banks.0": torch.randn(3, *model.banks[0].shape)}, rows=3)
        >>> given.mean().shape
        torch.Size([3, 2])
    """

    model: CompiledCircuit
    parameters: Mapping[str | nn.Parameter, Tensor]
    rows: int

    def evidence(self, given: Evidence | Numbers | None = None) -> CheckedEvidence:
        """Evidence with the parameters of its rows, which every query of the model takes.

        Args:
            given: values [B, D], NaN where missing, or `Evidence`.

        Raises:
            EvidenceError: if it does not fit, or has another number of rows.
        """
        if given is None:
            shape = self.rows, self.model.num_variables
            given = Evidence(missing=torch.ones(shape, dtype=torch.bool, device=self.model.device))
        known = self.model.evidence(given)
        if len(known.values) != self.rows:
            raise EvidenceError(f"evidence has {len(known.values)} rows, features {self.rows}")
        return self.model.evidence(known, self.parameters)

    def log_prob(self, evidence: Evidence | Numbers) -> Tensor:
        """Log-probability [B] (nats), differentiable; see `CompiledCircuit.log_prob`.

        Args:
            evidence: rows [B, D], NaN for what is missing, or an `Evidence`.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(3)))
            >>> weights = torch.randn(4, *model.banks[0].shape)
            >>> given = Conditioned(model, {"banks.0": weights}, rows=4)
            >>> given.log_prob(torch.zeros(4, 2)).shape
            torch.Size([4])
        """
        return self.model.log_prob(self.evidence(evidence))

    def sample(
        self,
        n: int,
        evidence: Evidence | Numbers | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Exact draws [n, B, D]; see `CompiledCircuit.sample`.

        Args:
            n: how many of every row.
            evidence: rows [B, D]; nothing is known if not given.
            generator: randomness; torch's global one if not given.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(3)))
            >>> weights = torch.randn(4, *model.banks[0].shape)
            >>> given = Conditioned(model, {"banks.0": weights}, rows=4)
            >>> given.sample(5).shape
            torch.Size([5, 4, 2])
        """
        return self.model.sample(n, self.evidence(evidence), generator)

    def marginals(self, evidence: Evidence | Numbers | None = None) -> Tensor:
        """Posterior log-probabilities [B, D, V] (nats); see `CompiledCircuit.marginals`.

        Args:
            evidence: rows [B, D]; nothing is known if not given.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(3)))
            >>> weights = torch.randn(4, *model.banks[0].shape)
            >>> given = Conditioned(model, {"banks.0": weights}, rows=4)
            >>> given.marginals().shape
            torch.Size([4, 2, 3])
        """
        return self.model.marginals(self.evidence(evidence))

    def mean(self, evidence: Evidence | Numbers | None = None) -> Tensor:
        """Posterior means [B, D]; see `CompiledCircuit.mean`.

        Args:
            evidence: rows [B, D]; nothing is known if not given.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(3)))
            >>> weights = torch.randn(4, *model.banks[0].shape)
            >>> given = Conditioned(model, {"banks.0": weights}, rows=4)
            >>> given.mean().shape
            torch.Size([4, 2])
        """
        return self.model.mean(self.evidence(evidence))

    def mpe(self, evidence: Evidence | Numbers | None = None) -> MPE:
        """The most probable completion of every row; see `CompiledCircuit.mpe`.

        Args:
            evidence: rows [B, D]; nothing is known if not given.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(3)))
            >>> weights = torch.randn(4, *model.banks[0].shape)
            >>> given = Conditioned(model, {"banks.0": weights}, rows=4)
            >>> given.mpe().values.shape
            torch.Size([4, 2])
        """
        return self.model.mpe(self.evidence(evidence))


class _Network(nn.Module):
    """From features to a delta of every parameter that differs by row."""

    def __init__(
        self,
        model: CompiledCircuit,
        features: int,
        hidden: list[int],
        rank: int | None,
        per_row: list[str],
    ) -> None:
        super().__init__()
        widths, shapes, units = [features, *hidden], model.parameter_shapes, _units(model)
        for number, width in enumerate(widths):
            check_whole(f"hidden[{number - 1}]" if number else "features", width)
        if rank is not None:
            check_whole("rank", rank)
        for name in per_row:
            SettingError.check("per_row", name, f"among {', '.join(shapes)}", shapes.__contains__)
        layers = ([nn.Linear(*pair), nn.SiLU()] for pair in pairwise(widths))
        self.body = nn.Sequential(*(layer for pair in layers for layer in pair))
        self.names = tuple(per_row)
        self.deltas = nn.ModuleList(
            _Delta(widths[-1], shapes[name], rank, units.get(name)) for name in per_row
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Deltas [B, *shape] by name."""
        hidden = self.body(features)
        return {name: delta(hidden) for name, delta in zip(self.names, self.deltas, strict=True)}


class _Delta(nn.Module):
    """From what a network says of a row to what is added to a parameter of some shape."""

    unit: Tensor

    def __init__(
        self, width: int, shape: torch.Size, rank: int | None, unit: Tensor | None
    ) -> None:
        super().__init__()
        *lead, rows, columns = shape
        low = rank if rank and rank * (rows + columns) < rows * columns else 0
        self.shape = shape
        self.left_shape, self.right_shape = (*lead, rows, low or columns), (*lead, columns, low)
        self.left = nn.Linear(width, math.prod(self.left_shape), bias=False)
        nn.init.zeros_(self.left.weight)
        self.right = nn.Linear(width, math.prod(self.right_shape)) if low else None
        if self.right is not None:  # near one: at first the means of all units move together
            nn.init.normal_(self.right.bias, 1.0, 0.5)
        self.register_buffer("unit", torch.ones(()) if unit is None else unit)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, W] to [B, *shape]."""
        found: Tensor = self.left(hidden).unflatten(1, self.left_shape)
        if self.right is not None:
            found = found @ self.right(hidden).unflatten(1, self.right_shape).mT  # [B, ..., M, N]
        return self.unit * found.view(-1, *self.shape)


@torch.no_grad()
def _units(model: CompiledCircuit) -> dict[str, Tensor]:
    """By name of the parameters that are locations, the scale of every one of them."""
    names = list(model.parameter_shapes)
    return {names[bank]: scale.clone() for bank, scale in scales(model.engine).items()}


def _order(model: CompiledCircuit) -> list[int]:
    """The places among the circuit's parameters of those in the banks, one after another."""
    place = {parameter: n for n, parameter in enumerate(model.engine.structure.parameters)}
    return [place[parameter] for bank in model.engine.plan.banks for parameter in bank]
