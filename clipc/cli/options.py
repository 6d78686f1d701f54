"""Options that several commands have, and a command whose help shows its options in sections."""

from __future__ import annotations

import click

import clipc
from clipc.cli.program import set_debug, set_quiet


def complete_model(ctx, parameter, incomplete):
    """Names of the zoo for the Tab key; files where no name begins like that."""
    from click.shell_completion import CompletionItem

    names = [name for name in clipc.available_models() if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def check_template(ctx, parameter, values):
    """Callback of --template."""
    for value in values:
        if "{}" not in value:
            raise click.BadParameter(f"{value!r} has no {{}} where the label goes")
    return values


def parse_where(ctx, parameter, values):
    """Callback of --where: a dict from column to the list of its values."""
    conditions = {}
    for text in values:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise click.BadParameter(f"expected COLUMN=VALUE, such as age=70+; got {text!r}")
        conditions.setdefault(name.strip(), []).append(value.strip())
    return conditions


debug_option = click.option(
    "--debug", is_flag=True, is_eager=True, expose_value=False, callback=set_debug, hidden=True
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

# fmt: off
more_images_option = click.option(
    "-i", "--image", "more", multiple=True, metavar="IMAGE", type=click.Path(allow_dash=True),
    help="One more image, folder or pattern. May be repeated.",
)
labels_file_option = click.option(
    "-l", "--labels-file", metavar="FILE", type=click.Path(allow_dash=True),
    help="Take labels from a text file, one a line; '-' for standard input.",
)
template_option = click.option(
    "-t", "--template", "templates", multiple=True, metavar="TEXT", callback=check_template,
    help='Sentence around each label, with {} in its place, such as "a photo of a {}.". Repeated: '
         "the average over all sentences (a prompt ensemble).",
)
where_option = click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", callback=parse_where,
    help="Only these pictures. Several columns: all must fit; the same column again: one of the values.",
)
no_cache_option = click.option(
    "--no-cache", is_flag=True,
    help="Do not keep the pictures' features on disk, and do not use those that are there.",
)
force_option = click.option("--force", is_flag=True, help="Overwrite files that exist.")
font_option = click.option(
    "--font", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
    help="TrueType or OpenType font for the captions. Default: one that has their characters.",
)
# fmt: on


def computing_options(default_batch=None, folders=True):
    """The options of commands that compute with a model; `default_batch` for those that take many inputs.

    `folders=False`: for those that find their inputs in a table, and not in folders and their subfolders.
    """
    # fmt: off
    recursive = click.option("-r", "--recursive", is_flag=True, help="Take the images in subfolders, too.")
    for_many = (
        *([recursive] if folders else []),
        click.option("--skip-unreadable", is_flag=True,
                     help="Report images that cannot be read and go on, instead of stopping."),
        click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help=default_batch),
    )
    options = (
        click.option("-m", "--model", metavar="NAME", shell_complete=complete_model,
                     help='A name that "clipc models" lists, a .safetensors, .pt or .bin file, or a folder '
                          "that holds one. Default: what CLIPC_MODEL names, else OpenAI's ViT-B/32, which is "
                          "downloaded at its first use (354 MB), else, without a network, the embedded model "
                          "tiny."),
        click.option("--exif", is_flag=True,
                     help="Turn photographs upright, as the camera noted in the file (EXIF orientation)."),
        *(for_many if default_batch else ()),
        click.option("--threads", type=click.IntRange(min=1), metavar="N",
                     help="Threads to compute with. Default: one for each processor."),
        click.option("-q", "--quiet", is_flag=True, callback=set_quiet,
                     help="No progress bar and no notes on standard error."),
        debug_option,
    )
    # fmt: on

    def decorate(function):
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


class SectionedCommand(click.Command):
    """A command with so many options that its help shows them in sections.

    Parameters
    ----------
    sections : dict of str to str
        The name of the parameter that a section begins with, to the title of the section.
    """

    def __init__(self, *arguments, sections, **options):
        super().__init__(*arguments, **options)
        self.sections = sections

    def format_options(self, ctx, formatter):
        found = []
        for parameter in self.get_params(ctx):
            # Arguments are explained in the text.
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record:
                if parameter.name in self.sections:
                    found.append((self.sections[parameter.name], []))
                found[-1][1].append(record)
        for title, records in found:
            with formatter.section(title):
                formatter.write_dl(records)
