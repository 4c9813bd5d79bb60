"""Does finetuning with STA's distillation loss bring back what one fixed window in all heads loses?

    python -m experiments.finetune_sta --record

Teacher: the committed TinyVideoDiT with dense attention, frozen. Student: the same weights with one
sliding-tile window in every head of every layer and in every step, trained with
L_data + 0.5 L_final + 0.5 L_attn (STA, arXiv 2502.04507; `sparsevdit_jax.distill`) on moving digits at the
size it is used at, 16 x 16 x 16 tokens. The paper: HunyuanVideo, 2,000 of its own videos, 1,600 steps of
batch 2, learning rate 2e-5, guidance 1 and 6 by turns. Here: 5.4 M weights, so a larger rate; clips
without label instead of guidance, which this model takes no input for; fewer steps, for two CPU cores.

Every `save_every` steps the averaged weights are measured: the loss's terms on held-out digits, and PSNR and
SSIM of sampled clips against the dense teacher's from the same noise. The same command goes on where an
interrupted run stopped, with the same bits. Takes about 20 minutes on two idle cores. `--data` and `--seq`
spread clips and their tokens over devices, `--distributed` over those of several hosts, the first of which
measures. Writes to `--out`: checkpoints, loss.jsonl, clips, and at the end finetuned.safetensors (11 MB, not
committed). Records and the pictures drawn from them go to experiments/results with `--record`, else to
`--out`. The answer: experiments/LOG.md.
"""

import jax.numpy as jnp

from experiments import command, hosts
from experiments.finetune_sta.finetuner import Config, Finetuner
from experiments.finetune_sta.held_out import Measurements
from experiments.training import train
from models.tiny import save_tiny


def main(config: Config) -> None:
    """Finetunes, or goes on finetuning, measures on the way, and draws at the end."""
    hosts.start(config.distributed)
    tuner = Finetuner(config)
    measurements = Measurements(tuner) if hosts.is_first() else None
    if measurements and tuner.step % config.save_every == 0:
        measurements.take()
    train(
        tuner,
        total=config.steps,
        save_every=config.save_every,
        curve=config.out / "loss.jsonl",
        after_save=lambda: measurements.take(),
    )
    if measurements:
        student, weights = tuner.student(), config.out / "finetuned.safetensors"
        if not weights.exists():
            save_tiny(weights, student, dtype=jnp.bfloat16)
        measurements.draw()
    hosts.barrier("the pictures are drawn")


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
