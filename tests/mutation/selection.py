"""Which tests can see a mutant: those that run its lines, as coverage's contexts and a plugin's times tell."""

import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path

from .mutant import Mutant


class Selection:
    """Tests by the lines that they run.

    Args:
      data: file of coverage data with a context for each test (combined or one of several beside it).
      times: files of `tests.mutation.times`.
      without: regular expression of tests to leave out.
    """

    def __init__(self, data: Path, times: Iterable[Path], without: str = ""):
        import coverage

        # Workers may still be writing theirs, so nothing is combined: every file is asked.
        self._data = []
        for path in sorted(data.parent.glob(data.name + "*")):
            found = coverage.CoverageData(str(path))
            found.read()
            self._data.append(found)
        if not self._data:
            raise FileNotFoundError(
                f"no coverage data at {data}; see python -m pydoc tests.mutation"
            )
        rows = [json.loads(line) for path in times for line in path.read_text().splitlines()]
        self.seconds: dict[str, float] = {
            test: cpu for test, _, cpu in rows if not without or not re.search(without, test)
        }

    def tests(self, mutant: Mutant, tree: Path, *, seconds: float) -> tuple[list[str], int, float]:
        """Tests to run on a mutant, how many there are in all, and the seconds that the former take.

        First those of its statement, then of its function, then of its file; among them first those whose own
        file is the nearest, then the quickest. At least one, and no more than `seconds` take. Where the data
        know no test of the file's own tests (all run in other processes), these come first, whole.
        """
        source = (tree / mutant.file).read_text(encoding="utf-8")
        by_line: dict[int, set[str]] = {}
        for data in self._data:
            for line, contexts in data.contexts_by_lineno(mutant.file).items():
                by_line.setdefault(line, set()).update(c.partition("|")[0] for c in contexts)
        order: dict[str, None] = {}
        for circle in mutant.circles(source):
            found = set().union(*(by_line.get(line, ()) for line in circle)) & self.seconds.keys()
            key = lambda test: (-_common(mutant.file, test), self.seconds[test], test)  # noqa: E731
            order |= dict.fromkeys(sorted(found, key=key))
        chosen, total = [], 0.0
        for test in order:
            if not chosen or total + self.seconds[test] <= seconds:
                chosen.append(test)
                total += self.seconds[test]
        own = str(_own_tests(mutant.file))
        if (tree / own).is_file() and not any(test.startswith(own) for test in order):
            chosen.insert(0, own)
        if mutant.elsewhere:
            chosen.append(mutant.elsewhere)
        return chosen, len(order), total


def _own_tests(file: str) -> Path:
    """tests/a/test_b.py of a/b.py and a/_b.py."""
    return Path("tests", file).with_name("test_" + Path(file).name.lstrip("_"))


def _common(file: str, test: str) -> int:
    """How many names from the start the tests of a file and the file of a test have in common."""
    pairs = zip(_own_tests(file).parts, Path(test.partition("::")[0]).parts, strict=False)
    return sum(itertools.takewhile(bool, (a == b for a, b in pairs)))
