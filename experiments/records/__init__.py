"""Records of runs: `record` builds, writes and reads one, `schema` says what it holds,
`versions` how older ones differ, `origin` where it comes from, `folders` keeps them."""

from experiments.records.folders import collect, find, publish
from experiments.records.origin import environment
from experiments.records.record import build, config_hash, read, write
from experiments.records.schema import Record, RecordError
from experiments.records.versions import identity

__all__ = [
    "Record",
    "RecordError",
    "build",
    "collect",
    "config_hash",
    "environment",
    "find",
    "identity",
    "publish",
    "read",
    "write",
]
