"""Files beside the page."""

import urllib.parse
from pathlib import Path
from typing import Any

from PIL import Image


class Files:
    """Turns the names of files in a folder into URLs relative to the page.

    Attributes:
      folder: where the page lies.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, name: Any) -> str | None:
        """The quoted URL of an existing file, None for None or for a file that is not there."""
        if not name:
            return None
        name = str(name)
        if name.startswith("/") or "\\" in name or ":" in name or ".." in Path(name).parts:
            raise ValueError(f"file name {name!r} must be relative and inside the page's folder")
        return urllib.parse.quote(name) if (self.folder / name).is_file() else None

    def size(self, name: str) -> tuple[int, int] | None:
        """Width and height of a picture in px, None if it is none."""
        try:
            with Image.open(self.folder / name) as picture:
                return picture.size
        except OSError:
            return None

    def is_broad(self, name: str) -> bool:
        """Whether a picture is more than twice as wide as high."""
        size = self.size(name)
        return size is not None and size[0] > 2 * size[1]
