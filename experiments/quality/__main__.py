"""How close does each method come to dense attention at which density, on the trained tiny model?

    python -m experiments.quality                             # the published methods; goes on where it stopped
    python -m experiments.quality --attention experiments/results/attention/*.json
    python -m experiments.quality --draw                      # only the table and the picture, from the records

Every setting denoises the same noises as dense attention (digits x seeds, the dense warm-up shared) and is
compared with it: PSNR, SSIM and LPIPS, one record for each setting and clip in experiments/results/quality.jsonl.
A mean's interval is Student's t at 95 % over clips; two settings are compared by the difference on each clip
(paired). LPIPS needs weights (`experiments.lpips`) and is left out without them; run again once they are there.

Interrupt it when you like: what is recorded is not run again, and clips or settings can be added later. Dense
clips are kept in out/quality. 19 settings of 4 clips take about 20 minutes on two CPU cores.

Density counts what attention computes in the sparse steps; `run_density` counts the dense steps too.
AdaSpa's is the mean over the clips of a batch and guidance's two rows.
"""

import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import jax
import numpy as np

from experiments import command, lpips
from experiments.demo.clip_runner import VIDEO, WEIGHTS, faster_dtype
from experiments.progress import progress_bar
from experiments.quality.picture import draw
from experiments.quality.printed_tables import REFERENCE, print_duels, print_table
from experiments.quality.settings import (
    Setting,
    check_distinct,
    from_file,
    of_methods,
    published,
)
from experiments.quality.statistics import Point, on_common_clips, points_of
from experiments.quality.sweep import Clips, closeness, dense_run, run_setting
from experiments.record import RESULTS, Run, read
from models.tiny import TinyVideoDiT, load_tiny

