"""From the flag `--attention` to the attention of a model on a latent grid."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from experiments.hosts import say
from models.files import read_json
from sparsevdit_jax import SparseAttention, VideoGrid
from sparsevdit_jax.fastvideo import from_strategy
from sparsevdit_jax.presets import METHODS, PRESETS, attention_for


def choose_attention(
    choice: str,
    grid: VideoGrid,
    *,
    num_layers: int,
    num_heads: int,
    num_steps: int,
    model: str | None = None,
    dense_steps: int | None = None,
    dense_last_steps: int | None = None,
    dense_layers: Iterable[int] = (),
) -> SparseAttention | None:
    """The attention of every layer; None is dense.

    Args:
      choice: "dense", a method's name, or the path of a JSON file: one of `SparseAttention.to_json`, or a strategy
        of FastVideo. A method takes the published setting for this model, latent grid and number of steps if there
        is one, and otherwise its rule for any latent grid.
      grid: the latent grid.
      num_layers: layers of the model that take a pattern.
      num_heads: heads of each.
      num_steps: denoising steps of the run.
      model: family of the model, for which a method may have settings of its own; see `attention_for`.
      dense_steps: number of dense steps at the start, in place of the setting's or the file's.
      dense_last_steps: number of dense steps at the end, likewise.
      dense_layers: layers that stay dense, from 0. All three as in `SparseAttention.with_dense`.

    Raises:
      FileNotFoundError, ValueError: no such method or file, a file made for something else, or dense steps and
        layers that do not fit it; with "dense" they have no meaning.
    """
    sizes = dict(num_layers=num_layers, num_heads=num_heads)
    dense = (dense_steps, dense_last_steps, tuple(dense_layers))
    if choice == "dense":
        # Refuses the others, which would change nothing.
        attention_for(choice, grid, num_steps=num_steps, **sizes).with_dense(*dense)
        return None
    if choice in METHODS:
        name, attention = _setting(choice, grid, num_steps, sizes, model)
    else:
        name, attention = _file(choice, grid, num_steps, sizes)
    try:
        attention = attention.with_dense(*dense)
    except ValueError as problem:
        raise ValueError(f"{choice}: {problem}") from problem
    if dense != (None, None, ()):
        name += f"; {_counted(attention)}"
    say(f"{choice}: {name}")
    return attention


def _setting(method, grid, num_steps, sizes, model) -> tuple[str, SparseAttention]:
    """What a method means, in words and as attention."""
    for name, preset in PRESETS.items():
        same = (preset.method, preset.grid, preset.schedule.num_steps) == (method, grid, num_steps)
        if same and dict(num_layers=preset.num_layers, num_heads=preset.num_heads) == sizes:
            return f"the setting {name} ({preset.source})", preset.attention()
    attention = attention_for(method, grid, num_steps=num_steps, model=model, **sizes)
    kinds = list(dict.fromkeys(attention.patterns))
    where = "in every layer" if len(kinds) == 1 else "in its layers"
    return f"{', '.join(map(str, kinds))} {where}", attention


def _file(choice, grid, num_steps, sizes) -> tuple[str, SparseAttention]:
    """What a file says, in words and as attention."""
    path = Path(choice)
    if path.suffix != ".json":
        near = difflib.get_close_matches(choice, ["dense", *METHODS], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"attention={choice!r} is no method{hint} and no .json file of SparseAttention.to_json or of "
            f"FastVideo; methods are dense, {', '.join(METHODS)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} for --attention")
    is_ours = "format" in read_json(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if is_ours:
            attention = SparseAttention.from_json(text)
        else:
            attention = from_strategy(text, grid, say=lambda line: say(f"{path}: {line}"))
        attention.check(grid=grid, **sizes)
        if attention.schedule.num_steps != num_steps:
            raise ValueError(
                f"it is for {attention.schedule.num_steps} steps, not for {num_steps}; pass "
                f"--steps {attention.schedule.num_steps}"
            )
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}") from problem
    return ("patterns" if is_ours else "a strategy of FastVideo"), attention


def _counted(attention: SparseAttention) -> str:
    schedule = attention.schedule
    dense = [i for i, pattern in enumerate(attention.patterns) if pattern.is_dense]
    layers = f", dense layers {', '.join(map(str, dense))}" if dense else ""
    return (
        f"{schedule.dense_steps} dense steps first, {schedule.dense_last_steps} last of "
        f"{schedule.num_steps}{layers}"
    )
