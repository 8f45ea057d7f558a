"""Constituents and jets as physics sees them: features, observables, energy flow, statistics.

Numbers in, numbers out, with units and uncertainties; formulas have their source.
Nothing here reads files or trains networks.
"""
