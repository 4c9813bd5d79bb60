"""Identifies the files that a run has read, so that a file replaced under its name is noticed."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_WHOLE = 64 * 2**20
"""Bytes up to which a file is known by all of its content: a tenth of a second to read."""


def identity(path: Path) -> str:
    """What tells the content of a file from another's, whatever its name and however it was reached.

    Up to 64 MiB it is the content's hash. A larger file is known by its size, its time of change, and the hash of its
    first MiB, where the header of weights lies.
    """
    state = path.stat()
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_WHOLE if state.st_size <= _WHOLE else 2**20))
    known = f"sha256 {digest.hexdigest()[:16]}"
    if state.st_size <= _WHOLE:
        return known
    return f"{known} of the first MiB, {state.st_size} bytes, changed at {state.st_mtime_ns} ns"


def identities(files: Iterable[Path], root: Path) -> dict[str, str]:
    """`identity` of files by their name below `root`, or their bare name elsewhere."""
    root = root.absolute()
    found = {}
    for path in files:
        path = path.absolute()
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        found[name] = identity(path)
    return dict(sorted(found.items()))
