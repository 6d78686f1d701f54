"""Linear probes: the sweep of C, the divisions, and scikit-learn called by hand."""

import json
import math

import numpy as np
import pytest
from image_files import smooth_picture
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

import clipc
from clipc.evaluate import PUBLISHED_ROBUSTNESS, PUBLISHED_ZERO_SHOT_MINUS_PROBE, linear_probe, published
from clipc.evaluate.probe import C_GRID, _draw, choose_c
from clipc.evaluate.statistics import wilson
from clipc.vectors import unit_rows

LABELS = ["dog", "cat", "lion", "bus"]


@pytest.fixture(scope="module")
def tiny():
    return clipc.load("tiny")


def features_of(model, per_class, *, noise=4.0, turned=True, seed=0):
    """Features in clusters that zero-shot cannot tell, unless they are not turned: (features, labels)."""
    rng = np.random.default_rng(seed)
    centres = model.classifier(LABELS)
    if turned:
        centres = np.roll(centres, 1, axis=0)
    rows = np.repeat(centres, per_class, axis=0)
    rows = rows + noise * rng.standard_normal(rows.shape) / math.sqrt(rows.shape[1])
    order = rng.permutation(len(rows))
    return rows[order].astype(np.float32), [LABELS[i] for i in np.repeat(range(4), per_class)[order]]


# ---- the sweep ----


def test_grid_is_that_of_the_paper():
    assert len(C_GRID) == 97  # 96 steps
    np.testing.assert_allclose(np.diff(np.log10(C_GRID)), 1 / 8)
    np.testing.assert_allclose(C_GRID[::16], [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6])


@pytest.mark.parametrize("peak", [-5.9, -3.3, -0.125, 0, 2.6, 5.95])
def test_the_search_finds_a_single_peak(peak):
    tried = []

    def accuracy(c):
        tried.append(c)
        return -abs(math.log10(c) - peak)

    c, sweep = choose_c(accuracy)
    nearest = min(C_GRID, key=lambda c: abs(math.log10(c) - peak))
    assert c == nearest
    assert len(tried) == len(set(tried)) == len(sweep) <= 15
    np.testing.assert_allclose(tried[:7], [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6])
    assert list(sweep) == sorted(sweep) and all(sweep[c] == -abs(math.log10(c) - peak) for c in sweep)


def test_the_search_halves_the_interval_around_the_best():
    tried = []

    def accuracy(c):
        tried.append(round(8 * math.log10(c)))
        return {0: 1, -4: 2, -3: 3}.get(tried[-1], 0)

    c, _ = choose_c(accuracy)
    assert tried[7:] == [-8, 8, -4, 4, -6, -2, -5, -3]
    assert c == pytest.approx(10 ** (-3 / 8))


def test_of_equal_accuracies_the_strongest_penalty_wins():
    assert choose_c(lambda c: 0.5)[0] == 1e-6
    assert choose_c(lambda c: float(1e-3 < c < 1e3))[0] < 2e-3


# ---- with a test set ----


def test_c_is_chosen_on_the_training_images_alone(tiny):
    train, test = features_of(tiny, 10), features_of(tiny, 15, seed=1)
    result = linear_probe(train, test, model=tiny, cache=False)
    (probe,) = result.probes
    # Other test labels, same choice.
    relabelled = (test[0], test[1][::-1])
    assert linear_probe(train, relabelled, model=tiny, cache=False).probes[0].sweep == probe.sweep
    # The sweep by hand: one of five stratified parts validates.
    x, y = train[0], np.array([LABELS.index(label) for label in train[1]])
    fitted, held = next(StratifiedKFold(5, shuffle=True, random_state=0).split(x, y))
    for c, accuracy in list(probe.sweep.items())[::4]:
        classifier = LogisticRegression(C=c, max_iter=1000).fit(x[fitted], y[fitted])
        assert classifier.score(x[held], y[held]) == accuracy
    assert probe.sweep[result.C[0]] == max(probe.sweep.values())
    # And then all training images.
    classifier = LogisticRegression(C=result.C[0], max_iter=1000).fit(x, y)
    true = np.array([LABELS.index(label) for label in test[1]])
    np.testing.assert_array_equal(
        [LABELS.index(result.labels[i]) for i in result.predicted], classifier.predict(test[0])
    )
    assert result.accuracy == pytest.approx(classifier.score(test[0], true))
    assert (probe.n_train, probe.n_fits) == (40, len(probe.sweep) + 1)


