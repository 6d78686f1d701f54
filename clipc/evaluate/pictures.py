"""The pictures of an evaluation with what is written beside them: read, drawn from, encoded, checked."""

from __future__ import annotations

import os

import numpy as np

from clipc.arguments import whole_number
from clipc.evaluate.conditions import ORIGINAL
from clipc.feature_cache import encode_files
from clipc.labelled_images import LabelledImages, read_labelled_images
from clipc.vectors import draw_positions, unit_rows


class Pictures:
    """Pictures, their names, and the value that one column has for each.

    Attributes
    ----------
    images : LabelledImages, list of images, or float array (N, 3, R, R) or (N, D)
    names : list of str
        What people are told: the file, or "image 3" for what has no name, counted from 0.
    values : list of str
    source : str
    """

    def __init__(self, images, names, values, source):
        self.images = images
        self.names = names
        self.values = values
        self.source = source

    def __len__(self):
        return len(self.values)

    def take(self, positions):
        """These pictures, in this order."""
        positions = [int(i) for i in positions]
        if isinstance(self.images, LabelledImages):
            images = self.images.take(positions)
        elif isinstance(self.images, np.ndarray):
            images = self.images[positions]
        else:
            images = [self.images[i] for i in positions]
        return Pictures(
            images, [self.names[i] for i in positions], [self.values[i] for i in positions], self.source
        )

    def draw(self, limit, seed):
        """At most `limit` of them, drawn at random, in their order."""
        if limit is None:
            return self
        limit = whole_number("limit", limit)
        if limit >= len(self):
            return self
        return self.take(draw_positions(len(self), limit, seed))


def read_pictures(data, column, name="data"):
    """What `data` means.

    Parameters
    ----------
    data : path, LabelledImages, or (images, list of str)
        A folder or a CSV as for `clipc.labelled_images.read_labelled_images`; or images, which may be a
        float32 array (N, 3, R, R) of preprocessed pictures or (N, D) of features, and a value for each.
    column : str
        Of the CSV.

    Returns
    -------
    Pictures

    Raises
    ------
    ValueError
        No such column, an empty value, no pictures, as many values as pictures are needed.
    TypeError, OSError
    """
    if isinstance(data, (str, os.PathLike)):
        data = read_labelled_images(data)
    if isinstance(data, LabelledImages):
        values = data.filled_column(column)
        pictures = Pictures(data, list(data.files), values, data.source)
        where = f"column {column!r}"
    elif isinstance(data, tuple) and len(data) == 2:
        images, values = data
        if isinstance(images, LabelledImages):
            names = list(images.files)
        elif isinstance(images, (list, tuple, np.ndarray)):
            images = images if isinstance(images, np.ndarray) and images.dtype.kind == "f" else list(images)
            names = [
                os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {i}"
                for i, image in enumerate(images)
            ]
        else:
            raise TypeError(f"{name}: expected a list of images or an array, got {type(images).__name__}")
        values = [values] if isinstance(values, str) else list(values)
        if len(values) != len(names):
            raise ValueError(
                f"{name}: expected one value for each image, got {len(names)} images and {len(values)}"
            )
        pictures = Pictures(images, names, values, "given images")
        where = "the values"
    else:
        raise TypeError(
            f"{name}: expected a folder, a CSV file, LabelledImages or (images, values), "
            f"got {type(data).__name__}"
        )
    if not len(pictures):
        raise ValueError(f"{name}: there are no images in {pictures.source}")
    for one, value in zip(pictures.names, pictures.values):
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected str in {where}, got {type(value).__name__} for {one}")
        if not value.strip():
            raise ValueError(f"{name}: {where} is empty for {one}; leave such images out")
    return pictures


def encode(model, pictures, condition=ORIGINAL, **options):
    """The features of pictures, checked, and which could be read.

    Parameters
    ----------
    model : Model
    pictures : Pictures
    condition : Condition
    **options
        For `clipc.feature_cache.encode_files`.

    Returns
    -------
    features : float32 array, (n, D)
    kept : int array, (n,)
    unreadable : list of (str, str)
    """
    changed = None if condition.name == ORIGINAL.name else condition
    if changed is not None and isinstance(pictures.images, np.ndarray):
        raise ValueError(
            f"conditions: {condition.name!r} needs pictures, not preprocessed arrays or features"
        )
    encoded = encode_files(model, pictures.images, condition=changed, **options)
    features = check_features(encoded.features, "features", columns=model.embed_dim)
    return features, np.asarray(encoded.kept), list(encoded.unreadable)


def check_features(features, name, rows=None, columns=None):
    """The features as a floating-point array (N, D); ValueError where they are none."""
    features = np.asarray(features)
    if features.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected numbers, got {features.dtype}")
    wanted = f"({'N' if rows is None else rows}, {'D' if columns is None else columns})"
    if (
        features.ndim != 2
        or 0 in features.shape
        or (rows is not None and len(features) != rows)
        or (columns is not None and features.shape[1] != columns)
    ):
        raise ValueError(f"{name}: expected shape {wanted}, got {features.shape}")
    if not np.isfinite(features).all():
        bad = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity in row {bad}")
    return features if features.dtype.kind == "f" else features.astype(np.float32)


def cosines(rows, columns):
    """The cosines of the angles between rows, (N, D), and other rows, (M, D): float32 (N, M).

    Rows that are equal give numbers that are equal: each different row is multiplied once, since a matrix
    product may round the same sum in two ways, and a tie would look like an order.
    """
    rows, which_row = np.unique(unit_rows(rows), axis=0, return_inverse=True)
    columns, which_column = np.unique(unit_rows(columns), axis=0, return_inverse=True)
    return (rows @ columns.T)[np.ix_(which_row.ravel(), which_column.ravel())]
