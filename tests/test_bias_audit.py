"""The audit: tables against independent computation, planted effects, and what it refuses."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
from availability import require
from PIL import Image

import clipc
from clipc.errors import ImageError
from clipc.labelled_images import read_labelled_images

pandas = require("pandas")
scipy_special = require("scipy.special")
stats = require("scipy.stats")
proportion = require("statsmodels.stats.proportion")

from clipc import bias  # noqa: E402

FEW = 199  # resamples, where the p-values do not matter


@pytest.fixture(scope="module")
def tiny():
    return clipc.load("tiny")


def features_with(model, labels, gaps, seed=0):
    """Unit features, float32 (N, D), whose logits of two labels differ by `gaps`, first minus second."""
    first, second = model.classifier(labels).astype(np.float64)
    along = (first - second) / np.linalg.norm(first - second)
    rng = np.random.default_rng(seed)
    across = rng.normal(size=(len(gaps), model.embed_dim))
    across -= np.outer(across @ along, along)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    part = np.asarray(gaps) / (model.logit_scale * np.linalg.norm(first - second))
    assert np.abs(part).max() < 1
    return (np.outer(part, along) + np.sqrt(1 - part**2)[:, None] * across).astype(np.float32)


@pytest.fixture(scope="module")
def planted(tiny):
    """200 + 200 + 100 pictures: for "a" the first label leads by 0.8 on average, for "b" and "c" by 0."""
    groups = np.repeat(["a", "b", "c"], [200, 200, 100])
    means = {"a": 0.8, "b": 0.0, "c": 0.0}
    rng = np.random.default_rng(8)
    gaps = rng.normal(size=500) + np.array([means[g] for g in groups])
    features = features_with(tiny, ["dog", "cat"], gaps)
    return features, groups, gaps


@pytest.fixture(scope="module")
def report(tiny, planted):
    features, groups, _ = planted
    return bias.audit(features, ["dog", "cat"], groups, model=tiny, top_k=[20, 150], seed=3)


def row(table, **wanted):
    found = table[np.logical_and.reduce([table[name] == value for name, value in wanted.items()])]
    assert len(found) == 1
    return found.iloc[0]


# --- a planted effect -----------------------------------------------------------------------------------


def test_planted_effect_is_found_and_its_size_estimated(report):
    truth = {"a": stats.norm.cdf(0.8), "b": 0.5, "c": 0.5}
    expected = {
        group: stats.norm.expect(lambda z, m=mean: scipy_special.expit(z + m))
        for group, mean in {"a": 0.8, "b": 0, "c": 0}.items()
    }
    for group in "abc":
        dog = row(report.shares, group=group, label="dog")
        assert dog.low < truth[group] < dog.high
        assert dog.mean_low < expected[group] < dog.mean_high
    dog = row(report.comparisons, label="dog")
    assert dog.highest_group == "a" and dog.lowest_group in ("b", "c")
    assert dog.low < truth["a"] - 0.5 < dog.high
    assert dog.p == dog.p_holm == 1 / 10_000
    assert dog.mean_p == dog.mean_p_holm == 1 / 10_000
    # Means 0.8 and 0 with a deviation of 1: the spread over both is sqrt(1 + 0.4²).
    for other in "bc":
        association = row(report.associations, group_a="a", group_b=other)
        assert association.effect_size == pytest.approx(0.8 / math.sqrt(1.16), abs=0.25)
        assert association.p_holm < 0.001
        assert row(report.total_variation, group_a="a", group_b=other).p_holm < 0.001
    assert row(report.associations, group_a="b", group_b="c").p > 0.05
    assert row(report.total_variation, group_a="b", group_b="c").p > 0.05
    # How near a picture is to one text alone depends on more than what was planted.
    ranking = row(report.ranking, label="dog", k=150)
    assert ranking.group == "a" and ranking.p < 0.05 and ranking.max_skew > 2 * ranking.chance


def test_probabilities_are_those_that_were_planted(report, planted, tiny):
    features, groups, gaps = planted
    expected = scipy_special.expit(gaps)
    np.testing.assert_allclose(report.probabilities[:, 0], expected, atol=1e-4)
    np.testing.assert_allclose(report.probabilities.sum(axis=1), 1)
    assert report.predictions == tiny.classify(features, ["dog", "cat"])
    assert str(report.predictions[0]).startswith("Top predictions: ")
    assert report.group_of.tolist() == groups.tolist()


def test_tables_agree_with_pandas_and_statsmodels(report):
    """Everything counted once more from the predictions."""
    frame = pandas.DataFrame(
        {
            "group": report.group_of,
            "given": [prediction.label for prediction in report.predictions],
            "dog": [prediction["dog"] for prediction in report.predictions],
        }
    )
    assert report.counts == frame["group"].value_counts().to_dict()
    shares = pandas.crosstab(frame["group"], frame["given"], normalize="index")
    for group, label in shares.stack().index:
        found = row(report.shares, group=group, label=label)
        n = int((frame["group"] == group).sum())
        times = int(((frame["group"] == group) & (frame["given"] == label)).sum())
        assert (found.n, found["count"]) == (n, times) and found.share == shares.loc[group, label]
        low, high = proportion.proportion_confint(times, n, method="wilson")
        assert (found.low, found.high) == pytest.approx((low, high))
    assert row(report.shares, group="b", label="dog").mean_probability == pytest.approx(
        frame[frame["group"] == "b"]["dog"].mean()
    )
    for label in ("dog", "cat"):
        found = row(report.comparisons, label=label)
        assert found.difference == pytest.approx(shares[label].max() - shares[label].min())
        assert found.ratio == pytest.approx(shares[label].min() / shares[label].max())
        assert found.highest_group == shares[label].idxmax()
    found = row(report.total_variation, group_a="a", group_b="c")
    assert found.total_variation == pytest.approx((shares.loc["a"] - shares.loc["c"]).abs().sum() / 2)


def test_ranking_and_association_agree_with_their_definitions(report, planted, tiny):
    features, groups, _ = planted
    texts = tiny.encode_text(["dog", "cat"], normalize=True).astype(np.float64)
    unit = features / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    nearest = groups[np.argsort(-(unit @ texts[0]))]
    for k in (20, 150):
        shares = {g: np.mean(nearest[:k] == g) / np.mean(groups == g) for g in "abc"}
        found = row(report.ranking, label="dog", k=k)
        assert found.max_skew == pytest.approx(math.log(max(shares.values())))
        assert found.group == max(shares, key=shares.get)
        terms = [
            sum(
                np.mean(nearest[:i] == g) * math.log(np.mean(nearest[:i] == g) / np.mean(groups == g))
                for g in set(nearest[:i])
            )
            / math.log2(i + 1)
            for i in range(1, k + 1)
        ]
        assert found.ndkl == pytest.approx(sum(terms) / sum(1 / math.log2(i + 1) for i in range(1, k + 1)))
    s = unit @ texts[0] - unit @ texts[1]
    a, c = s[groups == "a"], s[groups == "c"]
    expected = (a.mean() - c.mean()) / np.concatenate([a, c]).std(ddof=1)
    found = row(report.associations, group_a="a", group_b="c")
    assert found.effect_size == pytest.approx(expected, abs=1e-6)
    assert (found.label_a, found.label_b) == ("dog", "cat")


def test_no_effect_is_seldom_found(tiny):
    """60 audits without an effect: of each test about 5 % are below 0.05."""
    groups = np.repeat(["a", "b"], 30)
    rng = np.random.default_rng(11)
    p = {"labels": [], "means": [], "associations": [], "ranking": []}
    for seed in range(60):
        features = features_with(tiny, ["dog", "cat"], rng.normal(size=60), seed)
        found = bias.audit(features, ["dog", "cat"], groups, model=tiny, resamples=FEW, seed=seed)
        p["labels"].append(found.comparisons["p_holm"].min())
        p["means"].append(found.comparisons["mean_p_holm"].min())
        p["associations"].append(found.associations["p"].iloc[0])
        p["ranking"].append(found.ranking["p_holm"].min())
    most = stats.binom.ppf(1 - 1e-4, 60, 0.05)
    for name, values in p.items():
        assert (np.array(values) <= 0.05).sum() <= most, name
        assert len(set(values)) > 5, name


# --- ties and small groups --------------------------------------------------------------------------------


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_when_all_pictures_are_the_same(tiny, no_warnings):
    features = np.repeat(features_with(tiny, ["dog", "cat"], [0.3]), 40, axis=0)
    for labels in (["dog", "cat"], ["dog", "cat", "car"]):
        found = bias.audit(
            features, labels, np.repeat(["a", "b", "c"], [20, 19, 1]), model=tiny, resamples=FEW
        )
        for table, columns in {
            "comparisons": ["difference", "mean_difference"],
            "total_variation": ["total_variation"],
            "ranking": ["max_skew", "ndkl", "chance"],
            "associations": ["effect_size"],
        }.items():
            table = getattr(found, table)
            for column in columns:
                np.testing.assert_allclose(table[column], 0, atol=1e-12, err_msg=column)
            for column in [name for name in table if name in ("p", "p_holm", "mean_p", "mean_p_holm")]:
                assert (table[column] == 1).all(), column
            assert not table.drop(columns="ratio", errors="ignore").isna().any(axis=None)
        # The interval is that of the two smallest groups, of 1 and 19.
        expected = proportion.confint_proportions_2indep(1, 1, 19, 19, method="newcomb", compare="diff")
        dog = found.comparisons.iloc[found.comparisons["ratio"].notna().argmax()]
        assert (dog.low, dog.high) == pytest.approx(expected)
        assert (found.comparisons["highest_group"] == "").all() and (found.ranking["group"] == "").all()
        means = found.shares[found.shares["n"] > 1]
        assert (means["mean_low"] == means["mean_high"]).all()
        np.testing.assert_allclose(means["mean_low"].astype(float), means["mean_probability"])
        # Never given: no ratio, and it is told.
        never = found.comparisons["ratio"].isna()
        assert never.sum() == len(labels) - 1 and found.comparisons["ratio"][~never].iloc[0] == 1
        assert any("no ratio" in note for note in found.notes)


def test_labels_that_the_model_cannot_tell_apart(tiny, no_warnings):
    """The tokenizer lowers the case, so these are the same text: the first is given, to everybody."""
    features = features_with(tiny, ["dog", "cat"], np.random.default_rng(0).normal(size=30))
    found = bias.audit(features, ["dog", "Dog"], ["a", "b"] * 15, model=tiny, resamples=FEW)
    np.testing.assert_allclose(found.probabilities, 0.5, atol=1e-6)
    assert found.shares["share"].tolist() == [1, 0, 1, 0]
    for column, value in {"difference": 0, "p": 1, "mean_difference": 0, "mean_p": 1}.items():
        assert found.comparisons[column].tolist() == [value, value], column
    assert found.associations["effect_size"].tolist() == [0] and found.associations["p"].tolist() == [1]


def test_group_with_one_member(tiny, planted):
    features, _, _ = planted
    groups = ["one", *["many"] * 99]
    found = bias.audit(features[:100], ["dog", "cat"], groups, model=tiny, resamples=FEW)
    alone = row(found.shares, group="one", label="dog")
    assert alone.n == 1 and alone.mean_low is pandas.NA and alone.mean_high is pandas.NA
    assert 0 <= alone.low < 0.21 or 0.79 < alone.high <= 1
    assert row(found.shares, group="many", label="dog").mean_low < 1
    assert found.shares["mean_low"].isna().sum() == 2
    assert any("One picture only in one" in note for note in found.notes)
    assert found.comparisons["p"].between(0.005, 1).all()
    assert found.associations["exact"].all(), "a hundred partitions"


def test_smallest_audit(tiny, planted, no_warnings):
    found = bias.audit(planted[0][:2], ["dog", "cat"], ["a", "b"], model=tiny, resamples=9)
    assert found.counts == {"a": 1, "b": 1} and found.settings["top_k"] == [1]
    for table in (found.comparisons, found.total_variation, found.associations, found.ranking):
        assert (table["p"] == 1).all()


# --- how groups are named ---------------------------------------------------------------------------------


@pytest.fixture
def portraits(tmp_path):
    """A folder with labels.csv and 12 small pictures."""
    (tmp_path / "images").mkdir()
    lines = ["file,age,kind,scene"]
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        lines.append(f"images/{i}.png,{['3-9', '10-19', '70+'][i % 3]},{'xy'[i // 6]},scene {i % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path


def test_columns_of_a_folder(portraits, tiny, tmp_path):
    options = {"model": tiny, "resamples": 99, "cache": tmp_path / "cache"}
    found = bias.audit(portraits, ["dog", "cat"], "age", block="scene", **options)
    assert found.groups == ["3-9", "10-19", "70+"] and found.group_names == ["age"]
    assert found.counts == dict.fromkeys(found.groups, 4)
    assert found.settings["source"] == os.path.join(portraits.name, "labels.csv")
    assert (found.block_name, found.n_blocks) == ("scene", 2)
    assert found.block_of.tolist() == [f"scene {i % 2}" for i in range(12)]
    assert found.files == [f"images/{i}.png" for i in range(12)]
    features = tiny.encode_image([portraits / name for name in found.files])
    expected = [list(map(p.get, ["dog", "cat"])) for p in tiny.classify(features, ["dog", "cat"])]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)

    crossed = bias.audit(str(portraits / "labels.csv"), ["dog", "cat"], ["kind", "age"], **options)
    assert crossed.groups == [f"{kind} × {age}" for kind in "xy" for age in ("3-9", "10-19", "70+")]
    assert crossed.group_names == ["kind", "age"] and set(crossed.counts.values()) == {2}
    chosen = read_labelled_images(portraits).where(age=["3-9", "70+"])
    assert bias.audit(chosen, ["dog", "cat"], "age", **options).counts == {"3-9": 4, "70+": 4}
    blocks = bias.audit(portraits, ["dog", "cat"], "age", block=["scene", "kind"], **options)
    assert (blocks.block_name, blocks.n_blocks) == ("scene × kind", 4)


def test_groups_as_values(tiny, planted):
    features = planted[0][:6]
    paths = {"model": tiny, "resamples": 9}
    by_list = bias.audit(features, ["dog", "cat"], ["f", "m"] * 3, **paths)
    assert by_list.group_names == ["group"] and by_list.files[1] == "images[1]"
    blocks = pandas.Series([1, 1, 2, 2, 3, 3])
    by_array = bias.audit(features, ["dog", "cat"], np.array([0, 1] * 3), block=blocks, **paths)
    assert by_array.groups == ["0", "1"] and by_array.n_blocks == 3 and by_array.block_name == "block"
    columns = {"gender": list("fmfmfm"), "age": [1, 1, 1, 2, 2, 2]}
    crossed = bias.audit(features, ["dog", "cat"], columns, **paths)
    assert crossed.groups == ["f × 1", "f × 2", "m × 1", "m × 2"] and crossed.group_names == ["gender", "age"]


def test_list_of_pictures(tiny, portraits):
    first = portraits / "images" / "0.png"
    pictures = [first, Image.new("RGB", (9, 9), "red"), np.zeros((5, 5, 3), np.uint8)]
    found = bias.audit(pictures, ["dog", "cat"], ["a", "b", "b"], model=tiny, resamples=9, cache=False)
    assert found.files == [str(pictures[0]), "images[1]", "images[2]"]
    preprocessed = bias.audit(
        tiny.preprocess(pictures), ["dog", "cat"], ["a", "b", "b"], model=tiny, resamples=9
    )
    np.testing.assert_allclose(found.probabilities, preprocessed.probabilities, atol=1e-6)


def test_pictures_without_a_group(portraits, tiny):
    data = read_labelled_images(portraits)
    data.columns["kind"][3] = data.columns["kind"][4] = ""
    options = {"model": tiny, "resamples": 9, "cache": False}
    with pytest.raises(ValueError, match="2 of 12 pictures have no 'kind', 'images/3.png' first;.*where"):
        bias.audit(data, ["dog", "cat"], "kind", **options)
    found = bias.audit(data, ["dog", "cat"], "kind", skip_ungrouped=True, **options)
    assert found.counts == {"x": 4, "y": 6} and "images/3.png" not in found.files
    assert "Left out 2 pictures without a group or block." in found.notes
    with pytest.raises(ValueError, match="block: 2 of 12 pictures have no 'kind'"):
        bias.audit(data, ["dog", "cat"], "age", block="kind", **options)
    values = [None, "a", float("nan"), "b"]
    with pytest.raises(ValueError, match="2 of 4 pictures have no 'group'"):
        bias.audit(tiny.encode_image(data.paths[:4]), ["dog", "cat"], values, model=tiny)


def test_blocks_that_cannot_be_compared(tiny, planted):
    features = planted[0][:8]
    groups = list("aaaabbbb")
    alone = bias.audit(features, ["dog", "cat"], groups, block=list("11112222"), model=tiny, resamples=99)
    assert (alone.comparisons["p"] == 1).all() and any("No block" in note for note in alone.notes)
    mixed = bias.audit(features, ["dog", "cat"], groups, block=list("11122333"), model=tiny, resamples=99)
    assert any("2 of 3 blocks of block have pictures of one group only" in note for note in mixed.notes)


def test_tests_shuffle_within_blocks(tiny):
    """Twenty scenes that differ by much; in each "a" leads "b" by as little as decides seven of them."""
    rng = np.random.default_rng(4)
    scenes, groups = np.repeat(np.arange(20), 3), np.tile(["a", "b", "c"], 20)
    lead = np.select([groups == "a", groups == "b"], [1.2, 0], rng.normal(0, 1, 60))
    gaps = np.repeat([-0.6] * 7 + [4.0] * 7 + [-4.0] * 6, 3) + lead + rng.normal(0, 0.1, 60)
    features = features_with(tiny, ["dog", "cat"], gaps)
    options = {"model": tiny, "resamples": 1999}
    within = bias.audit(features, ["dog", "cat"], groups, block=scenes, **options)
    ignoring = bias.audit(features, ["dog", "cat"], groups, **options)
    ab = {"group_a": "a", "group_b": "b"}
    assert row(within.total_variation, **ab).total_variation == pytest.approx(7 / 20)
    # Within scenes only who leads in the seven changes: sign flips.
    expected = stats.binomtest(7, 7).pvalue
    assert row(within.total_variation, **ab).p == pytest.approx(expected, abs=0.01)
    everywhere = stats.fisher_exact([[14, 6], [7, 13]]).pvalue
    assert row(ignoring.total_variation, **ab).p == pytest.approx(everywhere, abs=0.02)
    assert row(within.associations, **ab).p < 0.002 and row(ignoring.associations, **ab).p > 0.1
    assert row(within.associations, **ab).effect_size == row(ignoring.associations, **ab).effect_size
    for column in ("p", "mean_p"):
        strict, loose = (row(found.comparisons, label="dog")[column] for found in (within, ignoring))
        assert strict < 0.05 and strict < loose / 2


def test_intervals_draw_whole_blocks(tiny, planted):
    """Ten scenes, twenty times each: the mean is known no better than from ten pictures."""
    features = np.tile(planted[0][:20], (20, 1))
    groups = np.tile(["a", "b"], 200)
    blocks = np.tile(np.repeat(np.arange(10), 2), 20)
    apart = bias.audit(features, ["dog", "cat"], groups, block=blocks, model=tiny, resamples=999)
    alone = bias.audit(features, ["dog", "cat"], groups, model=tiny, resamples=999)
    once = bias.audit(features[:20], ["dog", "cat"], groups[:20], model=tiny, resamples=999)
    dogs = [row(found.shares, group="a", label="dog") for found in (apart, alone, once)]
    width = [dog.mean_high - dog.mean_low for dog in dogs]
    assert width[0] == pytest.approx(width[2], rel=0.05) and width[1] < 0.4 * width[0]


# --- presets ----------------------------------------------------------------------------------------------


def test_presets():
    assert list(bias.PRESETS) == [
        "nurse-doctor", "people-gorilla", "human-gorilla", "victim-criminal", "fairface", "fairface-child",
    ]  # fmt: skip
    for name, preset in bias.PRESETS.items():
        assert preset.name == name and preset.note and len(set(preset.labels)) == len(preset.labels) >= 2
        assert all("{}" in template for template in preset.templates)
        assert set(preset.categories) <= set(preset.labels)
    fairface = bias.PRESETS["fairface"]
    assert len(fairface.labels) == 14 + 4 + 3
    counts = {kind: list(fairface.categories.values()).count(kind) for kind in fairface.categories.values()}
    assert counts == {"person": 14, "non-human": 4, "crime-related": 3}
    child = bias.PRESETS["fairface-child"]
    assert set(child.labels) - set(fairface.labels) == {"child"} and child.categories["child"] == "person"
    with pytest.raises(dataclasses.FrozenInstanceError):
        fairface.name = "other"


def test_categories_are_counted(tiny, planted):
    preset = bias.Preset(
        "mine", ("dog", "cat", "car"), ("a photo of a {}.",), {"dog": "animal", "cat": "animal"}, "a note"
    )
    features = planted[0][:60]
    found = bias.audit(features, preset, ["a", "b"] * 30, model=tiny, resamples=FEW)
    assert found.preset is preset and found.templates == ("a photo of a {}.",)
    assert found.comparisons["kind"].tolist() == ["label"] * 3 + ["category"]
    given = np.array([prediction.label for prediction in found.predictions])
    animal = row(found.shares, group="a", kind="category")
    assert animal.label == "animal" and animal["count"] == np.isin(given[::2], ["dog", "cat"]).sum()
    assert animal.mean_probability == pytest.approx(found.probabilities[::2, :2].sum(axis=1).mean())
    # "animal" is what is not "car": the same test, which Holm's adjustment counts once.
    assert found.distinct_tests()[2] == found.distinct_tests()[3]
    assert len(set(found.distinct_tests())) == 3
    table = found.comparisons
    distinct = table[table["kind"] == "label"]
    order = distinct["p"].sort_values()
    running = np.minimum(np.maximum.accumulate(order.to_numpy() * [3, 2, 1]), 1)
    np.testing.assert_allclose(distinct["p_holm"].loc[order.index], running)
    assert table["p_holm"].iloc[3] == table["p_holm"].iloc[2]
    plain = bias.audit(features, preset, ["a", "b"] * 30, model=tiny, resamples=FEW, templates="{}")
    assert plain.templates == ("{}",) and plain.preset is preset
    assert (plain.probabilities != found.probabilities).any()


def test_prompt_ensembles(tiny, planted):
    """s(w) is the mean over prompts, as the formula has it."""
    features, templates = planted[0][:40], ["a photo of a {}.", "{}", "a drawing of a {}"]
    groups = np.array(["a", "b"] * 20)
    found = bias.audit(features, ["dog", "cat"], groups, model=tiny, templates=templates, resamples=FEW)
    np.testing.assert_allclose(
        found.probabilities[:, 0],
        [p["dog"] for p in tiny.classify(features, ["dog", "cat"], templates=templates)],
    )
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean = [
        np.mean([unit @ tiny.encode_text(t.format(word), normalize=True)[0] for t in templates], axis=0)
        for word in ("dog", "cat")
    ]
    s = mean[0] - mean[1]
    expected = (s[groups == "a"].mean() - s[groups == "b"].mean()) / s.std(ddof=1)
    assert found.associations["effect_size"].iloc[0] == pytest.approx(expected, abs=1e-4)


# --- against the reference model --------------------------------------------------------------------------


def test_agrees_with_openais_code(oracles, clip_data, tiny):
    """Scrubs and lab coats of PAIRS: Pillow, OpenAI's model in PyTorch, and counting by hand."""
    data = read_labelled_images(clip_data("pairs_synthetic")).where(scenario=["scrubs", "lab_coat"])
    assert len(data) == 8
    pixels, pictures = [], []
    constants = (tiny.config.image_mean, tiny.config.image_std)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in constants)
    for path in data.paths:
        with Image.open(path) as picture:
            rgb = picture.convert("RGB")
        assert rgb.size[0] == rgb.size[1], "the reference would have to crop"
        pictures.append(np.asarray(rgb))
        small = np.asarray(rgb.resize((tiny.image_size,) * 2, Image.BICUBIC), np.float32)
        pixels.append((small.transpose(2, 0, 1) / np.float32(255) - mean) / std)
    weights, metadata = oracles.load_float32(tiny.path)
    reference = oracles.build_reference(weights, metadata["activation"])
    images = oracles.reference_image_features(reference, np.stack(pixels)).unit.astype(np.float64)
    for labels, template in ((["Nurse", "Doctor"], "{}"), (["Victim", "Criminal"], "a photo of a {}.")):
        texts = oracles.tokenize([template.format(label) for label in labels])
        texts = oracles.reference_text_features(reference, texts).unit.astype(np.float64)
        logits = float(weights["logit_scale"].exp()) * images @ texts.T
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert np.abs(expected[:, 0] - 0.5).min() > 1e-4, "no picture on the fence"
        found = bias.audit(
            pictures, labels, {name: data.column(name) for name in ("gender", "race")}, model=tiny,
            block=data.column("scenario"), templates=template, cache=False, resamples=FEW,
        )  # fmt: skip
        error = np.abs(found.probabilities - expected).max()
        print(f"{labels}: probabilities differ by at most {error:.1e}")
        assert error <= 1e-4
        groups = np.array([" × ".join(pair) for pair in zip(data.column("gender"), data.column("race"))])
        for group in set(groups):
            inside = expected[groups == group]
            for i, label in enumerate(labels):
                counted = row(found.shares, group=group, label=label)
                assert counted.share == np.mean(inside.argmax(axis=1) == i)
                assert counted.mean_probability == pytest.approx(inside[:, i].mean(), abs=1e-4)


