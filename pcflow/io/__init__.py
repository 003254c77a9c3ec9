"""Files: circuits in and out, without pickles."""

from pcflow.io.native import load, save

__all__ = ["load", "save"]
