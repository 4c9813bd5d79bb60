"""Which pattern should each head of a model have? STA's, Sparse-vDiT's and a mixed search, for any of our models.

    python -m experiments.search --method sta --windows 3 3 1 3 1 3 1 3 3          # the tiny model, about 5 minutes
    python -m experiments.search --method sparse-vdit --density 0.3
    python -m experiments.search --method mixture --density 0.2 --held-out 2
    python -m experiments.search --method sta --model Wan2.1-T2V-1.3B-Diffusers --prompts "a cat" "a dog"

Denoises every prompt once (Sparse-vDiT calibrated to a density: once more for each round) with all candidates
evaluated beside dense attention, and writes to `--out`: attention.json (a `SparseAttention` for
`experiments.generate --attention`), strategy.json (STA in FastVideo's format, where that says all), report.json,
pictures, and the measurements, from which an interrupted search goes on. The last answer: experiments/LOG.md.
"""
