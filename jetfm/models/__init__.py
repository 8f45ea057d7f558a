"""Transformer block, backbone and heads."""
