"""Columns of text on a terminal."""

from __future__ import annotations

import unicodedata


def columns(text):
    """Columns that a text takes on a terminal; East Asian characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def pad(text, width):
    """The text with spaces behind it, so that it takes `width` columns."""
    return text + " " * (width - columns(text))


def printable(text):
    """The text without what could move a terminal's cursor or cannot be encoded; file names hold anything."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
