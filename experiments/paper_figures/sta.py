"""STA (arXiv 2502.04507v3): sparsity of windows, its kernel, end-to-end and search tables."""

import functools
import math
from collections.abc import Iterator

import numpy as np

from experiments.paper_figures.figure import BY_HAND, Figure, Number, number
from pallas_kernels import BlockMask
from sparsevdit_jax import VideoGrid
from sparsevdit_jax.patterns import SlidingTile

TILE = (6, 8, 8)
HUNYUAN = VideoGrid(30, 48, 80)
CANVASES = {
    "Hunyuan": HUNYUAN,
    "Wan2.1 69 frames": VideoGrid(18, 48, 80),
    "StepVideo": VideoGrid(36, 48, 48),
}
HEADS, HEAD_DIM = 24, 128
PEAK_TFLOPS = 989.5  # an H100's dense bfloat16 rate, as the MFU column uses it

WINDOWS = (  # canvas, window in tiles, kept pairs of tiles, sparsity in % (three are in print)
    ("Hunyuan", (3, 3, 3), "8100", "91.00"),
    ("Hunyuan", (5, 3, 5), "22500", "75.00"),
    ("Hunyuan", (5, 5, 5), "37500", "58.33"),
    ("Hunyuan", (5, 3, 3), "13500", "85.00"),
    ("Hunyuan", (3, 3, 5), "13500", "85.00"),
    ("Hunyuan", (1, 6, 10), "18000", "80.00"),
    ("Hunyuan", (5, 1, 10), "15000", "83.33"),
    ("Hunyuan", (5, 6, 1), "9000", "90.00"),
    ("Hunyuan", (3, 5, 5), "22500", "75.00"),
    ("Hunyuan", (5, 5, 7), "52500", "41.67"),
    ("Hunyuan", (5, 1, 1), "1500", "98.33"),
    ("Hunyuan", (3, 6, 10), "54000", "40.00"),
    ("Wan2.1 69 frames", (3, 3, 3), None, "85.00"),
    ("Wan2.1 69 frames", (3, 1, 10), None, "83.33"),
    ("Wan2.1 69 frames", (1, 5, 7), None, "80.56"),
    ("Wan2.1 69 frames", (1, 6, 5), None, "83.33"),
    ("Wan2.1 69 frames", (1, 3, 10), None, "83.33"),
    ("Wan2.1 69 frames", (3, 6, 1), None, "90.00"),
    ("Wan2.1 69 frames", (3, 3, 5), None, "75.00"),
    ("StepVideo", (3, 3, 3), None, "87.50"),
)

BLOG_CANDIDATES = ((5, 3, 3), (3, 3, 5), (1, 6, 10), (5, 6, 1), (5, 1, 10))

RELEASED = {  # window -> entries of the strategy file that the authors released
    (5, 6, 10): 21600,
    (5, 3, 3): 20380,
    (1, 6, 10): 15916,
    (3, 3, 5): 7396,
    (5, 1, 10): 5244,
    (5, 6, 1): 1464,
}
LAYERS, STEPS = 60, 50


def kept(canvas: str, window: tuple[int, int, int]) -> np.ndarray:
    """The library's mask of a window, bool [tiles, tiles]."""
    return _kept(CANVASES[canvas], TILE, window)


@functools.lru_cache(maxsize=64)
def _kept(grid, tile, window):
    return SlidingTile(tile, window).keep_blocks(grid, 1)[0]


def window_sparsity(canvas: str, window: tuple[int, int, int]) -> Number:
    """Sparsity of a window, counted, in %."""
    return number(100 * (1 - kept(canvas, window).mean()))


def natten_sparsity(window: tuple[int, int, int]) -> Number:
    """Sparsity of a window of tokens on Hunyuan's canvas, in %: 1 - kept / all."""
    return number(100 * (1 - math.prod(window) / HUNYUAN.num_video_tokens))


def tflops(sparsity: Number) -> Number:
    """The kernel table's TFLOPs of a sparsity in %: (4 D + 3) N^2 H (1 - s).

    4 D are the two products; the paper's 164.03 needs 3 more for each pair.
    """
    full = (4 * HEAD_DIM + 3) * HUNYUAN.num_video_tokens**2 * HEADS / 1e12
    return (Number(100.0) - sparsity) * (full / 100)


def run_pflops(sparsity: Number) -> Number:
    """The end-to-end table's PFLOPs of a sparsity in %: a line fitted to that very column.

    Its slope is 6 % above the 492.1 of 50 steps x 60 layers of the kernel table's 164.03 TFLOPs.
    """
    return number("52.60") + number("521.56") * ((Number(100.0) - sparsity) / 100)


