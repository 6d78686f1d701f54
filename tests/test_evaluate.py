"""The measures of explanations, on cases that can be worked out by hand."""

import html.parser
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from image_files import encode, smooth_picture
from PIL import Image

import clipc
from clipc import evaluate, image, map_measures
from clipc.errors import ClipcWarning, ImageError
from clipc.evaluate import AnnotatedPicture, deletion_insertion, energy_in_boxes, explanations, pointing_game
from clipc.heat_map import HeatMap
from clipc.scores import Evaluation, bootstrap_means

EXAMPLES = Path(__file__).parents[1] / "examples" / "images"


def picture(boxes, width=100, height=100, seed=0):
    """A picture of smooth noise with boxes {label: [box, ...]}."""
    return AnnotatedPicture(smooth_picture(height, width, seed), width, height, boxes)


def heat_map(grid, width=100, height=100, box=None, values=None):
    grid = np.asarray(grid, np.float32)
    values = np.zeros((height, width)) if values is None else values
    return HeatMap(
        values,
        texts=("x",),
        method="test",
        score="logit",
        layer=None,
        grid=grid,
        grid_box=(0, 0, width, height) if box is None else box,
        seen_box=(0, 0, width, height),
    )


def peak_at(row, column, shape=(5, 5), **options):
    """A method whose map has its largest cell there."""
    grid = np.full(shape, -1.0)
    grid[row, column] = -0.5  # the signed grid counts, so a negative peak is one
    return lambda image, label: heat_map(grid, image.shape[1], image.shape[0], **options)


def score_of(data, method, function=pointing_game, **options):
    result = function(data, methods={"m": method}, **options)
    return result["m"].score


# ---- pointing game ----


@pytest.mark.parametrize(
    "box, tolerance, hit",
    [
        ((40, 40, 60, 60), 0, 1),
        ((50, 50, 60, 60), 0, 1),  # the peak, (50, 50), at the corner
        ((51, 40, 60, 60), 0, 0),
        ((51, 40, 60, 60), 1, 1),
        ((52, 40, 60, 60), 1.99, 0),
        ((40, 40, 48, 60), 2, 1),
        ((40, 40, 47.9, 60), 2, 0),
        ((40, 52, 60, 60), 2, 1),
        ((40, 52.1, 60, 60), 2, 0),
        ((40, 40, 60, 48), 2, 1),
        ((40, 40, 60, 47.9), 2, 0),
    ],
)
def test_a_peak_and_a_box(box, tolerance, hit):
    data = [picture({"cat": [box]})]
    assert score_of(data, peak_at(2, 2), tolerance=tolerance, tolerance_at=None) == hit


def test_any_box_of_the_class_counts():
    far, near = (0, 0, 10, 10), (45, 45, 55, 55)
    data = [picture({"cat": [far, near], "dog": [far], "bird": [near]})]
    result = pointing_game(data, methods={"m": peak_at(2, 2)}, tolerance=0)
    assert {label: mean for label, (mean, _) in result["m"].per_class.items()} == {
        "cat": 1,
        "dog": 0,
        "bird": 1,
    }
    assert result["m"].score == pytest.approx(2 / 3)
    assert result.n_trials == 3 and result.n_pictures == 1


def test_class_mean_weighs_classes_alike():
    near, far = (45, 45, 55, 55), (0, 0, 10, 10)
    data = [picture({"cat": [near]}), picture({"cat": [near]}), picture({"cat": [near], "dog": [far]})]
    result = pointing_game(data, methods={"m": peak_at(2, 2)}, tolerance=0)
    assert result["m"].score == 0.75 and result["m"].class_mean == 0.5
    assert result["m"].per_class == {"cat": (1.0, 3), "dog": (0.0, 1)}


def test_tolerance_grows_with_the_picture():
    """15 pixels at 640 are 7.5 at 320, and 30 at 1280, whichever side is longer."""
    for width, height, tolerance in ((320, 160, 7.5), (160, 320, 7.5), (1280, 320, 30), (640, 480, 15)):
        x = width / 2
        for gap, hit in ((tolerance, 1), (tolerance + 0.25, 0)):
            data = [picture({"cat": [(x + gap, 0, width, height)]}, width, height)]
            assert score_of(data, peak_at(1, 1, (3, 3))) == hit
    data = [picture({"cat": [(170, 0, 320, 160)]}, 320, 160)]  # 10 pixels from the peak
    assert score_of(data, peak_at(1, 1, (3, 3)), tolerance=20) == 1
    assert score_of(data, peak_at(1, 1, (3, 3)), tolerance=10, tolerance_at=None) == 1
    assert score_of(data, peak_at(1, 1, (3, 3)), tolerance=9.5, tolerance_at=None) == 0


def test_the_peak_lies_where_the_grid_lies():
    """A crop: the grid covers the right half only, so its left cell is centred at 62.5."""
    data = [picture({"cat": [(60, 20, 65, 80)]})]
    method = peak_at(0, 0, (1, 2), box=(50, 0, 100, 100))
    assert score_of(data, method, tolerance=0) == 1
    assert score_of(data, peak_at(0, 0, (1, 2)), tolerance=0) == 0


def test_peaks_agree_with_heat_map_peak():
    rng = np.random.default_rng(0)
    for _ in range(20):
        one = heat_map(rng.normal(size=(3, 4)), 90, 70, box=(-10, 5, 80.5, 70))
        ((x, y),) = map_measures.GridMap.of(one, picture({}, 90, 70), "").peaks()
        assert (x, y) == pytest.approx(one.peak())


