"""The command; see the package's docstring."""

import dataclasses
import json
from pathlib import Path

import jax

from experiments import command, search
from experiments.new_file import check_new
from experiments.record import RESULTS, Run, environment
from experiments.search.choice import Choice, choose
from experiments.search.choice_pictures import draw_all
from experiments.search.search_flags import Config, candidates_of, schedule_of, without_effect
from experiments.search.subjects import make_subject
from experiments.search.task import Task, make_task
from sparsevdit_jax import SparseAttention
from sparsevdit_jax.fastvideo import TILE, from_strategy, to_strategy


def main(config: Config) -> Choice:
    """Searches, and writes what was found."""
    check_new(config.out / "attention.json")
    for line in without_effect(config):
        print(f"warning: {line}")
    run = Run.start("search", config) if config.record else None
    subject = make_subject(config)
    candidates = candidates_of(config, subject.grid)
    # Patterns that do not fit the latent grid are refused here, before anything takes time.
    task = make_task(config, subject, candidates, schedule_of(config, subject.num_steps))
    choice = choose(task)
    write(config.out, choice, task, "search")
    print_report(choice)
    if run is not None:
        record(run, choice, task)
    print(f"\n{(config.out / 'attention.json').resolve()}")
    return choice


def write(out: Path, choice: Choice, task: Task, name: str) -> None:
    """attention.json, strategy.json, report.json and the pictures."""
    (out / "attention.json").write_text(choice.attention.to_json() + "\n")
    if task.config.method == "sta":
        write_strategy(out / "strategy.json", choice.attention, task.candidates[0].tile)
    flags = json.loads(json.dumps(dataclasses.asdict(task.config), default=str))
    report = dict(config=flags, environment=environment(), prompts=task.subject.prompts)
    (out / "report.json").write_text(json.dumps(report | choice.report, indent=1) + "\n")
    draw_all(choice, task, out, name)


def write_strategy(path: Path, attention: SparseAttention, tile: tuple[int, int, int]) -> None:
    """Writes FastVideo's format if `experiments.generate` can read all from the file alone; else says why not.

    The format has no field for the tile and the latent grid. So the tile must be FastVideo's, and a warm-up of full
    steps or a full window must show the grid.
    """
    text = to_strategy(attention)
    try:
        if tile != TILE:
            raise ValueError(f"the format is for tiles of {TILE}, and these are {tile}")
        if to_strategy(from_strategy(text, attention.grid)) != text:
            raise ValueError("it would be read as made for another latent grid")
    except ValueError as problem:
        print(f"no {path.name} is written: {problem}. {path.with_name('attention.json')} says all")
        return
    path.write_text(text + "\n")


def record(run: Run, choice: Choice, task: Task) -> None:
    """One line, and beside it the attention and the pictures."""
    name = (task.config.name or task.config.method).replace("-", "_")
    for folder in ("attention", "pictures"):
        (RESULTS / folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(json.loads(choice.attention.to_json()), separators=(",", ":"))
    (RESULTS / "attention" / f"{name}.json").write_text(text + "\n")
    pictures = draw_all(choice, task, RESULTS / "pictures", f"search_{name}")
    grid = task.subject.grid
    run.log(
        search=name,
        method=task.config.method,
        prompts=list(task.subject.prompts),
        tokens=grid.num_tokens,
        pictures=[path.name for path in pictures],
        **choice.report,
    )


def print_report(choice: Choice) -> None:
    """The result in a few lines."""
    report = choice.report
    print(
        f"\ndensity {report['density']:.3f} in sparse steps, {report['density_run']:.3f} over the run"
    )
    for row in report["candidates"]:
        print(f"  {row['share']:6.1%}  density {row['density']:.3f}  {row['pattern']}")
    for name, found in report["stability"].items():
        print(
            f"choices agree over {name}: {found['agreement_share']:.2f} "
            f"(chance {found['chance_share']:.2f}, kappa {found['kappa_correlation']:.2f})"
        )
    errors = report["chosen_error"]
    for part in ("calibration", "held_out"):
        if f"{part}_error" in errors:
            best = errors.get(f"{part}_best_single_error")
            print(
                f"{part.replace('_', '-')} error {errors[f'{part}_error']:.3e}"
                + ("" if best is None else f", best affordable single candidate {best:.3e}")
            )


if __name__ == "__main__":
    try:
        command.run(
            main,
            Config,
            description=search.__doc__,
            interrupted="stopped; the same command goes on from what was measured",
        )
    finally:
        jax.clear_caches()
