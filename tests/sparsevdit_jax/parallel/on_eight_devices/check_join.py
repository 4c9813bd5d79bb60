"""Joining text to a spread video is concatenation, and moves little."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import parallel

AXES = {"seq": 8}, {"cfg": 2, "seq": 4}, {"cfg": 2}
SIZES = (64, 8), (64, 3), (61, 8), (40, 1), (57, 7), (64, 0), (16, 30)
EVERY = list(itertools.product(range(3), range(7), (False, True)))
# Every size with text on both sides, in turn on each kind of mesh; the other pairs are for make test-all.
FEW = {c for c in EVERY if c[0] == (2 * c[1] + c[2]) % 3}


@pytest.mark.parametrize(
    ("axes", "size", "text_first"),
    [c if c in FEW else pytest.param(*c, marks=pytest.mark.slow) for c in EVERY],
)
def test_is_concatenation(axes, size, text_first):
    axes, (length, room) = AXES[axes], SIZES[size]
    rng = np.random.default_rng(0)
    video, text, d_joint = (
        jnp.asarray(rng.standard_normal((2, n, 2, 3), np.float32))
        for n in (length, room, length + room)
    )

    def loss(video, text):
        joint = parallel.join(video, text, text_first=text_first)
        return (joint * d_joint).sum(), joint

    with jax.set_mesh(parallel.make_mesh(**axes)):
        run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        (_, joint), grads = run(video, text)
    parts = (text, video) if text_first else (video, text)
    np.testing.assert_array_equal(joint, jnp.concatenate(parts, 1))
    cut = room if text_first else length
    first, second = d_joint[:, :cut], d_joint[:, cut:]
    expected = (second, first) if text_first else (first, second)
    for a, b in zip(grads, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_video_stays_where_it_is():
    mesh = parallel.make_mesh(seq=8)
    video, text = (jax.ShapeDtypeStruct((1, n, 4), np.float32) for n in (800, 16))
    place = jax.NamedSharding(mesh, jax.P(None, "seq"))
    with jax.set_mesh(mesh):
        run = jax.jit(parallel.join, in_shardings=(place, None), out_shardings=place)
        text = run.lower(video, text).compile().as_text()
    moved = [line for line in text.splitlines() if " collective-permute(" in line]
    assert len(moved) == 1
    assert "f32[1,16,4]" in moved[0]
    assert not any(f" {name}(" in text for name in ("all-to-all", "all-gather", "all-reduce"))
