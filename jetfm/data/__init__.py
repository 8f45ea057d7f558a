"""Notebook 00: jets from files to batches; readers, memory-mapped stores, order of batches.

Where jagged arrays become dense tensors. The simulation is in `jetfm.simulation`.
Nothing here knows a network or a tokenizer's inside.
"""
