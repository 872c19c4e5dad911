"""The keys of one config.json, and what is wrong with them."""

from collections.abc import Iterator, Mapping
from typing import cast

from pulumi_tandem.finding import Finding

CODE = "TND0007"
PLACEHOLDER = 1
"""Stands for a number that is missing, so that the rest is still read; an `Architecture` is never made of it."""

LARGEST = 10**9
"""No key of a model is larger, and none scales anything by more: beyond it a file is broken, not a model large."""


def finding(path: str, message: str, fix: str) -> Finding:
    """One thing that is wrong with a config.json."""
    return Finding(
        code=CODE, severity="error", path=path, message=message, fix=fix, source="transformers' configuration classes"
    )


def mapping(value: object) -> Mapping[str, object] | None:
    """The value if it is a JSON object."""
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else None


class Keys:
    """Reads typed values by the names that families have for one thing; null counts as missing."""

    def __init__(self, values: Mapping[str, object], findings: list[Finding], prefix: str = "config.json") -> None:
        self.values = values
        self.findings = findings
        self.prefix = prefix

    def wrong(self, key: str, message: str, fix: str = "take config.json as it comes with the weights") -> None:
        """Notes what is wrong with a key."""
        self.findings.append(finding(f"{self.prefix}.{key}", message, fix))

    def has(self, *names: str) -> bool:
        """Whether one of the names has a value."""
        return self._first(names) is not None

    def number(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least `least`; without a default it must be there."""
        found = self._first(names)
        if found is None:
            if default is None:
                self.wrong(names[0], f"is missing (known too as {', '.join(names[1:])})" if names[1:] else "is missing")
            return PLACEHOLDER if default is None else default
        name, value = found
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
            self.wrong(name, f"{_short(value)} is no whole number of at least {least} and at most {LARGEST:,}")
            return max(PLACEHOLDER, least)
        return value

    def ratio(self, name: str, default: float) -> float:
        """A number above 0."""
        value = self.values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
            self.wrong(name, f"{_short(value)} is no number above 0")
            return default
        return float(value)

    def text(self, *names: str, default: str = "") -> str:
        """A string."""
        found = self._first(names)
        if found and not isinstance(found[1], str):
            self.wrong(found[0], f"{_short(found[1])} is no text")
        return found[1] if found and isinstance(found[1], str) else default

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            self.wrong(name, f"{_short(value)} is neither true nor false")
        return value if isinstance(value, bool) else default

    def sequence(self, name: str) -> tuple[object, ...] | None:
        """A list."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, list | tuple):
            self.wrong(name, f"{_short(value)} is no list")
        return tuple(cast("list[object]", value)) if isinstance(value, list | tuple) else None

    def per_layer(self, name: str, layers: int) -> tuple[object, ...] | None:
        """A list with one entry for every layer; one that is longer ends in layers that guess ahead (MTP)."""
        entries = self.sequence(name)
        if entries is not None and len(entries) < layers:
            self.wrong(name, f"has {len(entries)} entries for {layers} layers")
            return None
        return entries[:layers] if entries is not None else None

    def below(self, name: str) -> "Keys | None":
        """The keys of a nested object."""
        value = self.values.get(name)
        if value is not None and mapping(value) is None:
            self.wrong(name, f"{_short(value)} is no object")
        inner = mapping(value)
        return None if inner is None else Keys(inner, self.findings, f"{self.prefix}.{name}")

    def strings(self, *names: str) -> Iterator[str]:
        """All strings of some lists, missing ones left out."""
        for name in names:
            yield from (each for each in self.sequence(name) or () if isinstance(each, str))

    def _first(self, names: tuple[str, ...]) -> tuple[str, object] | None:
        return next(((name, self.values[name]) for name in names if self.values.get(name) is not None), None)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
