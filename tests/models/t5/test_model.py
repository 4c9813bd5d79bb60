"""T5 and UMT5 encoders beside transformers' outputs and a float64 computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.keys import checkpoint_slots
from models.t5 import PRESETS, T5Encoder
from models.t5.model import distance_buckets
from tests import tolerances
from tests.models import parity
from tests.models.t5.encoders import NAMES, encoder, recorded, roundings, run, tensors

pytestmark = pytest.mark.optimised


def float64(name: str, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The same encoder, written once more in numpy with loops over heads and pairs of positions."""
    weights = {key: value.astype(np.float64) for key, value in tensors(name).items()}

    def norm(x, key):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weights[key]

    def bucket(query, key):
        distance, offset = abs(key - query), 16 * (key > query)
        if distance < 8:
            return offset + distance
        return offset + min(15, int(8 + np.log2(distance / 8) * 2 + 1e-9))

    length = ids.shape[1]
    buckets = np.array([[bucket(q, k) for k in range(length)] for q in range(length)])
    x = weights["shared.weight"][ids]
    for layer in range(2):
        block = f"encoder.block.{layer}.layer."
        attention = f"{block}0.SelfAttention."
        if f"{attention}relative_attention_bias.weight" in weights:
            bias = weights[f"{attention}relative_attention_bias.weight"][buckets]
        h = norm(x, f"{block}0.layer_norm.weight")
        q, k, v = (h @ weights[f"{attention}{part}.weight"].T for part in "qkv")
        heads = []
        for head in range(3):
            s = slice(16 * head, 16 * head + 16)
            logits = q[..., s] @ k[..., s].swapaxes(1, 2) + bias[..., head]
            logits = np.where(mask[:, None, :] > 0, logits, -np.inf)
            p = np.exp(logits - logits.max(-1, keepdims=True))
            heads.append(p / p.sum(-1, keepdims=True) @ v[..., s])
        x = x + np.concatenate(heads, -1) @ weights[f"{attention}o.weight"].T
        h = norm(x, f"{block}1.layer_norm.weight")
        dense = f"{block}1.DenseReluDense."
        a = h @ weights[f"{dense}wi_0.weight"].T
        gelu = 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
        gated = gelu * (h @ weights[f"{dense}wi_1.weight"].T)
        x = x + gated @ weights[f"{dense}wo.weight"].T
    return norm(x, "encoder.final_layer_norm.weight")


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_transformers(name):
    # Padding's own rows are computed like any other's and compared too.
    ids, mask, want = recorded(name)
    assert 0 < mask[1].sum() < ids.shape[1]
    n = roundings(name, ids.shape[1])
    parity.assert_close(run(encoder(name), ids, mask), want, n, name)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_float64(name):
    ids, mask, _ = recorded(name)
    want = float64(name, np.asarray(ids), np.asarray(mask))
    n = roundings(name, ids.shape[1])
    tolerances.assert_rounding_apart(run(encoder(name), ids, mask), want, n, name)


@pytest.mark.parametrize(
    "mistake", [{"layer_norm_epsilon": 1e-4}, {"relative_attention_max_distance": 64}]
)
def test_mistakes_are_seen(mistake):
    ids, mask, want = recorded("umt5")
    out = run(encoder("umt5", **mistake), ids, mask)
    with pytest.raises(AssertionError, match="root mean square"):
        parity.assert_close(out, want, roundings("umt5", ids.shape[1]), "umt5")


def test_padding_is_hidden_as_keys_only():
    ids, mask, _ = recorded("umt5")
    model = encoder("umt5")
    states = run(model, ids, mask)
    length = int(mask[1].sum())
    changed = run(model, ids.at[1, length:].set(3), mask)
    np.testing.assert_array_equal(states[1, :length], changed[1, :length])
    assert jnp.abs(states[1, length:] - changed[1, length:]).max() > 0.1
    # A prompt by itself has the same states as within its padding.
    alone = run(model, ids[1:, :length])
    n = roundings("umt5", ids.shape[1])
    tolerances.assert_rounding_apart(alone, states[1:, :length], n, "a prompt by itself")
    # Without a mask everything is seen.
    assert jnp.abs(run(model, ids)[1, :length] - states[1, :length]).max() > 0.1
    np.testing.assert_array_equal(run(model, ids), run(model, ids, jnp.ones_like(mask)))


