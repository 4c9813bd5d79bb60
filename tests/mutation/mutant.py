"""Mutant: one plausible mistake, as a replacement of text."""

import ast
from typing import NamedTuple

EIGHT_DEVICES = "tests/sparsevdit_jax/parallel/test_on_eight_devices.py::test_on_eight_devices"


class Mutant(NamedTuple):
    """A mistake that a test must see.

    Attributes:
      file: of one of the three packages, from the repository's root.
      old: text that stands in it exactly once.
      new: what stands there instead.
      why: the mistake in a few words; with `file` the mutant's name.
      elsewhere: a test that runs the line in a process of its own, of which coverage knows no test.
    """

    file: str
    old: str
    new: str
    why: str
    elsewhere: str = ""

    def apply(self, source: str) -> str | None:
        """The file with the mistake; None where `old` does not stand in it exactly once."""
        return source.replace(self.old, self.new) if source.count(self.old) == 1 else None

    def circles(self, source: str) -> list[set[int]]:
        """Lines whose tests can see the mistake, nearest first: its statement, its function, the file."""
        first = source.count("\n", 0, source.index(self.old)) + 1
        last = first + self.old.rstrip("\n").count("\n")
        statement = function = first, last
        for node in ast.walk(ast.parse(source)):  # the innermost comes last
            if (
                not isinstance(node, ast.stmt)
                or not node.lineno <= first <= last <= node.end_lineno
            ):
                continue
            if isinstance(node, ast.FunctionDef):
                function = node.lineno, node.end_lineno
            elif not hasattr(node, "body"):
                statement = node.lineno, node.end_lineno
        whole = 1, source.count("\n") + 1
        return [set(range(a, b + 1)) for a, b in ((first, last), statement, function, whole)]


def of(file: str, *changes: tuple[str, ...]) -> list[Mutant]:
    """Mutants of one file from (old, new, why) or (old, new, why, elsewhere)."""
    return [Mutant(file, *change) for change in changes]
