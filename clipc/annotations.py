"""Pictures with boxes, as the COCO JSON and the YOLO text format describe them.

Annotation files come from anywhere, so all of it is checked, and every message names the file and the line or
the entry. Nothing in a file is executed: the name lists of YOLO's ``data.yaml`` are read by a few rules of
this module, not by a YAML library.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from clipc import _core, image
from clipc.errors import ImageError, warn

# How far a box may reach over the edge of its picture, as a share of the side. Tools round their coordinates,
# and people draw a little beyond; what goes further is a mistake, such as pixels where shares are expected.
OVERSHOOT = 0.01

# Rounding the sides of a reduced picture to whole pixels changes its proportions by that much.
_ROUNDED_SIDE = 1.0

_NAME_FILES = ("names.txt", "classes.txt", "obj.names")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_HEADER_BYTES = 1 << 16


@dataclass(frozen=True, eq=False)
class AnnotatedPicture:
    """A picture and the boxes of what is in it.

    Attributes
    ----------
    image : path, or another image that clipc takes
        See `clipc.Model.preprocess`.
    width, height : int
        Of the picture as it is stored, pixels; an Exif orientation is not applied.
    boxes : dict from str to float64 array, (N, 4)
        For each label that is present, the boxes (x0, y0, x1, y1) of its instances, in pixels of the picture.
    crowds : dict from str to float64 array, (N, 4)
        Boxes around many instances at once (COCO's ``iscrowd``). No instance is told apart in them, so
        `clipc.evaluate` leaves them out.
    """

    image: object
    width: int
    height: int
    boxes: dict
    crowds: dict = field(default_factory=dict)

    def __post_init__(self):
        for name in ("width", "height"):
            value = getattr(self, name)
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise TypeError(f"{name}: expected a whole number of pixels, got {value!r}")
            if value < 1:
                raise ValueError(f"{name}: expected at least 1 pixel, got {value}")
        for name in ("boxes", "crowds"):
            given = getattr(self, name)
            if not isinstance(given, dict):
                raise TypeError(f"{name}: expected a dict from label to boxes, got {type(given).__name__}")
            checked = {label: _box_array(name, label, boxes) for label, boxes in given.items()}
            object.__setattr__(self, name, {label: boxes for label, boxes in checked.items() if len(boxes)})

    @property
    def name(self):
        """How messages call the picture: its path, if it has one."""
        if isinstance(self.image, (str, os.PathLike)):
            return os.fspath(self.image)
        return f"a picture of {self.width} x {self.height}"


class AnnotatedPictures(list):
    """What `read_boxes` returns: a list of `AnnotatedPicture`, sorted by path.

    Attributes
    ----------
    names : tuple of str
        All classes that the annotations know, in their order, present in a picture or not.
    source : str
        What was read.
    skipped : tuple of (str, str)
        The pictures that were left out because they are missing or cannot be read, each with the reason.
    """

    def __init__(self, pictures=(), *, names=(), source="", skipped=()):
        super().__init__(pictures)
        self.names = tuple(names)
        self.source = source
        self.skipped = tuple(skipped)

    def __repr__(self):
        boxes = sum(len(boxes) for picture in self for boxes in picture.boxes.values())
        return f"<{len(self)} pictures with {boxes} boxes of {len(self.names)} classes: {self.source}>"


def read_boxes(path, *, images=None, names=None, skip_unreadable=False):
    """Read pictures with boxes from a folder or an annotation file.

    Parameters
    ----------
    path : path
        COCO: the JSON file with the instances, or a folder that holds one such file, itself or in
        ``annotations``. YOLO: a folder with ``labels`` and ``images``, or the folder ``labels`` itself.
        A label file lies where its picture does: ``labels/train/1.txt`` and ``images/train/1.jpg``.
    images : path, optional
        The folder of the pictures, where it is not found from `path`.
    names : list of str, or dict from int to str, optional
        YOLO: the names of the classes. Else they come from ``names.txt``, ``classes.txt`` or ``obj.names`` (a
        name on each line), or from ``names`` in a ``.yaml`` file, such as ``data.yaml``.
    skip_unreadable : bool
        Leave out pictures that are missing or cannot be read, with one `ClipcWarning`, instead of raising.

    Returns
    -------
    AnnotatedPictures
        A list of `AnnotatedPicture`, sorted by path. YOLO: all pictures of the folder, also those without a
        label file. COCO: all pictures of the file.

    Raises
    ------
    FileNotFoundError
        A folder, a file, or a picture that the annotations name is not there.
    ImageError
        A picture that cannot be read.
    ValueError
        Annotations that are wrong: the message names the file and the line or entry. Among them: numbers that
        are none, a wrong number of columns, classes that do not exist, boxes that reach over the edge by more
        than 1 % of the side (what reaches over by less is cut), ids that occur twice, pictures outside of the
        folder, JSON of another structure, a folder without annotations.

    Notes
    -----
    COCO boxes are in pixels of the size that the file gives for the picture; where the picture is stored in
    another size of the same proportions they are scaled to it. Boxes without an area are left out, with one
    `ClipcWarning`. Segmentations and key points are not read.
    """
    path = Path(path)
    images = None if images is None else Path(images)
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"images: {str(images)!r} is not a folder")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    labels = _yolo_labels(path, images)
    file = path if path.is_file() else _coco_file(path, named_so=labels is not None)
    if labels is not None and file is not None:
        raise ValueError(
            f"{path}: holds annotations in two formats; pass {str(labels)!r} for YOLO's or {str(file)!r} for "
            "COCO's"
        )
    if labels is not None:
        reader = _Yolo(labels, images or _yolo_images(labels), names, skip_unreadable)
    elif file is not None:
        if names is not None:
            raise ValueError("names: a COCO file has names of its own; leave the argument out")
        reader = _Coco(file, images, skip_unreadable)
    else:
        raise ValueError(
            f"{path}: no annotations found; expected a COCO file (.json, also in a folder 'annotations'), or "
            "YOLO label files in a folder 'labels'"
        )
    return reader.read()


# -- what both formats share -----------------------------------------------------------------------------


class _Reader:
    """Collects pictures, and what was wrong with some of them."""

    def __init__(self, skip_unreadable):
        self.skip_unreadable = skip_unreadable
        self.skipped = []
        self.without_area = 0

    def size_of(self, picture, where):
        """(width, height) of a picture file, or None when it is to be skipped."""
        try:
            if not picture.is_file():
                raise FileNotFoundError(f"{where}: the picture {str(picture)!r} is not there")
            return _picture_size(picture)
        except (OSError, ImageError) as error:
            if not self.skip_unreadable:
                raise
            self.skipped.append((str(picture), str(error)))
            return None

    def cut(self, box, width, height, where):
        """A box in pixels with its overshoot cut off; None for one without an area."""
        for low, high, side, name in (
            (box[0], box[2], width, "horizontally"),
            (box[1], box[3], height, "vertically"),
        ):
            allowed = OVERSHOOT * side
            if low < -allowed or high > side + allowed:
                raise ValueError(
                    f"{where}: the box reaches {name} from {low / side:.4g} to {high / side:.4g} of the "
                    f"picture's side; expected 0 to 1, with {OVERSHOOT:g} to spare"
                )
        x0, x1 = (min(max(x, 0.0), float(width)) for x in (box[0], box[2]))
        y0, y1 = (min(max(y, 0.0), float(height)) for y in (box[1], box[3]))
        if x1 > x0 and y1 > y0:
            return (x0, y0, x1, y1)
        self.without_area += 1
        return None

    def finish(self, pictures, names, source):
        if self.without_area:
            warn(f"{source}: {self.without_area} boxes without an area are left out")
        if self.skipped:
            name, reason = self.skipped[0]
            warn(f"{source}: {len(self.skipped)} pictures are skipped, the first is {name!r}: {reason}")
        if not pictures:
            raise ValueError(f"{source}: no picture{' that can be read' if self.skipped else ''} in it")
        return AnnotatedPictures(pictures, names=names, source=str(source), skipped=self.skipped)


def _box_array(name, label, boxes):
    try:
        array = np.array(boxes, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}[{label!r}]: expected boxes (x0, y0, x1, y1), got {boxes!r}") from None
    if array.size == 0:
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"{name}[{label!r}]: expected shape (N, 4), got {array.shape}")
    if not np.isfinite(array).all() or (array[:, :2] > array[:, 2:]).any():
        raise ValueError(f"{name}[{label!r}]: expected finite x0 <= x1 and y0 <= y1, got {array.tolist()}")
    array.flags.writeable = False
    return array


def _picture_size(path):
    """(width, height) of a picture file as it is stored."""
    with open(path, "rb") as file:
        data = file.read(_HEADER_BYTES)
        try:
            info = _core.image_info(data)
        except ImageError:  # a long header, or a damaged file: all of it tells
            data += file.read()
            try:
                info = _core.image_info(data)
            except ImageError as error:
                raise ImageError(f"{str(path)!r}: {error}") from None
    if info is not None:
        return info[2], info[1]
    height, width = image.to_rgb(path).shape[:2]
    return width, height


def _pictures_below(folder):
    """Relative path without suffix -> picture files, for all pictures of a folder and the folders in it."""
    found, visited = {}, set()
    for root, folders, files in os.walk(folder, followlinks=True):
        # Links may lead in a circle.
        real = os.path.realpath(root)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower().endswith(image.IMAGE_SUFFIXES):
                file = Path(root, name)
                found.setdefault(file.relative_to(folder).with_suffix("").as_posix(), []).append(file)
    return found


def _read_text(path):
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{path}: expected text in UTF-8, got the byte {byte:#04x}") from None


def _check_name(name, where):
    if not isinstance(name, str):
        raise ValueError(f"{where}: expected the name of a class as text, got {name!r}")
    if not name.strip() or not name.isprintable():
        raise ValueError(f"{where}: expected the name of a class, got {name!r}")
    return name.strip()


def _by_class(boxes, names):
    """[(class position, box)] -> {label: (N, 4)}, in the order of the classes."""
    result = {}
    for index, box in sorted(boxes, key=lambda entry: entry[0]):
        result.setdefault(names[index], []).append(box)
    return result


# -- YOLO ------------------------------------------------------------------------------------------------


def _yolo_labels(path, images):
    """The folder of YOLO label files that `path` means, or None."""
    if not path.is_dir():
        return None
    if (path / "labels").is_dir():
        return path / "labels"
    if path.name == "labels":
        return path
    if images is not None and any(path.rglob("*.txt")) and not any(path.glob("*.json")):
        return path
    return None


def _yolo_images(labels):
    folder = labels.parent / "images"
    if not folder.is_dir():
        raise FileNotFoundError(f"{labels.parent}: no folder 'images' beside 'labels'; pass images=")
    return folder


class _Yolo(_Reader):
    def __init__(self, labels, images, names, skip_unreadable):
        super().__init__(skip_unreadable)
        self.labels = labels
        self.images = images
        self.names = _given_names(names) if names is not None else _names_beside(labels)

    def read(self):
        pictures = _pictures_below(self.images)
        texts = {
            file.relative_to(self.labels).with_suffix("").as_posix(): file
            for file in sorted(self.labels.rglob("*.txt"))
            if file.name not in _NAME_FILES and not file.name.startswith(".")
        }
        if not pictures and not texts:
            raise ValueError(f"{self.images}: no pictures, and no label files in {self.labels}")
        if not texts:
            raise ValueError(f"{self.labels}: no label files (.txt)")
        for key in sorted(texts.keys() - pictures.keys()):
            missing = self.images / key
            message = f"{texts[key]}: there is no picture {str(missing) + '.*'!r} for this label file"
            if not self.skip_unreadable:
                raise FileNotFoundError(message)
            self.skipped.append((str(missing), message))
        found = []
        for key in sorted(pictures):
            if len(pictures[key]) > 1:
                same = ", ".join(sorted(file.name for file in pictures[key]))
                raise ValueError(f"{pictures[key][0].parent}: {same} would share one label file")
            picture = self._picture(pictures[key][0], texts.get(key))
            if picture is not None:
                found.append(picture)
        source = self.labels.parent if self.labels.name == "labels" else self.labels
        return self.finish(found, dict.fromkeys(self.names.values()), source)

    def _picture(self, file, text):
        # The text first: a mistake in it does not depend on the picture.
        rows = [] if text is None else self._rows(text)
        size = self.size_of(file, text or file)
        if size is None:
            return None
        width, height = size
        boxes = []
        for where, index, (xc, yc, w, h) in rows:
            box = ((xc - w / 2) * width, (yc - h / 2) * height, (xc + w / 2) * width, (yc + h / 2) * height)
            box = self.cut(box, width, height, where)
            if box is not None:
                boxes.append((index, box))
        return AnnotatedPicture(file, width, height, _by_class(boxes, self.names))

    def _rows(self, text):
        """[(where, class index, (xc, yc, w, h))] of a label file."""
        rows = []
        for number, line in enumerate(_read_text(text).splitlines(), 1):
            where = f"{text}, line {number}"
            columns = line.split()
            if not columns:
                continue
            if len(columns) != 5:
                hint = "; outlines (polygons) are not read" if len(columns) > 6 else ""
                raise ValueError(
                    f"{where}: expected 5 columns, class xc yc w h, got {len(columns)}: {line[:60]!r}{hint}"
                )
            if not re.fullmatch(r"\d{1,9}", columns[0], re.ASCII):
                raise ValueError(f"{where}: expected the index of a class, got {columns[0][:60]!r}")
            index = int(columns[0])
            if index not in self.names:
                raise ValueError(
                    f"{where}: class {index} has no name; the {len(self.names)} names go from "
                    f"{min(self.names)} to {max(self.names)}"
                )
            for column in columns[1:]:
                if not _NUMBER.fullmatch(column):
                    raise ValueError(f"{where}: expected a number, got {column[:60]!r}")
            numbers = tuple(float(column) for column in columns[1:])
            if numbers[2] < 0 or numbers[3] < 0:
                raise ValueError(f"{where}: expected a width and a height of 0 or more, got {line[:60]!r}")
            if max(map(abs, numbers)) > 1 + OVERSHOOT:
                raise ValueError(
                    f"{where}: expected xc yc w h as shares of the picture's sides, 0 to 1, got {line[:60]!r}"
                )
            rows.append((where, index, numbers))
        return rows


def _given_names(names):
    if isinstance(names, (str, bytes)) or not isinstance(names, (list, tuple, dict)):
        raise TypeError(f"names: expected a list of names, or a dict from index to name, got {names!r}")
    items = names.items() if isinstance(names, dict) else enumerate(names)
    result = {}
    for index, name in items:
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise TypeError(f"names: expected class indices, 0 or more, got {index!r}")
        result[index] = _check_name(name, f"names[{index}]")
    if not result:
        raise ValueError("names: expected at least one name")
    return dict(sorted(result.items()))


def _names_beside(labels):
    """The class names in the files beside a folder of labels, or in it."""
    # Above a folder that is not called so lies whatever lies there.
    folders = (labels.parent, labels) if labels.name == "labels" else (labels,)
    for folder in folders:
        for name in _NAME_FILES:
            if (folder / name).is_file():
                return _names_of_lines(folder / name)
    found = {}
    for folder in folders:
        for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            names = _names_of_yaml(file)
            if names is not None:
                found[file] = names
        if found:
            break
    if not found:
        raise FileNotFoundError(
            f"{folders[0]}: no names of the classes; expected {', '.join(_NAME_FILES)} or a .yaml file "
            "with 'names', or pass names="
        )
    (first, names), *others = found.items()
    for file, other in others:
        if other != names:
            raise ValueError(f"{first} and {file} give different names; pass names=")
    return names


def _names_of_lines(file):
    lines = [line.strip() for line in _read_text(file).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(f"{file}: expected the name of a class on each line, got none")
    return {i: _check_name(line, f"{file}, line {i + 1}") for i, line in enumerate(lines)}


def _yaml_item(word_end):
    """A pattern of an optional key and a word, quoted or plain; a plain one has none of `word_end` inside."""
    key = r"""\d{1,9} | '\d{1,9}' | "\d{1,9}" """
    quoted = r"""'(?:[^']|'')*' | "(?:[^"\\]|\\.)*" """
    # What else YAML means by these characters (tags, anchors, blocks) is not for names.
    plain = rf"""(?!-\s) [^\s,\[\]{{}}'"\#&*!|>%@`] (?: (?!:(?:\s|$)) [^\n{word_end}] )*?"""
    return rf"(?: (?P<key> {key} ) \s*:\s+ )? (?P<word> {quoted} | {plain} )"


