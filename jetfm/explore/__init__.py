"""Looking at single jets: their tokens, their neighbours, what a classifier sees in them.

Numbers of one jet from trained models, and on top the interactive displays of
``notebooks/explore.ipynb``. Nothing here says how good a model is: that takes many jets.
"""
