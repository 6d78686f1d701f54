"""Detections: parts and copies, the forms of other tools, how they print, refusals."""

import copy
import csv
import dataclasses
import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from availability import require

from clipc import detections
from clipc.detections import Detection, Detections, label_colour

LABELS = ("car", "traffic light", "dog")
MAPS = {"car": np.zeros((480, 640), np.float32)}
FOUND = (
    Detection("dog", 0.75, (10, 20, 110.5, 220.25)),
    Detection("car", 0.5, (-3, 0, 640.125, 33)),
    Detection("dog", 0.25, (1, 2, 3, 4)),
    Detection("car", 0.125, (5, 5, 5, 9)),
)


def found(items=FOUND, **changes):
    return Detections(
        items, **{"image_size": (640, 480), "labels": LABELS, "method": "windows", "maps": MAPS, **changes}
    )


def same_but(part, items):
    """Whether `part` is a `Detections` with these items and the attributes of `found()`."""
    assert type(part) is Detections and list(part) == list(items)
    assert part.image_size == (640, 480) and part.labels == LABELS and part.method == "windows"
    assert part.maps.keys() == MAPS.keys()
    return True


# ---- a detection ----


def test_detection():
    detection = Detection("dog", np.float32(0.5), np.array([1, 2, 3, 4], np.float32))
    assert detection == Detection("dog", 0.5, (1.0, 2.0, 3.0, 4.0)) and len({detection, FOUND[2]}) == 2
    assert [type(value) for value in (detection.score, *detection.box)] == [float] * 5
    assert repr(FOUND[0]) == "Detection('dog', 0.750, (10.0, 20.0, 110.5, 220.2))"
    with pytest.raises(dataclasses.FrozenInstanceError):
        detection.score = 1
    assert not hasattr(detection, "__dict__")
    for clone in (pickle.loads(pickle.dumps(detection)), copy.deepcopy(detection)):
        assert clone == detection


@pytest.mark.parametrize(
    ("label", "score", "box", "error", "words"),
    [
        (3, 0.5, (1, 2, 3, 4), TypeError, "label: expected a str, got int"),
        ("dog", "high", (1, 2, 3, 4), TypeError, "score: expected a number, got 'high'"),
        ("dog", None, (1, 2, 3, 4), TypeError, "score: expected a number"),
        ("dog", float("nan"), (1, 2, 3, 4), ValueError, "score: expected a finite number, got nan"),
        ("dog", 0.5, (1, 2, 3), TypeError, r"box: expected four numbers \(x0, y0, x1, y1\), got \(1, 2, 3\)"),
        ("dog", 0.5, 7, TypeError, "box: expected four numbers"),
        ("dog", 0.5, (1, 2, 0, 4), ValueError, "x0 <= x1 and y0 <= y1, got"),
        ("dog", 0.5, (1, 5, 3, 4), ValueError, "x0 <= x1 and y0 <= y1, got"),
        ("dog", 0.5, (1, 2, float("inf"), 4), ValueError, "box: expected finite"),
        ("dog", 0.5, (float("nan"), 2, 3, 4), ValueError, "box: expected finite"),
    ],
)
def test_wrong_detections(label, score, box, error, words):
    with pytest.raises(error, match=words):
        Detection(label, score, box)


# ---- the list, its parts and copies ----


def test_attributes():
    boxes = found()
    assert same_but(boxes, FOUND) and boxes.maps is MAPS and len(boxes) == 4
    assert boxes[0] is FOUND[0] and boxes[-1] is FOUND[3]
    plain = Detections(iter(FOUND), image_size=[np.int64(640), 480], labels=list(LABELS), method="owl")
    assert plain.maps is None and plain.image_size == (640, 480) and plain.labels == LABELS
    assert plain == boxes  # as lists
    assert Detections([], image_size=(1, 1), labels=(), method="owl") == []


