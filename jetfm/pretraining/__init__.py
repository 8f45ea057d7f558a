"""Notebook 03: next tokens, masked particles, or both, and what the models then predict.

The objectives' losses, next-token (NTP) and masked (MPM), are in `jetfm.models.jet_model`; here
they meet tokens and a training (`train`), and trained models are compared (`comparison`).
Generating with the models is `jetfm.generation.autoregressive`, classifying `jetfm.finetuning`.
"""
