"""Parity of the whole model with diffusers."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.models import parity
from tests.models.wan_vae.tiny import DECODE, ENCODE, reference

pytestmark = pytest.mark.optimised


@functools.cache
def decoded(case):
    return np.asarray(reference().decode(jnp.asarray(parity.arrays("vae_wan", case)["z"])))


@pytest.mark.parametrize("case", ["a", "one_frame"])
def test_decodes_as_diffusers(case):
    parity.assert_close(decoded(case), parity.arrays("vae_wan", case)["decoded"], DECODE, "decoded")


def test_encodes_as_diffusers():
    case = parity.arrays("vae_wan", "enc")
    mean, log_variance = reference().encode(jnp.asarray(case["video"]))
    parity.assert_close(mean, case["mean"], ENCODE, "mean")
    parity.assert_close(log_variance, case["logvar"], ENCODE, "logvar")


def test_chunks_are_the_video_bit_by_bit():
    z = jnp.asarray(parity.arrays("vae_wan", "a")["z"])
    chunks = [np.asarray(chunk) for chunk in reference().decode_chunks(z)]
    assert [chunk.shape for chunk in chunks] == [(1, 3, n, 32, 48) for n in (1, 4, 4)]
    np.testing.assert_array_equal(np.concatenate(chunks, 2), decoded("a"))


def test_bfloat16_errs_as_in_diffusers():
    # torch in bfloat16 against float32: root mean square 1.14e-2 decoding case a, encoding 7.0e-3 and
    # 6.5e-3 (at most 0.077, 0.031 and 0.026).
    vae = reference(jnp.bfloat16)
    z = jnp.asarray(parity.arrays("vae_wan", "a")["z"])
    out = vae.decode(z)
    assert out.dtype == jnp.bfloat16
    check_rms(out, decoded("a"), 1.14e-2)
    case = parity.arrays("vae_wan", "enc")
    mean, log_variance = vae.encode(jnp.asarray(case["video"]))
    check_rms(mean, case["mean"], 7.0e-3)
    check_rms(log_variance, case["logvar"], 6.5e-3)


def check_rms(got, want, theirs):
    error = np.asarray(got, np.float64) - np.asarray(want, np.float64)
    assert error.any()
    tolerances.assert_of_another(error, None, theirs, "bfloat16")
