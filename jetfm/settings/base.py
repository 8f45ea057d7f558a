"""What all settings share: validation, presets, partial sections."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jetfm.errors import JetfmError
from jetfm.schema import class_by_name

Positive = Annotated[int, Field(gt=0)]
MAX_SEED = 2**63 - 1  # what all that draw random numbers take
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0)]


def merged(base: dict, changes: dict) -> dict:
    """`base` with `changes` on top, nested dictionaries entry by entry."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def from_preset(values: Any, presets: dict[str, dict]) -> Any:
    """Settings that stand beside a ``preset``, on top of what the preset says."""
    if not isinstance(values, dict):
        return values
    values = dict(values)
    preset = values.pop("preset", "hybrid")
    if not isinstance(preset, str) or preset not in presets:
        raise ValueError(f"preset should be one of {', '.join(presets)}")
    return merged(presets[preset], values)


class Settings(BaseModel):
    """Base of all settings: immutable, and a misspelt name is an error.

    A part that is given only partly keeps the default of the rest: ``training: {max_steps: 100}``
    changes the steps and nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    completed_as_part: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _complete_parts(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for name, field in cls.model_fields.items():
            default, given = field.default, values.get(name)
            if isinstance(default, Settings) and isinstance(given, dict):
                if default.completed_as_part:
                    values[name] = merged(default.model_dump(), given)
        return values


def known_class(name: str) -> str:
    """Name of a jet class as the schema has it; for validators."""
    try:
        return class_by_name(name).name
    except JetfmError as error:
        raise ValueError(f"Input should be {error.expected}") from None


def known_classes(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names as the schema has them, each once: 'TTBar', a file's prefix, is 'Tbqq'; validators."""
    known = tuple(known_class(name) for name in names)
    for name in known:
        if known.count(name) > 1:
            raise ValueError(f"classes should be different ones: {name} is there twice")
    return known
