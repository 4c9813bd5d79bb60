import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from sparsevdit_jax import VideoGrid, parallel, sparse_attention
from sparsevdit_jax.parallel.mesh import Shards, current
from sparsevdit_jax.patterns import Dense


def test_without_a_mesh_nothing_changes():
    x = jnp.ones((2, 3, 4))
    assert current() is None
    assert parallel.spread_tokens(x) is x
    assert parallel.head_spec(x.shape) == jax.P()


def test_a_mesh_of_one_device_is_no_mesh():
    mesh = parallel.make_mesh()
    assert mesh.axis_names == ("data", "cfg", "seq")
    with jax.set_mesh(mesh):
        assert current() is None


def test_a_mesh_without_these_axes_is_not_ours():
    with jax.set_mesh(jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))):
        assert current() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seq": 0}, r"\{'data': 1, 'cfg': 1, 'seq': 0\} must be positive"),
        ({"seq": 1000}, r"need 1000 devices, but JAX has \d+; make an axis smaller"),
        ({"seq": 2, "devices": [None]}, "need 2 devices, but devices= has 1"),
    ],
)
def test_axes_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        parallel.make_mesh(**arguments)


def test_explicit_axes_are_refused():
    mesh = jax.make_mesh((1,), ("seq",), axis_types=(AxisType.Explicit,))
    q = jnp.ones((1, 8, 1, 4))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"needs AxisType\.Auto"):
        sparse_attention(q, q, q, grid=VideoGrid(2, 2, 2), pattern=Dense())


def test_rows_must_divide():
    with pytest.raises(ValueError, match="3 batch rows cannot be sharded evenly over the 2"):
        Shards(rows=2, tokens=4).check_rows(3)


def test_heads_go_to_devices_while_each_gets_one():
    shards = Shards(rows=1, tokens=8)
    assert [shards.uses_ring(heads) for heads in (1, 7, 8, 9, 40)] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_what_one_process_puts_is_where_it_says():
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for a in (np.arange(3.0, dtype=np.float32), jax.random.key(3)):
        put = parallel.put(a, place)
        assert put.sharding == place
        assert (put == a).all()
