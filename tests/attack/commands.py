"""Calls of the scripts, each in a fork of one process that has imported the rest.

Read from stdin as JSON, [[script, arguments], ...]; written to stdout likewise as
[[exit code, stderr], ...]. The process itself starts no device: what is forked may.
"""

import importlib
import json
import os
import runpy
import signal
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STARTS = ("rollouts",)  # gymnax starts a device as it is imported
SECONDS = 120  # a call that takes longer is ended by SIGALRM


def called(script: str, arguments: list[str]) -> tuple[int, str]:
    """Exit code (minus the signal, where one ended it) and stderr of a call."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            signal.alarm(SECONDS)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            _run(script, arguments)
        _, status = os.waitpid(child, 0)
        err.seek(0)
        text = err.read().decode(errors="replace")
    return os.waitstatus_to_exitcode(status), text


def _run(script: str, arguments: list[str]) -> None:
    """Runs a script as Python does it; does not come back."""
    path = str(ROOT / "scripts" / f"{script}.py")
    sys.argv = [path, *arguments]
    code = 0
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for path in sorted((ROOT / "experiments").glob("[!_]*.py")):
        if path.stem not in STARTS:
            importlib.import_module(f"experiments.{path.stem}")
    lines = json.load(sys.stdin)
    json.dump([called(*line) for line in lines], sys.stdout)
