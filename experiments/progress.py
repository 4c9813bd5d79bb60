"""One progress bar for all experiments: elapsed, left, and a short status at its end."""

import contextlib
from collections.abc import Callable, Iterator

from experiments import hosts


@contextlib.contextmanager
def progress_bar(title: str, *, total: int, done: int = 0) -> Iterator[Callable[[str], None]]:
    """Shows a bar while the block runs; the yielded function takes one step and sets the status.

    On a terminal the bar redraws itself; elsewhere (a log file) rich prints it once, at the end.
    Of several hosts the first alone shows it.
    """
    from rich import progress

    columns = (
        progress.TextColumn("{task.description:<28}"),
        progress.BarColumn(bar_width=30),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[status]}"),
    )
    with progress.Progress(*columns, disable=not hosts.is_first()) as bar:
        task = bar.add_task(title, total=total, completed=done, status="")
        yield lambda status="": bar.update(task, advance=1, status=status)