_YAML_LINE = re.compile(_yaml_item(""), re.X)
# In a list on one line a plain word ends at the first comma or bracket: it is lazy, so what follows pins it.
_YAML_IN_FLOW = re.compile(_yaml_item(r",\[\]{}") + r"\s*(?=[,\]}])", re.X)


def _names_of_yaml(file):
    """``names`` of a YAML file: a list or a dict, in a line or in lines. None when the file has no names.

    Of YAML only what such files hold: plain and quoted words, comments.
    """
    lines = [_without_comment(line) for line in _read_text(file).splitlines()]
    start = next((i for i, line in enumerate(lines) if re.match(r"""(['"]?)names\1\s*:(\s|$)""", line)), None)
    if start is None:
        return None
    where = f"{file}, line {start + 1}"
    rest = lines[start].split(":", 1)[1].strip()
    if rest:
        return _yaml_flow(rest, lines[start + 1 :], where)
    names = {}
    form = None
    for number, line in enumerate(lines[start + 1 :], start + 2):
        if not line.strip():
            continue
        is_item = re.match(r"\s*-(\s|$)", line) is not None
        if not line[0].isspace() and not is_item:
            break  # the next key
        text = line.strip()
        item = _YAML_LINE.fullmatch(text[1:].strip() if is_item else text)
        if item is None or (item["key"] is None) != is_item or form not in (None, is_item):
            raise ValueError(
                f"{file}, line {number}: expected '- name' or 'index: name', got {line.strip()[:60]!r}; "
                "or pass names="
            )
        form = is_item
        _add_yaml_name(names, item, f"{file}, line {number}")
    if not names:
        raise ValueError(f"{where}: expected names after 'names:', got none")
    return dict(sorted(names.items()))