def natten_blocks(length: int, window: int, tile: int) -> tuple[float, float]:
    """Dense and mixed blocks of tiled NATTEN on a cubic video, in % (Theorem 3.1, no borders)."""
    dense = max(2 * ((window + 1) // (2 * tile)) - 1, 0) ** 3
    touched = (2 * math.ceil((window - 1) / (2 * tile)) + 1) ** 3
    return tuple(100 * n / (length / tile) ** 3 for n in (dense, touched - dense))


def rows() -> Iterator[Figure]:
    """All of STA's figures."""
    yield from _windows()
    yield from _kernel()
    yield from _end_to_end()
    yield from _strategy()


def _windows():
    group, tables = "sparsity of STA's windows, %", "kernel, end-to-end tables"
    for canvas, window, _, sparsity in WINDOWS[:3]:
        ours = window_sparsity(canvas, window)
        yield _figure(group, f"{canvas} {window}", ours, sparsity, tables)
    for canvas, window, _, sparsity in WINDOWS[3:]:
        ours = window_sparsity(canvas, window)
        yield _figure(group, f"{canvas} {window}", ours, sparsity, BY_HAND)
    for canvas, window, pairs, _ in WINDOWS:
        if pairs:
            count = int(kept(canvas, window).sum())
            yield _figure("kept pairs of tiles", f"{canvas} {window}", count, pairs, BY_HAND)
    for window in BLOG_CANDIDATES:
        ours = window_sparsity("Hunyuan", window)
        yield _figure("sparsity of search candidates, %", str(window), ours, "80..90", "blog")
    tokens = {"Hunyuan": "115200", "Wan2.1 69 frames": "69120", "StepVideo": "82944"}
    for canvas, count in tokens.items():
        yield _figure("tokens", canvas, CANVASES[canvas].num_tokens, count, "settings")
    joint = VideoGrid(*HUNYUAN.shape, text_len=256).num_tokens
    yield _figure("tokens", "Hunyuan with text", joint, "115456", "authors' code")
    mask = BlockMask.from_dense(kept("Hunyuan", (3, 3, 3)), block_q=384, block_kv=384)
    reads, read_by = (np.asarray(m.kv_counts) for m in (mask, mask.transpose()))
    group = "readers of a tile, Hunyuan (3, 3, 3)"
    yield _figure(group, "each query reads, least", int(reads.min()), "27", BY_HAND)
    yield _figure(group, "each query reads, most", int(reads.max()), "27", BY_HAND)
    yield _figure(group, "a key at a corner is read by", int(read_by.min()), "8", BY_HAND)
    yield _figure(group, "a key inside is read by, at most", int(read_by.max()), "80", BY_HAND)
    group = "sparsity of NATTEN's windows, %"
    for window, sparsity, where, note in (
        ((19, 25, 25), "89.69", "kernel table", ""),
        ((30, 41, 41), "56.22", "Table 7", ""),
        ((30, 41, 41), "58.33", "end-to-end table", "58.33 is STA (30, 40, 40); Table 7 has 56.22"),
        ((29, 41, 41), "57.68", "kernel table, appendix", ""),
    ):
        yield _figure(group, str(window), natten_sparsity(window), sparsity, where, note)
    group = "blocks, tile 4^3 in video 48^3, %"
    dense, mixed = natten_blocks(48, 11, 4)
    yield _figure(group, "tiled NATTEN, window 11: dense", dense, "0.06", "Table 1")
    yield _figure(group, "tiled NATTEN, window 11: mixed", mixed, "7.17", "Table 1")
    for tokens, printed in ((12, "1.56"), (20, "7.23")):
        share = 100 * _kept(VideoGrid(48, 48, 48), (4, 4, 4), (tokens // 4,) * 3).mean()
        yield _figure(group, f"STA, window {tokens}: dense", share, printed, "Table 1")


def _kernel():
    tokens_of = {(3, 3, 3): "(18, 24, 24)", (5, 5, 5): "(30, 40, 40)"}
    small, large = (window_sparsity("Hunyuan", w) for w in tokens_of)
    natten, full = natten_sparsity((19, 25, 25)), Number(0.0)
    table, appendix = "kernel table", "kernel table, appendix"
    base = "265.28"
    for name, sparsity, work, ms, mfu, speedup, where in (
        ("FA3, ThunderKittens", full, "164.03", base, "62.49", "1.00", table),
        ("FA3, CUDA", full, "164.03", "256.59", "64.61", "1.03", table),
        ("CLEAR r=16", number("90.46"), "15.65", "307.44", "5.15", "0.86", table),
        ("NATTEN (19, 25, 25)", natten, "16.91", "313.92", "5.44", "0.85", table),
        ("tiled NATTEN, CUDA", natten, "16.91", "458.36", "3.73", "0.58", table),
        ("tiled NATTEN, Flex", natten, "16.91", "208.36", "8.20", "1.27", table),
        ("Swin (24, 32, 32)", number("87.42"), "20.64", "47.90", "43.55", "5.54", table),
        ("STA (18, 24, 24), Flex", small, "14.76", "36.36", "41.03", "7.30", table),
        ("STA (30, 40, 40)", large, "68.35", "111.73", "61.82", "2.37", table),
        ("STA (18, 24, 24)", small, "14.76", "25.38", "58.79", "10.45", table),
        ("CLEAR r=32", number("56.23"), "71.80", "675.05", None, "0.39", appendix),
        ("NATTEN (30, 41, 41)", None, None, "804.62", None, "0.33", appendix),
        ("tiled NATTEN, Flex", None, None, "409.89", None, "0.65", appendix),
        ("Swin (48, 64, 64)", number("55.81"), None, "127.51", "57.46", "2.08", appendix),
        ("STA (30, 40, 40), Flex", large, None, "174.17", "39.66", "1.52", appendix),
    ):  # fmt: skip
        if work:
            yield _figure("kernel, TFLOPs", name, tflops(sparsity), work, where)
        if mfu:
            rate = tflops(sparsity) / ms * (1e5 / PEAK_TFLOPS)
            yield _figure("kernel, MFU in %", name, rate, mfu, where)
        yield _figure("kernel, speed-up over FA3", name, number(base) / ms, speedup, where)
    for name, mfu, efficiency in (
        ("(30, 40, 40)", "61.82", "98.93"),
        ("(18, 24, 24)", "58.79", "94.09"),
    ):
        ratio = number(mfu) / "62.49" * 100
        yield _figure("kernel, efficiency in %", f"STA {name}", ratio, efficiency, table)
    group, name = "tiled NATTEN, CUDA, (29, 41, 41)", "ms that MFU 4.04 % takes"
    work, note = (
        tflops(natten_sparsity((29, 41, 41))),
        "a digit is lost: 1735.7 ms fits its MFU and its speed-up",
    )
    yield _figure(group, name, work / "4.04" * (1e5 / PEAK_TFLOPS), "173.57", appendix, note)
    yield _figure(
        group, "MFU at 1735.7 ms, %", work / "1735.7" * (1e5 / PEAK_TFLOPS), "4.04", appendix
    )
    yield _figure(group, "speed-up at 1735.7 ms", number(base) / "1735.7", "0.15", appendix)


def _end_to_end():
    base = "945"
    trained = "76.49 % and 175.20 untrained, at the same window and latency"
    natten = "follows from 58.33 % in the row, which is STA's; 56.22 % gives 280.92"
    table = "end-to-end table"
    sta = {w: window_sparsity("Hunyuan", w) for w in ((3, 3, 3), (5, 3, 5), (5, 5, 5))}
    full, cut = Number(0.0), natten_sparsity((30, 41, 41))
    for name, sparsity, pflops, seconds, speedup, note in (
        ("FA2", full, "574.16", "1496", "0.63", ""),
        ("FA3", full, "574.16", base, "1.00", ""),
        ("CLEAR r=32", number("56.23"), "280.90", "2567", "0.37", ""),
        ("tiled NATTEN (30, 41, 41)", cut, "269.92", "1858", "0.51", natten),
        ("Swin (48, 64, 64)", number("55.81"), "283.11", "762", "1.24", ""),
        ("Swin (30, 40, 40)", number("76.49"), "175.20", "497", "1.90", ""),
        ("STA (30, 40, 40)", sta[5, 5, 5], "269.92", "527", "1.79", ""),
        ("STA (18, 24, 24)", sta[3, 3, 3], "99.54", "268", "3.53", ""),
        ("Swin (30, 40, 40), trained", number("76.49"), "283.08", "497", "1.90", trained),
        ("STA (30, 24, 40), trained", sta[5, 3, 5], "182.99", "388", "2.44", ""),
    ):
        yield _figure(
            "end to end, PFLOPs (fitted line)", name, run_pflops(sparsity), pflops, table, note
        )
        yield _figure("end to end, speed-up", name, number(base) / seconds, speedup, table)
    yield _figure(
        "end to end, sparsity in %",
        "Swin (30, 40, 40), trained",
        number("76.49"),
        "55.81",
        table,
        trained,
    )
    for name, seconds, speedup in (("STA, searched", "501", "1.89"), ("Delta-DiT", "693", "1.36")):
        yield _figure("end to end, speed-up", name, number(base) / seconds, speedup, "search table")


def _strategy():
    group, file = "released strategy, 50 steps", "released file"
    total, per_step = sum(RELEASED.values()), LAYERS * HEADS
    full = RELEASED[5, 6, 10]
    dropped = sum(n * window_sparsity("Hunyuan", w).value for w, n in RELEASED.items())
    yield _figure(group, "entries: steps x layers x heads", STEPS * per_step, str(total), file)
    yield _figure(group, "sparsity of the run, %", dropped / total, "58.375", file)
    yield _figure(
        group, "sparsity of sparse steps, %", dropped / (total - full), "83.2..83.5", file
    )
    yield _figure(group, "full entries, %", 100 * full / total, "30.0", file)
    note = "the paper says 12 of 50; the file that the authors released has 15"
    yield _figure(group, "leading full steps", full // per_step, "12", "text", note)


def _figure(group, name, computed, printed, where, note=""):
    return Figure("sta", group, name, computed, printed, where, note)
