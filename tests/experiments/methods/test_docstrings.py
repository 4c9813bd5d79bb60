import dataclasses

import pytest

from experiments.methods.docstrings import (
    arguments_table,
    arxiv_of,
    call,
    markdown,
    parse,
    type_name,
)
from sparsevdit_jax.patterns import Compensated, SlidingTile
from sparsevdit_jax.presets import METHODS

TEXT = """It keeps the best blocks. It is quick.

    Follows Some/Code (arXiv 2510.22200), of which there are two kinds:

    - one kind
    - another

    Differs: text is kept, always.

    More of the rule.

    Attributes:
      density: share of the blocks,
        rounded | down (arXiv 2510.22200).
      block: tokens.
    """


@dataclasses.dataclass(frozen=True)
class Base:
    """A base.

    Attributes:
      block: tokens of the base.
    """

    block: int | None = None


@dataclasses.dataclass(frozen=True)
class Child(Base):
    """A child.

    Attributes:
      name: "one" or "two", ``|a|``.
    """

    name: str = "one"


@dataclasses.dataclass(frozen=True)
class Silent:
    """Says nothing of its field."""

    block: int = 1


def test_a_docstring_comes_apart():
    parts = parse(TEXT)
    assert parts.summary == "It keeps the best blocks."
    assert parts.rule == ("It keeps the best blocks. It is quick.", "More of the rule.")
    assert parts.source[0].endswith("of which there are two kinds:")
    assert parts.source[1] == "- one kind\n- another"
    assert parts.differs == ("Differs: text is kept, always.",)
    assert parts.arguments == {
        "density": "share of the blocks, rounded | down (arXiv 2510.22200).",
        "block": "tokens.",
    }


def test_a_paragraph_may_hold_all_three():
    parts = parse("One.\n\nA rule. Reference: that. Differs from the code: this. And this.")
    assert parts.rule == ("One.", "A rule.")
    assert parts.source == ("Reference: that.",)
    assert parts.differs == ("Differs from the code: this. And this.",)


def test_markdown_has_links_and_one_kind_of_code():
    assert markdown("``a * b`` of arXiv 2510.22200") == (
        "`a * b` of [arXiv 2510.22200](https://arxiv.org/abs/2510.22200)"
    )
    assert markdown("a * b_c <d> | e") == r"a \* b\_c \<d> \| e"
    assert arxiv_of("none", "NABLA (arXiv 2507.13546)", "2510.22200") == "2507.13546"
    assert arxiv_of("version 1.2.3") is None


def test_arguments_come_from_fields_and_from_the_docstrings_of_bases():
    table = arguments_table(Child).splitlines()
    assert table[2] == r"| `block` | `int \| None` | `None` | tokens of the base. |"
    assert table[3] == '| `name` | `str` | `"one"` | "one" or "two", `\\|a\\|`. |'
    with pytest.raises(ValueError, match=r"Silent.block has no line under 'Attributes:'"):
        arguments_table(Silent)


def test_types_and_calls_as_one_writes_them():
    assert type_name(tuple[float, ...] | None) == "tuple[float, ...] | None"
    assert type_name("AttentionPattern") == "AttentionPattern"
    tile = SlidingTile((2, 4, 4), (1, 1, 1))
    assert call(tile) == "SlidingTile(tile=(2, 4, 4), window=(1, 1, 1))"
    assert call(Compensated(tile)) == f"Compensated(member={call(tile)})"
    assert call(Child(None, "two")) == 'Child(name="two")'
    assert len(METHODS) > 3
