"""Zero-shot accuracy against OpenAI's code, and its figures against independent computations."""

import csv
import html.parser
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from image_files import smooth_picture
from PIL import Image
from scipy import ndimage, stats
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

import clipc
from clipc import evaluate
from clipc.errors import ClipcWarning, ImageError
from clipc.evaluate import CONDITIONS, PROMPTS, Condition, zero_shot
from clipc.evaluate.accuracy import Answers
from clipc.evaluate.pictures import cosines
from clipc.evaluate.statistics import mcnemar, paired_interval, wilson
from clipc.labelled_images import read_labelled_images
from clipc.statistics import holm

# What tiny's README gives for these pictures and prompts: top-1 and top-5 in percent.
PUBLISHED = {
    "label alone": (35.7, 62.3),
    "a photo of a {}.": (35.4, 62.9),
    "ensemble of 5": (35.5, 63.0),
}


@pytest.fixture(scope="module")
def tiny():
    return clipc.load("tiny")


@pytest.fixture
def animals(tmp_path, tiny):
    """Twelve pictures of smooth noise in three class folders."""
    for i in range(12):
        folder = tmp_path / "animals" / ("cat", "dog", "lion")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth_picture(64, 64, seed=i)).save(folder / f"{i}.png")
    return tmp_path / "animals"


def synthetic(model, labels, per_class, noise, seed=0):
    """Features around a model's own text features: (features, labels of each)."""
    rng = np.random.default_rng(seed)
    matrix = model.classifier(labels)
    rows = np.repeat(matrix, per_class, axis=0)
    features = rows + noise * rng.standard_normal(rows.shape).astype(np.float32) / math.sqrt(rows.shape[1])
    return features.astype(np.float32), [label for label in labels for _ in range(per_class)]


# ---- against OpenAI's code ----


