"""The flags of a search."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import ClassVar, Literal

from experiments.generation.flag_rules import check_numbers
from experiments.prompts import check_text
from sparsevdit_jax import StepSchedule, TokenOrder, VideoGrid, codec
from sparsevdit_jax.fastvideo import tiles_of
from sparsevdit_jax.pattern import AttentionPattern
from sparsevdit_jax.patterns import (
    AdaSpa,
    Dense,
    Diagonal,
    MultiDiagonal,
    Skip,
    SlidingTile,
    VerticalStripe,
)
from sparsevdit_jax.presets import TILE, adaspa_schedule, sparse_vdit_schedule, sta_schedule
from sparsevdit_jax.schedule import exact_steps

Method = Literal["sta", "sparse-vdit", "mixture"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      method: sta (least output error, per step), sparse-vdit (error and cost, sequential feed, per step), or mixture
        (one candidate of any kind for each head in all steps, least error at `density`).
      model: checkpoint folder in the layout of diffusers; the tiny model by default.
      variant: read the files of this variant, such as fp16.
      prompts: prompts to calibrate on; digits for the tiny model.
      negative_prompt: text that guidance leads away from.
      embeddings: files of `experiments.make_text_embeddings` instead of prompts. Each of their rows is a prompt.
      held_out: number of last prompts that only judge the choice.
      frames: number of frames; the model's usual one by default.
      height: rows of pixels; the model's usual number by default.
      width: columns of pixels; the model's usual number by default.
      seed: seed of the first prompt's noise; prompt i has seed + i.
      steps: denoising steps; the model's usual number by default.
      guidance: scale of classifier-free guidance; the model's usual by default.
      shift: flow shift; the scheduler's own by default.
      dtype: dtype of weights and compute.
      dense_steps: number of dense steps at the start (T0); the paper's share by default.
      candidates: JSON file with a list of patterns as in attention.json; the method's own by default.
      windows: windows of STA: frames, rows and columns, in tiles.
      tile: frames, rows and columns of STA's tile, in tokens; the paper's by default, smaller on small latent grids.
      block: tokens in a block of the other patterns.
      costs: table of `experiments.measure_costs`; then costs are times and not densities.
      density: mean density to reach over the sparse steps. It calibrates epsilon, or is the mixture's budget.
      lam: Sparse-vDiT's weight of the cost.
      epsilon: Sparse-vDiT's threshold.
      rounds: number of searches that calibrate epsilon.
      relative: divide errors by the size of the head's output.
      shared: make one choice for all steps.
      out: folder of everything written. An interrupted search in it goes on.
      save_every: steps between saves of a checkpoint's run.
      record: also append the result to experiments/results/search.jsonl, with pictures and the attention beside it.
      name: name of the record and its files; the method by default.
    """

    GROUPS: ClassVar = {
        "input": ("model", "variant", "prompts", "negative_prompt", "embeddings", "held_out"),
        "video": ("frames", "height", "width", "seed"),
        "denoising": ("steps", "guidance", "shift", "dtype", "dense_steps"),
        "candidates": ("candidates", "windows", "tile", "block", "costs"),
        "choice": ("method", "density", "lam", "epsilon", "rounds", "relative", "shared"),
        "output": ("out", "save_every", "record", "name"),
    }

    method: Method
    model: Path | None = None
    variant: str | None = None
    prompts: tuple[str, ...] = ()
    negative_prompt: str = ""
    embeddings: tuple[Path, ...] = ()
    held_out: int = 0
    steps: int | None = None
    dense_steps: int | None = None
    guidance: float | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    shift: float | None = None
    seed: int = 100
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    candidates: Path | None = None
    windows: tuple[tuple[int, int, int], ...] = ()
    tile: tuple[int, int, int] | None = None
    block: int = 64
    lam: float = 0.5
    epsilon: float = 1.0
    relative: bool = False
    density: float | None = None
    rounds: int = 2
    shared: bool = False
    costs: Path | None = None
    out: Path = Path("out/search")
    save_every: int = 5
    record: bool = False
    name: str | None = None

    def __post_init__(self):
        if self.method == "mixture" and self.density is None:
            raise ValueError("a mixture needs its budget: pass --density, such as 0.2")
        if self.density is not None and not 0 < self.density <= 1:
            raise ValueError(f"density={self.density} must lie in (0, 1]")
        check_text([*self.prompts, self.negative_prompt])
        count = max(1, len(self.prompts) + len(self.embeddings))  # prompt i has seed + i
        check_numbers(self, (self.seed, self.seed + count - 1))
        for name in ("rounds", "save_every", "block"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.held_out < 0:
            raise ValueError(f"held_out={self.held_out} must not be negative: it counts prompts")
        if not (math.isfinite(self.lam) and self.lam >= 0):
            raise ValueError(
                f"lam={self.lam} must be a finite number from 0 on; 0.5 is the paper's"
            )
        if not self.epsilon > 0:
            raise ValueError(f"epsilon={self.epsilon} must be above 0: no loss is below it")
        # Files of the record bear the name, and are written after everything else.
        if self.name is not None and not re.fullmatch(r"[\w-]+", self.name):
            raise ValueError(f"name={self.name!r} must be letters, digits, - and _: it names files")
        if self.prompts and self.embeddings:
            raise ValueError("give --prompts or --embeddings, not both")
        if self.embeddings and self.model is None:
            raise ValueError(
                "--embeddings are for a --model; the tiny model takes --prompts, digits"
            )
        if self.negative_prompt and (self.embeddings or self.model is None):
            what = (
                "--embeddings bring their own" if self.embeddings else "the tiny model knows none"
            )
            raise ValueError(f"--negative-prompt has no effect ({what}); leave it out")
        # Here, since loading a model comes before anything is read, and may take minutes.
        files = dict(candidates=[self.candidates], costs=[self.costs], embeddings=self.embeddings)
        for flag, paths in files.items():
            for path in paths:
                if path is not None and not path.is_file():
                    raise ValueError(
                        f"no file {path} for --{flag}; give one, or leave --{flag} out"
                    )


_UNUSED = {
    "sta": ("density", "lam", "epsilon", "rounds", "relative", "block", "costs"),
    "sparse-vdit": ("windows", "tile"),
    "mixture": ("lam", "epsilon", "rounds", "shared"),
}
"""Flags that a method does not look at."""


def without_effect(config: Config) -> list[str]:
    """A line for each flag that is not its default and changes nothing."""
    default = {field.name: field.default for field in dataclasses.fields(Config)}
    unused = {name: f"with --method {config.method}" for name in _UNUSED[config.method]}
    if config.candidates is not None:
        given = dict.fromkeys(
            ("windows", "tile", "block"), f"with --candidates {config.candidates}"
        )
        unused |= given
    if config.density is None:
        unused["rounds"] = "without --density"
    if config.model is None:
        unused |= dict.fromkeys(("variant", "save_every"), "without --model")
    if not config.record:
        unused["name"] = "without --record"
    return [
        f"--{name.replace('_', '-')} {getattr(config, name)} has no effect {why}"
        for name, why in unused.items()
        if getattr(config, name) != default[name]
    ]


def schedule_of(config: Config, num_steps: int) -> StepSchedule:
    """The method's schedule, with `dense_steps` where given."""
    if config.method == "mixture":
        # The first search is dense for AdaSpa's heads alone, so it comes after the steps that are dense for all.
        usual = adaspa_schedule(num_steps)
        dense = exact_steps(usual) if config.dense_steps is None else config.dense_steps
        searches = {min(dense + 1, num_steps), max(dense + 1, usual.search_steps[-1])}
        return StepSchedule.adaspa(num_steps, tuple(sorted(s for s in searches if s <= num_steps)))
    dense = sta_schedule if config.method == "sta" else sparse_vdit_schedule
    if config.dense_steps is not None:
        return StepSchedule(num_steps, config.dense_steps)
    return dense(num_steps)


def candidates_of(config: Config, grid: VideoGrid) -> tuple[AttentionPattern, ...]:
    """What is searched over: the file's patterns, or the method's own for this latent grid."""
    if config.candidates is not None:
        return _read_candidates(config.candidates)
    tile = config.tile or tuple(
        min(t, max(1, -(-n // 2))) for t, n in zip(TILE, grid.shape, strict=True)
    )
    if any(not 1 <= t <= n for t, n in zip(tile, grid.shape, strict=True)):
        raise ValueError(
            f"tile={tile} must have 1 to {grid.shape} tokens along frames, rows and columns; "
            "choose a smaller --tile, or leave it out"
        )
    windows = config.windows or default_windows(tiles_of(grid, tile))
    sta = tuple(SlidingTile(tile, window) for window in windows)
    if config.method == "sta":
        return sta
    block = config.block
    if TokenOrder(grid, block).num_video_blocks < 2:
        raise ValueError(
            f"block={block} puts all {grid.num_video_tokens} tokens of the video in one block, of "
            "which nothing can be left out; choose a smaller --block"
        )
    if config.method == "sparse-vdit":
        return (Skip(), *_modes(0.25, block, grid))
    modes = (mode for density in (0.15, 0.3) for mode in _modes(density, block, grid))
    return (
        Skip(),
        Dense(),
        *dict.fromkeys(modes),
        *(AdaSpa(density, block, head_adaptive=False) for density in (0.05, 0.1, 0.2, 0.35)),
        *sta,
    )


def default_windows(tiles: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    """STA's five windows for any latent grid of tiles: on (5, 6, 10) those that its authors searched over."""
    t, h, w = tiles

    def odd(n: float) -> int:
        return max(1, 2 * round((n - 1) / 2) + 1)

    windows = (
        (t, odd(h / 2), odd(w / 3)),
        (odd(0.6 * t), odd(h / 2), odd(w / 2)),
        (1, h, w),
        (t, h, 1),
        (t, 1, w),
    )
    return tuple(dict.fromkeys(windows))


def _modes(density: float, block: int, grid: VideoGrid) -> tuple[AttentionPattern, ...]:
    """Sparse-vDiT's three sparse modes; stripes have at least room for the first frame."""
    stripe = VerticalStripe(max(density, VerticalStripe.least_density(grid, block)), block)
    return Diagonal(density, block), MultiDiagonal(density, block), stripe


def _read_candidates(path: Path) -> tuple[AttentionPattern, ...]:
    try:
        patterns = codec.decode(json.loads(path.read_text(encoding="utf-8-sig")))
    except (ValueError, RecursionError) as problem:
        raise ValueError(
            f"{path} holds no list of patterns ({problem}); write one as in attention.json"
        ) from problem
    listed = isinstance(patterns, tuple) and patterns
    if not listed or not all(isinstance(p, AttentionPattern) for p in patterns):
        raise ValueError(f"{path} must hold a list of patterns, as in attention.json")
    return patterns
