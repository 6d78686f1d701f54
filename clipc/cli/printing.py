"""Results on standard output: text that a terminal bears, and JSON."""

from __future__ import annotations

import functools
import json
import sys

import click

from clipc.terminal import columns, printable

_json_indented = functools.partial(json.dumps, indent=2)


def name_width(sources):
    """Width of a column of image names, unless one long name would push all else out of sight."""
    return min(max((columns(printable(source.name)) for source in sources), default=0), 48)


def print_json(document, dumps=_json_indented):
    """Print JSON, in ASCII where standard output cannot take its characters."""
    text = dumps(document, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8, or a terminal that is not
        text = dumps(document)
    click.echo(text)
