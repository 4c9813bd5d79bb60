"""What a transformer is called with beside the latents, from a prompt's embeddings."""

import jax
import jax.numpy as jnp

from models.text_embeddings import TextEmbeddings
from pallas_kernels._pytree import pytree


@pytree
class Conditions:
    """What stays the same over a run, for each row of the transformer's batch.

    With classifier-free guidance a clip has two rows: with the prompt, then with the negative prompt.

    Attributes:
      inputs: further keyword arguments of the transformer, [rows, ...].
      image: latents that are joined to the noisy ones along the channels (image to video), or None.
      guidance: float32 scalar, the scale of classifier-free guidance; None: no second row.
      rotary: tables of the canvas, without a batch axis (CogVideoX), or None.
    """

    inputs: dict[str, jax.Array]
    image: jax.Array | None = None
    guidance: jax.Array | None = None
    rotary: tuple[jax.Array, jax.Array] | None = None


def text_rows(text: TextEmbeddings, name: str, guided: bool) -> jax.Array:
    """The array `name` of the prompt, above that of the negative prompt where guidance needs it.

    Raises:
      ValueError: one is missing.
    """
    names = [name, f"negative_{name}"] if guided else [name]
    arrays = text.arrays()
    if missing := [n for n in names if n not in arrays]:
        raise ValueError(
            f"the embeddings lack {' and '.join(missing)}"
            + ("; guidance needs a negative prompt, or set guidance to 1" if guided else "")
        )
    return jnp.concatenate([arrays[n][:1] for n in names])


def check_text(embeds: jax.Array, tokens: int | None, width: int) -> None:
    """ValueError unless embeddings [rows, tokens, width] are this transformer's."""
    if embeds.shape[2] != width or (tokens is not None and embeds.shape[1] != tokens):
        raise ValueError(
            f"the prompt's embeddings have {embeds.shape[1]} tokens of width {embeds.shape[2]}, but this "
            f"transformer takes {tokens or 'any number of'} tokens of width {width}; make them with its "
            "own text encoder"
        )
