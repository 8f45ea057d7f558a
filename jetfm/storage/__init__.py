"""Where things lie on disk: files that appear when complete, locks, artifacts, paths, weights.

All that others write goes through here, so that nothing half-written is ever taken for finished.
Nothing here knows what a jet is.
"""