def test_slices_and_copies():
    boxes = found()
    assert same_but(boxes[1:3], FOUND[1:3]) and same_but(boxes[::-1], FOUND[::-1]) and same_but(boxes[9:], [])
    for clone in (
        boxes.copy(), copy.copy(boxes), copy.deepcopy(boxes), *(
            pickle.loads(pickle.dumps(boxes, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
        ),
    ):  # fmt: skip
        assert same_but(clone, FOUND) and clone is not boxes
        clone.pop()
    assert len(boxes) == 4


def test_above():
    boxes = found()
    assert same_but(boxes.above(0.25), FOUND[:2])  # not equal ones
    assert same_but(boxes.above(np.float32(-1)), FOUND) and same_but(boxes.above(1), [])
    with pytest.raises(TypeError, match="threshold: expected a number, got 'dog'"):
        boxes.above("dog")
    with pytest.raises(ValueError, match="NaN"):
        boxes.above(float("nan"))


def test_of():
    boxes = found()
    assert same_but(boxes.of("dog"), FOUND[::2]) and same_but(boxes.of("traffic light"), [])
    message = "label: 'cat' was not looked for; expected one of 'car', 'traffic light', 'dog'$"
    with pytest.raises(ValueError, match=message):
        boxes.of("cat")
    many = found([], labels=[f"label {i}" for i in range(30)])
    with pytest.raises(ValueError, match="'label 9' and 20 more$"):
        many.of("cat")
    with pytest.raises(TypeError, match="label: expected a str, got list"):
        boxes.of(["dog"])


def test_arrays():
    boxes = found()
    assert boxes.boxes.dtype == np.float32 and boxes.boxes.tolist() == [list(item.box) for item in FOUND]
    assert boxes.scores.dtype == np.float32 and boxes.scores.tolist() == [0.75, 0.5, 0.25, 0.125]
    assert boxes.label_ids.dtype == np.int64 and boxes.label_ids.tolist() == [2, 0, 2, 0]
    nothing = boxes[:0]
    assert nothing.boxes.shape == (0, 4) and nothing.scores.shape == nothing.label_ids.shape == (0,)


# ---- for other tools ----


def test_to_coco():
    assert found().to_coco()[:2] == [
        {"category_id": 3, "bbox": [10, 20, 100.5, 200.25], "score": 0.75},
        {"category_id": 1, "bbox": [-3, 0, 643.125, 33], "score": 0.5},
    ]
    ids = {"dog": np.int64(18), "car": 3}
    results = found().to_coco(np.int32(7), category_ids=ids)
    assert [entry["category_id"] for entry in results] == [18, 3, 18, 3]
    assert all(entry["image_id"] == 7 for entry in results)
    assert json.loads(json.dumps(results)) == results
    assert found().to_coco("000123")[0]["image_id"] == "000123"
    assert found()[:0].to_coco(1, {}) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"image_id": 1.5}, TypeError, "image_id: expected a whole number, got 1.5"),
        ({"category_ids": [1, 2, 3]}, TypeError, "category_ids: expected a dict from label to int, got list"),
        ({"category_ids": {"dog": 1}}, ValueError, "category_ids: no id for the label 'car'"),
        ({"category_ids": {"dog": "18"}}, TypeError, r"category_ids\['dog'\]: expected a whole number"),
    ],
)
def test_wrong_ids(options, error, words):
    with pytest.raises(error, match=words):
        found().to_coco(**options)