def test_the_row_of_the_probe(tiny):
    train, test = (
        features_of(tiny, 8, turned=False, noise=6),
        features_of(tiny, 20, turned=False, noise=6, seed=1),
    )
    result = linear_probe(train, test, model=tiny, C=1.0, prompts="{}", cache=False)
    zero, probe = result.rows()
    expected = tiny.classify(test[0], LABELS)
    right = np.array([one.label == label for one, label in zip(expected, test[1])])
    assert zero["accuracy"] == pytest.approx(right.mean()) and zero["n"] == 80
    assert (zero["low"], zero["high"]) == pytest.approx(wilson(right.sum(), 80))
    probe_right = np.array([result.labels[i] == label for i, label in zip(result.predicted, test[1])])
    assert probe["accuracy"] == pytest.approx(probe_right.mean())
    assert probe["difference"] == result.difference == pytest.approx(probe_right.mean() - right.mean())
    table = [
        [(right & probe_right).sum(), (right & ~probe_right).sum()],
        [(~right & probe_right).sum(), (~right & ~probe_right).sum()],
    ]
    assert probe["p"] == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
    assert probe["difference_low"] < probe["difference"] < probe["difference_high"]
    assert probe["C"] == [1.0] and result.sweeps == [{}] and result.n_fits == 1
    assert 0.3 < zero["accuracy"] < 1


def test_a_probe_learns_what_zero_shot_cannot(tiny):
    # Each class looks like the text of another one.
    train, test = features_of(tiny, 12, noise=0.3), features_of(tiny, 10, noise=0.3, seed=1)
    result = linear_probe(train, test, model=tiny, C=100.0, prompts="{}", cache=False)
    assert result.accuracy == 1 and result.rows()[0]["accuracy"] == 0 and result.difference == 1


def test_unit_length_on_request(tiny):
    features, labels = features_of(tiny, 6, noise=3)
    features *= np.linspace(0.1, 40, len(features))[:, None].astype(np.float32)
    test = features_of(tiny, 10, noise=3, seed=1)
    for normalize in (False, True):
        result = linear_probe((features, labels), test, model=tiny, C=0.5, normalize=normalize, cache=False)
        prepared = [unit_rows(x) if normalize else x for x in (features, test[0])]
        classifier = LogisticRegression(C=0.5, max_iter=1000).fit(prepared[0], labels)
        assert [result.labels[i] for i in result.predicted] == list(classifier.predict(prepared[1]))
    assert "unit length" in str(result)


# ---- cross-validation ----


def test_each_image_is_tested_once_by_what_has_not_seen_it(tiny):
    features, labels = features_of(tiny, 10)
    result = linear_probe((features, labels), model=tiny, folds=4, C=1.0, seed=3, cache=False)
    tested = np.concatenate([probe.tested for probe in result.probes])
    assert sorted(tested) == list(range(40)) and len(result.probes) == 4
    y = np.array([result.labels.index(label) for label in labels])
    for probe in result.probes:
        rest = np.setdiff1d(np.arange(40), probe.tested)
        assert np.bincount(y[probe.tested]).max() - np.bincount(y[probe.tested]).min() <= 1
        classifier = LogisticRegression(C=1.0, max_iter=1000).fit(features[rest], y[rest])
        np.testing.assert_array_equal(probe.predicted, classifier.predict(features[probe.tested]))
        np.testing.assert_array_equal(result.predicted[probe.tested], probe.predicted)
    assert result.accuracy == pytest.approx((result.predicted == y).mean())
    row = result.rows()[-1]
    assert (row["low"], row["high"]) == pytest.approx(wilson(row["accuracy"] * 40, 40))
    again, other = (
        linear_probe((features, labels), model=tiny, folds=4, C=1.0, seed=s, cache=False) for s in (3, 4)
    )
    assert (again.predicted == result.predicted).all()
    assert not (other.probes[0].tested == result.probes[0].tested).all()


def test_folders_of_images(tiny, tmp_path):
    """From pictures on disk; the bright ones are called cats."""
    for i in range(24):
        folder = tmp_path / ("cat", "dog")[i % 2]
        folder.mkdir(exist_ok=True)
        square = smooth_picture(64, 64, seed=i) // 4 + (150 if i % 2 == 0 else 0)
        Image.fromarray(square.astype(np.uint8)).save(folder / f"{i}.png")
    result = linear_probe(tmp_path, model=tiny, folds=2, cache=tmp_path / "features")
    assert result.labels == ("cat", "dog") and len(result) == 24 and result.accuracy > 0.8
    assert {row["n"] for row in result.per_class()} == {12}


# ---- few shots ----


