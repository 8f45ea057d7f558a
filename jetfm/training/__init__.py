"""The one training loop: steps, optimiser, early stopping, checkpoints, devices, processes.

Anything with a ``loss(batch)`` can be trained, and a killed training continues exactly.
What is trained, and on what, is others' business.
"""
