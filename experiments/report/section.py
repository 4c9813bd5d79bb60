"""A question of the report: its records, its pictures and the command that makes them."""

import dataclasses

from experiments.report.tables import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    """Files of one kind.

    Attributes:
      glob: relative to the experiments' folder.
      shows: what one of them shows, as a sentence.
      drawn_from: name of the records, or what else they were made from.
    """

    glob: str
    shows: str
    drawn_from: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A question of the report.

    Attributes:
      key: anchor of the page.
      title: name in the table of contents.
      question: what was asked, and how to read the answer.
      command: that measures what is shown.
      tables: of records.
      pictures: in order.
    """

    key: str
    title: str
    question: str
    command: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[Pictures, ...] = ()