def test_pycocotools_reads_the_results():
    """Corners and sizes are not mixed up: against its own truth, each box counts as found."""
    coco = require("pycocotools.coco").COCO()
    cocoeval = require("pycocotools.cocoeval")
    boxes = found([item for item in FOUND if item.box[0] < item.box[2]])
    truth = [
        {"id": i, "image_id": 7, "category_id": entry["category_id"], "bbox": entry["bbox"],
         "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for i, entry in enumerate(boxes.to_coco(), 1)
    ]  # fmt: skip
    coco.dataset = {
        "info": {},
        "images": [{"id": 7, "width": 640, "height": 480}],
        "annotations": truth,
        "categories": [{"id": i, "name": name} for i, name in enumerate(LABELS, 1)],
    }
    coco.createIndex()
    evaluation = cocoeval.COCOeval(coco, coco.loadRes(boxes.to_coco(7)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_to_supervision():
    supervision = require("supervision")
    there = found().to_supervision()
    assert isinstance(there, supervision.Detections) and len(there) == 4
    assert np.array_equal(there.xyxy, found().boxes) and np.array_equal(there.confidence, found().scores)
    assert np.array_equal(there.class_id, [2, 0, 2, 0])
    assert there["class_name"].tolist() == ["dog", "car", "dog", "car"]
    assert len(there[there.confidence > 0.3]) == 2
    assert len(found()[:0].to_supervision()) == 0


def test_without_supervision(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'clipc\[detection\]'"):
        found().to_supervision()


def test_to_rows():
    rows = found().to_rows()
    assert rows[0] == {"label": "dog", "score": 0.75, "x0": 10, "y0": 20, "x1": 110.5, "y1": 220.25}
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    assert file.getvalue().splitlines()[:2] == ["label,score,x0,y0,x1,y1", "dog,0.75,10.0,20.0,110.5,220.25"]
    assert found()[:0].to_rows() == []


# ---- printed ----


def test_table():
    assert str(found()) == (
        "4 detections\n"
        "label  score    x0    y0     x1     y1\n"
        "dog    0.750  10.0  20.0  110.5  220.2\n"
        "car    0.500  -3.0   0.0  640.1   33.0\n"
        "dog    0.250   1.0   2.0    3.0    4.0\n"
        "car    0.125   5.0   5.0    5.0    9.0"
    )
    assert str(found()[:1]).startswith("1 detection\n") and str(found()[:0]) == "no detections"
    wide = found([Detection("한옥", 0.5, (1, 2, 3, 4)), FOUND[0]], labels=("한옥", "dog")).as_table()
    assert [line[:7] for line in wide.splitlines()[1:]] == ["label  ", "한옥   0.", "dog    "]


def test_long_tables_are_cut():
    many = found(FOUND * 20)
    lines = str(many).splitlines()
    assert lines[0] == "80 detections" and lines[-1] == "(55 more)" and len(lines) == 2 + 25 + 1
    assert len(many.as_table().splitlines()) == 2 + 80
    assert many.as_table(80) == many.as_table()


def test_repr():
    expected = "<clipc.Detections 4 in 640 x 480 pixels, windows: 'dog' 0.750, 'car' 0.500, 'dog' 0.250, …>"
    assert repr(found()) == expected
    assert repr(found()[:0]) == "<clipc.Detections 0 in 640 x 480 pixels, windows>"


def test_html():
    text = found([Detection("<b>&", 0.5, (1, 2, 3, 4)), *FOUND * 15], labels=(*LABELS, "<b>&"))._repr_html_()
    assert "&lt;b&gt;&amp;" in text and "<b>" not in text and "11 more" in text
    assert text.count("<tr>") == 1 + 50 + 1
    for label in ("dog", "car"):
        colour = "#{:02x}{:02x}{:02x}".format(*label_colour(LABELS.index(label)))
        assert f'background:{colour}"></span>{label}</td>' in text
    assert "no detections" in found()[:0]._repr_html_()


# ---- colours ----


def lab(colours):
    """CIE L*a*b* of sRGB colours, 0 to 255, for the white of D65."""
    linear = np.asarray(colours, float) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = linear @ matrix.T / (matrix.sum(axis=1))
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
}  # fmt: skip


@pytest.mark.parametrize("kind", BLINDNESS)
def test_first_colours_are_told_apart(kind):
    colours = np.array([label_colour(i) for i in range(7)]) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.transpose(BLINDNESS[kind])).clip(0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    points = lab(255 * seen)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + 1000 * np.eye(7)
    assert distance.min() > 15  # 2.3 is the least that is noticed side by side


def test_many_colours_differ():
    colours = [label_colour(i) for i in range(500)]
    assert len(set(colours)) == 500
    assert all(len(colour) == 3 and min(colour) >= 0 and max(colour) <= 255 for colour in colours)
    points = lab(colours[:24])
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + 1000 * np.eye(24)
    assert distance.min() > 5


# ---- refusals ----


@pytest.mark.parametrize(
    ("items", "changes", "error", "words"),
    [
        ([("dog", 0.5, (1, 2, 3, 4))], {}, TypeError, r"items\[0\]: expected a clipc.Detection, got tuple"),
        ([Detection("cat", 0.5, (1, 2, 3, 4))], {}, ValueError, r"items\[0\]: its label 'cat' is none of"),
        ([], {"image_size": 640}, TypeError, r"image_size: expected two whole numbers \(width, height\)"),
        ([], {"image_size": (640, 480, 3)}, TypeError, "image_size: expected two whole numbers"),
        ([], {"image_size": (640.0, 480)}, TypeError, "image_size: expected two whole numbers"),
        ([], {"image_size": (0, 480)}, ValueError, "image_size: expected at least 1 x 1 pixels, got 0 x 480"),
        ([], {"labels": "dog"}, TypeError, "labels: expected a list of str, got a str"),
        ([], {"labels": ["dog", 3]}, TypeError, r"labels\[1\]: expected a str, got int"),
        ([], {"labels": ["dog", "car", "dog"]}, ValueError, "labels: 'dog' is given more than once"),
        ([], {"maps": MAPS["car"]}, TypeError, "maps: expected a dict from label to array, .* got ndarray"),
    ],
)
def test_wrong_lists(items, changes, error, words):
    with pytest.raises(error, match=words):
        found(items, **changes)


def test_imported_when_used():
    program = (
        "import sys, clipc.detections\n"
        "assert not {'PIL', 'supervision', 'pandas'} & set(sys.modules), 'imported at once'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert detections.SHOWN_IN_TEXT == 25
