"""Flow matching: the straight path from video to noise, and the shift of its times.

Convention (Wan, HunyuanVideo): x_t = (1 - t) x_0 + t noise with t from 1 (noise) to 0 (video), velocity
v = noise - x_0 = (x_t - x_0) / t. The t of this file is what diffusers' flow schedulers call sigma.
"""

import jax
import jax.numpy as jnp


def shift_time(t, shift: float):
    """Flow shift t -> s t / (1 + (s - 1) t): more of the path at high noise, as long videos need."""
    return shift * t / (1 + (shift - 1) * t)


def per_video(values, x: jax.Array) -> jax.Array:
    """Scalar or [B] values in a shape that multiplies x [B, ...] row by row."""
    return jnp.reshape(values, (-1, *([1] * (x.ndim - 1))))


def add_noise(x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """x_t of clean videos x0 [B, ...] at times t: [B], or one for all."""
    t = per_video(t, x0)
    return (1 - t) * x0 + t * noise


def velocity(x: jax.Array, x0: jax.Array, t: jax.Array, *, t_min: float = 0.05) -> jax.Array:
    """Velocity at x = x_t [B, ...] that leads to x0; t [B] is bounded below by `t_min`."""
    return (x - x0) / per_video(jnp.maximum(t, t_min), x)
