"""Notebook 00: jets from nothing, as JetClass and the Top Landscape store them.

Pythia, detector, clustering, matching, files; and the calibration against published statistics.
Readers of files, these or real ones, are in `jetfm.data`.
"""
