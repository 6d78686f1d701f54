"""Recall@k against brute force, PyTorch, and all orders of ties."""

import csv
import itertools
import json
import math

import numpy as np
import pytest
from availability import require
from image_files import smooth_picture
from PIL import Image
from scipy import stats

import clipc
from clipc.errors import ClipcWarning, ImageError
from clipc.evaluate import retrieval
from clipc.evaluate.ranking import IMAGE_TO_TEXT, TEXT_TO_IMAGE, Ranks, RetrievalEvaluation, find_ranks
from clipc.evaluate.statistics import wilson
from clipc.labelled_images import read_labelled_images


@pytest.fixture(scope="module")
def tiny():
    return clipc.load("tiny")


def collection(n_images=20, seed=0, dim=16):
    """Features of pictures, of one to four texts for each, and which picture each text belongs to."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((n_images, dim)).astype(np.float32)
    image_of = np.repeat(np.arange(n_images), rng.integers(1, 5, n_images))
    texts = (images[image_of] + 1.5 * rng.standard_normal((len(image_of), dim))).astype(np.float32)
    return images, texts, image_of


def brute_force(images, texts, image_of, k):
    """Recall@k both ways, by sorting each query's list."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images.astype(float), texts.astype(float))]
    similarity = unit[0] @ unit[1].T
    to_text = [
        any(image_of[j] == i for j in sorted(range(len(texts)), key=lambda j, i=i: -similarity[i, j])[:k])
        for i in range(len(images))
    ]
    to_image = [
        image_of[j] in sorted(range(len(images)), key=lambda i, j=j: -similarity[i, j])[:k]
        for j in range(len(texts))
    ]
    return np.array(to_text, float), np.array(to_image, float)


def captions_table(folder, captions):
    """A labels.csv with a row for each caption: {picture's seed: [captions]}."""
    folder.mkdir()
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "caption"])
        for seed, several in captions.items():
            Image.fromarray(smooth_picture(64, 64, seed)).save(folder / f"{seed}.png")
            writer.writerows([f"{seed}.png", caption] for caption in several)
    return folder


# ---- ranks ----


@pytest.mark.parametrize("seed", range(3))
def test_recall_is_that_of_brute_force(seed):
    images, texts, image_of = collection(seed=seed)
    ranks = find_ranks(images, texts, image_of)
    for k in (1, 2, 5, 10, 100):
        to_text, to_image = brute_force(images, texts, image_of, k)
        np.testing.assert_array_equal(ranks[IMAGE_TO_TEXT].hits(k), to_text)
        np.testing.assert_array_equal(ranks[TEXT_TO_IMAGE].hits(k), to_image)
    assert 0.1 < ranks[TEXT_TO_IMAGE].hits(1).mean() < 0.9


def test_recall_is_that_of_pytorch():
    torch = require("torch")
    images, texts, image_of = collection(60, seed=5)
    x, y = (torch.nn.functional.normalize(torch.tensor(value), dim=1) for value in (images, texts))
    own = torch.tensor(image_of)
    ranks = find_ranks(images, texts, image_of)
    for k in (1, 5, 10):
        top = (y @ x.T).topk(k, dim=1).indices
        assert ranks[TEXT_TO_IMAGE].hits(k).mean() == pytest.approx(
            (top == own[:, None]).any(1).double().mean()
        )
        top = own[(x @ y.T).topk(k, dim=1).indices]
        expected = (top == torch.arange(len(x))[:, None]).any(1).double().mean()
        assert ranks[IMAGE_TO_TEXT].hits(k).mean() == pytest.approx(expected)


def test_more_queries_than_are_compared_at_once(monkeypatch):
    images, texts, image_of = collection(30, seed=1)
    whole = find_ranks(images, texts, image_of)
    monkeypatch.setattr("clipc.evaluate.ranking._QUERIES", 7)
    parts = find_ranks(images, texts, image_of)
    for direction in (IMAGE_TO_TEXT, TEXT_TO_IMAGE):
        np.testing.assert_array_equal(whole[direction].above, parts[direction].above)
        np.testing.assert_array_equal(whole[direction].belonging, parts[direction].belonging)


