"""Heads as files: the circuit's own, which holds a modulation's weights and JSON for the rest."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from torch import nn

from pcflow import Automaton, CompiledCircuit, Container, PcflowError, load, save
from pcflow_diffusion.errors import CheckpointError
from pcflow_diffusion.head.coupling import Coupling, LogLinear, Projection
from pcflow_diffusion.head.modulation import Modulation
from pcflow_diffusion.head.transitions import TransitionModulation

FORMAT = "pcflow_diffusion.head.2"
MODULATION, RULE, TOLD = "modulation.", "constraint.", "pcflow_diffusion"
SETTINGS = ("mask_token_id", "top_k", "tokenizer")
PARTS = ("classes", "next", "accept")
KINDS: dict[str, type[Any]] = {"LogLinear": LogLinear, "Projection": Projection}
STEERING: dict[str, type[Any]] = {
    "Modulation": Modulation,
    "TransitionModulation": TransitionModulation,
}

Json = dict[str, Any]
StrPath = str | os.PathLike[str]

# what reading a description that is not one can end in
_MALFORMED = (
    PcflowError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def write_head(
    path: StrPath,
    model: CompiledCircuit,
    coupling: Coupling,
    modulation: nn.Module | None,
    constraint: Automaton | None,
    settings: Json,
    dtype: torch.dtype | None = None,
) -> None:
    """Write what a head is made of; see `CircuitHead.save`.

    Args:
        path: the file.
        model: the circuit.
        coupling: a `LogLinear` or a `Projection`.
        modulation: a `Modulation` or `TransitionModulation`, if there is one.
        constraint: the rule, if there is one.
        settings: what else `CircuitHead` is given, of what JSON has.
        dtype: see `pcflow.save`.
    """
    told: Json = {"format": FORMAT, "settings": settings}
    told["coupling"], weights = _described_coupling(coupling), {}
    if modulation is not None:
        told["modulation"] = _described_modulation(modulation)
        weights = {f"{MODULATION}{name}": w for name, w in modulation.state_dict().items()}
    if constraint is not None:
        told["constraint"] = {"start": constraint.start}
        weights |= {f"{RULE}{part}": getattr(constraint, part).long() for part in PARTS}
    save(model, path, {TOLD: json.dumps(told)}, weights, dtype=dtype)


def read_head(path: StrPath, device: torch.device | str | None) -> Json:
    """What `CircuitHead` is given for the head of a file.

    Raises:
        CheckpointError: if it is truncated, of another format, or contradicts itself.
        OSError: if it cannot be read.
    """
    try:
        file = Container(path)
        told = file.told(TOLD)
        if told["format"] != FORMAT:
            raise ValueError(f"it has format {told['format']!r}, not {FORMAT!r}")
        settings = {name: told["settings"][name] for name in SETTINGS}
        if len(told["settings"]) > len(SETTINGS):
            raise ValueError(f"it has settings beside {SETTINGS}")
        return {
            "model": load(file, device),
            "coupling": _coupling_of(**told["coupling"]),
            "modulation": _modulation_of(told.get("modulation"), file, device),
            "constraint": _rule_of(told.get("constraint"), file),
            **settings,
        }
    except _MALFORMED as error:
        raise CheckpointError(f"{path} does not describe a head: {error}") from error


def _described_coupling(coupling: Coupling) -> Json:
    kind = type(coupling).__name__
    if KINDS.get(kind) is not type(coupling):
        raise CheckpointError(f"{kind}: only couplings of this package can be kept in a file")
    return {"kind": kind, **vars(coupling)}


def _coupling_of(kind: str, **numbers: Any) -> Coupling:
    several = {name: tuple(n) if isinstance(n, list) else n for name, n in numbers.items()}
    found: Coupling = KINDS[kind](**several)
    return found


def _described_modulation(modulation: nn.Module) -> Json:
    kind = type(modulation).__name__
    if not isinstance(modulation, Modulation | TransitionModulation) or kind not in STEERING:
        raise CheckpointError(f"{kind}: only modulations of this package can be kept in a file")
    return {"kind": kind, **modulation.sizes}


def _rule_of(told: Json | None, file: Container) -> Automaton | None:
    if told is None:
        return None
    parts = {part: file.read(f"{RULE}{part}") for part in PARTS}
    return Automaton(parts["classes"], parts["next"], told["start"], parts["accept"])


def _modulation_of(
    told: Json | None, file: Container, device: torch.device | str | None
) -> nn.Module | None:
    if told is None:
        return None
    kind = STEERING[told.get("kind", "Modulation")]  # the only one that older files have
    sizes = {name: size for name, size in told.items() if name != "kind"}
    names = [name for name in file.shapes if name.startswith(MODULATION)]
    weights = {name.removeprefix(MODULATION): file.read(name) for name in names}
    if sizes["depth"] > len(weights):  # before so many layers are built
        raise ValueError(f"{sizes['depth']} layers in {len(weights)} tensors")
    with torch.device("meta"):
        modulation: nn.Module = kind(**sizes)
    modulation.load_state_dict(weights, assign=True)
    return modulation.to(device)
