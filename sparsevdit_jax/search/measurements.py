"""Measurements: what probes measured over prompts and steps. They are on disk, so that a search can resume."""

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sparsevdit_jax.schedule import Phase, StepSchedule
from sparsevdit_jax.search.probe import ProbeState


@dataclasses.dataclass(frozen=True)
class Measurements:
    """Errors of every candidate for every prompt, step, layer and head.

    Attributes:
      error: f64 [P, T, N, C, H], NaN where not measured; the mean over a prompt's batch rows, so
        that both branches of classifier-free guidance count alike.
      power: f64 [P, T, N, H], mean square of the dense outputs.
      choice: int [P, T, N, H], the output that the model went on with (-1: the dense one).
    """

    error: np.ndarray
    power: np.ndarray
    choice: np.ndarray

    @classmethod
    def empty(
        cls, *, prompts: int, steps: int, layers: int, candidates: int, heads: int
    ) -> "Measurements":
        """Nothing measured yet."""
        shape = (prompts, steps, layers)
        return cls(
            np.full((*shape, candidates, heads), np.nan),
            np.full((*shape, heads), np.nan),
            np.full((*shape, heads), -1),
        )

    def add(self, prompt: int, step: int, states: tuple[ProbeState, ...]) -> None:
        """Adds what the probes of all layers measured in `step`."""
        for layer, state in enumerate(states):
            if not isinstance(state, ProbeState):
                raise ValueError(
                    f"the state of layer {layer} is a {type(state).__name__}; every layer must be "
                    "a Probe"
                )
            self.error[prompt, step, layer] = np.asarray(state.error, np.float64).mean(0).T
            self.power[prompt, step, layer] = np.asarray(state.power, np.float64).mean(0)
            self.choice[prompt, step, layer] = np.asarray(state.choice)[0]

    def has(self, prompt: int, step: int) -> bool:
        """Whether this step of this prompt is there."""
        return not np.isnan(self.error[prompt, step]).any()

    @staticmethod
    def sparse_steps(schedule: StepSchedule, *, online: bool = False) -> np.ndarray:
        """Indices of the steps that count: not dense and, where candidates search `online`, not the
        first search, which is exact for them.
        """
        phases = schedule.phases()
        exact = {Phase.DENSE, Phase.FIRST_SEARCH} if online else {Phase.DENSE}
        return np.asarray([i for i, phase in enumerate(phases) if phase not in exact], int)

    def save(self, path: Path, settings: dict[str, Any]) -> None:
        """Writes an .npz file; the one before it stays until this one is whole."""
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            np.savez(
                file,
                error=self.error,
                power=self.power,
                choice=self.choice,
                settings=np.array(json.dumps(settings, sort_keys=True)),
            )
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path, settings: dict[str, Any]) -> "Measurements":
        """The inverse of `save`; ValueError if the file is damaged or made with other settings."""
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                stored = json.loads(str(arrays["settings"]))
                found = cls(arrays["error"], arrays["power"], arrays["choice"])
        except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as problem:
            raise ValueError(
                f"{path} is damaged or holds no measurements; move it away to measure anew, or "
                "choose another folder"
            ) from problem
        wanted = json.loads(json.dumps(settings, sort_keys=True))
        changed = sorted(
            name for name in {*stored, *wanted} if stored.get(name, ...) != wanted.get(name, ...)
        )
        if changed:
            pairs = {name: (stored.get(name), wanted.get(name)) for name in changed}
            listed = "; ".join(
                f"{name}: {_short(there, here)} there, {_short(here, there)} here"
                for name, (there, here) in pairs.items()
            )
            raise ValueError(
                f"{path} holds measurements made with other settings ({listed}); give the same "
                "ones to go on, or choose another folder"
            )
        return found


def _short(value: Any, other: Any, limit: int = 60) -> str:
    """A value as a message can show it: what is around the place where it parts from the other."""
    text, against = repr(value), repr(other)
    parts = (i for i, (a, b) in enumerate(zip(text, against, strict=False)) if a != b)
    start = max(0, next(parts, 0) - limit // 2)
    end = start + limit
    return f"{'...' * (start > 0)}{text[start:end]}{'...' * (end < len(text))}"
