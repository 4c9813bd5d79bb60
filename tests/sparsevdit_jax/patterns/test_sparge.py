import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, VideoGrid
from sparsevdit_jax.patterns import SpargeAttn
from tests.conformance.pattern_suite import (
    BATCH,
    PatternSuite,
    density_of_plan,
    density_of_tokens,
)
from tests.conformance.pooled_suite import best, softmax
from tests.sparsevdit_jax import oracles

BLOCK_Q, BLOCK_KV = 4, 8


def alike(x, block, similarity):
    """(means [n, D], whether all pairs of tokens of a block have a mean cosine above): x [L, D]."""
    means, flags = [], []
    for start in range(0, len(x), block):
        part = np.asarray(x[start : start + block], np.float64)
        unit = part / np.linalg.norm(part, axis=-1, keepdims=True)
        means.append(part.mean(0))
        flags.append(len(part) == block and (unit @ unit.T).mean() > similarity)
    return np.array(means), np.array(flags)


def kept(q, k, pattern):
    """Blocks of one head, bool [M, N], of its video tokens q and k [L, D]."""
    (q, alike_q), (k, alike_k) = (
        alike(x, block, pattern.similarity)
        for x, block in ((q, pattern.block_q), (k, pattern.block_kv))
    )
    scores = np.where(alike_k, q @ k.T * q.shape[-1] ** -0.5, -np.inf)
    if not alike_k.any():
        return np.ones(scores.shape, bool)
    weights = softmax(scores)
    if pattern.mass is None:
        keep = best(weights, max(1, int(pattern.density * len(k))))
    else:
        ranked = np.sort(weights, -1)[:, ::-1]
        counts = np.maximum((np.cumsum(ranked, -1) <= pattern.mass).sum(-1), 1)
        keep = np.stack([best(w[None], n)[0] for w, n in zip(weights, counts, strict=True)])
    keep |= ~alike_k | ~alike_q[:, None]
    if pattern.sink:
        keep[:, 0] = True
    return keep


class TestByNumber(PatternSuite):
    pattern = SpargeAttn(0.3, similarity=0.1, block_q=BLOCK_Q, block_kv=BLOCK_KV, sink=True)

    def keep_tokens(self, case):
        grid, pattern = case.grid, self.pattern
        video = np.asarray(case.qkv)[:2, :, grid.video_start :][:, :, : grid.num_video_tokens]
        token = np.arange(grid.num_video_tokens)
        rows = []
        for row in range(BATCH):
            heads = [
                kept(*video[:, row, :, h], pattern)[token // BLOCK_Q][:, token // BLOCK_KV]
                for h in range(video.shape[3])
            ]
            lengths = None if case.text_lengths is None else case.text_lengths[row : row + 1]
            rows.append(oracles.join_text(np.stack(heads), grid, lengths, 1))
        return np.concatenate(rows)

    def test_counted_density_is_that_of_the_truth(self, case):
        """The rule follows q and k, so what the settings say is an example, of random ones."""
        want = density_of_tokens(self.keep_tokens(case), case)
        assert (want < 0.95).all()
        found = density_of_plan(self.pattern, case, case.ctx(Phase.REUSE))
        np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.parametrize(
    "pattern",
    [
        SpargeAttn(None, 0.6, 0.05, 8, 4),
        SpargeAttn(None, 0.01, -1, 8, 8),
        SpargeAttn(0.05, similarity=-1, block_q=8, block_kv=4),
        SpargeAttn(0.5, similarity=1, block_q=8, block_kv=4),
    ],
    ids=["by mass", "one at least", "one by number", "none alike"],
)
def test_the_choice_is_the_rule_s(pattern):
    grid = VideoGrid(3, 5, 5)  # 75 tokens: the last blocks are short
    q, k = jax.random.normal(jax.random.key(0), (2, 1, grid.num_tokens, 2, 8))
    plan, _ = jax.jit(lambda q, k: pattern.plan(q, k, (), StepContext(grid)))(q, k)
    for head, found in enumerate(np.asarray(plan.mask.to_dense())[0]):
        np.testing.assert_array_equal(found, kept(q[0, :, head], k[0, :, head], pattern))


def test_a_number_is_a_product_in_float32_or_the_step_s():
    grid, pattern = VideoGrid(1, 1, 100), SpargeAttn(0.29, similarity=-1, block_q=1, block_kv=1)
    q = jax.random.normal(jax.random.key(0), (1, 100, 1, 8))

    @jax.jit
    def counts(q, ctx):
        return pattern.plan(q, q, (), ctx)[0].mask.to_dense().sum(-1)

    assert int(0.29 * 100) == 28
    assert (counts(q, StepContext(grid)) == 29).all()
    assert (counts(q, StepContext(grid, density=jnp.float32(0.5), room=0.5)) == 50).all()
    assert pattern.takes_density
    assert not SpargeAttn(None, 0.9).takes_density
    assert pattern.with_density(0.7).density == 0.7


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        (dict(density=None), "give one of them"),
        (dict(mass=0.5), "give one of them"),
        (dict(density=0.0), r"density=0.0 must lie in \(0, 1\]"),
        (dict(density=None, mass=2.0), r"mass=2.0 must lie in \(0, 1\]"),
        (dict(similarity=1.5), "similarity=1.5 must be a cosine"),
        (dict(block_q=0), "block_q=0 must be a whole number"),
        (dict(sink=1), "sink=1 must be True or False"),
        (dict(path="spiral"), "path='spiral' must be None or one of"),
    ],
)
def test_bad_fields_are_refused(fields, rule):
    with pytest.raises(ValueError, match=rule):
        SpargeAttn(**fields)