@pytest.fixture(
    scope="module", params=[40, pytest.param(200, marks=pytest.mark.full)], ids=lambda n: f"{n} classes"
)
def compared(request, oracles, clip_data, tiny):
    """An evaluation, and the logits of OpenAI's code with Pillow's preprocessing for the same pictures."""
    folder = clip_data("zeroshot")
    data = read_labelled_images(folder)
    labels = list(dict.fromkeys(data.column("label")))[: request.param]
    data = data.where(label=labels)
    result = zero_shot(data, model=tiny, cache=False)
    assert list(result.labels) == labels

    weights, metadata = oracles.load_float32(tiny.path)
    reference = oracles.build_reference(weights, metadata["activation"])
    mean, std = (
        np.array(value, np.float32)[:, None, None]
        for value in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    pixels = []
    for path in data.paths:
        with Image.open(path) as picture:
            rgb = np.asarray(picture.convert("RGB"), np.float32)
        assert rgb.shape == (64, 64, 3), "the reference would have to resize"
        pixels.append((rgb.transpose(2, 0, 1) / np.float32(255) - mean) / std)
    images = oracles.reference_image_features(reference, np.stack(pixels)).unit.astype(np.float64)
    scale = math.exp(float(weights["logit_scale"]))
    templates = sorted({template for several in PROMPTS.values() for template in several})
    features = {
        template: oracles.reference_text_features(
            reference, oracles.tokenize([template.format(label) for label in labels])
        ).unit.astype(np.float64)
        for template in templates
    }
    logits = {}
    for name, several in PROMPTS.items():
        means = np.mean([features[template] for template in several], axis=0)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        logits[name] = scale * images @ means.T
    true = np.array([labels.index(label) for label in data.column("label")])
    return result, logits, labels, true


def test_predictions_are_those_of_openai(compared):
    result, logits, labels, true = compared
    for name, rows in logits.items():
        predicted = [labels.index(one.predicted) for one in result.predictions(name)]
        best = np.sort(rows, axis=1)
        clear = best[:, -1] - best[:, -2] >= 1e-3
        assert clear.mean() > 0.99
        assert (rows.argmax(axis=1) == predicted)[clear].all()
        # The data are in the order of the file, and no label was mixed up.
        assert [labels.index(one.true) for one in result.predictions(name)] == true.tolist()
        # Probabilities of the predicted label, from the reference's logits.
        p = np.exp(rows - rows.max(axis=1, keepdims=True))
        p = p.max(axis=1) / p.sum(axis=1)
        np.testing.assert_allclose([one.probability for one in result.predictions(name)], p, atol=1e-4)


def test_accuracies_are_those_of_openai(compared):
    result, logits, labels, true = compared
    for name, rows in logits.items():
        row = result.row(name)
        for k in (1, 5):
            expected = top_k_accuracy_score(true, rows, k=k, labels=np.arange(len(labels)))
            # Two logits that agree to 1e-5 may change places for one picture.
            assert row[f"top{k}"] == pytest.approx(expected, abs=1.01 / len(true))
            if len(true) == 1000:
                published = PUBLISHED[name][k == 5]
                assert 100 * row[f"top{k}"] == pytest.approx(published, abs=1e-9)


def test_confusions_are_those_of_sklearn(compared):
    result, logits, labels, true = compared
    for name in logits:
        predicted = [labels.index(one.predicted) for one in result.predictions(name)]
        expected = confusion_matrix(true, predicted, labels=range(len(labels)))
        np.testing.assert_array_equal(result.confusion(name), expected)
        for row in result.per_class(name):
            i = labels.index(row["label"])
            assert row["n"] == expected[i].sum()
            assert row["accuracy"] == pytest.approx(expected[i, i] / row["n"])
    most = result.most_confused(3)
    off = result.confusion()
    np.fill_diagonal(off, 0)
    assert [pair["count"] for pair in most] == sorted(off.ravel().tolist())[::-1][:3]
    first = most[0]
    assert off[labels.index(first["true"]), labels.index(first["predicted"])] == first["count"]


# ---- statistics ----


@pytest.mark.parametrize("count, n", [(0, 10), (3, 10), (10, 10), (357, 1000), (2.5, 7)])
def test_wilson(count, n):
    z = stats.norm.ppf(0.975)
    p = count / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    np.testing.assert_allclose(wilson(count, n), (middle - half, middle + half), atol=1e-12)


def test_wilson_of_nothing_is_undefined():
    assert all(math.isnan(end) for end in wilson(0, 0))


@pytest.mark.parametrize("b, c", [(0, 0), (0, 1), (5, 1), (3, 3), (30, 12)])
def test_mcnemar(b, c):
    first = np.array([True] * b + [False] * c + [True, False])
    second = np.array([False] * b + [True] * c + [True, False])
    p, only_first, only_second = mcnemar(first, second)
    assert (only_first, only_second) == (b, c)
    expected = statsmodels_mcnemar([[1, b], [c, 1]], exact=True).pvalue
    assert p == pytest.approx(1.0 if b + c == 0 else expected)


def test_paired_interval_by_hand():
    # b = 8 + 1/2, c = 2 + 1/2, n = 50 + 2.
    middle, spread = -6 / 52, math.sqrt(11 - 36 / 52) / 52
    low, high = paired_interval(8, 2, 50)
    np.testing.assert_allclose(
        [low, high], [middle - 1.959964 * spread, middle + 1.959964 * spread], atol=1e-6
    )
    low, high = paired_interval(0, 0, 20)
    assert low < 0 < high


def test_paired_interval_holds_the_true_difference_in_95_of_100():
    rng = np.random.default_rng(0)
    n, cells = 60, (0.4, 0.2, 0.08, 0.32)  # both right, only first, only second, neither
    drawn = rng.multinomial(n, cells, size=2000)
    bounds = [paired_interval(row[1], row[2], n) for row in drawn]
    held = np.mean([low <= cells[2] - cells[1] <= high for low, high in bounds])
    assert 0.93 < held < 0.975


def test_holm():
    assert len(holm([])) == 0
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])