def test_a_row_that_is_masked_whole_attends_to_all_alike():
    ids, _, _ = recorded("umt5")
    out = run(encoder("umt5"), ids, jnp.zeros_like(ids))
    assert jnp.isfinite(out).all()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_errs_no_more_than_transformers(name):
    # Error against float32, rms and maximum, of transformers' own bfloat16 (float16: wo in float32).
    theirs = {
        ("umt5", "bfloat16"): (1.408e-2, 0.101),
        ("t5v11", "bfloat16"): (1.730e-2, 0.107),
        ("umt5", "float16"): (1.853e-3, 1.30e-2),
        ("t5v11", "float16"): (2.032e-3, 1.17e-2),
    }
    ids, mask, want = recorded(name)
    for dtype in (jnp.bfloat16, jnp.float16):
        out = run(encoder(name, dtype), ids, mask)
        assert out.dtype == dtype
        error = np.abs(np.asarray(out, np.float32) - want)
        rms, largest = theirs[name, jnp.dtype(dtype).name]
        tolerances.assert_of_another(error, largest, rms, name, times=1.25)


def test_dtypes_of_weights():
    def dtypes(dtype):
        model = nnx.eval_shape(
            lambda: T5Encoder(PRESETS["umt5-xxl"], dtype=dtype, rngs=nnx.Rngs(0))
        )
        flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
        return {path[-2]: leaf.dtype for path, leaf in flat}

    assert set(dtypes(jnp.bfloat16).values()) == {jnp.dtype(jnp.bfloat16)}
    half = dtypes(jnp.float16)
    assert half.pop("wo") == jnp.float32
    assert set(half.values()) == {jnp.dtype(jnp.float16)}


def test_weights_of_another_dtype_are_read_as_compute_needs():
    ids, mask, want = recorded("t5v11")
    stored = encoder("t5v11")
    for slot in checkpoint_slots(stored, T5Encoder.KEYS).values():
        slot.parameter.set_value(slot.parameter[...].astype(jnp.bfloat16))
    out = run(stored, ids, mask)
    assert out.dtype == jnp.float32
    assert jnp.isfinite(out).all()
    rounded = np.abs(np.asarray(out) - want).max()
    assert 1e-4 < rounded < 0.1


def test_a_call_leaves_the_module_as_it_was():
    ids, mask, _ = recorded("umt5")
    model = encoder("umt5")
    before = jax.tree.map(np.array, nnx.state(model))
    model(ids, mask)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))


def test_buckets_are_transformers():
    # Smallest distances of the buckets after the query's, read off transformers for 32 buckets up to 128.
    first = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
    buckets = distance_buckets(600, 32, 128)
    after, before = buckets[599:], buckets[599::-1]
    assert [int(np.argmax(before == b)) for b in range(16)] == first
    assert [int(np.argmax(after[1:] == 16 + b)) + 1 for b in range(1, 16)] == first[1:]
    assert before[0] == 0
    assert (before[91:] == 15).all()
    assert (after[91:] == 31).all()


def test_wrong_inputs_are_refused():
    model = encoder("umt5")
    with pytest.raises(ValueError, match=r"float32\[2, 4\] must be integers \[batch, tokens\]"):
        model(jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"int32\[4\] must be integers"):
        model(jnp.zeros((4,), jnp.int32))
    with pytest.raises(ValueError, match=r"attention_mask \[2, 3\] must have the shape"):
        model(jnp.zeros((2, 4), jnp.int32), jnp.ones((2, 3)))
