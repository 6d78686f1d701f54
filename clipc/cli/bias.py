"""``clipc bias``: does a model answer differently for groups of people?"""

from __future__ import annotations

import csv
import io
import os
import textwrap

import click

from clipc.cli.computing import bar_wanted, load_model, resumable
from clipc.cli.inputs import collect_labels
from clipc.cli.messages import wrong_options_named
from clipc.cli.options import (
    SectionedCommand,
    computing_options,
    force_option,
    json_option,
    labels_file_option,
    no_cache_option,
    template_option,
    where_option,
)
from clipc.cli.outputs import check_output, written_together
from clipc.cli.printing import print_json, printable


def _list_presets(ctx, parameter, value):
    if not value or ctx.resilient_parsing:
        return
    from clipc.bias.presets import PRESETS

    for number, preset in enumerate(PRESETS.values()):
        told = [
            f"labels: {', '.join(preset.labels)}",
            f"template: {', '.join(preset.templates)}",
            preset.note,
        ]
        click.echo("\n" * bool(number) + preset.name)
        for text in told:
            click.echo(
                textwrap.fill(text, 98, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
            )
    ctx.exit()


def _complete_preset(ctx, parameter, incomplete):
    from clipc.bias.presets import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


def _check_preset(ctx, parameter, value):
    from clipc.bias.presets import PRESETS

    if value is not None and value not in PRESETS:
        raise click.BadParameter(f"expected one of {', '.join(PRESETS)}; got {value!r}")
    return value


# fmt: off
@click.command(cls=SectionedCommand, sections={
    "preset": "What is asked", "groups": "Who is compared", "compare_wording": "Other words",
    "as_json": "Result", "resamples": "Statistics", "model": "Other options",
})
@click.argument("folder", type=click.Path())
@click.option("-p", "--preset", metavar="NAME", callback=_check_preset, shell_complete=_complete_preset,
              help="Labels of a published audit, or of the presentation; --list-presets explains them.")
@click.option("--label", "labels", multiple=True, metavar="TEXT",
              help="A label of your own, instead of a preset. Two or more.")
@labels_file_option
@template_option
@click.option("--list-presets", is_flag=True, is_eager=True, expose_value=False, callback=_list_presets,
              help="List the presets with their labels and sources, and exit.")
@click.option("-g", "--group", "groups", multiple=True, metavar="COLUMN",
              help="The column of labels.csv that says which group a picture is of. Several are crossed: "
                   '"Black × Female".')
@click.option("--block", "blocks", multiple=True, metavar="COLUMN",
              help="Compare within pictures that have the same value here, such as the scenario of a set in "
                   "which only the person differs.")
@where_option
@click.option("--compare-wording", multiple=True, metavar="LABELS",
              help="Ask again in other words, and compare: a preset, or labels separated by commas. May be "
                   "repeated.")
@click.option("--compare-template", multiple=True, metavar="TEXT",
              help='Ask again in another sentence, such as "a photo of a {}.", and compare. May be repeated. '
                   'Default, when wordings are compared: the label alone, and "a photo of a {}."')
@json_option
@click.option("--html", metavar="FILE", type=click.Path(), help="Write a report with plots as a web page.")
@click.option("--csv", "table", metavar="FILE", type=click.Path(),
              help="Write the probabilities of every picture as CSV.")
@click.option("--no-lines", is_flag=True, help="Do not print a line for each picture.")
@force_option
@click.option("--resamples", type=click.IntRange(min=1), default=9999, metavar="N",
              help="Shuffles of a test, and draws of a bootstrap. Default: 9999.")
@click.option("-k", "--top-k", multiple=True, type=click.IntRange(min=1), metavar="K",
              help="How many of the pictures nearest to a label are looked at. May be repeated. Default: a "
                   "tenth of the pictures, at least 10.")
@click.option("--confidence", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.95,
              metavar="NUMBER", help="Of the intervals. Default: 0.95.")
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N",
              help="Of what is drawn at random: the same seed gives the same numbers. Default: 0.")
@click.option("--skip-ungrouped", is_flag=True,
              help="Leave out pictures without a value in a column of --group or --block.")