# --- what it refuses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"labels": ["dog"]}, "expected two or more, got 'dog' alone"),
        ({"labels": []}, "labels"),
        ({"labels": ["dog", "dog"]}, "'dog' is given more than once"),
        ({"labels": "nurse"}, "one of the presets nurse-doctor, .*; got 'nurse'"),
        ({"templates": "a photo"}, "has no {}"),
        ({"groups": "kindd"}, "there is no column 'kindd'; there are age, kind, scene"),
        ({"groups": ["kind", "foo"]}, "no column 'foo'"),
        ({"groups": ["kind", "kind"]}, "a column is named twice"),
        ({"groups": []}, "groups: the list is empty"),
        ({"groups": {}}, "groups: the dict is empty"),
        ({"groups": {"x": [1, 2]}}, "expected 12 values of 'x', one for each picture, got 2 values"),
        ({"groups": {"x": "age"}}, "expected 12 values of 'x', one for each picture, got 'age'"),
        ({"groups": ["same"] * 12}, "expected two or more to compare, group has 'same' only"),
        ({"groups": [1, 2, 3]}, "expected 12 values of 'group'"),
        ({"block": "scen"}, "no column 'scen'"),
        ({"block": []}, "block: the list is empty"),
        ({"confidence": 95}, "confidence: expected a number between 0 and 1"),
        ({"confidence": "0.95"}, "confidence"),
        ({"resamples": 0}, "resamples: expected 1 or more"),
        ({"top_k": 13}, "top_k: expected up to 12"),
        ({"top_k": 0}, "top_k: expected 1 or more"),
        ({"top_k": []}, "top_k: the list is empty"),
        ({"seed": -1}, "seed: expected 0 or more"),
        ({"images": np.zeros((0, 5), np.float32)}, "images: the list is empty"),
        ({"images": np.full((12, 512), np.nan, np.float32), "groups": list("ab" * 6)}, "features"),
        ({"images": np.zeros((12, 3), np.float32), "groups": list("ab" * 6)}, "features"),
        ({"images": np.zeros((12, 9), np.float32), "groups": "kind"}, "'kind' names a column, but"),
    ],
)  # fmt: skip
def test_wrong_arguments(portraits, tiny, arguments, message):
    options = {"images": portraits, "labels": ["dog", "cat"], "groups": "kind", "cache": False} | arguments
    with pytest.raises(ValueError, match=message):
        bias.audit(model=tiny, **options)


