"""Values as JSON: plain types, one canonical text for each, and its hash."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from experiments.records.schema import RecordError

HISTORY_DIGITS = 6
NON_FINITE = ("nan", "inf", "-inf")


def plain(value: Any, where: str) -> Any:
    """Returns `value` in JSON types; raises RecordError naming what has none."""
    if hasattr(value, "to_dict"):  # an ml_collections.ConfigDict is no Mapping
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if getattr(value, "shape", None) == ():  # a NumPy or JAX scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise RecordError(f"{where} has no JSON form: {type(value).__name__} {value!r}")


def shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shortened(item) for item in value]
    return float(f"{value:.{HISTORY_DIGITS}g}") if isinstance(value, float) else value


def decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decoded(item) for item in value]
    return float(value) if value in NON_FINITE else value


def dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(value: Any) -> str:
    return hashlib.sha256(dumps(value).encode()).hexdigest()
