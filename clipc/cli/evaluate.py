"""``clipc evaluate``: how good is a model on pictures that are labelled?"""

from __future__ import annotations

import csv
import io
import os

import click

from clipc.cli.computing import bar_wanted, load_model, resumable
from clipc.cli.inputs import STANDARD_INPUT, read_labels, refuse_empty_and_twice
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
from clipc.model import DEFAULT_BATCH_SIZE
from clipc.tables import count, percent, percent_range, text_table

# Spelled out here, for help and completion shall not import what the work needs.
CONDITIONS = ("original", "grey", "blur", "noise", "edges")
PLOT_FORMATS = (".png", ".pdf", ".svg")

_BATCH = f"Pictures encoded, and kept, at the same time. Default: {DEFAULT_BATCH_SIZE}."


def check_plot(ctx, parameter, value):
    """Callback of options that name a picture to plot to."""
    if value is not None and not value.lower().endswith(PLOT_FORMATS):
        raise click.BadParameter(f"expected a name that ends with {', '.join(PLOT_FORMATS)}; got {value!r}")
    return value


def plot_option(name, parameter, text):
    return click.option(
        name, parameter, metavar="FILE", type=click.Path(), callback=check_plot,
        help=f"{text} {', '.join(PLOT_FORMATS)}; needs pip install 'clipc[analysis]'.",
    )  # fmt: skip


def csv_option(text):
    return click.option("--csv", "table", metavar="FILE", type=click.Path(), help=text)


def column_option(default, text):
    return click.option("-c", "--column", default=default, metavar="NAME", help=f"{text} Default: {default}.")


limit_option = click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Only so many pictures, drawn at random."
)
data_argument = click.argument("data", type=click.Path())


def seed_option(text):
    return click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N",
                        help=f"{text} The same seed gives the same numbers. Default: 0.")  # fmt: skip


