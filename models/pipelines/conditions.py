"""The inputs of a transformer beside the latents, made from a prompt's embeddings."""

import dataclasses

import jax
import jax.numpy as jnp

from models.text_embeddings import TextEmbeddings
from pallas_kernels._pytree import pytree


@pytree
class Conditions:
    """The inputs that stay the same over a run, for each row of the transformer's batch.

    With classifier-free guidance each clip has two rows: first all clips with their prompts (or classes), then all
    with the negative prompt (or no class).

    Attributes:
      inputs: further keyword arguments of the transformer, [rows, ...].
      image: latents that are joined to the noisy ones along the channels (image to video), or None.
      guidance: float32 scalar, the scale of classifier-free guidance; None: no second row.
      rotary: tables of the latent grid, without a batch axis (CogVideoX), or None.
    """

    inputs: dict[str, jax.Array]
    image: jax.Array | None = None
    guidance: jax.Array | None = None
    rotary: tuple[jax.Array, jax.Array] | None = None

    @property
    def rows(self) -> int:
        """Rows of the transformer's batch."""
        return next(iter(self.inputs.values())).shape[0]


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
            + "; make them with this model's own encoders: python -m experiments.make_text_embeddings"
        )
    shapes = [arrays[n].shape[1:] for n in names]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"{name} are {list(shapes[0])} a prompt and {names[1]} {list(shapes[1])}; both must be of one length, so "
            "make them in one call of the text encoder"
        )
    return jnp.concatenate([arrays[n][:1] for n in names])


def fill_text(text: TextEmbeddings, tokens: int) -> TextEmbeddings:
    """Embeddings of `tokens` tokens, zero after the prompt: for pipelines that fill with zeros themselves (Wan's).

    What a mask hides becomes zero; without a mask everything is the prompt's.

    Raises:
      ValueError: there are more tokens.
    """
    arrays, filled = text.arrays(), {}
    for sign in ("", "negative_"):
        embeds, mask = (arrays.get(f"{sign}prompt_{n}") for n in ("embeds", "attention_mask"))
        if embeds is None:
            continue
        rest = tokens - embeds.shape[1]
        if rest < 0:
            raise ValueError(
                f"{sign}prompt_embeds have {embeds.shape[1]} tokens, and the transformer takes at most {tokens}: make "
                f"them again with python -m experiments.make_text_embeddings --max-length {tokens}"
            )
        if mask is not None:
            embeds = jnp.where(mask[..., None] > 0, embeds, jnp.zeros((), embeds.dtype))
            filled[f"{sign}prompt_attention_mask"] = jnp.pad(mask, [(0, 0), (0, rest)])
        filled[f"{sign}prompt_embeds"] = jnp.pad(embeds, [(0, 0), (0, rest), (0, 0)])
    return dataclasses.replace(text, **filled)


def check_not_hunyuan(text: TextEmbeddings) -> None:
    """ValueError if the embeddings are of encoders whose states are as wide as T5's and mean something else."""
    if text.pooled_projections is not None:
        raise ValueError(
            "the embeddings have pooled_projections, so they are HunyuanVideo's; make them with this model's own text "
            "encoder: python -m experiments.make_text_embeddings"
        )


def check_width(name: str, array: jax.Array, width: int) -> None:
    """ValueError unless the last axis of the embeddings called `name` is this transformer's."""
    if array.shape[-1] != width:
        raise ValueError(
            f"{name} are {array.shape[-1]} wide, but this transformer takes {width}; make them with its own encoders: "
            "python -m experiments.make_text_embeddings"
        )
