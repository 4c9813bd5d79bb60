"""VMoBA: each query reads the chunks of keys whose mean it likes best (KwaiVGI's VMoBA; arXiv 2506.23858)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from pallas_kernels import BlockMask
from pallas_kernels._values import listed, share, whole
from sparsevdit_jax import selection
from sparsevdit_jax.block_rules import keep_top
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.method import Method, warm_up
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.token_order import TokenOrder, slot_positions

_MODES = ("threshold", "topk")
_SHARED = ("query_head", "block", "head_global", "overall")


@dataclasses.dataclass(frozen=True)
class VMoBA(AttentionPattern):
    """Every query of every head chooses chunks of keys by the product with their mean key.

    Keys are cut into chunks: some frames ("1-D"), columns of a rectangle through all frames ("2-D"), or
    boxes ("3-D"); the authors' layers take turns. The gate is q . mean key of the chunk, not scaled, and
    a query always reads its own chunk. With ``mode="topk"`` the best are read, its own among them. With
    "threshold" the gates are put on [0, 1] by their least and greatest, divided by their sum, and read
    in turn, the query's own first, until their shares reach `threshold`; the one that reaches it is
    read, and one beside the query's own in any case. Which gates compete is `shared`. No gradient goes
    through the gates. Text is read by all, and reads all.

    Source: FastVideo's vmoba.py, from KwaiVGI/VMoBA. There the paper's cumulative softmax is least,
    greatest and sum. Differs: any canvas will do, so that chunks at its border may be smaller.

    A mask has a row for every query (``block_q=1``): `xla` and `reference` run it, and kernels for GPUs
    may refuse it. Lists take 4 bytes for each query, head and chunk that it may read: `topk` in
    "query_head" has room for so many, the others for all but one.

    Attributes:
      chunk: frames of a chunk, (frames,), which need not be whole; (rows, columns); or (frames, rows,
        columns), in tokens.
      mode: "threshold" or "topk".
      threshold: share of the gates that is read, with "threshold".
      topk: chunks that a query reads, its own among them, with "topk"; of all that compete on average.
      shared: the gates that compete: "query_head", of one query and head; "block", of one chunk (only
        with "threshold"); "head_global", of one head; "overall", all.
    """

    chunk: tuple[float, ...] = (4, 6, 4)
    mode: str = "threshold"
    threshold: float = 0.25
    topk: int = 3
    shared: str = "query_head"

    def __post_init__(self):
        chunk = listed("chunk", self.chunk, "must be 1 to 3 sizes in tokens")
        whole_frames = len(chunk) == 1 and isinstance(chunk[0], float) and chunk[0] > 0
        if not whole_frames:
            chunk = tuple(whole("chunk", n, 1, remedy="give its sizes in tokens") for n in chunk)
        if not 1 <= len(chunk) <= 3:
            raise ValueError(f"chunk={chunk} must be (frames,), (rows, columns) or all three")
        for name, known in (("mode", _MODES), ("shared", _SHARED)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {known}")
        if self.mode == "topk" and self.shared == "block":
            raise ValueError("shared='block' must be another with mode='topk': it has no number")
        object.__setattr__(self, "chunk", chunk)
        threshold = share("threshold", self.threshold, remedy="of the sum of the gates")
        object.__setattr__(self, "threshold", threshold)
        object.__setattr__(self, "topk", whole("topk", self.topk, 1, remedy="it counts chunks"))

    def plan(self, q, k, state, ctx):
        """A list of chunks for every query."""
        order = self.chunks(ctx.grid)
        gate = self.gate(q, k, order, ctx)
        if self.mode == "topk" and self.shared == "query_head":
            mask = self._lists(gate, order)
        else:
            keep = self.keep_chunks(gate, order, ctx)
            text = (0, order.grid.text_len), (0, order.num_text_blocks)
            keep = jnp.pad(keep, ((0, 0), (0, 0), *text), constant_values=True)
            mask = BlockMask.from_dense(keep, block_q=1, block_kv=order.block)
        return AttentionPlan(mask, TokenOrder(ctx.grid, 1), order), state

    def chunks(self, grid: VideoGrid) -> TokenOrder:
        """The order of the keys, a chunk a block."""
        if len(self.chunk) == 1:
            tokens = int(self.chunk[0] * grid.height * grid.width)
            return TokenOrder(grid, min(max(tokens, 1), grid.num_video_tokens))
        sizes = (grid.frames, *self.chunk)[-3:]
        frames, rows, columns = (int(min(n, m)) for n, m in zip(sizes, grid.shape, strict=True))
        return TokenOrder(grid, frames * rows * columns, (frames, rows, columns))

    def gate(self, q, k, order: TokenOrder, ctx: StepContext) -> Float32[Array, "B H Lv C"]:
        """q . mean key of each chunk, for the video queries in raster order."""
        q, k = jax.lax.stop_gradient((q, k))
        grid = ctx.grid
        q = jax.lax.slice_in_dim(
            q, grid.video_start, grid.video_start + grid.num_video_tokens, axis=1
        )
        means = order.pool(k, ctx.text_lengths)[:, : order.num_video_blocks]
        return jnp.einsum("bqhd,bchd->bhqc", q.astype(np.float32), means)

    def keep_chunks(
        self, gate: Float[Array, "B H Lv C"], order: TokenOrder, ctx: StepContext
    ) -> Bool[Array, "B H Lv C"]:
        """The chunks that each query reads."""
        own = jnp.broadcast_to(_own_chunk(order)[None, None], gate.shape)
        across = self.shared in ("block", "overall")  # heads compete, those of all devices
        if across:
            gate, own = ctx.all_heads(gate), ctx.all_heads(own)
        shape = gate.shape
        rows, own_rows = (_rows(x, self.shared) for x in (gate, own))
        if self.mode == "topk":
            _, heads, queries, chunks = shape
            each = {"query_head": 1, "head_global": queries, "overall": heads * queries}[
                self.shared
            ]
            keep = keep_top(jnp.where(own_rows, jnp.inf, rows), min(self.topk, chunks) * each)
        else:
            keep = _reaching(rows, own_rows, self.threshold, -1 if self.shared == "overall" else 0)
        keep = _unrows(keep | own_rows, self.shared, shape)
        return ctx.local_heads(keep) if across else keep

    def _lists(self, gate, order) -> BlockMask:
        """The mask of a number of chunks for each query."""
        batch, heads, queries, chunks = gate.shape
        text, written = order.num_text_blocks, order.grid.text_len
        gate = jnp.where(_own_chunk(order)[None, None], jnp.inf, gate)
        chosen = selection.row_top_k(gate, min(self.topk, chunks))
        also = np.arange(chunks, chunks + text, dtype=np.int32).reshape(1, 1, 1, -1)
        listed = jnp.concatenate(
            [chosen, jnp.broadcast_to(also, (batch, heads, queries, text))], -1
        )
        counts = jnp.full((batch, heads, queries), listed.shape[-1], np.int32)
        rows = ((0, 0), (0, 0), (0, written))
        return BlockMask(
            jnp.pad(listed, (*rows, (0, 0))),
            jnp.pad(counts, rows, constant_values=order.num_blocks),
            block_q=1,
            block_kv=order.block,
            num_kv_blocks=order.num_blocks,
        )


def _own_chunk(order: TokenOrder) -> np.ndarray:
    """Bool [Lv, C]: the chunk of each video token in raster order."""
    grid = order.grid
    place = slot_positions(order)[grid.video_start :][: grid.num_video_tokens]
    return (place // order.block)[:, None] == np.arange(order.num_video_blocks)[None]


def _rows(x, shared):
    """[B, H, Lv, C] as rows of what competes, [..., n]; equal gates rank by chunk, head and query."""
    batch, heads, queries, chunks = x.shape
    if shared == "query_head":
        return x
    if shared == "head_global":
        return x.swapaxes(2, 3).reshape(batch, heads, chunks * queries)
    x = x.transpose(0, 3, 1, 2)
    return x.reshape(batch, chunks, -1) if shared == "block" else x.reshape(batch, 1, -1)


def _unrows(rows, shared, shape):
    """The inverse of `_rows`."""
    batch, heads, queries, chunks = shape
    if shared == "query_head":
        return rows
    if shared == "head_global":
        return rows.reshape(batch, heads, chunks, queries).swapaxes(2, 3)
    return rows.reshape(batch, chunks, heads, queries).transpose(0, 2, 3, 1)


def _reaching(gates, own, threshold, own_rank):
    """Entries of each row that bring the share of those in `own` to `threshold`, one at least."""
    low, high = gates.min(-1, keepdims=True), gates.max(-1, keepdims=True)
    span = jnp.where(high - low <= 1e-6, 1, high - low)
    weights = (gates - low) / span
    total = weights.sum(-1, keepdims=True) + np.float32(1e-6)
    need = threshold - jnp.where(own, weights, 0).sum(-1, keepdims=True) / total
    others = jnp.where(own, np.float32(own_rank), weights)
    order = jnp.argsort(-others, axis=-1, stable=True)
    ranked = jnp.maximum(jnp.take_along_axis(others, order, axis=-1), 0)
    reached = jnp.cumsum(ranked, axis=-1) / total >= jnp.maximum(need, 0)
    # Up to the first that reaches it, which is one at least; all where rounding lets none.
    count = gates.shape[-1]
    last = jnp.where(reached.any(-1), jnp.argmax(reached, axis=-1), count - 1)
    rank = np.arange(count).reshape((1,) * (gates.ndim - 1) + (-1,))
    taken = rank <= last[..., None]
    return jnp.take_along_axis(taken, jnp.argsort(order, axis=-1), axis=-1)


_CHUNKS = ((2,), (3, 4), (4, 6, 4))

METHODS = (
    Method(
        name="vmoba",
        title="VMoBA",
        source="FastVideo, vmoba.py and its settings of Wan 2.1 1.3B for 77 frames of 480 x 832",
        pattern=lambda grid, num_heads, layer: VMoBA(_CHUNKS[layer % 3]),
        schedule=warm_up(0.24),
        trained=True,
    ),
)