# fmt: off
@click.group(invoke_without_command=True)
@click.pass_context
def evaluate(ctx):
    """Measure how good a model is on pictures that are labelled.

    \b
      clipc evaluate zero-shot photos/       how often is the right label the nearest one?
      clipc evaluate linear-probe photos/    how good are the features, with a classifier trained on them?
      clipc evaluate retrieval captions/     do pictures find their captions, and captions their pictures?

    photos/ holds a subfolder for each class, or labels.csv with the columns "file" and "label"; captions/
    holds labels.csv with "file" and "caption".

    Features of pictures are kept on disk, so a run that was stopped goes on where it was, and another
    question to the same pictures is answered at once.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


@evaluate.command("zero-shot", cls=SectionedCommand, sections={
    "column": "Pictures", "labels_file": "Labels and prompts", "conditions": "Changed pictures",
    "top": "Result", "model": "Other options",
}, short_help="Accuracy without training.")
@data_argument
@column_option("label", "The column with the right answers.")
@where_option
@limit_option
@seed_option("Of that draw.")
@labels_file_option
@template_option
@click.option("--compare-template", "compared", multiple=True, metavar="[NAME=]TEXT",
              help="Ask again in another sentence, and compare. May be repeated; several sentences with "
                   "the same NAME are one ensemble. Default, without --template: the label alone, "
                   '"a photo of a {}.", and an ensemble of 5.')
@click.option("--condition", "conditions", multiple=True, type=click.Choice([*CONDITIONS, "all"]),
              metavar="NAME",
              help="Show the pictures changed, too, and compare: grey, blur, noise, edges (outlines "
                   "alone), or all. May be repeated.")
@click.option("-k", "--top", multiple=True, type=click.IntRange(min=1), metavar="K",
              help="Count a picture as right if its label is among the K nearest. May be repeated. "
                   "Default: 1 and 5.")
@click.option("--classes", is_flag=True, help="Also print the accuracy of each class.")
@click.option("--mistakes", type=click.IntRange(min=0), default=5, metavar="N",
              help="How many of the most frequent mistakes to print. Default: 5.")
@json_option
@csv_option("Write what each picture was taken for as CSV.")
@plot_option("--plot", "plot", "Draw the accuracies with their intervals:")
@plot_option("--plot-confusion", "plot_confusion", "Draw which label is taken for which:")
@force_option
@computing_options(_BATCH, folders=False)
@no_cache_option
def zero_shot(data, column, where, limit, seed, labels_file, templates, compared, conditions, top, classes,
              mistakes, as_json, table, plot, plot_confusion, force, model, exif, skip_unreadable, batch_size,
              threads, quiet, no_cache):
    """How often is the right label the nearest one, without any training?

    DATA is a folder that holds labels.csv, or a CSV file: the first row names the columns, "file" says where
    a picture is, "label" what it shows. Or a folder with a subfolder for each class.

    \b
      clipc evaluate zero-shot photos/
      clipc evaluate zero-shot photos/ --condition all --plot accuracy.png
      clipc evaluate zero-shot photos/ -t "a photo of a {}." --classes --csv answers.csv
      clipc evaluate zero-shot landmarks/ --column name_en --where clear_view=1
      clipc evaluate zero-shot food/ --compare-template "food=a photo of {}, a type of food."

    The labels to choose from are the different values of the column, or those of --labels-file: one a line,
    or the value and, behind a tab, the words for it. Brackets hold 95 % confidence intervals. Mistakes and
    classes are those of the prompts with the best top-1.
    """
    _check_files({"--csv": table, "--plot": plot, "--plot-confusion": plot_confusion}, force)
    prompts = _prompts(templates, compared)
    labels = _labels(labels_file)
    pictures = _read(data, column, where)

    from clipc import evaluate as measures

    draw = _plotting() if plot or plot_confusion else None
    loaded = load_model(model, threads)
    with wrong_options_named(labels="--labels-file"), resumable(not no_cache):
        result = measures.zero_shot(
            pictures, model=loaded, labels=labels, column=column,
            prompts=measures.PROMPTS if prompts is None else prompts, conditions=_conditions(conditions),
            top=top or (1, 5), limit=limit, seed=seed, batch_size=batch_size, exif=exif, cache=not no_cache,
            skip_unreadable=skip_unreadable, progress=bar_wanted(quiet),
        )
    # Of all prompts the best, for which a person would ask.
    best = max(result.prompts, key=lambda name: result.row(name)["top1"])
    contents = {}
    if table:
        contents[table] = _csv(_answers(result))
    if plot:
        contents[plot] = draw(result.plot(), plot)
    if plot_confusion:
        contents[plot_confusion] = draw(result.plot_confusion(prompts=best), plot_confusion)
    _finish(result, contents, as_json, lambda: _zero_shot_text(result, best, classes, mistakes))


@evaluate.command("linear-probe", cls=SectionedCommand, sections={
    "test": "Pictures", "labels_file": "Zero-shot beside it", "folds": "Training", "as_json": "Result",
    "model": "Other options",
}, short_help="Accuracy of a classifier trained on the features.")
@data_argument
@click.option("--test", metavar="DATA", type=click.Path(),
              help="Other pictures, of the same classes, to test with. Default: those of DATA, in parts, "
                   "each with a classifier trained on the others.")
@column_option("label", "The column with the right answers.")
@where_option
@limit_option
@seed_option("Of all draws.")
@labels_file_option
@template_option
@click.option("--folds", type=click.IntRange(min=2), default=5, metavar="N",
              help="How many parts, without --test. Default: 5.")
@click.option("--shots", multiple=True, type=click.IntRange(min=1), metavar="K",
              help="Also train with K pictures of each class. May be repeated.")
@click.option("--draws", type=click.IntRange(min=1), metavar="N",
              help="How often these are drawn. Default: once for each part; with --test 5 times.")
@click.option("--strength", type=click.FloatRange(min=0, min_open=True), metavar="C",
              help="The inverse strength of the L2 penalty. Default: the best of a sweep, for each part.")
@click.option("--normalize", is_flag=True, help="Scale features to length 1.")
@json_option
@csv_option("Write what each test picture was taken for as CSV.")
@plot_option("--plot", "plot", "Draw the accuracies, with --shots against the number of pictures:")
@force_option
@computing_options(_BATCH, folders=False)
@no_cache_option
def linear_probe(data, test, column, where, limit, seed, labels_file, templates, folds, shots, draws,
                 strength, normalize, as_json, table, plot, force, model, exif, skip_unreadable, batch_size,
                 threads, quiet, no_cache):
    """How good are the features, with a classifier trained on them?

    A logistic regression is trained on the features of pictures and tested with others, and stands beside
    zero-shot on the same pictures. DATA is as for "clipc evaluate zero-shot".

    \b
      clipc evaluate linear-probe photos/
      clipc evaluate linear-probe train/ --test test/ --shots 1 --shots 4 --shots 16 --plot probe.png
      clipc evaluate linear-probe photos/ --strength 1

    The penalty is chosen as in the CLIP paper, on a part of the training pictures. That takes up to 16 fits
    for each part, which is long with many classes; --strength and --folds make it shorter.

    Needs pip install 'clipc[analysis]'.
    """
    _check_files({"--csv": table, "--plot": plot}, force)
    labels = _labels(labels_file)
    pictures = _read(data, column, where)
    tested = _read(test, column, where) if test else None

    from clipc import evaluate as measures

    draw = _plotting() if plot else None
    loaded = load_model(model, threads)
    with wrong_options_named(labels="--labels-file"), resumable(not no_cache):
        result = measures.linear_probe(
            pictures, tested, model=loaded, column=column, labels=labels,
            prompts=list(templates) or "a photo of a {}.", folds=folds, shots=shots or None, draws=draws,
            C=strength, normalize=normalize, limit=limit, seed=seed, batch_size=batch_size, exif=exif,
            cache=not no_cache, skip_unreadable=skip_unreadable, progress=bar_wanted(quiet),
        )
    contents = {}
    if table:
        contents[table] = _csv(_probed(result))
    if plot:
        contents[plot] = draw(result.plot(), plot)
    _finish(result, contents, as_json, lambda: str(result))


@evaluate.command("retrieval", cls=SectionedCommand, sections={
    "column": "Pictures and captions", "top": "Result", "model": "Other options",
}, short_help="Recall from pictures to captions and back.")
@data_argument
@column_option("caption", "The column with the captions.")
@where_option
@limit_option
@seed_option("Of that draw, and of the intervals' bootstrap.")
@click.option("-t", "--template", default="{}", metavar="TEXT", callback=lambda ctx, parameter, value:
              value if "{}" in value else _no_place(value),
              help="Sentence around each caption, with {} in its place. Default: the caption alone.")
@click.option("--truncate", is_flag=True, help="Cut captions that are too long for the model.")
@click.option("-k", "--top", multiple=True, type=click.IntRange(min=1), metavar="K",
              help="Look for what belongs together among the K nearest. May be repeated. "
                   "Default: 1, 5 and 10.")
@json_option
@csv_option("Write at which rank each picture and each caption finds what belongs to it, as CSV.")
@plot_option("--plot", "plot", "Draw the recall with its intervals:")
@force_option
@computing_options(_BATCH, folders=False)
@no_cache_option
def retrieval(data, column, where, limit, seed, template, truncate, top, as_json, table, plot, force, model,
              exif, skip_unreadable, batch_size, threads, quiet, no_cache):
    """Do pictures find their captions, and captions their pictures?

    DATA is a folder that holds labels.csv, or a CSV file: the first row names the columns, "file" says where
    a picture is, "caption" what it shows. A picture with several captions has a row for each.

    \b
      clipc evaluate retrieval captions/
      clipc evaluate retrieval captions/labels.csv --truncate --top 1 --top 5 --plot recall.png

    Printed is recall@k: how often one that belongs to it is among the k nearest. It falls as the collection
    grows, so figures of collections of different sizes cannot be compared.
    """
    _check_files({"--csv": table, "--plot": plot}, force)
    pictures = _read(data, column, where)

    from clipc import evaluate as measures

    draw = _plotting() if plot else None
    loaded = load_model(model, threads)
    with wrong_options_named(labels="--labels-file"), resumable(not no_cache):
        result = measures.retrieval(
            pictures, model=loaded, column=column, k=top or (1, 5, 10), template=template, truncate=truncate,
            limit=limit, seed=seed, batch_size=batch_size, exif=exif, cache=not no_cache,
            skip_unreadable=skip_unreadable, progress=bar_wanted(quiet),
        )
    contents = {}
    if table:
        contents[table] = _csv(_ranks(result))
    if plot:
        contents[plot] = draw(result.plot(), plot)
    _finish(result, contents, as_json, lambda: _retrieval_text(result))
# fmt: on


def _no_place(template):
    raise click.BadParameter(f"{template!r} has no {{}} where the caption goes")


# -- What is asked ---------------------------------------------------------------------------------------


def _read(data, column, where):
    if data == STANDARD_INPUT:
        raise click.UsageError("DATA is a folder or a CSV file; standard input is not read")
    from clipc.labelled_images import read_labelled_images

    pictures = read_labelled_images(os.path.expanduser(data))
    if where:
        pictures = pictures.where(**where)
    pictures.filled_column(column)  # what is wrong with the column shows before a model is loaded
    return pictures


def _labels(labels_file):
    """What `zero_shot` takes for labels: a list, or a dict from values to texts."""
    if not labels_file:
        return None
    lines = [[part.strip() for part in line.split("\t")] for line in read_labels(labels_file)]
    for line in lines:
        if len(line) > 2:
            raise click.ClickException(
                f"{labels_file}: expected a label, or a value, a tab and the words for it; got "
                f"{len(line) - 1} tabs in the line of {line[0]!r}"
            )
    refuse_empty_and_twice([line[0] for line in lines], "label")
    return {line[0]: line[-1] for line in lines}


def _prompts(templates, compared):
    """Name to templates, the first from --template; None for those that the library compares."""
    if not templates and not compared:
        return None
    first = templates or ("{}",)
    prompts = {_name(first): list(first)}
    named = {}
    for text in compared:
        name, separator, template = text.partition("=")
        if not separator or "{}" in name:
            name, template = text, text
        name = name.strip()
        if "{}" not in template:
            raise click.UsageError(f"--compare-template: {template!r} has no {{}} where the label goes")
        if name in prompts or (name == template and name in named):
            raise click.UsageError(f"--compare-template: {name!r} is given more than once")
        named.setdefault(name, []).append(template)
    return {**prompts, **named}


def _name(templates):
    if len(templates) > 1:
        return f"ensemble of {len(templates)}"
    return "label alone" if templates[0] == "{}" else templates[0]


def _conditions(names):
    """The conditions asked for, behind the one that they are compared with."""
    asked = CONDITIONS if "all" in names else names
    return list(dict.fromkeys(["original", *asked]))


def _check_files(paths, force):
    """Refuse names of files that cannot be written, before the work."""
    named = {}
    for option, path in paths.items():
        if path is None:
            continue
        check_output(path, force)
        other = named.setdefault(os.path.realpath(path), option)
        if other != option:
            raise click.UsageError(f"{other} and {option} name the same file, {path}")


# -- Results ---------------------------------------------------------------------------------------------


def _plotting():
    """A function from axes and the name of a file to its content."""
    try:
        import matplotlib
    except ImportError:
        raise click.ClickException(
            "plots need matplotlib, which is not installed: pip install 'clipc[analysis]'"
        ) from None
    matplotlib.use("Agg")  # no window, whatever the settings say

    def draw(axes, path):
        content = io.BytesIO()
        axes.figure.savefig(content, format=os.path.splitext(path)[1][1:].lower(), dpi=150)
        return content.getvalue()

    return draw


def _finish(result, contents, as_json, text):
    """Write the files, all or none, and print."""
    with written_together(list(contents)) as files:
        for file, content in zip(files, contents.values()):
            file.write(content)
    if as_json:
        print_json(result.to_dict())
    else:
        for line in text().split("\n"):
            click.echo(printable(line))


def _csv(rows):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _answers(result):
    yield ["file", "true", "condition", "prompts", "predicted", "probability", "right"]
    for condition in result.conditions:
        for prompts in result.prompts:
            for answer in result.predictions(prompts, condition):
                right = int(answer.predicted == answer.true)
                yield [answer.file, answer.true, condition, prompts, answer.predicted,
                       f"{answer.probability:.6g}", right]  # fmt: skip


def _probed(result):
    yield ["file", "true", "linear probe", "right", "zero-shot", "zero-shot right"]
    answers = zip(result.files, result.true, result.predicted, result.zero_shot.predicted)
    for file, true, probe, zero in answers:
        names = [result.labels[i] for i in (true, probe, zero)]
        yield [file, names[0], names[1], int(probe == true), names[2], int(zero == true)]


def _ranks(result):
    yield ["query", "file", "caption", "rank"]
    ranks = {direction: found.expected() for direction, found in result.ranks.items()}
    for file, rank in zip(result.files, ranks["image to text"]):
        yield ["image", file, "", f"{rank:g}"]
    for caption, position, rank in zip(result.captions, result.image_of, ranks["text to image"]):
        yield ["text", result.files[position], caption, f"{rank:g}"]


def _retrieval_text(result):
    """A row for each direction and k: narrow enough for a terminal."""
    rows, cells = result.rows(), []
    for row in rows:
        for k in result.k:
            bounds = row[f"recall{k}_low"], row[f"recall{k}_high"]
            cells.append(
                [row["direction"], str(k), percent(row[f"recall{k}"], 1), percent_range(bounds, 1),
                 percent(row[f"chance{k}"], 1)]
            )  # fmt: skip
    table = text_table(["direction", "k", "recall@k", "95 % interval", "chance"], cells)
    ranks = "; ".join(f"{row['direction']} {row['median_rank']:g} of {row['n_items']}" for row in rows)
    parts = [f"{result.title}\n{result.summary}", table, f"Median rank: {ranks}"]
    if result.n_unknown:
        captions = count(len(result.captions), "caption")
        parts.append(f"The model lacks words of {result.n_unknown} of {captions}")
    return "\n\n".join(parts)


def _zero_shot_text(result, best, classes, mistakes):
    """Tables that are narrow enough for a terminal."""
    from clipc.evaluate.results import p_text

    rows = result.rows()
    header, cells = ["condition", "prompts"], [[row["condition"], row["prompts"]] for row in rows]
    for k in result.top:
        header += [f"top-{k}", "95 % interval"]
        for row, line in zip(rows, cells):
            line += [percent(row[f"top{k}"], 1), percent_range((row[f"top{k}_low"], row[f"top{k}_high"]), 1)]
    parts = [f"{result.title}\n{result.summary}", text_table(header, cells, n_left=2)]
    if len(rows) > 1:
        header = ["condition", "prompts", "compared with", "difference", "95 % interval", "p (Holm)"]
        cells = [
            [
                row["condition"], row["prompts"], row["compared_with"], percent(row["difference"], 1, "+"),
                percent_range((row["difference_low"], row["difference_high"]), 1, "+"), p_text(row["p_holm"]),
            ]
            for row in rows if row["p"] is not None
        ]  # fmt: skip
        parts.append(f"Differences of top-1, on the same pictures\n\n{text_table(header, cells, n_left=3)}")
    about = f"{best}, {result.conditions[0]}"
    wrong = result.most_confused(mistakes, best) if mistakes else []
    if wrong:
        cells = [[pair["true"], pair["predicted"], str(pair["count"]), str(pair["n"])] for pair in wrong]
        table = text_table(["label", "taken for", "pictures", "of"], cells, n_left=2)
        parts.append(f"Most frequent mistakes ({about})\n\n{table}")
    if classes:
        cells = [
            [
                row["label"], str(row["n"]), percent(row["accuracy"], 1),
                percent_range((row["low"], row["high"]), 1),
                f"{row['taken_for']} ({row['taken_for_count']})" if row["taken_for"] else "",
            ]
            for row in result.per_class(best)
        ]  # fmt: skip
        header = ["label", "pictures", "top-1", "95 % interval", "most often taken for"]
        parts.append(f"Classes ({about})\n\n{text_table(header, cells, n_left_end=1)}")
    if result.unknown_labels:
        shown = ", ".join(result.unknown_labels[:10]) + (", ..." if result.unknown_labels[10:] else "")
        n_unknown = count(len(result.unknown_labels), "label")
        parts.append(f"The model lacks words of {n_unknown}: {shown}")
    return "\n\n".join(parts)
