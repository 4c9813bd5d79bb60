"""The smallest transformer of every family, without weights, and the shapes of its inputs."""

import jax
import jax.numpy as jnp

from models.abstract import without_weights
from models.cogvideox import CogVideoXConfig, CogVideoXTransformer
from models.hunyuan_video import HunyuanVideoConfig, HunyuanVideoTransformer
from models.tiny import TinyConfig, TinyVideoDiT
from models.wan import WanConfig, WanTransformer

TEXT, WIDTH = 8, 24
_SMALL = dict(num_attention_heads=2, attention_head_dim=16, num_layers=1)


def f32(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


_GIVEN = {"timestep": f32(2), "encoder_hidden_states": f32(2, TEXT, WIDTH)}
FAMILIES = {
    "tiny": (
        TinyVideoDiT,
        TinyConfig(dim=32, num_layers=1, num_heads=2, condition_tokens=TEXT, patch=(1, 2, 2)),
        {"hidden_states": f32(2, 4, 8, 12, 1), "timestep": f32(2), "label": f32(2, dtype="int32")},
    ),
    "wan": (
        WanTransformer,
        WanConfig(**_SMALL, ffn_dim=48, text_dim=WIDTH, freq_dim=32),
        {"hidden_states": f32(2, 16, 4, 8, 12), **_GIVEN},
    ),
    "hunyuan_video": (
        HunyuanVideoTransformer,
        HunyuanVideoConfig(
            **_SMALL, num_single_layers=1, num_refiner_layers=1, text_embed_dim=WIDTH,
            pooled_projection_dim=12, rope_axes_dim=(4, 6, 6),
        ),
        {"hidden_states": f32(2, 16, 4, 8, 12), **_GIVEN, "pooled_projections": f32(2, 12),
         "encoder_attention_mask": f32(2, TEXT, dtype="int32"), "guidance": f32(2)},
    ),
    "cogvideox": (
        CogVideoXTransformer,
        CogVideoXConfig(
            **_SMALL, time_embed_dim=16, text_embed_dim=WIDTH, sample_width=12, sample_height=8,
            sample_frames=13, max_text_seq_length=TEXT,
        ),
        {"hidden_states": f32(2, 4, 16, 8, 12), **_GIVEN},
    )}  # fmt: skip


def abstract(family):
    """The model, its inputs' shapes, and the shape of its video, of a family."""
    kind, config, inputs = FAMILIES[family]
    model = without_weights(kind, config, jnp.float32)
    return model, inputs, next(iter(inputs.values())).shape