def _yaml_flow(text, following, where):
    """``[a, b]`` or ``{0: a, 1: b}``, which may go on in the following lines."""
    closing = {"[": "]", "{": "}"}.get(text[0])
    if closing is None:
        raise ValueError(f"{where}: expected a list or a dict of names, got {text[:60]!r}; or pass names=")
    wrong = ValueError(f"{where}: cannot read the names, {text[:60]!r}; pass names=")
    text = " ".join([text, *following])
    names, at, key_wanted = {}, 1, closing == "}"
    while True:
        at += len(text[at:]) - len(text[at:].lstrip())
        if text[at : at + 1] == closing:
            break
        item = _YAML_IN_FLOW.match(text, at)
        if item is None or (item["key"] is not None) != key_wanted:
            raise wrong
        _add_yaml_name(names, item, where)
        at = item.end()
        if text[at] == ",":
            at += 1
        elif text[at] != closing:
            raise wrong
    if not names:
        raise ValueError(f"{where}: expected at least one name, got none")
    return dict(sorted(names.items()))


def _add_yaml_name(names, item, where):
    word = item["word"].strip()
    if word[0] == "'":
        word = word[1:-1].replace("''", "'")
    elif word[0] == '"':
        try:
            word = json.loads(word)  # JSON's escapes are a part of YAML's
        except ValueError:
            raise ValueError(f"{where}: cannot read {word[:60]}; pass names=") from None
    index = len(names) if item["key"] is None else int(item["key"].strip("'\""))
    if index in names:
        raise ValueError(f"{where}: the class {index} is named twice")
    names[index] = _check_name(word, where)


