"""Writes the tables of README.md and of the pages that it links, from committed records; no number in them is typed.

python -m experiments.readme_tables            # rewrite
python -m experiments.readme_tables --check    # fail if a page is out of date
"""

import dataclasses
import functools
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import command, record
from experiments.demo.rounds import READING, spread_of, word_for
from experiments.gpu_check import roofline
from experiments.kernel_resources import facts
from experiments.methods import page as methods
from experiments.provenance import machine, newest, provenance
from experiments.quality.statistics import on_common_clips, points_of
from sparsevdit_jax.presets import METHODS

README = record.ROOT / "README.md"
DEMO = record.ROOT / "experiments" / "demo" / "README.md"
QUALITY = record.ROOT / "experiments" / "quality" / "README.md"
SCALING = record.ROOT / "experiments" / "scaling" / "README.md"
MODELS = record.ROOT / "models" / "README.md"
KERNELS = record.ROOT / "pallas_kernels" / "README.md"
CPU_SPEED = record.ROOT / "pallas_kernels" / "CPU_SPEED.md"
HOPPER = record.ROOT / "pallas_kernels" / "HOPPER.md"
PATTERNS = record.ROOT / "sparsevdit_jax" / "patterns" / "README.md"

DEMO_COLUMNS = {
    "method": "{measured[method]}",
    "density": "{measured[density]:.3f}",
    "recall": "{measured[recall]:.3f}",
    "PSNR, dB": "{measured[psnr_db]:.1f}",
    "SSIM": "{measured[ssim]:.3f}",
    "attention ×": "{measured[attention]}",
    "step ×": "{measured[step]}",
    "run ×": "{measured[run]}",
}

BENCH_COLUMNS = {
    "tokens": "{measured[tokens]:,}",
    "dtype": "{measured[dtype]}",
    "direction": "{measured[direction]}",
    "what": "{measured[candidate]}",
    "density": "{measured[density]:.3f}",
    "ms": "{measured[latency_ms]:.1f}",
    "GFLOP/s": "{measured[rate_gflops]:.0f}",
    "speed-up": "{measured[speedup]:.2f}",
    "of ideal": "{measured[fraction_of_ideal]:.2f}",
}

FULL_SIZE_COLUMNS = {
    "model": "{measured[model]}",
    "parameters": "{measured[parameters]:,}",
    "tensors": "{measured[tensors]:,}",
    "clip": "{measured[clip]}",
    "tokens": "{measured[tokens]:,}",
    "attention": "{measured[method]}",
    "density": "{measured[density]:.3f}",
    "weights and inputs, GB": "{measured[arguments_gb]:.1f}",
    "activations, GB": "{measured[temporaries_gb]:.1f}",
    "peak, GB": "{measured[peak_gb]:.1f}",
}


SCALING_COLUMNS = {
    "model": "{measured[model]}",
    "attention": "{measured[method]}",
    "mesh": "{measured[mesh]}",
    "weights and inputs, GB": "{measured[arguments_gb]:.1f}",
    "activations, GB": "{measured[temporaries_gb]:.1f}",
    "peak, GB": "{measured[peak_gb]:.1f}",
    "exchanged, GB": "{measured[all_to_all_gb]:.2f}",
    "formula, GB": "{measured[exchange_formula_gb]:.2f}",
    "weights gathered, GB": "{measured[all_gather_gb]:.1f}",
}

DECODING_COLUMNS = {
    "model": "{measured[model]}",
    "clip": "{measured[clip]}",
    "GPUs": "{measured[devices]}",
    "VAE and latents, GB": "{measured[arguments_gb]:.1f}",
    "activations, GB": "{measured[temporaries_gb]:.1f}",
    "peak, GB": "{measured[peak_gb]:.1f}",
    "frames of neighbours, GB": "{measured[collective_permute_gb]:.2f}",
    "joining the video, GB": "{measured[all_gather_gb]:.2f}",
}

PREDICTION_COLUMNS = {
    "model": "{measured[model]}",
    "attention": "{measured[method]}",
    "GPUs": "{measured[devices]}",
    "mesh": "{measured[mesh]}",
    "products, s": "{measured[predicted_matmul_s]:.2f}",
    "attention, s": "{measured[predicted_attention_s]:.2f}",
    "exchanges, s": "{measured[predicted_exchange_s]:.2f}",
    "step, s": "{measured[predicted_step_s]:.2f}",
    "times one GPU": "{measured[predicted_speedup]:.1f}",
}

