import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, StepSchedule, VideoGrid, metrics
from sparsevdit_jax.patterns import AdaSpa
from tests.attending import attended, jitted_anew
from tests.conformance.pattern_suite import PatternSuite
from tests.sparsevdit_jax import oracles

BLOCK = 8


def block_masses(q, k, grid, text_lengths, lse=None):
    """Block masses [B, H, N, N] in float64, text blocks last, and the block of every token [L]."""
    real = oracles.real_tokens(grid, text_lengths, q.shape[0])
    p = oracles.probabilities(q, k, real)
    is_text = oracles.text_tokens(grid)
    block_of = np.zeros(grid.num_tokens, int)
    block_of[~is_text] = oracles.frame_major_blocks(grid, BLOCK)
    video = -(-grid.num_video_tokens // BLOCK)
    block_of[is_text] = video + np.arange(grid.text_len) // BLOCK
    count = block_of.max() + 1
    member = np.eye(count)[block_of]
    return np.einsum("bhqk,qi,kj->bhij", p, member, member), block_of, video


def head_counts(masses, video, count, high, threshold=0.8):
    """Video blocks per row of each head, [B, H], by the paper's rule."""
    batch, heads = masses.shape[:2]
    counts = np.full((batch, heads), count)
    low = 2 * count - high
    for b in range(batch):
        recall = []
        for h in range(heads):
            rows = masses[b, h, :video]
            kept = (
                np.sort(rows[:, :video], axis=1)[:, ::-1][:, :count].sum() + rows[:, video:].sum()
            )
            recall.append((kept + masses[b, h, video:].sum()) / masses[b, h].sum())
        recall = np.array(recall)
        n = min(int((recall > threshold).sum()), heads // 2)
        best = np.argsort(-recall, kind="stable")
        counts[b, best[:n]] = low
        counts[b, best[heads - n :]] = high
    return counts


class TestAdaSpa(PatternSuite):
    pattern = AdaSpa(density=0.5, block=BLOCK, recall_threshold=0.6)
    searches = True

    def keep_tokens(self, case):
        q, k, _ = case.qkv
        masses, block_of, video = block_masses(q, k, case.grid, case.text_lengths)
        _, base, high = self.pattern.video_counts(case.grid)
        counts = head_counts(masses, video, base, high, self.pattern.recall_threshold)
        if not self.pattern.head_adaptive:
            counts[:] = base
        keep = np.ones(masses.shape, bool)
        for b, h, i in np.ndindex(*masses.shape[:2], video):
            keep[b, h, i, :video] = False
            chosen = np.argsort(-masses[b, h, i, :video], kind="stable")[: counts[b, h]]
            keep[b, h, i, chosen] = True
        real = oracles.real_tokens(case.grid, case.text_lengths, len(q))
        keep = keep[:, :, block_of][..., block_of]
        return keep & real[:, None, :, None] & real[:, None, None, :]


class TestUniformHeads(TestAdaSpa):
    pattern = AdaSpa(density=0.3, block=BLOCK, head_adaptive=False, text_in_budget=True)


def run(pattern, grid, qkv, phases):
    """Outputs and states of consecutive steps with the q, k, v of each."""
    attend = jitted_anew(pattern)
    batch, _, heads, head_dim = qkv[0].shape[1:]
    state = pattern.init(grid, batch=batch, num_heads=heads, head_dim=head_dim)
    steps = []
    for x, phase in zip(qkv, phases, strict=True):
        out, lse, state = attend(*x, state, StepContext(grid, phase))
        steps.append((out, lse, state))
    assert attend._cache_size() == len(set(phases))
    return steps


GRID = VideoGrid(4, 4, 4)


def random_steps(count, heads=4, grid=GRID):
    return jax.random.normal(jax.random.key(3), (count, 3, 2, grid.num_tokens, heads, 8))


def test_fused_search_is_exact_and_later_ones_are_sparse_under_the_first_lse():
    pattern, qkv = AdaSpa(0.25, BLOCK), random_steps(4)[np.arange(5) % 4]
    phases = (Phase.FIRST_SEARCH, Phase.REUSE, Phase.SEARCH, Phase.REUSE, Phase.DENSE)
    first, second, third, fourth, last = run(pattern, GRID, qkv, phases)
    exact, lse = oracles.masked_attention(*qkv[0], np.ones((1, 1, 64, 64), bool))
    np.testing.assert_allclose(first[0], exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(first[2].lse, lse, rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, second[2], first[2])
    np.testing.assert_array_equal(third[2].lse, first[2].lse)
    cached = jax.jit(pattern.search)(*qkv[2][:2], first[2].lse, StepContext(GRID))
    jax.tree.map(np.testing.assert_array_equal, third[2].mask, cached)
    assert np.any(third[2].mask.to_dense() != first[2].mask.to_dense())
    # The second search is sparse already, with its own mask; the step after keeps that mask.
    for (out, *_), x in ((third, qkv[2]), (fourth, qkv[3])):
        keep = np.asarray(cached.to_dense()).repeat(BLOCK, -1).repeat(BLOCK, -2)
        expected, _ = oracles.masked_attention(*x, keep)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last[0], exact, rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, last[2], fourth[2])


def test_without_the_cache_every_search_is_exact_for_its_own_q_and_k():
    cached, own = (AdaSpa(0.25, BLOCK, lse_cache=cache) for cache in (True, False))
    # Tokens of a block whose logits grow from the first search on make its LSE stale unevenly.
    qkv = random_steps(3).at[2, 0].multiply(jnp.linspace(0.2, 8, 64)[None, :, None, None])
    phases = (Phase.FIRST_SEARCH, Phase.REUSE, Phase.SEARCH)
    steps = {pattern: run(pattern, GRID, qkv, phases) for pattern in (cached, own)}
    jax.tree.map(np.testing.assert_array_equal, *(s[0] for s in steps.values()))
    out, _, state = steps[own][2]
    exact, lse = oracles.masked_attention(*qkv[2], np.ones((1, 1, 64, 64), bool))
    np.testing.assert_allclose(state.lse, lse, rtol=1e-5, atol=1e-5)
    masses, *_ = block_masses(np.asarray(qkv[2, 0]), np.asarray(qkv[2, 1]), GRID, None)
    searched = own.choose(jnp.asarray(masses, np.float32), StepContext(GRID))
    np.testing.assert_array_equal(state.mask.to_dense(), searched.to_dense())
    assert np.any(state.mask.to_dense() != steps[cached][2][2].mask.to_dense())
    # The searching step itself stays sparse.
    keep = np.asarray(searched.to_dense()).repeat(BLOCK, -1).repeat(BLOCK, -2)
    expected, _ = oracles.masked_attention(*qkv[2], keep)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(out - exact).max() > 1e-2


def test_before_any_search_reuse_is_exact():
    qkv = random_steps(1)
    ((out, _, state),) = run(AdaSpa(0.25, BLOCK), GRID, qkv, (Phase.REUSE,))
    exact, _ = oracles.masked_attention(*qkv[0], np.ones((1, 1, 64, 64), bool))
    np.testing.assert_allclose(out, exact, rtol=1e-5, atol=1e-5)
    assert (state.mask.kv_counts == state.mask.num_kv_blocks).all()


def test_a_new_init_forgets_the_prompt_before():
    pattern = AdaSpa(0.25, BLOCK)
    attend = jitted_anew(pattern, donate_argnums=3)  # as a denoising loop gives its state away
    steps = random_steps(4)
    first_phases, later = (Phase.FIRST_SEARCH, Phase.SEARCH), (Phase.SEARCH,) * 2

    def denoise(qkv, state, phases=first_phases):
        outs = []
        for x, phase in zip(qkv, phases, strict=True):
            out, _, state = attend(*x, state, StepContext(GRID, phase))
            outs.append(out)
        return outs, state

    def fresh():
        return pattern.init(GRID, batch=2, num_heads=4, head_dim=8)

    first = denoise(steps[2:], fresh())
    _, left = denoise(steps[:2], fresh())
    left = jax.tree.map(np.array, left)
    again = denoise(steps[2:], fresh())
    jax.tree.map(np.testing.assert_array_equal, again, first)
    # Going on with what the other prompt left is another thing: its LSE stays for good.
    outs, kept = denoise(steps[2:], jax.tree.map(jnp.asarray, left), later)
    np.testing.assert_array_equal(kept.lse, left.lse)
    assert np.any(outs[0] != first[0][0])
    assert np.all(np.any(np.asarray(first[1].lse) != left.lse, axis=-1))


def test_full_density_is_dense():
    qkv = random_steps(2)
    out = run(AdaSpa(1.0, BLOCK), GRID, qkv, (Phase.FIRST_SEARCH, Phase.REUSE))[1][0]
    exact, _ = oracles.masked_attention(*qkv[1], np.ones((1, 1, 64, 64), bool))
    np.testing.assert_allclose(out, exact, rtol=1e-5, atol=1e-5)


def test_planted_blocks_are_found():
    rng = np.random.default_rng(0)
    heads, blocks, kept = 3, 8, 2
    planted = np.zeros((1, heads, blocks, blocks), bool)
    for h, i in np.ndindex(heads, blocks):
        planted[0, h, i, rng.choice(blocks, kept, replace=False)] = True
    # Keys of block j are the unit vector e_j; queries of block i point at their planted blocks, the first head's most.
    k = np.repeat(np.eye(blocks), BLOCK, 0)[None, :, None].repeat(heads, 2)
    q = planted.repeat(BLOCK, 2).transpose(0, 2, 1, 3) * np.array([20.0, 16.0, 12.0])[:, None]
    v = rng.standard_normal(q.shape)
    qkv = jnp.asarray(np.stack([q, k, v])[None], np.float32)
    state = run(AdaSpa(kept / blocks, BLOCK), GRID, qkv, (Phase.FIRST_SEARCH,))[0][2]
    found = np.asarray(state.mask.to_dense())
    equal = (found == planted).all((-1, -2))
    # The first head has the highest recall and gives a block of each row to the last, which has the lowest.
    assert state.mask.kv_counts[0, :, 0].tolist() == [1, 2, 3]
    assert equal.tolist() == [[False, True, False]]
    assert not np.any(found[0, 0] & ~planted[0, 0])
    assert not np.any(planted[0, 2] & ~found[0, 2])
    plain = AdaSpa(kept / blocks, BLOCK, head_adaptive=False)
    mask = run(plain, GRID, qkv, (Phase.FIRST_SEARCH,))[0][2].mask
    np.testing.assert_array_equal(mask.to_dense(), planted)


def test_a_stale_lse_changes_no_row_where_its_shift_is_one_for_a_block():
    pattern, (q, k, _) = AdaSpa(0.25, BLOCK, head_adaptive=False), random_steps(1)[0]
    _, lse = oracles.masked_attention(q, k, k, np.ones((1, 1, 64, 64), bool))
    by_block = np.random.default_rng(0).normal(size=(*lse.shape[:2], 8)).repeat(BLOCK, -1)
    by_token = np.linspace(-4, 4, BLOCK).tolist() * 8
    search = jax.jit(pattern.search)
    own, same, block, token = (
        search(q, k, jnp.asarray(lse + shift, np.float32), StepContext(GRID))
        for shift in (0, 1.5, by_block, by_token)
    )
    for mask in (same, block):
        jax.tree.map(np.testing.assert_array_equal, own, mask)
    assert np.any(token.to_dense() != own.to_dense())


def test_chosen_blocks_maximise_recall_and_recall_grows_with_density():
    q, k, _ = random_steps(1, heads=2)[0]
    masses, *_ = block_masses(np.asarray(q), np.asarray(k), GRID, None)
    masses = jnp.asarray(masses, np.float32)
    rng, recalls = np.random.default_rng(1), []
    for density in (0.125, 0.25, 0.5, 0.75, 1.0):
        mask = AdaSpa(density, BLOCK, head_adaptive=False).choose(masses, StepContext(GRID))
        recalls.append(np.asarray(metrics.mask_recall(masses, mask)))
        count = round(density * 8)
        for _ in range(5):
            keep = rng.permuted(np.arange(8) < count, axis=-1)
            keep = rng.permuted(np.broadcast_to(keep, masses.shape), axis=-1)
            other = np.where(keep, masses, 0).sum((-1, -2)) / masses.sum((-1, -2))
            assert np.all(recalls[-1] >= other - 1e-6)
    assert np.all(np.diff(recalls, axis=0) > 0)
    np.testing.assert_allclose(recalls[-1], 1, rtol=1e-6)


@pytest.mark.parametrize("text_first", [False, True])
def test_rows_are_equal_and_text_is_kept(text_first):
    grid = VideoGrid(3, 5, 4, 9, text_first)
    pattern = AdaSpa(0.4, BLOCK, recall_threshold=0.5)
    state = run(pattern, grid, random_steps(1, 4, grid), (Phase.FIRST_SEARCH,))[0][2]
    order = pattern.token_order(grid)
    keep = np.asarray(state.mask.to_dense())
    video = order.num_video_blocks
    assert keep[:, :, video:].all()
    assert keep[..., video:].all()
    per_row = keep[:, :, :video].sum(-1)
    assert (per_row == per_row[..., :1]).all()
    np.testing.assert_allclose(per_row[..., 0].mean(), 3 + order.num_text_blocks)
    assert len(np.unique(per_row)) > 1


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({"density": 0.2}, (1, 2, 3)),
        ({"density": 0.2, "head_adaptive": False}, (2, 2, 2)),
        ({"density": 0.25, "text_in_budget": True, "head_adaptive": False}, (1, 1, 1)),
        ({"density": 0.5, "text_in_budget": True, "head_adaptive": False}, (3, 3, 3)),
        ({"density": 0.9, "head_adaptive": True}, (6, 7, 8)),
        ({"density": 0.01}, (1, 1, 1)),
        ({"density": 1.0}, (8, 8, 8)),
    ],
)
def test_counts(fields, counts):
    grid = dataclasses.replace(GRID, text_len=10)
    assert AdaSpa(block=BLOCK, **fields).video_counts(grid) == counts


@pytest.mark.parametrize("lse_cache", [True, False])
def test_a_run_of_the_paper_compiles_four_programs(lse_cache):
    pattern, schedule = AdaSpa(0.25, BLOCK, lse_cache=lse_cache), StepSchedule.adaspa()
    qkv = random_steps(1, heads=1)[0]

    @jax.jit
    def step(qkv, state, ctx):
        out, _, state = attended(pattern, *qkv, state, ctx)
        return qkv.at[0].add(0.1 * out), state

    state = pattern.init(GRID, batch=2, num_heads=1, head_dim=8)
    before = jax.eval_shape(lambda: state)
    for i in range(schedule.num_steps):
        qkv, state = step(qkv, state, StepContext(GRID, schedule.phase(i), i))
    assert step._cache_size() == 4
    assert jax.eval_shape(lambda: state) == before
    assert np.isfinite(qkv).all()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"density": 0.0}, r"density=0.0 must lie in \(0, 1\]"),
        ({"recall_threshold": 80}, r"recall_threshold=80 must lie in \[0, 1\]"),
    ],
)
def test_bad_fields(fields, match):
    with pytest.raises(ValueError, match=match):
        AdaSpa(**fields)
