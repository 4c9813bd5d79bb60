"""Machine code of one kernel: its instructions, where each may lead, and its main loop.

Mosaic GPU prints what nvdisasm says, with what ptxas decided about scheduling in front of each instruction:

    wait : read : write : yield : stall   /*address*/   @predicate OPCODE operands

`wait` names scoreboards that must be clear before it issues, `read` and `write` one that it clears when its operands
have been read or its result is there, `stall` the cycles until the next instruction may issue.
"""

import dataclasses
import functools
import re

_ADDRESS = re.compile(r"/\*[0-9a-f]{4,}\*/")
_LINE = re.compile(
    r"\s*(-|[\d&]+|0x[0-9a-f]+):([-\d]):([-\d]):[-Y]:(\d\d)\s+/\*([0-9a-f]+)\*/\s+(.*?)\s*$"
)
_LABEL = re.compile(r"\.(L_x_\d+):")
_TARGET = re.compile(r"`\(\.(L_x_\d+)\)")
_ENDS = ("EXIT", "RET", "BPT")
_UNKNOWN = ("CALL", "JMP", "BSYNC", "BREAK", "WARPSYNC")  # nothing here knows where they lead


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      address: in bytes from the kernel's start.
      predicate: "P1", "!UP0", ..., or "".
      opcode: with its modifiers, like "HGMMA.64x128x16.F32.BF16".
      operands: as they are written.
      waits: scoreboards that must be clear before it issues.
      read: scoreboard that clears when its operands have been read, or None.
      write: scoreboard that clears when its result is there, or None.
      stall: cycles before the next instruction of this warp may issue.
    """

    address: int
    predicate: str
    opcode: str
    operands: tuple[str, ...]
    waits: tuple[int, ...]
    read: int | None
    write: int | None
    stall: int

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def is_product(self) -> bool:
        """Whether a warpgroup's matrix product."""
        return self.name == "HGMMA"

    @property
    def columns(self) -> int:
        """N of a matrix product of 64 x N x 16."""
        found = re.match(r"HGMMA\.64x(\d+)x16\.F32\b", self.opcode)
        if not found:
            raise ValueError(f"{self} is no product of 64 x N x 16 to float32")
        return int(found[1])

    @property
    def under_way(self) -> int | None:
        """Groups of products that may be under way after this wait for products; None for anything else."""
        if not self.opcode.startswith("WARPGROUP.DEPBAR"):
            return None
        return int(self.operands[1], 16)

    def __str__(self) -> str:
        guard = f"@{self.predicate} " if self.predicate else ""
        return f"/*{self.address:04x}*/ {guard}{self.opcode} {', '.join(self.operands)}".rstrip()


@dataclasses.dataclass(frozen=True)
class Code:
    """A kernel's instructions, and the index of the one behind each label."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]

    def without(self, index: int) -> "Code":
        """The same with a NOP for one instruction, to see what it is needed for."""
        old = self.instructions[index]
        nop = dataclasses.replace(old, opcode="NOP", operands=())
        changed = (*self.instructions[:index], nop, *self.instructions[index + 1 :])
        return Code(changed, self.labels)

    @functools.cached_property
    def successors(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the instructions that may follow each one.

        A jump through a table (BRX: which warp copies what) may lead behind every label that no other jump names: the
        table is not printed. That is more than it does, so what holds for all of these ways holds for the kernel.

        Raises:
          ValueError: a jump whose target is not written in it.
        """
        found, named = [], {t[1] for one in self.instructions if (t := _TARGET.search(f"{one}"))}
        end = len(self.instructions)
        others = {at for label, at in self.labels.items() if label not in named and at < end}
        for index, one in enumerate(self.instructions):
            if one.name in _UNKNOWN:
                raise ValueError(f"{one} jumps somewhere that sass.py does not follow; teach it")
            after = (index + 1,) if index + 1 < len(self.instructions) else ()
            if one.name in _ENDS and not one.predicate:
                after = ()
            elif one.name == "BRX":
                after = tuple(sorted(others))
            elif one.name == "BRA":
                target = self.labels[_TARGET.search(one.operands[-1])[1]]  # pyrefly: ignore
                always = not one.predicate and len(one.operands) == 1
                after = (target,) if always else (*after, target)
            found.append(after)
        return tuple(found)

    def main_loop(self) -> tuple[Instruction, ...]:
        """One pass through the innermost loop with the most products.

        A branch that waits for a barrier finds it complete. Of the other ways round the loop this is one with all the
        products and the most waits, and of these the shortest: a test that may spare work spares it.

        Raises:
          ValueError: no loop has a product.
        """
        return tuple(self.instructions[i] for i in _Loops(self).main())


def parse(listing: str) -> Code:
    """The code in the output of MOSAIC_GPU_DUMP_SASS_CTRL for one kernel; what else is printed there is passed over.

    Raises:
      ValueError: no instruction is in it, or one has another form.
    """
    instructions, labels, waiting = [], {}, []
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            waiting.append(label[1])
        elif found := _LINE.match(line):
            labels |= dict.fromkeys(waiting, len(instructions))
            waiting = []
            instructions.append(_instruction(found))
        elif _ADDRESS.search(line):
            raise ValueError(
                f"{line!r} is not in the form of the other instructions; teach sass.py"
            )
    if not instructions:
        raise ValueError(
            "no machine code was printed; nvdisasm is in the package nvidia-cuda-nvdisasm of the extra aot"
        )
    return Code(tuple(instructions), labels | dict.fromkeys(waiting, len(instructions)))


