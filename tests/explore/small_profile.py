"""The smoke profile with few jets and steps, one tokenizer beside the main one and one task."""

from __future__ import annotations

from jetfm.settings.profiles import Profile, dry_run, load_profile


def small_profile() -> Profile:
    smoke = load_profile("smoke")
    quality, tasks = smoke.token_quality, smoke.finetuning.tasks
    some = {"binned-64": quality.tokenizers["binned-64"]}
    task = tasks["ten-classes"].model_copy(update={"contenders": {"main": ("finetuned",)}})
    changed = {
        "token_quality": quality.model_copy(update={"tokenizers": some}),
        "strategies": {},
        "finetuning": smoke.finetuning.model_copy(update={"tasks": {"ten-classes": task}}),
    }
    return dry_run(smoke.model_copy(update=changed))