def test_rows_compare_with_the_first(tiny):
    labels = ["dog", "cat", "lion", "teapot", "bridge", "bus"]
    data = synthetic(tiny, labels, 20, 5)
    result = zero_shot(data, model=tiny, prompts=["label alone", "the {}", "a {}"], top=(1, 2), cache=False)
    first, *others = result.rows()
    assert first["compared_with"] is None and first["p"] is None
    right = {
        name: np.array([one.true == one.predicted for one in result.predictions(name)])
        for name in result.prompts
    }
    for row in others:
        assert row["compared_with"] == "label alone"
        a, b = right["label alone"], right[row["prompts"]]
        assert row["difference"] == pytest.approx(b.mean() - a.mean())
        assert (row["only_other"], row["only_this"]) == ((a & ~b).sum(), (b & ~a).sum())
        table = [[(a & b).sum(), (a & ~b).sum()], [(b & ~a).sum(), (~a & ~b).sum()]]
        expected = (
            statsmodels_mcnemar(table, exact=True).pvalue if row["only_other"] + row["only_this"] else 1
        )
        assert row["p"] == pytest.approx(expected)
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    assert [row["p_holm"] for row in others] == pytest.approx(holm([row["p"] for row in others]))
    assert 0.3 < first["top1"] < 1  # the noise makes mistakes, or nothing would have been compared
    assert first["top2"] > first["top1"]


def test_other_conditions_compare_with_the_same_prompts(tiny, animals):
    result = zero_shot(
        animals, model=tiny, conditions=["grey", "original"], prompts=["{}", "a {}"], cache=False
    )
    assert [row["compared_with"] for row in result.rows()] == [None, "{}", "grey", "grey"]
    assert result.conditions == ("grey", "original")


def test_a_tie_counts_its_share():
    logits = np.array(
        [
            [1, 1, 0, 0],  # true 0: one of two
            [2, 1, 1, 1],  # true 1: behind one, one of three
            [0, 0, 0, 0],  # true 2: one of four
            [3, 0, 0, 3],  # true 3: one of two
            [0, 9, 0, 0],  # true 1
        ],
        np.float32,
    )
    answers = Answers.from_logits(logits, np.array([0, 1, 2, 3, 1]))
    np.testing.assert_allclose(answers.right(1), [1 / 2, 0, 1 / 4, 1 / 2, 1])
    np.testing.assert_allclose(answers.right(2), [1, 1 / 3, 2 / 4, 1, 1])
    np.testing.assert_allclose(answers.right(4), 1)
    assert answers.predicted.tolist() == [0, 0, 0, 0, 1]
    # The same by trying all orders of equal logits.
    rng = np.random.default_rng(0)
    tries = 4000
    noise = rng.uniform(0, 1e-3, (tries, *logits.shape))
    order = np.argsort(-(logits + noise), axis=2)
    for k in (1, 2, 3):
        share = (order[:, :, :k] == np.array([0, 1, 2, 3, 1])[None, :, None]).any(axis=2).mean(axis=0)
        np.testing.assert_allclose(answers.right(k), share, atol=0.04)


def test_equal_rows_have_equal_cosines():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((5, 256)).astype(np.float32)
    columns = rng.standard_normal((40, 256)).astype(np.float32)
    columns[::3] = columns[0]
    found = cosines(rows[[0, 1, 2, 1, 0, 3, 4]], columns)
    assert (found[:, ::3] == found[:, :1]).all()
    assert (found[0] == found[4]).all() and (found[1] == found[3]).all()
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows.astype(float), columns.astype(float))]
    np.testing.assert_allclose(found, (unit[0] @ unit[1].T)[[0, 1, 2, 1, 0, 3, 4]], atol=1e-6)


def test_accuracy_of_a_known_model(tiny):
    # Without noise a picture's features are those of its label.
    labels = ["dog", "cat", "lion"]
    result = zero_shot(synthetic(tiny, labels, 5, 0), model=tiny, prompts="label alone", cache=False)
    assert result.row()["top1"] == 1 and result.row()["chance"] == pytest.approx(1 / 3)
    assert result.top == (1,)  # top-5 of three labels would always hold
    assert (result.confusion() == 5 * np.eye(3)).all()
    assert result.most_confused() == []
    assert result.per_class()[0]["taken_for"] is None


