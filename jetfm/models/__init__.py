"""Networks: transformer blocks, backbone, heads, classifiers, EPiC; and their losses.

Modules that take tensors and give tensors; one transformer block serves them all.
Nothing here trains, reads jets or writes files other than weights.
"""