@pytest.mark.parametrize(
    "similarity, belongs",
    [
        ([3, 2, 2, 2, 1], [0, 1, 0, 0, 0]),
        ([3, 2, 2, 2, 1], [0, 1, 1, 0, 1]),
        ([1, 1, 1, 1, 1], [0, 0, 1, 0, 1]),
        ([5, 5, 1, 1, 1], [1, 0, 1, 1, 0]),
        ([5, 4, 3, 2, 1], [0, 0, 0, 0, 1]),
        ([1, 1, 1, 1, 1], [1, 1, 1, 1, 1]),
    ],
)
def test_ties_count_their_expected_value(similarity, belongs):
    """All orders of equal similarities, tried one by one."""
    belongs = np.array(belongs, bool)
    ranks = Ranks.from_similarity(np.array([similarity], float), belongs[None])
    orders = [
        order
        for order in itertools.permutations(range(5))
        if all(similarity[a] >= similarity[b] for a, b in itertools.pairwise(order))
    ]
    first = np.array(
        [next(place for place, item in enumerate(order, 1) if belongs[item]) for order in orders]
    )
    for k in range(1, 7):
        assert ranks.hits(k)[0] == pytest.approx((first <= k).mean())
    assert ranks.expected()[0] == pytest.approx(first.mean())


def test_chance_is_that_of_random_orders():
    belonging = np.array([1, 2, 5])
    belongs = np.arange(12)[None] < belonging[:, None]
    ranks = Ranks.from_similarity(np.zeros((3, 12)), belongs)
    for k in (1, 3, 7, 12, 20):
        expected = [1 - math.comb(12 - m, min(k, 12)) / math.comb(12, min(k, 12)) for m in belonging]
        np.testing.assert_allclose(ranks.chance(k), expected, atol=1e-12)
        # Where all items are alike, nothing is better than chance.
        np.testing.assert_allclose(ranks.hits(k), ranks.chance(k), atol=1e-12)


def test_features_without_meaning_do_as_chance():
    rng = np.random.default_rng(0)
    images, image_of = rng.standard_normal((400, 8)), np.repeat(np.arange(400), 3)
    result = RetrievalEvaluation(
        find_ranks(images, rng.standard_normal((1200, 8)), image_of),
        image_of=image_of,
        k=(1, 10),
        files=map(str, range(400)),
        captions=map(str, range(1200)),
    )
    for row in result.rows():
        for k in (1, 10):
            n = row["n"]
            spread = 4 * math.sqrt(row[f"chance{k}"] / n)
            assert abs(row[f"recall{k}"] - row[f"chance{k}"]) < spread
            assert row[f"recall{k}_low"] <= row[f"recall{k}"] <= row[f"recall{k}_high"]
    assert result.rows()[1]["median_rank"] == pytest.approx(200, abs=20)


# ---- intervals ----


def test_intervals_from_images_are_wilsons():
    images, texts, image_of = collection(30, seed=2)
    result = retrieval_of(images, texts, image_of)
    row = result.rows()[0]
    assert (row["recall1_low"], row["recall1_high"]) == pytest.approx(wilson(row["recall1"] * 30, 30))


def retrieval_of(images, texts, image_of, k=(1, 5), seed=0):
    return RetrievalEvaluation(
        find_ranks(images, texts, image_of),
        image_of=image_of,
        k=k,
        files=[f"image {i}" for i in range(len(images))],
        captions=[f"caption {j}" for j in range(len(texts))],
        seed=seed,
    )


