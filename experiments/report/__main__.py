"""The report's flags. What it asks and answers: the package's docstring."""

import dataclasses
from pathlib import Path

from experiments import command, report
from experiments.paper_figures.rows import figures
from experiments.record import ROOT
from experiments.report.report_page import write_page
from experiments.report.sections import SECTIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of the report.

    Attributes:
      out: folder to write index.html into.
      folder: of the experiments, with results and LOG.md.
    """

    out: Path = Path("out/report")
    folder: Path = ROOT / "experiments"

    def __post_init__(self):
        if not self.folder.is_dir():
            raise ValueError(f"no folder {self.folder} for --folder; give one that holds results/")


def main(config: Config) -> None:
    """Writes the page and says what it lacks."""
    missing = write_page(config.out, config.folder, SECTIONS, figures())
    for text in missing:
        print(f"missing: {text}")
    print((config.out / "index.html").resolve())


if __name__ == "__main__":
    command.run(main, Config, description=report.__doc__)
