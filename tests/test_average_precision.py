"""Average precision: cases worked out by hand, a plain implementation, and pycocotools on files."""

import contextlib
import html.parser
import importlib.util
import io
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from availability import require
from image_files import encode, smooth_picture

import clipc
from clipc import box_measures, evaluate
from clipc.errors import ClipcWarning, ImageError
from clipc.evaluate import AnnotatedPicture, average_precision

require("pycocotools")

# pycocotools adds a rounding error to its denominators.
ONE = pytest.approx(1)

A, B = (0, 0, 40, 40), (50, 50, 90, 90)
ELSEWHERE = (50, 0, 90, 40)


def picture(boxes, crowds=None, size=(100, 100)):
    width, height = size
    return AnnotatedPicture(np.zeros((height, width, 3), np.uint8), width, height, boxes, crowds or {})


def answers(*of_pictures):
    """A method that gives these answers, one picture after the other."""
    following = iter(of_pictures)
    return lambda image, labels: next(following)


def score(data, *of_pictures, **options):
    result = average_precision(data, methods={"m": answers(*of_pictures)}, baselines=False, **options)
    return result["m"]


# ---- by hand ----


def test_a_perfect_detector():
    data = [picture({"cat": [A, B], "dog": [ELSEWHERE]}), picture({"dog": [A]}), picture({})]
    first = [("cat", 0.9, A), ("cat", 0.2, B), ("dog", 0.5, ELSEWHERE)]
    found = score(data, first, [("dog", 0.1, A)], [])
    assert found.ap == found.ap50 == found.ap75 == ONE
    assert found.recall == {1: pytest.approx(0.75), 10: 1.0, 100: 1.0}  # one of two cats with one detection
    assert found.interval == (ONE, ONE)
    assert found.n_detections == 4 and found.n_pictures == 3
    assert {label: one.n_boxes for label, one in found.per_class.items()} == {"cat": 2, "dog": 2}


@pytest.mark.parametrize("shift, iou", [(24, 76 / 124), (10, 90 / 110), (35, 65 / 135), (100, 0.0)])
def test_shifted_boxes(shift, iou):
    """Two boxes of side 100, one moved: the intersection is 100 - shift wide, the union 100 + shift."""
    data = [picture({"cat": [(100, 50, 200, 150)]}, size=(400, 300))]
    found = score(data, [("cat", 0.5, (100 + shift, 50, 200 + shift, 150))])
    reached = [float(iou >= 0.5 + 0.05 * step) for step in range(10)]
    assert found.ap == pytest.approx(np.mean(reached))
    assert (found.ap50, found.ap75) == pytest.approx((reached[0], reached[5]))
    assert found.recall[100] == pytest.approx(np.mean(reached))


@pytest.mark.parametrize(
    "first, expected",
    [
        ([("cat", 0.9, ELSEWHERE), ("cat", 0.8, A)], 1 / 2),  # a wrong one above
        ([("cat", 0.9, A), ("cat", 0.8, ELSEWHERE)], 1),  # below
        ([("cat", 0.9, A), ("cat", 0.8, A)], 1),  # a duplicate, after which nothing comes
        ([("cat", 0.9, ELSEWHERE), ("cat", 0.8, ELSEWHERE), ("cat", 0.7, A)], 1 / 3),
        ([("cat", -3, A), ("cat", -4, ELSEWHERE)], 1),  # scores of any size
        ([("dog", 0.9, A)], 0),  # the wrong label
        ([], 0),
    ],
)
def test_one_box(first, expected):
    assert score([picture({"cat": [A]}), picture({"dog": [B]})], first, [("dog", 1, B)]).per_class[
        "cat"
    ].ap50 == pytest.approx(expected)


def test_two_boxes():
    data = [picture({"cat": [A, B]})]
    # Of the recalls 0, 0.01, …, 1 there are 51 up to a half.
    assert score(data, [("cat", 0.9, A)]).ap50 == pytest.approx(51 / 101)
    duplicate = [("cat", 0.9, A), ("cat", 0.8, A), ("cat", 0.7, B)]
    assert score(data, duplicate).ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)
    # What follows counts for the recalls before: precision 1/2 of the first box becomes 2/3.
    late = [("cat", 0.9, ELSEWHERE), ("cat", 0.8, A), ("cat", 0.7, B)]
    assert score(data, late).ap50 == pytest.approx(2 / 3)


