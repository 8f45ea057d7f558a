"""Notebook 03: next tokens, masked particles, or both, and what the models then predict.

Objectives are losses of `jetfm.models.jet_model`; here they meet tokens and a training.
Generating with the models is `jetfm.generation.tokens`, classifying `jetfm.finetuning`.
"""
