"""A clip in overlapping tiles of time, height and width, chunk of frames by chunk of frames."""

from collections.abc import Callable, Iterator

import jax

from ..tiling import Cut, end, exceeds, fade, in_tiles


def in_chunks(
    run: Callable[[jax.Array], jax.Array], x: jax.Array, cuts: tuple[Cut, Cut, Cut]
) -> Iterator[jax.Array]:
    """Runs over tiles of x and yields the result in order of time, as it is finished.

    `run` is called with one tile at a time; a chunk and the frames in which it overlaps the next are all
    that is kept between two of them.

    Args:
      run: of [B, C, T, h, w], a causal map that takes the first frame (and nothing else) for itself.
      x: [B, C, T, H, W].
      cuts: of T, H and W.
    """
    cut, plane = cuts[0], cuts[1:]
    if not exceeds(x.shape[-2:], plane):
        plane = None
    if x.shape[2] <= cut.size:
        yield in_tiles(run, x, plane)
        return
    before = None
    for start in range(0, x.shape[2], cut.stride):
        # The frame before a tile's own goes in with it, for context, and its result is dropped.
        part = x[:, :, start : start + cut.size + 1]
        if start and part.shape[2] == 1:
            return
        y = in_tiles(run, part, plane)
        if before is not None:
            y = fade(before, y[:, :, 1:], overlap=cut.overlap, axis=2)
        before = end(y, cut.overlap, 2)
        yield y[:, :, : cut.kept + (start == 0)]