def test_shots_are_drawn_from_the_training_images(tiny):
    train, test = features_of(tiny, 8), features_of(tiny, 10, seed=1)
    result = linear_probe(train, test, model=tiny, shots=(1, 4), draws=3, C=1.0, cache=False)
    rows = result.rows()
    assert [row["shots"] for row in rows] == [0, 1, 4, None]
    assert [row["n_train"] for row in rows] == [0, 4, 16, 32]
    y = np.array([result.labels.index(label) for label in train[1]])
    true = np.array([result.labels.index(label) for label in test[1]])
    for row in rows[1:3]:
        scores = []
        for draw, probe in enumerate(result.few_shot[row["shots"]]):
            drawn = _draw(y, np.arange(32), row["shots"], (0, row["shots"], 0, draw))
            assert (np.bincount(y[drawn]) == row["shots"]).all() and len(set(drawn)) == len(drawn)
            classifier = LogisticRegression(C=1.0, max_iter=1000).fit(train[0][drawn], y[drawn])
            np.testing.assert_array_equal(probe.predicted, classifier.predict(test[0]))
            scores.append((probe.predicted == true).mean())
        assert row["draws"] == 3 and row["accuracy"] == pytest.approx(np.mean(scores))
        assert row["draw_sd"] == pytest.approx(np.std(scores, ddof=1))
        assert row["p"] is None
        assert row["difference"] == pytest.approx(row["accuracy"] - rows[0]["accuracy"])
    assert len({tuple(probe.predicted) for probe in result.few_shot[1]}) > 1


def test_shots_in_cross_validation(tiny):
    result = linear_probe(features_of(tiny, 6), model=tiny, folds=2, shots=2, C=1.0, cache=False)
    row = result.rows()[1]
    assert len(result.few_shot[2]) == 2 and row["draws"] == 1 and row["draw_sd"] is None
    tested = np.concatenate([probe.tested for probe in result.few_shot[2]])
    predicted = np.concatenate([probe.predicted for probe in result.few_shot[2]])
    assert row["accuracy"] == pytest.approx((predicted == result.true[tested]).mean())


def test_one_shot_has_nothing_to_choose_c_with(tiny, recwarn):
    train, test = features_of(tiny, 4), features_of(tiny, 5, seed=1)
    result = linear_probe(train, test, model=tiny, shots=(1, 2), draws=1, cache=False)
    assert not recwarn.list  # as many classes as pictures, which scikit-learn finds odd
    (one,), (two,) = result.few_shot[1], result.few_shot[2]
    assert one.C == 0.316 and one.sweep == {} and one.n_fits == 1
    assert two.sweep and two.C == min(c for c in two.sweep if two.sweep[c] == max(two.sweep.values()))


def test_all_there_is_is_not_drawn_again(tiny):
    train, test = features_of(tiny, 4), features_of(tiny, 5, seed=1)
    result = linear_probe(train, test, model=tiny, shots=(2, 4), draws=3, C=1.0, cache=False)
    _, two, four, full = result.rows()
    assert two["draws"] == 3 and four["draws"] == 1 and four["draw_sd"] is None
    assert four["accuracy"] == full["accuracy"] and result.n_fits == 4
    assert len(result.plot().get_xticks()) == 2


# ---- what scikit-learn says ----


def test_fits_that_do_not_converge_are_counted(tiny, monkeypatch, recwarn):
    monkeypatch.setattr("clipc.evaluate.probe.MAX_ITERATIONS", 2)
    train, test = features_of(tiny, 8), features_of(tiny, 5, seed=1)
    result = linear_probe(train, test, model=tiny, cache=False)
    assert not recwarn.list
    assert 0 < result.n_unconverged <= result.n_fits
    assert f"{result.n_unconverged} of {result.n_fits} fits stopped after 2 iterations" in str(result)
    assert result.to_dict()["n_unconverged"] == result.n_unconverged


def test_converged_fits_are_not_mentioned(tiny):
    result = linear_probe(features_of(tiny, 4), model=tiny, folds=2, C=0.01, cache=False)
    assert result.n_unconverged == 0 and "iterations" not in str(result)


# ---- arguments ----


