"""A case whose mask is told, not drawn: rows and blocks of every kind that a kernel tells apart."""

import numpy as np

from pallas_kernels import BlockMask
from tests.conformance.op_suite import Case

ROWS = ([0], [], [2, 0], [0, 1, 2])  # one block, none, some of them, all as text reads them


class EveryRow(Case):
    """`ROWS` of 3 blocks of keys; the first and the last block of either side are ragged."""

    @classmethod
    def of(cls, name: str, block_q: int, block_kv: int, head_dim: int) -> "EveryRow":
        """The case; its arrays end in the last block of queries, before the block does."""
        return cls(
            name, lq=4 * block_q - 3, lk=3 * block_kv, heads=1, mask_heads=1, head_dim=head_dim,
            block_q=block_q, block_kv=block_kv, q_ragged=True, kv_ragged=True,
        )  # fmt: skip

    def mask(self, capacity=2):
        q, kv = self.block_q, self.block_kv
        indices = [np.resize(row[:capacity] or 0, capacity) for row in ROWS]
        counts = [len(row) for row in ROWS]
        lengths = [q - 5, q, q, q - 9], [kv - 7, kv, 3]
        indices, counts, of_q, of_kv = (
            np.array([[x]], np.int32) for x in (indices, counts, *lengths)
        )
        return BlockMask(
            indices, counts, block_q=q, block_kv=kv, q_lengths=of_q, kv_lengths=of_kv, num_kv_blocks=3
        )  # fmt: skip
