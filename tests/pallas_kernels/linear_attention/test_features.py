import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.linear_attention.features import FEATURES, features


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_not_negative_and_float32(name):
    x = jnp.asarray([[-3.0, 0.0, 2.0]], jnp.bfloat16)
    found = np.asarray(features(x, name))
    assert found.dtype == np.float32
    assert (found >= 0).all()
    assert (np.diff(found) >= 0).all()


def test_values():
    np.testing.assert_allclose(features(jnp.zeros(4), "softmax"), 0.25)
    np.testing.assert_allclose(
        features(jnp.asarray([-1.0, 2.0]), "elu"), [np.exp(-1), 3], rtol=1e-6
    )
    np.testing.assert_allclose(features(jnp.asarray([-1.0, 2.0]), "relu"), [0, 2])
