"""Which records count, and what a table says below it of where they were made."""

from typing import Any


def newest(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The last record for each combination of measured `keys`, in order of first appearance."""
    last: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        last[tuple(row["measured"][key] for key in keys)] = row
    return list(last.values())


def machine(row: dict[str, Any]) -> str:
    """The machine and the versions of a record."""
    where = row["environment"]
    device = "" if where["device"] == "cpu" else f"{where['device']}, "
    return (
        f"{device}{where['processor']}, {where['num_cores']} cores, Python {where['python']}, jax {where['jax']}, "
        f"flax {where['flax']}"
    )


def provenance(rows: list[dict[str, Any]]) -> str:
    """Where records were made: each machine once, with its commits and their last day."""
    commits: dict[str, dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: row["time"]):
        commits.setdefault(machine(row), {})[row["git_sha"][:10]] = row["time"][:10]
    parts = []
    for where, shas in commits.items():
        word = "commit" if len(shas) == 1 else "commits"
        parts.append(f"{where}; {word} {', '.join(shas)}, {max(shas.values())}")
    return ". ".join(parts)