def test_class_mean_and_majority(tiny):
    # Nine dogs that are right, one cat that is taken for a dog.
    features = np.repeat(tiny.classifier(["dog"]), 10, axis=0)
    result = zero_shot((features, ["dog"] * 9 + ["cat"]), model=tiny, prompts="{}", cache=False)
    row = result.row()
    assert (row["top1"], row["class_mean"], row["majority"]) == pytest.approx((0.9, 0.5, 0.9))
    pair = {"true": "cat", "predicted": "dog", "count": 1, "n": 1, "share": 1.0}
    assert result.most_confused() == [pair]
    assert result.per_class()[1]["taken_for"] == "dog"
    assert "the most frequent label 90.0" in str(result)


# ---- conditions ----


def picture(seed=3):
    return smooth_picture(64, 64, seed)


def test_original_is_the_picture():
    assert (CONDITIONS["original"].apply(picture(), "00") == picture()).all()


def test_grey_is_the_luma():
    found = CONDITIONS["grey"].apply(picture(), "00")
    r, g, b = picture().astype(float).transpose(2, 0, 1)
    expected = (299 * r + 587 * g + 114 * b) / 1000
    assert (found == found[..., :1]).all() and found.dtype == np.uint8
    assert np.abs(found[..., 0] - expected).max() <= 0.51


@pytest.mark.parametrize("size", [64, 224])
def test_blur_is_a_gaussian_of_a_share_of_the_side(size):
    original = smooth_picture(size, size, 1)
    found = CONDITIONS["blur"].apply(original, "00")
    sigma = size / 64
    radius = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(original.astype(float), ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    for axis in (0, 1):
        padded = np.apply_along_axis(np.convolve, axis, padded, kernel, mode="valid")
    assert np.abs(found - padded).max() <= 0.51
    assert np.abs(found.astype(int) - original).mean() > 1


def test_noise_has_its_strength_and_its_seed():
    grey = np.full((64, 64, 3), 128, np.uint8)
    a, b = "ab" * 32, "cd" * 32
    apply = CONDITIONS["noise"].apply
    first = apply(grey, a)
    assert (first == apply(grey, a)).all() and (first == apply(grey, bytes.fromhex(a))).all()
    assert (first != apply(grey, b)).mean() > 0.9
    assert (grey == 128).all()
    difference = first.astype(float) - 128
    assert difference.std() == pytest.approx(0.12 * 255, rel=0.03)
    assert abs(difference.mean()) < 1
    assert stats.kstest(difference.ravel() / (0.12 * 255), "norm").statistic < 0.03  # rounding adds 0.007
    # Each channel its own noise, and no wrapping round at black.
    assert abs(np.corrcoef(difference[..., 0].ravel(), difference[..., 1].ravel())[0, 1]) < 0.05
    assert apply(np.zeros((64, 64, 3), np.uint8), a).max() < 200


def test_edges_are_dark_where_brightness_changes():
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 200
    found = CONDITIONS["edges"].apply(step, "00")
    assert (found == found[..., :1]).all()
    assert (found[:, 31:33] < 10).all()
    assert (found[:, :28] == 255).all() and (found[:, 36:] == 255).all()
    assert (CONDITIONS["edges"].apply(np.full((64, 64, 3), 77, np.uint8), "00") == 255).all()
    # A colour step without a change of brightness is no edge: luma of both is 76 or 77.
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:, :32, 0], colours[:, 32:, 1] = 255, 130
    assert CONDITIONS["edges"].apply(colours, "00").min() > 200


def test_edges_formula():
    original = smooth_picture(128, 128, 5)
    luma = np.asarray(Image.fromarray(original).convert("L"), float)
    gradient = np.hypot(
        *(ndimage.gaussian_filter(luma, 1, order=order, mode="nearest") for order in ((1, 0), (0, 1)))
    )
    expected = 255 * (1 - np.minimum(gradient / np.quantile(gradient, 0.99), 1))
    assert np.abs(CONDITIONS["edges"].apply(original, "00")[..., 0] - expected).max() <= 0.51