def test_pictures_without_the_class_count():
    data = [picture({"cat": [A]}), picture({})]
    assert score(data, [("cat", 0.5, A)], [("cat", 0.9, B)]).ap50 == pytest.approx(1 / 2)


def test_crowds_are_neither_right_nor_wrong():
    inside = (55, 5, 70, 30)
    found = [("cat", 0.9, inside), ("cat", 0.8, inside), ("cat", 0.5, A)]
    assert score([picture({"cat": [A]}, {"cat": [ELSEWHERE]})], found).ap50 == ONE
    assert score([picture({"cat": [A]})], found).ap50 == pytest.approx(1 / 3)
    only_a_crowd = [picture({"cat": [A]}, {"dog": [ELSEWHERE]})]
    result = average_precision(
        evaluate.AnnotatedPictures(only_a_crowd, names=["cat", "dog"]), methods=answers(found)
    )
    assert result.n_crowds == 1 and result.n_boxes == 1 and result.n_classes == 1
    assert "1 box around crowds ignored" in result.summary
    with pytest.raises(ValueError, match="none of the 1 pictures has a box of dog"):
        average_precision(
            evaluate.AnnotatedPictures(only_a_crowd, names=["cat", "dog"]),
            methods=answers(found),
            labels=["dog"],
        )


def test_sizes():
    sides = {"small": 30, "medium": 90, "large": 100}
    data = [picture({"cat": [(0, 0, side, side)]}, size=(200, 200)) for side in sides.values()]
    found = score(data, [("cat", 1, (0, 0, 30, 30))], [("cat", 1, (0, 0, 90, 90))], [])
    assert (found.ap_small, found.ap_medium, found.ap_large) == pytest.approx((1, 1, 0))
    found = score(data[:1], [("cat", 1, (0, 0, 30, 30))])
    assert found.ap_small == ONE and math.isnan(found.ap_medium) and math.isnan(found.ap_large)
    table = average_precision(data[:1], methods=answers([])).to_markdown(details=True)
    assert table.splitlines()[0] == "| method | AP small | AP medium | AP large | AR1 | AR10 | AR100 |"
    assert table.splitlines()[2] == "| <lambda> | 0.0 | - | - | 0.0 | 0.0 | 0.0 |"


def test_max_detections():
    data = [picture({"cat": [A], "dog": [B]})]
    found = [("cat", 0.1, A), ("dog", 0.9, B), ("dog", 0.8, ELSEWHERE)]
    assert score(data, found).ap50 == ONE
    few = score(data, found, max_detections=2)
    assert few.per_class["cat"].ap50 == 0 and few.n_detections == 2 and few.per_class["dog"].n_detections == 2
    assert list(few.recall) == [1, 2]
    assert list(score(data, found, max_detections=1).recall) == [1]


# ---- a plain implementation ----


def overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def plain_average_precision(truth, found, threshold):
    """Of one class: truth [(boxes, crowds)] and found [[(score, box)]] of each picture."""
    marks = []  # (score, right)
    for (boxes, crowds), of_picture in zip(truth, found):
        left = list(boxes)
        for value, box in sorted(of_picture, key=lambda one: -one[0]):
            ious = [overlap(box, one) / (area(box) + area(one) - overlap(box, one)) for one in left]
            if ious and max(ious) >= threshold:
                left.pop(int(np.argmax(ious)))
                marks.append((value, True))
            elif not any(overlap(box, crowd) / area(box) >= threshold for crowd in crowds):
                marks.append((value, False))
    marks.sort(key=lambda one: -one[0])
    n_boxes = sum(len(boxes) for boxes, _ in truth)
    points, right = [], 0
    for n, (_, is_right) in enumerate(marks, 1):
        right += is_right
        points.append((right / n_boxes, right / n))
    best = [max((p for r, p in points if r >= recall), default=0) for recall in np.linspace(0, 1, 101)]
    return np.mean(best)


LABELS = ("cat", "dog", "bird", "fish")


