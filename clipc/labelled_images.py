"""Pictures and what is known of them: a folder with ``labels.csv``, a CSV file, a folder of class folders.

    data = read_labelled_images("fairface_val")
    data.where(age=["60-69", "70+"], core=1).column("gender")

A CSV file names its columns in the first row, and the picture of each row in the column ``file``. It is read
strictly: whatever does not fit is an error that names the line, for a row that slips by one column would
quietly give pictures the labels of something else.
"""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

import numpy as np

from clipc.arguments import whole_number
from clipc.errors import warn
from clipc.image import IMAGE_SUFFIXES
from clipc.tables import count, data_frame
from clipc.vectors import draw_positions

LABELS_FILE = "labels.csv"
FILE_COLUMN = "file"
CLASS_COLUMN = "label"  # for a folder of class folders


def read_labelled_images(path, *, column=None):
    """Read which pictures there are, and their labels. The pictures themselves are not opened.

    Parameters
    ----------
    path : str, os.PathLike or LabelledImages
        - A folder that holds ``labels.csv``, or a ``.csv`` file. The first row names the columns; `file` is
          needed, and tells where a picture is, relative to the folder of the CSV file or, where that does
          not exist, to the folder above. UTF-8, with or without a byte order mark; commas; quotes where a
          value holds a comma. Spaces around a value do not count, nor do empty lines and columns without a
          name.
        - A folder with a subfolder for each class: all images in it and below, and a column `label` with the
          name of the subfolder. Hidden files and folders do not count.
        - What this function returned.
    column : str or sequence of str, optional
        Columns that must be there, with a value in every row.

    Returns
    -------
    LabelledImages

    Raises
    ------
    OSError
        The folder or the file cannot be read.
    ValueError
        It is not as described; the message says what to do, and for a CSV file names the line.
    TypeError
        `path` is no path.

    Warns
    -----
    ClipcWarning
        Class folders without images, and images beside the class folders: both are left out.
    """
    data = path if isinstance(path, LabelledImages) else _read(path)
    for name in (column,) if isinstance(column, str) else column or ():
        data.filled_column(name)
    return data


