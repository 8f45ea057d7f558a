"""Notebook 06: the papers' claims, the rules that judge them, and what was measured.

A verdict is computed from numbers by a rule that the entry states, never typed in.
The measurements themselves are made by the packages of their notebooks.
"""

from jetfm.ledger.verdicts import Ledger, as_text, load, summary, tolerances

__all__ = ["Ledger", "as_text", "load", "summary", "tolerances"]
