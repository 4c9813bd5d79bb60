"""Plans a call of the demo and checks it before anything takes time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.demo.clip_runner import Config, Runner, faster_dtype
from experiments.demo.compared_methods import (
    MODES,
    Method,
    per_head_mix,
    published_methods,
    searched_mixture,
    warm_up_steps,
)
from experiments.demo.masks_by_head import head_masks, head_quality
from experiments.layer_inputs import layer_inputs
from experiments.moving_digits import MovingDigits
from models.flow_matching import add_noise
from models.patches import token_shape
from models.tiny import TinyVideoDiT, load_tiny, read_tiny_config
from sparsevdit_jax import VideoGrid

NOISE = 0.6
"""Time of the calibration clip, from 0 (clean) to 1 (noise)."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The methods of a call.

    Attributes:
      keys: of the methods beside dense, in the order in which they are shown.
      known: all methods that need no model, by key; dense among them.
      steps: denoising steps.
    """

    keys: tuple[str, ...]
    known: dict[str, Method]
    steps: int

    def own_steps(self, key: str) -> int:
        """Steps that a method runs itself, from where it leaves the dense run."""
        known = self.known.get(key)
        first = known.attention.schedule.dense_steps if known else warm_up_steps(self.steps)
        return self.steps - first

    def method(self, key: str, runner: Runner) -> Method:
        """The method of a key; "per-head" is chosen on the runner's model first."""
        return self.choose_modes(runner) if key == "per-head" else self.known[key]

    def choose_modes(self, runner: Runner) -> Method:
        """Sparse-vDiT with a mode per head, from one pass over a real held-out clip, noised more than half way."""
        clip, label = stream_of(runner.config).clips(np.random.default_rng(123), 1, held_out=True)
        noise = np.random.default_rng(124).standard_normal(clip.shape, np.float32)
        noisy = add_noise(jnp.asarray(clip), jnp.asarray(noise), jnp.full((1,), NOISE, jnp.float32))
        layers = layer_inputs(runner.model, noisy, NOISE, label)
        heads, recalls = runner.model.config.num_heads, {}
        for mode in MODES:
            pattern = self.known[mode].attention.patterns[0]
            masks = head_masks(pattern, (), runner.grid, num_heads=heads, step=0)
            recalls[pattern] = [head_quality(masks, qkv)["recall"] for qkv in layers]
        return Method(
            key="per-head",
            label="Sparse-vDiT per head",
            note="Each head has the mode that keeps most of its attention on a real clip; some stay dense.",
            attention=per_head_mix(recalls, runner.config.steps),
        )


def plan_of(config: Config) -> Plan:
    """Reads the header of the weights and makes every method that needs no model.

    Raises:
      FileNotFoundError, ValueError: no such weights, or a latent grid that does not fit them or a chosen method.
    """
    sizes = read_tiny_config(config.weights)
    shape = token_shape(config.video, sizes.patch)
    grid = VideoGrid(*shape, text_len=sizes.condition_tokens)
    known = {m.key: m for m in published_methods(sizes.num_layers, config.steps)}
    keys = config.keys
    if "mixture" in keys:
        model = dict(grid=grid, num_layers=sizes.num_layers, num_heads=sizes.num_heads)
        try:
            known["mixture"] = searched_mixture(config.steps, **model)
        except ValueError as problem:
            if "mixture" in config.only:
                raise
            print(f"without the searched mixture: {problem}")
            keys = tuple(key for key in keys if key != "mixture")
    if "per-head" in keys:
        stream_of(config)
    needed = [known[key].attention for key in keys if key in known]
    heads = dict(num_heads=sizes.num_heads, head_dim=sizes.head_dim)
    jax.eval_shape(lambda: [attention.init(grid, batch=1, **heads) for attention in needed])
    return Plan(keys, known, config.steps)


def stream_of(config: Config) -> MovingDigits:
    """Real clips of the demo's size."""
    frames, height, width = config.video
    return MovingDigits(frames=frames, height=height, width=width)


def load_model(config: Config) -> tuple[TinyVideoDiT, str]:
    """The trained model and the dtype that it computes in."""
    dtype = faster_dtype() if config.dtype == "auto" else config.dtype
    return load_tiny(config.weights, dtype=dtype), dtype
