"""Checks of arguments that several modules take."""

from __future__ import annotations

import operator


def whole_number(name, value, least=1):
    """The value as an int; an error, which calls it `name`, unless it is whole and `least` or more."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    value = operator.index(value)
    if value < least:
        raise ValueError(f"{name}: expected {least} or more, got {value}")
    return value
