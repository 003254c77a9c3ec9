"""Check what you rely on, over circuits that Hypothesis invents; runs in pytest or by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcflow as pf
from pcflow.testing import circuits, enumerate_log_prob, evidence

settings.register_profile("patient", deadline=None)  # the first example also warms torch up
settings.load_profile("patient")


def chance_that_any_is_one(model: pf.CompiledCircuit) -> float:
    """Your own query: one minus the probability that every variable is zero."""
    return 1.0 - model.log_prob(torch.zeros(1, model.num_variables)).exp().item()


@given(circuits())
def test_your_query_against_every_state(circuit: pf.Circuit) -> None:
    """The oracle adds up states, so it shares nothing with what is tested."""
    model = pf.compile(circuit, dtype=torch.float64)
    nothing = torch.full((1, circuit.num_variables), torch.nan)
    total = enumerate_log_prob(circuit, nothing).exp().item()
    zeros = enumerate_log_prob(circuit, torch.zeros(1, circuit.num_variables)).exp().item()
    assert chance_that_any_is_one(model) == pytest.approx(total - zeros, abs=1e-9)


@given(st.data(), circuits())
def test_observing_more_never_makes_evidence_likelier(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    """A law that any tractable marginal must obey."""
    model = pf.compile(circuit, dtype=torch.float64)
    known = data.draw(evidence(circuit, potentials=False))
    values = known.values.double().nan_to_num(0.0)  # zero where it was missing
    more = pf.Evidence(values, torch.zeros_like(known.missing))
    assert (model.log_prob(more) <= model.log_prob(known) + 1e-9).all()


if __name__ == "__main__":
    test_your_query_against_every_state()
    test_observing_more_never_makes_evidence_likelier()
    print("both laws hold on every circuit tried")