def test_a_map_without_a_peak_scores_like_chance():
    data = [picture({"cat": [(0, 0, 20, 20)]})]
    result = pointing_game(data, methods={"flat": lambda i, t: np.zeros((5, 5))}, tolerance=0)
    assert result["flat"].score == result["random"].score == pytest.approx(1 / 25)
    two = np.zeros((5, 5))
    two[0, 0] = two[4, 4] = 1
    assert score_of(data, lambda i, t: two, tolerance=0) == 0.5


def test_arrays_are_grids_over_the_whole_picture():
    data = [picture({"cat": [(75, 0, 100, 50)]}, 200, 100)]
    assert score_of(data, lambda i, t: np.array([[0, 1], [0, 0]]), tolerance=0) == 0  # its centre: (150, 25)
    assert score_of(data, lambda i, t: np.array([[0, 1, 0, 0], [0, 0, 0, 0]]), tolerance=0) == 1
    pixels = np.zeros((100, 200))
    pixels[49, 99] = 1
    assert score_of(data, lambda i, t: pixels, tolerance=0) == 1
    pixels[50, 100] = 2
    assert score_of(data, lambda i, t: pixels, tolerance=0) == 0


def test_baselines_of_the_pointing_game():
    """3 x 3 cells on 90 x 90 pixels, centres at 15, 45, 75: the box holds two of nine, and not the middle."""
    data = [picture({"cat": [(10, 10, 50, 20)]}, 90, 90), picture({"cat": [(40, 40, 50, 50)]}, 90, 90)]
    result = pointing_game(data, methods={"m": peak_at(0, 0, (3, 3))}, tolerance=0)
    assert result.values["random"].tolist() == pytest.approx([2 / 9, 1 / 9])
    assert result.values["centre"].tolist() == [0, 1]
    assert result["random"].is_baseline and result["centre"].is_baseline and not result["m"].is_baseline
    assert [score.method for score in result] == ["m", "centre", "random"]
    without = pointing_game(data, methods={"m": peak_at(0, 0, (3, 3))}, baselines=False)
    assert [score.method for score in without] == ["m"]
    assert without["m"].difference is None and without["m"].below_baseline is None


def test_a_random_baseline_for_each_grid():
    data = [picture({"cat": [(10, 10, 50, 20)]}, 90, 90)]
    methods = {
        "a": peak_at(0, 0, (3, 3)),
        "b": peak_at(0, 0, (1, 2)),
        "c": lambda image, label: np.zeros(image.shape[:2]),
    }
    result = pointing_game(data, methods=methods, tolerance=0)
    assert [score.method for score in result][3:] == [
        "centre",
        "random 3 x 3",
        "random 1 x 2",
        "random pixel",
    ]
    assert result["random 3 x 3"].score == pytest.approx(2 / 9)
    assert result["random 1 x 2"].score == 0
    assert result["random pixel"].score == pytest.approx(400 / 8100)


# ---- energy ----


def test_energy_share_by_hand():
    values = np.zeros((4, 6), np.float32)
    values[1, 1], values[1, 2], values[3, 5] = 1, 0.5, 0.25
    one = heat_map([[1]], 6, 4, values=values)
    for boxes, share in (
        ([(1, 1, 2, 2)], 1 / 1.75),
        ([(1, 1, 3, 2)], 1.5 / 1.75),
        ([(1, 1, 2.5, 2)], 1 / 1.75),  # the centre of a pixel decides: 2.5 is not right of it
        ([(1, 1, 2.6, 2)], 1.5 / 1.75),
        ([(1, 1, 3, 2), (1, 1, 2, 2)], 1.5 / 1.75),  # a union, nothing twice
        ([(1, 1, 2, 2), (5, 3, 6, 4)], 1.25 / 1.75),
        ([(0, 0, 6, 4)], 1),
        ([(3, 0, 4, 4)], 0),
    ):
        data = [picture({"cat": boxes}, 6, 4)]
        assert score_of(data, lambda i, t: one, energy_in_boxes) == pytest.approx(share), boxes


def test_energy_of_arrays():
    """Negative values are cut, the rest is scaled to 0..1: 3 and 2 above a smallest of 1 weigh 2 to 1."""
    data = [picture({"cat": [(0, 0, 1, 1)]}, 2, 2)]
    values = np.array([[3.0, 2.0], [1.0, 1.0]])
    assert score_of(data, lambda i, t: values, energy_in_boxes) == pytest.approx(2 / 3)
    values = np.array([[3.0, 2.0], [-5.0, 0.0]])
    assert score_of(data, lambda i, t: values, energy_in_boxes) == pytest.approx(3 / 5)
    grey = np.full((2, 2), 7)
    assert score_of(data, lambda i, t: grey, energy_in_boxes) == pytest.approx(1 / 4)


def test_energy_of_enlarged_grids():
    """Two cells, 0 and 1, on four pixels: 0, 1/4, 3/4, 1 with half-pixel centres."""
    data = [picture({"cat": [(2, 0, 3, 1)]}, 4, 1)]
    assert score_of(data, lambda i, t: np.array([[0.0, 1.0]]), energy_in_boxes) == pytest.approx(0.75 / 2)