def test_captions_of_a_picture_count_together():
    # Forty pictures whose five captions are alike: as if there were forty captions, not two hundred.
    rng = np.random.default_rng(4)
    images = rng.standard_normal((40, 6))
    texts = images + 1.2 * rng.standard_normal((40, 6))
    image_of = np.repeat(np.arange(40), 5)
    row = retrieval_of(images, texts[image_of], image_of).rows()[1]
    narrow, honest = (np.subtract(*wilson(row["recall1"] * n, n)[::-1]) for n in (200, 40))
    width = row["recall1_high"] - row["recall1_low"]
    assert width == pytest.approx(honest, rel=0.15) and width > 1.7 * narrow
    # The percentile bootstrap over pictures, as SciPy does it.
    hits = find_ranks(images, texts[image_of], image_of)[TEXT_TO_IMAGE].hits(1)[::5]
    expected = stats.bootstrap(
        (hits,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    np.testing.assert_allclose((row["recall1_low"], row["recall1_high"]), expected, atol=0.03)


def test_one_caption_each_and_perfect_recall_have_wilsons_interval():
    images = np.eye(12)
    row = retrieval_of(images, images, np.arange(12)).rows()[1]
    assert row["recall1"] == 1
    assert (row["recall1_low"], row["recall1_high"]) == pytest.approx(wilson(12, 12))
    image_of = np.repeat(np.arange(12), 4)
    row = retrieval_of(images, images[image_of], image_of).rows()[1]
    assert (row["recall1_low"], row["recall1_high"]) == pytest.approx(wilson(12, 12))
    assert row["median_rank"] == row["mean_rank"] == 1


# ---- from files ----


def test_a_table_of_captions(tiny, tmp_path):
    captions = {1: ["a dog", "a cat"], 2: ["a bus"], 3: ["a lion", "the lion", "a bridge"], 4: ["a bus"]}
    result = retrieval(captions_table(tmp_path / "captions", captions), model=tiny, k=(1, 2), cache=False)
    assert (len(result.files), len(result.captions)) == (4, 7)
    assert result.image_of.tolist() == [0, 0, 1, 2, 2, 2, 3]
    images = tiny.encode_image([tmp_path / "captions" / f"{i}.png" for i in captions])
    # Pictures 2 and 4 share a caption: a tie of two texts.
    texts = tiny.encode_text(list(dict.fromkeys(result.captions)))[[0, 1, 2, 3, 4, 5, 2]]
    expected = find_ranks(images, texts, result.image_of)
    for direction in expected:
        np.testing.assert_array_equal(result.ranks[direction].above, expected[direction].above)
        np.testing.assert_array_equal(result.ranks[direction].tied, expected[direction].tied)
    assert (expected[IMAGE_TO_TEXT].tied == [1, 2, 1, 2]).all()
    again = retrieval((images, list(captions.values())), model=tiny, k=(1, 2), cache=False)
    assert again.rows() == result.rows()


def test_rows_of_a_picture_need_not_be_neighbours(tiny, tmp_path):
    folder = captions_table(tmp_path / "captions", {1: ["a dog"], 2: ["a bus"], 3: ["a lion"]})
    with open(folder / "labels.csv", "a", encoding="utf-8") as file:
        file.write("1.png,a cat\n")
    result = retrieval(folder, model=tiny, cache=False)
    assert result.captions == ("a dog", "a cat", "a bus", "a lion")
    assert result.image_of.tolist() == [0, 0, 1, 2]


def test_coco(tiny, clip_data):
    """A part of the real captions: brute force on features that were encoded apart."""
    folder = clip_data("coco_captions")
    data = read_labelled_images(folder)
    first = list(dict.fromkeys(data.files))[:12]
    data = data.where(file=first)
    with pytest.warns(ClipcWarning) as caught:
        model = clipc.load("tiny")  # a model warns of a word once
        result = retrieval(data, model=model, k=(1, 3), cache=False)
    assert len([w for w in caught if "no embedding" in str(w.message)]) == 1
    tiny = model
    images = tiny.encode_image([data.paths[data.files.index(file)] for file in first])
    texts = tiny.encode_text(data.column("caption"))
    image_of = np.array([first.index(file) for file in data.files])
    assert len(set(data.column("caption"))) == len(data)
    for k in (1, 3):
        to_text, to_image = brute_force(images, texts, image_of, k)
        assert result.rows()[0][f"recall{k}"] == pytest.approx(to_text.mean())
        assert result.rows()[1][f"recall{k}"] == pytest.approx(to_image.mean())
    unknown = sum(not tiny.knows(text) for text in data.column("caption"))
    assert 0 < result.n_unknown == unknown
    assert f"{unknown} of {len(data)} captions hold words" in str(result)


def test_limit_draws_pictures_with_all_their_captions(tiny):
    images, captions = np.eye(30, 256, dtype=np.float32), [["a dog", "a cat"]] * 10 + [["a bus"]] * 20
    first, again, other = (
        retrieval((images, captions), model=tiny, limit=12, seed=seed, cache=False) for seed in (0, 0, 1)
    )
    assert len(first) == 12 and first.files == again.files != other.files
    for name, n in zip(first.files, np.bincount(first.image_of)):
        assert n == len(captions[int(name.split()[1])])


def test_template(tiny):
    images = tiny.encode_text(["a photo of a dog.", "a photo of a cat."])
    result = retrieval((images, ["dog", "cat"]), model=tiny, template="a photo of a {}.", cache=False)
    assert [row["recall1"] for row in result.rows()] == [1, 1] and "template" in str(result)
    for template, error in (("a photo", ValueError), (3, TypeError)):
        with pytest.raises(error, match="template"):
            retrieval((images, ["dog", "cat"]), model=tiny, template=template, cache=False)


def test_long_captions_are_cut_on_request_only(tiny):
    long = "a dog " * 60
    data = (np.eye(2, 256, dtype=np.float32), ["a dog", long])
    with pytest.raises(ValueError, match="image 1 has 122 tokens, the model takes 77.*truncate=True"):
        retrieval(data, model=tiny, cache=False)
    result = retrieval(data, model=tiny, truncate=True, cache=False)
    assert result.n_truncated == 1 and "1 caption cut" in str(result)
    # The template counts.
    fits = "dog " * 75
    data = (np.eye(2, 256, dtype=np.float32), ["a dog", fits])
    assert retrieval(data, model=tiny, cache=False).n_truncated == 0
    with pytest.raises(ValueError, match="78 tokens"):
        retrieval(data, model=tiny, template="the {}", cache=False)


def test_unreadable_pictures_take_their_captions_along(tiny, tmp_path):
    captions = {1: ["a dog", "a cat"], 2: ["a bus"], 3: ["a lion", "the lion"]}
    folder = captions_table(tmp_path / "captions", captions)
    (folder / "1.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"1\.png"):
        retrieval(folder, model=tiny, cache=False)
    with pytest.warns(ClipcWarning, match=r"1\.png"):
        result = retrieval(folder, model=tiny, skip_unreadable=True, cache=False)
    assert result.captions == ("a bus", "a lion", "the lion") and result.image_of.tolist() == [0, 1, 1]
    assert result.unreadable[0][0] == "1.png" and "1 picture unreadable" in str(result)
    (folder / "2.png").write_bytes(b"no picture")
    with pytest.warns(ClipcWarning), pytest.raises(ValueError, match="at least two images"):
        retrieval(folder, model=tiny, skip_unreadable=True, cache=False)


def test_wrong_arguments(tiny, tmp_path):
    images = np.eye(2, 256, dtype=np.float32)
    for data, error, message in [
        ((images, ["a dog"]), ValueError, "2 images and 1"),
        ((images, "ab"), ValueError, "2 images and 1"),
        ((images, ["a dog", []]), ValueError, "image 1 has no caption"),
        ((images, ["a dog", " "]), ValueError, "image 1 is empty"),
        ((images, ["a dog", 3]), TypeError, "int"),
        ((images[:1], ["a dog"]), ValueError, "at least two images"),
        (([], []), ValueError, "no images"),
        ((images * np.nan, ["a dog", "a cat"]), ValueError, "finite"),
        ((images[:, :5], ["a dog", "a cat"]), ValueError, "256"),
        (3, TypeError, "expected a folder"),
        ((3, ["a dog"]), TypeError, "list of images"),
    ]:
        with pytest.raises(error, match=message):
            retrieval(data, model=tiny, cache=False)
    data = (images, ["a dog", "a cat"])
    for options, error, message in [
        ({"k": 0}, ValueError, "k: expected 1 or more"),
        ({"k": []}, ValueError, "at least one"),
        ({"k": 1.5}, TypeError, "whole number"),
        ({"limit": 0}, ValueError, "limit"),
        ({"limit": 1}, ValueError, "at least two images"),
    ]:
        with pytest.raises(error, match=message):
            retrieval(data, model=tiny, cache=False, **options)
    folder = captions_table(tmp_path / "captions", {1: ["a dog"], 2: ["a cat"]})
    with pytest.raises(ValueError, match="no column 'text'; there are caption"):
        retrieval(folder, model=tiny, column="text", cache=False)


# ---- how it prints ----


def test_printed_forms():
    result = retrieval_of(*collection(seed=7), k=(1, 5, 1000))
    assert result.k == (1, 5)  # the 1,000 first of twenty always hold it
    lines = str(result).split("\n")
    assert "Recall@k" in lines[0] and f"20 pictures with {len(result.captions)} captions" in lines[1]
    assert "image to text" in lines[-2] and "text to image" in lines[-1]
    assert result._repr_html_().count("<tr>") == 3
    table = result.to_markdown().split("\n")
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1
    assert result.to_pandas()["recall5"].tolist() == [row["recall5"] for row in result.rows()]
    back = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert back["n_pictures"] == 20 and len(back["rows"]) == 2
    assert "R@1" in repr(result)


def test_plot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    result = retrieval_of(*collection(seed=7))
    ax = result.plot()
    heights = [bar.get_height() for bar in ax.patches]
    expected = [100 * row[f"recall{k}"] for row in result.rows() for k in (1, 5)]
    np.testing.assert_allclose(heights, expected)
    pyplot.close("all")
