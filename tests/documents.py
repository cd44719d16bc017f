"""The code blocks of a document, and a process to run them in as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.waiting import HANG

ROOT = Path(__file__).resolve().parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """What stands between ```language and ```, in order."""
    return re.findall(rf"```{language}\n(.*?)```", text(name), re.DOTALL)


def printed(code: str, folder: Path) -> list[str]:
    """Lines that the code prints in a process of its own: one device, as readers have.

    Raises:
      CalledProcessError: the code fails.
    """
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    paths = (str(ROOT), env.get("PYTHONPATH", ""))
    env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG,
    )
    return done.stdout.splitlines()
