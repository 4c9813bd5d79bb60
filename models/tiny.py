"""TinyVideoDiT: a small video diffusion transformer that trains on a CPU and shows every part of the library.

It is built like the large models: patchify, joint attention over [video, condition] tokens with 3-D RoPE
and QK norm (HunyuanVideo, CogVideoX), adaLN modulation shared by all blocks plus a table per block
(Wan). The condition is a class label; it enters as a few learned tokens after the video and in the
modulation. Differences from the large models: it predicts the clean video (x-prediction, as
arXiv 2511.13720 does for pixels) from which the velocity follows, and because RoPE knows only
relative positions, each token is told how far it is from the grid's six borders.
"""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sparsevdit_jax import SparseAttention, StepContext, VideoGrid
from sparsevdit_jax.parallel import join
from sparsevdit_jax.parallel.mesh import current

from . import layers
from .abstract import without_weights
from .attention import Attention, LayerAttention
from .keys import check_fit, checkpoint_slots
from .patches import patchify, token_shape, unpatchify
from .rope import as_arrays, rope_table
from .stack import layer_attentions, loop_blocks, run_blocks
from .tensors import TensorFiles, fill, read_metadata, write_file
from .transformer import Transformer, TransformerOutput


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Sizes of a `TinyVideoDiT`; the defaults are those of the committed checkpoint."""

    dim: int = 256
    num_layers: int = 6
    num_heads: int = 4
    mlp_ratio: int = 4
    patch: tuple[int, int, int] = (2, 4, 4)
    channels: int = 1
    num_classes: int = 10
    condition_tokens: int = 8

    def __post_init__(self):
        object.__setattr__(self, "patch", tuple(self.patch))  # JSON has lists only
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(
                f"{self.dim=} must be {self.num_heads=} times an even head size; change one of them"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.num_heads

    def grid(self, shape: tuple[int, ...], text_len: int | None = None) -> VideoGrid:
        """See `Transformer.grid`: of videos [B, F, Y, X, C] (or [F, Y, X, C]), condition tokens after the video."""
        if text_len not in (None, self.condition_tokens):
            raise ValueError(
                f"text_len={text_len} must be condition_tokens={self.condition_tokens}, the tokens that a "
                "class has in this model; leave it out"
            )
        size = token_shape(shape[-4:-1], self.patch)
        return VideoGrid(*size, text_len=self.condition_tokens)


def linear(dim_in: int, dim_out: int, operands, rngs: nnx.Rngs, *, start=None) -> layers.Linear:
    """A float32 layer with `operands` of its matmuls; its matrix starts as `start` says, by default with Xavier's."""
    start = start or nnx.initializers.xavier_uniform()
    return layers.Linear(
        dim_in, dim_out, dtype=jnp.float32, operands=operands, kernel_init=start, rngs=rngs
    )


class Block(nnx.Module):
    """One transformer block: modulated joint attention and modulated MLP over [video, condition]."""

    def __init__(self, config: TinyConfig, *, dtype, rngs: nnx.Rngs):
        dim = config.dim
        self.attn = Attention(
            dim,
            config.num_heads,
            fused=True,
            operands=dtype,
            kernel_init=nnx.initializers.xavier_uniform(),
            rngs=rngs,
        )
        self.up = linear(dim, config.mlp_ratio * dim, dtype, rngs)
        self.down = linear(config.mlp_ratio * dim, dim, dtype, rngs)
        self.modulation = nnx.Param(jnp.zeros((6, dim), jnp.float32))

    def __call__(self, x, modulation, rope, *, layer: LayerAttention):
        """One block.

        Args:
          x: [B, L, dim], video tokens in raster order, then condition tokens.
          modulation: [B, 6, dim], shared by all blocks; this block adds its own table.
          rope: cosines and sines of the video tokens (`rope_table`).
          layer: what the block attends by.

        Returns:
          x of the same shape and the pattern's new state.
        """
        table = modulation + self.modulation[...][None]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (table[:, i : i + 1] for i in range(6))
        h = layers.layer_norm(x) * (1 + scale) + shift
        h, state = self.attn(h, layer, rope=rope)
        x = x + gate * h
        h = layers.layer_norm(x) * (1 + mlp_scale) + mlp_shift
        return x + mlp_gate * self.down(jax.nn.gelu(self.up(h), approximate=True)), state


def border_features(shape: tuple[int, int, int]) -> np.ndarray:
    """float32 [tokens, 6]: exp(-distance / 2) to both ends of each axis, distances in tokens."""
    features = []
    for axis, n in enumerate(shape):
        i = np.arange(n).reshape([-1 if a == axis else 1 for a in range(3)])
        for distance in (i, n - 1 - i):
            features.append(np.broadcast_to(np.exp(-distance / 2), shape).reshape(-1))
    return np.stack(features, -1).astype(np.float32)


