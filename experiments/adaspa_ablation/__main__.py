"""Runs the parts that are not on record yet. The package's docstring has the question and the answer."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from experiments import adaspa_ablation, command
from experiments.adaspa_ablation import ablation_pictures
from experiments.adaspa_ablation.quality import VARIANTS, QualityConfig, dense_run, measure
from experiments.adaspa_ablation.recall import recall_rows
from experiments.adaspa_ablation.stability import stability_rows
from experiments.adaspa_ablation.trace import TraceConfig, watched_run
from experiments.record import RESULTS, Run, read
from models.tiny import load_tiny

NAME = "adaspa_ablation"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of the ablation.

    Attributes:
      part: what to run.
      densities: of the quality part.
      quality: settings of the quality part.
      trace: settings of the watched dense run, which recall and stability read.
      out: folder for the dense runs; those with equal settings are not repeated.
      results: folder of the records; pictures go to its folder `pictures`.
      allow_dirty: record results of uncommitted code, marked as such.
    """

    part: Literal["all", "quality", "recall", "stability", "pictures"] = "all"
    densities: tuple[float, ...] = (0.2, 0.1)
    quality: QualityConfig = dataclasses.field(default_factory=QualityConfig)
    trace: TraceConfig = dataclasses.field(default_factory=TraceConfig)
    out: Path = Path("out/adaspa_ablation")
    results: Path = RESULTS
    allow_dirty: bool = False

    def __post_init__(self):
        if not self.densities or not all(0 < d <= 1 for d in self.densities):
            raise ValueError(f"densities={self.densities} must lie in (0, 1], and one at least")

    def wants(self, part: str) -> bool:
        """Whether `part` was asked for."""
        return self.part in ("all", part)


def main(config: Config) -> None:
    """Runs what was asked for."""
    if config.wants("quality"):
        run_quality(config)
    for part in ("recall", "stability"):
        if config.wants(part):
            run_traced(config, part)
    if config.wants("pictures"):
        folder = config.results / "pictures"
        for path in ablation_pictures.draw_all(read(NAME, folder=config.results), folder):
            print(path)


def run_quality(config: Config) -> None:
    """Quality of every variant at every density, each recorded as soon as it is known."""
    settings = config.quality
    run = start(config, settings)
    done = {(m["variant"], m["asked_density"]) for m in recorded(run, "quality")}
    wanted = [(v, d) for d in config.densities for v in VARIANTS if (v.name, d) not in done]
    if not wanted:
        return
    model = load_tiny(settings.weights, dtype=settings.dtype)
    dense = dense_run(model, settings, config.out)
    for variant, density in wanted:
        row = measure(model, variant, density, settings, dense)
        run.log(part="quality", **row)
        print(f"{variant.name}, {density}: {row['psnr_db']:.2f} dB, SSIM {row['ssim']:.4f}")


def run_traced(config: Config, part: str) -> None:
    """A part that reads the watched dense run."""
    settings = config.trace
    run = start(config, settings)
    if recorded(run, part):
        return
    model = load_tiny(settings.weights, dtype=settings.dtype)
    found = watched_run(model, settings, config.out)
    log_all(run, part, traced_rows(part, model, settings, found))


def traced_rows(part: str, model, settings: TraceConfig, found: dict) -> Iterable[dict]:
    """The records' lines of a part."""
    if part == "recall":
        return recall_rows(model, settings, found["x"])
    return stability_rows(settings, model.grid(found["x"].shape[1:]), found)


def log_all(run: Run, part: str, rows: Iterable[dict]) -> None:
    """Records the lines of a part together, so that a part is on record whole or not at all."""
    for row in list(rows):
        run.log(part=part, **row)


def start(config: Config, settings: Any) -> Run:
    """A run whose lines carry the settings of their part."""
    return Run.start(NAME, settings, allow_dirty=config.allow_dirty, folder=config.results)


def recorded(run: Run, part: str) -> list[dict]:
    """What was measured for a part with equal settings."""
    if not run.path.exists():
        return []
    rows = read(run.name, folder=run.folder)
    return [
        row["measured"]
        for row in rows
        if row["measured"]["part"] == part and row["config"] == run.config
    ]


if __name__ == "__main__":
    command.run(main, Config, description=adaspa_ablation.__doc__)
