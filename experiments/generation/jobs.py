"""The videos of one call: every prompt with every seed, and the names of their files."""

import dataclasses
from pathlib import Path

from experiments.generation.generate_flags import Config


@dataclasses.dataclass(frozen=True)
class Job:
    """One video.

    Attributes:
      row: of the prompt, or of its embeddings.
      prompt: None where embeddings were given.
      seed: of its noise.
      out: where it goes.
    """

    row: int
    prompt: str | None
    seed: int
    out: Path

    @property
    def report(self) -> Path:
        """What the run took; written after the video, so that both are there when it is finished."""
        return self._beside("", ".json")

    def video(self, *, dense: bool = False) -> Path:
        """Where the video goes, or the dense one of `--compare`."""
        return self._beside("-dense", self.out.suffix) if dense else self.out

    def run(self, *, dense: bool = False) -> Path:
        """Where an interrupted run is kept."""
        return self._beside("-dense" if dense else "", ".run.safetensors")

    def latents(self, *, dense: bool = False) -> Path:
        """Where the denoised latents are kept until the video is there."""
        return self._beside("-dense" if dense else "", ".latents.safetensors")

    def _beside(self, part: str, suffix: str) -> Path:
        return self.out.with_name(f"{self.out.stem}{part}{suffix}")


def jobs_of(config: Config, rows: int) -> list[Job]:
    """Videos in the order in which they are made: all seeds of the first prompt, then of the next.

    NAME.mp4 is the only one; of several, prompts have numbers (NAME-0001.mp4) and seeds their own (NAME-seed7.mp4,
    NAME-0001-seed7.mp4).

    Args:
      config: `filled`.
      rows: prompts, or those that embeddings are of.
    """
    prompts = config.prompt or (None,) * rows
    jobs = []
    for row, prompt in enumerate(prompts):
        for seed in config.seed:
            parts = [config.out.stem]
            parts += [f"{row + 1:04d}"] * (rows > 1) + [f"seed{seed}"] * (len(config.seed) > 1)
            out = config.out.with_name("-".join(parts) + config.out.suffix)
            jobs.append(Job(row, prompt, seed, out))
    return jobs