class TinyVideoDiT(Transformer):
    """Predicts the clean video from a noisy one, a time and a class label.

    Args:
      config: sizes.
      dtype: of the operands of matmuls and attention; weights, sums and norms are float32.
    """

    FILE_NAMES: ClassVar = {
        ".attn.to_qkv.": ".qkv.",
        ".attn.to_out.": ".out.",
        ".attn.norm_q.scale": ".q_scale",
        ".attn.norm_k.scale": ".k_scale",
    }
    """Parts of parameters' names that are others in files (`keys.checkpoint_slots`)."""

    def __init__(self, config: TinyConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config = config
        dim, pixels = config.dim, config.channels * int(np.prod(config.patch))
        self.patch_in = linear(pixels, dim, dtype, rngs)
        self.border_in = linear(6, dim, dtype, rngs)
        self.time_in = linear(dim, dim, dtype, rngs)
        self.time_out = linear(dim, dim, dtype, rngs)
        self.modulation = linear(dim, 6 * dim, dtype, rngs)
        zeros = nnx.initializers.zeros_init()  # the first prediction is 0
        classes = config.num_classes + 1  # the last one is "no condition"
        self.label_vector = nnx.Param(
            0.5 * jax.random.normal(rngs.params(), (classes, dim), jnp.float32)
        )
        self.label_tokens = nnx.Param(
            0.5
            * jax.random.normal(rngs.params(), (classes, config.condition_tokens, dim), jnp.float32)
        )
        self.blocks = nnx.List(
            [Block(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.final_modulation = linear(dim, 2 * dim, dtype, rngs, start=zeros)
        self.patch_out = linear(dim, pixels, dtype, rngs, start=zeros)

    def __call__(
        self,
        hidden_states,
        timestep,
        label,
        *,
        attention: SparseAttention | None = None,
        states: tuple = (),
        ctx: StepContext | None = None,
        remat: bool = False,
    ) -> TransformerOutput:
        """Predicts clean videos.

        Args:
          hidden_states: noisy videos [B, F, Y, X, C] in about [-1, 1]; every axis divides by the patch.
          timestep: times [B] in [0, 1], 1 is pure noise.
          label: int32 [B], the class; `config.num_classes` means none.
          attention: a pattern for every layer with `states` from its `init` and the step's `ctx`; None
            is dense attention.
          remat: recompute each block in the backward pass.

        Returns:
          Clean videos, float32 in the shape of `hidden_states`, and the layers' new states.
        """
        x, patch, grid = hidden_states, self.config.patch, self.grid(hidden_states.shape)
        h = (
            self.patch_in(patchify(x, patch))
            + self.border_in(jnp.asarray(border_features(grid.shape)))[None]
        )
        h = join(h, self.label_tokens[...][label])
        time = self.time_in(layers.sinusoidal_embedding(1000 * timestep, self.config.dim))
        vector = self.time_out(jax.nn.silu(time)) + self.label_vector[...][label]
        modulation = self.modulation(jax.nn.silu(vector)).reshape(x.shape[0], 6, -1)
        rope = as_arrays(rope_table(grid.shape, self.config.head_dim))
        attentions = layer_attentions(
            attention,
            states,
            ctx,
            grid=grid,
            num_layers=self.config.num_layers,
            num_heads=self.config.num_heads,
        )
        inputs = (self.blocks, h, modulation, rope)
        equal = len({layer.pattern for layer in attentions}) == 1
        run = loop_blocks if equal and current() is None else run_blocks
        h, new_states = run(*inputs, layers=attentions, remat=remat)
        shift, scale = jnp.split(self.final_modulation(jax.nn.silu(vector))[:, None], 2, -1)
        h = layers.layer_norm(h[:, : grid.num_video_tokens]) * (1 + scale) + shift
        sample = unpatchify(self.patch_out(h), grid.shape, patch)
        return TransformerOutput(sample, () if attention is None else new_states)


def save_tiny(path: str | Path, model: TinyVideoDiT, *, dtype=None) -> None:
    """Writes the weights, and the configuration in the file's metadata, as `load_tiny` reads them.

    Args:
      path: of a new .safetensors file.
      model: that is saved.
      dtype: of the file, such as bfloat16 for half its size; None: each weight's own.

    Raises:
      FileExistsError: `path` exists.
    """
    slots = checkpoint_slots(model, None)
    arrays = {
        name: np.asarray(slot.parameter[...].astype(dtype or slot.parameter.dtype))
        for name, slot in slots.items()
    }
    config = json.dumps(dataclasses.asdict(model.config))
    write_file(Path(path), arrays, {"config": config})


def read_tiny_config(path: str | Path) -> TinyConfig:
    """The configuration in a file of `save_tiny`; reads no weights. Raises as `load_tiny`."""
    text = read_metadata(Path(path)).get("config")
    if text is None:
        raise ValueError(
            f"{path} has no configuration in its metadata; give a file that models.tiny.save_tiny wrote"
        )
    stored = json.loads(text)
    names = {field.name for field in dataclasses.fields(TinyConfig)}
    if unknown := sorted(stored.keys() - names):
        raise ValueError(f"{path} has the configuration of another model: it sets {unknown}")
    return TinyConfig(**stored)


def load_tiny(path: str | Path, *, dtype=jnp.float32) -> TinyVideoDiT:
    """The model in a file of `save_tiny`, such as the one that the demo uses.

    Args:
      path: a .safetensors file with a `TinyConfig` in its metadata.
      dtype: of matmuls and attention.

    Raises:
      FileNotFoundError, ValueError: no such file, or not a TinyVideoDiT's; names and shapes that do not fit are all
        listed.
    """
    # Without values: drawing weights only to replace them takes seconds of compiling.
    model = without_weights(TinyVideoDiT, read_tiny_config(path), jnp.dtype(dtype))
    slots, files = checkpoint_slots(model, None), TensorFiles.of_file(Path(path))
    files.check_dtypes()
    check_fit(Path(path), slots, files.shapes)
    fill(slots, files, cast=True)
    return model
