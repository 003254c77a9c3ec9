"""Files, never pickles: circuits in our own format and in others', PSDDs and vtrees, CNFs."""

from pcflow.io.container import Container, pack, read_file, unpack, write_file
from pcflow.io.description import digest
from pcflow.io.dimacs import read_dimacs, write_dimacs
from pcflow.io.files import read_bytes, replace_file
from pcflow.io.formulas import read_nnf, read_sdd
from pcflow.io.juice import read_juice
from pcflow.io.native import MALFORMED, load, save
from pcflow.io.psdd import read_psdd, write_psdd
from pcflow.io.uai import Network, read_uai

__all__ = [
    "MALFORMED",
    "Container",
    "Network",
    "digest",
    "load",
    "pack",
    "read_bytes",
    "read_dimacs",
    "read_file",
    "read_juice",
    "read_nnf",
    "read_psdd",
    "read_sdd",
    "read_uai",
    "replace_file",
    "save",
    "unpack",
    "write_dimacs",
    "write_file",
    "write_psdd",
]
