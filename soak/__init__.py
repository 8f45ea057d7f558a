"""Long checks that are not part of ``make test``: ``make soak``, or ``python -m soak NAME``."""
