"""Turns prompts into embeddings as each video model does: cleaning, lengths, masks, and the values of padding."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from models.text_embeddings import TextEmbeddings
from models.tokenizer import clean_prompt

from .model import T5Encoder

Tokenizer = Callable[[Sequence[str], int], tuple[np.ndarray, np.ndarray]]


def encode_wan_prompts(
    tokenizer: Tokenizer,
    encoder: T5Encoder,
    prompts: Sequence[str],
    *,
    negative_prompts: Sequence[str] | None = None,
    max_length: int = 512,
) -> TextEmbeddings:
    """What Wan's transformers take: cleaned prompts, padding hidden from them and its states zero.

    The transformer attends to the zero rows too, so `max_length` is part of the model: 512.

    Args:
      tokenizer: `load_tokenizer(checkpoint / "tokenizer")`.
      negative_prompts: one a prompt; "" where there is nothing to avoid. None without guidance.

    Reference: diffusers' `WanPipeline._get_t5_prompt_embeds` (its default length is 226, its calls use 512).
    """

    def encode(prompts):
        ids, mask = tokenizer([clean_prompt(prompt) for prompt in prompts], max_length)
        states = _encode(encoder, ids, mask)
        mask = jnp.asarray(mask)
        return jnp.where(mask[..., None] > 0, states, jnp.zeros((), states.dtype)), mask

    _check(prompts, negative_prompts)
    embeds, mask = encode(prompts)
    if negative_prompts is None:
        return TextEmbeddings(prompt_embeds=embeds, prompt_attention_mask=mask)
    negative_embeds, negative_mask = encode(negative_prompts)
    return TextEmbeddings(
        prompt_embeds=embeds,
        prompt_attention_mask=mask,
        negative_prompt_embeds=negative_embeds,
        negative_prompt_attention_mask=negative_mask,
    )


def encode_cogvideox_prompts(
    tokenizer: Tokenizer,
    encoder: T5Encoder,
    prompts: Sequence[str],
    *,
    negative_prompts: Sequence[str] | None = None,
    max_length: int = 226,
) -> TextEmbeddings:
    """What CogVideoX's transformers take: prompts as they are, padding seen and encoded like text.

    Neither the encoder nor the transformer masks it, so there is no mask here, and `max_length` is part
    of the model: `max_text_seq_length` of the transformer's config.json.

    Reference: diffusers' `CogVideoXPipeline._get_t5_prompt_embeds`.
    """

    def encode(prompts):
        ids, _ = tokenizer(prompts, max_length)
        return _encode(encoder, ids, None)

    _check(prompts, negative_prompts)
    return TextEmbeddings(
        prompt_embeds=encode(prompts),
        negative_prompt_embeds=None if negative_prompts is None else encode(negative_prompts),
    )


def _encode(encoder: T5Encoder, ids: np.ndarray, mask: np.ndarray | None) -> jax.Array:
    """States [B, L, D], one row after the other, so that memory does not grow with B; equal rows once."""
    vocabulary = encoder.config.vocab_size
    if ids.max() >= vocabulary:
        raise ValueError(
            f"the tokenizer gives id {ids.max()}, but the text encoder's vocabulary is {vocabulary}; take both from "
            "one checkpoint"
        )
    rows: dict[bytes, jax.Array] = {}
    for i, row in enumerate(ids):
        if row.tobytes() not in rows:
            own = None if mask is None else jnp.asarray(mask[i : i + 1])
            rows[row.tobytes()] = _states(encoder, jnp.asarray(row[None]), own)
    return jnp.concatenate([rows[row.tobytes()] for row in ids])


@jax.jit
def _states(encoder: T5Encoder, ids: jax.Array, mask: jax.Array | None) -> jax.Array:
    return encoder(ids, mask)


def _check(prompts: Sequence[str], negative_prompts: Sequence[str] | None) -> None:
    """A string would be taken letter by letter."""
    if isinstance(prompts, str):
        raise TypeError(f"prompts={prompts!r} must be a list of strings, one a row")
    if negative_prompts is None:
        return
    if isinstance(negative_prompts, str) or len(negative_prompts) != len(prompts):
        raise ValueError(
            f"negative_prompts={negative_prompts!r} must be a list of {len(prompts)}, one a prompt"
        )