@pytest.mark.parametrize(
    "arguments",
    [{"labels": 3}, {"labels": [1, 2]}, {"groups": 5}, {"images": 5}, {"resamples": 9.5}, {"top_k": 1.5},
     {"images": np.zeros((5, 5, 3), np.uint8)}],
)  # fmt: skip
def test_arguments_of_a_wrong_kind(portraits, tiny, arguments):
    options = {"images": portraits, "labels": ["dog", "cat"], "groups": "kind", "cache": False} | arguments
    with pytest.raises(TypeError):
        bias.audit(model=tiny, **options)


def test_unreadable_pictures(portraits, tiny):
    (portraits / "images" / "2.png").write_bytes(b"no picture")
    (portraits / "images" / "7.png").unlink()
    options = {"model": tiny, "resamples": 99, "cache": False}
    with pytest.raises((OSError, ImageError), match="skip_unreadable"):
        bias.audit(portraits, ["dog", "cat"], "kind", **options)
    with pytest.warns(clipc.ClipcWarning, match="2 of 12 images cannot be read"):
        found = bias.audit(
            portraits, ["dog", "cat"], "kind", block="scene", skip_unreadable=True, **options
        )
    assert [name for name, _ in found.unreadable] == ["images/2.png", "images/7.png"]
    assert found.counts == {"x": 5, "y": 5} and len(found.files) == len(found.probabilities) == 10
    assert found.group_of.tolist() == ["x"] * 5 + ["y"] * 5
    assert found.block_of.tolist() == [f"scene {i % 2}" for i in range(12) if i not in (2, 7)]
    only = read_labelled_images(portraits).take([2, 3])
    only.columns["kind"] = ["x", "y"]
    with pytest.warns(clipc.ClipcWarning), pytest.raises(ValueError, match="after leaving out 1 unreadable"):
        bias.audit(only, ["dog", "cat"], "kind", skip_unreadable=True, **options)


