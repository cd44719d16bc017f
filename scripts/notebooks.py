"""Runs the notebooks in docs/notebooks and keeps what they show.

python scripts/notebooks.py [NAME ...]
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli
from experiments.config_files import ConfigError


def main(argv: list[str]) -> int:
    from experiments import notebooks

    there = {path.stem: path for path in notebooks.paths()}
    for name in argv[1:]:
        if name not in there:
            raise ConfigError(f"no notebook {name!r}; there are {', '.join(there)}")
    for name in argv[1:] or there:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = notebooks.executed(there[name], Path(folder))
        notebooks.write(there[name], notebook)
        print(f"{there[name]}: {time.monotonic() - began:.0f} seconds")
    return 0


if __name__ == "__main__":
    cli.run(main)