PARITY_ERRORS = {
    "output_error": "output",
    "recorded_time_error": "with the recorded time embedding",
    "gradient_error": "gradient",
    "bfloat16_error": "output in bfloat16",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      check: compare only, and exit with 1 where a page is out of date.
    """

    check: bool = False


def last_demo(folder: Path = record.RESULTS) -> list[dict[str, Any]]:
    """The record of each method in the newest run of the demo."""
    rows = record.read("demo", folder=folder)
    return newest([row for row in rows if row["git_sha"] == rows[-1]["git_sha"]], ("method",))


def status(folder: Path = record.RESULTS) -> str:
    """What is verified, and how: the first lines of README.md."""
    timed = sorted({row["environment"]["device"] for file in folder.glob("*/gpu_check.jsonl")
                    for row in record.read("gpu_check", folder=file.parent)})  # fmt: skip
    speed = f"timed on {', '.join(timed)}" if timed else "**not yet timed on a GPU**"
    return _wrapped(
        "**Status.** The library runs on CPUs and is tested there, against float64 and against numbers of other "
        "projects. The GPU kernels run in JAX's GPU interpreter and compile to Hopper machine code; they are "
        f"{speed}. The models give diffusers' numbers on tiny random weights; **no published checkpoint has been run**."
    )


def closeness(folder: Path = record.RESULTS) -> str:
    """What the newest demo says of each sparse method, in one sentence."""
    rows = [row["measured"] for row in last_demo(folder)]
    methods = [
        f"{row['method']} {row['psnr_db']:.1f} dB, {row['density']:.2f}"
        for row in rows
        if "psnr_db" in row
    ]
    return _wrapped(
        "In the newest recorded demo the clips came this close to the dense one from the same noise (PSNR, density of "
        f"a sparse step): {'; '.join(methods)}."
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, break_on_hyphens=False)


def demo_table(folder: Path = record.RESULTS) -> str:
    """The demo's comparison."""
    last = last_demo(folder)
    words = set()
    for row in last:
        measured = row["measured"]
        if "psnr_db" not in measured:  # dense against itself
            measured["psnr_db"] = float("inf")
        for part in ("attention", "step", "run"):
            measured[part], word = speedup_text(measured, part)
            words |= {word} - {None}
    settings, dense = last[0]["config"], last[0]["measured"]
    table = record.markdown_table(last, DEMO_COLUMNS).replace("| inf |", "| – |")
    read = "".join(f" {word}: {READING[word]}." for word in READING if word in words)
    timed = ""
    if "rounds" in dense:
        timed = (
            f" Speed-ups over dense: medians of {dense['rounds']} rounds, each method beside a dense step, with the "
            f"smallest and largest; a dense step takes {dense['step_ms']:.0f} ms, its attention "
            f"{dense['attention_ms']:.0f}."
        )
    return (
        f"{table}\n\nDigit {settings['digit']}, seed {settings['seed']}, {settings['steps']} steps, "
        f"{dense['tokens']:,} tokens, {dense['dtype']}; density and recall of a sparse step; PSNR and SSIM against the "
        f"dense clip.{timed}{read} {provenance(last)}."
    )


def speedup_text(measured: dict[str, Any], part: str) -> tuple[str, str | None]:
    """(speed-up with its range, or a word, or a dash; the word): a record without a range allows no number."""
    names = {
        "median": f"{part}_speedup",
        "low": f"{part}_low_speedup",
        "high": f"{part}_high_speedup",
    }
    spread = spread_of({part: {end: measured.get(name) for end, name in names.items()}}, part)
    if spread is None:
        return "–", None
    if word := word_for(spread, speedup=True):
        return word, word
    return f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})", None


def bench_table(folder: Path = record.RESULTS) -> str:
    """Sparse attention beside the best dense one, on every CPU and commit that has records."""
    keys = ("tokens", "dtype", "direction", "candidate")
    machines: dict[str, list[dict[str, Any]]] = {}
    for row in record.read("bench_cpu", folder=folder):
        machines.setdefault(row["environment"]["processor"], []).append(row)
    tables = []
    for rows in machines.values():
        runs: dict[str, list[dict[str, Any]]] = {}
        for row in newest(rows, keys):
            runs.setdefault(machine(row), []).append(row)
        for run in runs.values():
            tables.append(f"{record.markdown_table(run, BENCH_COLUMNS)}\n\n{provenance(run)}.")
    settings = rows[-1]["config"]
    return "\n\n".join(tables) + (
        f"\n\n{settings['heads']} heads of {settings['head_dim']}, blocks of {settings['block']}; medians of "
        f"{settings['repeats']} runs in turns. Speed-up over the faster of our chunked dense attention "
        "(dense_chunked) and jax.nn.dot_product_attention (dense_jax_nn, where it fits in memory); of ideal: "
        "speed-up × density. STA's time holds reordering and mask building, AdaSpa's the search of a searching "
        "step."
    )


def full_size_table(folder: Path = record.RESULTS) -> str:
    """What one denoising step of the full-size models takes of an H200."""
    rows = newest(record.read("full_size", folder=folder), ("model", "method"))
    table = record.markdown_table(rows, FULL_SIZE_COLUMNS)
    made = provenance(rows)
    return (
        f"{table}\n\nbfloat16 weights and activations, one clip; guided models run the prompt's and the negative "
        "prompt's row in one call. Memory as XLA plans it for one H200 (141 GB), compiled on a machine without a "
        f"GPU; the VAE and the text encoder are not in it. {made}."
    )


