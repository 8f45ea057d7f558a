"""What a profile's run says of itself: when, from which commit, and what it took."""

from __future__ import annotations

import nbformat

from jetfm.pipeline import Pipeline
from jetfm.pipeline.stage import silent
from jetfm.results.state import executed
from jetfm.settings.profiles import Profile
from jetfm.storage.files import write_json
from jetfm.storage.paths import figures_folder
from jetfm.version import __version__

RECORD = "run.json"


def record_run(profile: Profile) -> dict:
    """Write ``run.json`` beside the figures, from what stages and notebooks have recorded.

    Returns
    -------
    'profile', 'jetfm', 'commits' that the stages were made from, 'finished' (UTC, of the last
    notebook; None where none ran), 'n_stages' and 'stage_seconds' of them all, 'notebook_seconds'
    by notebook, of its last execution, which finds stages that were done before, 'python' and
    'packages' of the last stage
    """
    stages = Pipeline(profile, progress=False, say=silent).stages().stages
    records = [found.record for found in (stage.find() for stage in stages) if found]
    runs = {
        name: nbformat.read(path, as_version=4).metadata.get("papermill", {})
        for name, path in executed(profile.name).items()
    }
    ends = [run["end_time"] for run in runs.values() if run.get("end_time")]
    last = records[-1] if records else {}
    record = {
        "profile": profile.name,
        "jetfm": last.get("jetfm", __version__),
        "commits": sorted({record["commit"] for record in records if record["commit"]}),
        "finished": max(ends)[:16].replace("T", " ") if ends else None,
        "n_stages": len(records),
        "stage_seconds": round(sum(record["seconds"] for record in records)),
        "notebook_seconds": {
            name: round(run["duration"]) for name, run in runs.items() if run.get("duration")
        },
        "python": last.get("python"),
        "packages": last.get("packages"),
    }
    write_json(figures_folder(profile.name) / RECORD, record)
    return record
