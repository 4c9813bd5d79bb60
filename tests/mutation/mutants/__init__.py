"""All mutants."""

from . import autoencoders, families, kernels, library, models, patterns

MUTANTS = [
    *kernels.MUTANTS,
    *patterns.MUTANTS,
    *library.MUTANTS,
    *models.MUTANTS,
    *families.MUTANTS,
    *autoencoders.MUTANTS,
]
