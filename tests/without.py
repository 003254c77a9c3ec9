"""What runs where a library is not installed: functions for processes of their own.

Nothing is imported here, because it would be there.
"""

import sys


def without_pandas() -> None:
    hide("pandas")
    from pcflow.estimator import CircuitDensity

    density = CircuitDensity(units=2, epochs=2, random_state=0).fit({"a": ["x", "y"] * 9})
    assert len(density.sample(3)["a"]) == 3
    assert list(density.predict_proba({"a": [None]}, "a")) == ["x", "y"]


def without_scikit_learn() -> None:
    """Only the estimator and the digits are missing."""
    hide("sklearn")
    import pcflow

    refused = 0
    for needs in (lambda: __import__("pcflow.estimator"), pcflow.datasets.read_digits):
        try:
            needs()
        except ImportError as error:
            assert "pip install 'pcflow[sklearn]'" in str(error)
            refused += 1
    assert refused == 2


def hide(library: str) -> None:
    """As if it were not installed; nobody has it yet."""
    assert not any(name == library or name.startswith(f"{library}.") for name in sys.modules)
    sys.modules[library] = None  # type: ignore[assignment]
