import pytest

from experiments.kernel_resources.sass import parse
from tests.experiments.kernel_resources.listings import CLOSED, PRODUCT, listing, wait


def opcodes(instructions):
    return [one.opcode for one in instructions]


def test_an_instruction_is_read_field_by_field():
    (one,) = parse(listing("2&1:3:4:12 @!P1 LDG.E R13, desc[UR58][R12.64+0x8], P2")).instructions
    assert (one.predicate, one.opcode, one.name) == ("!P1", "LDG.E", "LDG")
    assert one.operands == ("R13", "desc[UR58][R12.64+0x8]", "P2")
    assert (one.waits, one.read, one.write, one.stall, one.address) == ((2, 1), 3, 4, 12, 0)
    assert str(one) == "/*0000*/ @!P1 LDG.E R13, desc[UR58][R12.64+0x8], P2"
    assert one.under_way is None


def test_scoreboards_may_come_as_bits():
    (one,) = parse(listing("0x1c:-:-:05 EXIT")).instructions
    assert one.waits == (2, 3, 4)


def test_products_and_waits_for_them_are_known():
    product, end = parse(listing(CLOSED, wait(1))).instructions
    assert (product.is_product, product.columns, end.under_way) == (True, 64, 1)
    with pytest.raises(ValueError, match="no product"):
        print(end.columns)


def test_a_line_of_another_form_is_not_passed_over():
    with pytest.raises(ValueError, match="not in the form"):
        parse(listing("EXIT") + "\n   a+b:-:-:Y:05   /*0010*/   @P0 BRA `(.L_x_0) ")


def test_output_without_machine_code_names_the_package():
    with pytest.raises(ValueError, match="nvidia-cuda-nvdisasm"):
        parse("ptxas info    : 0 bytes gmem\n")


def test_jumps_lead_where_they_say():
    code = parse(
        listing(
            "L_x_0:",
            "NOP",
            "@P0 BRA `(.L_x_1)",
            "BRA UP0, `(.L_x_0)",
            "BRA `(.L_x_0)",
            "L_x_1:",
            "@P1 EXIT",
            "EXIT",
        )
    )
    assert code.successors == ((1,), (2, 4), (3, 0), (0,), (5,), ())
    table = parse(
        listing(
            "BRX R4 -0x10", "L_x_0:", "BRA `(.L_x_1)", "L_x_1:", "NOP", "L_x_2:", "EXIT", "L_x_3:"
        )
    )
    assert table.successors[0] == (1, 3)  # behind labels that no other jump names
    with pytest.raises(ValueError, match="teach"):
        print(parse(listing("CALL.REL.NOINC `(.L_x_0)", "L_x_0:")).successors)


# Prologue with a product; a loop whose wait may spin out of line, with a part that a test spares; another loop.
LOOPED = (
    CLOSED, wait(0),
    "L_x_1:", "IADD3 R1, R1, 0x1, RZ", "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2", "@!P0 BRA `(.L_x_5)",
    "L_x_2:", PRODUCT, CLOSED, "@P2 BRA `(.L_x_3)", "FSEL R3, R3, R4, P1", "FSEL R4, R3, R4, P1",
    "L_x_3:", "@P4 BRA `(.L_x_4)", "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR5], R2", "@!P0 BRA `(.L_x_6)",
    "L_x_4:", wait(0), "@P3 BRA `(.L_x_1)",
    "L_x_7:", "FADD R5, R5, R5", "@P3 BRA `(.L_x_7)", "EXIT",
    "L_x_5:", "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2", "@!P0 BRA `(.L_x_5)", "BRA `(.L_x_2)",
    "L_x_6:", "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR5], R2", "@!P0 BRA `(.L_x_6)", "BRA `(.L_x_4)",
)  # fmt: skip


def test_the_main_loop_is_one_pass_with_all_products_and_waits_and_nothing_spare():
    loop = parse(listing(*LOOPED)).main_loop()
    assert [one.name for one in loop] == (
        "IADD3 SYNCS BRA HGMMA HGMMA BRA BRA SYNCS BRA WARPGROUP BRA".split()
    )


def test_the_inner_of_two_loops_is_the_main_one():
    code = parse(
        listing(
            "L_x_0:",
            "NOP",
            "L_x_1:",
            PRODUCT,
            "@P0 BRA `(.L_x_1)",
            "FADD R1, R1, R1",
            "@P1 BRA `(.L_x_0)",
            "EXIT",
        )
    )
    assert opcodes(code.main_loop()) == ["HGMMA.64x64x16.F32.BF16", "BRA"]


def test_of_several_loops_the_main_one_has_most_products():
    code = parse(
        listing(
            "L_x_0:",
            PRODUCT,
            "@P0 BRA `(.L_x_0)",
            "L_x_1:",
            PRODUCT,
            CLOSED,
            "@P0 BRA `(.L_x_1)",
            "EXIT",
        )
    )
    assert len(code.main_loop()) == 3


def test_a_kernel_whose_products_are_in_no_loop_has_no_main_loop():
    with pytest.raises(ValueError, match="no loop"):
        parse(listing(CLOSED, wait(0), "EXIT")).main_loop()


def test_an_instruction_can_be_left_out():
    code = parse(listing(PRODUCT, wait(0), "EXIT"))
    assert opcodes(code.without(1).instructions) == ["HGMMA.64x64x16.F32.BF16", "NOP", "EXIT"]
    assert opcodes(code.instructions)[1] == "WARPGROUP.DEPBAR.LE"
