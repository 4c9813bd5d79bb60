"""Reads and checks what a checkpoint's paths hold: folders, downloaded files, objects in JSON."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

_POINTER = b"version https://git-lfs"
_LAYOUT = (
    "give a folder in the layout of diffusers (on the hub often a repository ending in -Diffusers)"
)
_CONVERT = "load it in diffusers (from_pretrained, from_single_file) and write a folder with save_pretrained"
_OTHER_FORMATS = {
    ".gguf": f"GGUF files are quantised and not read: {_LAYOUT}",
    ".onnx": f"ONNX files are not read: {_LAYOUT}",
    ".safetensors": f"single files of the original authors or of ComfyUI are not read: {_LAYOUT}, or {_CONVERT}",
} | dict.fromkeys(
    (".bin", ".pt", ".pth", ".ckpt"),
    f"torch's pickled files are not read: {_LAYOUT}, or {_CONVERT}",
)


def checkpoint_folder(folder: str | Path) -> Path:
    """`folder` with ~ expanded, if there is such a folder.

    Raises:
      FileNotFoundError: there is nothing, or a link that points nowhere.
      NotADirectoryError: it is a file.
    """
    folder = Path(folder).expanduser()
    if is_file(folder):
        remedy = _OTHER_FORMATS.get(folder.suffix, f"give the folder that holds it, or {_LAYOUT}")
        raise NotADirectoryError(f"{folder} is a file, not a folder; {remedy}")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; {_LAYOUT}")
    return folder


def contents(folder: Path) -> str:
    """The end of an error line about a folder that lacks something: what it holds, and what to do."""
    names = sorted(path.name for path in folder.iterdir())
    shown = names[:12] + [f"and {len(names) - 12} more"] * (len(names) > 12)
    return f"{folder} holds {', '.join(shown) or 'nothing'}; {_remedy(folder, names)}"


def is_file(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
      FileNotFoundError: it is a link whose target is not there, as an interrupted download leaves in a hub's cache.
    """
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"{path} is a link that points nowhere ({os.readlink(path)}): the download is incomplete or the cache was "
            "cleared; download it again"
        )
    return path.is_file()


def check_content(path: Path) -> None:
    """ValueError if the file is empty or a Git LFS pointer."""
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        raise ValueError(
            f"{path} is a Git LFS pointer, a few lines that stand for the file; fetch the file itself with git lfs pull"
        )
    if not start:
        raise ValueError(f"{path} is empty; download it again")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file in UTF-8, with or without a byte order mark.

    Raises:
      FileNotFoundError: there is no such file, or a link that points nowhere.
      ValueError: it is not JSON, not an object, or says one name twice; the message has the file.
    """
    if not is_file(path):
        raise FileNotFoundError(f"no file {path}")
    check_content(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as problem:
        raise ValueError(
            f"{path} is not JSON ({problem}); mend it or download it again"
        ) from problem
    if not isinstance(document, dict):
        raise ValueError(
            f"{path} must hold an object, {{...}}, but holds {type(document).__name__}; download it again"
        )
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]:
        raise ValueError(f"{', '.join(twice)} occurs more than once")
    return dict(pairs)


def _remedy(folder: Path, names: list[str]) -> str:
    if snapshots := _snapshots(folder):
        return f"it belongs to a hub's cache; give one of its snapshots: {', '.join(snapshots)}"
    kinds = [Path(name).suffix for name in names]
    return next((why for kind, why in _OTHER_FORMATS.items() if kind in kinds), _LAYOUT)


def _snapshots(folder: Path) -> list[str]:
    """Snapshots of the hub's cache, of the repository in one, or of the folder of one that `folder` is."""
    roots = [folder, folder.parent] if folder.name in ("snapshots", "blobs", "refs") else [folder]
    found = [path for root in roots for path in root.glob("snapshots/*")]
    found = found or list(folder.glob("models--*/snapshots/*"))
    return [str(path) for path in sorted(found) if path.is_dir()][:5]
