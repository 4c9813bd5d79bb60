import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.hunyuan_video_vae import layers
from models.layers import GroupNorm


@pytest.mark.parametrize(
    ("frames", "tokens", "block"), [(1, 6, 6), (3, 6, 6), (2, 600, 300), (3, 1025, 342)]
)
def test_frame_causal_mask_keeps_own_and_earlier_frames(frames, tokens, block):
    mask = layers.frame_causal_mask(frames, tokens)
    assert mask.block_q == mask.block_kv == block
    padded = mask.num_q_blocks * block // frames
    keep = np.asarray(mask.to_dense())[0, 0].repeat(block, 0).repeat(block, 1)
    frame = np.repeat(np.arange(frames), padded)
    np.testing.assert_array_equal(keep, frame[:, None] >= frame[None])
    real = np.tile(np.arange(padded) < tokens, frames)
    if mask.q_lengths is None:
        assert real.all()
    else:
        length = frames * padded
        np.testing.assert_array_equal(mask.real_queries(length)[0, 0], real)
        np.testing.assert_array_equal(mask.real_keys(length)[0, 0], real)


@pytest.mark.parametrize("max_block", [512, 4])  # one block a frame; three, the last one ragged
def test_attention_is_masked_softmax(monkeypatch, key, max_block):
    monkeypatch.setattr(layers, "_MAX_BLOCK", max_block)
    module = layers.FrameCausalAttention(8, groups=2, dtype=jnp.float32, rngs=nnx.Rngs(1))
    module.group_norm.scale[...] = jnp.linspace(1.0, 3.0, 8)
    x = jax.random.normal(key, (2, 3, 2, 5, 8))
    got = jax.jit(lambda module, x: module(x))(module, x)

    y = np.asarray(module.group_norm(x), np.float64).reshape(2, 30, 8)
    q, k, v = (
        y @ np.asarray(linear.kernel[...]) + np.asarray(linear.bias[...])
        for linear in (module.to_q, module.to_k, module.to_v)
    )
    frame = np.arange(30) // 10
    logits = np.where(frame[:, None] >= frame, q @ k.swapaxes(1, 2) / np.sqrt(8), -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    out = (weights / weights.sum(-1, keepdims=True)) @ v
    out = out @ np.asarray(module.to_out[0].kernel[...])
    want = np.asarray(x) + out.reshape(x.shape)
    np.testing.assert_allclose(got, want, atol=5e-6)
    dense = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(8))
    dense = (dense / dense.sum(-1, keepdims=True)) @ v @ np.asarray(module.to_out[0].kernel[...])
    assert np.abs(dense.reshape(x.shape) - out.reshape(x.shape)).max() > 1e-2  # the mask matters


def ones_conv(strides=(1, 1, 1)):
    """A convolution that takes sums, so that what it sees can be counted."""
    module = layers.CausalConv(1, 1, 3, strides=strides, dtype=jnp.float32, rngs=nnx.Rngs(0))
    module.conv.kernel[...] = jnp.ones((3, 3, 3, 1, 1))
    return module


def test_convolution_repeats_edges_and_looks_back_only():
    video = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 3, 5, 1)), jnp.float32)
    padded = np.pad(np.asarray(video[0, ..., 0]), ((2, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3)).sum((-3, -2, -1))
    np.testing.assert_allclose(ones_conv()(video)[0, ..., 0], windows, atol=1e-5)
    np.testing.assert_allclose(
        ones_conv((2, 1, 2))(video)[0, ..., 0], windows[::2, :, ::2], atol=1e-5
    )


def test_upsample_repeats_all_but_the_first_frame():
    module = layers.Upsample(1, factors=(2, 2, 2), dtype=jnp.float32, rngs=nnx.Rngs(0))
    module.conv.conv.kernel[...] = jnp.zeros((3, 3, 3, 1, 1)).at[2, 1, 1].set(1.0)  # identity
    video = (
        jnp.arange(3.0)[None, :, None, None, None]
        + jnp.asarray([0.0, 0.5])[None, None, None, :, None]
    )
    out = module(video)
    assert out.shape == (1, 5, 2, 4, 1)
    np.testing.assert_array_equal(out[0, :, 0, 0, 0], [0, 1, 1, 2, 2])
    np.testing.assert_array_equal(out[0, 0, 1, :, 0], [0, 0, 0.5, 0.5])
    assert module(video[:, :1]).shape == (1, 1, 2, 4, 1)
    wide = layers.Upsample(1, factors=(1, 2, 2), dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert wide(video).shape == (1, 3, 2, 4, 1)


def test_shortcut_is_there_where_channels_change(key):
    options = {"groups": 2, "dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    same, wider = layers.ResnetBlock(4, 4, **options), layers.ResnetBlock(4, 8, **options)
    assert same.conv_shortcut is None
    x = jax.random.normal(key, (1, 2, 3, 3, 4))
    for block in (same, wider):
        block.conv2.conv.kernel[...] = jnp.zeros_like(block.conv2.conv.kernel[...])
    np.testing.assert_array_equal(same(x), x)
    np.testing.assert_array_equal(wider(x), wider.conv_shortcut(x))


def test_middle_without_attention_holds_none():
    options = {"groups": 2, "dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    assert len(layers.MidBlock(4, attention=True, **options).attentions) == 1
    assert len(layers.MidBlock(4, attention=False, **options).attentions) == 0


def test_norm_and_activation_round_once_each(key):
    norm = GroupNorm(2, 8, eps=layers.EPS, dtype=jnp.bfloat16)
    x = jax.random.normal(key, (2, 3, 3, 3, 8)).astype(jnp.bfloat16)
    y = norm(x).astype(jnp.float32)
    got = layers.norm_silu(norm, x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, jax.nn.silu(y).astype(jnp.bfloat16))
