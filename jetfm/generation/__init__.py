"""Notebook 04: jets from models, with tokens, with a density, or by flow matching.

Sampling, the training of the two generators without tokens, files of generated jets.
How good the jets are is judged in `jetfm.judging`.
"""
