"""What `--attention` means for a model and a canvas."""

import json
from pathlib import Path

from experiments.hosts import say
from sparsevdit_jax import SparseAttention, VideoGrid
from sparsevdit_jax.fastvideo import from_strategy
from sparsevdit_jax.presets import METHODS, PRESETS, attention_for


def choose_attention(
    choice: str, grid: VideoGrid, *, num_layers: int, num_heads: int, num_steps: int
) -> SparseAttention | None:
    """The attention of every layer; None is dense.

    Args:
      choice: "dense", a method's name, or the path of a JSON file: one of `SparseAttention.to_json`, or a strategy
        of FastVideo. A method takes the published setting for this model, canvas and number of steps where there is
        one, and its rule for any canvas otherwise.

    Raises:
      FileNotFoundError, ValueError: no such method or file, or a file made for something else.
    """
    if choice == "dense":
        return None
    sizes = dict(num_layers=num_layers, num_heads=num_heads)
    if choice in METHODS:
        for name, preset in PRESETS.items():
            same = (preset.method, preset.grid, preset.schedule.num_steps) == (
                choice,
                grid,
                num_steps,
            )
            if same and (preset.num_layers, preset.num_heads) == (num_layers, num_heads):
                say(f"{choice}: the setting {name} ({preset.source})")
                return preset.attention()
        attention = attention_for(choice, grid, num_steps=num_steps, **sizes)
        say(f"{choice}: {attention.patterns[0]} in every layer")
        return attention
    path = Path(choice)
    if path.suffix != ".json":
        raise ValueError(
            f"attention={choice!r} must be dense, {', '.join(METHODS)}, or a .json file of "
            "SparseAttention.to_json or of FastVideo"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} for --attention")
    text = path.read_text(encoding="utf-8")
    try:
        document = json.loads(text)
        is_ours = isinstance(document, dict) and "format" in document
        attention = SparseAttention.from_json(text) if is_ours else from_strategy(text, grid)
        attention.check(grid=grid, **sizes)
        if attention.schedule.num_steps != num_steps:
            raise ValueError(
                f"it is for {attention.schedule.num_steps} steps, not for {num_steps}; pass "
                f"--steps {attention.schedule.num_steps}"
            )
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}") from problem
    return attention
