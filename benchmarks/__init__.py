"""Fast paths against plain references that are kept here, and nowhere else."""
