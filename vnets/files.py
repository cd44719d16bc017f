"""Files that are written whole or not at all, and names that may be part of a path."""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/")  # gs://, s3://; a drive has one letter


class FileError(ValueError):
    """A file that cannot be trusted, or could not be written; the message names it."""


def part(what: str, name: object) -> str:
    """The name, if it can be a folder or the begin of a file's name, and no more.

    Args:
      what: it names, for the message.
      name: from a config, a record or a file, which may be a stranger's.

    Raises:
      ValueError: it is no text of letters, digits and _ . + -, or begins with one of
        the last three: it could lead out of the folder that it is put into.
    """
    if not (isinstance(name, str) and PART.fullmatch(name)):
        raise ValueError(
            f"{what} {name!r} is no name: a name has letters, digits, '_', and after "
            "the first also '.', '+', '-'; 128 at most"
        )
    return name


def local(path: str | os.PathLike) -> Path:
    """The path, if it is one of a file system.

    Raises:
      FileError: it is the address of a bucket, such as gs://mine/run.
    """
    if ADDRESS.match(os.fspath(path)):  # a Path has taken one of two slashes away
        raise FileError(
            f"{path} is no folder: files are locked and renamed, which object storage "
            "cannot do; take a disk, and copy from and to the bucket"
        )
    return Path(path)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when all is written, or not at all.

    It lies beside it, under a name that nobody can guess, and is made anew: a link that
    somebody put there is never followed, and a link at `path` is replaced.

    Raises:
      OSError: the file system refuses; what stood at `path` before is still there.
    """
    path = Path(path)
    unguessed = f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}.tmp"
    temporary = path.with_name(unguessed)
    with temporary.open("xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replaces the file at `path` atomically, or raises FileError naming it."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def read_text(path: str | os.PathLike) -> str:
    """The text of a regular file; a FIFO, which may wait for ever, is refused.

    Raises:
      OSError: it is none, or cannot be read; UnicodeDecodeError: it is no UTF-8.
    """
    require_file(path)
    return Path(path).read_text(encoding="utf-8")


def require_file(path: str | os.PathLike) -> None:
    """Refuses what is there and is no regular file, such as a FIFO.

    Raises:
      OSError: it is none.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def unlinked(path: str, flags: int) -> int:
    """An `opener` for `open` that refuses a link, for files that are appended to.

    Raises:
      OSError: the path is a symbolic link, or cannot be opened.
    """
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
