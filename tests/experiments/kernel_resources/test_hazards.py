import pytest

from experiments.kernel_resources.hazards import check, registers
from experiments.kernel_resources.sass import parse
from tests.experiments.kernel_resources.listings import (
    CLOSED,
    FROM_REGISTERS,
    PRODUCT,
    listing,
    wait,
)

TOUCHES, OVERWRITES = "touches accumulators", "overwrites the left operand"


@pytest.mark.parametrize(
    ("text", "written", "read"),
    [
        ("FADD R1, R2, -R3.reuse", {1}, {2, 3}),
        ("CS2R R130, SRZ", {130, 131}, set()),
        ("IMAD.WIDE R2, R5, 0x4, R8", {2, 3}, {5, 8, 9}),
        ("SHFL.BFLY PT, R6, R7, 0x1, 0x1f", {6}, {7}),
        ("ISETP.GE.AND P6, PT, R209, R222.reuse, PT", set(), {209, 222}),
        ("LDG.E R13, desc[UR58][R12.64]", {13}, {12, 13}),
        ("LDS.128 R4, [R9+UR4]", {4, 5, 6, 7}, {9}),
        ("STSM.16.M88.4 [R5+0x20], R24", set(), {5, 24, 25, 26, 27}),
        ("SYNCS.ARRIVE.TRANS64.A1T0 RZ, [UR9], R3", set(), {3}),
        ("SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [R23+URZ], R22", set(), {22, 23}),
        ("R2UR UR61, R11", set(), {11}),
        ("BAR.SYNC.DEFER_BLOCKING R0, 0x80", set(), {0}),
        ("SHF.L.U64.HI R1, R2, 0x3, R4", {1}, {2, 4}),
        (CLOSED, set(range(24, 56)), set()),
        (FROM_REGISTERS, set(range(64, 96)), {8, 9, 10, 11}),
    ],
)
def test_registers_that_are_written_and_read(text, written, read):
    (one,) = parse(listing(text)).instructions
    assert registers(one) == (written, read)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ((CLOSED, "FADD R1, R55, R2"), TOUCHES),
        ((CLOSED, "FADD R24, R1, R2"), TOUCHES),
        ((PRODUCT, wait(0), "FADD R1, R24, R2"), TOUCHES),  # its group was never closed
        ((CLOSED, wait(1), "FADD R1, R24, R2"), TOUCHES),
        ((CLOSED, FROM_REGISTERS, wait(1), "FADD R1, R64, R2"), TOUCHES),
        ((CLOSED, "@P0 BRA `(.L_x_0)", wait(0), "L_x_0:", "FADD R1, R24, R2"), TOUCHES),
        ((CLOSED, f"@P0 {wait(0)}", "FADD R1, R24, R2"), TOUCHES),
        (("L_x_0:", "FADD R1, R24, R2", CLOSED, "@P0 BRA `(.L_x_0)"), TOUCHES),
        ((FROM_REGISTERS, "FADD R9, R1, R2"), OVERWRITES),
        ((FROM_REGISTERS, "CS2R R10, SRZ"), OVERWRITES),
        ((CLOSED, FROM_REGISTERS.replace("R8", "R52")), "left operand to which"),
        ((CLOSED, CLOSED.replace("R24", "R40")), "some of the accumulators"),
        ((FROM_REGISTERS.replace("R8", "R52"), CLOSED), "adds to the left operand"),
    ],
)  # fmt: skip
def test_each_hazard_is_found(lines, problem):
    found = check(parse(listing(*lines, wait(0), "EXIT"))).hazards
    assert len(found) == 1
    assert problem in str(found[0])


@pytest.mark.parametrize(
    "lines",
    [
        (CLOSED, wait(0), "FADD R24, R55, R2"),
        (CLOSED, FROM_REGISTERS, wait(1), "FADD R24, R55, R2"),  # the older one has ended
        (PRODUCT, PRODUCT, CLOSED, "FADD R1, R2, R3"),  # adds to the same accumulators
        (FROM_REGISTERS, "FADD R1, R8, R9"),  # reads what products read
        (FROM_REGISTERS, wait(0), "FADD R9, R1, R2"),
        ("L_x_0:", CLOSED, wait(0), "FADD R1, R24, R2", "@P0 BRA `(.L_x_0)"),
    ],
)
def test_sound_code_has_none(lines):
    assert check(parse(listing(*lines, wait(0), "EXIT"))).hazards == []


def test_says_how_much_there_was_to_check():
    code = parse(listing("NOP", CLOSED, "NOP", "NOP", wait(0), "NOP", "EXIT"))
    assert check(code).under_products == 3  # the wait, too