def random_case(seed, n_pictures=12):
    """Pictures with boxes and crowds, and detections near them and anywhere; fish has no box."""
    rng = np.random.default_rng(seed)

    def boxes(n, width, height):
        corners = np.sort(rng.random((n, 2, 2)) * 0.9, axis=1) + [[[0, 0]], [[0.1, 0.1]]][0]
        corners[:, 1] += 0.08
        return corners.reshape(n, 4).clip(0, 1) * [width, height, width, height]

    data, found = [], []
    for _ in range(n_pictures):
        width, height = (int(side) for side in rng.integers(60, 400, 2))
        true = {label: boxes(rng.integers(0, 4), width, height) for label in LABELS[:3]}
        crowds = {label: boxes(rng.integers(0, 2), width, height) for label in LABELS[:2]}
        one = picture(true, crowds, (width, height))
        data.append(one)
        answer = []
        for label, several in one.boxes.items():
            for box in several:
                for _ in range(rng.integers(0, 3)):
                    moved = box + rng.normal(size=4) * 0.08 * (box[2] - box[0])
                    moved = np.concatenate(
                        [np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])]
                    )
                    answer.append((label, float(rng.random()), tuple(moved + [0, 0, 1, 1])))
        for box in boxes(rng.integers(0, 6), width, height):
            answer.append((LABELS[rng.integers(4)], float(rng.random()), tuple(box)))
        found.append(answer)
    return evaluate.AnnotatedPictures(data, names=LABELS), found


def of_label(label, data, found):
    truth = [(one.boxes.get(label, ()), one.crowds.get(label, ())) for one in data]
    return truth, [[(value, box) for name, value, box in answer if name == label] for answer in found]


@pytest.mark.parametrize("seed", range(4))
def test_against_the_plain_implementation(seed):
    data, found = random_case(seed)
    result = score(data, *found)
    assert list(result.per_class) == ["cat", "dog", "bird"]
    table = np.array(
        [
            [plain_average_precision(*of_label(label, data, found), t) for t in np.linspace(0.5, 0.95, 10)]
            for label in result.per_class
        ]
    )
    assert 0.1 < table[:, 0].mean() < 0.95
    assert result.ap == pytest.approx(table.mean())
    assert result.ap50 == pytest.approx(table[:, 0].mean())
    assert result.ap75 == pytest.approx(table[:, 5].mean())
    for one, row in zip(result.per_class.values(), table):
        assert (one.ap, one.ap50, one.ap75) == pytest.approx((row.mean(), row[0], row[5]))


