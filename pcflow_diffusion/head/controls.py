"""Circuits with controls: variables L, L + 1, ... that stand behind the L token positions.

`pcflow.expose_latents` and `pcflow.add_gates` make them. A coupling is about positions only; what
is not said of controls leaves them summed out.

Legend: B batch, D variables, L positions, C controls, V tokens, S values of a control.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.functional import pad

from pcflow import CheckedEvidence, CompiledCircuit, Evidence, Given


def unsteered(model: CompiledCircuit, visible: Evidence) -> Evidence:
    """Observations of the L positions, with nothing known of the controls behind them."""
    values, missing = observed(visible)
    behind = model.num_variables - values.shape[1]
    return Evidence(pad(values, (0, behind)), pad(missing, (0, behind), value=True))


def steered(coupled: Evidence, controls: Tensor | None) -> Evidence:
    """Evidence with potentials about the L positions, and log-potentials [B, C, S] of controls."""
    if controls is None:
        return coupled
    potentials, (values, missing) = coupled.potentials, observed(coupled)
    assert potentials is not None
    behind = controls.shape[1]
    known = Evidence(pad(values, (0, behind)), pad(missing, (0, behind), value=True))
    return known.with_potentials(potentials.beside(controls))


@dataclass(frozen=True, eq=False)
class Steering:
    """What steers the circuit in every row, if anything does.

    Args:
        model: the circuit.
        controls: log-potentials of its controls, [B, C, S].
        parameters: some of its parameters, [B, *shape].
    """

    model: CompiledCircuit
    controls: Tensor | None = None
    parameters: Mapping[str | nn.Parameter, Tensor] | None = None

    def __bool__(self) -> bool:
        """Whether anything does."""
        return self.controls is not None or self.parameters is not None

    def at(self, rows: Tensor) -> Steering:
        """That of some rows, by their places."""
        controls = None if self.controls is None else self.controls[rows]
        own = self.parameters
        own = None if own is None else {name: given[rows] for name, given in own.items()}
        return replace(self, controls=controls, parameters=own)

    def of(self, coupled: Evidence) -> Evidence:
        """Evidence about the L positions, steered."""
        if self.parameters is not None:
            return self.model.evidence(coupled, parameters=self.parameters)
        return steered(coupled, self.controls)


def with_tokens(coupled: Evidence, tokens: Tensor, known: Tensor) -> Evidence | Tensor:
    """The known ones of the tokens [B, L] observed; of the rest and of controls, what is said."""
    if isinstance(coupled, CheckedEvidence) and coupled.parameters is not None:
        return coupled.observing(tokens, known)  # with the parameters of its rows
    potentials = coupled.log_potentials
    assert potentials is not None
    behind = potentials.shape[1] - tokens.shape[1]
    if behind == 0 and bool(known.all()):
        return tokens
    missing = pad(~known, (0, behind), value=True)
    return Evidence(pad(tokens, (0, behind)), missing, potentials, coupled.categories)


def observed(coupled: Evidence) -> tuple[Tensor, Tensor]:
    """Values and missing [B, D] of evidence that has both, as that of `Marginals` does."""
    assert coupled.values is not None and coupled.missing is not None
    return coupled.values, coupled.missing


def token_marginals(
    model: CompiledCircuit | Given,
    evidence: Evidence | Tensor,
    length: int,
    listed: Tensor | None = None,
) -> Tensor:
    """Posterior log-probabilities [B, L, V] of the positions; or [B, L, k] of listed tokens.

    `listed` [B, D, k] is given for controls as well, and not read there.
    """
    found = model.marginals(evidence, listed)[:, :length]
    if isinstance(model, Given):  # where there are no controls, and all variables alike
        return found
    tokens = max(size or 0 for size in model.num_categories[:length])
    return found[..., :tokens]