NAME = "quality"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      digits: digits to draw, 0 to 9. The clips of a seed run together.
      seeds: seeds of the noise.
      steps: denoising steps.
      guidance: scale of classifier-free guidance.
      attention: files of `SparseAttention.to_json` to measure, too.
      only: keys of the settings to run; all by default.
      lpips: path of alexnet.ckpt; by default the weights converted before, or those of the installed package.
      weights: checkpoint of a TinyVideoDiT.
      dtype: dtype of matmuls; "auto" takes bfloat16 where the processor multiplies it faster.
      video: frames, rows and columns in pixels; the checkpoint was trained for the default.
      draw: run nothing, only print and draw the records. Other flags than --results have no effect.
      results: folder of the records; the picture goes into its `pictures`.
      cache: folder of the dense clips.
      allow_dirty: record results of uncommitted code, marked as such.
    """

    GROUPS: ClassVar = {
        "clips": ("digits", "seeds", "steps", "guidance", "video"),
        "settings": ("attention", "only"),
        "measuring": ("weights", "dtype", "lpips"),
        "output": ("draw", "results", "cache", "allow_dirty"),
    }

    digits: tuple[int, ...] = (0, 3, 5, 7)
    seeds: tuple[int, ...] = (1, 2)
    steps: int = 15
    guidance: float = 2.0
    attention: tuple[Path, ...] = ()
    only: tuple[str, ...] = ()
    lpips: Path | None = None
    weights: Path = WEIGHTS
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    video: tuple[int, int, int] = VIDEO
    draw: bool = False
    results: Path = RESULTS
    cache: Path = Path("out/quality")
    allow_dirty: bool = False

    def __post_init__(self):
        for name in ("digits", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={values} must name at least one, and none twice")
        if outside := [d for d in self.digits if not 0 <= d <= 9]:
            raise ValueError(f"digits {outside} must be 0 to 9")
        if self.steps < 5:
            raise ValueError(f"steps={self.steps} must be at least 5: warm-up, two searches, reuse")


class Sweep:
    """One call of the command: what it runs, what is there already, and where it goes."""

    def __init__(self, config: Config):
        self.config = config
        self.dtype = faster_dtype() if config.dtype == "auto" else config.dtype
        self.model: TinyVideoDiT = load_tiny(config.weights, dtype=self.dtype)
        self.weights_digest = hashlib.sha256(config.weights.read_bytes()).hexdigest()[:12]
        self.lpips_weights = _lpips_weights(config.lpips)
        self.settings = self._settings()
        self.run = Run.start(NAME, config, allow_dirty=config.allow_dirty, folder=config.results)

    def clips(self, seed: int) -> Clips:
        """The clips of a seed."""
        c = self.config
        sizes = dict(video=c.video, steps=c.steps, guidance=c.guidance)
        own = dict(weights=self.weights_digest, dtype=self.dtype)
        return Clips(digits=c.digits, seed=seed, **sizes, **own)

    def _settings(self) -> list[Setting]:
        config, sizes = self.config, self.model.config
        grid = self.model.grid((1, *config.video, sizes.channels))
        found = list(published(sizes.num_layers, config.steps))
        found += of_methods(sizes.num_layers, sizes.num_heads, grid, config.steps)
        known = dict(grid=grid, model=sizes, num_steps=config.steps)
        found += [from_file(path, **known) for path in config.attention]
        check_distinct(found)
        keys = [s.key for s in found]
        if unknown := sorted(set(config.only) - set(keys)):
            raise ValueError(f"only={unknown} names no setting; choose from {keys}")
        return [s for s in found if not config.only or s.key in config.only]

    def rows(self) -> list[Mapping]:
        """Records of these clips' model, steps and sizes, of any digit and seed."""
        if not self.run.path.exists():
            return []
        return _sampled(read(NAME, folder=self.config.results), self.clips(0).sampling())

    def finished(self, key: str, attention: str, clips: Clips) -> set[int]:
        """Digits of these clips that have a record with every metric that can be measured now."""
        wanted = {"psnr_db", "ssim"} | ({"lpips"} if self.lpips_weights is not None else set())
        same = dict(setting=key, attention=attention, seed=clips.seed).items()
        rows = [r["measured"] for r in self.rows()]
        return {m["digit"] for m in rows if same <= m.items() and wanted <= m.keys()}

    def run_seed(self, clips: Clips) -> None:
        """All settings that are not finished on these clips."""
        todo = [
            s
            for s in self.settings
            if not self.finished(s.key, s.digest, clips) >= set(clips.digits)
        ]
        if not todo:
            return
        steps = [clips.steps] + [clips.steps - s.attention.schedule.dense_steps for s in todo]
        with progress_bar(f"seed {clips.seed}", total=sum(steps)) as advance:
            dense = dense_run(self.model, clips, self.config.cache, advance)
            for setting in todo:
                videos, kept = run_setting(self.model, clips, setting, dense, advance)
                sparse = [k for k in kept if k < 1] or [1.0]
                density = dict(density=float(np.mean(sparse)), run_density=float(np.mean(kept)))
                names = dict(setting=setting.key, family=setting.family, label=setting.label)
                self.log(clips, videos, dense[-1], **names, attention=setting.digest, **density)
                jax.clear_caches()  # a setting's programs serve no other; those of 27 held 14 GB

    def log(self, clips: Clips, videos: np.ndarray, references: np.ndarray, **what) -> None:
        """One record for each clip that has none."""
        done = self.finished(what["setting"], what["attention"], clips)
        for digit, video, reference in zip(clips.digits, videos, references, strict=True):
            if digit not in done:
                measured = closeness(video, reference, self.lpips_weights)
                clip = dict(digit=digit, seed=clips.seed, sampling=clips.sampling())
                self.run.log(**what, **clip, **measured)

    def compare_noises(self) -> None:
        """The dense clips of one seed against those of the next: how far apart unrelated clips are."""
        seeds = self.config.seeds
        for seed, other in zip(seeds, (*seeds[1:], seeds[0]), strict=True):
            clips = self.clips(seed)
            if seed == other or self.finished(REFERENCE, str(other), clips) >= set(clips.digits):
                continue
            dense = [
                dense_run(self.model, self.clips(s), self.config.cache, lambda _: None)[-1]
                for s in (seed, other)
            ]
            names = dict(setting=REFERENCE, family=REFERENCE, label="dense, other noise")
            own = dict(attention=str(other), density=1.0, run_density=1.0)
            self.log(clips, *dense, **names, **own)


def _lpips_weights(checkpoint: Path | None) -> Mapping | None:
    try:
        return lpips.load(checkpoint)
    except lpips.NoWeightsError as problem:
        print(f"LPIPS is left out: {problem}", file=sys.stderr)
        return None


def _sampled(rows: Sequence[Mapping], sampling: Mapping) -> list[Mapping]:
    return [row for row in rows if row["measured"]["sampling"] == sampling]


def newest_points(results: Path = RESULTS) -> list[Point]:
    """Points of the records that were sampled as the newest one was, on whatever machine."""
    rows = read(NAME, folder=results)
    return points_of(_sampled(rows, rows[-1]["measured"]["sampling"]))


def report(points: Sequence[Point], pictures: Path) -> None:
    """Prints the table and the comparisons, and draws the picture."""
    print_table(points)
    print_duels(points)
    pictures.mkdir(parents=True, exist_ok=True)
    draw(on_common_clips(points), pictures / "quality.png")
    print(f"wrote {pictures / 'quality.png'}")


def main(config: Config) -> None:
    """Runs what is missing, then reports."""
    if config.draw:
        points = newest_points(config.results)
    else:
        sweep = Sweep(config)
        for seed in config.seeds:
            sweep.run_seed(sweep.clips(seed))
        sweep.compare_noises()
        points = points_of(sweep.rows())
    report(points, config.results / "pictures")


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
