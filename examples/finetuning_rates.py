"""Which learning rate suits which start: the search behind `finetuning.optimizer.lr` of `laptop`.

    .venv/bin/python examples/finetuning_rates.py [profile [rate ...]]

By default laptop's, with the rates that suit AdamW; for `overnight` (docs/overnight.md), whose
optimiser is Muon, 3e-3 5e-3 1e-2. Takes the models that a run of the profile has made, makes those
that are missing, and scores on validation jets alone.
"""

import sys

from jetfm.finetuning.learning_rates import as_text, search_rates
from jetfm.pipeline import Pipeline
from jetfm.storage.paths import work_folder

RATES = (3e-4, 1e-3, 3e-3)
CONTENDERS = [
    ("tagging", "omnijet-combined", "scratch"),
    ("tagging", "omnijet-combined", "finetuned"),
    ("landscape", "main", "scratch"),
    ("landscape", "main", "finetuned"),
]

if __name__ == "__main__":
    pipeline = Pipeline(sys.argv[1] if len(sys.argv) > 1 else "laptop")
    settings = pipeline.profile.finetuning
    runners = [pipeline.finetuning.runner(*one) for one in CONTENDERS]
    some = {
        name: task.model_copy(update={"sizes": settings.sizes_of(name)[:2]})
        for name, task in settings.tasks.items()
    }
    settings = settings.model_copy(update={"tasks": some})
    folder = work_folder() / f"rates-{pipeline.profile.name}"
    rates = [float(word) for word in sys.argv[2:]] or RATES
    print(as_text(search_rates(runners, settings, rates, folder, pipeline.profile.seed)))
