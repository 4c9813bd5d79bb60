"""Writes files that exist completely or not at all, and never replace another file."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

_BESIDE = (
    32  # bytes that names derived from an output's may be longer: NAME-dense.run.safetensors.part
)


def check_new(path: str | Path) -> None:
    """Refuses a name that could not be written later, by writing an empty file of that name in a passing folder.

    Folders that `path` lacks are not made. Whether `path` exists is not looked at.

    Raises:
      ValueError: the name is none, or is not legal here.
      OSError: a folder on the way is a file, or nothing may be written there.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise ValueError(f"{str(path)!r} names no file; add a name")
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r} holds a zero byte, which no file name may; leave it out")
    near = path.parent
    while not os.path.exists(near):  # unlike Path.exists it takes names that are too long
        if os.path.islink(near):
            raise FileNotFoundError(
                f"{near} is a link to nowhere; mend it or choose another folder"
            )
        near = near.parent
    if not near.is_dir():
        raise NotADirectoryError(f"{near} is a file, so {path} cannot be; choose another folder")
    # A folder of its own: other processes that check the same name at the same time do not meet.
    trial = near / f".{uuid.uuid4().hex}"
    try:
        trial.mkdir()
        inside = trial / path.relative_to(near)
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.with_name(inside.name + _BESIDE * "x").touch()
    except OSError as problem:
        raise type(problem)(
            f"{path} cannot be written ({problem.strerror}); choose another name or folder"
        ) from problem
    finally:
        shutil.rmtree(trial, ignore_errors=True)


@contextlib.contextmanager
def written_whole(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """A name beside `path` for a file or folder that becomes `path` where the block ends without an exception.

    Folders that `path` lacks are made.

    Args:
      path: the name in the end.
      replace: let the new file take the place of one that is there.

    Raises:
      FileExistsError: `path` is there and must stay.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is safe for every program: no colon, dash or percent sign of the user's is in it.
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        if not replace and os.path.lexists(path):
            raise FileExistsError(f"{path} exists and is not overwritten; choose another name")
        os.replace(part, path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def free_name(path: str | Path) -> Path:
    """`path`, or the first of NAME-2, NAME-3, ... that is not there."""
    path = free = Path(path)
    number = 1
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free
