"""How good does a TinyVideoDiT get on moving digits when it is trained on two CPU cores?

    python -m experiments.train_tiny --plan short --out out/short
    python -m experiments.train_tiny --plan long --out out/long --init out/short/tiny_digits.safetensors \\
        --learning-rate 6e-4 --warmup 40 --ema 0.99
    python -m experiments.train_tiny --plan motion --out out/motion --init out/long/tiny_digits.safetensors \\
        --learning-rate 6e-4 --warmup 20 --ema 0.98
    python -m experiments.train_tiny --plan slow --out out/slow --init out/motion/tiny_digits.safetensors \\
        --learning-rate 6e-4 --warmup 50 --ema 0.995

First a curriculum of short clips on growing latent grids, then single frames and clips of the demo's length
(4,096 video tokens) by turns, the long ones mostly through sliding tile attention, then clips of half and
full length, at last of slower digits. About three and a half hours on one core with native bfloat16. The
same command goes on where an interrupted run stopped, with the same bits. `--data` and `--seq` spread clips
and their tokens over devices, `--distributed` over those of several hosts.
Writes to `--out`: checkpoints, loss.jsonl, loss.png, samples_*.png, and at the end tiny_digits.safetensors
(the averaged weights, bfloat16) with tiny_digits.json, the record of the run. The answer: experiments/LOG.md.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import command, hosts
from experiments.curriculum import PLANS, TRAINING_ATTENTION, Stage
from experiments.loss_curve import draw_losses, whole_curve
from experiments.moving_digits import MovingDigits
from experiments.record import environment, git_state
from experiments.tiny_runs import denoise
from experiments.training import (
    DEVICE_FLAGS,
    Checkpoints,
    check_flags,
    decay_at,
    first_state,
    make_optimizer,
    next_state,
    train,
    training_mesh,
)
from models.flow_matching import add_noise, shift_time, velocity
from models.tiny import TinyConfig, TinyVideoDiT, load_tiny, save_tiny
from sparsevdit_jax import Phase, SparseAttention, StepContext


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of the training run.

    Attributes:
      out: folder of everything written. An interrupted run in it goes on.
      plan: "short", "long", "motion" and "slow" in turn made the committed checkpoint; "quick" takes a minute.
      init: weights to start from, of an earlier run.
      learning_rate: peak of the learning rate, after the warm-up. A cosine takes it to 2 % at the end.
      warmup: steps in which the learning rate grows from 0.
      ema: decay of the averaged weights. Samples use these.
      drop_label: share of clips trained without condition, for classifier-free guidance.
      seed: seed of the weights, the clips and the noise.
      save_every: steps between checkpoints and samples.
      dtype: of matmul operands; weights and sums are float32.
      data: devices over which the clips of a batch are sharded.
      seq: devices over which the tokens of a clip are sharded.
      distributed: this is one of several processes, one on each host; see `experiments.hosts`.
    """

    GROUPS: ClassVar = {
        "training": ("plan", "init", "learning_rate", "warmup", "ema", "drop_label", "seed"),
        "computing": ("dtype",),
        "output": ("out", "save_every"),
        "device": ("data", "seq", "distributed"),
    }

    out: Path = Path("out/train")
    plan: Literal["short", "long", "motion", "slow", "quick"] = "short"
    init: Path | None = None
    learning_rate: float = 1e-3
    warmup: int = 200
    ema: float = 0.998
    drop_label: float = 0.1
    seed: int = 0
    save_every: int = 250
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    data: int = 1
    seq: int = 1
    distributed: bool = False

    def __post_init__(self):
        check_flags(self)

    def stage_at(self, step: int) -> Stage:
        """The stage of a 0-based step."""
        return PLANS[self.plan].stage_at(step, self.seed)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return PLANS[self.plan].total_steps


def make_model(config: Config) -> TinyVideoDiT:
    """The model that this run starts from."""
    if config.init is not None:
        return load_tiny(config.init, dtype=config.dtype)
    return TinyVideoDiT(TinyConfig(), dtype=jnp.dtype(config.dtype), rngs=nnx.Rngs(config.seed))


