"""Types of options that click does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


class Numbers(click.ParamType):
    """Several numbers in one word, as in ``"2 2 2"``, ``2,2,2`` or ``2x2x2``; lists in a settings file.

    Parameters
    ----------
    kind
        ``int`` or ``float``.
    lengths
        How many there may be; any number if empty.
    """

    name = "numbers"

    def __init__(self, kind: type[int] | type[float] = float, lengths: Sequence[int] = ()) -> None:
        self.kind, self.lengths = kind, tuple(lengths)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """The numbers, or click's error."""
        try:
            words = value.replace(",", " ").replace("x", " ").split() if isinstance(value, str) else _as_list(value)
            if self.kind is int and any(isinstance(word, float) for word in words):
                raise ValueError("a fraction")
            found = tuple(self.kind(word) for word in words)
        except (ValueError, TypeError):
            self.fail(f"{value!r} should be {self.expected}", param, ctx)
        if not found or (self.lengths and len(found) not in self.lengths):
            self.fail(f"{value!r} should be {self.expected}", param, ctx)
        return found

    @property
    def expected(self) -> str:
        """What one has to write, in words."""
        kind = "whole numbers" if self.kind is int else "numbers"
        return f"{' or '.join(map(str, self.lengths))} {kind}".strip()


def _as_list(value: Any) -> list[Any]:
    return [value] if isinstance(value, int | float) else list(value)


class Grid(click.ParamType):
    """Numbers as in ``"100 200 300"``, or ``START:STOP:STEP`` with the stop included; a list in a settings file."""

    name = "numbers"
    expected = "numbers or START:STOP:STEP"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The numbers, or click's error."""
        if not isinstance(value, str) or ":" not in value:
            return Numbers(float).convert(value, param, ctx)
        try:
            start, stop, step = map(float, value.split(":"))
            count = int((stop - start) / step + 1e-9) + 1
        except (ValueError, ZeroDivisionError, OverflowError):
            self.fail(f"{value!r} should be {self.expected}", param, ctx)
        if not 0 < count <= 100_000:
            self.fail(f"{value!r} holds no number, or more than 100000 of them", param, ctx)
        return tuple(start + index * step for index in range(count))


class Flags(click.ParamType):
    """As many ``yes``/``no`` as there are names, in their order: ``"1 1 0"``; a list of true and false in a file."""

    name = "flags"
    _words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}  # noqa: RUF012  # never changed

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    @property
    def expected(self) -> str:
        """What one has to write, in words."""
        return f"{len(self.names)} of 0 and 1 ({' '.join(self.names)})"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[bool, ...]:
        """The truth values, or click's error."""
        words = value.replace(",", " ").split() if isinstance(value, str) else list(value)
        found = tuple(self._words.get(str(word).lower()) for word in words)
        if len(found) != len(self.names) or None in found:
            self.fail(f"{value!r} should be {self.expected}", param, ctx)
        return tuple(bool(flag) for flag in found)
