"""The frozen value that every declared noun is, and its errors in the user's words."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from pulumi_tandem.finding import DeclarationError, Finding, nearest

_SOURCE = "pulumi_tandem.declare"


class Noun(BaseModel):
    """A declared value: equal when its fields are equal, never changed after it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            details = error.errors(include_url=False)
        else:
            return
        subject = self._called(fields)
        raise DeclarationError(finding.below(subject) for detail in details for finding in _read(type(self), detail))

    @classmethod
    def _called(cls, fields: dict[str, Any]) -> str:
        """How error messages call a value of these fields."""
        return cls.__name__


def _read(noun: type[BaseModel], detail: ErrorDetails) -> list[Finding]:
    """Findings of one pydantic error; those of a nested noun come out under its own path."""
    location = ".".join(str(part) for part in detail["loc"] if not _is_machinery(part))
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, DeclarationError) and not location:
        return list(cause.findings)
    if isinstance(cause, DeclarationError):
        return [replace(finding, path=_without_subject(finding.path)).below(location) for finding in cause.findings]
    if detail["type"] == "extra_forbidden":
        return [_unknown_field(noun, location)]
    message, fix = _wording(noun, detail)
    return [Finding(code="TND0002", severity="error", path=location, message=message, fix=fix, source=_SOURCE)]


def _without_subject(path: str) -> str:
    return path.partition(".")[2]


def _is_machinery(part: int | str) -> bool:
    """Whether pydantic put this part in a path itself, to name the arm of a union."""
    return isinstance(part, str) and ("[" in part or "(" in part)


def _unknown_field(noun: type[BaseModel], location: str) -> Finding:
    name = location.rpartition(".")[2]
    known = nearest(name, noun.model_fields)
    fields = ", ".join(sorted(noun.model_fields))
    return Finding(
        code="TND0001",
        severity="error",
        path=location,
        message=f"{noun.__name__} has no field {name!r}",
        fix=f"write {known!r}" if known else f"use one of: {fields}",
        source=_SOURCE,
    )


_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_NAME_FIX = "use lower-case letters, digits and dashes, with a letter first and no dash last"
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "True or False",
    "tuple": "a tuple",
    "dict": "a dict",
    "mapping": "a dict",
    "model": "a declared value",
}


def _wording(noun: type[BaseModel], detail: ErrorDetails) -> tuple[str, str]:
    """What is wrong and what to write instead, without the words of pydantic."""
    kind, given = detail["type"], _short(detail["input"])
    context: Mapping[str, Any] = detail.get("ctx", {})
    if kind == "missing":
        return f"{noun.__name__} needs {detail['loc'][-1]!r}", "give it a value"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{given} is out of range", f"give {words} {context[key]}"
    if kind == "literal_error":
        return f"{given} is none of the known values", _choose(detail["input"], str(context["expected"]))
    if kind == "string_pattern_mismatch":
        return f"{given} is not a name that every platform takes", _NAME_FIX
    if kind == "string_too_long":
        return f"{given} is too long", f"use at most {context['max_length']} characters"
    if kind == "value_error":
        return str(context["error"]), "see the message"
    if kind == "int_from_float":
        return f"{given} is not a whole number", "give a whole number"
    if kind in {"too_short", "string_too_short"}:
        return f"{given} is empty", "give at least one character"
    expected = _KINDS.get(kind.split("_")[0], detail["msg"].removeprefix("Input should be ").removeprefix("a valid "))
    if kind == "model_type" and isinstance(context.get("class_name"), str):
        expected = f"tandem.{context['class_name']}(...)"
    return f"{given} ({type(detail['input']).__name__}) is not {expected}", f"give {expected}"


def _choose(given: object, expected: str) -> str:
    names = [name.strip("' ") for name in expected.replace(" or ", ", ").split(",")]
    near = nearest(given, names) if isinstance(given, str) else None
    return f"write {near!r}" if near else f"use one of: {', '.join(names)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
