"""VideoGrid: the shape of the token sequence that a video transformer attends over."""

import dataclasses

import numpy as np

from pallas_kernels._values import flag, whole


@dataclasses.dataclass(frozen=True)
class VideoGrid:
    """The latent grid: the tokens of a video (frames x height x width), and room for text tokens.

    The sequence is in *raster order*: video token (frame, row, column) has video index ``(frame *
    height + row) * width + column``. Text stands after the video (HunyuanVideo), before it
    (CogVideoX, ``text_first=True``) or is absent (Wan, ``text_len=0``). A still image is
    ``frames=1``.

    Attributes:
      frames: latent frames.
      height: latent rows of a frame.
      width: latent columns of a frame.
      text_len: room for text tokens in the sequence; a batch row may use fewer (`text_lengths`).
      text_first: the text stands before the video.
    """

    frames: int
    height: int
    width: int
    text_len: int = 0
    text_first: bool = False

    def __post_init__(self):
        for name in ("frames", "height", "width", "text_len"):
            counted = whole(
                f"VideoGrid {name}",
                getattr(self, name),
                int(name != "text_len"),
                remedy="count latent tokens after patchify (a still image has frames=1)",
            )
            object.__setattr__(self, name, counted)
        object.__setattr__(self, "text_first", flag("VideoGrid text_first", self.text_first))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        return self.frames, self.height, self.width

    @property
    def num_video_tokens(self) -> int:
        """Video tokens: frames * height * width."""
        return self.frames * self.height * self.width

    @property
    def num_tokens(self) -> int:
        """Length L of the sequence: video tokens and the room for text."""
        return self.num_video_tokens + self.text_len

    @property
    def video_start(self) -> int:
        """Position of the first video token in the sequence."""
        return self.text_len if self.text_first else 0

    @property
    def text_start(self) -> int:
        """Position of the first text token in the sequence."""
        return 0 if self.text_first else self.num_video_tokens

    def token(self, frame: int, row: int, column: int) -> int:
        """Position in the sequence of the video token at (frame, row, column)."""
        return self.video_start + (frame * self.height + row) * self.width + column

    def coordinates(self) -> np.ndarray:
        """(frame, row, column) of each video token in raster order, int64 [num_video_tokens, 3]."""
        return np.stack(np.unravel_index(np.arange(self.num_video_tokens), self.shape), axis=-1)