def test_enlarging_agrees_with_torch():
    from availability import require

    torch = require("torch")
    grid = np.random.default_rng(0).normal(size=(3, 5))
    one = map_measures.GridMap(grid, (0, 0, 40, 21))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(grid)[None, None], size=(32, 32), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(one.on_square((0, 0, 40, 21), 32), expected[0, 0].numpy(), atol=1e-12)


def test_empty_maps_are_counted():
    data = [picture({"cat": [(0, 0, 50, 50)], "dog": [(0, 0, 50, 50)]})]
    maps = {"cat": np.full((2, 2), -1.0), "dog": np.array([[1.0, 0], [0, 0]])}
    result = energy_in_boxes(data, methods={"m": lambda image, label: maps[label]})
    assert result["m"].per_class["cat"] == (0, 1) and result["m"].n_empty == 1
    assert "1 empty maps" in str(result)


def test_baselines_of_the_energy():
    data = [picture({"cat": [(0, 0, 25, 100)]}, 100, 100)]
    result = energy_in_boxes(data, methods={"m": lambda i, t: np.array([[1.0]])})
    assert result["random"].score == pytest.approx(0.25)
    # A Gaussian of 25 pixels around the middle, between 0 and 100, integrated by many small steps.
    xs = np.arange(0, 100, 0.001)
    weights = np.exp(-0.5 * ((xs - 50) / 25) ** 2)
    assert result["centre"].score == pytest.approx(weights[xs < 25].sum() / weights.sum(), abs=1e-4)


# ---- deletion and insertion ----


class HalfModel:
    """A model whose probability of the first class is known: 0.1 + 0.8 * the visible share of the left half.

    Pictures consist of black and white pixels; whatever else a pixel is, it does not show the original.
    """

    image_size = 16
    logit_scale = 10.0
    config = SimpleNamespace(image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))

    def __init__(self):
        self.encoded = 0

    def knows(self, text):
        return text != "unknown"

    def classifier(self, labels, template):
        assert template == "a photo of a {}." and len(labels) == 2
        return np.eye(2, dtype=np.float32)

    def encode_image(self, squares):
        assert squares.shape[1:] == (3, 16, 16) and squares.dtype == np.float32
        self.encoded += len(squares)
        visible = (np.abs(np.abs(squares) - 1) < 1e-6).all(axis=1)[:, :, :8].mean(axis=(1, 2))
        probability = 0.1 + 0.8 * visible
        difference = np.log(probability / (1 - probability)) / self.logit_scale
        # Two numbers with that difference and squares that add up to 1.
        first = (difference + np.sqrt(2 - difference**2)) / 2
        return np.stack([first, first - difference], axis=1).astype(np.float32)


def black_and_white():
    cells = np.indices((16, 16)).sum(axis=0) % 2 * 255
    return np.repeat(cells[:, :, None], 3, axis=2).astype(np.uint8)


LEFT, RIGHT = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
HALF_DATA = [
    AnnotatedPicture(black_and_white(), 16, 16, {"left": [(0, 0, 8, 16)], "other": [(8, 0, 16, 16)]})
]


def test_areas_under_known_curves():
    """The left half first: its visible share falls to 0 while half of the pixels go, an area of 1/4."""
    result = deletion_insertion(
        HALF_DATA,
        model=HalfModel(),
        methods={"left first": lambda i, t: LEFT, "right first": lambda i, t: RIGHT},
        steps=8,
    )
    deletion, insertion = result["deletion"], result["insertion"]
    for name, share in (("left first", 0.25), ("right first", 0.75)):
        assert deletion[name].per_class["left"][0] == pytest.approx(0.1 + 0.8 * share, abs=1e-5)
        assert deletion[name].per_class["other"][0] == pytest.approx(0.9 - 0.8 * share, abs=1e-5)
        assert insertion[name].per_class["left"][0] == pytest.approx(0.1 + 0.8 * (1 - share), abs=1e-5)
    # Rings around the middle take as much of the left half as of the right one.
    assert deletion["centre"].per_class["left"][0] == pytest.approx(0.5, abs=0.02)


def test_lower_deletion_is_better():
    data = [HALF_DATA[0], AnnotatedPicture(black_and_white(), 16, 16, {"left": [(0, 0, 8, 16)]})]
    methods = {"good": lambda i, t: LEFT if t == "left" else RIGHT, "bad": lambda i, t: RIGHT}
    result = deletion_insertion(data, model=HalfModel(), methods=methods, labels=["left", "other"], steps=8)
    for measure in ("deletion", "insertion"):
        good, bad = result[measure]["good"], result[measure]["bad"]
        assert good.below_baseline is False and good.is_certain
        assert bad.below_baseline is True
        assert (good.difference < 0) == (measure == "deletion")
    assert "lower is better" in str(result["deletion"]) and "higher is better" in str(result["insertion"])


def test_the_signed_grid_orders_the_pixels():
    negative = np.array([[-1.0, -2.0]])
    result = explanations(
        HALF_DATA,
        {"m": lambda i, t: negative},
        measures="deletion",
        model=HalfModel(),
        steps=8,
        baselines=False,
    )
    assert result["deletion"]["m"].per_class["left"][0] == pytest.approx(0.3, abs=1e-5)


def test_equal_orders_are_encoded_once():
    model = HalfModel()
    same = lambda image, label: LEFT  # noqa: E731
    explanations(
        HALF_DATA,
        {"a": same, "b": same},
        measures=["deletion", "insertion"],
        model=model,
        steps=8,
        baselines=False,
    )
    # Once the original, the blurred and the empty picture; two curves with seven inner points.
    assert model.encoded == 3 + 2 * 7