@pytest.mark.parametrize("seed", range(4))
def test_against_pycocotools_on_files(seed, tmp_path):
    data, found = random_case(seed, n_pictures=25)
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": i, "name": label} for i, label in enumerate(LABELS, 5)]
    for i, one in enumerate(data):
        content["images"].append({"id": 100 + i, "width": one.width, "height": one.height})
        for crowd, kind in enumerate((one.boxes, one.crowds)):
            for label, boxes in kind.items():
                for x0, y0, x1, y1 in boxes:
                    content["annotations"].append(
                        {
                            "id": len(content["annotations"]) + 1,
                            "image_id": 100 + i,
                            "category_id": LABELS.index(label) + 5,
                            "bbox": [x0, y0, x1 - x0, y1 - y0],
                            "area": (x1 - x0) * (y1 - y0),
                            "iscrowd": crowd,
                        }
                    )
    results = [
        {
            "image_id": 100 + i,
            "category_id": LABELS.index(label) + 5,
            "score": value,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
        }
        for i, answer in enumerate(found)
        for label, value, (x0, y0, x1, y1) in answer
    ]
    for name, of_file in (("truth", content), ("found", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(of_file))
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        direct = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
        direct.evaluate()
        direct.accumulate()
        direct.summarize()
    mine = score(data, *found)
    ours = [
        mine.ap,
        mine.ap50,
        mine.ap75,
        mine.ap_small,
        mine.ap_medium,
        mine.ap_large,
        *mine.recall.values(),
    ]
    expected = np.where(direct.stats < 0, np.nan, direct.stats)[:9]
    np.testing.assert_allclose(ours, expected, rtol=1e-9, equal_nan=True)
    low, high = mine.interval
    assert low < mine.ap50 < high and high - low < 0.6


def test_equal_scores_keep_the_order_of_the_pictures():
    data = [picture({}), picture({"cat": [A]})]
    assert score(data, [("cat", 0.5, A)], [("cat", 0.5, A)]).ap50 == pytest.approx(1 / 2)
    assert score(data[::-1], [("cat", 0.5, A)], [("cat", 0.5, A)]).ap50 == ONE


# ---- intervals and baselines ----


@pytest.mark.parametrize("seed", range(3))
def test_a_weight_stands_for_copies_of_a_picture(seed):
    data, found = random_case(seed)
    made = {}
    plain = box_measures._Table

    def keep(*arguments):
        made["table"] = plain(*arguments)
        return made["table"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box_measures, "_Table", keep)
        mine = score(data, *found)
    table = made["table"]
    once = np.ones((1, len(data)), np.int64)
    assert table.sample(once) == pytest.approx([mine.ap50])
    weights = np.random.default_rng(seed).integers(1, 4, (5, len(data)))
    for row, value in zip(weights, table.sample(weights)):
        copies = [i for i, n in enumerate(row) for _ in range(n)]
        several = evaluate.AnnotatedPictures([data[i] for i in copies], names=LABELS)
        assert value == pytest.approx(score(several, *(found[i] for i in copies)).ap50)
    # In pieces it is the same.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box_measures, "_CHUNK", 100)
        np.testing.assert_array_equal(table.sample(weights), made["table"].sample(weights))


def test_weights_of_the_bootstrap():
    weights = box_measures.bootstrap_weights(50, 3)
    assert weights.shape == (1000, 50) and weights.min() >= 1
    assert weights.mean() == pytest.approx(1e6, rel=0.02) and weights.std() == pytest.approx(1e6, rel=0.03)
    np.testing.assert_array_equal(weights, box_measures.bootstrap_weights(50, 3))


def test_the_interval_is_that_of_a_mean():
    """Whether one right box is found in a picture of its own class: AP50 is a share, its interval known."""
    n, hits = 120, 90
    data = [picture({"cat": [A]}) for _ in range(n)]
    found = [[("cat", 0.5, A)] if i < hits else [] for i in range(n)]
    low, high = score(data, *found).interval
    half = 1.96 * math.sqrt(0.75 * 0.25 / n)
    assert (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.025)
    assert all(math.isnan(bound) for bound in score(data[:1], found[0]).interval)


CENTRE, WHOLE = (25, 25, 75, 75), (0, 0, 100, 100)


def test_baselines():
    data = [picture({"cat": [CENTRE], "dog": [WHOLE]})]
    result = average_precision(data, methods={"m": answers([("cat", 1, CENTRE)])})
    assert [one.method for one in result] == ["m", "centre", "whole picture"]
    centre, whole = result["centre"], result["whole picture"]
    assert centre.is_baseline and centre.difference is None and centre.note == "baseline"
    assert {label: one.ap for label, one in centre.per_class.items()} == pytest.approx({"cat": 1, "dog": 0})
    assert {label: one.ap for label, one in whole.per_class.items()} == pytest.approx({"cat": 0, "dog": 1})
    assert math.isnan(centre.seconds) and centre.n_detections == 2
    without = average_precision(data, methods={"centre": answers([("cat", 1, CENTRE)])}, baselines=False)
    assert len(without) == 1 and without["centre"].difference is None and not without["centre"].is_baseline


@pytest.mark.parametrize("reverse", [False, True])
def test_baselines_do_not_profit_from_the_order_of_the_pictures(reverse, monkeypatch):
    """The mean over all orders, worked out one by one, whatever the order of the data."""
    monkeypatch.setattr(box_measures, "_ORDERS", 4000)
    data = [
        picture({"cat": [CENTRE, A]}),
        picture({"cat": [(20, 25, 75, 75)]}, {"dog": [A]}),  # IoU 50/55
        picture({"dog": [CENTRE]}, {"cat": [WHOLE]}),  # the cats' box counts for nothing
        picture({"dog": [B]}),
        picture({}),
    ]
    data = data[::-1] if reverse else data
    result = average_precision(evaluate.AnnotatedPictures(data, names=LABELS), methods=answers(*[[]] * 5))
    for label in ("cat", "dog"):
        for threshold, kind in ((0.5, "ap50"), (0.75, "ap75")):
            expected = np.mean(
                [
                    plain_average_precision(
                        *of_label(label, data, [[(label, order, CENTRE)] for order in orders]), threshold
                    )
                    for orders in itertools.permutations(range(5))
                ]
            )
            assert 0 < expected < 1
            found = getattr(result["centre"].per_class[label], kind)
            assert found == pytest.approx(expected, abs=0.02), (label, kind)
    assert result["centre"].n_detections == 5 * len(LABELS)


def test_areas_of_baselines():
    """A box that is right in its size, and wrong in pictures where it has another size."""
    size, box = (100, 100), (25, 25, 75, 75)  # 2,500 pixels: medium
    large = picture({}, size=(400, 400))  # its centre box is large
    medium = [picture({}, size=size) for _ in range(3)]
    options = {"methods": answers(*[[]] * 4)}
    result = average_precision([picture({"cat": [box]}, size=size), *medium], **options)
    assert 0.3 < result["centre"].ap_medium < 0.8
    options = {"methods": answers(*[[]] * 2)}
    result = average_precision([picture({"cat": [box]}, size=size), large], **options)
    assert result["centre"].ap_medium == ONE and 0.6 < result["centre"].ap50 < 0.9


def test_compared_with_the_better_baseline():
    data = [picture({"cat": [WHOLE]}) for _ in range(8)]
    right, wrong = [("cat", 0.5, WHOLE)], [("cat", 0.5, A)]
    result = average_precision(
        data,
        methods={
            "right": lambda image, labels: right,
            "wrong": lambda image, labels: wrong,
            "half": answers(*[right, wrong] * 4),
        },
    )
    assert result["right"].baseline == "whole picture" and result["right"].difference == pytest.approx(0)
    assert not result["right"].below_baseline and result["right"].note == ""
    wrong = result["wrong"]
    assert wrong.difference == pytest.approx(-1) and wrong.below_baseline and wrong.is_certain
    assert wrong.note == "below whole picture" and wrong.mark == "▼"
    assert result["half"].below_baseline and result["half"].difference_interval[1] < 0
    data = [picture({"cat": [CENTRE]}) for _ in range(2)] + [picture({"cat": [A]})]
    result = average_precision(data, methods={"m": answers([("cat", 1, CENTRE)], [], [("cat", 0.3, A)])})
    assert result["m"].baseline == "centre"


def test_the_same_seed_gives_the_same_numbers():
    data, found = random_case(5)
    tables = [
        average_precision(data, methods={"m": answers(*found)}, seed=seed).to_rows() for seed in (1, 1, 2)
    ]
    for table in tables:
        for row in table:
            row.pop("seconds")
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]
    assert tables[0][0]["AP"] == tables[2][0]["AP"]
    # Whatever other methods there are.
    two = average_precision(data, methods={"n": answers(*[[]] * 12), "m": answers(*found)}, seed=1).to_rows()
    assert [row["AP50_low"] for row in two[1:]] == [row["AP50_low"] for row in tables[0]]


