"""From a prompt and a checkpoint folder to an MP4, dense or sparse.

    python -m experiments.generate --model Wan2.1-T2V-1.3B-Diffusers --prompt "a cat on a skateboard" \\
        --attention sta --frames 81 --height 480 --width 832 --steps 50 --seed 7 --out out/cat.mp4

The folder is one that diffusers saved: Wan 2.1, HunyuanVideo or CogVideoX. `--attention` is dense, the name of a method
or a JSON file (of `SparseAttention.to_json`, or FastVideo's STA strategies). `--compare` makes the dense video too and
reports PSNR, SSIM and the speed-up. The noise depends only on the seed and the size. A JSON file beside the video holds
everything measured.

Each of several prompts and seeds (`--prompt A B --seed 1 2 3`) makes a video: NAME-0001-seed1.mp4 and so on. All are
denoised before the first is decoded. After an interruption the same command goes on: finished videos stay, denoised
latents (NAME.latents.safetensors) are decoded, and an unfinished run (NAME.run.safetensors) resumes, unless a file that
it has read was replaced.

Denoising and decoding run on cfg x seq devices: `--cfg 2` gives each of guidance's two rows devices of its own, and
`--seq N` shards a row's tokens over N devices. On several hosts give each the same command with `--distributed`
(`experiments.hosts` says how they find each other). All hosts read MODEL and the folder of `--out`, and the first one
writes.
"""

from typing import Any

from experiments import command
from experiments.generation.flag_rules import check_flags
from experiments.generation.generate_flags import Config


def main(config: Config) -> None:
    """Runs the command."""
    check_flags(config)
    # Only now: jax takes longer to import than wrong flags to be told.
    from experiments import hosts
    from experiments.generation.generation import Generation

    hosts.start(config.distributed)
    for report in Generation(config).run().values():  # none but the first process has any
        _say(report)


def _say(report: dict[str, Any]) -> None:
    for name, rows in report["phases"].items():
        for phase, row in rows.items():
            print(f"{name:>12} {phase:<7} {row['steps']:3d} steps, {row['median_ms']:9.1f} ms each")
    print("  ".join(f"{name} {value:.1f} s" for name, value in report["seconds"].items()))
    if "comparison" in report:
        c = report["comparison"]
        faster = (
            "no speed-up: one run was resumed" if c["speedup"] is None else f"{c['speedup']:.2f}x"
        )
        print(f"against dense: PSNR {c['psnr_db']:.2f} dB, SSIM {c['ssim']:.3f}, {faster}")
    print(f"wrote {report['videos'][report['attention']]}", flush=True)


if __name__ == "__main__":
    command.run(
        main,
        Config,
        description=__doc__,
        interrupted="interrupted; the same command goes on from the last saved step",
    )
