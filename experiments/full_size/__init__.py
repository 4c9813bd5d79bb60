"""Full-size models without weights: counts, and one denoising step compiled for an H200 that is not there."""
