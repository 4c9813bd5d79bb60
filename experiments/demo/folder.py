"""The demo's folder: a new demo is built beside an earlier one and takes its place when it is finished."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.new_file import check_new

RESULTS = "results.json"


def place_beside(out: Path) -> Path:
    """Where to build the demo that will be `out`; writes nothing.

    Raises:
      ValueError: one of both folders is in use for something else.
      OSError: nothing can be written there.
    """
    out = out.resolve()
    new = out.with_name(f"{out.name}.new")
    check_new(new / RESULTS)
    for folder in (out, new):
        used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if used and not holds_demo(folder):
            raise ValueError(
                f"{folder} is in use and holds no earlier demo's {RESULTS}; choose another --out"
            )
    return new


def holds_demo(folder: Path) -> bool:
    """Whether the folder is that of a demo, finished or not."""
    try:
        return "methods" in json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def begin(new: Path) -> None:
    """Makes the folder of a demo without methods; what an unfinished one left there goes."""
    new.mkdir(parents=True, exist_ok=True)
    for path in new.iterdir():
        if path.name == RESULTS:
            continue  # to the last, so that the folder is a demo's whenever this stops
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    write_results(new, {"methods": []})


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Writes results.json, whole or not at all."""
    part = folder / f"{RESULTS}.part"
    part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(part, folder / RESULTS)


def finish(new: Path, out: Path) -> None:
    """Moves the finished demo to `out`; says so where it replaces an earlier one."""
    out, earlier = out.resolve(), new / "earlier"
    replaces = holds_demo(out)
    if replaces:
        out.rename(earlier)
    new.rename(out)
    if replaces:
        shutil.rmtree(out / earlier.name)
        print(f"replaced the earlier demo in {out}")
