"""Errors are typed, say what is wrong, and travel: pickled, copied, from one process to another."""

import copy
import pickle

import pytest

import pcflow as pf


def test_a_setting_error_names_the_argument_the_value_and_what_is_wanted() -> None:
    error = pf.SettingError("alpha", -1, "at least 0")
    assert str(error) == "alpha must be at least 0, got -1"
    assert (error.name, error.value, error.wanted) == ("alpha", -1, "at least 0")
    assert isinstance(error, pf.PcflowError) and isinstance(error, ValueError)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "error",
    [
        pf.SettingError("alpha", -1, "at least 0"),
        pf.NoMassError([3, 5], "sample"),
        pf.NotSmooth("a layer", [(0,), (1, 2)]),
        pf.StructureError("plain"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_pickled_with_message_and_witness(
    error: pf.PcflowError, protocol: int
) -> None:
    error.add_note("in a worker")
    for twin in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(twin) is type(error) and str(twin) == str(error)
        assert vars(twin) == vars(error)
