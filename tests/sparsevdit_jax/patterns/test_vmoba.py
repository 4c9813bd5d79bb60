import jax
import numpy as np
import pytest

from sparsevdit_jax import StepContext, TokenOrder, VideoGrid
from sparsevdit_jax.patterns import VMoBA
from sparsevdit_jax.presets import attention_for
from tests.conformance.pattern_suite import BATCH, HEADS, PatternSuite
from tests.sparsevdit_jax import oracles


def chunk_of(grid, chunk):
    """Chunk of each video token in raster order, numbered in raster order."""
    frame, row, column = np.unravel_index(np.arange(grid.num_video_tokens), grid.shape)
    if len(chunk) == 1:
        return np.arange(grid.num_video_tokens) // int(chunk[0] * grid.height * grid.width)
    frames, rows, columns = (grid.frames, *chunk)[-3:]
    number = (frame // frames * 100 + row // rows) * 100 + column // columns
    return np.unique(number, return_inverse=True)[1]


def gates(q, k, of):
    """q . mean key of every chunk, [H, L, C], of video tokens q, k [L, H, D]."""
    means = np.stack([k[of == c].mean(0) for c in range(of.max() + 1)])
    return np.einsum("qhd,chd->hqc", q, means)


def reaching(gates, own, threshold, own_rank=0.0):
    """The threshold rule on one list of gates."""
    span = gates.max() - gates.min()
    weights = (gates - gates.min()) / (span if span > 1e-6 else 1)
    total = weights.sum() + 1e-6
    need, kept = max(threshold - weights[own].sum() / total, 0), own.copy()
    so_far = 0.0
    for i in np.argsort(-np.where(own, own_rank, weights), kind="stable"):
        kept[i] = True
        so_far += max(np.where(own, own_rank, weights)[i], 0) / total
        if so_far >= need:
            break
    return kept


def chosen(pattern, gate, of):
    """Chunks that each query reads, bool [H, L, C], of one batch row."""
    own = np.broadcast_to(of[:, None] == np.arange(of.max() + 1), gate.shape)
    axes, groups = (2, 0, 1), {"query_head": "hq", "block": "c", "head_global": "h", "overall": ""}
    kept = np.zeros(gate.shape, bool)
    ids = dict(zip("hqc", np.indices(gate.shape), strict=True))
    for key in np.ndindex(*(gate.shape["hqc".index(a)] for a in groups[pattern.shared])):
        mine = np.ones(gate.shape, bool)
        for axis, number in zip(groups[pattern.shared], key, strict=True):
            mine &= ids[axis] == number
        # By chunk, head, query.
        place = np.argwhere(mine.transpose(axes))[:, [1, 2, 0]].T
        values, self_ = gate[tuple(place)], own[tuple(place)]
        if pattern.mode == "topk":
            number = pattern.topk * len(values) // gate.shape[2]
            first = np.argsort(-np.where(self_, np.inf, values), kind="stable")[:number]
            found = self_ | np.isin(np.arange(len(values)), first)
        else:
            rank = -1.0 if pattern.shared == "overall" else 0.0
            found = reaching(values, self_, pattern.threshold, rank)
        kept[tuple(place)] = found
    return kept


class TestVMoBA(PatternSuite):
    pattern = VMoBA((2, 2, 3), threshold=0.4)

    def counted_density(self, case, state):
        return self.planned_density(case, state)

    def keep_tokens(self, case):
        grid, video = case.grid, ~oracles.text_tokens(case.grid)
        q, k, _ = (np.asarray(x, np.float64)[:, video] for x in case.qkv)
        of = chunk_of(grid, self.pattern.chunk)
        kept = [chosen(self.pattern, gates(q[b], k[b], of), of)[..., of] for b in range(BATCH)]
        keep = oracles.join_text(np.concatenate(kept), grid, case.text_lengths, BATCH)
        rows = np.arange(BATCH)[:, None]
        return keep[rows, rows * HEADS + np.arange(HEADS)]


RULES = [("threshold", "block"), ("threshold", "head_global"), ("threshold", "overall"),
         ("topk", "query_head"), ("topk", "head_global"), ("topk", "overall")]  # fmt: skip


@pytest.mark.parametrize(
    ("chunk", "rule"), list(zip([(1,), (2, 3), (2, 2, 2)] * 2, RULES, strict=True)), ids=str
)
def test_which_gates_compete(chunk, rule):
    grid, (mode, shared) = VideoGrid(3, 5, 4), rule
    pattern = VMoBA(chunk, mode, 0.3, 2, shared)
    q, k = jax.random.normal(jax.random.key(1), (2, 1, 60, 2, 4))
    order, of = pattern.chunks(grid), chunk_of(grid, chunk)

    @jax.jit
    def choose(q, k):
        gate = pattern.gate(q, k, order, StepContext(grid))
        plan, _ = pattern.plan(q, k, (), StepContext(grid))
        return gate, pattern.keep_chunks(gate, order, StepContext(grid)), plan.mask.to_dense()

    gate, keep, planned = choose(q, k)
    expected = gates(*(np.asarray(x, np.float64)[0] for x in (q, k)), of)
    np.testing.assert_allclose(gate[0], expected, atol=1e-5)
    np.testing.assert_array_equal(keep[0], chosen(pattern, expected, of))
    np.testing.assert_array_equal(planned, keep)


def test_chunks_are_no_larger_than_the_video():
    grid = VideoGrid(1, 3, 5, 2)
    assert VMoBA((2,)).chunks(grid) == TokenOrder(grid, 15)
    assert VMoBA((0.5,)).chunks(grid) == TokenOrder(grid, 7)
    assert VMoBA((3, 4)).chunks(grid) == TokenOrder(grid, 12, (1, 3, 4))
    assert VMoBA((4, 6, 4)).chunks(grid) == TokenOrder(grid, 12, (1, 3, 4))


def test_layers_take_turns():
    attention = attention_for("vmoba", VideoGrid(20, 30, 52), num_layers=4, num_heads=2)
    assert [p.chunk for p in attention.patterns] == [(2,), (3, 4), (4, 6, 4), (2,)]
    assert attention.schedule.dense_steps == 12


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [(dict(chunk=4), "chunk=4 must"), (dict(chunk=(1, 2, 3, 4)), "chunk=.* must"),
     (dict(chunk=(0.5, 2)), "chunk=.* must"), (dict(mode="top"), "mode='top' must"),
     (dict(shared="head"), "shared='head' must"), (dict(mode="topk", shared="block"), "shared='block' must"),
     (dict(topk=0), "topk=0 must"), (dict(threshold=0), "threshold=0 must")],
)  # fmt: skip
def test_bad_fields(kwargs, match):
    with pytest.raises(ValueError, match=match):
        VMoBA(**kwargs)
