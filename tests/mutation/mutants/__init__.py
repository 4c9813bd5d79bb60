"""All mutants."""

from . import autoencoders, clusters, families, kernels, library, models, patterns, pooled

MUTANTS = [
    *kernels.MUTANTS,
    *patterns.MUTANTS,
    *clusters.MUTANTS,
    *pooled.MUTANTS,
    *library.MUTANTS,
    *models.MUTANTS,
    *families.MUTANTS,
    *autoencoders.MUTANTS,
]
