"""From a prompt and a checkpoint folder to an MP4, dense or sparse.

    python -m experiments.generate --model Wan2.1-T2V-1.3B-Diffusers --prompt "a cat on a skateboard" \\
        --attention sta --frames 81 --height 480 --width 832 --steps 50 --seed 7 --out out/cat.mp4

The folder is one that diffusers saved: Wan 2.1, HunyuanVideo or CogVideoX. `--attention` is dense, sta, adaspa,
sparse-vdit or a JSON file (of `SparseAttention.to_json`, or FastVideo's STA strategies). `--compare` makes the dense
video too and reports PSNR, SSIM and the speed-up. The noise depends on the seed and the size only. A run that was
interrupted goes on where it was when the same command is given again. Beside the video lies a JSON with
everything measured.

Denoising and decoding run on cfg x seq devices: `--cfg 2` gives each of guidance's two rows devices of its own,
`--seq N` spreads a row's tokens over N. On several hosts give each the same command with `--distributed`
(`experiments.hosts` says how they find each other); all of them read MODEL and the folder of `--out`, the first one
writes.
"""

from experiments import command, hosts
from experiments.generation.generation import Generation
from experiments.generation.settings import Config


def main(config: Config) -> None:
    """Runs the command."""
    hosts.start(config.distributed)
    generation = Generation(config)
    report = generation.run()
    if not hosts.is_first():
        return
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
    print(f"wrote {generation.config.out}")


if __name__ == "__main__":
    command.run(
        main,
        Config,
        description=__doc__,
        interrupted="interrupted; the same command goes on from the last saved step",
    )