class LabelledImages:
    """Pictures and what is known of each. Made by `read_labelled_images`.

    Parameters
    ----------
    files : sequence of str
    paths : sequence of str
    columns : dict of str to sequence of str
    source : str
    lines : sequence of int, optional
        Where in the source each row stands, for messages.

    Attributes
    ----------
    files : list of str
        The pictures as the source names them; one may be there more than once.
    paths : list of str
        Where they are.
    columns : dict of str to list of str
        All columns but `file`; a value that is missing is an empty text.
    source : str
        What was read.
    """

    def __init__(self, files, paths, columns, source, lines=None):
        self.files = list(files)
        self.paths = list(paths)
        self.columns = {name: list(values) for name, values in columns.items()}
        self.source = source
        self._lines = None if lines is None else list(lines)
        for name, values in {"paths": self.paths, **self.columns}.items():
            if len(values) != len(self.files):
                raise ValueError(f"{name}: expected {len(self.files)} values, one a file, got {len(values)}")

    def __len__(self):
        return len(self.files)

    def __repr__(self):
        columns = ", ".join(self.columns) or "none"
        return f"<LabelledImages: {count(len(self), 'row')} of {self.source}; columns: {columns}>"

    def column(self, name):
        """The values of a column, one for each picture.

        Parameters
        ----------
        name : str

        Returns
        -------
        list of str

        Raises
        ------
        ValueError
            There is no such column; the message names those there are.
        """
        if name == FILE_COLUMN:
            return list(self.files)
        if name not in self.columns:
            known = ", ".join(self.columns) or f"no columns but {FILE_COLUMN!r}"
            raise ValueError(f"{self.source}: there is no column {name!r}; there are {known}")
        return list(self.columns[name])

    def filled_column(self, name):
        """As `column`; also a ValueError where a value is missing, which says in which lines."""
        values = self.column(name)
        empty = [row for row, value in enumerate(values) if not value]
        if len(empty) == len(values) and values:
            raise ValueError(f"{self.source}: the column {name!r} is empty")
        if empty:
            raise ValueError(
                f"{self.source}: the column {name!r} has no value in {self._places(empty)}; fill it in, or "
                "choose rows with where()"
            )
        return values

    def where(self, **conditions):
        """The pictures that meet all conditions.

        Parameters
        ----------
        **conditions
            Column name to the value that it shall have, or to a list of values of which it shall have one.
            Values are compared as text: ``where(age="70+", core=1)``.

        Returns
        -------
        LabelledImages

        Raises
        ------
        ValueError
            There is no such column, or no picture is left; the message names the values there are.
        """
        kept = range(len(self))
        for name, wanted in conditions.items():
            values = self.column(name)
            several = isinstance(wanted, (list, tuple, set, frozenset, np.ndarray))
            wanted = [str(value) for value in wanted] if several else [str(wanted)]
            there = dict.fromkeys(values[row] for row in kept)
            kept = [row for row in kept if values[row] in wanted]
            if not kept:
                asked = " or ".join(f"{name}={value!r}" for value in wanted) or f"{name}=[]"
                raise ValueError(
                    f"{self.source}: no picture has {asked}; the values of {name!r} are {_listed(there)}"
                )
        return self.take(kept)

    def take(self, indices):
        """Some of the pictures, in the order given.

        Parameters
        ----------
        indices : sequence of int, or of bool (one for each picture)

        Returns
        -------
        LabelledImages

        Raises
        ------
        IndexError
            A position that there is not.
        """
        indices = np.asarray(indices)
        if indices.dtype == bool and indices.shape != (len(self),):
            raise ValueError(
                f"indices: expected {len(self)} values, one a picture, got shape {indices.shape}"
            )
        if not indices.size:
            indices = indices.astype(np.int64)
        rows = np.arange(len(self))[indices].tolist()

        def chosen(values):
            return [values[row] for row in rows]

        columns = {name: chosen(values) for name, values in self.columns.items()}
        lines = self._lines and chosen(self._lines)
        return LabelledImages(chosen(self.files), chosen(self.paths), columns, self.source, lines)

    def sample(self, n, seed=0):
        """Some of the pictures, drawn at random without repetition, in their order.

        Parameters
        ----------
        n : int
            All of them if there are no more.
        seed : int
            Same seed, same pictures.

        Returns
        -------
        LabelledImages
        """
        return self.take(draw_positions(len(self), whole_number("n", n), seed))

    def counts(self, name):
        """How many pictures have each value of a column.

        Parameters
        ----------
        name : str

        Returns
        -------
        dict from str to int
            In the order in which the values appear.
        """
        found = {}
        for value in self.column(name):
            found[value] = found.get(value, 0) + 1
        return found

    def to_rows(self):
        """A dict for each picture: `file` and the columns.

        Returns
        -------
        list of dict
        """
        names = [FILE_COLUMN, *self.columns]
        return [dict(zip(names, values)) for values in zip(self.files, *self.columns.values())]

    def to_pandas(self):
        """`to_rows` as a ``pandas.DataFrame``. Needs the extra ``clipc[analysis]``."""
        return data_frame(self.to_rows())

    def _places(self, rows):
        if self._lines is None:
            named = ", ".join(repr(self.files[row]) for row in rows[:5])
        else:
            named = f"line{'s' * (len(rows) > 1)} " + ", ".join(str(self._lines[row]) for row in rows[:5])
        return named + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def _read(path):
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise TypeError(f"expected the path of a folder or of a CSV file, got {type(path).__name__}")
    source = os.fspath(path)
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        table = path / LABELS_FILE
        return _read_csv(table, str(table)) if table.is_file() else _read_class_folders(path, source)
    if path.exists() and path.suffix.lower() != ".csv":
        raise ValueError(f"{source}: expected a folder, or a file with the ending .csv")
    return _read_csv(path, source)


# -- CSV -------------------------------------------------------------------------------------------------


