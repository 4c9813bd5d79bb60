import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.cogvideox_vae.chunks import all_chunks, chunk_lengths, each_chunk, is_traced

TRACES = []


@jax.tree_util.register_static
class RunningSum:
    """A coder that doubles time: every frame plus all of the chunks before, twice."""

    def __eq__(self, other):
        return type(self) is type(other)

    def __hash__(self):
        return 0

    def __call__(self, x, caches):
        TRACES.append(x.shape)
        before = jnp.zeros_like(x[:, 0]) if caches is None else caches[0]
        return jnp.repeat(x + before[:, None], 2, 1), (before + x.sum(1),)


@pytest.mark.parametrize(
    ("length", "size", "lengths"),
    [
        (1, 2, [1]),
        (2, 2, [2]),
        (3, 2, [3]),
        (4, 2, [2, 2]),
        (13, 2, [3, 2, 2, 2, 2, 2]),
        (1, 8, [1]),
        (9, 8, [9]),
        (13, 8, [13]),
        (49, 8, [9, 8, 8, 8, 8, 8]),
    ],
)
def test_the_first_chunk_takes_what_is_left_over(length, size, lengths):
    assert chunk_lengths(length, size) == lengths


def test_caches_go_from_chunk_to_chunk_and_equal_chunks_compile_once():
    x = jnp.arange(1.0, 10).reshape(1, 1, 9, 1, 1)
    want = [1, 2, 3, 4 + 6, 5 + 6, 6 + 15, 7 + 15, 8 + 28, 9 + 28]
    TRACES.clear()
    parts = [np.asarray(part) for part in each_chunk(RunningSum(), x, 2)]
    assert [part.shape[2] for part in parts] == [6, 4, 4, 4]
    np.testing.assert_array_equal(np.concatenate(parts, 2).ravel(), np.repeat(want, 2))
    assert [shape[1] for shape in TRACES] == [3, 2]

    np.testing.assert_array_equal(all_chunks(RunningSum(), x, 2).ravel(), np.repeat(want, 2))
    assert len(TRACES) == 2  # compiled already


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8])
def test_all_chunks_under_jit_and_grad_is_the_same(length):
    x = jnp.arange(1.0, length + 1).reshape(1, 1, length, 1, 1)
    eager = all_chunks(RunningSum(), x, 2)
    np.testing.assert_array_equal(jax.jit(all_chunks, static_argnums=2)(RunningSum(), x, 2), eager)
    gradient = jax.grad(lambda x: all_chunks(RunningSum(), x, 2).sum())(x)
    first, *others = chunk_lengths(length, 2)
    later = [length - first - 2 * i for i in range(len(others) + 1)]
    counts = np.repeat(later, [first] + [2] * len(others))  # frames of the chunks after its own
    np.testing.assert_array_equal(gradient.ravel(), 2 * (1 + counts))


def test_equal_chunks_are_one_scan_under_jit():
    x = jnp.zeros((1, 1, 13, 1, 1))
    text = str(jax.make_jaxpr(lambda x: all_chunks(RunningSum(), x, 2))(x))
    assert text.count("scan[") == 1
    assert "length=5" in text


def test_is_traced_sees_any_leaf():
    seen = []
    jax.jit(lambda x: seen.append(is_traced({"a": 1.0, "b": x})))(1.0)
    assert seen == [True]
    assert not is_traced({"a": jnp.zeros(2)}, np.zeros(2))