@computing_options("Images encoded at the same time.", folders=False)
@no_cache_option
def bias(folder, preset, labels, labels_file, templates, groups, blocks, where, compare_wording,
         compare_template, as_json, html, table, no_lines, force, resamples, top_k, confidence, seed,
         skip_ungrouped, model, exif, skip_unreadable, batch_size, threads, quiet, no_cache):
    """Measure whether a model answers differently for groups of people.

    FOLDER holds pictures and labels.csv, whose first row names the columns: file, and one or more that say
    which group a picture is of. A CSV file elsewhere does, too, and so does a folder with a subfolder for
    each group (--group label).

    \b
      clipc bias faces/ --preset nurse-doctor --group gender
      clipc bias faces/ --preset fairface --group race --group gender --where core=1 --no-lines
      clipc bias faces/ --label "a nurse" --label "a doctor" --group gender --html report.html
      clipc bias scenes/ --preset victim-criminal --group race --block scenario
      clipc bias faces/ --preset people-gorilla --compare-wording human-gorilla --group race
      clipc bias --list-presets

    \b
    Printed are
      a line for each picture: file, group, labels with their probabilities
      what can be told apart from chance, and which gap would have been found
      the share of each label in each group, with intervals; gaps, tests, rankings, associations

    It measures a model with these words on these pictures, and not the people in them; groups are as labelled
    in the data set. "No difference detected" does not mean that there is none: with ten pictures in a group
    even large gaps are missed. Needs pip install 'clipc[analysis]'.
    """
    if not groups:
        raise click.UsageError("no groups; name a column of labels.csv, as in: --group gender")
    label_sets = _label_sets(preset, labels, labels_file, compare_wording)
    for template in compare_template:
        if "{}" not in template:
            raise click.UsageError(f"--compare-template: {template!r} has no {{}} where the label goes")
    for path in (html, table):
        if path:
            check_output(path, force)
    if html and table and os.path.realpath(html) == os.path.realpath(table):
        raise click.UsageError(f"--html and --csv name the same file, {html}")

    from clipc import bias as audits
    from clipc.bias.audits import need_analysis
    from clipc.labelled_images import read_labelled_images

    need_analysis()
    if html:
        from clipc.bias.plots import require_matplotlib

        require_matplotlib()
    data = read_labelled_images(os.path.expanduser(folder))
    for name in (*groups, *blocks):
        data.column(name)
    if where:
        data = data.where(**where)
    loaded = load_model(model, threads)

    options = {
        "model": loaded, "block": list(blocks) or None, "confidence": confidence, "resamples": resamples,
        "top_k": list(top_k) or None, "seed": seed, "batch_size": batch_size, "exif": exif,
        "cache": not no_cache, "skip_unreadable": skip_unreadable, "skip_ungrouped": skip_ungrouped,
        "progress": bar_wanted(quiet),
    }
    compared = bool(compare_wording or compare_template)
    with wrong_options_named(), resumable(not no_cache):
        if compared:
            options["templates"] = _templates(label_sets, templates, compare_template)
            report = audits.wording(data, label_sets, list(groups), **options)
        else:
            options["templates"] = list(templates) or None
            report = audits.audit(data, next(iter(label_sets.values())), list(groups), **options)

    _write(report, html, table, compared)
    if as_json:
        document = report.to_dict()
        if no_lines:
            document.pop("images", None)
        print_json(document)
        return
    if not compared and not no_lines:
        for line in report.lines():
            click.echo(printable(line))
        click.echo()
    for line in str(report).split("\n"):
        click.echo(printable(line))
# fmt: on


def _label_sets(preset, labels, labels_file, compare_wording):
    """Name to a preset's name or a list of labels, the first from --preset or --label."""
    if preset and (labels or labels_file):
        raise click.UsageError("--preset has labels of its own; give either --preset or --label")
    if preset:
        label_sets = {preset: preset}
    elif labels or labels_file:
        labels = collect_labels(labels, labels_file, "bias")
        if len(labels) < 2:
            raise click.UsageError(
                f"two labels or more are compared, got {labels[0]!r} alone; --label adds one"
            )
        label_sets = {_name(labels): labels}
    else:
        raise click.UsageError(
            "no labels; give --preset NAME (--list-presets lists them), or --label twice or more"
        )
    for text in compare_wording:
        name, others = _wording(text)
        if name in label_sets:
            raise click.UsageError(f"--compare-wording: {name!r} is given more than once")
        label_sets[name] = others
    return label_sets


def _wording(text):
    from clipc.bias.presets import PRESETS

    if text in PRESETS:
        return text, text
    labels = [label.strip() for label in text.split(",")]
    if len(labels) < 2 or not all(labels):
        raise click.UsageError(
            "--compare-wording: expected two labels or more with commas between them, or a preset "
            f"({', '.join(PRESETS)}); got {text!r}"
        )
    return _name(labels), labels


def _name(labels):
    return "/".join(labels[:3]) + ("/..." if len(labels) > 3 else "")


def _templates(label_sets, templates, compare_template):
    """Name to the templates that are used together; None for those that the library compares."""
    if not templates and not compare_template:
        return None
    from clipc.bias.presets import PRESETS

    first = next(iter(label_sets.values()))
    asked = list(templates) or list(PRESETS[first].templates if isinstance(first, str) else ("{}",))
    named = {asked[0] if len(asked) == 1 else f"ensemble of {len(asked)}": asked}
    for template in compare_template:
        if template in named:
            raise click.UsageError(f"--compare-template: {template!r} is given more than once")
        named[template] = [template]
    return named


def _write(report, html, table, compared):
    """Write the files that are asked for, all of them or none."""
    contents = {}
    if html:
        contents[html] = report.to_html().encode()
    if table:
        rows = _wording_rows(report) if compared else _picture_rows(report)
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        contents[table] = text.getvalue().encode("utf-8", "surrogateescape")
    with written_together(list(contents)) as files:
        for file, content in zip(files, contents.values()):
            file.write(content)


def _picture_rows(report):
    """A row for each picture, with a column for each label."""
    block = [] if report.block_of is None else [report.block_name]
    yield [
        "file",
        " × ".join(report.group_names),
        *block,
        "label",
        *(f"p {label}" for label in report.labels),
    ]
    for i, (name, group, prediction) in enumerate(zip(report.files, report.group_of, report.predictions)):
        block = [] if report.block_of is None else [report.block_of[i]]
        yield [name, group, *block, prediction.label, *(f"{p:.6g}" for p in report.probabilities[i])]


def _wording_rows(report):
    """A row for each picture and wording: label sets have different labels."""
    yield ["file", " × ".join(report.group_names), "wording", "templates", "label", "probability"]
    for (wording, templates), one in report.reports.items():
        for name, group, prediction in zip(one.files, one.group_of, one.predictions):
            yield [name, group, wording, templates, prediction.label, f"{prediction.probability:.6g}"]
