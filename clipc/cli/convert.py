"""``clipc convert``: a model as one safetensors file."""

from __future__ import annotations

import os
import sys

import click

from clipc.cli.computing import downloads_told
from clipc.cli.messages import wrong_options_named
from clipc.cli.options import complete_model, debug_option
from clipc.cli.outputs import check_output
from clipc.cli.printing import printable
from clipc.cli.program import set_quiet


def _parse_heads(ctx, parameter, value):
    """Callback of --heads: "12" or "12,8"."""
    if value is None:
        return None
    parts = value.split(",")
    if len(parts) > 2 or not all(part.strip().isdecimal() and part.isascii() for part in parts):
        raise click.BadParameter(f"expected 12 or 12,8, got {value!r}")
    counts = [int(part) for part in parts]
    return counts[0] if len(counts) == 1 else tuple(counts)


# fmt: off
@click.command()
@click.argument("source", metavar="FILE_OR_NAME", shell_complete=complete_model)
@click.argument("target", metavar="OUT.safetensors", type=click.Path())
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]),
              help="What to round the numbers to. Default: they stay as they are, to the bit.")
@click.option("--activation", type=click.Choice(["quick_gelu", "gelu"]),
              help="Of the model, where nothing beside the file tells it.")
@click.option("--heads", metavar="N[,N]", callback=_parse_heads,
              help="Attention heads of the image tower, and of the text tower; likewise.")
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
@click.option("-q", "--quiet", is_flag=True, callback=set_quiet,
              help="No progress bar and no notes on standard error.")
@debug_option
def convert(source, target, dtype, activation, heads, force, quiet):
    """Write a model as one .safetensors file.

    FILE_OR_NAME is a .pt, .bin or .safetensors file, a folder with a model, or a name that "clipc models"
    lists. Nothing in a .pt or .bin file is executed. The new file holds the same tensors under the same
    names, and what configuration files beside the old one say: it needs nothing beside it.

    \b
      clipc convert ViT-B-32.pt vit-b-32.safetensors
      clipc convert pytorch_model.bin model.safetensors --dtype float16
      clipc convert checkpoints/epoch_32.pt mine.safetensors --activation gelu

    The file appears when everything is done: whatever goes wrong, none is left half written.
    """
    if not target.endswith(".safetensors"):
        raise click.UsageError(f"{target}: expected a name that ends in .safetensors")
    check_output(target, force)

    from clipc import weights

    with downloads_told(), wrong_options_named():
        weights.convert(source, target, dtype=dtype, activation=activation, heads=heads, force=True,
                        progress=not quiet and sys.stderr.isatty())
    if not quiet:
        size = os.path.getsize(target)
        click.echo(printable(f"{target}: {size:,} bytes"))
# fmt: on
