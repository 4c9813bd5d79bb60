"""All rows, in the order of the table."""

from experiments.paper_figures import adaspa, others, sparse_vdit, sta
from experiments.paper_figures.figure import Figure

SYSTEMS = {
    "sta": sta.rows,
    "adaspa": adaspa.rows,
    "sparse-vdit": sparse_vdit.rows,
    "others": others.rows,
}


def figures(system: str = "all") -> list[Figure]:
    """The rows of one system, or of all; those of a group together, groups as they first appear."""
    if system not in ("all", *SYSTEMS):
        raise ValueError(f"{system=} must be one of {('all', *SYSTEMS)}")
    chosen = [rows for name, rows in SYSTEMS.items() if system in ("all", name)]
    together: dict[tuple[str, str], list[Figure]] = {}
    for figure in (figure for rows in chosen for figure in rows()):
        together.setdefault((figure.system, figure.group), []).append(figure)
    return [figure for group in together.values() for figure in group]