def test_columns_are_checked_before_pictures_are_read(portraits, tiny, monkeypatch):
    monkeypatch.setattr("clipc.bias.samples.encode_files", lambda *_, **__: pytest.fail("encodes"))
    for arguments in ({"groups": "foo"}, {"groups": "kind", "block": "foo"}, {"groups": "kind", "top_k": 0}):
        with pytest.raises(ValueError):
            bias.audit(portraits, ["dog", "cat"], model=tiny, **arguments)


# --- the rest ---------------------------------------------------------------------------------------------


def test_same_seed_same_numbers(tiny, planted):
    features, groups, _ = planted
    options = {"model": tiny, "resamples": FEW}
    first, again, other = (
        bias.audit(features, ["dog", "cat"], groups, seed=seed, **options) for seed in (1, 1, 2)
    )
    for name in ("shares", "comparisons", "total_variation", "ranking", "associations"):
        pandas.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
    assert not first.shares["mean_low"].equals(other.shares["mean_low"])
    assert first.shares["share"].equals(other.shares["share"])


def test_settings_tell_what_numbers_depend_on(report):
    settings = report.settings
    json.dumps(settings)
    for name, value in {
        "model": "tiny", "dtype": "float32", "labels": ["dog", "cat"], "templates": ["{}"], "preset": None,
        "groups": ["group"], "block": None, "source": None, "exif": False, "confidence": 0.95,
        "resamples": 9999, "top_k": [20, 150], "seed": 3,
    }.items():  # fmt: skip
        assert settings[name] == value
    assert repr(report) == "<AuditReport: 2 labels, 3 groups of group, 500 pictures, tiny>"
    assert len(report) == 500


