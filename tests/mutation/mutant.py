"""Mutant: one plausible mistake, as a replacement of text."""

import ast
from typing import NamedTuple


class Mutant(NamedTuple):
    """A mistake that a test must see.

    Attributes:
      file: of one of the three packages, from the repository's root.
      old: text that stands in it exactly once.
      new: what stands there instead.
      why: the mistake in a few words; with `file` the mutant's name.
    """

    file: str
    old: str
    new: str
    why: str

    def apply(self, source: str) -> str | None:
        """The file with the mistake; None where `old` does not stand in it exactly once."""
        return source.replace(self.old, self.new) if source.count(self.old) == 1 else None

    def circles(self, source: str) -> list[set[int]]:
        """Lines whose tests can see the mistake, nearest first: its statement, its function, the file."""
        start = source.index(self.old)
        first = source.count("\n", 0, start) + 1
        last = first + self.old.rstrip("\n").count("\n")
        found: dict[type, tuple[int, int]] = {}
        for node in ast.walk(ast.parse(source)):
            kind = next((k for k in (ast.stmt, ast.expr) if isinstance(node, k)), None)
            if kind is not ast.stmt or not node.lineno <= first <= last <= node.end_lineno:
                continue
            is_function = isinstance(node, ast.FunctionDef)
            if is_function:
                found[ast.FunctionDef] = node.lineno, node.end_lineno
            if not hasattr(node, "body"):
                found[ast.stmt] = node.lineno, node.end_lineno
        spans = [(first, last), found.get(ast.stmt), found.get(ast.FunctionDef)]
        return [set(range(a, b + 1)) for a, b in filter(None, spans)] + [
            set(range(1, source.count("\n") + 2))
        ]


def of(file: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    """Mutants of one file from (old, new, why)."""
    return [Mutant(file, *change) for change in changes]
