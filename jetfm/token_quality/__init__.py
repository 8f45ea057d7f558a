"""Notebook 02: what jets lose when they become tokens (paper 1, figures 3 to 5 and 8 to 15).

Measures, maps and classifiers that compare jets before and after; tables of them.
The tokenizers themselves are in `jetfm.tokenizers`.
"""
