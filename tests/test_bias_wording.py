"""Wordings compared: the same pictures, other words."""

import sys
import types

import numpy as np
import pytest
from availability import require

import clipc

require("pandas")
require("scipy.stats")
require("statsmodels.stats.proportion")

from clipc import bias  # noqa: E402

FEW = 199


@pytest.fixture(scope="module")
def tiny():
    return clipc.load("tiny")


@pytest.fixture(scope="module")
def features(tiny):
    """60 unit vectors around the texts of four words."""
    rng = np.random.default_rng(0)
    texts = tiny.encode_text(["dog", "cat", "puppy", "car"], normalize=True)
    noise = rng.normal(size=(60, tiny.embed_dim)) / np.sqrt(tiny.embed_dim)
    return (texts[rng.integers(0, 4, 60)] + 1.5 * noise).astype(np.float32)


GROUPS = ["a", "b", "c"] * 20
SETS = {"dog/cat": ["dog", "cat"], "puppy/cat": ["puppy", "cat"], "three": ["dog", "cat", "car"]}


@pytest.fixture(scope="module")
def report(tiny, features):
    return bias.wording(features, SETS, GROUPS, model=tiny, resamples=FEW, seed=2)


def label_of(model, features, labels, template):
    predictions = model.classify(features, labels, templates=template)
    return np.array([list(labels).index(prediction.label) for prediction in predictions])


def test_every_wording_is_an_audit(report, tiny, features):
    assert list(report.templates) == ["label alone", "a photo of a {}."]
    assert list(report.reports) == [(name, template) for name in SETS for template in report.templates]
    assert report.label_sets == {name: tuple(labels) for name, labels in SETS.items()}
    for (name, template), found in report.reports.items():
        texts = report.templates[template]
        alone = bias.audit(
            features, SETS[name], GROUPS, model=tiny, templates=texts, resamples=FEW, seed=2
        )
        rows = report.rows[(report.rows["wording"] == name) & (report.rows["templates"] == template)]
        gaps = report.gaps[(report.gaps["wording"] == name) & (report.gaps["templates"] == template)]
        for column in ("group", "label", "kind", "n", "count", "share", "low", "high"):
            assert rows[column].tolist() == alone.shares[column].tolist() == found.shares[column].tolist()
        for column in ("label", "difference", "low", "high", "highest_group", "lowest_group", "p"):
            assert gaps[column].tolist() == alone.comparisons[column].tolist()
    assert report.counts == {"a": 20, "b": 20, "c": 20} and report.model_name == "tiny"


def test_flips_are_counted(report, tiny, features):
    assert report.flips[["from", "to", "templates"]].values.tolist() == [
        ["dog/cat", "puppy/cat", "label alone"], ["dog/cat", "puppy/cat", "a photo of a {}."],
    ]  # fmt: skip
    for row in report.flips.itertuples(index=False):
        template = report.templates[row.templates]
        before = label_of(tiny, features, ["dog", "cat"], template)
        after = label_of(tiny, features, ["puppy", "cat"], template)
        assert (row.n, row.flipped) == (60, (before != after).sum())
        assert row.share == row.flipped / 60 and row.low < row.share < row.high
    assert len(report.template_flips) == 3
    for row in report.template_flips.itertuples(index=False):
        before, after = (
            label_of(tiny, features, report.label_sets[row.wording], report.templates[name])
            for name in (report.template_flips["from"].iloc[0], report.template_flips["to"].iloc[0])
        )
        assert row.flipped == (before != after).sum()


def test_holms_adjustment_is_over_all_wordings(report):
    """Two labels are one test: 2 x (1 + 1 + 3)."""
    gaps = report.gaps
    p = []
    for _, part in gaps.groupby(["wording", "templates"], sort=False):
        p += part["p"].tolist()[:1] if len(part) == 2 else part["p"].tolist()
    assert len(p) == 10
    smallest = gaps["p"].idxmin()
    assert gaps["p_holm"][smallest] == pytest.approx(min(1, 10 * min(p)))
    assert (gaps["p_holm"] >= gaps["p"]).all() and gaps["p_holm"].max() <= 1
    for found in report.reports.values():
        assert (found.comparisons["p_holm"] <= gaps["p_holm"].max()).all()


