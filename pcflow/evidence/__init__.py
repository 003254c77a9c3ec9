"""Observed, missing, soft or bounded, per row and variable: what queries are asked about.

`Evidence` is what users say. `check`, the one door, makes `CheckedEvidence` of it: complete, and
taken by every query as it is.
"""

from pcflow.evidence.domain import Domain
from pcflow.evidence.door import check, check_categories
from pcflow.evidence.evidence import CheckedEvidence, Evidence
from pcflow.evidence.intervals import Intervals
from pcflow.evidence.look import look, send
from pcflow.evidence.numbers import Numbers, as_tensor
from pcflow.evidence.parameters import RowParameters, Totals
from pcflow.evidence.potentials import Potentials
from pcflow.evidence.weighed import Weighed, version_of

__all__ = [
    "CheckedEvidence",
    "Domain",
    "Evidence",
    "Intervals",
    "Numbers",
    "Potentials",
    "RowParameters",
    "Totals",
    "Weighed",
    "as_tensor",
    "check",
    "check_categories",
    "look",
    "send",
    "version_of",
]
