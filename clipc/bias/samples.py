"""What an audit asks, and of which pictures: its arguments, checked and read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipc.arguments import whole_number
from clipc.bias.presets import Preset, find_preset
from clipc.feature_cache import encode_files
from clipc.labelled_images import LabelledImages, read_labelled_images
from clipc.model import check_labels
from clipc.tables import count

CROSS = " × "


def need_analysis():
    """An ImportError that says what to install, unless all packages for statistics are there."""
    try:
        import pandas  # noqa: F401
        import scipy.stats  # noqa: F401
        import statsmodels.stats.proportion  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"clipc.bias needs pandas, SciPy and statsmodels ({error}): pip install 'clipc[analysis]'"
        ) from None


def check_settings(confidence, resamples, top_k, seed):
    """An error unless these are what all audits take."""
    if not isinstance(confidence, (int, float)) or not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, such as 0.95, got {confidence!r}")
    whole_number("resamples", resamples)
    whole_number("seed", seed, least=0)
    if top_k is not None:
        _numbers(top_k)


def top_k_of(top_k, n):
    """The numbers of nearest pictures that `top_k` means for n pictures, as a tuple."""
    if top_k is None:
        return (max(1, min(n // 2, max(10, round(n / 10)))),)
    numbers = _numbers(top_k)
    if max(numbers) > n:
        raise ValueError(f"top_k: expected up to {n}, the number of pictures, got {max(numbers)}")
    return numbers


def _numbers(top_k):
    several = list(top_k) if isinstance(top_k, (list, tuple, np.ndarray)) else [top_k]
    if not several:
        raise ValueError("top_k: the list is empty; expected numbers of pictures, or leave it out")
    return tuple(whole_number("top_k", k) for k in several)


# --- what is asked ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """Labels, templates, and where they come from."""

    labels: tuple
    templates: tuple
    categories: dict
    preset: Preset | None


def question(labels, templates=None):
    """The `Question` that the arguments `labels` and `templates` of `audit` mean."""
    if isinstance(labels, str):
        labels = find_preset(labels)
    preset = labels if isinstance(labels, Preset) else None
    labels = check_labels(preset.labels if preset else labels)
    if len(labels) < 2:
        raise ValueError(
            f"labels: expected two or more, got {labels[0]!r} alone; with one label every picture is given "
            "it, so there is nothing to compare"
        )
    if templates is None:
        templates = preset.templates if preset else ("{}",)
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    return Question(labels, templates, dict(preset.categories) if preset else {}, preset)


# --- who is in the pictures -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sample:
    """The pictures of an audit as features, with their groups and blocks."""

    features: np.ndarray
    files: list
    group_names: list
    groups: list
    group_of: np.ndarray
    block_name: str | None
    block_of: np.ndarray | None
    unreadable: list
    n_ungrouped: int
    settings: dict

    def group_codes(self):
        """The group of each picture as a number from 0, in the order of `groups`."""
        numbers = {group: number for number, group in enumerate(self.groups)}
        return np.array([numbers[group] for group in self.group_of])

    def block_codes(self):
        """The block of each picture as a number from 0, or None."""
        return None if self.block_of is None else np.unique(self.block_of, return_inverse=True)[1]


def read_sample(
    images, groups, block, *, model, batch_size, exif, cache, skip_unreadable, skip_ungrouped, progress
):
    """The `Sample` that the arguments of `audit` mean.

    Whatever is wrong with the columns is found before anything is encoded.
    """
    source = None
    if isinstance(images, (str, os.PathLike, LabelledImages)):
        images = read_labelled_images(images)
        source, files = images.source, list(images.files)
    else:
        files = _names(images)
    n = len(files)
    group_names, group_columns = _columns("groups", groups, images, n)
    block_names, block_columns = ([], []) if block is None else _columns("block", block, images, n)

    named = np.ones(n, bool)
    for argument, names, columns in (
        ("groups", group_names, group_columns), ("block", block_names, block_columns),
    ):  # fmt: skip
        for name, column in zip(names, columns):
            missing = np.array([not value for value in column])
            if missing.any() and not skip_ungrouped:
                first = files[int(np.flatnonzero(missing)[0])]
                raise ValueError(
                    f"{argument}: {missing.sum()} of {count(n, 'picture')} have no {name!r}, {first!r} "
                    "first; leave them out with skip_ungrouped=True, or choose pictures beforehand with "
                    "LabelledImages.where"
                )
            named &= ~missing
    chosen = np.flatnonzero(named)
    rows = list(zip(*group_columns))
    _check_groups([rows[i] for i in chosen], group_names, "")

    encoded = encode_files(
        model, _take(images, chosen), cache=cache, batch_size=batch_size, exif=exif,
        skip_unreadable=skip_unreadable, progress=progress,
    )  # fmt: skip
    chosen = chosen[encoded.kept]
    rows = [rows[i] for i in chosen]
    left_out = count(len(encoded.unreadable), "unreadable picture")
    _check_groups(rows, group_names, f" after leaving out {left_out}")
    blocks = list(zip(*block_columns))
    return Sample(
        features=encoded.features,
        files=[files[i] for i in chosen],
        group_names=group_names,
        groups=[CROSS.join(row) for row in sorted(set(rows), key=_natural)],
        group_of=np.array([CROSS.join(row) for row in rows]),
        block_name=CROSS.join(block_names) or None,
        block_of=np.array([CROSS.join(blocks[i]) for i in chosen]) if blocks else None,
        unreadable=encoded.unreadable,
        n_ungrouped=n - int(named.sum()),
        settings={"source": _short(source), "exif": exif},
    )


def _names(images):
    """What to call pictures that come without a table."""
    several = isinstance(images, np.ndarray) and images.dtype.kind == "f" and images.ndim in (2, 4)
    if not several and not isinstance(images, (list, tuple)):
        is_array = isinstance(images, np.ndarray)
        found = f"an array of shape {images.shape}" if is_array else type(images).__name__
        raise TypeError(
            "images: expected a folder, a CSV file, LabelledImages, a list of images, or float32 features "
            f"(N, D); got {found}"
        )
    if not len(images):
        raise ValueError("images: the list is empty; expected pictures of two groups or more")
    return [
        os.fspath(one) if isinstance(one, (str, os.PathLike)) else f"images[{index}]"
        for index, one in enumerate(images)
    ]


def _columns(argument, asked, images, n):
    """The names and the values (as text) of the columns that `groups` or `block` means."""
    table = images if isinstance(images, LabelledImages) else None
    if isinstance(asked, Mapping):
        names, columns = [str(name) for name in asked], list(asked.values())
        if not names:
            raise ValueError(f"{argument}: the dict is empty; expected a name and its values")
    elif isinstance(asked, str):
        names, columns = [asked], None
    else:
        asked = list(asked) if hasattr(asked, "__iter__") else asked
        if not isinstance(asked, list):
            raise TypeError(
                f"{argument}: expected a column, a list of columns, or one value for each picture, got "
                f"{type(asked).__name__}"
            )
        if not asked:
            raise ValueError(f"{argument}: the list is empty; expected columns, or a value for each picture")
        texts = all(isinstance(name, str) for name in asked)
        if table is not None and texts and (len(asked) != n or set(asked) <= {*table.columns, "file"}):
            names, columns = list(asked), None
        else:
            names, columns = ["group" if argument == "groups" else argument], [asked]
    if columns is None:
        if table is None:
            raise ValueError(
                f"{argument}: {names[0]!r} names a column, but the images come without a table; pass a "
                "folder with labels.csv, or one value for each picture"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"{argument}: a column is named twice in {names}")
        columns = [table.column(name) for name in names]
    for name, column in zip(names, columns):
        if isinstance(column, str) or len(column) != n:
            found = repr(column) if isinstance(column, str) else f"{len(column)} values"
            raise ValueError(
                f"{argument}: expected {n} values of {name!r}, one for each picture, got {found}"
            )
    return names, [[_as_text(value) for value in column] for column in columns]


def _as_text(value):
    if value is None or value != value:  # None, NaN
        return ""
    return str(value).strip()


def _natural(values):
    """Sorts "3-9" before "10-19"."""
    def keys(value):
        parts = filter(None, re.split(r"(\d+)", value))
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]

    return [keys(value) for value in values]


def _check_groups(rows, names, when):
    found = sorted({CROSS.join(row) for row in rows})
    if len(found) < 2:
        there = f"{found[0]!r} only" if found else "none"
        raise ValueError(
            f"groups: expected two or more to compare, {CROSS.join(names)} has {there}{when}; choose another "
            "column, or other pictures"
        )


def _short(source):
    """The end of a path: a report is passed on, and nobody needs to know where its maker keeps files."""
    return source and os.path.join(*Path(source).parts[-2:])


def _take(images, chosen):
    if isinstance(images, LabelledImages):
        return images.take(chosen)
    return images[chosen] if isinstance(images, np.ndarray) else [images[i] for i in chosen]