def test_unit_length_of_features_does_not_matter(tiny, planted, report):
    features, groups, _ = planted
    scaled = features * np.random.default_rng(0).uniform(1, 9, (500, 1)).astype(np.float32)
    found = bias.audit(scaled, ["dog", "cat"], groups, model=tiny, top_k=[20, 150], resamples=FEW)
    np.testing.assert_allclose(found.probabilities, report.probabilities, atol=1e-5)
    effects, expected = (r.associations["effect_size"] for r in (found, report))
    np.testing.assert_allclose(effects, expected, atol=1e-4)


@pytest.mark.parametrize(
    "method, module, function",
    [
        ("__str__", "report_text", "text"),
        ("to_markdown", "report_text", "markdown"),
        ("to_dict", "report_text", "to_dict"),
        ("lines", "report_text", "lines"),
        ("_repr_html_", "report_html", "fragment"),
        ("to_html", "report_html", "page"),
        ("plot_shares", "plots", "plot_shares"),
        ("plot_probabilities", "plots", "plot_probabilities"),
        ("plot_ranking", "plots", "plot_ranking"),
        ("plot_associations", "plots", "plot_associations"),
    ],
)
def test_methods_of_looks_come_from_their_modules(report, method, module, function, monkeypatch, tmp_path):
    seen = []
    fake = types.ModuleType(module)
    setattr(fake, function, lambda *arguments, **options: seen.append((arguments, options)) or "made")
    monkeypatch.setitem(sys.modules, f"clipc.bias.{module}", fake)
    monkeypatch.setattr(bias, module, fake, raising=False)
    assert getattr(report, method)() == "made"
    assert seen[0][0] == (report,)
    if method == "to_html":
        assert report.to_html(tmp_path / "page.html") == "made"
        assert (tmp_path / "page.html").read_text() == "made"
    if method.startswith("plot"):
        getattr(report, method)(ax="axes")
        assert seen[1][1]["ax"] == "axes"


def test_bias_is_imported_when_asked_for():
    program = (
        "import sys, clipc\n"
        "heavy = {'pandas', 'scipy', 'statsmodels', 'matplotlib', 'clipc.bias'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert 'bias' in dir(clipc) and clipc.bias.audit\n"
        "assert not (heavy - {'clipc.bias'}) & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_without_the_extra(tiny, planted, monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.stats.proportion", None)
    with pytest.raises(ImportError, match=r"pip install 'clipc\[analysis\]'"):
        bias.audit(planted[0], ["dog", "cat"], planted[1], model=tiny)