def test_wrong_arguments(tiny):
    data = features_of(tiny, 4)
    odd = (np.concatenate([data[0], data[0][:1]]), [*data[1], "bridge"])
    two = (data[0][:8], ["dog", "cat"] * 4)
    for given, options, error, message in [
        (data, {"folds": 1}, ValueError, "folds: expected 2 or more"),
        (data, {"folds": 5}, ValueError, r"folds=5 needs 5 pictures of each class; too few have '\w+' \(4\)"),
        (
            odd,
            {"folds": 2},
            ValueError,
            r"too few have 'bridge' \(1\); use fewer folds, or leave the class out",
        ),
        ((data[0], ["dog"] * 16), {"folds": 2}, ValueError, "at least two"),
        (data, {"C": 0}, ValueError, "C: expected a positive"),
        (data, {"C": "1"}, TypeError, "C: expected a number"),
        (data, {"folds": 2, "shots": 0}, ValueError, "shots"),
        (data, {"folds": 2, "shots": []}, ValueError, "shots"),
        (data, {"folds": 2, "shots": 3}, ValueError, "the smallest has 2 for training"),
        (data, {"folds": 2, "shots": 1, "draws": 0}, ValueError, "draws"),
        ((data[0][:4], ["dog", "cat"] * 2), {"folds": 2}, ValueError, "too few pictures to choose C.*give C"),
        (two, {"labels": {"dog": "dog", "lion": "lion"}, "folds": 2}, ValueError, "'cat' in 'label'"),
        ((data[0] * np.nan, data[1]), {"folds": 2}, ValueError, "finite"),
    ]:
        with pytest.raises(error, match=message):
            linear_probe(given, model=tiny, cache=False, **options)
    with pytest.raises(ValueError, match="test: there are no training pictures of 'bridge'"):
        linear_probe(data, odd, model=tiny, cache=False)
    with pytest.raises(TypeError, match="test: expected a folder"):
        linear_probe(data, 3, model=tiny, cache=False)
    # A class that is not tested is no mistake.
    only_dogs = (data[0][:2], ["dog", "dog"])
    assert len(linear_probe(data, only_dogs, model=tiny, C=1, cache=False)) == 2


# ---- how it prints ----


def test_printed_forms(tiny):
    result = linear_probe(features_of(tiny, 6), model=tiny, folds=2, shots=(1, 2), draws=2, cache=False)
    text = str(result)
    lines = text.split("\n")
    assert "24 test pictures of 4 classes" in lines[1] and "2 folds" in lines[1]
    assert lines[4].startswith("zero-shot") and "1 a class (4)" in text and "all (12)" in text
    assert result._repr_html_().count("<tr>") == 5
    table = result.to_markdown().split("\n")
    assert len(table) == 6 and len({line.count("|") for line in table}) == 1
    assert result.to_pandas()["accuracy"].tolist() == [row["accuracy"] for row in result.rows()]
    back = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert len(back["rows"]) == 4 and len(back["sweeps"]) == 2
    assert repr(result).startswith("<Linear probe, 24 test pictures")


def test_plots(tiny):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    result = linear_probe(features_of(tiny, 6), model=tiny, folds=2, shots=(1, 2), cache=False)
    ax = result.plot()
    curve = ax.containers[0].lines[0]
    np.testing.assert_allclose(curve.get_xdata(orig=False), [1, 2, 3])
    expected = [100 * row["accuracy"] for row in result.rows()[1:]]
    np.testing.assert_allclose(curve.get_ydata(orig=False), expected)
    ax = result.plot_sweep()
    assert len(ax.lines) == 4
    ax = result.plot_published(name="clusters")
    assert len(ax.patches) == 28
    assert f"{-100 * result.difference:+.1f}" in [text.get_text() for text in ax.texts]
    ax = linear_probe(features_of(tiny, 4), model=tiny, folds=2, C=1.0, cache=False).plot()
    assert len(ax.patches) == 2
    with pytest.raises(ValueError, match="C was given"):
        linear_probe(features_of(tiny, 4), model=tiny, folds=2, C=1.0, cache=False).plot_sweep()
    pyplot.close("all")


# ---- published figures ----


def test_published_figures_are_those_of_the_paper():
    """What the paper's text says of its figures 5 and 13."""
    differences = PUBLISHED_ZERO_SHOT_MINUS_PROBE
    assert len(differences) == 27
    assert sum(value > 0 for value in differences.values()) == 16  # "outperforms on 16 datasets"
    assert list(differences.values()) == sorted(differences.values(), reverse=True)
    assert differences["Kinetics700"] == 14.5 and differences["UCF101"] == 7.7
    assert min(differences["StanfordCars"], differences["Food101"]) > 20
    assert max(differences["Flowers102"], differences["FGVCAircraft"]) < -10
    # The last column of figure 13.
    gains = [round(clip - resnet, 1) for resnet, clip in PUBLISHED_ROBUSTNESS.values()]
    assert gains == [0.0, 5.8, 51.2, 39.7, 35.0, 74.4]
    # "prompt engineering and ensembling improve ImageNet accuracy by almost 5%"
    assert 4.5 < sum(published.PUBLISHED_PROMPTS.values()) < 5