def test_reversed_labels_flip_everything_by_position(tiny, features):
    found = bias.wording(
        features, {"one": ["dog", "cat"], "other": ["cat", "dog"]}, GROUPS, model=tiny, templates="{}",
        resamples=FEW,
    )  # fmt: skip
    assert found.flips[["n", "flipped", "share"]].values.tolist() == [[60, 60, 1]]
    assert found.template_flips.empty
    assert list(found.template_flips) == ["wording", *[name for name in found.flips if name != "templates"]]
    swapped = bias.wording(
        features, {"one": ["dog", "cat"], "other": ["cat", "dog"]}, GROUPS, model=tiny, templates="{}",
        resamples=FEW, aligned=False,
    )  # fmt: skip
    assert swapped.flips.empty and not swapped.aligned
    assert swapped.gaps["difference"].iloc[0] == pytest.approx(swapped.gaps["difference"].iloc[3])


def test_sets_of_other_lengths_have_no_flips(tiny, features):
    sets = {"two": ["dog", "cat"], "three": ["dog", "cat", "car"]}
    found = bias.wording(features, sets, GROUPS, model=tiny, templates=["{}"], resamples=FEW)
    assert found.flips.empty and any("no flips" in note for note in found.notes)


def test_presets_by_name(tiny, features):
    found = bias.wording(
        features, ["people-gorilla", bias.PRESETS["human-gorilla"]], GROUPS, model=tiny, resamples=9,
        block=np.repeat(np.arange(20), 3),
    )  # fmt: skip
    assert found.label_sets == {
        "people-gorilla": ("People", "Gorilla"), "human-gorilla": ("Human", "Gorilla")
    }  # fmt: skip
    assert found.n_blocks == 20 and len(found.flips) == 2 and len(found.gaps) == 8
    assert found.settings["templates"] == {"label alone": ["{}"], "a photo of a {}.": ["a photo of a {}."]}
    assert repr(found) == "<WordingReport: 2 label sets in 2 templates, 3 groups of group, 60 pictures, tiny>"


def test_pictures_are_encoded_once(tiny, features, monkeypatch):
    from clipc.bias import samples

    calls = []
    encode = samples.encode_files

    def counting(*arguments, **options):
        calls.append(1)
        return encode(*arguments, **options)

    monkeypatch.setattr(samples, "encode_files", counting)
    bias.wording(features, SETS, GROUPS, model=tiny, resamples=9)
    assert len(calls) == 1


def test_one_label_set_in_several_templates(tiny, features):
    found = bias.wording(features, {"one": ["dog", "cat"]}, GROUPS, model=tiny, resamples=9)
    assert found.flips.empty and len(found.template_flips) == 1 and not found.notes


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"label_sets": {}}, ValueError, "at least one label set"),
        ({"label_sets": {"one": ["dog", "cat"]}, "templates": "{}"}, ValueError, "expected two wordings"),
        ({"label_sets": {"one": ["dog"]}}, ValueError, "'dog' alone"),
        ({"label_sets": ["nurse"]}, ValueError, "presets"),
        ({"label_sets": [["dog", "cat"], ["a", "b"]]}, TypeError, "label_sets: expected a dict"),
        ({"templates": {}}, ValueError, "templates: expected at least one"),
        ({"templates": ["a photo"]}, ValueError, "has no {}"),
        ({"groups": ["a"] * 60}, ValueError, "expected two or more to compare"),
        ({"confidence": 2}, ValueError, "confidence"),
    ],
)
def test_wrong_arguments(tiny, features, arguments, error, message):
    options = {"label_sets": SETS, "groups": GROUPS} | arguments
    with pytest.raises(error, match=message):
        bias.wording(features, model=tiny, **options)


@pytest.mark.parametrize(
    "method, module, function",
    [
        ("__str__", "report_text", "wording_text"),
        ("to_markdown", "report_text", "wording_markdown"),
        ("_repr_html_", "report_html", "wording_fragment"),
        ("plot", "plots", "plot_wording"),
    ],
)
def test_methods_of_looks_come_from_their_modules(report, method, module, function, monkeypatch):
    fake = types.ModuleType(module)
    setattr(fake, function, lambda found, **_: "made" if found is report else None)
    monkeypatch.setitem(sys.modules, f"clipc.bias.{module}", fake)
    monkeypatch.setattr(bias, module, fake, raising=False)
    assert getattr(report, method)() == "made"