# ---- what a method may return ----


class Found(list):
    """As `Detections`: objects in a list that knows its picture."""

    def __init__(self, found, size=(100, 100)):
        super().__init__(SimpleNamespace(label=name, score=value, box=box) for name, value, box in found)
        self.image_size = size


def test_kinds_of_answers():
    data = [picture({"cat": [A]})]
    one = ("cat", np.float32(0.5), np.array(A, np.float32))
    for found in ([one], (one,), [list(one)], Found([one]), iter([one])):
        assert score(data, found).ap == ONE


@pytest.mark.parametrize(
    "found, error, message",
    [
        (None, TypeError, "expected Detections or a list of (label, score, box), got NoneType"),
        ({"cat": 1}, TypeError, "got dict"),
        ("cat", TypeError, "got str"),
        ([("cat", 0.5)], TypeError, "expected detections or (label, score, box), got ('cat', 0.5)"),
        ([("cat", 0.5, (1, 2, 3))], TypeError, "a box (x0, y0, x1, y1)"),
        ([("cat", "high", A)], TypeError, "'high'"),
        ([(3, 0.5, A)], TypeError, "expected a text"),
        ([("cow", 0.5, A)], ValueError, "found 'cow', which is none of the labels"),
        ([("cat", math.nan, A)], ValueError, "NaN"),
        ([("cat", 0.5, (0, 0, math.inf, 5))], ValueError, "infinity"),
        ([("cat", 0.5, (9, 0, 5, 5))], ValueError, "x0 <= x1 and y0 <= y1, got [9.0, 0.0, 5.0, 5.0]"),
        (Found([], (50, 60)), ValueError, "a picture of 100 x 100 pixels, got detections in 50 x 60"),
    ],
)
def test_wrong_answers_are_named(found, error, message):
    with pytest.raises(error) as caught:
        score([picture({"cat": [A]})], found)
    assert str(caught.value).startswith("m, a picture of 100 x 100: ") and message in str(caught.value)