def parity_table(folder: Path = record.RESULTS) -> str:
    """Largest differences from diffusers on the recorded tiny models."""
    rows = newest(record.read("parity", folder=folder), ("model", "case"))
    for row in rows:
        for column in PARITY_ERRORS:
            error = row["measured"].get(column)
            row["measured"][column] = "–" if error is None else f"{error:.1e}"
    columns = {"model": "{measured[model]}", "case": "{measured[case]}"}
    columns |= {title: f"{{measured[{key}]}}" for key, title in PARITY_ERRORS.items()}
    made = provenance(rows)
    return f"{record.markdown_table(rows, columns)}\n\n{made}."


def quality_table(folder: Path = record.RESULTS) -> str:
    """Closeness to dense of every setting of the sweep."""
    rows = record.read("quality", folder=folder)
    lines = []
    points = on_common_clips(points_of(rows))
    for point in sorted(points, key=lambda p: (p.family, p.density)):
        values = {}
        for metric, digits in (("psnr_db", 1), ("ssim", 3), ("lpips", 3)):
            if point.values[metric]:
                found = point.interval(metric)
                values[metric] = f"{found.mean:.{digits}f} ± {found.half:.{digits}f}"
        lines.append(
            {
                "measured": dict(
                    family=point.family, label=point.label, density=point.density, **values
                )
            }
        )
    columns = {
        "method": "{measured[family]}",
        "setting": "{measured[label]}",
        "density": "{measured[density]:.3f}",
        "PSNR, dB": "{measured[psnr_db]}",
        "SSIM": "{measured[ssim]}",
        "LPIPS": "{measured[lpips]}",
    }
    clips = max(len(point.values["psnr_db"]) for point in points)
    settings = rows[-1]["config"]
    made, table = provenance(rows), record.markdown_table(lines, columns)
    return (
        f"{table}\n\nMeans over the {clips} clips that all settings have, and 95 % intervals (Student's t); "
        f"{settings['steps']} steps, the first fifth dense; density of the other steps. {made}."
    )


def scaling_table(folder: Path = record.RESULTS) -> str:
    """A step on several H200s: planned memory and counted exchanges, then predicted times."""
    keys = ("model", "method", "devices")
    rows = record.read("scaling", folder=folder)
    rows.sort(key=lambda row: [row["measured"].get(key, "") for key in keys])

    def part(name: str, *by: str) -> list[dict[str, Any]]:
        return newest([r for r in rows if r["measured"]["part"] == name], by)

    compiled, predicted = (part(name, *keys) for name in ("compiled", "predicted"))
    decoding = part("decoding", "model", "devices")
    made = provenance(rows)
    return (
        f"{record.markdown_table(compiled, SCALING_COLUMNS)}\n\nOf each device, as XLA plans it, weights in parts, "
        "compiled on a machine without a GPU; exchanges counted in the compiled program. Decoding the clip, on one GPU "
        f"what it holds at a time, beside the video:\n\n{record.markdown_table(decoding, DECODING_COLUMNS)}\n\nSteps, "
        f"predicted, not measured:\n\n{record.markdown_table(predicted, PREDICTION_COLUMNS)}\n\nComputing and "
        "exchanging one after the other, at rates that others published for a Hopper chip and 80 % of NVLink's and of "
        f"a 400 Gb/s network's bandwidth (`experiments/scaling/prediction.py`). {made}."
    )


TABLES: dict[Path, dict[str, Callable[[], str]]] = {
    README: {"status": status, "closeness": closeness},
    DEMO: {"demo": demo_table},
    QUALITY: {"quality": quality_table},
    SCALING: {"scaling": scaling_table},
    MODELS: {"parity": parity_table, "full-size": full_size_table},
    KERNELS: {"roofline": roofline.readme_block},
    CPU_SPEED: {"bench": bench_table},
    HOPPER: {"loops": facts.loops_table, "resources": facts.resources_table},
    PATTERNS: {"methods": methods.index},
    **{
        methods.PAGES / f"{name}.md": {"page": functools.partial(methods.page, method)}
        for name, method in METHODS.items()
    },
}
"""Page -> its blocks, each between <!-- name --> and <!-- /name -->."""


def filled(text: str, page: Path) -> str:
    """`text` of a page with every block between <!-- name --> and <!-- /name --> made anew."""
    for name, make in TABLES[page].items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not block.search(text):
            raise ValueError(f"{page} has no <!-- {name} --> ... <!-- /{name} --> block; add it")
        table = make()
        text = block.sub(lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text)
    return text


def main(config: Config) -> None:
    """Rewrites or checks the pages."""
    for page in TABLES:
        if not page.exists():
            sys.exit(
                f"{page.relative_to(record.ROOT)} is missing: run python -m experiments.methods"
            )
        old = page.read_text(encoding="utf-8")
        if config.check and filled(old, page) != old:
            name = page.relative_to(record.ROOT)
            sys.exit(f"{name} is out of date: run python -m experiments.readme_tables")
        write(page)


def write(page: Path) -> None:
    """Makes the tables of one page anew."""
    text = filled(page.read_text(encoding="utf-8"), page)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
