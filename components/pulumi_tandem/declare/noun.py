"""The frozen value that every declared noun is, and its errors in the user's words."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from pulumi_tandem.finding import DeclarationError, Finding, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

_SOURCE = "pulumi_tandem.declare"


class Noun(BaseModel):
    """A declared value: equal when its fields are equal, never changed after it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    names_itself: ClassVar[bool] = False
    """Whether error messages call the value by its field `name`, and not by its class."""

    def __init__(self, /, **fields: object) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            details = error.errors(include_url=False)
        else:
            return
        name = fields.get("name")
        subject = name if self.names_itself and isinstance(name, str) else type(self).__name__
        findings = [finding for detail in _one_per_place(details) for finding in _read(type(self), detail)]
        raise DeclarationError(finding.below(subject) for finding in findings)


def _one_per_place(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Where a field takes one of several nouns, pydantic tells of each; that is one mistake, and the first noun's."""
    kept: dict[tuple[int | str, ...], ErrorDetails] = {}
    nouns: dict[tuple[int | str, ...], list[str]] = {}
    arms: dict[tuple[int | str, ...], int | str] = {}
    for detail in details:
        place = tuple(part for part in detail["loc"] if not _is_machinery(part))
        arm = next((part for part in detail["loc"] if _is_noun(part)), "")
        if detail["type"] == "model_type":
            nouns.setdefault(place, []).append(detail.get("ctx", {})["class_name"])
            kept.setdefault(place, detail)
        elif arms.setdefault(place[:1], arm) == arm:
            kept[(*place, detail["type"])] = detail
    for place, names in nouns.items():
        kept[place] = {**kept[place], "ctx": {"class_name": "(...) or tandem.".join(names)}}
    return list(kept.values())


def _is_noun(part: int | str) -> bool:
    return part in {noun.__name__ for noun in Noun.__subclasses__()}


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
    return isinstance(part, str) and ("[" in part or "(" in part or _is_noun(part))


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
    context: dict[str, Any] = detail.get("ctx", {})
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{given} is out of range", f"give {words} {context[key]:g}"
    expected = _expected(detail, context)
    wordings = {
        "missing": (f"{noun.__name__} needs {detail['loc'][-1]!r}", "give it a value"),
        "literal_error": (f"{given} is none of the known values", _choose(detail["input"], context)),
        "string_pattern_mismatch": (f"{given} is not a name that every platform takes", _NAME_FIX),
        "string_too_long": (f"{given} is too long", f"use at most {context.get('max_length')} characters"),
        "string_too_short": (f"{given} is empty", "give at least one character"),
        "int_from_float": (f"{given} is not a whole number", "give a whole number"),
    }
    wrong_type = (f"{given} ({type(detail['input']).__name__}) is not {expected}", f"give {expected}")
    return wordings.get(kind, wrong_type)


def _expected(detail: ErrorDetails, context: "Mapping[str, Any]") -> str:
    """What a value of a wrong type should have been."""
    if detail["type"] == "model_type":
        return f"tandem.{context['class_name']}(...)"
    return _KINDS.get(detail["type"].split("_", maxsplit=1)[0], "what this field holds")


def _choose(given: object, context: "Mapping[str, Any]") -> str:
    names = [name.strip("' ") for name in str(context.get("expected")).replace(" or ", ", ").split(",")]
    near = nearest(given, names) if isinstance(given, str) else None
    return f"write {near!r}" if near else f"use one of: {', '.join(names)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
