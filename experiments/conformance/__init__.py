"""Is what we compute what the authors of each method compute? Vector files of their code, compared."""
