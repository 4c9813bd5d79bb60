"""Mistakes in patterns of clusters, of fewer queries, and of chunks for each query."""

from ..mutant import of

MUTANTS = [
    *of(
        "sparsevdit_jax/clusters.py",
        (
            "return jnp.where(size > 0, sums / jnp.maximum(size, 1).astype(np.float32), old)",
            "return sums / jnp.maximum(size, 1).astype(np.float32) + 0 * old",
            "an empty cluster moves to the origin",
        ),
        (
            "owner = jnp.where(lengths > 0, owner, count + 1)",
            "owner = jnp.where(lengths > 0, owner, count)",
            "blocks that are not used count as text",
        ),
    ),
    *of(
        "sparsevdit_jax/clustered_pattern.py",
        (
            "jnp.where(state.warm[..., None, None], old, drawn)",
            "jnp.where(state.warm[..., None, None], drawn, drawn)",
            "every step begins with random tokens",
        ),
        (
            "logits + jnp.log(k.sizes[:, :, None].astype(np.float32))",
            "logits + 0 * k.sizes[:, :, None].astype(np.float32)",
            "a large cluster counts as a small one",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/svg_ear.py",
        (
            "jnp.cumsum(ranked, axis=-1) - ranked < rest[..., None]",
            "jnp.cumsum(ranked, axis=-1) < rest[..., None]",
            "the cluster with which the budget ends is left out",
        ),
        (
            "worth - np.float32(self.gamma) * jnp.log",
            "worth + np.float32(self.gamma) * jnp.log",
            "large pairs of clusters are worth more",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/fastvideo_bsa.py",
        (
            "slot - before <= after - slot",
            "slot - before < after - slot",
            "of two kept queries as near the later one serves",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/vorta.py",
        (
            "jnp.where(is_centre[None, None], -np.inf, alike)",
            "jnp.where(is_centre[None, None], 1.0, alike)",
            "the centre is left out, as most like itself",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/vmoba.py",
        (
            "keep = _unrows(keep | own_rows, self.shared, shape)",
            "keep = _unrows(keep, self.shared, shape)",
            "a query may not read its own chunk",
        ),
    ),
    *of(
        "sparsevdit_jax/ops.py",
        (
            "return kept * np.float32(pairs.sum() / np.square(real).sum())",
            "return kept",
            "density is that of the tokens that are not left out",
        ),
    ),
]
