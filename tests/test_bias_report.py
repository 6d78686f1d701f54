"""How a bias report looks: what it says and does not say, its tables, its HTML and its plots.

The numbers are made up, or counted by hand; the statistics behind real ones are tested elsewhere.
"""

import html.parser
import json
import re
import types

import numpy as np
import pytest
from availability import require
from bias_reports import drawn_report, made_up_report

from clipc import bias
from clipc.bias import plots, report_content, report_html, report_tables, report_text
from clipc.terminal import columns

matplotlib = require("matplotlib")


@pytest.fixture(autouse=True)
def no_windows():
    from matplotlib import pyplot

    with matplotlib.rc_context():
        pyplot.switch_backend("agg")
        yield
        pyplot.close("all")


def sure(label, of=2):
    """Probabilities of which the label at this position has nearly all."""
    return np.where(np.arange(of) == label, 0.9, 0.1 / (of - 1))


@pytest.fixture
def four_and_four():
    """Three of four women are nurses, one of four men."""
    nurse = [True, True, True, False, False, True, False, False]
    return made_up_report(
        [sure(0) if yes else sure(1) for yes in nurse], ["nurse", "doctor"], ["Female"] * 4 + ["Male"] * 4
    )


@pytest.fixture(scope="module")
def many():
    """Nine labels in two categories over eight groups."""
    labels = [f"label {i}" for i in range(9)]
    rng = np.random.default_rng(3)
    return drawn_report(
        labels,
        {f"group {i}": 12 for i in range(8)},
        {f"group {i}": rng.normal(0, 1, 9) for i in range(8)},
        categories={label: "even" if i % 2 == 0 else "odd" for i, label in enumerate(labels)},
    )


@pytest.fixture(scope="module")
def many_page(many):
    return report_html.page(many)


