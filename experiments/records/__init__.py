"""Records of runs: `record` builds, writes and reads one, `schema` says what it holds,
`versions` how older ones differ, `origin` where it comes from, `folders` keeps them,
`frames` has them as a data frame."""

# ruff: noqa: F401

from experiments.records.folders import collect, find, publish
from experiments.records.frames import load, rows
from experiments.records.origin import environment
from experiments.records.record import build, config_hash, read, write
from experiments.records.schema import Record, RecordError
from experiments.records.versions import identity
