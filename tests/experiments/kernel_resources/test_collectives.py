import pytest

from experiments.kernel_resources.collectives import count

PROGRAM = """
  %a = (bf16[1,24,2,16]{3,2,1,0}, bf16[1,24,2,16]{3,2,1,0}) all-to-all(%x, %y), replica_groups={{0,1}}
  %b = bf16[8,128]{1,0} all-gather(%w), dimensions={0}
  %c = (bf16[1,128]{1,0}, bf16[8,128]{1,0}) all-gather-start(%w), dimensions={0}
  %d = bf16[8,128]{1,0} all-gather-done(%c)
  %e = (f32[2,8]{1,0}, f32[2,8]{1,0}, u32[], u32[]) collective-permute-start(%t)
  %f = f32[24]{0} all-reduce-start(%s), to_apply=%add
  %g = f32[4]{0} reduce-scatter(%s), dimensions={0}
  %h = f32[24]{0} add(%f, %all-to-all.3)
"""


def test_counts_and_bytes_of_every_kind():
    assert count(PROGRAM) == {
        "all-to-all": {"count": 1, "bytes": 2 * 24 * 2 * 16 * 2},
        "all-gather": {"count": 2, "bytes": 2 * 8 * 128 * 2},
        "collective-permute": {"count": 1, "bytes": 2 * 8 * 4},
        "all-reduce": {"count": 1, "bytes": 24 * 4},
        "reduce-scatter": {"count": 1, "bytes": 4 * 4},
    }


def test_a_program_on_one_device_exchanges_nothing():
    assert count("%a = f32[4]{0} add(%b, %c)") == {}


def test_an_unknown_dtype_is_not_taken_for_nothing():
    with pytest.raises(KeyError, match="f8e4m3"):
        count("%a = f8e4m3[4]{0} all-gather(%b)")
