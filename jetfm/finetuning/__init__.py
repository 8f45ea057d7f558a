"""Classification from few labels: pre-trained backbones, the same from scratch, and baselines.

``contenders`` builds what is trained, ``study`` trains and tests it, ``results`` reads what came
out, ``label_savings`` says how many labels pre-training replaces, ``own_jets`` does one fit on a
user's files, ``classifier`` keeps what was fitted, ``scoring`` uses it on other files.
"""

from jetfm.finetuning.contenders import Contender
from jetfm.finetuning.label_savings import LabelSaving, label_saving
from jetfm.finetuning.results import Finetuning, TaskResults
from jetfm.finetuning.study import Jets, Runner, run_study

__all__ = [
    "Contender",
    "Finetuning",
    "Jets",
    "LabelSaving",
    "Runner",
    "TaskResults",
    "label_saving",
    "run_study",
]
