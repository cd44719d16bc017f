"""The versions of a record.

Version 2 holds the whole config of its run. Version 1 left a field of `SINCE_2` out
where it had the value that means what was done before there was such a field. The hash
of a config leaves them out in every version, so that it stays what it was: a study's
config holds the hashes of the configs of its nets, and none could be made anew.
"""

from collections.abc import Mapping
from typing import Any

CURRENT, READABLE = 2, (1, 2)
SINCE_2 = {"precision": "float32", "remat": False, "optimizer.accumulate": 1}


def identity(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What tells a config, in plain types, from others: as version 1 wrote it."""
    for path, before in SINCE_2.items():
        config = _without(config, path.split("."), before)
    return config


def _without(config: Mapping[str, Any], path: list[str], value: Any) -> Mapping:
    name, *inner = path
    if inner and isinstance(config.get(name), Mapping):
        return {**config, name: _without(config[name], inner, value)}
    if not inner and config.get(name) == value:
        return {key: held for key, held in config.items() if key != name}
    return config