def in_all_forms(report):
    """The report in every form that has sentences; the page without its plots, which take long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_html, "figure", lambda *arguments: "")
        page = report_html.page(report)
    return {
        "text": report_text.text(report),
        "Markdown": report_text.markdown(report),
        "fragment": report_html.fragment(report),
        "page": page,
        "JSON": json.dumps(report_text.to_dict(report), allow_nan=False),
    }


# --- what would have been found ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_chosen", "sizes"), [(20, (20, 20)), (3, (10, 30)), (0, (50, 50)), (180, (90, 350))]
)
def test_detectable_gap_is_that_of_statsmodels(n_chosen, sizes):
    power = require("statsmodels.stats.power")
    effect = power.zt_ind_solve_power(nobs1=sizes[0], ratio=sizes[1] / sizes[0], alpha=0.05, power=0.8)
    share = (n_chosen + 2) / (sum(sizes) + 4)
    expected = effect * np.sqrt(share * (1 - share))
    assert report_content.detectable_gap(n_chosen, sizes) == pytest.approx(expected, rel=1e-4)


def test_a_gap_of_this_size_is_found_four_times_in_five():
    """Simulated, with the test of two proportions."""
    n = 60
    gap = report_content.detectable_gap(n, (n, n))
    rng = np.random.default_rng(0)
    a, b = rng.binomial(n, 0.5 + gap / 2, 40000), rng.binomial(n, 0.5 - gap / 2, 40000)
    pooled = (a + b) / (2 * n)
    z = (a - b) / n / np.sqrt(pooled * (1 - pooled) * 2 / n)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.05)


def test_detectable_gap_grows_with_tests_and_groups_and_ends_at_all():
    one = report_content.detectable_gap(20, (20, 20))
    assert report_content.detectable_gap(20, (20, 20), tests=5) > one
    assert report_content.detectable_gap(30, (20, 20, 20)) > one
    assert report_content.detectable_gap(20, (200, 200)) < one / 2
    assert report_content.detectable_gap(2, (2, 2)) is None
    # Three groups have three pairs, which is as three tests of two groups with the same share.
    three = report_content.detectable_gap(30, (20, 20, 20))
    share, pairs = 32 / 64, report_content.detectable_gap(20, (20, 20), tests=3)
    assert three == pytest.approx(pairs * np.sqrt(share * (1 - share) / (0.5 * 0.5)))


# --- what is said -----------------------------------------------------------------------------------------


def test_text_of_a_small_report(four_and_four):
    text = report_text.text(four_and_four)
    lines = text.splitlines()
    assert lines[0] == "Bias audit: nurse, doctor by gender"
    assert "Pictures  8: Female 4, Male 4" in lines
    # Three of four: Wilson's interval is (0.75 + z²/8 ± z sqrt(0.75 * 0.25 / 4 + z²/64)) / (1 + z²/4).
    assert any(re.match(r"nurse +Female +4 +3 +75.0 +\[30.1, 95.4\] +70.0 ", line) for line in lines)
    assert any(re.match(r" {8}Male +4 +1 +25.0 +\[4.6, 69.9\] +30.0 ", line) for line in lines)
    assert any(re.match(r"nurse +Female +Male +50.0 .* 0.33 +0.010 +0.010 .*\*$", line) for line in lines)
    # The summary comes before the tables.
    assert text.index("In short") < text.index("Share of the pictures")


def test_what_was_detected_and_what_was_not(four_and_four):
    found = report_content.summary_of(four_and_four)
    assert [finding.what for finding in found.detected] == ['"nurse" (and "doctor" the other way round)']
    assert "50.0 points, Female 75.0 %, Male 25.0 %" in found.detected[0].text
    assert not found.not_detected

    four_and_four.comparisons["p_holm"] = 0.0501
    found = report_content.summary_of(four_and_four)
    assert not found.detected
    # 2.8 * sqrt(0.25 (1/4 + 1/4)) = 0.99
    assert "p = 0.050" in found.not_detected[0].text
    assert "below about 99 points would probably have been missed" in found.not_detected[0].text


def test_the_confidence_decides_what_is_detected(four_and_four):
    four_and_four.comparisons["p_holm"] = 0.02
    assert report_content.summary_of(four_and_four).detected
    four_and_four.settings["confidence"] = 0.99
    assert not report_content.summary_of(four_and_four).detected
    assert "99 % interval" in report_text.text(four_and_four)


def test_no_report_says_that_there_is_no_bias(four_and_four):
    for name in ("p", "p_holm"):
        four_and_four.comparisons[name] = 1.0
    for form, text in in_all_forms(four_and_four).items():
        flat = " ".join(re.sub(r"<[^>]+>", " ", text).lower().split())
        for claim in ("no bias", "unbiased", "not biased", "is fair", "are treated alike"):
            assert claim not in flat, (form, claim)
        assert "does not mean that there is none" in flat, form
        assert "as labelled in the data set" in flat, form
    small = report_content.summary_of(four_and_four).cautions
    assert len(small) == 1 and small[0].startswith("Small groups (Female 4 and Male 4): look at how wide")


def test_categories_come_first_and_many_findings_are_cut(many):
    summary = report_content.summary_of(many)
    everything = summary.detected + summary.not_detected
    assert len(everything) == 11
    for findings in (summary.detected, summary.not_detected):
        is_category = ["category" in finding.what for finding in findings]
        assert is_category == sorted(is_category, reverse=True)
    text = report_text.text(many)
    assert text.count("would probably have been missed") <= report_text.SHOWN_FINDINGS
    assert "more: see the table of gaps" in text
    assert "more labels with smaller differences" in text
    assert max(map(columns, text.splitlines())) < 110
    # 28 pairs of groups with 8 pairs of labels each, of which the table shows some, and Markdown all.
    associations = report_text.markdown(many).partition("### Associations")[2]
    assert len(re.findall(r"^\| \**group \d", associations, re.MULTILINE)) == 28 * 8
    assert text.partition("Associations with two texts")[2].count(" label 0 ") == report_text.SHOWN_LABELS


def test_too_few_resamples_are_told(many):
    many = types.SimpleNamespace(**{**vars(many), "settings": {**many.settings, "resamples": 99}})
    # 11 rows of comparisons and 28 * 8 associations: 11 / 0.05 - 1 and 224 / 0.05 - 1.
    assert "With fewer than 219 resamples no gap can be" in report_text.text(many)
    many.associations = many.associations.assign(p_holm=1.0)
    assert "with fewer than 4479 resamples" in " ".join(report_text.text(many).split())
    many.settings["resamples"] = 9999
    assert "fewer than" not in report_text.text(many)


def test_tiny_comes_with_a_caution(four_and_four):
    assert "tiny is a small model" not in report_text.text(four_and_four)
    four_and_four.model_name = "tiny"
    for form, text in in_all_forms(four_and_four).items():
        assert "tiny is a small model" in text, form


def test_undefined_values_are_told_with_the_reason():
    """Nobody is a "doctor", so its ratio is 0 / 0; of one picture the mean has no interval."""
    report = made_up_report([sure(0)] * 5, ["nurse", "doctor"], ["a"] * 4 + ["b"])
    report.shares[["mean_low", "mean_high"]] = report.shares[["mean_low", "mean_high"]].astype("Float64")
    assert report.shares["mean_low"].isna().sum() == 2
    for form, text in in_all_forms(report).items():
        assert not re.search(r"\bnan\b|<NA>|&lt;NA&gt;", text, re.IGNORECASE), form
    text = report_text.text(report)
    assert "undefined" in text
    assert 'Ratio undefined for "doctor": no picture of any group has it.' in text
    assert "the mean of a single picture, or block, has no interval" in text
    assert "no gap (p = 1.000)" in text
    rows = report_text.to_dict(report)
    assert [row["ratio"] for row in rows["comparisons"]] == [1.0, None]
    alone = [row for row in rows["shares"] if row["group"] == "b"]
    assert [row["mean_low"] for row in alone] == [None, None]


def test_blocks_unreadable_pictures_and_notes_are_told(four_and_four):
    four_and_four.block_name, four_and_four.n_blocks = "scenario", 4
    four_and_four.block_of = np.repeat(["w", "x", "y", "z"], 2)
    four_and_four.unreadable = [("broken.jpg", "no image")]
    four_and_four.notes = ["A note."]
    text = report_text.text(four_and_four)
    assert "4 of scenario" in text
    assert "within the blocks of scenario" in text
    assert "Left out  1 picture that cannot be read" in text
    assert "! Left out because they cannot be read: broken.jpg." in text
    assert "! A note." in text
    document = report_text.to_dict(four_and_four)
    assert [image["block"] for image in document["images"]] == ["w", "w", "x", "x", "y", "y", "z", "z"]
    assert document["unreadable"] == [{"file": "broken.jpg", "reason": "no image"}]


# --- text -------------------------------------------------------------------------------------------------


def test_a_line_for_each_picture():
    report = made_up_report(
        [[0.6992, 0.3008], [0.25, 0.75]], ["Nurse", "Doctor"], ["여성", "M"],
        files=["사진.jpg", "images/b.jpg"],
    )
    lines = report_text.lines(report)
    assert lines == [
        "사진.jpg      여성  Top predictions: Nurse: 69.92% Doctor: 30.08%",
        "images/b.jpg  M     Top predictions: Doctor: 75.00% Nurse: 25.00%",
    ]
    assert str(lines) == "\n".join(lines)
    assert len({columns(line[: line.index("Top")]) for line in lines}) == 1


def test_columns_stand_below_each_other():
    report = drawn_report(
        ["간호사", "doctor"], {"여성": 12, "a longer group": 9}, {"여성": [1, 0], "a longer group": [0, 0]}
    )
    text = report_text.text(report)
    for title in ("Share of the pictures", "Gaps between groups", "Associations"):
        part = text[text.index(title) :].split("\n\n")[1].splitlines()
        table = [line for line in part if not line.startswith("  ")]
        header = re.findall(r"\S+(?: \S+)*", table[0])
        # Numbers end below the end of their column's name.
        ends = np.cumsum([columns(piece) for piece in re.split(r"(?<=\S)(?=  )", table[0])])
        for line in table[1:]:
            marked = line.removesuffix("*").rstrip()
            assert columns(marked) == ends[len(header) - 1], line


def test_text_cannot_move_the_cursor():
    report = made_up_report(
        [sure(0), sure(1)] * 2,
        ["a\x1b[31m\nb", "c"],
        ["x\ry", "z"] * 2,
        files=[f"a\x1b[2J\n{i}" for i in range(4)],
    )
    for text in (report_text.text(report), str(report_text.lines(report)), report_text.markdown(report)):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert len(str(report_text.lines(report)).splitlines()) == 4


def test_markdown_is_not_broken_by_a_label():
    report = made_up_report([sure(0), sure(1)] * 2, ["a|b *c* <i>", "d"], ["x", "y"] * 2)
    text = report_text.markdown(report)
    assert "<i>" not in text
    assert "a\\|b \\*c\\* \\<i\\>" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 6
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_dict_has_all_numbers(four_and_four):
    document = json.loads(json.dumps(report_text.to_dict(four_and_four), allow_nan=False))
    assert document["model"] == "ViT-B/32"
    assert document["groups"] == {"Female": 4, "Male": 4}
    shares = {(row["label"], row["group"]): row["share"] for row in document["shares"]}
    assert shares == {
        ("nurse", "Female"): 0.75, ("nurse", "Male"): 0.25,
        ("doctor", "Female"): 0.25, ("doctor", "Male"): 0.75,
    }  # fmt: skip
    for name in ("shares", "comparisons", "total_variation", "ranking", "associations"):
        assert len(document[name]) == len(getattr(four_and_four, name))
    gap = report_content.detectable_gap(4, (4, 4))
    assert document["comparisons"][0]["detectable_gap"] == pytest.approx(gap)
    first = document["images"][0]
    assert first["file"] == "images/000.jpg" and first["group"] == "Female" and first["block"] is None
    assert [entry["label"] for entry in first["predictions"]] == ["nurse", "doctor"]
    assert first["predictions"][0]["probability"] == pytest.approx(0.9)


# --- HTML -------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """What is in a page: elements, ids, what it refers to, and whether all elements are closed."""

    EMPTY = frozenset({"meta", "br", "hr"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.references, self.open, self.texts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)
        self._look_at(attributes)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self._look_at(attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def _look_at(self, attributes):
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "xlink:href", "src"):
                self.references.append(value)
            self.references += re.findall(r"url\(([^)]*)\)", value or "")


def test_page_stands_alone(four_and_four, many_page):
    for text in (report_html.page(four_and_four), many_page):
        page = Page(text)
        assert text.startswith("<!DOCTYPE html>") and '<meta charset="utf-8">' in text
        assert page.tags.count("svg") == 4
        assert not {"script", "img", "link", "iframe", "object"} & set(page.tags)
        # What refers to something refers to the page itself; points may be drawn as a picture within it.
        assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in page.references)
        assert len(page.ids) == len(set(page.ids))
        assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
        assert "@import" not in text and "prefers-color-scheme: dark" in text


def test_page_is_made_without_windows_and_always_the_same(four_and_four):
    from matplotlib import pyplot

    first = report_html.page(four_and_four)
    assert pyplot.get_fignums() == []
    assert report_html.page(four_and_four) == first


def test_page_holds_no_picture(four_and_four):
    assert "data:" not in report_html.page(four_and_four)


def test_page_tells_what_was_measured_and_how_to_read_it(four_and_four):
    text = " ".join(" ".join(Page(report_html.page(four_and_four)).texts).split())
    for part in (
        "ViT-B/32", '"nurse", "doctor"', '"a photo of a {}."', "8: Female 4, Male 4", "How to read this",
        "Limits", "seed 0", *(term for term, _ in report_content.HOW_TO_READ), *report_content.LIMITS,
    ):  # fmt: skip
        assert part in text, part
    for table in report_tables.tables_of(four_and_four):
        assert table.title in text
        for row in table.rows:
            assert all(cell in text for cell in row.cells)


def test_plots_take_the_colour_of_the_page(four_and_four):
    svg = report_html.figure(plots.plot_shares, four_and_four, "one")
    assert plots.INK not in svg and "currentColor" in svg
    assert "var(--colour0, #0072b2)" in svg
    # Letters are text, which can be searched and takes the browser's fonts.
    assert "Female  (n = 4)" in svg or "Female (n = 4)" in svg


def test_long_tables_are_folded_up(many_page):
    assert "<summary>All 88 rows</summary>" in many_page
    assert many_page.index("<h2>Gaps between groups</h2>") > many_page.index("<summary>All 88 rows</summary>")


EVIL = '<script>alert("1")</script>&<img src=x onerror=y>'


def test_texts_are_escaped():
    report = made_up_report(
        [sure(0), sure(1), sure(0), sure(0)],
        [EVIL, "</style></svg>doctor"],
        [f"{EVIL}1", f"{EVIL}2"] * 2,
        group_name=EVIL,
        files=[EVIL] * 4,
        unreadable=[(EVIL, EVIL)],
    )
    report.preset = types.SimpleNamespace(name=EVIL, note=EVIL)
    for text in (report_html.page(report), report_html.fragment(report)):
        assert not {"script", "img"} & set(Page(text).tags)
        assert "&lt;script&gt;" in text
    assert len(re.findall("</style>", report_html.page(report))) == 1 + 4  # matplotlib's own, one a figure


def test_fragment_leaves_the_notebook_alone(four_and_four, many):
    for report in (four_and_four, many):
        text = report_html.fragment(report)
        Page(text)
        style = text[text.index("<style>") + 7 : text.index("</style>")]
        for selectors in re.findall(r"([^{}]+)\{", style):
            assert all(selector.strip().startswith(".clipc-bias") for selector in selectors.split(","))
        assert len(text) < 100_000


# --- plots ------------------------------------------------------------------------------------------------


def points(ax):
    """The markers of a plot, from the top: (x, colour, filled)."""
    drawn = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    drawn.sort(key=lambda line: line.get_ydata()[0])
    return [
        (float(line.get_xdata()[0]), line.get_color(), line.get_markerfacecolor() == line.get_color())
        for line in drawn
    ]


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def dashed(ax):
    return sorted({float(line.get_xdata()[0]) for line in ax.lines if line.get_linestyle() == "--"})


def test_shares_are_drawn_where_they_are(four_and_four):
    ax = plots.plot_shares(four_and_four)
    assert [x for x, _, _ in points(ax)] == [0.75, 0.25, 0.25, 0.75]
    assert names(ax) == ["Female  (n = 4)", "Male  (n = 4)"] * 2
    assert dashed(ax) == [0.5]  # of all pictures
    solid = [line.get_xdata() for line in ax.lines if line.get_linestyle() == "-"]
    bars = sorted(tuple(ends) for ends in solid if len(ends) == 2)
    expected = four_and_four.shares[["low", "high"]].to_numpy()
    np.testing.assert_allclose(bars, sorted(map(tuple, expected)))
    female, male = (colour for _, colour, _ in points(ax)[:2])
    assert female != male and [colour for _, colour, _ in points(ax)[2:]] == [female, male]
    assert ax.get_xlim()[0] <= 0 and ax.get_xlim()[1] >= 1


def test_shares_axis_starts_at_zero_when_all_is_small():
    report = drawn_report(["a", "b"], {"x": 400, "y": 400}, {"x": [4, 0], "y": [4.5, 0]})
    low, high = plots.plot_shares(report, labels=["b"]).get_xlim()
    assert low < 0.001 and 0.09 < high < 0.12


def test_plots_choose_what_fits_and_draw_what_is_asked_for(many):
    ax = plots.plot_shares(many)
    assert len(names(ax)) == 3 * 8  # 28 rows at most
    assert {text.get_text() for text in ax.texts} >= {"[even]", "[odd]"}
    assert len({colour for _, colour, _ in points(ax)}) == 1  # more groups than colours
    ax = plots.plot_shares(many, labels="label 3")
    assert len(names(ax)) == 8
    with pytest.raises(ValueError, match=r"labels: expected some of label 0, .*; got 'label 99'"):
        plots.plot_shares(many, labels=["label 99"])


@pytest.mark.parametrize("plot", [plots.plot_shares, plots.plot_probabilities, plots.plot_ranking,
                                  plots.plot_associations])  # fmt: skip
def test_plots_draw_into_the_axes_they_are_given(plot, four_and_four):
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    figure, (left, right) = pyplot.subplots(1, 2)
    assert plot(four_and_four, ax=right) is right
    assert pyplot.get_fignums() == [figure.number]
    assert right.lines and not left.lines
    assert right.get_title(loc="left") and right.get_xlabel()
    assert dict(matplotlib.rcParams) == before


def test_probabilities_are_points_quartiles_and_the_median(four_and_four):
    ax = plots.plot_probabilities(four_and_four)
    clouds = [line.get_xdata() for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata()) > 1]
    np.testing.assert_allclose(np.sort(clouds[0]), [0.1, 0.9, 0.9, 0.9])
    np.testing.assert_allclose(np.sort(clouds[1]), [0.1, 0.1, 0.1, 0.9])
    np.testing.assert_allclose([x for x, _, _ in points(ax)], [0.9, 0.1])
    assert dashed(ax) == [0.5]  # chance of two labels
    assert names(ax) == ["Female  (n = 4)", "Male  (n = 4)"]


def test_ranking_is_lines_for_several_k_and_rows_for_one(four_and_four):
    ax = plots.plot_ranking(four_and_four)
    nurse = four_and_four.ranking[four_and_four.ranking["label"] == "nurse"]
    lines = [line for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(lines[0].get_xdata(), nurse["k"])
    np.testing.assert_allclose(lines[0].get_ydata(), nurse["max_skew"])
    assert any("nurse" in text.get_text() for text in ax.texts)
    assert list(ax.get_xticks()) == sorted(four_and_four.ranking["k"].unique())

    four_and_four.ranking = four_and_four.ranking[four_and_four.ranking["k"] == 2]
    ax = plots.plot_ranking(four_and_four)
    np.testing.assert_allclose([x for x, _, _ in points(ax)], four_and_four.ranking["max_skew"])
    assert names(ax) == ["nurse", "doctor"]
    assert "2 nearest of 8" in ax.get_title(loc="left")


def test_associations_are_filled_when_distinguishable(four_and_four):
    four_and_four.associations["p_holm"] = 0.2
    ax = plots.plot_associations(four_and_four)
    ((d, _, filled),) = points(ax)
    assert d == pytest.approx(four_and_four.associations["effect_size"].iloc[0])
    assert not filled
    four_and_four.associations["p_holm"] = 0.001
    assert points(plots.plot_associations(four_and_four))[0][2]


def test_of_many_associations_the_largest_are_drawn(many):
    ax = plots.plot_associations(many)
    largest = many.associations["effect_size"].abs().nlargest(plots.SHOWN_PAIRS)
    np.testing.assert_allclose(sorted(abs(d) for d, _, _ in points(ax)), sorted(largest))


def test_east_asian_labels_are_drawn_without_a_warning(recwarn):
    if len(plots._font_families()) < 2:
        pytest.skip("no font with East Asian characters is installed")
    report = made_up_report([sure(0), sure(1)] * 2, ["간호사", "의사"], ["여성", "남성"] * 2)
    plots.plot_shares(report).figure.canvas.draw()
    assert not [warning for warning in recwarn if "missing from" in str(warning.message)]


def test_a_long_label_leaves_room_for_the_plot():
    report = made_up_report([sure(0), sure(1)] * 2, ["long " * 40, "b"], ["group " * 30, "y"] * 2)
    ax = plots.plot_shares(report)
    ax.figure.canvas.draw()
    assert ax.get_position().width > 0.3
    assert names(ax)[0].endswith("…  (n = 2)")


def test_labels_are_not_taken_for_formulas():
    report = made_up_report([sure(0), sure(1)] * 2, ["$x^", "a$"], ["$", "_"] * 2)
    plots.plot_shares(report).figure.canvas.draw()


# --- with real reports ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features():
    """Features of 24 made-up pictures: half of them nearer to "cat" than to "dog"."""
    import clipc

    model = clipc.load("tiny")
    dog, cat = model.classifier(["dog", "cat"])
    noise = np.random.default_rng(0).normal(0, 0.02, (24, model.embed_dim))
    mixed = np.where(np.arange(24)[:, None] % 2, dog, cat)
    return model, (mixed + noise).astype(np.float32)


def test_a_real_report_in_all_forms(features):
    model, rows = features
    groups = ["x", "y"] * 6 + ["x"] * 6 + ["y"] * 6
    report = bias.audit(rows, ["dog", "cat"], groups, model=model, resamples=99)
    assert report.to_dict()["shares"] == report_text.records(report.shares)
    for form, text in in_all_forms(report).items():
        assert "dog" in text, form
    assert str(report) == report_text.text(report)
    counted = {(row.label, row.group): row.count for row in report.shares.itertuples()}
    for (label, group), number in counted.items():
        assert sum(line.split()[1] == group and f": {label}:" in line for line in report.lines()) == number
    for name in ("plot_shares", "plot_probabilities", "plot_ranking", "plot_associations"):
        assert getattr(report, name)().get_title(loc="left")
    assert len(names(report.plot_shares(labels=["cat"]))) == 2


def test_a_comparison_of_wordings_in_all_forms(features):
    model, rows = features
    report = bias.wording(
        rows,
        {"<b>plain": ["dog", "cat"], "with a word": ["a dog", "a cat"], "three": ["dog", "cat", "bus"]},
        ["x"] * 8 + ["y"] * 16,
        model=model,
        templates="{}",
        resamples=99,
    )
    text = report_text.wording_text(report)
    assert str(report) == text
    assert "<b>plain: largest gap" in text
    assert "Pictures that get another answer" in text
    assert "Between label sets, 0.0 % of the pictures" in text
    document = json.loads(json.dumps(report_text.wording_dict(report), allow_nan=False))
    assert len(document["gaps"]) == len(report.gaps) == 2 + 2 + 3
    assert "\\<b\\>plain" in report_text.wording_markdown(report)
    for page in (report_html.wording_page(report), report_html.wording_fragment(report)):
        parsed = Page(page)
        assert "img" not in parsed.tags
        assert "&lt;b&gt;plain" in page and "<b>plain" not in page

    assert report.to_dict() == report_text.wording_dict(report)
    assert report.to_html().startswith("<!DOCTYPE html>")
    assert len(points(report.plot(labels=["bus"]))) == 1

    ax = report.plot()
    # Of two labels the second has the rest, so a wording with two is one row.
    assert len(points(ax)) == 1 + 1 + 3
    first = report.gaps.iloc[0]
    assert points(ax)[0][0] == pytest.approx(first["difference"])
    assert names(ax)[0] == "dog | cat"
    assert len({colour for _, colour, _ in points(ax)}) == 3


def test_templates_of_two_labels_stand_below_them(features):
    model, rows = features
    sets = {"dog-cat": ["Dog", "Cat"], "animals": ["a dog", "a cat"]}
    report = bias.wording(rows, sets, ["x"] * 8 + ["y"] * 16, model=model, resamples=99)
    ax = report.plot()
    assert names(ax) == ["label alone", "a photo of a {}."] * 2
    headings = [text.get_text() for text in ax.texts if text.get_weight() == "bold"]
    assert headings == ["Dog | Cat", "animals: a dog | a cat"]
    np.testing.assert_allclose([x for x, _, _ in points(ax)], report.gaps["difference"][::2])
