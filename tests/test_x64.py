"""Everything runs under JAX_ENABLE_X64, and nothing becomes 64 bits wide; float64 itself is refused.

Nearly all of it is traced and not run: dtypes are known then.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import Attention, LayerAttention
from models import schedulers as solvers
from models.pipelines import Denoiser, Tiny
from models.tiny import TinyConfig, TinyVideoDiT
from pallas_kernels import (
    BlockMask,
    _triton_call,
    block_mass,
    block_sparse_attention,
    dense_attention,
)
from sparsevdit_jax import (
    KernelOptions,
    Phase,
    SparseAttention,
    StepContext,
    StepSchedule,
    TokenOrder,
    VideoGrid,
    metrics,
    sparse_attention,
)
from sparsevdit_jax.distill import Prediction, distillation_loss
from sparsevdit_jax.patterns import (
    LVSA,
    SSTA,
    SVG,
    AdaSpa,
    Compensated,
    CubeSparse,
    Dense,
    Diagonal,
    Jenga,
    LiteAttention,
    Monarch,
    MultiDiagonal,
    PerHead,
    Rettention,
    Skip,
    SkipSoftmax,
    SlidingTile,
    SolAttn,
    SpargeAttn,
    Table,
    VerticalStripe,
)  # fmt: skip
from sparsevdit_jax.search.probe import Probe
from sparsevdit_jax.search.rules import SparseVditRule
from tests import mosaic, triton_interpreter
from tests.attending import attended, jitted
from tests.models.transformers import FAMILIES, TEXT, abstract, f32

GRID = VideoGrid(3, 4, 4, 5)
BANDS = Diagonal(0.4, 8), MultiDiagonal(0.4, 8)
PATTERNS = {
    "dense": Dense(),
    "tiles": SlidingTile((2, 2, 2), (1, 1, 1)),
    "diagonal": BANDS[0],
    "multi_diagonal": BANDS[1],
    "stripes": VerticalStripe(0.6, 8),
    "skip": Skip(),
    "adaspa": AdaSpa(0.4, 8),
    "adaspa_without_cache": AdaSpa(0.4, 8, text_in_budget=True, lse_cache=False),
    "jenga": Jenga((0.2, 0.4), 0.2, 8),
    "keyframe": CubeSparse(0.4, (2, 2, 2), keyframe=1),
    "per_head": PerHead(((BANDS[0], (0,)), (BANDS[1], (1,)))),
    "mixture": PerHead(((AdaSpa(0.4, 8), (0,)), (Dense(), (1,)))),
    "table": Table((*BANDS, Skip(), Dense()), ((0, 1), (2, 3))),
    "compensated": Compensated(PerHead(((AdaSpa(0.4, 8), (0,)), (BANDS[0], (1,))))),
    "sol_attn": SolAttn(block=8, sink_tokens=3),
    "skip_softmax": SkipSoftmax(0.3, 8, 8),
    "ssta": SSTA((1, 2, 2), (1, 1, 1), 2),
    "sparge": SpargeAttn(block_q=8, block_kv=4),
    "lite_attention": LiteAttention(-1.0, 8, 8),
    "lvsa": LVSA(1, interval=2, block=8),
    "svg": SVG(dialect="hunyuanvideo", block=8, unit=8),
    "monarch": Monarch(2),
    "rettention": Rettention(0.3, block=8),
    "probe": Probe((Dense(), BANDS[0]), SparseVditRule((1.0, 0.4))),
}
KINDS = [
    ("float32", "xla"),
    ("bfloat16", "reference"),
    ("float16", "xla"),
    ("float32", "reference"),
]


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def assert_narrow(tree):
    wide = [str(x.dtype) for x in jax.tree.leaves(tree) if np.dtype(x.dtype).itemsize == 8]
    assert not [name for name in wide if not name.startswith("key")]


def qkv(dtype="float32", count=3):
    shape = (count, 1, GRID.num_tokens, 2, 8)
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_and_their_gradients(name):
    pattern = PATTERNS[name]
    for phase, (dtype, implementation) in zip(Phase, KINDS, strict=True):

        def attend(x, state, text_lengths, phase=phase, implementation=implementation):
            step = jnp.asarray(1)  # int64 here
            ctx = StepContext(GRID, phase, step, text_lengths, KernelOptions(implementation))
            out, _, state = attended(pattern, *x, state, ctx)
            return out.astype(np.float32).sum(), (out, state)

        state = pattern.init(GRID, batch=1, num_heads=2, head_dim=8)
        lengths = jax.ShapeDtypeStruct((1,), np.int64)
        run = jax.value_and_grad(attend, has_aux=True)
        (_, (out, new)), grad = found = jax.eval_shape(run, qkv(dtype), state, lengths)
        assert_narrow(found)
        assert out.dtype == grad.dtype == dtype
        assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
            lambda x: (x.shape, x.dtype), state
        )


def test_the_numbers_are_those_without():
    # A search is exact attention, masses and top-k, and holds the sparse attention of a later one.
    pattern, x = PATTERNS["adaspa"], np.asarray(qkv())

    def run():
        state = pattern.init(GRID, batch=1, num_heads=2, head_dim=8)
        attend = jitted(pattern)
        return attend(*map(jnp.asarray, x), state, StepContext(GRID, Phase.FIRST_SEARCH))

    wide = run()
    with jax.enable_x64(False):
        jax.tree.map(np.testing.assert_array_equal, wide, run())


MASK = BlockMask.full(
    2, 2, block_q=128, block_kv=128, q_lengths=np.full((1, 1, 2), 40, np.int32),
    kv_lengths=np.full((1, 1, 2), 40, np.int32),
)  # fmt: skip


@mosaic.needs_interpreter
@pytest.mark.parametrize("traced", [False, True])
def test_mosaic_kernels_lower(traced):
    kernel = importlib.import_module("pallas_kernels.block_sparse_attention.mosaic_gpu")
    q = f32(1, 256, 2, 64, dtype="bfloat16")

    def grad(q, mask):
        def loss(q):
            return kernel.attention(q, q, q, mask, scale=0.1)[0].astype(np.float32).sum()

        return jax.grad(loss)(q)

    if traced:
        text = mosaic.lower_for_cuda(grad, q, jax.tree.map(jnp.asarray, MASK))
    else:
        text = mosaic.lower_for_cuda(lambda q: grad(q, MASK), q)
    assert "block_sparse_attention_dkv" in text


@mosaic.needs_interpreter
def test_the_mosaic_kernel_of_block_mass_lowers():
    kernel = importlib.import_module("pallas_kernels.block_mass.mosaic_gpu")
    q, lengths = f32(1, 256, 2, 64, dtype="bfloat16"), np.full((1, 1, 4), 40, np.int32)
    config = kernel.configure(64, 64, 64, q.dtype)
    text = mosaic.lower_for_cuda(
        lambda q, lse: kernel.mass(q, q, lse, config, 64, 64, 0.1, lengths, lengths),
        q,
        f32(1, 2, 256),
    )
    assert "block_mass" in text


def test_triton_kernels_and_block_mass_trace():
    q = f32(1, 256, 2, 16)

    def run(q):
        out, lse = block_sparse_attention(q, q, q, MASK, implementation="triton")
        return (out.sum() + lse.sum()), dense_attention(q, q, q, implementation="triton")

    with _triton_call.use(triton_interpreter.launch):
        assert_narrow(jax.eval_shape(jax.value_and_grad(run, has_aux=True), q))
    for name in ("xla", "reference"):

        def mass(q, lse, name=name):
            return block_mass(q, q, lse, block_q=64, block_kv=32, implementation=name)

        assert jax.eval_shape(mass, q, f32(1, 2, 256)).dtype == np.float32


def test_metrics_distillation_and_the_layer():
    def measured(q):
        ctx = StepContext(GRID)
        maps = metrics.attention_map(q, q, ctx, order=TokenOrder(GRID, 8))
        return metrics.measure(q, q, q, (), ctx, pattern=BANDS[0]), maps

    def loss(a):
        both = Prediction(a, (a,))
        return distillation_loss(both, both, a, grid=VideoGrid(3, 4, 4))

    attention = nnx.eval_shape(lambda: Attention(16, 2, rngs=nnx.Rngs(0)))
    layer = LayerAttention(BANDS[0], (), StepContext(GRID))
    call = jax.eval_shape(lambda attend, x: attend(x, layer), attention, f32(1, 53, 16))
    frames = jax.eval_shape(lambda a: (metrics.psnr(a, a), metrics.ssim(a, a)), f32(2, 12, 12, 3))
    densities = [metrics.density(PATTERNS[n], GRID, num_heads=2) for n in ("adaspa", "table")]
    q = f32(1, GRID.num_tokens, 2, 8)
    assert_narrow((jax.eval_shape(measured, q), call, frames, densities, attention))
    assert_narrow(jax.eval_shape(jax.value_and_grad(loss, has_aux=True), f32(1, 48, 2, 8)))


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers(family):
    model, inputs, shape = abstract(family)
    grid = model.grid(shape, TEXT)
    attention = SparseAttention.uniform(AdaSpa(0.3, 16), model.num_attention_layers)

    def run(model, states, inputs):
        ctx = StepContext(grid, Phase.FIRST_SEARCH)
        return model(**inputs, attention=attention, states=states, ctx=ctx), model(**inputs)

    states = jax.eval_shape(lambda: attention.init(grid, batch=2, num_heads=2, head_dim=16))
    assert_narrow((model, jax.eval_shape(run, model, states, inputs)))


def test_a_step_of_the_tiny_model():
    config = TinyConfig(dim=32, num_layers=1, num_heads=2, condition_tokens=3)
    model = nnx.eval_shape(lambda: TinyVideoDiT(config, rngs=nnx.Rngs(0)))
    shape = (1, 4, 8, 8, 1)
    attention = SparseAttention.uniform(BANDS[0], 1, StepSchedule(4, 1))
    loop = Denoiser(Tiny(config, 3.0), shape, num_steps=4, attention=attention)
    conditions = loop.family.conditions([1], 2.0)
    step, arguments = loop.program(model, conditions, Phase.REUSE)
    assert_narrow((model, jax.eval_shape(step, *arguments)))


FLOW = solvers.UniPCMultistepConfig(use_flow_sigmas=True, prediction_type="flow_prediction")
V = solvers.CogVideoXSchedulerConfig(prediction_type="v_prediction")


@pytest.mark.parametrize(
    "scheduler",
    [
        solvers.CleanEulerScheduler(),
        solvers.FlowMatchEulerDiscreteScheduler(solvers.FlowMatchEulerDiscreteConfig()),
        solvers.UniPCMultistepScheduler(FLOW),
        solvers.CogVideoXDDIMScheduler(V),
        solvers.CogVideoXDPMScheduler(V),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_scheduler_steps(scheduler):
    tables = scheduler.set_timesteps(4)
    key = jax.random.key(0) if scheduler.draws_noise else None

    def loop(x):
        def step(carry, i):
            return scheduler.step(carry[0], i, *carry, tables, key), None

        (x, state), _ = jax.lax.scan(step, (x, scheduler.init(x)), jnp.arange(4))
        return x, state, scheduler.scale_noise(x, x, 1, tables)

    assert_narrow(jax.eval_shape(loop, f32(1, 4, 2, 2)))


@pytest.mark.parametrize("pattern", [Dense(), Skip(), BANDS[0], PATTERNS["per_head"]])
def test_float64_is_refused(pattern):
    x = jnp.zeros((3, 1, GRID.num_tokens, 2, 8))
    assert x.dtype == np.float64
    with pytest.raises(ValueError, match="q has dtype float64; cast it to one of float32"):
        sparse_attention(*x, grid=GRID, pattern=pattern)
    with pytest.raises(ValueError, match="q has dtype float64; cast it to one of float32"):
        dense_attention(*x)
