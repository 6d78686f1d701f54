"""``clipc models``: the models that have a name."""

from __future__ import annotations

import os

import click

from clipc.cli.options import debug_option, json_option
from clipc.cli.printing import print_json, printable
from clipc.terminal import columns, pad


# fmt: off
@click.command()
@json_option
@debug_option
def models(as_json):
    """List the models that clipc knows by name.

    \b
      clipc models
      clipc models --json
      clipc classify photo.jpg dog cat --model ViT-B/32

    A model of your own needs no name: --model takes the path of a .safetensors, .pt or .bin file, or of a
    folder.
    """
    from clipc import weights

    rows = []
    for entry in weights.ZOO.values():
        path = weights.cached_weights(entry)
        place = "not in the cache" if path is None else "embedded" if entry.repository is None else "cached"
        rows.append({
            "name": entry.name, "image_size": entry.image_size, "embed_dim": entry.embed_dim,
            "activation": entry.activation, "vision_heads": entry.vision_heads,
            "text_heads": entry.text_heads, "state": place, "path": None if path is None else str(path),
            "repository": entry.repository,
        })
    cache = str(weights.cache_folder())
    default = os.environ.get("CLIPC_MODEL") or "tiny"
    if as_json:
        print_json({"default": default, "cache": cache, "models": rows})
        return
    _print_table(
        ["name", "image", "embedding", "where"],
        [
            [row["name"], f"{row['image_size']} x {row['image_size']}", str(row["embed_dim"]), row["state"]]
            for row in rows
        ],
    )
    click.echo()
    from_cache = "CLIPC_CACHE" if os.environ.get("CLIPC_CACHE") else "CLIPC_CACHE names another"
    from_model = "CLIPC_MODEL" if os.environ.get("CLIPC_MODEL") else "CLIPC_MODEL or --model names another"
    click.echo(f"Cache folder:  {printable(cache)}  ({from_cache})")
    click.echo(f"Default model: {printable(default)}  ({from_model})")
# fmt: on


def _print_table(head, rows):
    widths = [max(map(columns, column)) for column in zip(head, *rows)]
    for row in (head, *rows):
        click.echo("  ".join(map(pad, row, widths)).rstrip())
