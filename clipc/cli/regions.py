"""The file of ``clipc detect --boxes``: regions of images, as JSON or CSV."""

from __future__ import annotations

import csv
import json
import math
import os

import click

from clipc.cli.inputs import read_lines


def regions_of(sources, path):
    """The regions of each image, from a file: a list of float32 arrays (N, 4)."""
    import numpy as np

    regions = _read_regions(path)
    if not isinstance(regions, dict):
        if len(sources) > 1:
            raise click.UsageError(
                f"--boxes: {path} does not say which image its boxes are of, and there are {len(sources)}"
            )
        regions = {sources[0].name: regions}
    found = []
    for source in sources:
        boxes = regions.get(source.name, regions.get(os.path.basename(source.name)))
        if not boxes:
            raise click.ClickException(f"{path}: no boxes of the image {source.name}")
        found.append(np.array(boxes, np.float32))
    return found


def _read_regions(path):
    """[(x0, y0, x1, y1)] of a JSON or CSV file; a dict from image to such lists where it names images."""
    lines = read_lines(path)
    if path.lower().endswith(".csv"):
        return _regions_of_rows(path, csv.reader(lines))
    try:
        document = json.loads("\n".join(lines))
    except ValueError as error:
        raise click.ClickException(f"{path}: expected JSON, or a name that ends with .csv: {error}") from None
    if not isinstance(document, dict):
        return _regions_of_list(path, "boxes", document)
    return {image: _regions_of_list(path, image, boxes) for image, boxes in document.items()}


def _regions_of_list(path, what, boxes):
    if not isinstance(boxes, list):
        raise click.ClickException(f"{path}: {what}: expected a list of boxes [x0, y0, x1, y1]")
    return [_region(f"{path}: {what}, box {i}", box) for i, box in enumerate(boxes, 1)]


def _regions_of_rows(path, reader):
    wanted, regions, named = None, {}, False
    for cells in reader:
        where = f"{path}: line {reader.line_num}"
        if not any(cell.strip() for cell in cells):
            continue
        if wanted is None:
            head = [cell.strip().lower() for cell in cells]
            wanted = {name: head.index(name) for name in ("image", "x0", "y0", "x1", "y1") if name in head}
            named = "image" in wanted
            if len(wanted) - named == 4:
                continue
            if wanted or len(cells) != 4:
                raise click.ClickException(
                    f"{where}: expected the columns x0, y0, x1, y1, and perhaps image, got {', '.join(cells)}"
                )
            wanted = {"x0": 0, "y0": 1, "x1": 2, "y1": 3}
        if len(cells) <= max(wanted.values()):
            raise click.ClickException(
                f"{where}: expected {max(wanted.values()) + 1} columns, got {len(cells)}"
            )
        image = cells[wanted["image"]] if named else None
        region = _region(where, [cells[wanted[name]] for name in ("x0", "y0", "x1", "y1")])
        regions.setdefault(image, []).append(region)
    return regions if named else regions.get(None, [])


def _region(where, box):
    try:
        x0, y0, x1, y1 = (float(side) for side in box)
    except (TypeError, ValueError):
        raise click.ClickException(f"{where}: expected four numbers x0, y0, x1, y1, got {box}") from None
    if not (math.isfinite(x0 + y0 + x1 + y1) and x0 < x1 and y0 < y1):
        raise click.ClickException(f"{where}: expected x0 < x1 and y0 < y1, got {box}")
    return x0, y0, x1, y1
