"""The model gives what can be worked out by hand."""

import pytest

from experiments.kernel_resources.sass import parse
from experiments.kernel_resources.tensor_time import ASSUMPTIONS, Assumption, busy, share, turns
from tests.experiments.kernel_resources.listings import CLOSED, listing, wait

PLAIN = Assumption(ahead=1024, in_turn=False, apart=0, latency=1.0)
WIDE = CLOSED.replace("64x64", "64x256")  # 128 cycles


def loop(*lines):
    return parse(listing(*lines)).instructions


def test_products_alone_keep_the_tensor_cores_busy():
    found = share(loop(WIDE, WIDE, wait(1)), consumers=2)
    assert (found.lowest, found.median, found.highest) == (1.0, 1.0, 1.0)


def test_one_warp_that_waits_for_its_product_leaves_them_idle():
    # 128 cycles of a product; then, once the wait has issued, 16 exponentials of 8 cycles, and the pass begins anew.
    code = loop(WIDE, wait(0), *["-:-:-:01 MUFU.EX2 R1, R2"] * 16)
    assert busy(code, 1, PLAIN) == pytest.approx(128 / (128 + 1 + 15 * 8 + 1), rel=0.01)


def test_a_second_warp_fills_what_the_first_leaves():
    code = loop(WIDE, wait(0), *["-:-:-:01 FMNMX R1, R2, R3, PT"] * 50)
    assert busy(code, 1, PLAIN) == pytest.approx(128 / 228, rel=0.02)
    assert busy(code, 2, PLAIN) > 0.97


def test_exponentials_of_all_warps_share_one_unit():
    code = loop(WIDE, wait(0), *["-:-:-:01 MUFU.EX2 R1, R2"] * 32)  # 256 cycles, twice a product
    assert busy(code, 2, PLAIN) == pytest.approx(0.5, abs=0.01)


def test_a_result_is_waited_for():
    code = loop("-:-:1:01 MUFU.EX2 R1, R2", "1:-:-:01 FADD R1, R1, R1", WIDE, wait(0))
    assert busy(code, 1, PLAIN) == pytest.approx(128 / (128 + 20 + 3), rel=0.01)
    slower = PLAIN._replace(latency=2.0)
    assert busy(code, 1, slower) == pytest.approx(128 / (128 + 40 + 3), rel=0.01)


def test_a_short_queue_delays_what_comes_after_the_products():
    code = loop(*[WIDE] * 8, *["-:-:-:01 FMNMX R1, R2, R3, PT"] * 400, wait(0))
    deep, short = (busy(code, 1, PLAIN._replace(ahead=ahead)) for ahead in (1024, 128))
    assert deep > 0.99
    # One runs and one waits: the last is issued when the seventh begins.
    assert short == pytest.approx(1024 / (6 * 128 + 800), rel=0.02)


TURN = "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR52], R2"
GIVE = "SYNCS.ARRIVE.TRANS64.A1T0 RZ, [UR53], RZ"
RING = ("UIADD3 UR9, UR4, 0x8, URZ", "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR9+0x10], R2")


def test_turns_go_by_a_barrier_whose_address_stays():
    code = loop(*RING, TURN, WIDE, GIVE, wait(0), "R2UR UR10, R3", GIVE.replace("UR53", "UR10"))
    assert [code[i].operands[-2] for i in turns(code)] == ["[UR52]", "[UR53]"]


def test_turns_make_warps_alternate():
    work = ["-:-:-:02 FADD R1, R2, R3"] * 400  # 800 cycles, under 1,024 of the other's products
    assert busy(loop(TURN, *[WIDE] * 8, GIVE, wait(0), *work), 2, PLAIN) > 0.97
    one_at_a_time = loop(TURN, *[WIDE] * 8, wait(0), *work, GIVE)
    assert busy(one_at_a_time, 2, PLAIN) == pytest.approx(1024 / 1824, rel=0.02)


def test_warps_that_never_get_their_turn_are_an_error():
    with pytest.raises(ValueError, match="for ever"):
        busy(loop(TURN, WIDE, wait(0)), 2, PLAIN)


def test_every_assumption_is_tried():
    assert len(set(ASSUMPTIONS)) == 16