def test_keys_differ_and_conditions_are_values():
    assert len({condition.key for condition in CONDITIONS.values()}) == len(CONDITIONS)
    assert CONDITIONS["grey"] == CONDITIONS["grey"] != CONDITIONS["blur"]
    with pytest.raises(AttributeError):
        CONDITIONS["grey"].name = "gray"


def test_conditions_change_what_the_model_sees(tiny, animals):
    result = zero_shot(animals, model=tiny, prompts="{}", conditions=["original", "grey"], cache=False)
    paths = read_labelled_images(animals).paths
    for condition in ("original", "grey"):
        arrays = [
            CONDITIONS[condition].apply(np.asarray(Image.open(path).convert("RGB")), "00") for path in paths
        ]
        expected = tiny.classify(arrays, list(result.labels))
        found = result.predictions(condition=condition)
        assert [one.predicted for one in found] == [one.label for one in expected]
        np.testing.assert_allclose(
            [one.probability for one in found], [one.probability for one in expected], rtol=1e-3
        )


def test_a_condition_of_ones_own(tiny, animals):
    black = Condition("black", "black", "nothing at all", lambda square, sha: np.zeros_like(square))
    result = zero_shot(animals, model=tiny, prompts="{}", conditions=[black, "original"], cache=False)
    assert len({one.predicted for one in result.predictions(condition="black")}) == 1


# ---- arguments ----


def test_labels_of_ones_own(tiny):
    features = tiny.classifier(["dog", "cat"])
    data = (features, ["1", "2"])
    result = zero_shot(data, model=tiny, labels={"1": "dog", "2": "cat"}, prompts="{}", cache=False)
    assert result.row()["top1"] == 1 and result.texts == {"1": "dog", "2": "cat"}
    # Distractors: they can be chosen, no picture has them.
    data = (tiny.classifier(["lion", "cat"]), ["dog", "cat"])
    result = zero_shot(data, model=tiny, labels=["cat", "dog", "lion"], prompts="{}", cache=False)
    assert result.row()["top1"] == 0.5 and result.n_classes == 2
    assert result.confusion().tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_prompts_of_every_kind(tiny):
    data = synthetic(tiny, ["dog", "cat"], 2, 0)
    own = {"mine": "the {}", "two": ["a {}", "the {}"]}
    assert zero_shot(data, model=tiny, prompts=own, cache=False).prompts == {
        "mine": ("the {}",),
        "two": ("a {}", "the {}"),
    }
    named = zero_shot(data, model=tiny, prompts=["ensemble of 5", "my {}"], cache=False).prompts
    assert named == {"ensemble of 5": PROMPTS["ensemble of 5"], "my {}": ("my {}",)}
    assert list(zero_shot(data, model=tiny, cache=False).prompts) == list(PROMPTS)


def test_an_ensemble_is_the_models(tiny):
    features, true = synthetic(tiny, ["dog", "cat", "lion", "bus"], 10, 4)
    result = zero_shot((features, true), model=tiny, prompts="ensemble of 5", cache=False)
    expected = tiny.classify(features, list(result.labels), templates=PROMPTS["ensemble of 5"])
    assert [one.predicted for one in result.predictions()] == [one.label for one in expected]


def test_limit_draws_the_same_and_keeps_all_labels(tiny):
    data = synthetic(tiny, ["dog", "cat", "lion"], 20, 1)
    first, again, other = (
        zero_shot(data, model=tiny, prompts="{}", limit=10, seed=seed, cache=False) for seed in (0, 0, 1)
    )
    assert len(first) == 10 and first.files == again.files != other.files
    assert first.labels == ("dog", "cat", "lion")
    numbers = [int(name.split()[1]) for name in first.files]
    assert numbers == sorted(numbers)
    assert len(zero_shot(data, model=tiny, prompts="{}", limit=100, cache=False)) == 60


