"""The chain rule: conditionals and what comes next, against prefixes and enumeration."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.testing import circuits, enumerate_log_prob, evidence, intervals, mixed_families

NAN = torch.nan


def prefixes(known: pf.CheckedEvidence) -> list[pf.Evidence]:
    """What is known of no variable, of the first, of the first two, ..."""
    count = known.values.shape[1]
    found = []
    for end in range(count + 1):
        after = torch.arange(count) >= end
        soft = known.log_potentials
        soft = None if soft is None else soft.masked_fill(after.unsqueeze(-1), 0.0)
        ends = (
            None if t is None else t.masked_fill(after.unsqueeze(-1), NAN)
            for t in (known.lower, known.upper)
        )
        low, high = ends
        found.append(pf.Evidence(known.values, known.missing | after, soft, lower=low, upper=high))
    return found


def differences(log_mass: Tensor) -> Tensor:
    """Of log-masses [D + 1, B], those of conditionals [B, D]; -inf from what is impossible on."""
    found = log_mass.diff(dim=0).t()
    return torch.where(log_mass[:-1].t() > -torch.inf, found, -torch.inf)


@given(st.data())
def test_conditionals_are_ratios_of_prefixes(data: st.DataObject) -> None:
    circuit = data.draw(circuits())
    some = data.draw(evidence(circuit))
    model = pf.compile(circuit, dtype=torch.float64)
    found = model.conditionals(some)
    masses = [enumerate_log_prob(circuit, p) for p in prefixes(model.evidence(some))]
    torch.testing.assert_close(found, differences(torch.stack(masses)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.sum(dim=1), model.log_prob(some), rtol=1e-9, atol=1e-9)
