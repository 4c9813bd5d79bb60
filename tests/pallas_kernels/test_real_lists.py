import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.gpu_check.shapes import SPARSE
from pallas_kernels import BlockMask, _real_lists, block_sparse_attention
from pallas_kernels.block_sparse_attention import mosaic_gpu, mosaic_gpu_vjp, triton, xla
from sparsevdit_jax import VideoGrid
from sparsevdit_jax.patterns import SlidingTile
from tests import undropped

# block_q, block_kv, tile, step, tokens of a part where some are empty
GEOMETRIES = [
    (384, 384, 128, 128, 128),
    (384, 192, 192, 64, 64),
    (64, 256, 64, 64, 128),
    (64, 64, 64, 64, 64),
    (40, 48, 16, 32, 48),  # no tile divides these blocks
    (384, 384, 128, 384, 384),
]
LEADS = [((1, 1), (1, 1)), ((1, 3), (2, 1)), ((2, 1), (1, 1)), ((2, 3), (2, 1)), ((1, 1), (2, 3))]


def draw(seed, lead, lengths_lead, nq, nk, block_q, block_kv):
    """A mask with full, empty and shuffled rows, and blocks of any length, many of them empty."""
    rng = np.random.default_rng(seed)
    keep = rng.random((*lead, nq, nk)) < rng.random((*lead, nq, 1))
    keep[..., rng.integers(nq), :] = True
    keep[..., rng.integers(nq), :] = False
    lengths = [
        np.where(rng.random((*lengths_lead, n)) < 0.4, 0, rng.integers(0, block + 1, (*lengths_lead, n)))
        for n, block in ((nq, block_q), (nk, block_kv))
    ]  # fmt: skip
    mask = BlockMask.from_dense(
        keep, block_q=block_q, block_kv=block_kv,
        q_lengths=lengths[0].astype(np.int32), kv_lengths=lengths[1].astype(np.int32),
    )  # fmt: skip
    return mask, keep


def walked(lists, tile, block_q):
    """The parts that each tile reads, [B, H, tiles] of lists."""
    lead = np.broadcast_shapes(lists.parts.shape[:2], lists.starts.shape[:2])
    parts, starts, counts = (
        np.broadcast_to(x, (*lead, x.shape[-1])) for x in (lists.parts, lists.starts, lists.counts)
    )
    return {
        (*at, i): parts[at][starts[(*at, i)] : starts[(*at, i)] + counts[(*at, i)]].tolist()
        for at in np.ndindex(lead)
        for i in range(starts.shape[-1])
    }


