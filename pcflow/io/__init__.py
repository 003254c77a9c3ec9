"""Files: circuits in and out, without pickles."""

from pcflow.io.native import load, save
from pcflow.io.psdd import read_psdd, write_psdd

__all__ = ["load", "read_psdd", "save", "write_psdd"]
