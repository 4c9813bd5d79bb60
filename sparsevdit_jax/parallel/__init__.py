"""Attention on more than one device, on JAX's own SPMD.

    mesh = parallel.make_mesh(cfg=2, seq=4)
    with jax.set_mesh(mesh):
        out, state = step(q, k, v, state, ctx)      # any jitted function that attends

Nothing else changes. Under a mesh the attention of every pattern runs under `jax.shard_map`, and XLA
partitions the rest of the program. Arrays keep their shapes, and values are those of one device.
"""

from .balance import assign_heads as assign_heads
from .balance import imbalance as imbalance
from .join import join as join
from .mesh import head_spec as head_spec
from .mesh import make_mesh as make_mesh
from .mesh import put as put
from .mesh import spread_tokens as spread_tokens
from .mesh import whole as whole
