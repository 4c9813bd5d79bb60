"""Sections on speed and on whole models: costs, the demo, a CPU, parity, memory."""

from experiments.report.section import Pictures, Section
from experiments.report.tables import Table

COSTS = Section(
    key="costs",
    title="Costs",
    question="What does a head of each pattern cost relative to a dense one, on this device? A cost equal to the "
    "density would be ideal; times hold reordering and padding.",
    command="python -m experiments.measure_costs",
    tables=(
        Table(
            records="measure_costs",
            title="Cost of a REUSE step relative to dense",
            columns={
                "pattern": "pattern",
                "tokens": "tokens",
                "heads": "num_heads",
                "dtype": "dtype",
                "block": "block",
                "density": "density:.3f",
                "ms": "latency_ms:.2f",
                "cost": "cost_ratio:.3f",
            },
            group=(
                "setting",
                "tokens",
                "num_heads",
                "head_dim",
                "batch",
                "dtype",
                "implementation",
            ),
        ),
    ),
)

FUSION = Section(
    key="fusion",
    title="Head fusion",
    question="Is one launch for heads of several modes faster than one launch for each mode, or for each head?",
    command="python -m experiments.head_fusion",
    tables=(
        Table(
            records="head_fusion",
            title="Ways to run a mix of patterns",
            columns={
                "mix": "mix",
                "way": "way",
                "tokens": "tokens",
                "dtype": "dtype",
                "ms": "latency_ms:.2f",
                "over fused": "latency_over_fused_ratio:.2f",
                "differs by": "output_error:.0e",
            },
            group=("mix", "way", "tokens", "num_heads", "head_dim", "dtype", "implementation"),
        ),
    ),
)

DEMO = Section(
    key="demo",
    title="The demo",
    question="What do the methods cost and lose beside dense attention, on one clip? Density, recall and times are of "
    "a sparse step; PSNR and SSIM of the clip against the dense one.",
    command="make demo ARGS=--record",
    tables=(
        Table(
            records="demo",
            title="One clip, every method",
            columns={
                "method": "method",
                "density": "density:.3f",
                "recall": "recall:.3f",
                "PSNR, dB": "psnr_db:.1f",
                "SSIM": "ssim:.3f",
                "attention, ms": "attention_ms:.0f",
                "step, ms": "step_ms:.0f",
                "attention ×": "attention_speedup:.2f",
                "step ×": "step_speedup:.2f",
            },
            group=("method", "tokens", "dtype"),
        ),
    ),
    pictures=(
        Pictures(
            glob="checkpoints/*_samples.png",
            shows="Frames of generated clips: dense, STA and AdaSpa on the same noise.",
            drawn_from="the committed checkpoint",
        ),
    ),
)

BENCH = Section(
    key="cpu",
    title="Speed on a CPU",
    question="How close does sparse attention on a CPU come to its ideal, dense time × density? Speed-up over the "
    "faster of two dense implementations; of ideal: speed-up × density.",
    command="make bench",
    tables=(
        Table(
            records="bench_cpu",
            title="Latency of one call",
            columns={
                "tokens": "tokens",
                "dtype": "dtype",
                "direction": "direction",
                "what": "candidate",
                "density": "density:.3f",
                "ms": "latency_ms:.1f",
                "GFLOP/s": "rate_gflops:.0f",
                "speed-up": "speedup:.2f",
                "of ideal": "fraction_of_ideal:.2f",
            },
            group=("tokens", "dtype", "direction", "candidate"),
        ),
    ),
)

PARITY = Section(
    key="parity",
    title="Parity of the real models",
    question="Do the ported models compute what diffusers computes? Largest differences on recorded tiny models with "
    "every part of the real ones.",
    command="python -m experiments.parity",
    tables=(
        Table(
            records="parity",
            title="Largest differences",
            columns={
                "model": "model",
                "case": "case",
                "output": "output_error:.1e",
                "with the recorded time embedding": "recorded_time_error:.1e",
                "gradient": "gradient_error:.1e",
                "output in bfloat16": "bfloat16_error:.1e",
            },
            group=("model", "case"),
        ),
    ),
)

FULL_SIZE = Section(
    key="full-size",
    title="Full-size models",
    question="Do the published models fit on one H200? Memory of one denoising step as XLA plans it, compiled without "
    "a GPU and not run.",
    command="python -m experiments.full_size",
    tables=(
        Table(
            records="full_size",
            title="One denoising step in bfloat16",
            columns={
                "model": "model",
                "attention": "method",
                "clip": "clip",
                "tokens": "tokens",
                "density": "density:.3f",
                "weights and inputs, GB": "arguments_gb:.1f",
                "activations, GB": "temporaries_gb:.1f",
                "peak, GB": "peak_gb:.1f",
            },
            group=("model", "method"),
        ),
    ),
)

SCALING = Section(
    key="scaling",
    title="More than one device",
    question="What does a step at 720p take on several H200s? Compiled for eight without a GPU, exchanges counted in "
    "the program; times are predicted from rates that others published, not measured.",
    command="python -m experiments.scaling",
    tables=(
        Table(
            records="scaling",
            title="Eight H200s, weights in parts, for each device",
            columns={
                "model": "model",
                "attention": "method",
                "mesh": "mesh",
                "weights and inputs, GB": "arguments_gb:.1f",
                "peak, GB": "peak_gb:.1f",
                "exchanged, GB": "all_to_all_gb:.2f",
                "formula, GB": "exchange_formula_gb:.2f",
                "weights gathered, GB": "all_gather_gb:.1f",
            },
            group=("model", "method"),
            where={"part": "compiled"},
        ),
        Table(
            records="scaling",
            title="Decoding the clip, for each device; on one what it holds at a time, beside the video",
            columns={
                "model": "model",
                "clip": "clip",
                "GPUs": "devices",
                "VAE and latents, GB": "arguments_gb:.1f",
                "activations, GB": "temporaries_gb:.1f",
                "peak, GB": "peak_gb:.1f",
                "frames of neighbours, GB": "collective_permute_gb:.2f",
                "joining the video, GB": "all_gather_gb:.2f",
            },
            group=("model", "devices"),
            where={"part": "decoding"},
        ),
        Table(
            records="scaling",
            title="One step, predicted",
            columns={
                "model": "model",
                "attention": "method",
                "GPUs": "devices",
                "mesh": "mesh",
                "products, s": "predicted_matmul_s:.2f",
                "attention, s": "predicted_attention_s:.2f",
                "exchanges, s": "predicted_exchange_s:.2f",
                "step, s": "predicted_step_s:.2f",
                "times one GPU": "predicted_speedup:.1f",
            },
            group=("model", "method", "devices"),
            where={"part": "predicted"},
        ),
    ),
)