def draw_batch(
    rng: np.random.Generator,
    stage: Stage,
    model_config: TinyConfig,
    *,
    drop_label: float,
    held_out: bool = False,
) -> dict:
    """Clips of a stage with times and noise: arrays x0, label, t and noise.

    Args:
      rng: where all of it comes from.
      stage: latent grid, batch, speed and shift.
      model_config: patch, and the label that means no condition.
      drop_label: share of clips without condition.
      held_out: draw digits that training never sees.
    """
    size = (
        n * p
        for n, p in zip((stage.frames, stage.height, stage.width), model_config.patch, strict=True)
    )
    canvas = dict(zip(("frames", "height", "width"), size, strict=True))
    digits = MovingDigits(**canvas, speed=stage.speed)
    x0, label = digits.clips(rng, stage.batch, held_out=held_out)
    logit = 1.2 * rng.standard_normal(stage.batch)
    t = shift_time(1 / (1 + np.exp(-logit)), stage.shift).astype(np.float32)
    dropped = rng.uniform(size=stage.batch) < drop_label
    label = np.where(dropped, model_config.num_classes, label).astype(np.int32)
    noise = rng.standard_normal(x0.shape, np.float32)
    return dict(x0=x0, label=label, t=t, noise=noise)


def batch_at(config: Config, step: int, model_config: TinyConfig) -> tuple[dict, bool]:
    """All that is random in a step, from (seed, step) alone, so that a resumed run sees the same numbers.

    Returns:
      The arrays of `draw_batch`, and whether this step trains through sparse attention.
    """
    stage, rng = config.stage_at(step), np.random.default_rng((config.seed, step))
    batch = draw_batch(rng, stage, model_config, drop_label=config.drop_label)
    return batch, bool(rng.uniform() < stage.sparse)


def velocity_loss(
    model: TinyVideoDiT, batch: dict, attention: SparseAttention | None = None
) -> jax.Array:
    """Mean squared error of the velocity (flow matching) of one batch."""
    x0, label, t = batch["x0"], batch["label"], batch["t"]
    x = add_noise(x0, batch["noise"], t)
    states, ctx = (), None
    if attention is not None:
        grid = model.grid(x.shape)
        heads = dict(num_heads=model.config.num_heads, head_dim=model.config.head_dim)
        states = attention.init(grid, batch=len(x0), **heads)
        ctx = StepContext(grid, Phase.REUSE)
    out = model(x, t, label, attention=attention, states=states, ctx=ctx)
    return jnp.mean((velocity(x, out.sample, t) - velocity(x, x0, t)) ** 2)


@functools.partial(
    jax.jit, static_argnames=("graph", "optimizer", "attention"), donate_argnames=("state",)
)
def train_step(state: dict, batch: dict, ema: jax.Array, *, graph, optimizer, attention=None):
    """One optimiser step; `state` holds params, ema and opt_state and is donated."""

    def loss_of(params):
        return velocity_loss(nnx.merge(graph, params), batch, attention)

    loss, grads = jax.value_and_grad(loss_of)(state["params"])
    return next_state(state, grads, ema, optimizer), loss


