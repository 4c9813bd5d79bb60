import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.checkpoint import (
    count_parameters,
    load_weights,
    parameter_names,
    read_config,
    save_weights,
)
from models.layers import Linear


def linear(dim_in, dim_out, seed=0):
    return Linear(dim_in, dim_out, dtype=jnp.float32, rngs=nnx.Rngs(seed))


class Pair(nnx.Module):
    def __init__(self, dim, seed):
        self.parts = nnx.List([linear(3, dim, seed), linear(dim, 2, seed)])


def test_round_trip_with_config(tmp_path):
    path = tmp_path / "w.safetensors"
    saved, loaded = Pair(4, 0), Pair(4, 1)
    save_weights(path, saved, config={"dim": 4})
    assert read_config(path) == {"dim": 4}
    load_weights(path, loaded)
    for name, leaf in parameter_names(saved).items():
        np.testing.assert_array_equal(leaf[...], parameter_names(loaded)[name][...])
    assert sorted(parameter_names(saved)) == [
        "parts.0.bias", "parts.0.kernel", "parts.1.bias", "parts.1.kernel",
    ]  # fmt: skip
    assert count_parameters(saved) == 3 * 4 + 4 + 4 * 2 + 2


def test_bfloat16_on_disk_is_float32_in_the_model(tmp_path):
    path = tmp_path / "w.safetensors"
    saved, loaded = Pair(4, 0), Pair(4, 1)
    save_weights(path, saved, config={}, dtype=jnp.bfloat16)
    load_weights(path, loaded)
    kernel = loaded.parts[0].kernel[...]
    assert kernel.dtype == jnp.float32
    expected = saved.parts[0].kernel[...].astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(kernel, expected)


def test_a_misfit_lists_everything(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, Pair(4, 0), config={})

    class Other(nnx.Module):
        def __init__(self):
            self.parts = nnx.List([linear(3, 5)])
            self.extra = linear(2, 2)

    with pytest.raises(ValueError, match="does not fit this model") as caught:
        load_weights(path, Other())
    message = str(caught.value)
    assert "missing: extra.bias" in message
    assert "unexpected: parts.1.kernel" in message
    assert "parts.0.kernel: file has (3, 4), model needs (3, 5)" in message


def test_nothing_is_overwritten_and_wrong_files_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, Pair(4, 0), config={})
    with pytest.raises(FileExistsError, match="exists and is not overwritten"):
        save_weights(path, Pair(4, 0), config={})
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_config(tmp_path / "absent.safetensors")
    (tmp_path / "text").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        read_config(tmp_path / "text")
