"""Machine code written by hand, in the form in which nvdisasm prints it."""

import itertools


def listing(*lines: str) -> str:
    """Instructions with addresses and without scheduling, unless a line begins with it; labels end with a colon.

    A line is "OPCODE operands" or "wait:read:write:stall OPCODE operands".
    """
    addresses = itertools.count(0, 16)
    written = []
    for line in lines:
        if line.endswith(":"):
            written.append(f".{line}")
            continue
        schedule, _, rest = line.partition(" ")
        if schedule.count(":") != 3:
            schedule, rest = "-:-:-:01", line
        wait, read, write, stall = schedule.split(":")
        written.append(
            f"   {wait}:{read}:{write}:Y:{stall}        /*{next(addresses):04x}*/       {rest} "
        )
    return "\n".join([".text.kernel:", *written, "", "//------ SYMBOLS ------"])


PRODUCT = "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24"  # adds to R24 ... R55
CLOSED = f"{PRODUCT}, gsb0"
FROM_REGISTERS = (
    "HGMMA.64x64x16.F32.BF16 R64, R8, gdesc[UR4].tnspB, R64, gsb0"  # R64 ... R95, reads R8 ... R11
)


def wait(under_way: int) -> str:
    """Until no more than so many groups of products are under way."""
    return f"WARPGROUP.DEPBAR.LE gsb0, {under_way:#x}"