def _read_csv(path, source):
    reader = csv.reader(io.StringIO(_text_of(path, source), newline=""), skipinitialspace=True, strict=True)
    records = _records(reader, source)
    line, header = next(records, (1, None))
    if header is None:
        raise ValueError(f"{source}: the file is empty; expected a first row with the names of the columns")
    _check_header(header, f"{source}, line {line}")
    lines, rows = [], []
    for line, record in records:
        if len(record) != len(header):
            hint = "; put a value with a comma in quotes" if len(record) > len(header) else ""
            raise ValueError(
                f"{source}, line {line}: expected {count(len(header), 'value')}, one for each of the columns "
                f"{', '.join(header)}, got {len(record)}{hint}"
            )
        lines.append(line)
        rows.append(record)
    if not rows:
        raise ValueError(f"{source}: no rows below the names of the columns")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header) if name}
    files = columns.pop(FILE_COLUMN)
    for line, file in zip(lines, files):
        _check_file_name(file, f"{source}, line {line}")
    located = {file: _locate(path.parent, file) for file in dict.fromkeys(files)}
    return LabelledImages(files, [located[file] for file in files], columns, source, lines)


def _text_of(path, source):
    raw = path.read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{source}: is UTF-16; save it as UTF-8 (in Excel: 'CSV UTF-8')")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A mark in front is not part of what the decoder counts.
        begin = error.start + 3 * raw.startswith(b"\xef\xbb\xbf")
        line = len(raw[:begin].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))
        raise ValueError(
            f"{source}, line {line}: is not UTF-8; save the file as UTF-8 (in Excel: 'CSV UTF-8')"
        ) from None


def _records(reader, source):
    """(line that it begins in, values) of each record with anything in it."""
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{source}, line {line}: is not a row of a CSV file: {error}") from None
        if any("\0" in value for value in record):
            raise ValueError(f"{source}, line {line}: holds a zero byte, so this is no CSV file")
        values = [value.strip() for value in record]
        if any(values):
            yield line, values


def _check_header(header, where):
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and separator in header[0]:
            raise ValueError(
                f"{where}: expected columns separated by commas, they are separated by {name}; save the file "
                "with commas"
            )
    named = [name for name in header if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{where}: the column {twice!r} is there twice; give each a name of its own")
    if FILE_COLUMN not in named:
        raise ValueError(
            f"{where}: expected a column {FILE_COLUMN!r}, which tells where each picture is; the columns are "
            f"{', '.join(named) or 'all without a name'}"
        )


def _check_file_name(file, where):
    if not file:
        raise ValueError(f"{where}: the column {FILE_COLUMN!r} has no value")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", file):
        raise ValueError(f"{where}: expected a file, got a URL, {file!r}; clipc does not download pictures")


def _locate(folder, file):
    """Where a file is: below the CSV file's folder, else below the one above, else as in the former."""
    # A file made on Windows; elsewhere a backslash may also be part of a name.
    spellings = [file, file.replace("\\", "/")] if "\\" in file else [file]
    for place in (folder, folder.parent if folder.name else folder / os.pardir):
        for spelling in spellings:
            candidate = os.path.join(place, spelling)
            if os.path.exists(candidate):
                return candidate
    return os.path.join(folder, file)


# -- Class folders ---------------------------------------------------------------------------------------


def _read_class_folders(folder, source):
    classes, loose, tables = [], 0, []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            classes.append(entry.name)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            loose += 1
        elif entry.name.lower().endswith(".csv"):
            tables.append(entry.name)
    found = {name: _images_below(folder / name) for name in classes}
    files, labels = [], []
    for name, images in found.items():
        files += [os.path.join(name, image) for image in images]
        labels += [name] * len(images)
    if not files:
        hint = f"; it holds {', '.join(tables)}: name the file that is meant" if tables else ""
        there = count(loose, "image") if loose else "no images"
        raise ValueError(
            f"{source}: expected {LABELS_FILE}, or a subfolder with images for each class; there is neither, "
            f"and {there} beside them{hint}"
        )
    empty = [name for name, images in found.items() if not images]
    if empty:
        warn(f"{source}: no images in the class folder{'s' * (len(empty) > 1)} {_listed(empty)}, left out")
    if loose:
        warn(f"{source}: {count(loose, 'image')} beside the class folders, without a class, left out")
    paths = [os.path.join(folder, file) for file in files]
    return LabelledImages(files, paths, {CLASS_COLUMN: labels}, source)


def _images_below(folder):
    """Images of a folder and those below it, relative to it, sorted."""

    def fail(error):
        raise error

    found = []
    for place, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.relpath(os.path.join(place, name), folder)
            for name in files
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found)


def _listed(values, most=10):
    values = list(values)
    shown = ", ".join(repr(value) for value in values[:most])
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")