def test_no_detections():
    result = average_precision([picture({"cat": [A]})] * 2, methods={"m": answers([], [])})
    assert result["m"].ap == 0 and result["m"].recall == {1: 0, 10: 0, 100: 0}
    assert "no detections" in str(result) and "no detections" in result._repr_html_()


def test_boxes_without_an_area_match_nothing():
    data = [picture({"cat": [A]})]
    assert score(data, [("cat", 0.9, (5, 5, 5, 20)), ("cat", 0.5, A)]).ap50 == pytest.approx(1 / 2)


# ---- models ----


class Detector:
    """Remembers how it was called; finds the first label in the upper left corner."""

    def __init__(self, known=LABELS):
        self.known = known
        self.calls = []

    def knows(self, text):
        return text in self.known

    def detect(self, image, labels, **options):
        self.calls.append((image.shape, labels, options))
        return Found([(labels[0], 1.0, A)], (image.shape[1], image.shape[0]))


def test_methods_of_a_model():
    data = evaluate.AnnotatedPictures([picture({"cat": [A], "cow": [B]})], names=["cat", "cow", "dog"])
    model = Detector()
    methods = {"windows": "windows", "crops": {"method": "windows", "nms": 0.3, "threshold": 0.2}, "any": {}}
    result = average_precision(data, model=model, methods=methods, stride=0.5, max_detections=30)
    base = {"templates": ("{}",), "threshold": 0.0, "max_detections": 30, "stride": 0.5}
    where = ((100, 100, 3), ["cat", "dog"])  # what the model knows, present or not
    assert model.calls == [
        (*where, {**base, "method": "windows"}),
        (*where, {**base, "method": "windows", "nms": 0.3, "threshold": 0.2}),
        (*where, {**base, "method": "auto"}),
    ]
    assert result.labels == ("cat", "dog") and result["windows"].ap == ONE and result.n_classes == 1
    assert "1 picture with 1 box of 1 class; 2 labels looked for" in result.summary
    assert result.summary.endswith("; templates '{}', threshold 0.0, max_detections 30, stride 0.5")
    model = Detector()
    average_precision(data, model=model, labels=["dog", "cat"], templates="a {}", threshold=0.4)
    options = {"templates": ("a {}",), "threshold": 0.4, "max_detections": 100, "method": "auto"}
    assert model.calls == [((100, 100, 3), ["dog", "cat"], options)]


def test_seconds(monkeypatch):
    clock = itertools.count()  # a second passes with each look at it
    monkeypatch.setattr(box_measures, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    data = [picture({"cat": [A]})] * 3

    def slow(image, labels):
        for _ in range(4):
            next(clock)
        return []

    result = average_precision(data, methods={"slow": slow, "quick": lambda image, labels: []})
    assert result["slow"].seconds == 5 and result["quick"].seconds == 1


def test_limit_and_unreadable_pictures(tmp_path):
    whole = encode(smooth_picture(100, 100), "PNG")
    data = []
    for name in "abcdef":
        (tmp_path / f"{name}.png").write_bytes(whole if name != "c" else whole[: len(whole) // 2])
        data.append(AnnotatedPicture(tmp_path / f"{name}.png", 100, 100, {"cat": [A]}))

    def method(image, labels):
        return []

    with pytest.raises(ImageError, match=r"c\.png"):
        average_precision(data, methods=method)
    with pytest.warns(ClipcWarning, match=r"1 pictures cannot be read.*c\.png"):
        result = average_precision(data, methods=method, skip_unreadable=True)
    assert result.n_pictures == 5 and result.n_unreadable == 1 and "1 picture unreadable" in result.summary
    with pytest.raises(ValueError, match="none of the 1 pictures can be read"), pytest.warns(ClipcWarning):
        average_precision(data[2:3], methods=method, skip_unreadable=True)
    seen = []
    whole = data[:2] + data[3:]
    for seed in (0, 0, 1):
        names = []
        average_precision(
            [
                AnnotatedPicture(np.full((40, 40, 3), i, np.uint8), 40, 40, {"cat": [(0, 0, 9, 9)]})
                for i in range(20)
            ],
            methods=lambda image, labels, names=names: names.append(int(image[0, 0, 0])) or [],
            limit=4,
            seed=seed,
        )
        seen.append(names)
    assert seen[0] == seen[1] != seen[2] and len(set(seen[0])) == 4
    with pytest.raises(ValueError, match=r"a\.png: the picture has 100 x 100 pixels, but .* 50 x 60"):
        average_precision([AnnotatedPicture(tmp_path / "a.png", 50, 60, {"cat": [A]})], methods=method)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"methods": []}, ValueError, "methods: expected at least one"),
        ({"methods": [3]}, TypeError, "methods: expected names and functions"),
        ({"methods": {"centre": "windows"}}, ValueError, "name of a baseline"),
        ({"methods": {"whole picture": "windows"}}, ValueError, "name of a baseline"),
        ({"labels": ["cow"]}, ValueError, "'cow' is no class of the data"),
        ({"labels": "cat"}, TypeError, "labels: expected a list"),
        ({"labels": []}, ValueError, "at least one class"),
        ({"max_detections": 0}, ValueError, "max_detections: expected 1 or more"),
        ({"limit": 0}, ValueError, "limit"),
        ({"seed": -1}, ValueError, "seed"),
        ({"exif": True}, TypeError, "exif: no option here"),
        ({"maps": True}, TypeError, "maps: no option here"),
        ({"boxes": []}, TypeError, "boxes: no option here"),
        ({"methods": {"a": {"boxes": []}}}, TypeError, "boxes: no option here"),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error) as caught:
        average_precision([picture({"cat": [A]})], **{"methods": answers([]), **options})
    assert message in str(caught.value)


