"""Triton kernels of block-sparse attention: forward, dQ, and dK with dV.

Arrays are [B, L, H, D]: a token is HEADS * D numbers after the one before it. A program computes
one tile of one block of one head and walks that block's list, a tile of the other side at a time.
Exponents are in base 2. Nothing is added atomically, so the order of every sum is fixed.

Arguments in lower case are pointers and integers, those in upper case are known at compile time.
"row" is the side whose tile a program computes, "other" the side that it walks.
  parts, starts, counts: int32 [b, h, T], [b, h, tiles] and [b, h, tiles], of `RealLists`.
  row_sizes, other_sizes: real tokens of each block of rows, and of each part of the other side,
    int32 [b, h, N]; looked at if *_RAGGED.
  rows, others: tokens of each side.
  *_b, *_h: entries from one batch item and head to the next; 0 where an array broadcasts.
  BLOCK, TILE, OTHER_BLOCK, OTHER_TILE: tokens, OTHER_BLOCK those of a part; the last tile of a
    block or part may reach beyond it.
  BINARY_SCALE: of the exponents, |SCALE| log2(e), and positive: times -inf it is never NaN.
  *_RAGGED: some tile of that side holds tokens that are padding or beyond the end.
"""

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _place(BLOCK: tl.constexpr, TILE: tl.constexpr):
    """Batch item, head and block of a program, and the tokens of its tile, counted in the block."""
    tiles: tl.constexpr = (BLOCK + TILE - 1) // TILE
    tile = tl.program_id(0)
    tokens = tile % tiles * TILE + tl.arange(0, TILE)
    return tl.program_id(2).to(tl.int64), tl.program_id(1), tile // tiles, tokens


@triton.jit
def _size(sizes, block, BLOCK: tl.constexpr, RAGGED: tl.constexpr):
    if RAGGED:
        return tl.load(sizes + block)
    else:
        return BLOCK