def test_labels_the_model_does_not_know(tiny):
    unknown = "skiing"
    assert not tiny.knows(unknown)
    model = clipc.load("tiny")  # warns of a word once
    with pytest.warns(ClipcWarning, match=unknown):
        result = zero_shot((tiny.classifier(["dog", "cat"]), ["dog", unknown]), model=model, cache=False)
    assert result.unknown_labels == (unknown,)
    assert unknown in str(result) and unknown in result._repr_html_()
    assert result.to_dict()["unknown_labels"] == [unknown]
    assert [row["known"] for row in result.per_class()] == [True, False]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"labels": ["dog"]}, ValueError, "at least two"),
        ({"labels": ["dog", "dog"]}, ValueError, "'dog' is there twice"),
        ({"labels": "dog"}, TypeError, "a list of labels"),
        ({"labels": ["cat", "lion"]}, ValueError, "'dog' in 'label', which labels lacks"),
        ({"labels": {"dog": "dog"}}, ValueError, "at least two"),
        ({"prompts": []}, ValueError, "at least one"),
        ({"prompts": {}}, ValueError, "at least one"),
        ({"prompts": "a photo"}, ValueError, "a template with {}"),
        ({"prompts": ["{}", "{}"]}, ValueError, "there twice"),
        ({"prompts": [("{}", "a {}")]}, TypeError, "expected str"),
        ({"conditions": "sepia"}, ValueError, "original, grey, blur, noise, edges"),
        ({"conditions": []}, ValueError, "at least one"),
        ({"conditions": ["original", "original"]}, ValueError, "twice"),
        ({"conditions": [3]}, TypeError, "names or Conditions"),
        ({"conditions": "grey"}, ValueError, "needs pictures"),
        ({"top": 0}, ValueError, "top: expected 1 or more"),
        ({"limit": 0}, ValueError, "limit: expected 1 or more"),
        ({"limit": 2.5}, TypeError, "limit"),
    ],
)
def test_wrong_arguments(tiny, arguments, error, message):
    data = (tiny.classifier(["dog", "cat"]), ["dog", "cat"])
    with pytest.raises(error, match=message):
        zero_shot(data, model=tiny, cache=False, **arguments)


def test_wrong_data(tiny, animals):
    features = tiny.classifier(["dog", "cat"])
    broken = features.copy()
    broken[1, 3] = np.nan
    for data, error, message in [
        ((features, ["dog", "dog"]), ValueError, "the data has 'dog'; give labels"),
        ((features, ["dog"]), ValueError, "2 images and 1"),
        ((features, ["dog", ""]), ValueError, "empty for image 1"),
        ((features, ["dog", 3]), TypeError, "int for image 1"),
        ((features[:, :7], ["dog", "cat"]), ValueError, "256"),
        ((broken, ["dog", "cat"]), ValueError, "finite"),
        (([], []), ValueError, "no images"),
        ((7, ["dog"]), TypeError, "list of images"),
        (3, TypeError, "LabelledImages"),
    ]:
        with pytest.raises(error, match=message):
            zero_shot(data, model=tiny, cache=False)
    with pytest.raises(ValueError, match="no column 'breed'; there are label"):
        zero_shot(animals, model=tiny, column="breed", cache=False)
    with pytest.raises(OSError):
        zero_shot(animals / "nowhere.csv", model=tiny, cache=False)
    result = zero_shot((features, ["dog", "cat"]), model=tiny, cache=False)
    with pytest.raises(ValueError, match="prompts: expected one of 'label alone'"):
        result.confusion("label")
    with pytest.raises(ValueError, match="condition: expected one of original"):
        result.confusion(condition="grey")


def test_unreadable_pictures(tiny, animals):
    (animals / "dog" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="broken.png"):
        zero_shot(animals, model=tiny, cache=False)
    with pytest.warns(ClipcWarning, match=r"broken\.png"):
        result = zero_shot(
            animals, model=tiny, skip_unreadable=True, conditions=["original", "blur"], cache=False
        )
    assert len(result) == 12 and "1 picture unreadable" in str(result)
    assert "broken.png" in result.unreadable[0][0]
    assert not any("broken" in file for file in result.files)
    assert all(one.file.split("/")[0] == one.true for one in result.predictions())


