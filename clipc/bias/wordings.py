"""The same pictures, asked in other words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clipc.as_function import resolve_model
from clipc.bias import statistics
from clipc.bias.audits import judge, positions
from clipc.bias.findings import holm_over_distinct
from clipc.bias.presets import TEMPLATES, Preset
from clipc.bias.samples import CROSS, check_settings, need_analysis, question, read_sample
from clipc.tables import count


def wording(
    images,
    label_sets,
    groups,
    *,
    model=None,
    templates=None,
    aligned=True,
    block=None,
    confidence=0.95,
    resamples=9999,
    top_k=None,
    seed=0,
    batch_size=None,
    exif=False,
    cache=True,
    skip_unreadable=False,
    skip_ungrouped=False,
    progress=False,
):
    """How far the answers, and the gaps between groups, depend on the words that are offered.

    Every label set is put to the model in every template, on the same pictures, which are encoded once.

    Parameters
    ----------
    images, groups, model, block, confidence, resamples, top_k, seed, batch_size, exif, cache, \
skip_unreadable, skip_ungrouped, progress
        As for `clipc.bias.audit`.
    label_sets : dict, or list of str or Preset
        Name to a list of labels, a preset or its name; or a list of presets.
    templates : dict, str, or list of str, optional
        Name to a template, or to a list of templates that are used together as a prompt ensemble. A list has
        one template for each comparison. None: the label alone, and "a photo of a {}."
        (`clipc.bias.TEMPLATES`). A preset's own templates do not count here.
    aligned : bool
        Whether labels of the same position mean the same in label sets of the same length, as "people" and
        "human" in people/gorilla and human/gorilla. Then it is counted how often the answer flips.

    Returns
    -------
    WordingReport

    Raises
    ------
    ValueError, TypeError, OSError, ImageError, ImportError
        As `clipc.bias.audit`; a ValueError also if there is nothing to compare.
    """
    need_analysis()
    check_settings(confidence, resamples, top_k, seed)
    templates = _templates(templates)
    questions = {
        (wording, template): question(labels, texts)
        for wording, labels in _label_sets(label_sets).items()
        for template, texts in templates.items()
    }
    if len(questions) < 2:
        raise ValueError(
            "label_sets: expected two wordings or more to compare, or two templates; for a single one there "
            "is audit"
        )
    model = resolve_model(model)
    sample = read_sample(
        images, groups, block, model=model, batch_size=batch_size, exif=exif, cache=cache,
        skip_unreadable=skip_unreadable, skip_ungrouped=skip_ungrouped, progress=progress,
    )  # fmt: skip
    try:
        reports = {
            key: judge(
                sample, asked, model=model, confidence=confidence, resamples=resamples, top_k=top_k, seed=seed
            )
            for key, asked in questions.items()
        }
    finally:
        statistics.forget_shuffles()
    return _compare(reports, templates, aligned, confidence)


@dataclass(eq=False, repr=False)
class WordingReport:
    """What became of the answers when the words changed. Made by `wording`; prints as tables.

    A gap that comes and goes with a word is a property of the question, and of nobody in the pictures. None
    of the wordings is the true one.

    Attributes
    ----------
    model_name, group_names, groups, counts, block_name, n_blocks, files, group_of, unreadable
        As those of `clipc.bias.AuditReport`.
    label_sets : dict of str to tuple of str
    templates : dict of str to tuple of str
    rows : pandas.DataFrame
        `wording`, `templates`, `group`, `label`, `kind`, `count` of `n` pictures, `share` and its Wilson
        interval `low` to `high`.
    gaps : pandas.DataFrame
        `wording`, `templates`, `label`, `kind`, `difference` between the groups with the largest and the
        smallest share (`highest_group`, `lowest_group`) with Newcombe's interval `low` to `high`, `p` of the
        permutation test, and `p_holm` adjusted for all rows of this table. Intervals and tests as in
        ``AuditReport.comparisons``.
    flips : pandas.DataFrame
        `from` and `to`, two label sets of the same length, in the same `templates`: of `n` pictures `flipped`
        were given a label of another position; `share` with its Wilson interval. Empty unless `aligned`.
    template_flips : pandas.DataFrame
        The same for one `wording` in two templates, `from` and `to`.
    reports : dict of (str, str) to AuditReport
        The whole audit of each wording and template.
    aligned : bool
    notes : list of str
    settings : dict
    """

    model_name: str
    group_names: list
    groups: list
    counts: dict
    block_name: str | None
    n_blocks: int
    files: list
    group_of: np.ndarray
    unreadable: list
    label_sets: dict
    templates: dict
    rows: object
    gaps: object
    flips: object
    template_flips: object
    reports: dict
    aligned: bool
    notes: list
    settings: dict

    def __len__(self):
        return len(self.files)

    def __repr__(self):
        return (
            f"<WordingReport: {count(len(self.label_sets), 'label set')} in "
            f"{count(len(self.templates), 'template')}, {len(self.groups)} groups of "
            f"{CROSS.join(self.group_names)}, {count(len(self), 'picture')}, {self.model_name}>"
        )

    def __str__(self):
        from clipc.bias import report_text

        return report_text.wording_text(self)

    def _repr_html_(self):
        from clipc.bias import report_html

        return report_html.wording_fragment(self)

    def to_markdown(self):
        """The tables in Markdown.

        Returns
        -------
        str
        """
        from clipc.bias import report_text

        return report_text.wording_markdown(self)

    def to_dict(self):
        """Everything but the audits of the wordings as plain values that JSON can hold; None for undefined.

        Returns
        -------
        dict
        """
        from clipc.bias import report_text

        return report_text.wording_dict(self)

    def to_html(self, path=None):
        """A web page of its own, without pictures of people.

        Parameters
        ----------
        path : path, optional
            Where to write it, as UTF-8.

        Returns
        -------
        str
        """
        from clipc.bias import report_html

        page = report_html.wording_page(self)
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(page)
        return page

    def plot(self, ax=None, *, labels=None):
        """The gaps of all wordings beside each other, with intervals.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        labels : list of str, optional
            None: in each wording those with the largest gaps.

        Returns
        -------
        matplotlib Axes
        """
        from clipc.bias import plots

        return plots.plot_wording(self, ax=ax, labels=labels)


def _label_sets(label_sets):
    if isinstance(label_sets, (str, Preset)):
        label_sets = [label_sets]
    if isinstance(label_sets, Mapping):
        named = {str(name): labels for name, labels in label_sets.items()}
    elif isinstance(label_sets, (list, tuple)) and all(isinstance(one, (str, Preset)) for one in label_sets):
        named = {one.name if isinstance(one, Preset) else one: one for one in label_sets}
    else:
        raise TypeError(
            "label_sets: expected a dict from name to a list of labels, or a list of presets, got "
            f"{type(label_sets).__name__}"
        )
    if not named:
        raise ValueError("label_sets: expected at least one label set, got none")
    return named


def _templates(templates):
    if templates is None:
        return dict(TEMPLATES)
    if isinstance(templates, str):
        templates = [templates]
    if not isinstance(templates, Mapping):
        templates = {template: template for template in templates}
    if not templates:
        raise ValueError("templates: expected at least one template, got none")
    return {
        str(name): (texts,) if isinstance(texts, str) else tuple(texts) for name, texts in templates.items()
    }


def _compare(reports, templates, aligned, confidence):
    import pandas

    first = next(iter(reports.values()))
    rows, gaps = [], []
    for (wording, template), report in reports.items():
        here = {"wording": wording, "templates": template}
        for table, parts in ((report.shares, rows), (report.comparisons, gaps)):
            part = table.copy()
            for position, (name, value) in enumerate(here.items()):
                part.insert(position, name, value)
            parts.append(part)
    rows, gaps = pandas.concat(rows, ignore_index=True), pandas.concat(gaps, ignore_index=True)
    gaps["p_holm"] = _holm_of_all(list(reports.values()))
    label_sets = {wording: report.labels for (wording, _), report in reports.items()}

    given = {key: positions(report.predictions, report.labels) for key, report in reports.items()}

    def flipped(before, after):
        times, n = int((given[before] != given[after]).sum()), len(first)
        low, high = statistics.wilson_interval(times, n, confidence)
        return {"n": n, "flipped": times, "share": times / n, "low": float(low), "high": float(high)}

    flips, notes = [], []
    if aligned:
        for a, b in itertools.combinations(label_sets, 2):
            if len(label_sets[a]) == len(label_sets[b]):
                for name in templates:
                    flips.append({"from": a, "to": b, "templates": name, **flipped((a, name), (b, name))})
        if not flips and len(label_sets) > 1:
            notes.append("No two label sets have the same number of labels, so no flips are counted.")
    template_flips = [
        {"wording": wording, "from": a, "to": b, **flipped((wording, a), (wording, b))}
        for wording in label_sets
        for a, b in itertools.combinations(templates, 2)
    ]
    counted = ["n", "flipped", "share", "low", "high"]
    for report in reports.values():
        notes += [note for note in report.notes if note not in notes]
    settings = {
        **first.settings,
        "label_sets": {name: list(labels) for name, labels in label_sets.items()},
        "templates": {name: list(texts) for name, texts in templates.items()},
        "aligned": aligned,
    }
    for name in ("labels", "preset"):
        del settings[name]
    return WordingReport(
        model_name=first.model_name,
        group_names=first.group_names,
        groups=first.groups,
        counts=first.counts,
        block_name=first.block_name,
        n_blocks=first.n_blocks,
        files=first.files,
        group_of=first.group_of,
        unreadable=first.unreadable,
        label_sets=label_sets,
        templates=templates,
        rows=rows[["wording", "templates", "group", "label", "kind", "n", "count", "share", "low", "high"]],
        gaps=gaps[
            ["wording", "templates", "label", "kind", "difference", "low", "high"]
            + ["highest_group", "lowest_group", "p", "p_holm"]
        ],
        flips=pandas.DataFrame(flips, columns=["from", "to", "templates", *counted]),
        template_flips=pandas.DataFrame(template_flips, columns=["wording", "from", "to", *counted]),
        reports=reports,
        aligned=aligned,
        notes=notes,
        settings=settings,
    )


def _holm_of_all(reports):
    """Holm's adjustment over the rows of all reports; rows that are one test in a report are one here."""
    tests = []
    for report in reports:
        tests.append(report.distinct_tests() + (tests[-1].max() + 1 if tests else 0))
    p = np.concatenate([report.comparisons["p"] for report in reports])
    return holm_over_distinct(p, np.concatenate(tests))
