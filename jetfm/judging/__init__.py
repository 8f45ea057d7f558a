"""Notebook 04: how good generated jets are, each generator against its own truth.

Distances with floor and uncertainty, classifier tests, copies of training jets; the table.
The jets come from `jetfm.generation`.
"""