def test_random_order_is_fair_on_average():
    """Over many pictures the random order takes as much of the left half as of the right one."""
    data = [AnnotatedPicture(black_and_white(), 16, 16, {"left": [(0, 0, 8, 16)]})] * 200
    result = deletion_insertion(
        evaluate.AnnotatedPictures(data, names=["left", "other"]),
        model=HalfModel(),
        methods={"m": lambda i, t: LEFT},
        steps=4,
    )
    row = result["deletion"].values["random"]
    assert row.mean() == pytest.approx(0.5, abs=0.04)
    assert row.std() > 0.05  # the pictures have draws of their own


@pytest.mark.parametrize("size, sigma", [(20, 1.5), (5, 2.0)])
def test_blur_agrees_with_a_plain_loop(size, sigma):
    square = np.random.default_rng(0).normal(size=(3, size, size)).astype(np.float32)
    radius = math.ceil(4 * sigma)
    padded = np.pad(square, ((0, 0), (radius, radius), (radius, radius)), mode="symmetric")
    expected, total = np.zeros(square.shape), 0
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            weight = math.exp(-(dx**2 + dy**2) / (2 * sigma**2))
            rows, columns = (slice(radius + d, radius + d + size) for d in (dy, dx))
            expected += weight * padded[:, rows, columns]
            total += weight
    np.testing.assert_allclose(map_measures._blur(square, sigma), expected / total, atol=1e-5)


def test_deletion_needs_two_labels():
    with pytest.raises(ValueError, match="at least two"):
        deletion_insertion(HALF_DATA, model=HalfModel(), methods=peak_at(0, 0), labels=["left"])


@pytest.mark.parametrize("size", [64, 96])
def test_curves_of_tiny(size):
    """In two steps, with the upper half first; also at a size that the model was not trained at."""
    model = clipc.load("tiny")
    rgb = smooth_picture(size, size)
    data = [AnnotatedPicture(rgb, size, size, {"cat": [(0, 0, 9, 9)], "dog": [(0, 0, 9, 9)]})]
    row_by_row = -np.arange(size * size).reshape(size, size)
    result = deletion_insertion(
        data, model=model, methods={"m": lambda i, t: row_by_row}, image_size=size, steps=2, baselines=False
    )
    config = model.config
    square = image.view(rgb, size, config.image_mean, config.image_std, fit="squash").pixels
    blurred = map_measures._blur(square, 5 * size / 224)
    upper = np.arange(size)[:, None] < size // 2
    pictures = [square, np.where(upper, 0, square), 0 * square, blurred, np.where(upper, square, blurred)]
    features = model._core.encode_images(np.stack(pictures).astype(np.float32))
    answers = model.classify(features, ["cat", "dog"], templates=TEMPLATE)
    for label in ("cat", "dog"):
        whole, lower, nothing, start, half = (answer[label] for answer in answers)
        deletion, insertion = (result[name]["m"].per_class[label][0] for name in ("deletion", "insertion"))
        assert deletion == pytest.approx((whole + 2 * lower + nothing) / 4, abs=1e-5)
        assert insertion == pytest.approx((start + 2 * half + whole) / 4, abs=1e-5)


def test_sizes_that_the_model_does_not_take():
    with pytest.raises(ValueError, match="multiples of 32"):
        deletion_insertion(
            [picture({"cat": [(0, 0, 9, 9)], "dog": [(0, 0, 9, 9)]})],
            model=clipc.load("tiny"),
            methods=peak_at(0, 0),
            image_size=100,
        )


# ---- intervals ----


def test_bootstrap_agrees_with_a_plain_loop():
    rng = np.random.default_rng(5)
    pictures = np.sort(rng.integers(0, 12, 40))
    pictures = np.unique(pictures, return_inverse=True)[1]
    n = pictures.max() + 1
    values = rng.random((3, 40))
    found = bootstrap_means(values, pictures, samples=50, seed=3)
    draws = np.random.default_rng(3).integers(0, n, (50, n))
    for b in range(50):
        rows = np.concatenate([np.flatnonzero(pictures == p) for p in draws[b]])
        np.testing.assert_allclose(found[b], values[:, rows].mean(axis=1), rtol=1e-12)


def evaluation(values, pictures, measure="pointing", baselines=("centre",), **options):
    n = len(pictures)
    return Evaluation(
        measure,
        values,
        pictures,
        ["cat"] * n,
        picture_names=[str(p) for p in range(max(pictures) + 1)],
        labels=["cat", "dog"],
        baselines=baselines,
        **options,
    )


def test_intervals_are_as_wide_as_the_pictures_vary():
    """Ten equal trials in each of 100 pictures carry no more than one: the normal interval of 100 trials."""
    hits = np.repeat(np.arange(100) % 2, 10).astype(float)
    result = evaluation({"m": hits, "centre": hits * 0}, np.repeat(np.arange(100), 10))
    low, high = result["m"].interval
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 100), rel=0.1)
    assert low < 0.5 < high


def test_differences_are_paired():
    """Two methods that differ by 0.1 everywhere differ by 0.1, however the pictures vary."""
    base = np.random.default_rng(0).random(30) * 0.8
    result = evaluation({"m": base + 0.1, "w": base - 0.05, "centre": base}, np.arange(30))
    assert result["m"].difference_interval == pytest.approx((0.1, 0.1))
    assert result["m"].below_baseline is False and result["w"].below_baseline is True
    assert result["w"].is_certain and result["w"].note == "below centre"
    assert result["m"].interval[1] - result["m"].interval[0] > 0.1
    lower = evaluation({"m": base + 0.1, "centre": base}, np.arange(30), "deletion")
    assert lower["m"].below_baseline is True