class Trainer:
    """The run in `config.out`: its state, its checkpoints, and its step."""

    def __init__(self, config: Config):
        self.config, model = config, make_model(config)
        self.model_config = model.config
        self.mesh = training_mesh(
            data=config.data,
            seq=config.seq,
            distributed=config.distributed,
            batches=[stage.batch for stage in PLANS[config.plan].stages],
        )
        self.graph, params = nnx.split(model)
        self.optimizer = make_optimizer(
            learning_rate=config.learning_rate, warmup=config.warmup, total_steps=config.total_steps
        )
        self.attention = SparseAttention((TRAINING_ATTENTION,) * model.config.num_layers)
        self.checkpoints = Checkpoints(config.out, self.flags())
        first = hosts.on_every(first_state(params, self.optimizer), self.mesh)
        self.step, self.state = self.checkpoints.restore(first)

    def flags(self) -> dict:
        """What decides the run's numbers, as JSON; on how many devices changes their rounding only."""
        values = dataclasses.asdict(self.config)
        for name in ("out", "save_every", *DEVICE_FLAGS):
            del values[name]
        return {key: str(v) if isinstance(v, Path) else v for key, v in values.items()}

    def advance(self) -> float:
        """Takes one step and returns its loss."""
        batch, sparse = batch_at(self.config, self.step, self.model_config)
        with hosts.on(self.mesh):
            self.state, loss = train_step(
                self.state,
                hosts.by_rows(batch, self.mesh),
                decay_at(self.step, self.config.ema),
                graph=self.graph,
                optimizer=self.optimizer,
                attention=self.attention if sparse else None,
            )
        self.step += 1
        return float(loss)

    def save(self) -> None:
        """Writes a checkpoint of the present step, if there is none yet."""
        self.checkpoints.save(self.step, self.state)

    def averaged_model(self) -> TinyVideoDiT:
        """The model with averaged weights, on one device."""
        return nnx.merge(self.graph, hosts.here(self.state["ema"]))


def draw_samples(trainer: Trainer, path: Path) -> None:
    """A sheet of samples, one column a digit, time downwards, on the present stage's latent grid."""
    from PIL import Image

    stage = trainer.config.stage_at(trainer.step - 1)
    tokens = (stage.frames, stage.height, stage.width)
    shape = tuple(n * p for n, p in zip(tokens, trainer.model_config.patch, strict=True))
    labels = np.arange(10) if stage.frames * stage.height * stage.width < 2000 else np.array([2, 5])
    noise = jax.random.normal(jax.random.key(0), (len(labels), *shape, 1))
    model = trainer.averaged_model()
    clips = denoise(model, noise, labels, steps=20, guidance=2.0, shift=stage.shift + 1)
    clips = np.uint8((np.clip(np.asarray(clips), -1, 1) + 1) * 127.5)[..., 0]
    rows = [np.concatenate(list(clips[:, f]), 1) for f in range(0, shape[0], max(1, shape[0] // 4))]
    Image.fromarray(np.concatenate(rows, 0)).save(path)


def record_of(trainer: Trainer) -> dict:
    """How the weights came to be: flags, stages, curve, versions, commit, and the run it started from."""
    config = trainer.config
    curve = config.out / "loss.jsonl"
    lines = [json.loads(line) for line in curve.read_text().splitlines()] if curve.exists() else []
    first = config.init.with_suffix(".json") if config.init else None
    return dict(
        flags=trainer.flags(),
        steps=trainer.step,
        plan=dataclasses.asdict(PLANS[config.plan]),
        parameters=trainer.averaged_model().num_parameters,
        loss=[[line["step"], round(line["loss"], 4)] for line in lines],
        environment=environment(),
        git_sha=git_state()[0],
        started_from=json.loads(first.read_text()) if first and first.is_file() else None,
    )


def main(config: Config) -> None:
    """Trains, or goes on training, and exports the averaged weights at the end."""
    hosts.start(config.distributed)
    trainer = Trainer(config)
    weights = config.out / "tiny_digits.safetensors"
    train(
        trainer,
        total=config.total_steps,
        save_every=config.save_every,
        curve=config.out / "loss.jsonl",
        after_save=lambda: draw_samples(trainer, config.out / f"samples_{trainer.step:06d}.png"),
    )
    if hosts.is_first() and not weights.exists():
        model, record = trainer.averaged_model(), record_of(trainer)
        save_tiny(weights, model, dtype=jnp.bfloat16)
        weights.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        if curve := whole_curve(record):
            draw_losses(curve, config.out / "loss.png")
        print(
            f"{model.num_parameters:,} parameters, {weights.stat().st_size / 1e6:.1f} MB: {weights}"
        )
    hosts.barrier("the weights are written")


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
