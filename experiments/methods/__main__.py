"""What is each method, how does it choose, how close and how well verified is it? A page for each.

    python -m experiments.methods                  # compares with the vectors, draws, writes: minutes
    python -m experiments.methods --only svg2      # the same for one
    python -m experiments.methods --no-draw        # writes the pages anew from docstrings and records

Pages and pictures are experiments/methods/pages/NAME.md and NAME.png; sparsevdit_jax/patterns/README.md has the
table of all. What a page says stands in docstrings, in `presets.METHODS` and in the records conformance, methods
and quality.
"""

import dataclasses

from experiments import command, readme_tables, record
from experiments.methods import page, picture, vectors
from experiments.methods.reads import blocks_of, is_online, reads
from sparsevdit_jax.method import Method
from sparsevdit_jax.presets import METHODS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      only: names of methods; all where none is given.
      draw: compare with the vectors and draw the pictures, and record both.
      allow_dirty: record results of uncommitted code, marked as such.
    """

    only: tuple[str, ...] = ()
    draw: bool = True
    allow_dirty: bool = False

    def __post_init__(self):
        if unknown := [name for name in self.only if name not in METHODS]:
            raise ValueError(
                f"--only {' '.join(unknown)}: no such method; there are {', '.join(METHODS)}"
            )


def draw(method: Method, run: record.Run) -> None:
    """Draws a method's picture and records what it shows."""
    rows, drawn = [], page.drawn(method)
    for pattern in drawn:
        seen = reads(pattern)
        density = "" if seen.density is None else f", density {seen.density:.2f}"
        rows.append((f"{type(pattern).__name__}{density}", seen))
    picture.draw(rows, page.PAGES / f"{method.name}.png")
    plans = [blocks_of(pattern, page.FULL) for pattern in page.patterns_of(method, page.FULL)]
    blocks = [f"{found.queries} x {found.keys}" for found in plans if found]
    run.log(
        method=method.name,
        online=any(map(is_online, drawn)),
        has_plan=all(plans),
        blocks=list(dict.fromkeys(blocks)),
        skips=any(found.skips for found in plans if found),
        hopper=all(found is not None and found.on_hopper for found in plans),
    )


def main(config: Config) -> None:
    """Compares, draws and writes."""
    names = config.only or tuple(METHODS)
    if config.draw:
        page.PAGES.mkdir(exist_ok=True)
        compared, run = (
            record.Run.start(name, config, allow_dirty=config.allow_dirty)
            for name in (vectors.NAME, "methods")
        )
        kinds = [kind for name in names for kind in page.kinds_of(METHODS[name])]
        vectors.log(compared, set().union(*map(vectors.families_of, kinds)))
        for name in names:
            print(f"drawing {name}", flush=True)
            draw(METHODS[name], run)
    for name in names:
        path = page.PAGES / f"{name}.md"
        if not path.exists():
            path.write_text("<!-- page -->\n<!-- /page -->\n", encoding="utf-8")
        readme_tables.write(path)
    readme_tables.write(readme_tables.PATTERNS)


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
