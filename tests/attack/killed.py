"""`scripts/train.py`, killed at its n-th touch of its workdir, with n from 1 on.

    python tests/attack/killed.py N FOLDER ARGUMENTS...

A touch is what Python's audit tells: a file that is opened, renamed, removed, a folder
that is made or removed. Libraries in other languages are not seen; moments in between
are those of a clock. With N = 0 none kills it.
"""

import os
import runpy
import signal
import sys

TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")


def main() -> None:
    at, folder = int(sys.argv[1]), sys.argv[2]
    touched = 0

    def audit(event: str, arguments) -> None:
        nonlocal touched
        if event not in TOUCHES or not any(
            isinstance(x, str | os.PathLike) and str(x).startswith(folder)
            for x in arguments
        ):
            return
        touched += 1
        if touched == at:
            os.kill(os.getpid(), signal.SIGKILL)

    if at:
        sys.addaudithook(audit)
    sys.argv = ["scripts/train.py", *sys.argv[3:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
