"""The smoke profile with few jets and steps, one tokenizer beside the main one and one task."""

from __future__ import annotations

from jetfm.settings.profiles import Profile, dry_run, load_profile


def small_profile() -> Profile:
    smoke = dry_run(load_profile("smoke"))
    quality, finetuning = smoke.token_quality, smoke.finetuning
    some = {"conditional-512": quality.tokenizers["conditional-512"]}
    fewer = {"tokenizers": some, "classified": tuple(some)}
    task = finetuning.tasks["ten-classes"].model_copy(
        update={"contenders": {"main": ("finetuned",)}}
    )
    changed = {
        "token_quality": quality.model_copy(update=fewer),
        "strategies": {},
        "finetuning": finetuning.model_copy(update={"tasks": {"ten-classes": task}}),
    }
    return smoke.model_copy(update=changed)
