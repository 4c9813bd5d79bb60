"""T5's encoder, as T5 v1.1 (CogVideoX) and as UMT5 (Wan)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models import layers

from .config import MODEL_TYPES, T5Config, t5_config_from_json, t5_config_to_json
from .weights import ALIASES, IGNORED, KEYS


class T5Encoder(nnx.Module):
    """Token ids to their states: pre-norm blocks of self-attention and a gated feed-forward.

    Compute is in `dtype`, except in float32: norms, softmax, the residual stream (transformers keeps it
    in `dtype`; T5's grows to thousands, where bfloat16 steps by 8 and more), and under float16 the
    second matrix of every feed-forward, weights included, as in transformers.

    Reference: transformers' `T5EncoderModel` and `UMT5EncoderModel`; Raffel et al. (arXiv 1910.10683),
    section 2.1, Shazeer (arXiv 2002.05202) for the gate. No dropout: the encoder is never trained here.
    """

    CLASS_NAMES = tuple(MODEL_TYPES)
    KEYS = KEYS
    ALIASES = ALIASES
    IGNORED = IGNORED
    config_class = T5Config
    read_config = staticmethod(t5_config_from_json)
    write_config = staticmethod(t5_config_to_json)

    def __init__(self, config: T5Config, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype
        self.shared = layers.Embedding(config.vocab_size, config.d_model, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(
            T5Block(
                config,
                has_positions=config.model_type == "umt5" or index == 0,
                dtype=dtype,
                rngs=rngs,
            )
            for index in range(config.num_layers)
        )
        self.final_layer_norm = layers.RMSNorm(
            config.d_model, eps=config.layer_norm_epsilon, dtype=dtype
        )

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array | None = None) -> jax.Array:
        """States of the tokens, [B, L, d_model] in the model's dtype.

        A masked token is hidden from the others as a key. Its own row is computed like any: what
        becomes of it is the caller's convention (see `prompts`). In a row that is masked whole, every
        token attends to all alike, as in transformers.

        The logits of one layer take B * num_heads * L^2 * 4 bytes, at UMT5-XXL's size 64 MiB for each
        prompt of 512 tokens: prompts beyond a few go in several calls.

        Args:
          input_ids: int [B, L], each in [0, vocab_size); not checked, JAX clamps others.
          attention_mask: [B, L], 1 or True for tokens that others may see; None is all of them.
        """
        if input_ids.ndim != 2 or not jnp.issubdtype(input_ids.dtype, jnp.integer):
            raise ValueError(
                f"input_ids {input_ids.dtype}{list(input_ids.shape)} must be integers [batch, tokens]"
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask {list(attention_mask.shape)} must have the shape of input_ids, "
                f"{list(input_ids.shape)}"
            )
        visible = None if attention_mask is None else attention_mask.astype(bool)[:, None, None, :]
        buckets = _buckets(
            input_ids.shape[1],
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
        )
        x = self.shared(input_ids).astype(self.dtype).astype(jnp.float32)
        bias = None
        for block in self.blocks:
            if block.attention.relative_attention_bias is not None:
                bias = block.attention.position_bias(buckets)
            assert bias is not None  # the first block has a table
            x = block(x, bias, visible)
        return self.final_layer_norm(x).astype(self.dtype)


class T5Block(nnx.Module):
    """x + attention(norm(x)), then the same with the feed-forward; x is float32 [B, L, d_model]."""

    def __init__(self, config: T5Config, *, has_positions: bool, dtype, rngs: nnx.Rngs):
        norm = functools.partial(
            layers.RMSNorm, config.d_model, eps=config.layer_norm_epsilon, dtype=dtype
        )
        self.attention_norm = norm()
        self.attention = T5Attention(config, has_positions=has_positions, dtype=dtype, rngs=rngs)
        self.feed_forward_norm = norm()
        self.feed_forward = T5FeedForward(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, bias: jax.Array, visible: jax.Array | None) -> jax.Array:
        """`bias` float32 [H, L, L] of queries and keys; `visible` bool [B, 1, 1, L] or None."""
        x = x + self.attention(self.attention_norm(x), bias, visible).astype(jnp.float32)
        return x + self.feed_forward(self.feed_forward_norm(x)).astype(jnp.float32)


class T5Attention(nnx.Module):
    """softmax(q k^T + bias) v without biases of its own, and without a scale: T5's weights hold it."""

    def __init__(self, config: T5Config, *, has_positions: bool, dtype, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.dtype = dtype
        linear = functools.partial(layers.Linear, bias=False, dtype=dtype, rngs=rngs)
        inner = config.num_heads * config.d_kv
        self.q = linear(config.d_model, inner)
        self.k = linear(config.d_model, inner)
        self.v = linear(config.d_model, inner)
        self.o = linear(inner, config.d_model)
        self.relative_attention_bias = (
            layers.Embedding(
                config.relative_attention_num_buckets, config.num_heads, dtype=dtype, rngs=rngs
            )
            if has_positions
            else None
        )

    def position_bias(self, buckets: jax.Array) -> jax.Array:
        """What is added to the logits, float32 [H, L, L], from the pairs' buckets, int [L, L]."""
        assert self.relative_attention_bias is not None
        return self.relative_attention_bias(buckets).astype(jnp.float32).transpose(2, 0, 1)

    def __call__(self, x: jax.Array, bias: jax.Array, visible: jax.Array | None) -> jax.Array:
        """[B, L, d_model] to the same; arguments as in T5Block."""
        batch, length, _ = x.shape

        def heads(linear):
            return linear(x).reshape(batch, length, self.num_heads, -1).transpose(0, 2, 1, 3)

        logits = jnp.einsum(
            "bhqd,bhkd->bhqk", heads(self.q), heads(self.k), preferred_element_type=jnp.float32
        )
        logits = logits + bias[None]
        if visible is not None:
            logits = jnp.where(visible, logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, -1).astype(self.dtype)
        y = jnp.einsum("bhqk,bhkd->bqhd", weights, heads(self.v))
        return self.o(y.reshape(batch, length, -1))


class T5FeedForward(nnx.Module):
    """(gelu(x W0) * (x W1)) W, GELU by tanh, in float32 between the matrices."""

    def __init__(self, config: T5Config, *, dtype, rngs: nnx.Rngs):
        linear = functools.partial(layers.Linear, bias=False, rngs=rngs)
        self.wi_0 = linear(config.d_model, config.d_ff, dtype=dtype)
        self.wi_1 = linear(config.d_model, config.d_ff, dtype=dtype)
        # float16 ends at 65504, which this product exceeds in trained models.
        self.wo = linear(
            config.d_ff, config.d_model, dtype=jnp.float32 if dtype == jnp.float16 else dtype
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., d_model] to the same, in the dtype of `wo`."""
        gate = jax.nn.gelu(self.wi_0(x).astype(jnp.float32), approximate=True)
        return self.wo(gate * self.wi_1(x).astype(jnp.float32))


def _buckets(length: int, num_buckets: int, max_distance: int) -> jax.Array:
    """Bucket of each pair (query, key), int32 [L, L], from the key's position minus the query's."""
    table = distance_buckets(length, num_buckets, max_distance)
    positions = jnp.arange(length)
    return jnp.asarray(table)[positions[None, :] - positions[:, None] + length - 1]


def distance_buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of each distance from -(length - 1) to length - 1, int32 [2 * length - 1].

    The upper half of the buckets is for keys after the query. In each half, the lower half holds one
    distance each, the rest are spaced logarithmically up to `max_distance`, from where all share the last.
    """
    distance = np.arange(1 - length, length)
    half, exact = num_buckets // 2, num_buckets // 4
    far = np.abs(distance)
    spread = np.log(np.maximum(far, 1) / exact) / math.log(max_distance / exact) * (half - exact)
    # Some distances fall on a boundary, where transformers' float32 gives the whole number: so does this.
    spaced = np.minimum(exact + (spread + 1e-6).astype(np.int32), half - 1)
    return (np.where(far < exact, far, spaced) + half * (distance > 0)).astype(np.int32)
