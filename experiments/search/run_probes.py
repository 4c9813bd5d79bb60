"""Runs the probes over all prompts, one denoising run each; goes on where an interrupted search was."""

import dataclasses
from pathlib import Path

from experiments.progress import progress_bar
from experiments.search.search_flags import Config
from experiments.search.subjects import Subject
from sparsevdit_jax import Phase, SparseAttention, StepSchedule, codec
from sparsevdit_jax.search.measurements import Measurements
from sparsevdit_jax.search.probe import Probe
from sparsevdit_jax.search.rules import SparseVditRule

_DECIDES = (
    "steps",
    "guidance",
    "negative_prompt",
    "frames",
    "height",
    "width",
    "shift",
    "seed",
    "dtype",
)


def measure(
    subject: Subject,
    config: Config,
    candidates: tuple,
    schedule: StepSchedule,
    *,
    rule: SparseVditRule | None = None,
    name: str = "measurements",
) -> Measurements:
    """Errors of all candidates for all prompts and steps, from `config.out` as far as they are there.

    Args:
      rule: Sparse-vDiT's, to go on with the chosen outputs; None goes on with the dense ones.
      name: of the file in `config.out`.
    """
    settings = {key: getattr(config, key) for key in _DECIDES} | dict(
        **subject.read,
        prompts=list(subject.prompts),
        schedule=schedule.to_dict(),
        candidates=[codec.encode(p) for p in candidates],
        rule=None if rule is None else dataclasses.asdict(rule),
    )
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / f"{name}.npz"
    sizes = dict(
        prompts=len(subject.prompts),
        steps=subject.num_steps,
        layers=subject.num_layers,
        candidates=len(candidates),
        heads=subject.num_heads,
    )
    found = Measurements.load(path, settings) if path.exists() else Measurements.empty(**sizes)
    probes = SparseAttention.uniform(Probe(candidates, rule), subject.num_layers, schedule)
    counted = [s for s, phase in enumerate(schedule.phases()) if phase is not Phase.DENSE]
    done = [all(found.has(p, s) for s in counted) for p in range(len(subject.prompts))]
    total = len(subject.prompts) * subject.num_steps
    with progress_bar(name, total=total, done=sum(done) * subject.num_steps) as advance:
        for prompt in range(len(subject.prompts)):
            if not done[prompt]:
                store = config.out / f"{name}-{prompt}.run.safetensors"
                _run(subject, prompt, probes, store, found, path, settings, advance)
    return found


def _run(subject, prompt, probes, store: Path, found, path, settings, advance):
    def on_step(step, states):
        if probes.schedule.phase(step) is not Phase.DENSE:
            found.add(prompt, step, states)
            found.save(path, settings)  # before the run itself is saved: a run may repeat a step
        advance(f"prompt {subject.prompts[prompt][:20]}")

    subject.run(prompt, probes, store, on_step)