def test_nothing_to_find():
    with pytest.raises(ValueError, match="no picture has a box"):
        average_precision([picture({})], methods=answers([]))
    with pytest.raises(ValueError, match="knows none of its 1 classes, cow"):
        average_precision([picture({"cow": [A]})], model=Detector())
    with pytest.raises(ValueError, match="empty list"):
        average_precision([], methods=answers([]))


def test_one_label():
    result = average_precision([picture({"cat": [A]})], model=Detector(["cat"]), methods="windows")
    assert result.labels == ("cat",) and result["windows"].ap == ONE


# ---- how it prints ----


@pytest.fixture(scope="module")
def result():
    data, found = random_case(7)
    methods = {"a|b <c>": answers(*found), "poor": lambda image, labels: [("cat", 0.1, (0, 0, 5, 5))]}
    return average_precision(data, methods=methods)


def test_text(result):
    lines = str(result).splitlines()
    assert lines[0] == "Average precision of boxes, in % (higher is better)"
    assert lines[1] == result.summary
    header = lines[3].split("  ")
    header = [cell.strip() for cell in header if cell.strip()]
    compared = result["poor"].baseline
    assert header == [
        *("method", "AP", "AP50", "95 % interval", "AP75", "AR100"),
        *(f"AP50 minus {compared}", "95 % interval", "detections", "s/picture", "note"),
    ]
    assert [line[:13].strip() for line in lines[4:]] == ["a|b <c>", "poor", "centre", "whole picture"]
    assert f"below {compared}" in lines[5] and lines[6].endswith("baseline")
    assert repr(result).startswith("<AP50 in 12 pictures: a|b <c> ")


def test_html_and_markdown(result):
    cells = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag in ("td", "th"):
                cells.append("")

        def handle_data(self, data):
            if cells:
                cells[-1] += data

    Reader().feed(result._repr_html_())
    assert len(cells) == 5 * 11 and "a|b <c>" in cells
    table = result.to_markdown().splitlines()
    assert len(table) == 6 and table[2].startswith("| a\\|b <c> | ")
    assert len(result.to_markdown(details=True).splitlines()) == 6


def test_rows(result, monkeypatch):
    rows = json.loads(json.dumps(result.to_rows()))
    assert [row["method"] for row in rows] == ["a|b <c>", "poor", "centre", "whole picture"]
    assert rows[0]["AP50"] == result["a|b <c>"].ap50 and rows[0]["AR100"] == result["a|b <c>"].recall[100]
    classes = result.class_rows()
    assert len(classes) == 4 * 3 and classes[0]["label"] == "cat"
    assert np.mean([row["AP50"] for row in classes[:3]]) == pytest.approx(rows[0]["AP50"])
    with pytest.raises(KeyError, match="there are"):
        result["windows"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"clipc\[analysis\]"):
        result.to_pandas()
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    assert result.to_pandas()[1] == result.to_rows()


