"""``clipc models``, ``download`` and ``remove``: the models that have a name, and those in the cache."""

from __future__ import annotations

import os

import click

from clipc.cli.computing import downloads_told
from clipc.cli.messages import note
from clipc.cli.options import complete_model, debug_option, json_option
from clipc.cli.printing import print_json, printable
from clipc.cli.program import set_quiet
from clipc.terminal import columns, pad

names_argument = click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_model
)
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, expose_value=False, callback=set_quiet,
    help="No progress bar and no notes on standard error.",
)  # fmt: skip


# fmt: off
@click.command()
@click.option("--cached", is_flag=True, help="Only those that are on this computer.")
@click.option("--verify", is_flag=True,
              help="Hash cached files again, compare with what was downloaded. Exit code 1 if one differs.")
@json_option
@debug_option
def models(cached, verify, as_json):
    """List the models that clipc knows by name, and where those are that are on this computer.

    \b
      clipc models
      clipc models --cached --verify
      clipc classify photo.jpg dog cat --model ViT-B/16

    A model in the list is downloaded when it is first used, or with "clipc download NAME". Every repository
    of the Hugging Face hub that holds a CLIP model can be named as owner/name. A model of your own needs no
    name: --model takes the path of a weight file, or of a folder.
    """
    from clipc.model import default_model_in_words
    from clipc.weights.cache import cache_folder, cached_hub_models
    from clipc.weights.cache import verify as hash_again
    from clipc.weights.zoo import named_models

    rows, damaged = [], []
    for entry in (*named_models().values(), *cached_hub_models()):
        row = _describe_entry(entry)
        if cached and row["state"] == "not in the cache":
            continue
        if verify and row["path"]:
            row["files"] = [
                {"path": str(path), "good": good, "detail": detail}
                for path, good, detail in hash_again(entry)
            ]
            damaged += [file for file in row["files"] if file["good"] is False]
        rows.append(row)
    cache, default = str(cache_folder()), default_model_in_words()
    if as_json:
        print_json({"default": default, "cache": cache, "models": rows})
    else:
        _print_rows(rows, verify)
        click.echo()
        from_cache = "CLIPC_CACHE" if os.environ.get("CLIPC_CACHE") else "CLIPC_CACHE names another"
        asked = os.environ.get("CLIPC_MODEL")
        from_model = "CLIPC_MODEL" if asked else "CLIPC_MODEL or --model names another"
        click.echo(f"Cache folder:  {printable(cache)}  ({from_cache})")
        click.echo(f"Default model: {printable(default)}  ({from_model})")
    if damaged:
        names = ", ".join(printable(file["path"]) for file in damaged)
        advice = '"clipc download --verify NAME" replaces them'
        raise click.ClickException(f"not as downloaded: {names}; {advice}")


@click.command()
@names_argument
@click.option("--verify", is_flag=True,
              help="Hash files that are there already, and replace those that differ.")
@quiet_option
@debug_option
def download(names, verify):
    """Download models into the cache, or go on with downloads that were interrupted.

    \b
      clipc download ViT-B/32 ViT-L/14
      clipc download hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K
      CLIPC_CACHE=/data/models clipc download ViT-B/16

    NAME is one that "clipc models" lists, or owner/name of a repository of the Hugging Face hub. The path of
    each weight file is printed. Environment variables: CLIPC_CACHE, CLIPC_HUB (another address than
    https://huggingface.co), HF_TOKEN, HTTPS_PROXY; see docs/models.md.
    """
    from clipc.weights import cache, zoo

    entries = [zoo.find_model(name) for name in names]  # before the work: a wrong name shows first
    with downloads_told():
        for entry in entries:
            if verify:
                found = cache.verify(entry)
                for path, good, detail in found:
                    note(f"{path}: {_VERDICTS[good]}, {detail}")
                if any(good is False for _, good, _ in found):
                    if entry.embedded:
                        raise click.ClickException(f"{entry.name} is a part of clipc: install clipc again")
                    cache.forget_damaged(entry, found)
            path = cache.cached_weights(entry) or cache.fetch(entry)
            click.echo(printable(str(path)))


@click.command()
@names_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@debug_option
def remove(names, yes):
    """Remove models from the cache folder.

    \b
      clipc remove ViT-L/14
      clipc remove ViT-B/16 RN50 --yes

    Only folders in the cache are touched; "clipc models --cached" lists them.
    """
    from clipc.weights import cache, zoo
    from clipc.weights.download import megabytes

    entries = [zoo.find_model(name) for name in names]
    for entry in entries:
        if entry.embedded:
            raise click.ClickException(f"{entry.name} is a part of clipc and cannot be removed")
        if not os.path.lexists(cache.cached_model_folder(entry)):
            raise click.ClickException(f"{entry.name} is not in the cache")
    for entry in entries:
        folder = cache.cached_model_folder(entry)
        question = f"Remove {entry.name} ({megabytes(cache.cached_bytes(entry))}), {printable(str(folder))}?"
        if yes or _confirmed(question):
            freed = cache.remove(entry)
            click.echo(f"{entry.name}: removed, {megabytes(freed)} freed")
        else:
            click.echo(f"{entry.name}: kept")
# fmt: on


def _confirmed(question):
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)  # what is said next begins on a line of its own
        raise


def _describe_entry(entry):
    from clipc.weights.cache import cached_bytes, cached_weights, partial_bytes

    path, partial = cached_weights(entry), partial_bytes(entry)
    state = "cached" if path else "in part" if partial else "not in the cache"
    state = "embedded" if entry.embedded else state
    return {
        "name": entry.name, "family": entry.family, "image_size": entry.image_size,
        "embed_dim": entry.embed_dim, "activation": entry.activation, "vision_heads": entry.vision_heads,
        "text_heads": entry.text_heads, "licence": entry.licence, "state": state,
        "path": None if path is None else str(path), "repository": entry.repository,
        "bytes_to_download": None if entry.embedded else entry.size,
        "bytes_on_disk": cached_bytes(entry), "bytes_in_part": partial,
    }  # fmt: skip


_VERDICTS = {True: "good", False: "DAMAGED", None: "unknown"}


def _print_rows(rows, verify):
    from clipc.weights.download import megabytes

    head = ["name", "image", "embedding", "size", "where"]
    table = []
    for row in rows:
        where = row["state"]
        if where == "in part":
            where = f"{megabytes(row['bytes_in_part'])} of it"
        if row["licence"] and row["licence"].startswith("CC-BY-NC"):
            where += "; not for commercial use"
        size = row["bytes_on_disk"] if row["path"] else row["bytes_to_download"]
        side, width = row["image_size"], row["embed_dim"]
        table.append([
            printable(row["name"]), f"{side} x {side}" if side else "", str(width or ""),
            megabytes(size) if size else "", where,
        ])  # fmt: skip
    widths = [max(map(columns, column)) for column in zip(head, *table)]
    click.echo("  ".join(map(pad, head, widths)).rstrip())
    for row, cells in zip(rows, table):
        click.echo("  ".join(map(pad, cells, widths)).rstrip())
        for file in row.get("files", ()) if verify else ():
            click.echo(f"    {_VERDICTS[file['good']]}: {printable(file['path'])} ({file['detail']})")
