"""All mutants."""

from . import autoencoders, clusters, families, kernels, library, models, patterns

MUTANTS = [
    *kernels.MUTANTS,
    *patterns.MUTANTS,
    *clusters.MUTANTS,
    *library.MUTANTS,
    *models.MUTANTS,
    *families.MUTANTS,
    *autoencoders.MUTANTS,
]