def test_pycocotools_does_not_print(capfd):
    average_precision([picture({"cat": [A]})], methods=answers([]))
    assert capfd.readouterr() == ("", "")


def test_the_extra_is_named_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ImportError, match=r"pip install 'clipc\[detection\]'"):
        average_precision("no/such/folder", methods="windows")


def test_importing_evaluate_does_not_load_pycocotools():
    code = "import sys, clipc.evaluate; print([name for name in sys.modules if 'pycocotools' in name])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert run.stdout.strip() == "[]", run.stderr


# ---- from files ----


@pytest.fixture
def two_folders(tmp_path):
    """The same pictures and boxes as YOLO text and as COCO JSON, and a class without boxes."""
    sizes = {"a.png": (128, 96), "b.png": (96, 160), "c.png": (64, 64)}
    boxes = {
        "a.png": [(0, (0, 0, 64, 48)), (1, (32, 24, 96, 72))],
        "b.png": [(1, (8, 16, 40, 80))],
        "c.png": [],
    }
    names = ["cat", "cup", "dog"]
    yolo, coco = tmp_path / "yolo", tmp_path / "coco"
    for folder in (yolo / "images", yolo / "labels", coco):
        folder.mkdir(parents=True)
    categories = [{"id": 3 + i, "name": name} for i, name in enumerate(names)]
    content = {"images": [], "annotations": [], "categories": categories}
    for i, (file, (width, height)) in enumerate(sizes.items()):
        data = encode(smooth_picture(height, width, i), "PNG")
        (yolo / "images" / file).write_bytes(data)
        (coco / file).write_bytes(data)
        content["images"].append({"id": i, "file_name": file, "width": width, "height": height})
        lines = ""
        for k, (x0, y0, x1, y1) in boxes[file]:
            numbers = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
            lines += f"{k} " + " ".join(map(repr, numbers)) + "\n"
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": i,
                    "category_id": 3 + k,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                }
            )
        (yolo / "labels" / file).with_suffix(".txt").write_text(lines)
    (yolo / "names.txt").write_text("\n".join(names))
    (coco / "instances.json").write_text(json.dumps(content))
    return yolo, coco


def near_the_boxes(image, labels):
    height, width = image.shape[:2]
    return [
        ("cat", 0.6, (0, 0, width / 2, height / 2 - 8)),
        ("cup", 0.5, (width / 4, height / 4, width * 3 / 4, height * 3 / 4)),
        ("dog", 0.4, (0, 0, width, height)),
    ]


def test_both_formats_give_the_same_table(two_folders):
    rows = []
    for folder in two_folders:
        result = average_precision(folder, methods=near_the_boxes)
        assert result.n_pictures == 3 and result.n_boxes == 3 and result.labels == ("cat", "cup", "dog")
        rows.append([{**row, "seconds": None} for row in result.to_rows()])
    assert rows[0] == rows[1]
    # cat: 64 x 40 of 64 x 48 is an IoU of 0.83, and it comes first of three equal scores. cup: one of two.
    assert result["near_the_boxes"].ap50 == pytest.approx((1 + 51 / 101) / 2)
    assert list(result["near_the_boxes"].per_class) == ["cat", "cup"]


def test_the_tool_prints_its_tables(two_folders, capsys, monkeypatch):
    def detect(self, image, labels, *, method, **options):
        calls.append((method, labels, options))
        return near_the_boxes(image, labels)

    calls = []
    monkeypatch.setattr(clipc.Model, "detect", detect, raising=False)
    folder = Path(__file__).parents[1] / "tools"
    spec = importlib.util.spec_from_file_location("evaluate_detection", folder / "evaluate_detection.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.main(["--data", str(two_folders[0]), "--quiet", "--classes", "--limit", "2", "--seed", "1"])
    out = capsys.readouterr().out
    assert [method for method, _, _ in calls] == ["windows", "dense", "proposals"] * 2
    assert calls[0][1:] == (
        ["cat", "cup", "dog"],
        {"templates": ("{}",), "threshold": 0.0, "max_detections": 100},
    )
    assert out.count("\n| windows |") == out.count("\n| whole picture |") == 2
    assert "- proposals, cup: AP50 " in out and "2 pictures with" in out