@triton.jit
def _visit(parts, step, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """Part, and tokens of it, that a step of a walk reads."""
    tiles: tl.constexpr = (BLOCK + TILE - 1) // TILE
    return tl.load(parts + step // tiles), step % tiles * TILE + tl.arange(0, TILE)


@triton.jit
def _load(x, tokens, real, dims, STRIDE: tl.constexpr, D: tl.constexpr, RAGGED: tl.constexpr):
    """[TILE, BLOCK_D], 0 where a token is not real and beyond D."""
    x += tokens[:, None] * STRIDE + dims[None, :]
    if RAGGED:
        return tl.load(x, mask=real[:, None] & (dims < D)[None, :], other=0.0)
    elif dims.shape[0] != D:
        return tl.load(x, mask=(dims < D)[None, :], other=0.0)
    else:
        return tl.load(x)


@triton.jit
def _load_numbers(x, tokens, real, RAGGED: tl.constexpr, FILL: tl.constexpr):
    """float32 [TILE], FILL where a token is not real."""
    if RAGGED:
        return tl.load(x + tokens, mask=real, other=FILL)
    else:
        return tl.load(x + tokens)


@triton.jit
def _store(x, value, tokens, exists, dims, STRIDE: tl.constexpr, D: tl.constexpr):
    x += tokens[:, None] * STRIDE + dims[None, :]
    value = value.to(x.dtype.element_ty)
    tl.store(x, value, mask=exists[:, None] & (dims < D)[None, :])


@triton.jit
def _dot(a, b):
    """float32 product; that of float32 operands is not rounded to TF32."""
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _exp2(scores, shift, BINARY_SCALE: tl.constexpr):
    """exp2(BINARY_SCALE * scores - shift), where only the difference is rounded."""
    return tl.exp2(tl.fma(scores, tl.full(scores.shape, BINARY_SCALE, tl.float32), -shift))


@triton.jit
def _signed(x, SCALE: tl.constexpr):
    """x, negated for a negative scale, so that larger scores are larger logits."""
    if SCALE < 0:
        return -x
    else:
        return x


@triton.jit
def forward(
    q, k, v, parts, starts, counts, row_sizes, other_sizes,
    rows, others, parts_b, parts_h, tile_b, tile_h, row_b, row_h, other_b, other_h,
    out, lse, top_logit, log_total,
    SCALE: tl.constexpr, BINARY_SCALE: tl.constexpr, HEADS: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr, OTHER_BLOCK: tl.constexpr, TILE: tl.constexpr, OTHER_TILE: tl.constexpr,
    ROW_RAGGED: tl.constexpr, OTHER_RAGGED: tl.constexpr,
):  # fmt: skip
    """out and lse of a tile of queries, and the two terms of lse in base 2, float32 [B, H, Lq].

    The backward pass takes the terms: of large logits their rounded sum tells too little.
    """
    STRIDE: tl.constexpr = HEADS * D
    STEPS: tl.constexpr = (OTHER_BLOCK + OTHER_TILE - 1) // OTHER_TILE
    batch, head, block, tokens = _place(BLOCK, TILE)
    dims = tl.arange(0, BLOCK_D)
    at = (batch * rows + block * BLOCK) * STRIDE + head * D
    k += batch * others * STRIDE + head * D
    v += batch * others * STRIDE + head * D
    tile = batch * tile_b + head * tile_h + tl.program_id(0)
    parts += batch * parts_b + head * parts_h + tl.load(starts + tile)
    count = tl.load(counts + tile)
    other_sizes += batch * other_b + head * other_h
    row_sizes += batch * row_b + head * row_h
    real_q = tokens < _size(row_sizes, block, BLOCK, ROW_RAGGED)
    q_tile = _signed(_load(q + at, tokens, real_q, dims, STRIDE, D, ROW_RAGGED), SCALE)

    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    acc = tl.zeros([TILE, BLOCK_D], tl.float32)
    for step in range(count * STEPS):
        other, keys = _visit(parts, step, OTHER_BLOCK, OTHER_TILE)
        real_k = keys < _size(other_sizes, other, OTHER_BLOCK, OTHER_RAGGED)
        there = other.to(tl.int64) * (OTHER_BLOCK * STRIDE)
        k_tile = _load(k + there, keys, real_k, dims, STRIDE, D, OTHER_RAGGED)
        scores = _dot(q_tile, tl.trans(k_tile))
        if OTHER_RAGGED:
            scores = tl.where(real_k[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1) * BINARY_SCALE)
        shift = tl.where(new_top > float("-inf"), new_top, 0.0)  # no real key so far
        weights = _exp2(scores, shift[:, None], BINARY_SCALE)
        shrink = tl.exp2(top - shift)
        total = total * shrink + tl.sum(weights, 1)
        v_tile = _load(v + there, keys, real_k, dims, STRIDE, D, OTHER_RAGGED)
        acc = acc * shrink[:, None] + _dot(weights.to(v_tile.dtype), v_tile)
        top = new_top

    live = (total > 0.0) & real_q
    total = tl.where(live, total, 1.0)
    acc = tl.where(live[:, None], acc / total[:, None], 0.0)
    exists = (tokens < BLOCK) & (block * BLOCK + tokens < rows)
    _store(out + at, acc, tokens, exists, dims, STRIDE, D)
    numbers = (batch * HEADS + head) * rows + block * BLOCK + tokens
    top, total = tl.where(live, top, float("-inf")), tl.log2(total)
    tl.store(top_logit + numbers, top, mask=exists)
    tl.store(log_total + numbers, total, mask=exists)
    tl.store(lse + numbers, (top + total) * LN2, mask=exists)


@triton.jit
def backward_q(
    q, k, v, out, top_logit, log_total, d_out, d_lse, parts, starts, counts, row_sizes, other_sizes,
    rows, others, parts_b, parts_h, tile_b, tile_h, row_b, row_h, other_b, other_h,
    dq, delta,
    SCALE: tl.constexpr, BINARY_SCALE: tl.constexpr, HEADS: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr, OTHER_BLOCK: tl.constexpr, TILE: tl.constexpr, OTHER_TILE: tl.constexpr,
    ROW_RAGGED: tl.constexpr, OTHER_RAGGED: tl.constexpr,
):  # fmt: skip
    """dq of a tile of queries, and delta = out . d_out - d_lse, float32 [B, H, Lq]."""
    STRIDE: tl.constexpr = HEADS * D
    STEPS: tl.constexpr = (OTHER_BLOCK + OTHER_TILE - 1) // OTHER_TILE
    batch, head, block, tokens = _place(BLOCK, TILE)
    dims = tl.arange(0, BLOCK_D)
    at = (batch * rows + block * BLOCK) * STRIDE + head * D
    k += batch * others * STRIDE + head * D
    v += batch * others * STRIDE + head * D
    tile = batch * tile_b + head * tile_h + tl.program_id(0)
    parts += batch * parts_b + head * parts_h + tl.load(starts + tile)
    count = tl.load(counts + tile)
    other_sizes += batch * other_b + head * other_h
    row_sizes += batch * row_b + head * row_h
    exists = (tokens < BLOCK) & (block * BLOCK + tokens < rows)
    numbers = (batch * HEADS + head) * rows + block * BLOCK + tokens
    shift = tl.load(top_logit + numbers, mask=exists, other=float("-inf"))
    total = tl.exp2(tl.load(log_total + numbers, mask=exists, other=0.0))
    # A query without keys: no weight, and its cotangents, whatever they hold, are not looked at.
    live = (tokens < _size(row_sizes, block, BLOCK, ROW_RAGGED)) & (shift > float("-inf"))
    shift = tl.where(live, shift, float("inf"))
    q_tile = _signed(_load(q + at, tokens, live, dims, STRIDE, D, True), SCALE)
    out_tile = _load(out + at, tokens, live, dims, STRIDE, D, True).to(tl.float32)
    d_out_tile = _load(d_out + at, tokens, live, dims, STRIDE, D, True)
    less = tl.sum(out_tile * d_out_tile.to(tl.float32), 1)
    less -= tl.load(d_lse + numbers, mask=live, other=0.0)
    tl.store(delta + numbers, less, mask=exists)

    acc = tl.zeros([TILE, BLOCK_D], tl.float32)
    for step in range(count * STEPS):
        other, keys = _visit(parts, step, OTHER_BLOCK, OTHER_TILE)
        real_k = keys < _size(other_sizes, other, OTHER_BLOCK, OTHER_RAGGED)
        there = other.to(tl.int64) * (OTHER_BLOCK * STRIDE)
        k_tile = _load(k + there, keys, real_k, dims, STRIDE, D, OTHER_RAGGED)
        scores = _dot(q_tile, tl.trans(k_tile))
        if OTHER_RAGGED:
            scores = tl.where(real_k[None, :], scores, float("-inf"))
        weights = _exp2(scores, shift[:, None], BINARY_SCALE)
        v_tile = _load(v + there, keys, real_k, dims, STRIDE, D, OTHER_RAGGED)
        d_logits = weights * (_dot(d_out_tile, tl.trans(v_tile)) - less[:, None])
        acc += _dot(d_logits.to(k_tile.dtype), k_tile)
    acc *= (SCALE / total)[:, None]
    _store(dq + at, acc, tokens, exists, dims, STRIDE, D)


@triton.jit
def backward_kv(
    q, k, v, top_logit, log_total, d_out, delta, parts, starts, counts, row_sizes, other_sizes,
    rows, others, parts_b, parts_h, tile_b, tile_h, row_b, row_h, other_b, other_h,
    dk, dv,
    SCALE: tl.constexpr, BINARY_SCALE: tl.constexpr, HEADS: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr, OTHER_BLOCK: tl.constexpr, TILE: tl.constexpr, OTHER_TILE: tl.constexpr,
    ROW_RAGGED: tl.constexpr, OTHER_RAGGED: tl.constexpr,
):  # fmt: skip
    """dk and dv of a tile of keys: rows are keys, the lists name blocks of queries."""
    STRIDE: tl.constexpr = HEADS * D
    STEPS: tl.constexpr = (OTHER_BLOCK + OTHER_TILE - 1) // OTHER_TILE
    batch, head, block, tokens = _place(BLOCK, TILE)
    dims = tl.arange(0, BLOCK_D)
    at = (batch * rows + block * BLOCK) * STRIDE + head * D
    q += batch * others * STRIDE + head * D
    d_out += batch * others * STRIDE + head * D
    numbers = (batch * HEADS + head) * others
    top_logit += numbers
    log_total += numbers
    delta += numbers
    tile = batch * tile_b + head * tile_h + tl.program_id(0)
    parts += batch * parts_b + head * parts_h + tl.load(starts + tile)
    count = tl.load(counts + tile)
    other_sizes += batch * other_b + head * other_h
    row_sizes += batch * row_b + head * row_h
    real_k = tokens < _size(row_sizes, block, BLOCK, ROW_RAGGED)
    k_tile = _signed(_load(k + at, tokens, real_k, dims, STRIDE, D, ROW_RAGGED), SCALE)
    v_tile = _load(v + at, tokens, real_k, dims, STRIDE, D, ROW_RAGGED)

    acc_k = tl.zeros([TILE, BLOCK_D], tl.float32)
    acc_v = tl.zeros([TILE, BLOCK_D], tl.float32)
    # A real query that lists a real key has a finite top; without one the walk could meet others.
    for step in range(count * STEPS):
        other, queries = _visit(parts, step, OTHER_BLOCK, OTHER_TILE)
        real_q = queries < _size(other_sizes, other, OTHER_BLOCK, OTHER_RAGGED)
        there = other.to(tl.int64) * OTHER_BLOCK
        q_tile = _load(q + there * STRIDE, queries, real_q, dims, STRIDE, D, OTHER_RAGGED)
        shift = _load_numbers(top_logit + there, queries, real_q, OTHER_RAGGED, float("inf"))
        total = tl.exp2(-_load_numbers(log_total + there, queries, real_q, OTHER_RAGGED, 0.0))
        scores = _dot(k_tile, tl.trans(q_tile))
        weights = _exp2(scores, shift[None, :], BINARY_SCALE) * total[None, :]
        d_out_tile = _load(d_out + there * STRIDE, queries, real_q, dims, STRIDE, D, OTHER_RAGGED)
        acc_v += _dot(weights.to(d_out_tile.dtype), d_out_tile)
        less = _load_numbers(delta + there, queries, real_q, OTHER_RAGGED, 0.0)
        d_logits = weights * (_dot(v_tile, tl.trans(d_out_tile)) - less[None, :])
        acc_k += _dot(d_logits.to(q_tile.dtype), q_tile)

    exists = (tokens < BLOCK) & (block * BLOCK + tokens < rows)
    _store(dk + at, tl.where(real_k[:, None], acc_k * SCALE, 0.0), tokens, exists, dims, STRIDE, D)
    _store(dv + at, tl.where(real_k[:, None], acc_v, 0.0), tokens, exists, dims, STRIDE, D)