def _without_comment(line):
    """A line of YAML without its comment: a # at the start or after a space, not inside quotes."""
    quote = None
    for i, character in enumerate(line):
        if quote is not None:
            quote = None if character == quote else quote
        elif character in "'\"" and (i == 0 or line[i - 1] in " \t,:[{-"):
            quote = character
        elif character == "#" and (i == 0 or line[i - 1].isspace()):
            return line[:i].rstrip()
    return line.rstrip()


# -- COCO ------------------------------------------------------------------------------------------------


def _coco_file(path, *, named_so):
    """The one COCO file of a folder, or None.

    `named_so`: only a file whose name tells what it is; beside YOLO labels another JSON file means nothing.
    """
    for folder in (path, path / "annotations"):
        files = sorted(folder.glob("*.json"))
        instances = [file for file in files if file.name.startswith(("instances", "_annotations.coco"))]
        chosen = instances if instances or named_so else files
        if len(chosen) > 1:
            raise ValueError(
                f"{folder}: several annotation files, {', '.join(file.name for file in chosen[:5])}; pass "
                "the one that is meant"
            )
        if chosen:
            return chosen[0]
    return None


class _Coco(_Reader):
    def __init__(self, file, images, skip_unreadable):
        super().__init__(skip_unreadable)
        self.file = file
        self.images = images

    def read(self):
        content = _load_json(self.file)
        if not isinstance(content, dict):
            raise ValueError(
                f"{self.file}: expected an object with images, annotations and categories, "
                f"got {_kind(content)}"
            )
        lists = {}
        for name in ("images", "annotations", "categories"):
            lists[name] = content.get(name)
            if not isinstance(lists[name], list):
                found = "none" if name not in content else _kind(lists[name])
                raise ValueError(f"{self.file}: expected a list {name!r}, got {found}")
            for i, entry in enumerate(lists[name]):
                if not isinstance(entry, dict):
                    raise ValueError(f"{self.file}, {name}[{i}]: expected an object, got {_kind(entry)}")
        categories = self._by_id("categories", lists["categories"])
        names = {
            id_: _check_name(entry.get("name"), f"{self.file}, {where}, name")
            for id_, (where, entry) in categories.items()
        }
        order = {id_: position for position, id_ in enumerate(names)}
        entries = self._by_id("images", lists["images"])
        files = self._file_names(entries)
        annotations = {id_: [] for id_ in entries}
        for _, (where, entry) in self._by_id("annotations", lists["annotations"], required=False).items():
            for key, known in (("image_id", entries), ("category_id", names)):
                if not _is_id(entry.get(key)) or entry[key] not in known:
                    raise ValueError(f"{self.file}, {where}: there is no {key} {entry.get(key)!r}")
            annotations[entry["image_id"]].append((where, entry))
        folder = self._folder(files.values()) if files else None
        by_position = dict(enumerate(names.values()))
        found = []
        # As the pictures of a YOLO folder are sorted, so that the two formats give the same list.
        key = {id_: PurePosixPath(name).with_suffix("").as_posix() for id_, name in files.items()}
        for id_, relative in sorted(files.items(), key=lambda item: key[item[0]]):
            picture = self._picture(folder / relative, *entries[id_], annotations[id_], order, by_position)
            if picture is not None:
                found.append(picture)
        return self.finish(found, dict.fromkeys(names.values()), self.file)

    def _by_id(self, name, entries, required=True):
        """id -> (where, entry); annotations may come without an id, which then is their position."""
        result = {}
        for i, entry in enumerate(entries):
            where = f"{name}[{i}]"
            id_ = entry.get("id") if required or "id" in entry else ("position", i)
            if not _is_id(id_) and not isinstance(id_, tuple):
                raise ValueError(f"{self.file}, {where}: expected an id, a whole number or text, got {id_!r}")
            if id_ in result:
                raise ValueError(f"{self.file}, {where}: the id {id_!r} is that of {result[id_][0]} already")
            result[id_] = (where, entry)
        return result

    def _file_names(self, entries):
        """Image id -> relative path, checked."""
        files, owner = {}, {}
        for id_, (where, entry) in entries.items():
            name = entry.get("file_name")
            if not isinstance(name, str) or not name or "\0" in name:
                raise ValueError(f"{self.file}, {where}: expected a file_name, got {name!r}")
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or not path.parts:
                raise ValueError(
                    f"{self.file}, {where}: expected a file_name inside the pictures' folder, got {name!r}"
                )
            relative = path.as_posix()
            if relative in owner:
                raise ValueError(
                    f"{self.file}, {where}: the file_name {name!r} is that of {owner[relative]} already"
                )
            owner[relative] = where
            files[id_] = relative
        return files

    def _folder(self, files):
        """The folder that the file names are relative to."""
        if self.images is not None:
            return self.images
        parent = self.file.parent
        roots = [parent, parent.parent] if parent.name == "annotations" else [parent]
        split = self.file.stem.removeprefix("instances_")
        tried = [root / part for root in roots for part in ("", "images", f"images/{split}", split)]
        for folder in tried:
            if folder.is_dir() and any((folder / name).is_file() for name in files):
                return folder
        raise FileNotFoundError(
            f"{self.file}: none of its pictures is in {', '.join(repr(str(folder)) for folder in tried)}; "
            "pass images="
        )

    def _picture(self, path, where, entry, annotations, order, names):
        boxes = [self._box(*annotation) for annotation in annotations]
        size = self.size_of(path, f"{self.file}, {where}")
        if size is None:
            return None
        width, height = size
        told_width, told_height = self._told_size(entry, where, size)
        kinds = ([], [])
        for where_box, category, (x, y, w, h), is_crowd in boxes:
            box = (x, y, x + w, y + h)
            cut = self.cut(box, told_width, told_height, f"{self.file}, {where_box}")
            if cut is not None:
                scaled = tuple(
                    value * side / told
                    for value, side, told in zip(cut, (width, height) * 2, (told_width, told_height) * 2)
                )
                kinds[is_crowd].append((order[category], scaled))
        return AnnotatedPicture(path, width, height, *(_by_class(kind, names) for kind in kinds))

    def _told_size(self, entry, where, size):
        """(width, height) that the boxes of a picture refer to."""
        if entry.get("width") is None and entry.get("height") is None:
            return size
        told = (entry.get("width"), entry.get("height"))
        for value in told:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"{self.file}, {where}: expected a width and a height in pixels, got {told}")
        # Which sides a reduced picture may have is known to a pixel.
        if abs(size[0] * told[1] - size[1] * told[0]) > _ROUNDED_SIDE * max(told):
            raise ValueError(
                f"{self.file}, {where}: the picture {entry['file_name']!r} has {size[0]} x {size[1]} pixels, "
                f"other proportions than the {told[0]} x {told[1]} of the annotations; was it cropped, or "
                "turned as its Exif orientation says?"
            )
        return told

    def _box(self, where, entry):
        numbers = entry.get("bbox")
        good = isinstance(numbers, list) and len(numbers) == 4
        if not good or not all(_is_number(number) for number in numbers):
            raise ValueError(
                f"{self.file}, {where}: expected a bbox [x, y, width, height], got {_short(numbers)}"
            )
        if numbers[2] < 0 or numbers[3] < 0:
            raise ValueError(f"{self.file}, {where}: expected a width and height of 0 or more, got {numbers}")
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise ValueError(f"{self.file}, {where}: expected 0 or 1 for iscrowd, got {_short(crowd)}")
        return where, entry["category_id"], tuple(float(number) for number in numbers), int(crowd)


def _load_json(file):
    text = _read_text(file)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{file}, line {error.lineno}, column {error.colno}"
        raise ValueError(f"{place}: expected JSON, but {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{file}: the JSON is nested too deeply") from None
    except ValueError as error:  # a whole number of more digits than Python converts
        raise ValueError(f"{file}: {error}") from None


def _is_id(value):
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_number(value):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e15  # also refuses NaN and infinity, which Python's JSON knows


def _kind(value):
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