def _instruction(found: re.Match[str]) -> Instruction:
    waits, read, write, stall, address, text = found.groups()
    predicate, text = re.match(r"(?:@(\S+) )?\s*(.*)", text).groups()  # pyrefly: ignore
    opcode, _, operands = text.partition(" ")
    return Instruction(
        address=int(address, 16),
        predicate=predicate or "",
        opcode=opcode,
        operands=tuple(x.strip() for x in re.split(r",(?![^\[]*\])", operands) if x.strip()),
        waits=_scoreboards(waits),
        read=None if read == "-" else int(read),
        write=None if write == "-" else int(write),
        stall=int(stall),
    )


def _scoreboards(waits: str) -> tuple[int, ...]:
    """ "-": none; "2&1": these; "0x1c": those of its bits."""
    if waits.startswith("0x"):
        return tuple(bit for bit in range(8) if int(waits, 16) >> bit & 1)
    return tuple(map(int, filter(str.isdigit, waits.split("&"))))


class _Loops:
    """Basic blocks of a kernel and the loops they form."""

    def __init__(self, code: Code):
        self.code = code
        after = code.successors
        starts = {0, *(t for i, ts in enumerate(after) for t in ts if len(ts) != 1 or t != i + 1)}
        starts |= {i + 1 for i, ts in enumerate(after) if ts != (i + 1,)}
        self.starts = sorted(s for s in starts if s < len(after))
        ends = [*self.starts[1:], len(after)]
        number = {start: block for block, start in enumerate(self.starts)}
        self.blocks = [range(*pair) for pair in zip(self.starts, ends, strict=True)]
        self.after = [[number[t] for t in after[block[-1]]] for block in self.blocks]
        for block, indices in enumerate(
            self.blocks
        ):  # a jump through a table deals out roles, and makes no loop
            if code.instructions[indices[-1]].name == "BRX":
                self.after[block] = []
        self.before: list[list[int]] = [[] for _ in self.blocks]
        for block, targets in enumerate(self.after):
            for target in targets:
                self.before[target].append(block)
        self.dominators = self._dominators()
        instructions = code.instructions
        self.products = [sum(instructions[i].is_product for i in block) for block in self.blocks]

    def _dominators(self) -> list[set[int]]:
        """Of each block, those that every way from the start to it goes through; none for dead code."""
        order, seen, stack = [], {0}, [(0, iter(self.after[0]))]
        while stack:
            block, targets = stack[-1]
            target = next((t for t in targets if t not in seen), None)
            if target is None:
                order.append(block)
                stack.pop()
            else:
                seen.add(target)
                stack.append((target, iter(self.after[target])))
        found: list[set[int]] = [set() for _ in self.blocks]
        found[0] = {0}
        changed = True
        while changed:
            changed = False
            for block in reversed(order[:-1]):
                known = [found[b] for b in self.before[block] if found[b]]
                new = set.intersection(*known) | {block}
                changed |= new != found[block]
                found[block] = new
        return found

    def main(self) -> list[int]:
        """Indices of the instructions of one pass through the main loop."""
        bodies: dict[int, set[int]] = {}
        for block, targets in enumerate(self.after):
            for header in set(targets) & self.dominators[block]:
                bodies.setdefault(header, {header}).update(self._reaching(block, header))
        loops = [(h, body) for h, body in bodies.items() if any(self.products[b] for b in body)]
        inner = [
            (header, body)
            for header, body in loops
            if not any(other != header and other in body for other, _ in loops)
        ]
        if not inner:
            raise ValueError("no loop of this kernel has a matrix product")
        return self._way(*max(inner, key=lambda loop: sum(self.products[b] for b in loop[1])))

    def _reaching(self, block: int, header: int) -> set[int]:
        """Blocks from which `block` can be reached without going through the header."""
        found, stack = {header, block}, [block]
        while stack:
            current = stack.pop()
            if current == header:
                continue
            for before in self.before[current]:
                if before not in found and self.dominators[before]:
                    found.add(before)
                    stack.append(before)
        return found

    def _way(self, header: int, body: set[int]) -> list[int]:
        """The best way from the header back to it; see `Code.main_loop`."""

        @functools.cache
        def best(block: int) -> tuple[int, int, int, tuple[int, ...]] | None:
            ways = []
            for target in self._once_complete(block):
                if target == header:
                    ways.append((0, 0, 0, ()))
                elif target in body and target not in self.dominators[block]:
                    ways.append(best(target))
            ways = [way for way in ways if way]
            if not ways:
                return None
            products, waits, length, rest = max(ways)
            here = self.blocks[block]
            waits += sum("TRYWAIT" in self.code.instructions[i].opcode for i in here)
            return products + self.products[block], waits, length - len(here), (block, *rest)

        way = best(header)
        assert way, "a loop has a way round"
        return [i for block in way[-1] for i in self.blocks[block]]

    def _once_complete(self, block: int) -> list[int]:
        """Blocks that may follow, where a wait for a barrier at the end of this one has succeeded."""
        branch = self.code.instructions[self.blocks[block][-1]]
        waits = [
            self.code.instructions[i].operands[0]
            for i in self.blocks[block]
            if self.code.instructions[i].opcode.startswith("SYNCS.PHASECHK")
        ]
        if branch.name != "BRA" or branch.predicate.lstrip("!") not in waits[-1:]:
            return self.after[block]
        return self.after[block][:1] if branch.predicate.startswith("!") else self.after[block][1:]