def test_what_is_below_by_chance_is_marked_as_such():
    rng = np.random.default_rng(1)
    base, other = rng.random(20), rng.random(20)
    other -= other.mean() - base.mean() + 0.01
    score = evaluation({"m": other, "centre": base}, np.arange(20))["m"]
    assert score.below_baseline and not score.is_certain
    assert score.note == "below centre (interval holds 0)" and score.mark == "▽"


def test_one_picture_has_no_interval():
    result = evaluation({"m": [0, 1], "centre": [1, 1]}, [0, 0])
    assert all(map(math.isnan, result["m"].interval))
    assert "[-, -]" in str(result) and "[-, -]" in result.to_markdown()


def test_seeds():
    data = [picture({"cat": [(0, 0, 10 * i + 10, 50)]}, seed=i) for i in range(8)]
    runs = [
        pointing_game(data, methods={"m": peak_at(0, 2)}, tolerance=0, limit=5, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert runs[0].to_rows() == runs[1].to_rows()
    assert np.array_equal(runs[0].values["random"], runs[1].values["random"])
    assert runs[0].n_pictures == 5
    assert not np.array_equal(runs[0].values["random"], runs[2].values["random"])  # other pictures


# ---- tables ----


@pytest.fixture
def results():
    near, far = (45, 45, 55, 55), (0, 0, 10, 10)
    data = [picture({"cat": [near]}), picture({"cat": [near], "<dog>": [near]}), picture({"bird": [far]})]
    methods = {"good": peak_at(2, 2), "<bad>|": peak_at(0, 0)}
    return explanations(data, methods, measures=["pointing", "energy"], labels=["cat", "<dog>"])


def test_text_tables_are_aligned_and_mark_what_is_below(results):
    text = str(results["pointing"])
    lines = text.splitlines()
    assert lines[0] == "Pointing game: the map's peak lies in a box of the class, in % (higher is better)"
    assert "3 trials" in lines[1] and "2 pictures; 1 picture without a class of interest" in lines[1]
    assert "tolerance 15 px at a longer side of 640" in lines[1]
    header, *rows = lines[3:]
    assert len({line.rindex("]") for line in rows if line.count("]") == 2}) == 1
    assert header.split()[0] == "method" and [row.split()[0] for row in rows] == [
        "good",
        "<bad>|",
        "centre",
        "random",
    ]
    assert "below centre" in rows[1] and "below" not in rows[0] and rows[2].endswith("baseline")


def test_html_tables(results):
    text = results._repr_html_()
    assert "<bad>" not in text and "&lt;bad&gt;" in text

    class Checker(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.cells = [], 0

        def handle_starttag(self, tag, attrs):
            self.open += [tag] if tag != "br" else []
            self.cells += tag == "td"

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(text)
    assert checker.open == [] and checker.cells == 2 * 4 * 6
    below = [score for table in results.values() for score in table if score.below_baseline]
    assert len(below) >= 1 and text.count("below centre") == text.count("background") == len(below)


def test_markdown(results):
    lines = results["pointing"].to_markdown().splitlines()
    assert len(lines) == 2 + 4 and len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "below centre" in lines[3] and lines[3].startswith("| <bad>\\| |")
    combined = results.to_markdown()
    assert "| good | 100.0 [100.0, 100.0] |" in combined
    assert "| *centre* |" in combined and "▼" in combined.splitlines()[3]
    assert "pointing game (↑)" in combined
    differences = results.to_markdown(differences=True)
    assert differences.count("\n| ") == 2 and "| <bad>\\| | -100.0 [-100.0, -100.0] ▼ |" in differences


def test_rows(results):
    rows = results.to_rows()
    assert len(rows) == 8 and rows[0]["method"] == "good" and rows[0]["score"] == 1.0
    assert rows[1]["below_baseline"] is True and rows[2]["below_baseline"] is None
    json.dumps(rows)
    assert {"measure": "pointing", "method": "good", "label": "<dog>", "score": 1.0, "n_trials": 1} in (
        results.class_rows()
    )
    with pytest.raises(KeyError, match="there are good"):
        results["pointing"]["other"]
    assert repr(results).startswith("<") and repr(results["pointing"]).startswith("<Pointing game, 3 trials")


def test_to_pandas(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"clipc\[analysis\]"):
        results.to_pandas()
    made = SimpleNamespace(DataFrame=lambda rows: ("frame", rows))
    monkeypatch.setitem(sys.modules, "pandas", made)
    assert results["energy"].to_pandas() == ("frame", results["energy"].to_rows())


# ---- methods of a model ----


class GridModel(HalfModel):
    """Remembers how `grad_cam` was called; its maps have their peak in the cell of the text's length."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def grad_cam(self, image, text, **options):
        assert image.dtype == np.uint8
        self.calls.append((text, options))
        height, width = image.shape[:2]
        one = text is None or isinstance(text, str)
        texts = [text or ""] if one else text
        grids = np.zeros((len(texts), 2, 2), np.float32)
        for grid, each in zip(grids, texts):
            grid.ravel()[len(each) % 4] = 1
        maps = HeatMap(
            np.repeat(np.repeat(grids, height // 2, 1), width // 2, 2),
            texts=texts,
            method=options["method"],
            score="logit",
            layer=None,
            grid=grids,
            grid_box=(0, 0, width, height),
            seen_box=(0, 0, width, height),
        )
        return maps[0] if one else maps


def model_calls(methods, **options):
    model = GridModel()
    data = [picture({"cat": [(0, 0, 50, 50)], "bird": [(50, 50, 100, 100)], "unknown": [(0, 0, 9, 9)]})]
    result = pointing_game(data, model=model, methods=methods, **options)
    return model.calls, result


TEMPLATE = "a photo of a {}."
CAT, BIRD = "a photo of a cat.", "a photo of a bird."


def test_methods_by_name_get_all_texts_at_once():
    calls, result = model_calls(["gradcam", "eigencam"], layer="layer3")
    assert calls == [
        ([CAT, BIRD], {"image_size": 16, "fit": "squash", "layer": "layer3", "method": "gradcam"}),
        (None, {"image_size": 16, "fit": "squash", "layer": "layer3", "method": "eigencam"}),
    ]
    assert result.labels == ("cat", "bird")  # those that the model knows
    # 17 letters: cell 1, upper right; 18: cell 2, lower left. Neither lies in its box.
    assert result["gradcam"].score == 0
    assert result.values["eigencam"].tolist() == [1, 0]


def test_surgery_gets_all_labels():
    methods = {"all": "surgery", "alone": {"method": "surgery", "labels": None}}
    options = {"image_size": 16, "fit": "squash", "method": "surgery"}
    calls, _ = model_calls(methods)
    assert calls == [
        ([CAT, BIRD], {**options, "labels": [CAT, BIRD]}),
        (CAT, {**options, "labels": None}),
        (BIRD, {**options, "labels": None}),
    ]
    calls, _ = model_calls("surgery", labels=["cat"])  # one label has no others
    assert calls == [(CAT, {**options, "labels": None})]
    calls, _ = model_calls("gradcam", score="probability", fit="crop", image_size=64, template="{}")
    assert calls[0] == (
        ["cat", "bird"],
        {
            "image_size": 64,
            "fit": "crop",
            "score": "probability",
            "labels": ["cat", "bird"],
            "method": "gradcam",
        },
    )


def test_each_map_is_computed_once():
    model = GridModel()
    explanations(HALF_DATA, ["gradcam", "layercam"], model=model, steps=2)
    assert [options["method"] for _, options in model.calls] == ["gradcam", "layercam"]


# ---- wrong arguments, wrong maps ----


DATA = [picture({"cat": [(0, 0, 50, 50)]})]


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"methods": []}, ValueError, "methods: expected at least one"),
        ({"methods": [3]}, TypeError, "methods: expected names and functions"),
        ({"methods": ["gradcam", "gradcam"]}, ValueError, "two are called 'gradcam'"),
        ({"methods": {"centre": "gradcam"}}, ValueError, "name of a baseline"),
        ({"methods": {"a": 3}}, TypeError, "methods: expected a name"),
        ({"template": "a photo"}, ValueError, "no {}"),
        ({"template": 3}, TypeError, "template"),
        ({"fit": "stretch"}, ValueError, "fit: expected"),
        ({"tolerance": -1}, ValueError, "tolerance"),
        ({"tolerance": "15"}, TypeError, "tolerance"),
        ({"tolerance_at": 0}, ValueError, "tolerance_at"),
        ({"limit": 0}, ValueError, "limit: expected 1"),
        ({"limit": 2.5}, TypeError, "limit"),
        ({"seed": -1}, ValueError, "seed"),
        ({"labels": "cat"}, TypeError, "labels: expected a list"),
        ({"labels": []}, ValueError, "at least one class"),
        ({"labels": ["dog"]}, ValueError, "'dog' is no class of the data, which has cat"),
        ({"labels": ["cat", "cat"]}, ValueError, "more than once"),
        ({"raw": True}, TypeError, "raw: no option here"),
        ({"exif": True}, TypeError, "exif: no option here"),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error) as caught:
        pointing_game(DATA, **{"methods": peak_at(0, 0), **options})
    assert message in str(caught.value)


def test_wrong_data(tmp_path):
    for data in (3, ["a.png"], {"a": 3}):
        with pytest.raises(TypeError, match="data: expected a path"):
            pointing_game(data, methods=peak_at(0, 0))
    with pytest.raises(ValueError, match="empty list"):
        pointing_game([], methods=peak_at(0, 0))
    with pytest.raises(ValueError, match="no picture has a box"):
        pointing_game([picture({})], methods=peak_at(0, 0))
    with pytest.raises(ValueError, match="knows none of its 1 classes, unknown"):
        pointing_game([picture({"unknown": [(0, 0, 9, 9)]})], model=HalfModel(), methods=peak_at(0, 0))
    both = evaluate.AnnotatedPictures([picture({"cat": [(0, 0, 9, 9)]})], names=["cat", "dog"])
    with pytest.raises(ValueError, match="none of the 1 pictures has a box of dog"):
        pointing_game(both, methods=peak_at(0, 0), labels=["dog"])
    with pytest.raises(ValueError, match="measures: expected some of pointing"):
        explanations(DATA, peak_at(0, 0), measures=["hits"])
    with pytest.raises(ValueError, match="steps"):
        deletion_insertion(HALF_DATA, model=HalfModel(), methods=peak_at(0, 0), steps=1)


@pytest.mark.parametrize(
    "values, error, message",
    [
        (None, TypeError, "expected a HeatMap or an array, got NoneType"),
        ([[1.0]], TypeError, "got list"),
        (np.zeros(3), ValueError, "two axes, got shape (3,)"),
        (np.zeros((0, 3)), ValueError, "two axes"),
        (np.array([["a"]]), ValueError, "map of numbers"),
        (np.array([[1.0, np.nan]]), ValueError, "NaN or infinity"),
        (heat_map([[1.0]], 50, 50), ValueError, "expected a heat map of shape (100, 100), got (50, 50)"),
    ],
)
def test_wrong_maps_are_named(values, error, message):
    with pytest.raises(error) as caught:
        pointing_game(DATA, methods={"mine": lambda image, label: values})
    assert "mine" in str(caught.value) and "'cat'" in str(caught.value) and message in str(caught.value)


def test_pictures_of_another_size_than_their_boxes(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(smooth_picture(30, 20), "PNG"))
    with pytest.raises(ValueError, match=r"a\.png: the picture has 20 x 30 pixels, but .* 30 x 20"):
        pointing_game([AnnotatedPicture(path, 30, 20, {"cat": [(0, 0, 5, 5)]})], methods=peak_at(0, 0))


def test_unreadable_pictures(tmp_path):
    whole = encode(smooth_picture(100, 100), "PNG")
    (tmp_path / "a.png").write_bytes(whole)
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    boxes = {"cat": [(0, 0, 50, 50)]}
    data = [AnnotatedPicture(tmp_path / name, 100, 100, boxes) for name in ("a.png", "b.png", "c.png")]
    with pytest.raises(ImageError, match=r"b\.png"):
        pointing_game(data, methods=peak_at(0, 0))
    with pytest.raises(FileNotFoundError, match=r"c\.png"):
        pointing_game([data[2]], methods=peak_at(0, 0))
    with pytest.warns(ClipcWarning, match=r"2 pictures cannot be read.*b\.png"):
        result = pointing_game(data, methods=peak_at(0, 0), skip_unreadable=True)
    assert result.n_pictures == 1 and result.n_unreadable == 2 and "2 pictures unreadable" in str(result)
    with pytest.raises(ValueError, match="none of the 1 pictures"), pytest.warns(ClipcWarning):
        pointing_game([data[2]], methods=peak_at(0, 0), skip_unreadable=True)


def test_an_interruption_passes_through():
    def interrupted(image, label):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pointing_game(DATA, methods=interrupted, progress=True, skip_unreadable=True)


# ---- from files to a table ----


@pytest.fixture
def two_folders(tmp_path):
    """The shipped photographs with the same boxes, once as YOLO text and once as COCO JSON."""
    boxes = {"cat.png": ("cat", (100, 0, 400, 300)), "coffee.png": ("cup", (200, 50, 500, 350))}
    sizes = {"cat.png": (451, 300), "coffee.png": (600, 400), "rocket.jpg": (640, 427)}
    names = ["cup", "cat"]
    yolo, coco = tmp_path / "yolo", tmp_path / "coco"
    for folder in (yolo / "images", yolo / "labels", coco):
        folder.mkdir(parents=True)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "cat"}],
    }
    for i, (file, (width, height)) in enumerate(sizes.items()):
        shutil.copy(EXAMPLES / file, yolo / "images")
        shutil.copy(EXAMPLES / file, coco)
        content["images"].append({"id": i, "file_name": file, "width": width, "height": height})
        if file in boxes:
            label, (x0, y0, x1, y1) = boxes[file]
            index = names.index(label)
            numbers = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
            (yolo / "labels" / file).with_suffix(".txt").write_text(
                f"{index} " + " ".join(map(repr, numbers))
            )
            content["annotations"].append(
                {"id": i, "image_id": i, "category_id": index + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            )
    (yolo / "data.yaml").write_text("names:\n  0: cup\n  1: cat\n")
    (coco / "instances.json").write_text(json.dumps(content))
    return yolo, coco


def brightness(image, label):
    """A method without a model: bright is important."""
    return image.mean(axis=2)


def test_both_formats_give_the_same_table(two_folders):
    model = clipc.load("tiny")
    methods = {"brightness": brightness, "middle": lambda image, label: np.pad([[1.0]], 1)}
    tables = [
        explanations(folder, methods, model=model, steps=4, labels=["cup", "cat"]) for folder in two_folders
    ]
    assert str(tables[0]) == str(tables[1])
    assert tables[0].to_rows() == tables[1].to_rows()
    pointing = tables[0]["pointing"]
    assert pointing.n_trials == 2 and pointing.n_without == 1
    assert pointing["middle"].score == 1.0  # (225, 150) and (300, 200) lie in the boxes
    assert pointing["centre"].score == 1.0
    expected = []
    for file, (x0, y0, x1, y1) in (("cat.png", (100, 0, 400, 300)), ("coffee.png", (200, 50, 500, 350))):
        grey = np.asarray(Image.open(EXAMPLES / file).convert("RGB"), float).mean(axis=2)
        grey = grey - grey.min()
        expected.append(grey[y0:y1, x0:x1].sum() / grey.sum())
    assert tables[0]["energy"].values["brightness"] == pytest.approx(expected)
    for measure in ("deletion", "insertion"):
        for row in tables[0][measure].values.values():
            assert (row > 0).all() and (row < 1).all()


def test_tiny_recognises_less_without_the_object(two_folders):
    """A map that is the box itself: deleting it costs the cat's probability more than deleting the rest."""

    def box(image, label):
        inside = np.zeros(image.shape[:2])
        x0, y0, x1, y1 = (100, 0, 400, 300) if label == "cat" else (200, 50, 500, 350)
        inside[y0:y1, x0:x1] = 1
        return inside

    result = explanations(
        two_folders[0],
        {"box": box, "rest": lambda image, label: -box(image, label)},
        measures=("deletion",),
        model=clipc.load("tiny"),
        steps=10,
    )["deletion"]
    assert result["box"].score < result["rest"].score


RESNET_METHODS = "gradcam gradcam++ layercam hirescam eigencam scorecam gscorecam surgery maskclip".split()


@pytest.mark.filterwarnings("ignore:the heat map of 'a cat'")
def test_every_method_of_tiny(two_folders):
    model = clipc.load("tiny")
    data = evaluate.read_boxes(two_folders[1])
    data = evaluate.AnnotatedPictures([one for one in data if "cat" in one.boxes], names=data.names)
    results = explanations(data, RESNET_METHODS, model=model, labels=["cat", "cup"], steps=3)
    assert list(results) == ["pointing", "energy", "deletion", "insertion"]
    for evaluation in results.values():
        assert [score.method for score in evaluation] == [*RESNET_METHODS, "centre", "random"]
        for row in evaluation.values.values():
            assert row.shape == (1,) and (row >= 0).all() and (row <= 1).all()
    # The scores of one method by its own map.
    cat, boxes = two_folders[1] / "cat.png", (100, 0, 400, 300)
    heat = model.grad_cam(cat, "a photo of a cat.", fit="squash")
    x, y = heat.peak()
    tolerance = 15 * 451 / 640
    hit = boxes[0] - tolerance <= x <= boxes[2] + tolerance and -tolerance <= y <= 300 + tolerance
    assert results["pointing"]["gradcam"].per_class["cat"] == (float(hit), 1)
    share = heat[:, 100:400].sum(dtype=float) / heat.sum(dtype=float)
    assert results["energy"]["gradcam"].per_class["cat"][0] == pytest.approx(share, rel=1e-5)
    # The pixels of the curves are those that the map's grid covers.
    for fit in ("crop", "squash", "pad"):
        heat = model.grad_cam(cat, "a cat", fit=fit)
        assert heat.grid_box == pytest.approx(image.square_box(300, 451, 64, fit))
        one = map_measures.GridMap.of(heat, picture({}, 451, 300), "")
        square = one.on_square(heat.grid_box, 2)
        np.testing.assert_allclose(square, heat.grid, atol=1e-6)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_other_fits(two_folders, fit):
    results = explanations(two_folders[0], model=clipc.load("tiny"), fit=fit, image_size=96, steps=2)
    for evaluation in results.values():
        assert evaluation.settings["fit"] == fit and evaluation.settings["image_size"] == 96
        assert all(np.isfinite(row).all() for row in evaluation.values.values())
    energy = results["energy"]
    # The uniform map covers what is seen: of the cat's 300 x 300 pixels in a box from 100 to 400.
    x0, _, x1, _ = image.seen_box(300, 451, 96, fit)
    expected = (400 - max(x0, 100)) / (x1 - x0) if fit == "pad" else (min(x1, 400) - max(x0, 100)) / (x1 - x0)
    assert energy["random"].per_class["cat"][0] == pytest.approx(expected, abs=0.01)


def test_empty_maps_do_not_warn_one_by_one(two_folders, recwarn):
    model = clipc.load("tiny")
    options = {"fit": "crop", "template": "a {}", "labels": ["cat"]}
    result = energy_in_boxes(two_folders[0], model=model, **options)
    assert result["gradcam"].n_empty == 1 and result["gradcam"].score == 0
    assert not [str(warning.message) for warning in recwarn if "zero everywhere" in str(warning.message)]
    with pytest.warns(ClipcWarning, match="zero everywhere"):
        model.grad_cam(EXAMPLES / "cat.png", "a cat")


def test_a_method_that_the_model_does_not_have(two_folders):
    with pytest.raises(ValueError, match="rollout"):
        pointing_game(two_folders[0], model="tiny", methods="rollout")
    with pytest.raises(TypeError, match="blocs"):
        pointing_game(two_folders[0], model="tiny", blocs="last")


def test_the_tool_prints_its_tables(two_folders, capsys):
    folder = Path(__file__).parents[1] / "tools"
    spec = importlib.util.spec_from_file_location(
        "evaluate_explanations", folder / "evaluate_explanations.py"
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.main(
        ["--data", str(two_folders[0]), "--methods", "gradcam", "gscorecam", "--sizes", "64", "--subset", "1"]
        + ["--steps", "2", "--quiet", "--classes"]
    )
    out = capsys.readouterr().out
    assert out.count("\n| gradcam |") == 4 and out.count("\n| gscorecam |") == 2
    assert "### Boxes at 64 x 64" in out and "### All measures at 64 x 64" in out
    assert "- pointing, gradcam, cat: " in out


def test_importing_clipc_does_not_load_what_evaluates():
    code = (
        "import sys, clipc; "
        "late = ('clipc.evaluate', 'clipc.annotations', 'clipc.scores', 'pandas', 'PIL.Image', 'tqdm'); "
        "print([name for name in late if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert run.stdout.strip() == "[]", run.stderr
