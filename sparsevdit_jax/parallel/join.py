"""Joins video and text in one sequence, where the video's tokens are sharded.

The shards of the joint sequence begin at slightly other tokens than the shards of the video. XLA alone would
exchange the whole video for that. Here only the few tokens between those places move.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .mesh import current, held_by, spec


def join(video: jax.Array, text: jax.Array, *, text_first: bool = False) -> jax.Array:
    """[video, text] along the tokens, or [text, video]; sharded like the parts.

    Under a mesh each device receives all of the text, and from its neighbour at most as many video
    tokens as there are text tokens.

    Args:
      video: [B, Lv, ...].
      text: [B, Lt, ...] with the same other axes and dtype.
      text_first: text before the video.
    """
    parts = (text, video) if text_first else (video, text)
    shards, (length, room) = current(), (video.shape[1], text.shape[1])
    if shards is None or shards.tokens == 1:
        return jnp.concatenate(parts, 1)
    n = shards.tokens
    share, joint = -(-length // n), -(-(length + room) // n)
    # Place p of device i's joint share holds video token i joint + p, less the text before it; the
    # device has those from i share on. What is missing lies with its neighbours.
    before = room if text_first else 0
    after = max(0, n * (joint - share) - before)
    if (
        not room or max(before, after) > share
    ):  # as long as a share: a short clip, where it is little
        return jnp.concatenate(parts, 1)

    def body(video, text):
        device = jax.lax.axis_index("seq").astype(np.int32)
        pieces = [video]
        if before:
            pieces.insert(0, held_by(video[:, share - before :], -1, n))
        if after:
            pieces.append(held_by(video[:, :after], 1, n))
        buffer, start = jnp.concatenate(pieces, 1), device * np.int32(joint - share)
        # One window of `joint` tokens; where it would leave the buffer there is text or padding.
        buffer = jnp.pad(buffer, ((0, 0), (0, joint), *((0, 0),) * (video.ndim - 2)))
        window = jax.lax.dynamic_slice_in_dim(buffer, start, joint, axis=1)
        place = device * np.int32(joint) + np.arange(joint, dtype=np.int32)
        which = place - np.int32(0 if text_first else length)
        is_text = (which >= 0) & (which < room)
        taken = jnp.take(text, jnp.clip(which, 0, max(room - 1, 0)), axis=1)
        return jnp.where(is_text.reshape(1, -1, *(1,) * (video.ndim - 2)), taken, window)

    extra = ((0, 0), (0, share * n - length), *((0, 0),) * (video.ndim - 2))
    by_tokens = spec(video.ndim, tokens=1)
    run = jax.shard_map(
        body, in_specs=(by_tokens, spec(text.ndim)), out_specs=by_tokens, check_vma=False
    )
    return run(jnp.pad(video, extra), text)[:, : length + room]
