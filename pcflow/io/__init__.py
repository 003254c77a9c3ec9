"""Circuits as files, without pickles: our own, and PSDDs with their vtrees."""

from pcflow.io.container import pack, read_file, unpack, write_file
from pcflow.io.description import digest
from pcflow.io.native import load, save
from pcflow.io.psdd import read_psdd, write_psdd

__all__ = [
    "digest",
    "load",
    "pack",
    "read_file",
    "read_psdd",
    "save",
    "unpack",
    "write_file",
    "write_psdd",
]
