"""Sections on the methods: quality, searches, finetuning, AdaSpa's parts."""

from experiments.report.section import Pictures, Section
from experiments.report.tables import Table

QUALITY = Section(
    key="quality",
    title="Quality against density",
    question="How close do the methods come to dense attention at equal work? The same noise and condition, dense and "
    "sparse; means over clips. At density 1 nothing is saved; higher PSNR and SSIM, and lower LPIPS, are closer.",
    command="python -m experiments.quality",
    tables=(
        Table(
            records="quality",
            title="Every setting, means over clips",
            columns={
                "method": "family",
                "setting": "label",
                "density": "density:.3f",
                "density of the run": "run_density:.3f",
                "PSNR, dB": "psnr_db:.2f",
                "SSIM": "ssim:.4f",
                "LPIPS": "lpips:.4f",
            },
            group=("setting", "attention", "sampling"),
            over=("digit", "seed"),
        ),
    ),
    pictures=(
        Pictures(
            glob="results/pictures/quality*.png",
            shows="Pareto curves: closeness to dense against density of the run, with 95 % intervals over clips.",
            drawn_from="quality.jsonl",
        ),
    ),
)

SEARCH = Section(
    key="search",
    title="Searches",
    question="Which pattern should each head of each layer use, and at which step? STA's window search, Sparse-vDiT's "
    "search of modes, and a mixture of all methods under a budget; errors on prompts that were not searched on, too.",
    command="python -m experiments.search --method METHOD --record",
    tables=(
        Table(
            records="search",
            title="What was found",
            columns={
                "search": "search",
                "method": "method",
                "tokens": "tokens",
                "density": "density:.3f",
                "density of the run": "density_run:.3f",
                "error, calibration": "chosen_error.calibration_error:.3g",
                "least possible": "chosen_error.calibration_least_error:.3g",
                "error, held out": "chosen_error.held_out_error:.3g",
                "least possible, held out": "chosen_error.held_out_least_error:.3g",
                "agreement of prompts": "stability.prompts.agreement_share:.2f",
                "agreement of steps": "stability.steps.agreement_share:.2f",
            },
            group=("search",),
        ),
        Table(
            records="search",
            title="How often each candidate was chosen",
            columns={
                "search": "search",
                "candidate": "pattern",
                "density": "density:.3f",
                "cost": "cost_ratio:.3f",
                "share of heads and steps": "share:.1%",
            },
            group=("search", "pattern"),
            each="candidates",
        ),
        Table(
            records="search",
            title="The mixture beside each single candidate at that candidate's cost",
            columns={
                "search": "search",
                "candidate": "candidate",
                "cost": "single.cost_ratio:.3f",
                "its error, calibration": "single.calibration_error:.3g",
                "mixture's": "mixture.calibration_error:.3g",
                "its error, held out": "single.held_out_error:.3g",
                "mixture's, held out": "mixture.held_out_error:.3g",
            },
            group=("search", "candidate"),
            each="comparison.singles",
        ),
    ),
    pictures=(
        Pictures(
            glob="results/pictures/search_*_chosen.png",
            shows="The pattern that was chosen for each head, by layer and step.",
            drawn_from="search.jsonl",
        ),
        Pictures(
            glob="results/pictures/search_*_stability.png",
            shows="How often prompts, and steps, agree on a head's pattern.",
            drawn_from="search.jsonl",
        ),
        Pictures(
            glob="results/pictures/search_*_frontier.png",
            shows="Error against cost: single candidates as points, the mixture as a line.",
            drawn_from="search.jsonl",
        ),
    ),
)

FINETUNE = Section(
    key="finetuning",
    title="Finetuning",
    question="Does finetuning with distillation (STA's losses) win back what a low density lost without training? "
    "Clips of the student against clips of the dense teacher from the same noise, held-out losses.",
    command="python -m experiments.finetune_sta --record",
    tables=(
        Table(
            records="finetune_sta",
            title="Before, during and after; means over clips",
            columns={
                "model": "model",
                "step": "step",
                "density": "density:.3f",
                "PSNR, dB": "psnr_db:.2f",
                "SSIM": "ssim:.4f",
                "data loss": "held_out_data_loss:.4f",
                "final-layer loss": "held_out_final_loss:.4f",
                "attention loss": "held_out_attention_loss:.4f",
            },
            group=("model", "step", "density"),
        ),
    ),
    pictures=(
        Pictures(
            glob="results/pictures/finetune_sta*.png",
            shows="Recovery of quality over finetuning steps, beside dense attention.",
            drawn_from="finetune_sta.jsonl",
        ),
    ),
)

ADASPA = Section(
    key="adaspa",
    title="AdaSpa's parts",
    question="Which parts of AdaSpa carry their weight, and do its claims hold on a small model? Search steps, heads "
    "that trade blocks, the cached log-sum-exp, the block size; recall beside static patterns and the best masks.",
    command="python -m experiments.adaspa_ablation",
    tables=(
        Table(
            records="adaspa_ablation",
            title="Ablations: closeness to dense",
            columns={
                "variant": "variant",
                "question": "question",
                "asked density": "asked_density:.2f",
                "density": "density:.3f",
                "PSNR, dB": "psnr_db:.2f",
                "SSIM": "ssim:.4f",
                "attention of the run": "attention_cost_ratio:.3f",
            },
            group=("variant", "asked_density"),
            where={"part": "quality"},
        ),
        Table(
            records="adaspa_ablation",
            title="Attention mass kept, means over layers and heads",
            columns={
                "method": "method",
                "asked density": "asked_density:.2f",
                "density": "density_mean:.3f",
                "recall": "recall_mean:.3f",
            },
            group=("method", "asked_density"),
            where={"part": "recall"},
            zipped=("asked_density", "density_mean", "recall_mean"),
        ),
    ),
    pictures=(
        Pictures(
            glob="results/pictures/adaspa_*.png",
            shows="AdaSpa on the tiny model: quality of its variants, recall against density, stability over steps.",
            drawn_from="adaspa_ablation.jsonl",
        ),
    ),
)
