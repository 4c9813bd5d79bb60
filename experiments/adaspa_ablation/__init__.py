"""Which parts of AdaSpa (arXiv 2502.21079) carry their weight, and do its claims hold on a small model?

    python -m experiments.adaspa_ablation                    # all parts; finished ones are skipped
    python -m experiments.adaspa_ablation --part recall      # quality, recall, stability or pictures

Everything runs on the committed TinyVideoDiT (4,096 video tokens, 6 layers, 4 heads) and goes to
experiments/results/adaspa_ablation.jsonl, one line per setting or method, told apart by `part`:

- quality: PSNR and SSIM against dense attention from the same noise for the paper's ablations
  (search steps, head-adaptive sparsity, LSE cache) and the block size. All runs fork from one dense
  warm-up. About 15 minutes per density on two CPU cores.
- recall: attention mass kept against density for AdaSpa (fresh and with the masks of the first
  search), the static patterns and the best masks there are, for every layer and head. 3 minutes.
- stability: how LSE and pattern change over steps, prompts, layers and heads, and what that costs.
  4 minutes, most of it the dense run that recall reads too.
- pictures: experiments/results/pictures/adaspa_*.png from the records. Seconds.

Search steps are those of the paper for 50 steps, scaled to the steps of the run.

Answer so far, of stability alone: the LSE moves, but searching under the first search's costs 0.001 to
0.004 of recall; the mask drifts (0.036 of recall lost after 12 of 30 steps), so searching again pays.
"""
