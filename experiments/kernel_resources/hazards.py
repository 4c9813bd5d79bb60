"""Finds machine code that touches registers while a matrix product in flight still uses them.

A product (HGMMA) reads its left operand from registers, or from shared memory, and adds to its accumulators, all while
the warp goes on. `gsb0` on a product closes a group; WARPGROUP.DEPBAR waits until no more than so many groups are under
way, and the oldest end first. Until then nothing but a product that adds to the same accumulators may touch these, and
nothing may write the left operand. Every way through the code is followed, loops included.
"""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

from experiments.kernel_resources.sass import Code, Instruction

_REGISTER = re.compile(r"(?<![A-Za-z0-9_])R(\d+)(\.64)?")
_PREDICATE = re.compile(r"!?U?P(\d|T)$")
_NO_RESULT = re.compile(r"ST|RED|BAR|BRA|NANOSLEEP|FCHK|\w+SETP")
_MOST = 8  # groups that are told apart; no wait leaves so many under way
_LEFT = 4  # registers of a left operand of 64 x 16 numbers of 16 bits

Registers = frozenset[int]


class Group(NamedTuple):
    """Products that are waited for together."""

    sums: frozenset[Registers]  # accumulators of each
    left: Registers  # left operands of all


class Hazard(NamedTuple):
    """An instruction that meets a product under way."""

    instruction: Instruction
    problem: str

    def __str__(self) -> str:
        return f"{self.instruction} {self.problem}"


class Checked(NamedTuple):
    """What was found, by address, and how many instructions may be issued under a product: what there was to check."""

    hazards: list[Hazard]
    under_products: int


State = tuple[Group, ...]  # groups under way, the last of them still open
_NOTHING = Group(frozenset(), frozenset())


def check(code: Code) -> Checked:
    """Follows every way through the code with every set of products that can be under way there."""
    touched = [registers(one) for one in code.instructions]
    found: set[tuple[int, str]] = set()
    issued: set[int] = set()
    seen: set[tuple[int, State]] = set()
    stack: list[tuple[int, State]] = [(0, (_NOTHING,))]
    while stack:
        index, state = stack.pop()
        if (index, state) in seen:
            continue
        seen.add((index, state))
        one = code.instructions[index]
        if any(group.sums for group in state):
            found |= {(index, problem) for problem in _problems(one, *touched[index], state)}
            if not one.is_product:
                issued.add(index)
        state = _after(one, *touched[index], state)
        stack += [(target, state) for target in code.successors[index]]
    hazards = [Hazard(code.instructions[index], problem) for index, problem in sorted(found)]
    return Checked(hazards, len(issued))


def registers(one: Instruction) -> tuple[Registers, Registers]:
    """Registers that an instruction writes and reads; accumulators and left operand of a product.

    Raises:
      ValueError: a product of another form than these kernels have.
    """
    if one.is_product:
        first = _REGISTER.fullmatch(one.operands[0])
        if not first:
            raise ValueError(f"{one} has no accumulators in registers; teach hazards.py")
        left = _REGISTER.fullmatch(one.operands[1])
        return _span(first[1], one.columns // 2), _span(left[1], _LEFT) if left else frozenset()
    written, read = set(), set()
    result = _result(one)
    for place, operand in enumerate(one.operands):
        for match in _REGISTER.finditer(operand):
            width = 2 if match[2] else 1 if "[" in operand else _width(one, place)
            (written if place == result else read).update(_span(match[1], width))
    return frozenset(written), frozenset(read)


def _span(first: str, count: int) -> Registers:
    return frozenset(range(int(first), int(first) + count))


def _result(one: Instruction) -> int | None:
    """Place of the operand that is written: the first behind predicates, if it is no address."""
    if _NO_RESULT.match(one.name):
        return None
    place = next((i for i, x in enumerate(one.operands) if not _PREDICATE.match(x)), None)
    return None if place is None or "[" in one.operands[place] else place


def _width(one: Instruction, place: int) -> int:
    """Registers of an operand that is no address."""
    if re.search(r"\.(128|M88\.4)\b", one.opcode):
        return 4
    if re.search(r"\.(64|M88\.2)\b", one.opcode) or (
        one.name == "CS2R" and ".32" not in one.opcode
    ):
        return 2
    if ".WIDE" in one.opcode:  # the result, and what a product of two registers is added to
        last = max(i for i, x in enumerate(one.operands) if not _PREDICATE.match(x))
        return 2 if place in (_result(one), last) else 1
    return 1


def _problems(one: Instruction, written: Registers, read: Registers, state: State) -> Iterator[str]:
    for sums, left in state:
        every = _union(sums)
        if one.is_product:
            if read & every:
                yield "has a left operand to which a product under way adds"
            if written & every and any(written & each and written != each for each in sums):
                yield "adds to some of the accumulators of a product under way"
            if written & left:
                yield "adds to the left operand of a product under way"
        else:
            if (written | read) & every:
                yield "touches accumulators of a product under way"
            if written & left:
                yield "overwrites the left operand of a product under way"


@functools.cache
def _union(sums: frozenset[Registers]) -> Registers:
    return frozenset().union(*sums)


def _after(one: Instruction, written: Registers, read: Registers, state: State) -> State:
    """What is under way behind an instruction."""
    *groups, current = state
    if one.is_product:
        current = Group(current.sums | {written}, current.left | read)
        if "gsb0" not in one.operands:
            return (*groups, current)
        if len(groups) == _MOST:
            (a, b), (c, d), *groups = groups
            groups = [Group(a | c, b | d), *groups]
        return (*groups, current, _NOTHING)
    if one.under_way is not None and not one.predicate:
        groups = groups[max(len(groups) - one.under_way, 0) :]
    return (*groups, current)