def wanted(keep, q_real, kv_real, tile, part, block_q, block_kv):
    """The same from a dense mask and the tokens that are real."""
    lead = np.broadcast_shapes(keep.shape[:2], q_real.shape[:2], kv_real.shape[:2])
    keep, q_real, kv_real = (
        np.broadcast_to(x, (*lead, *x.shape[2:])) for x in (keep, q_real, kv_real)
    )
    per_row, per_key = -(-block_q // tile), block_kv // part
    found = {}
    for at in np.ndindex(lead):
        parts = [i for i in range(keep.shape[-1] * per_key)
                 if kv_real[at][i // per_key] > i % per_key * part]  # fmt: skip
        for i in range(keep.shape[-2] * per_row):
            real = q_real[at][i // per_row] > i % per_row * tile
            row = keep[at][i // per_row]
            found[(*at, i)] = [part for part in parts if row[part // per_key]] if real else []
    return found


@pytest.mark.parametrize(
    ("geometry", "leads", "traced"),
    [
        *((geometry, LEADS, "nothing") for geometry in GEOMETRIES),
        (GEOMETRIES[0], LEADS[1:2], "lengths"),
        (GEOMETRIES[1], LEADS[2:3], "lists"),
        (GEOMETRIES[4], LEADS[4:], "all"),
    ],
)
def test_every_real_part_of_every_row_is_read_once_and_in_order(geometry, leads, traced):
    block_q, block_kv, tile, step, part = geometry
    for lead, lengths_lead in leads:
        seed = LEADS.index((lead, lengths_lead))
        mask, keep = draw(seed, lead, lengths_lead, 4, 5, block_q, block_kv)
        short_q, short_kv = 4 * block_q - seed * block_q // 5, 5 * block_kv - seed * block_kv // 5
        names = {"nothing": (), "lengths": ("q_lengths", "kv_lengths"),
                 "lists": ("kv_indices", "kv_counts")}  # fmt: skip
        moved = {
            name: getattr(mask, name)
            for name in names.get(traced, names["lengths"] + names["lists"])
        }

        def of(moved, mask=mask, lengths=(short_q, short_kv)):
            here = jax.tree.map(lambda x: x, mask)
            for name, value in moved.items():
                object.__setattr__(here, name, value)
            return _real_lists.of(here, *lengths, tile=tile, step=step)

        lists = jax.jit(of)(moved) if moved else of(moved)
        assert isinstance(lists.parts, jax.Array if moved else np.ndarray)
        # Short of memory that grows: at most the mask's lists, cut in parts, and one more for full rows.
        longest = (mask.num_q_blocks * mask.capacity + mask.num_kv_blocks) * (block_kv // part)
        assert lists.parts.shape[-1] <= longest
        real = [
            np.minimum(lengths, np.clip(length - block * np.arange(lengths.shape[-1]), 0, block))
            for lengths, length, block in (
                (mask.q_lengths, short_q, block_q), (mask.kv_lengths, short_kv, block_kv),
            )
        ]  # fmt: skip
        assert lists.part == part
        expected = wanted(keep, *real, tile, part, block_q, block_kv)
        assert walked(lists, tile, block_q) == expected
        offsets = np.arange(0, block_kv, part)
        cut = np.clip(real[1][..., None] - offsets, 0, part).reshape(*real[1].shape[:2], -1)
        np.testing.assert_array_equal(lists.sizes, cut)


def test_a_list_keeps_its_order():
    mask = BlockMask(
        np.array([[[[3, 0, 2]]]], np.int32), np.array([[[3]]], np.int32),
        kv_lengths=np.array([[[128, 256, 0, 200]]], np.int32),
        block_q=128, block_kv=256, num_kv_blocks=4,
    )  # fmt: skip
    lists = _real_lists.of(mask, 128, 1024, tile=128, step=128)
    assert walked(lists, 128, 128) == {(0, 0, 0): [6, 7, 0]}


@pytest.mark.parametrize("lengths", [None, [384, 384], [384, 300]])
def test_without_an_empty_part_lists_are_those_of_the_mask(lengths):
    keep = np.array([[True, False], [True, True]])
    mask = BlockMask.from_dense(keep, block_q=384, block_kv=384, kv_lengths=lengths)
    lists = _real_lists.of(mask, 768, 768, tile=128, step=128)
    assert lists.part == 384
    assert walked(lists, 128, 384) == {
        (0, 0, i): row for i, row in enumerate([[0]] * 3 + [[0, 1]] * 3)
    }
    assert (lists.sizes is None) == (lengths is None)


def test_steps_that_overhang_a_part_are_known_by_their_sizes():
    mask = BlockMask.full(2, 2, block_q=40, block_kv=40)
    assert _real_lists.of(mask, 80, 80, tile=40, step=16).sizes.tolist() == [[[40, 40]]]
    assert _real_lists.of(mask, 80, 80, tile=40, step=20).sizes is None


WAN_480P = dataclasses.replace(SPARSE["S6"], name="Wan 480p", grid=(21, 30, 52), heads=1)
HUNYUAN = dataclasses.replace(SPARSE["S6"], name="HunyuanVideo", grid=(33, 45, 80), heads=1)


# In pairs of 128 x 128 tokens: listed blocks whole, what GPU kernels visit, and what xla does.
@pytest.mark.parametrize(
    ("case", "whole", "gpu", "cpu"),
    [
        (SPARSE["S6"], 58_320, 46_080, 52_920),
        (WAN_480P, 27_216, 21_816, 24_840),  # 0.80
        (HUNYUAN, 87_480, 72_720, 81_000),  # 0.83
        (SPARSE["S1"], 72_900, 72_900, 72_900),
        (SPARSE["S2"], 337_500, 337_500, 337_500),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_tile_pairs_of_published_problems(case, whole, gpu, cpu):
    mask, length = case.mask(), case.slots
    assert mask.kv_counts.sum() * 9 == whole
    q = jax.ShapeDtypeStruct((1, length, 1, 128), "bfloat16")
    config = mosaic_gpu.configure(128, mask.block_q, mask.block_kv)
    lists = mosaic_gpu.plan_lists(mask, q, q, config)
    # What the plan of the kernel holds, tile by tile of 128 queries.
    tiles, turns = mosaic_gpu.plan_work(lists, 1, 1, config, 132)
    planned = [lists.counts[0, 0, row[:n]] for row, n in zip(tiles, turns, strict=True)]
    assert (config.tile_q, config.tile_kv) == (128, 128)
    assert np.concatenate(planned).sum() * (lists.part // 128) == gpu
    for config, sides in zip(
        mosaic_gpu_vjp.configure(128, mask.block_q, mask.block_kv),
        (mask, mask.transpose()),
        strict=True,
    ):
        lists = mosaic_gpu_vjp.plan_lists(sides, length, length, config)
        assert config.rows == 128
        assert lists.counts.sum() * (lists.part // 128) == gpu
    for kernel, sides in zip(
        ("forward", "backward_q", "backward_kv"), (mask, mask, mask.transpose()), strict=True
    ):
        config = triton.heuristics(kernel, 64, "bfloat16", 384, 384)
        lists = _real_lists.of(sides, length, length, tile=config.tile, step=config.other_tile)
        assert config.tile == 128
        assert lists.counts.sum() * (lists.part // 128) == gpu
    lists = xla.plan_lists(mask, length, length)
    assert lists.counts.sum() * 3 * (lists.part // 128) == cpu


def test_a_whole_canvas_is_planned_as_it_was():
    mask = SPARSE["S1"].mask()
    lists = _real_lists.of(mask, 115_200, 115_200, tile=128, step=128)
    assert lists.sizes is None
    assert lists.part == 384
    np.testing.assert_array_equal(lists.counts, mask.kv_counts.repeat(3, -1))
    np.testing.assert_array_equal(lists.parts[..., :-300], mask.kv_indices.reshape(1, 1, -1))


def test_short_text_and_full_rows_need_no_list_of_their_own():
    grid = VideoGrid(33, 45, 80, text_len=768)
    mask = SlidingTile((6, 8, 8), (3, 3, 3)).block_mask(grid, 1, text_lengths=np.array([768, 100]))
    lists = _real_lists.of(mask, 362 * 384, 362 * 384, tile=128, step=128)
    video, text = (lists.sizes[:, 0, :-6] > 0).sum(-1), np.array([6, 1])
    # Text reads every real part, of text only what there is, and text that is not there reads nothing.
    rows = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(lists.counts[:, 0, -6:], (video + text)[:, None] * rows)
    assert lists.parts.shape[-1] <= (mask.num_q_blocks * mask.capacity + mask.num_kv_blocks) * 3


def test_xla_gives_the_same_results_without_padding():
    *arrays, mask = undropped.problem(16, 192, jnp.float32, heads=1, head_dim=8)
    assert xla.plan_lists(mask, arrays[0].shape[1], arrays[1].shape[1]).part == 64

    def run():
        attend = functools.partial(block_sparse_attention, implementation="xla")
        both = undropped.everything(lambda q, k, v, _: attend(q, k, v, mask))
        return jax.jit(functools.partial(both, mask=None))(*arrays)

    got = run()
    with undropped.lists():
        expected = run()
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
