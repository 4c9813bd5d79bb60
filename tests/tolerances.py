"""Exact attention in float64, and error budgets derived from the dtype.

Attention may err twice as much as the plainest program in the same precision errs against float64, plus one rounding
each of logit, exponential, sum and result. Where there is no float64 beside it, the number of roundings in a row says
what two programs may differ by (`rounding`). Nothing is tuned by hand, and `pytest --margins` shows how near each
comparison comes (tests/margins.py).
"""

import jax
import jax.numpy as jnp
import numpy as np

observer = (
    None  # under `pytest --margins`: called with error, tolerance and reason of each comparison
)

HALF = "what is allowed is a small multiple of another's error in half precision, and ours is alike"


def assert_at_most(error: float, tolerance: float, name: str, near: str = "") -> None:
    """`error` <= `tolerance`; NaN never is.

    Args:
      error: how far off something is, a scalar.
      tolerance: what is allowed.
      name: of what is compared.
      near: why the error may use more than half of the tolerance, if it may.
    """
    if observer is not None:
        observer(error, tolerance, near)
    assert error <= tolerance, f"{name}: error {error:.3e}, allowed is {tolerance:.3e}"


def assert_within(got, want, tolerance: float, name: str, near: str = "") -> None:
    """|got - want| <= `tolerance` everywhere, in one shape; see `assert_at_most`."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{name}: shape {got.shape}, expected is {want.shape}"
    error = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
    assert_at_most(error, tolerance, name, near)


def rounding(roundings: float, dtype=np.float32) -> float:
    """Root mean square of what two programs may differ by after `roundings` in a row, relative to the values'.

    A rounding changes a value by up to half a unit in its last place, evenly spread, and that unit is between eps / 2
    and eps of the value: 0.21 eps in the root mean square. Roundings are independent, so after n of them a program is
    0.21 sqrt(n) eps off, and two that round in other places (another framework, another CPU's order of sums) are 0.3
    sqrt(n) eps apart (tests/test_tolerances.py has it). Two and a half times that is allowed, so that no CPU comes
    nearer than a factor of two.

    Count along the longest path from input to output. A stored result of an operation is one. A sum of K products is
    K / 2: it has K partial sums, half as large as the result in the mean square (of K numbers of one sign, as in a
    softmax, K / 3; and a norm takes only half of its mean's error). A logit of size L counts L squared times, because
    exp turns its absolute error into a relative one. A gradient passes everything again, with products by both
    operands: three times the count. Sums in several lanes and residual connections make less of it.
    """
    return 0.75 * float(jnp.finfo(dtype).eps) * np.sqrt(roundings)


def assert_rounding_apart(got, want, roundings, name, *, dtype=np.float32, more=0.0, near=""):
    """`got` and `want` differ by what `roundings` in a row explain, see `rounding`, and have one shape.

    Compared are the root mean squares of error and values, which hardly depend on the CPU: a norm's epsilon of 1e-5 for
    1e-6, the smallest of known mistakes, shifts all values by 38 eps and is seen up to 2,500 of them. Beside them the
    largest error and value, which see a single wrong number: the largest of a million normal errors lies at 5 sigma.

    Args:
      got, want: arrays of one shape.
      roundings: in a row.
      name: of what is compared.
      dtype: in which is computed.
      more: an absolute error that both may have on top, for what is no rounding of the values.
      near: see `assert_at_most`.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{name}: shape {got.shape}, expected is {want.shape}"
    got, want = got.astype(np.float64), want.astype(np.float64)
    error = np.abs(got - want)
    # Of few numbers the root mean square varies: a single one may lie at 5 sigma, many at 2.5.
    unit = rounding(roundings, dtype) * (1 + error.size**-0.5)
    for x, size, kind in (
        (error, want, "root mean square"),
        (error.max(), 5 * np.abs(want).max(), "largest"),
    ):
        x, size = (np.sqrt(np.mean(np.square(a))) for a in (x, size))
        assert_at_most(x, unit * size + more, f"{name}, {kind}", near)


def attention_roundings(k) -> float:
    """Roundings in a row of attention to k [B, L, H, D] with logits of about 1: logits, softmax, mean of the values."""
    return 8 + k.shape[-1] / 2 + k.shape[1] / 3 + k.shape[1] / 2


def assert_of_another(error, largest, rms, name, *, times=2.0):
    """An array of errors in half precision is at most about that of another framework in the same precision.

    Args:
      error: ours against float32, any shape.
      largest: the other's largest error, or None; twice that is allowed, as it is one value of many.
      rms: the root mean square of the other's.
      name: of what is compared.
      times: of `rms` are allowed; less than two where it is to show that the same things are rounded.
    """
    error = np.asarray(error, np.float64)
    if largest is not None:
        assert_at_most(np.abs(error).max(), 2 * largest, f"{name}, largest", HALF)
    assert_at_most(np.sqrt(np.mean(error**2)), times * rms, f"{name}, root mean square", HALF)


def token_keep(mask, lq, lk):
    """Bool [b, h, Lq, Lk] of a BlockMask, from its dense form and lengths alone."""
    keep = np.asarray(mask.to_dense()).repeat(mask.block_q, -2).repeat(mask.block_kv, -1)
    keep = keep[..., :lq, :lk]
    for lengths, block, axis in (
        (mask.q_lengths, mask.block_q, -2),
        (mask.kv_lengths, mask.block_kv, -1),
    ):
        if lengths is not None:
            real = np.arange(block) < np.asarray(lengths)[..., None]
            real = real.reshape(*real.shape[:2], -1)[..., : keep.shape[axis]]
            keep = keep & np.expand_dims(real, -1 if axis == -2 else -2)
    return keep


def exact_attention(q, k, v, keep, scale, d_out, d_lse, off=0.0):
    """out, lse, dq, dk, dv in float64, from [B, L, H, D] arrays; padding never enters.

    `off` [B, H, Lq, Lk] or a scalar is added to the logits, for what a program does that has them not exactly.
    """
    q, k, v, d_out = (np.asarray(x, np.float64).swapaxes(1, 2) for x in (q, k, v, d_out))
    keep = np.broadcast_to(keep, (*q.shape[:2], q.shape[2], k.shape[2]))
    rows, columns = keep.any(-1)[..., None], keep.any(-2)[..., None]
    q, k, v = np.where(rows, q, 0), np.where(columns, k, 0), np.where(columns, v, 0)
    d_out, d_lse = np.where(rows, d_out, 0), np.where(rows[..., 0], d_lse, 0)
    logits = np.where(keep, scale * np.einsum("bhqd,bhkd->bhqk", q, k) + off, -np.inf)
    top = np.where(rows, logits.max(-1, keepdims=True), 0)
    weights = np.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    p = weights / np.where(rows, total, 1)
    lse = np.where(rows, np.log(np.where(rows, total, 1)) + top, -np.inf)[..., 0]
    out = p @ v
    d_p = d_out @ v.swapaxes(-1, -2)
    d_logits = p * (d_p - (d_out * out).sum(-1, keepdims=True) + d_lse[..., None])
    dq, dk, dv = scale * d_logits @ k, scale * d_logits.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2)
    grads = (x.swapaxes(1, 2) for x in (dq, dk, dv @ d_out))
    return out.swapaxes(1, 2), lse, *grads


@jax.jit
def plain_attention(q, k, v, keep, scale, d_out, d_lse):
    """out, lse, dq, dk, dv of the plainest program in the dtype of q: rounds where it stores."""

    def attend(q, k, v):
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        logits = jnp.where(keep, logits * scale, -jnp.inf)
        top = jax.lax.stop_gradient(jnp.maximum(logits.max(-1, keepdims=True), -1e30))
        weights = jnp.where(keep, jnp.exp(jnp.where(keep, logits - top, 0.0)), 0.0)
        total = weights.sum(-1, keepdims=True)
        total = jnp.where(total > 0.0, total, 1.0)
        p = (weights / total).astype(q.dtype)
        out = jnp.einsum("bhqk,bkhd->bqhd", p, v, preferred_element_type=jnp.float32)
        return out.astype(q.dtype), (jnp.log(total) + top)[..., 0]

    (out, lse), vjp = jax.vjp(attend, q, k, v)
    return out, lse, *vjp((d_out, d_lse))


def moved_by_rounded_logits(q, k, v, keep, scale, d_out, d_lse):
    """How far the roundings of its logits move float32 attention: the largest changes of out, lse, dq, dk and dv.

    exp makes the absolute error of a logit a relative one of a weight, and that error is of the size of the products
    that the logit sums: near 1,000 a thousand times that of a weight's own rounding, wherever two keys nearly tie. The
    plainest program is no yardstick for it: one that scales first, or without a fused multiply-add, rounds elsewhere.
    Counted are the roundings of every product by the scale, of every partial sum and of the shifted logit. Which keys
    nearly tie decides how much of it reaches a result, so the logits are moved and the results computed again: four
    times, because the pair that matters may draw an error near zero.
    """
    q64, k64 = (np.asarray(x, np.float64) for x in (q, k))
    products = scale * np.einsum("bqhd,bkhd->bhqkd", q64, k64)
    sums = products.cumsum(-1)
    size = np.sqrt((products**2 + sums**2).sum(-1) + sums[..., -1] ** 2)
    unit = rounding(1)
    rng = np.random.default_rng(0)
    exact, *moved = (
        exact_attention(
            q,
            k,
            v,
            keep,
            scale,
            d_out,
            d_lse,
            times * unit * size * rng.standard_normal(size.shape),
        )
        for times in (0, 1, 1, 1, 1)
    )

    def change(x, y):
        return np.abs(np.subtract(x, y, out=np.zeros_like(x), where=np.isfinite(y))).max()

    return [max(change(x, y) for x in xs) for *xs, y in zip(*moved, exact, strict=True)]


def assert_within_budget(got, exact, plain, dtype, name, more=0.0):
    """|got - exact| stays within twice that of `plain`, plus four roundings to `dtype`, plus `more`.

    Where logits are large, `more` is what `moved_by_rounded_logits` says.
    """
    got, plain = np.asarray(got, np.float64), np.asarray(plain, np.float64)
    empty = np.isneginf(exact)
    assert (np.isneginf(got) == empty).all(), f"{name}: -inf in other places than expected"
    got, exact, plain = (np.where(empty, 0, x) for x in (got, exact, plain))
    assert np.isfinite(got).all(), f"{name} holds NaN or inf"
    budget = 2 * np.abs(plain - exact).max() + 4 * float(jnp.finfo(dtype).eps) * np.abs(exact).max()
    budget += more
    near = "the yardstick is the error of the plainest program, and another one errs alike"
    assert_at_most(np.abs(got - exact).max(), budget, f"{name} in {np.dtype(dtype)}", near)