def test_features_come_from_the_cache(animals, tmp_path, monkeypatch):
    model = clipc.load("tiny")
    options = {"model": model, "conditions": ["original", "edges"], "cache": tmp_path / "features"}
    first = zero_shot(animals, **options)
    monkeypatch.setattr(type(model), "encode_image", lambda *_, **__: pytest.fail("encoded again"))
    again = zero_shot(animals, **options)
    assert again.rows() == first.rows() and again.predictions() == first.predictions()


def test_an_interrupted_evaluation_goes_on(animals, tmp_path, monkeypatch):
    model = clipc.load("tiny")
    options = {"model": model, "prompts": "{}", "cache": tmp_path / "features", "batch_size": 4}
    encode, calls = type(model).encode_image, []

    def interrupted(self, images, **more):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, images, **more)

    monkeypatch.setattr(type(model), "encode_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        zero_shot(animals, **options)
    calls.append("interrupted")
    resumed = zero_shot(animals, **options)
    assert sum(calls[3:]) == 8, "the first four were encoded already"
    monkeypatch.undo()
    whole = zero_shot(animals, **{**options, "cache": False})
    assert resumed.predictions() == whole.predictions()


# ---- how it prints ----


class Checker(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.rows = [], 0

    def handle_starttag(self, tag, attributes):
        self.rows += tag == "tr"
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_printed_forms(tiny):
    labels = ["dog", "<cat>", "lion|tiger"]
    features = np.repeat(tiny.classifier(["dog", "cat", "lion"]), 4, axis=0)
    texts = dict(zip(labels, ["dog", "cat", "lion"]))
    true = [label for label in labels for _ in range(4)]
    result = zero_shot((features, true), model=tiny, labels=texts, cache=False)
    text = str(result).split("\n")
    assert (
        "Zero-shot accuracy" in text[0] and "12 pictures of 3 classes" in text[1] and "model tiny" in text[1]
    )
    assert len(text) == 3 + 1 + len(result.rows())
    checker = Checker()
    checker.feed(result._repr_html_())
    assert checker.open == [] and checker.rows == 1 + len(result.rows())
    lines = result.to_markdown().split("\n")
    assert len(lines) == 2 + len(result.rows()) and {line.count("|") for line in lines} == {
        lines[0].count("|")
    }
    frame = result.to_pandas()
    assert len(frame) == 3 and frame["top1"].tolist() == [row["top1"] for row in result.rows()]
    back = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert back["rows"][0]["top1"] == 1 and back["n"] == 12 and len(back["classes"]) == 3
    assert repr(result).startswith("<Zero-shot accuracy, 12 pictures: original, 'label alone' 100.0")
    wrong = zero_shot((features[::-1], true), model=tiny, labels=texts, cache=False)
    assert {pair["true"] for pair in wrong.most_confused()} == {"dog", "lion|tiger"}


def test_plots(tiny, animals):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    result = zero_shot(animals, model=tiny, conditions=["original", "grey"], cache=False)
    ax = result.plot()
    heights = sorted(bar.get_height() for bar in ax.patches)
    np.testing.assert_allclose(heights, sorted(100 * row["top1"] for row in result.rows()))
    ax = result.plot_confusion(normalize=False)
    shown = ax.images[0].get_array()
    np.testing.assert_array_equal(shown, result.confusion())
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["cat", "dog", "lion"]
    shown = result.plot_confusion(max_labels=2).images[0].get_array()
    assert shown.shape == (2, 2)
    with pytest.raises(ValueError, match="k: expected one of 1"):
        result.plot(k=5)
    pyplot.close("all")


def test_importing_evaluate_is_light():
    code = (
        "import sys, clipc.evaluate;"
        "print(*[name for name in ('pandas', 'scipy', 'sklearn', 'statsmodels', 'matplotlib', 'PIL')"
        " if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
    assert evaluate.zero_shot is zero_shot


def test_data_has_the_classes_it_should(clip_data):
    """What the published figures rest on: 1,000 pictures, five of each of 200 classes."""
    with open(clip_data("zeroshot") / "labels.csv", newline="", encoding="utf-8") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert len(labels) == 1000 and {labels.count(label) for label in set(labels)} == {5}
