"""Pictures of heat maps: exact pixels, figures and their parts, captions in any script, refusals."""

import os
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from availability import require
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encode, smooth_picture
from PIL import Image, ImageFont

from clipc import colormaps, drawing
from clipc.drawing import overlay
from clipc.errors import ClipcWarning
from clipc.heat_map import HeatMap

HEIGHT, WIDTH = 40, 60
PICTURE = smooth_picture(HEIGHT, WIDTH)
LEVELS = 511
NO_CAPTIONS = {"labels": None, "colorbar": False}


def ramp(height=HEIGHT, width=WIDTH, low=0):
    """A map of values from `low` to 1, all on levels of the colour tables, and these levels."""
    level = np.rint(np.linspace(0, LEVELS - 1, height * width)).reshape(height, width)
    return (low + (1 - low) * level / (LEVELS - 1)).astype(np.float32), level.astype(int)


def heat_map(values, texts, *, seen_box=(0, 0, WIDTH, HEIGHT), method="gradcam"):
    grid = np.zeros((*np.shape(values)[:-2], 2, 2), np.float32)
    return HeatMap(
        values, texts=texts, method=method, score="logit", layer="layer4", grid=grid, grid_box=seen_box,
        seen_box=seen_box,
    )  # fmt: skip


def array(*arguments, **options):
    return overlay(*arguments, as_array=True, **options)


def places(figure, panel):
    """Where a panel stands in a figure, exactly: (x, y), row by row."""
    height, width = panel.shape[:2]
    rows, columns = figure.shape[0] - height + 1, figure.shape[1] - width + 1
    here = np.ones((rows, columns), bool)
    for y, x in [(0, 0), (height - 1, width - 1), (height // 2, width // 2), (height - 1, 0)]:
        here &= (figure[y : y + rows, x : x + columns] == panel[y, x]).all(axis=2)
    found = [(int(x), int(y)) for y, x in np.argwhere(here)]
    return [(x, y) for x, y in found if np.array_equal(figure[y : y + height, x : x + width], panel)]


@pytest.fixture
def figure_parts(monkeypatch):
    """A function like `overlay` that returns the parts of the figure: panels, captions, bar."""

    def parts(*arguments, **options):
        kept = []
        with monkeypatch.context() as patch:
            patch.setattr(drawing, "_figure", lambda *parts: kept.append(parts) or PICTURE)
            overlay(*arguments, **options)
        return kept[0][:3]

    return parts


@pytest.fixture
def font_file(tmp_path):
    """Pillow's own font as a file: it has the letters of English and little else."""
    path = tmp_path / "font.ttf"
    font = ImageFont.load_default(20)
    path.write_bytes(font.font_bytes if hasattr(font, "font_bytes") else font.path.getvalue())
    return path


# ---- pixels ----


@pytest.mark.parametrize("fade", [True, False])
@pytest.mark.parametrize("low", [0, -1])
@pytest.mark.parametrize("opacity", [0.0, 0.3, 0.6, 1.0])
def test_blending(fade, low, opacity):
    values, level = ramp(low=low)
    name = "blue-red" if low else "heat"
    alpha = opacity * (np.minimum(np.abs(values.astype(float)) / 0.4, 1) if fade else 1)
    colour = colormaps.colour_table(name, LEVELS).astype(float)[level]
    expected = PICTURE + np.expand_dims(alpha * np.ones(values.shape), 2) * (colour - PICTURE)
    got = array(PICTURE, values, opacity=opacity, fade=fade)
    assert got.dtype == np.uint8 and got.shape == PICTURE.shape
    assert np.abs(got - expected).max() <= 0.501  # half a level, and float32
    assert np.array_equal(got, array(PICTURE, values, opacity=opacity, fade=fade, colormap=name))


def test_what_is_left_unchanged():
    values, _ = ramp()
    assert np.array_equal(array(PICTURE, values, opacity=0), PICTURE)
    assert np.array_equal(array(PICTURE, np.zeros((HEIGHT, WIDTH), np.float32), opacity=1), PICTURE)
    difference = np.zeros((HEIGHT, WIDTH), np.float32)
    difference[3, 4], difference[5, 6] = -1, 1
    got = array(PICTURE, difference, opacity=1)
    changed = (got != PICTURE).any(axis=2)
    assert np.argwhere(changed).tolist() == [[3, 4], [5, 6]]
    assert got[3, 4].tolist() == [0x08, 0x36, 0xB8] and got[5, 6].tolist() == [0xB8, 0x0D, 0x1C]


def test_full_opacity_shows_the_colours():
    values, level = ramp()
    for name in colormaps.names():
        got = array(PICTURE, values, opacity=1, fade=False, colormap=name)
        assert np.array_equal(got, np.rint(colormaps.colour_table(name, LEVELS))[level])


def test_inputs_are_not_written_to():
    picture, values = PICTURE.copy(), ramp()[0]
    before = values.copy()
    for options in ({}, {"original": True}, {"seen_box": (10, 10, 20, 20)}):
        array(picture, values, **options)[:] = 7
        assert np.array_equal(picture, PICTURE) and np.array_equal(values, before)


def test_blocks_of_rows_make_no_difference(monkeypatch):
    values, _ = ramp()
    whole = array(PICTURE, values)
    for pixels in (1, WIDTH, 7 * WIDTH + 3):
        monkeypatch.setattr(drawing, "_BLOCK_PIXELS", pixels)
        assert np.array_equal(array(PICTURE, values), whole)


def test_kinds_of_images_and_maps(tmp_path):
    values, _ = ramp()
    expected = array(PICTURE, values)
    path = tmp_path / "picture.png"
    path.write_bytes(encode(PICTURE, "PNG"))
    for image in (path, str(path), path.read_bytes(), Image.fromarray(PICTURE)):
        assert np.array_equal(array(image, values), expected)
    for maps in (values.astype(np.float64), values[None], [values], (values[None],), heat_map(values, ["a"])):
        assert np.array_equal(array(PICTURE, maps, labels=None), expected)
    picture = overlay(PICTURE, values)
    assert isinstance(picture, Image.Image) and picture.mode == "RGB" and picture.size == (WIDTH, HEIGHT)
    assert np.array_equal(np.asarray(picture), expected)
    grey = array(PICTURE[:, :, 0], values)
    assert np.array_equal(grey, array(np.dstack([PICTURE[:, :, 0]] * 3), values))


def test_rounding_beyond_the_range_is_accepted():
    values = np.array([[-1.000001, 0, 1.000002]], np.float32)
    picture = PICTURE[:1, :3]
    assert np.array_equal(array(picture, values), array(picture, values.clip(-1, 1)))


def test_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(PICTURE), "PNG", exif=exif)
    upright = np.rot90(PICTURE, -1)
    values, _ = ramp(WIDTH, HEIGHT)
    assert np.array_equal(array(data, values, exif=True), array(upright.copy(), values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClipcWarning)
        with pytest.raises(ValueError, match="same exif="):
            overlay(data, values)


def test_size():
    picture = smooth_picture(300, 450)
    values, _ = ramp(300, 450)
    got = array(picture, values, size=90)
    assert got.shape == (60, 90, 3)
    # A smooth map blended before or after shrinking looks the same.
    large = Image.fromarray(array(picture, values)).resize((90, 60), Image.Resampling.LANCZOS)
    assert np.abs(got.astype(int) - np.asarray(large)).mean() < 2
    assert np.array_equal(array(picture, values, size=450), array(picture, values))
    assert np.array_equal(array(picture, values, size=9000), array(picture, values))
    assert array(picture, values, size=1).shape == (1, 1, 3)


def test_figures_of_large_pictures_are_made_smaller():
    picture = np.zeros((4, 3000, 3), np.uint8)
    values = np.zeros((2, 4, 3000), np.float32)
    assert array(picture, values[0]).shape == picture.shape
    small = array(picture, values, columns=1, **NO_CAPTIONS)
    assert 1024 < small.shape[1] < 1200
    assert array(picture, values, columns=1, size=3000, **NO_CAPTIONS).shape[1] > 3000


# ---- what the model did not see ----


def unseen(picture):
    """Grey and dim, from the definition of luma."""
    return 40 + 0.45 * (picture @ [0.299, 0.587, 0.114])


@pytest.mark.parametrize("options", [{}, {"fade": False}, {"opacity": 0}, {"colormap": "jet"}])
def test_unseen_parts_are_grey(options):
    values, _ = ramp()
    seen = array(PICTURE, values, **options)
    got = array(PICTURE, values, seen_box=(10, 0, 50, 40), **options)
    assert np.array_equal(got[:, 10:50], seen[:, 10:50])
    assert (got[:, [9, 50]] == 230).all()  # the line around the box
    for part in (np.s_[:, :9], np.s_[:, 51:]):
        assert (got[part] == got[part][..., :1]).all()
        assert (
            np.abs(got[part][..., 0] - unseen(PICTURE[part])).max() <= 1
        )  # both luma and result are rounded


@pytest.mark.parametrize(
    "box, columns, rows",
    [
        ((9.5, 3.5, 20.5, 30.5), (9, 20), (3, 30)),
        ((9.6, 3.4, 20.6, 30.4), (10, 21), (3, 30)),
        ((-5, -7, 20, 99), (0, 20), (0, 40)),
        ((10, 5, 10.1, 5.1), (10, 11), (5, 6)),  # less than a pixel
        ((59.9, 39.9, 60, 40), (59, 60), (39, 40)),
    ],
)
def test_which_pixels_are_seen(box, columns, rows):
    """A pixel counts as seen when its centre does."""
    white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    got = array(white, np.zeros((HEIGHT, WIDTH), np.float32), seen_box=box)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[slice(*rows), slice(*columns)] = True
    assert np.array_equal((got == 255).all(axis=2), inside)


def test_the_whole_picture_seen():
    values, _ = ramp()
    for box in ((0, 0, WIDTH, HEIGHT), (-3, -3, 99, 99), (0.2, 0.2, WIDTH - 0.2, HEIGHT - 0.2)):
        assert np.array_equal(array(PICTURE, values, seen_box=box), array(PICTURE, values))


def test_seen_box_of_heat_maps():
    values, _ = ramp()
    box = (10, 0, 50, 40)
    cropped = heat_map(values, ["a"], seen_box=box)
    assert np.array_equal(array(PICTURE, cropped), array(PICTURE, values, seen_box=box))
    assert np.array_equal(array(PICTURE, cropped, seen_box=(0, 0, WIDTH, HEIGHT)), array(PICTURE, values))
    figure = array(PICTURE, [cropped, values], **NO_CAPTIONS)
    assert len(places(figure, array(PICTURE, cropped))) == 1
    assert len(places(figure, array(PICTURE, values))) == 1
    # The box is in pixels of the image, whatever the size of the panel.
    half = array(np.full((HEIGHT, WIDTH, 3), 255, np.uint8), cropped * 0, seen_box=box, size=WIDTH // 2)
    assert np.array_equal((half == 255).all(axis=(0, 2)), (np.arange(30) >= 5) & (np.arange(30) < 25))


# ---- figures ----


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    n=st.integers(1, 6),
    columns=st.none() | st.integers(1, 7),
    original=st.booleans(),
    labelled=st.booleans(),
    colorbar=st.booleans(),
)
def test_panels_stand_in_rows(height, width, n, columns, original, labelled, colorbar):
    rng = np.random.default_rng((height, width))
    picture = rng.integers(0, 250, (height, width, 3), dtype=np.uint8)  # no white, as the paper
    picture[0, 0] = picture[-1, -1] = 1, 2, 3  # nor colours of the text or the bar
    maps = np.zeros((n, height, width), np.float32)
    labels = [f"map {i}" for i in range(n)] if labelled else None
    figure = array(picture, maps, labels=labels, columns=columns, original=original, colorbar=colorbar)
    panels = n + original
    if panels == 1 and not labelled and not colorbar:
        assert np.array_equal(figure, picture)
        return
    found = places(figure, picture)
    assert len(found) == panels
    in_row = min(columns or {1: 1, 2: 2, 3: 3, 4: 4, 5: 3, 6: 3, 7: 4}[panels], panels)
    rows = sorted({y for _, y in found})
    assert [sum(y == row for _, y in found) for row in rows] == [
        min(in_row, panels - begin) for begin in range(0, panels, in_row)
    ]
    for row in rows:  # in the middle
        left, right = min(x for x, y in found if y == row), max(x for x, y in found if y == row) + width
        assert abs(left - (figure.shape[1] - right)) <= 2
    assert (figure[[0, -1]] == 255).all() and (figure[:, [0, -1]] == 255).all()


def test_original_comes_first():
    figure = array(PICTURE, np.ones((2, HEIGHT, WIDTH), np.float32), original=True, **NO_CAPTIONS)
    ((x, y),) = places(figure, PICTURE)
    drawn = places(figure, array(PICTURE, np.ones((HEIGHT, WIDTH), np.float32)))
    assert len(drawn) == 2 and all(there == y and x < beside for beside, there in drawn)


def test_captions_stand_above_their_panels():
    maps = np.zeros((2, HEIGHT, WIDTH), np.float32)
    blank = array(PICTURE, maps, labels=["", "x"])
    ink = array(PICTURE, maps, labels=["left", "x"])
    assert ink.shape == blank.shape
    (x, y), (beside, _) = places(ink, PICTURE)
    rows, columns = np.nonzero((ink != blank).any(axis=2))
    assert len(rows) > 20 and rows.max() < y
    assert columns.max() < (x + WIDTH + beside) / 2
    assert abs((columns.min() + columns.max()) / 2 - (x + WIDTH / 2)) < 4  # centred


def test_single_map_with_caption_or_bar():
    values, _ = ramp()
    plain = array(PICTURE, values)
    assert plain.shape == PICTURE.shape
    for options in ({"labels": ["a map"]}, {"labels": "a map"}, {"colorbar": True}):
        figure = array(PICTURE, values, **options)
        assert len(places(figure, plain)) == 1 and figure.size > plain.size
    assert np.array_equal(
        array(PICTURE, values, labels=["a map"]), array(PICTURE, values, labels="a map", colorbar=True)
    )
    assert np.array_equal(array(PICTURE, values, colorbar=False), plain)
    assert np.array_equal(array(PICTURE, heat_map(values, ["a map"])), plain)


@pytest.mark.parametrize("low", [0, -1])
def test_colour_bar(low):
    values, _ = ramp(low=low)
    figure = array(PICTURE, values, colorbar=True, fade=False)
    ((_, y),) = places(figure, array(PICTURE, values, fade=False))
    table = np.rint(colormaps.colour_table("blue-red" if low else "heat", LEVELS))
    row = figure[y + HEIGHT :]
    row = next(line for line in row if not np.isin(line, (255, 160)).all())  # below the rim of the bar
    (columns,) = np.nonzero(~np.isin(row, (255, 160)).all(axis=1))
    bar = row[columns].astype(int)
    assert len(bar) > 100
    assert np.abs(bar[0] - table[0]).max() < 12 and np.abs(bar[-1] - table[-1]).max() < 12
    assert np.abs(bar[len(bar) // 2] - table[LEVELS // 2]).max() < 12


def test_fading_colour_bar():
    """Where the overlay fades, so does the bar."""
    for signed, zero in ((False, 0), (True, -1)):
        alphas = drawing._alphas(True, signed)
        bar = drawing._Bar(colormaps.colour_table("jet", LEVELS), alphas, ("", "", ""), ("", ""))
        row = bar.pixels(LEVELS, 3)[1]
        assert row.shape == (LEVELS, 3)
        assert (row[LEVELS // 2 if zero else 0] == 255).all()
        assert np.array_equal(row[-1], [128, 0, 0])


# ---- which texts go where ----


def test_captions_of_heat_maps(figure_parts):
    values = np.stack([ramp()[0]] * 2)
    two = heat_map(values, ["a village", "a forest"])
    assert figure_parts(PICTURE, two)[1] == ["a village", "a forest"]
    assert figure_parts(PICTURE, two, original=True)[1] == ["original", "a village", "a forest"]
    assert figure_parts(PICTURE, two, labels=["1", "2"])[1] == ["1", "2"]
    assert figure_parts(PICTURE, two, labels=["1", "2"], original=True)[1] == ["original", "1", "2"]
    assert figure_parts(PICTURE, two, labels=["0", "1", "2"], original=True)[1] == ["0", "1", "2"]
    assert figure_parts(PICTURE, two, labels=None)[1] is None
    assert figure_parts(PICTURE, two[0], colorbar=True)[1] == ["a village"]
    assert figure_parts(PICTURE, [two[1], values[0]])[1] == ["a forest", ""]
    assert figure_parts(PICTURE, values)[1] is None
    assert figure_parts(PICTURE, values, original=True)[1] is None
    other = heat_map(values, two.texts, method="layercam")
    assert figure_parts(PICTURE, [two, other])[1] == [
        "a village (gradcam)", "a forest (gradcam)", "a village (layercam)", "a forest (layercam)",
    ]  # fmt: skip
    textless = heat_map(values[0], [], method="eigencam")
    assert figure_parts(PICTURE, [textless, two[0]])[1] == ["eigencam", "a village"]


def test_difference_maps_name_their_texts_at_the_bar(figure_parts):
    values, _ = ramp(low=-1)
    difference = heat_map(values, ["a village", "a forest"])
    _, captions, bar = figure_parts(PICTURE, difference, colorbar=True)
    assert captions is None
    assert bar.ends == ("a forest", "a village") and bar.ticks == ("-1", "0", "+1")
    other = heat_map(values, ["a dog", "a cat"])
    _, captions, bar = figure_parts(PICTURE, [difference, other])
    assert captions == ["a village (+) vs. a forest (-)", "a dog (+) vs. a cat (-)"]
    assert bar.ends == ("", "")
    _, _, bar = figure_parts(PICTURE, np.stack([values, values]))
    assert bar.ends == ("", "") and bar.ticks == ("-1", "0", "+1")
    _, _, bar = figure_parts(PICTURE, np.stack([np.abs(values)] * 2))
    assert bar.ends == ("", "") and bar.ticks == ("0 (low)", "", "1 (high)")


def test_a_difference_map_without_negative_values():
    """It is drawn as one nevertheless: 0 in the middle of the colours."""
    values, _ = ramp()
    difference = heat_map(values, ["a", "b"])
    assert np.array_equal(array(PICTURE, difference, fade=False, opacity=1)[0, 0], [0xF4, 0xF4, 0xF4])
    assert not np.array_equal(array(PICTURE, difference), array(PICTURE, values))


# ---- text ----


def writer(*texts, font=None, size=20):
    return drawing._Writer(texts, font, size, 20)


@settings(max_examples=80, deadline=None)
@given(text=st.text(st.characters(max_codepoint=0x7E), max_size=120), width=st.integers(30, 400))
def test_wrapped_lines_fit(text, width):
    tool = writer(text)
    lines = tool.wrap(text, width)
    assert len(lines) <= 3
    assert all(tool.length(line) <= width for line in lines)
    # Nothing is lost but what the last "…" stands for.
    shown, whole = "".join(lines).replace(" ", ""), "".join(drawing._clean(text).split())
    assert shown == whole or (shown.endswith("…") and whole.startswith(shown[:-1]))
    if tool.length(drawing._clean(text)) <= width:
        assert lines == ([drawing._clean(text)] if drawing._clean(text) else [])


def test_lines_break_at_words():
    tool = writer("the traditional Korean village")
    width = tool.length("traditional Korean") + 1
    assert tool.wrap("the traditional Korean village", width) == ["the traditional", "Korean village"]
    assert tool.wrap("  the\n\ttraditional\x00 ", width) == ["the traditional"]
    long = tool.wrap("word " * 500, width)
    assert len(long) == 3 and long[-1].endswith("…")


def test_marks_stay_with_their_letter():
    tool = writer("e\u0301")
    assert tool._longest_start("e\u0301e\u0301", 1) == 2
    assert tool._longest_start("a\u200db", 1) == 2


def test_very_long_captions():
    figure = array(PICTURE, ramp()[0], labels=["x" * 1_000_000])
    assert figure.shape[0] < 250 and figure.shape[1] < 400


def test_font_as_file_and_as_object(font_file):
    values, _ = ramp()
    builtin = array(PICTURE, values, labels="a map", font_size=20)
    by_name = array(PICTURE, values, labels="a map", font=str(font_file), font_size=20)
    for font, expected in (
        (ImageFont.load_default(33), builtin),
        (ImageFont.truetype(str(font_file), 20), by_name),
        (font_file, by_name),
    ):
        assert np.array_equal(array(PICTURE, values, labels="a map", font=font, font_size=20), expected)
    larger = array(PICTURE, values, labels="a map", font=ImageFont.load_default(40))
    assert np.array_equal(larger, array(PICTURE, values, labels="a map", font_size=40))
    assert larger.shape[0] > builtin.shape[0]


def test_font_size_grows_with_the_panels():
    sizes = [drawing._default_font_size(*shape) for shape in ((1, 1), (224, 224), (400, 600), (1024, 1024))]
    assert sizes == sorted(sizes) and sizes[0] >= 12 and sizes[-1] <= 40


def character_map(font_file):
    """The characters that a font file has, by its table "cmap": formats 4 and 12."""
    data = font_file.read_bytes()
    start = struct.unpack(">I", data[12:16])[0] if data[:4] == b"ttcf" else 0
    n_tables = struct.unpack_from(">H", data, start + 4)[0]
    tables = {}
    for i in range(n_tables):
        tag, _, offset, _ = struct.unpack_from(">4sIII", data, start + 12 + 16 * i)
        tables[tag] = offset
    cmap = tables[b"cmap"]
    characters = set()
    for i in range(struct.unpack_from(">H", data, cmap + 2)[0]):
        platform, encoding, offset = struct.unpack_from(">HHI", data, cmap + 4 + 8 * i)
        table = cmap + offset
        kind = struct.unpack_from(">H", data, table)[0]
        if (platform, encoding) not in ((0, 3), (0, 4), (3, 1), (3, 10)):
            continue
        if kind == 12:
            for j in range(struct.unpack_from(">I", data, table + 12)[0]):
                first, last, _ = struct.unpack_from(">III", data, table + 16 + 12 * j)
                characters.update(range(first, last + 1))
        elif kind == 4:
            n = struct.unpack_from(">H", data, table + 6)[0] // 2
            ends, starts, deltas, offsets = (
                struct.unpack_from(f">{n}H", data, table + 14 + 2 * n * k + 2 * (k > 0)) for k in range(4)
            )
            for j in range(n):
                for character in range(starts[j], ends[j] + 1):
                    glyph = character
                    if offsets[j]:
                        at = table + 16 + 6 * n + 2 * j + offsets[j] + 2 * (character - starts[j])
                        glyph = struct.unpack_from(">H", data, at)[0]
                        if glyph == 0:
                            continue
                    if (glyph + deltas[j]) % 65536:
                        characters.add(character)
    return characters


def test_which_characters_a_font_has(font_file):
    """Against the font's own table; on top of Pillow's font, with one that the system has, if it has one."""
    files = [font_file]
    for path in drawing._system_fonts()[0][:2]:
        files.append(type(font_file)(path))
    for file in files:
        face = drawing._Face.load(str(file), 20)
        known = character_map(file)
        for character in map(ord, "aZ0~éßñαЖ한옥漢あ😀🏯→…“ก\u0e33\u0301\ue000"):
            assert face.has(chr(character)) == (character in known), (file.name, hex(character))


def test_missing_glyphs_are_told(no_system_fonts, font_file):
    maps = np.zeros((2, HEIGHT, WIDTH), np.float32)
    for font in (None, font_file):
        with pytest.warns(ClipcWarning, match="font=") as caught:
            overlay(PICTURE, maps, labels=["한옥 마을", "마을 village"], font=font)
        assert len(caught) == 1
        message = str(caught[0].message)
        assert all(character in message for character in "한옥마을") and "village" not in message
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        overlay(PICTURE, maps, labels=["a\u200db \ufe0f\x07\u00a0c", "village… “quoted”"])


class FakeFace(drawing._Face):
    """A font that has some characters and draws each as a dark square."""

    scale = 1
    ascent, descent = 16, 4

    def __init__(self, characters):
        self.characters = characters
        self.written = []

    def has(self, character):
        return character in self.characters

    def length(self, text):
        return 20 * len(text)

    def write(self, canvas, text, x, baseline, ink):
        self.written.append(text)


def test_as_few_fonts_as_possible(no_system_fonts, monkeypatch):
    fonts = {
        "greek": FakeFace("αβγ"),
        "hangul": FakeFace("한옥"),
        "both": FakeFace("한옥αβ abcdefgilorvw01()+-."),
        "emoji": FakeFace("😀"),
        "broken": None,
    }
    opened = []
    monkeypatch.setattr(drawing._Face, "load", lambda path, size: opened.append(path) or fonts[path])
    monkeypatch.setattr(drawing, "_system_fonts", lambda: (("broken", "greek", "both", "hangul"), ("emoji",)))

    def faces(*texts):
        drawing._found_faces.cache_clear()
        opened.clear()
        return writer(*texts).faces

    (face,) = faces("village")
    assert isinstance(face.font, ImageFont.FreeTypeFont) and not opened  # Pillow's own
    assert faces("한옥 α") == [fonts["both"]] and opened == ["broken", "greek", "both"]
    assert faces("한γ옥") == [fonts["both"], fonts["greek"]]
    assert faces("αβ 한옥 😀") == [fonts["both"], fonts["emoji"]]
    tool = writer("한 α😀한")
    tool.write(None, "한 α😀한", 0, 0)
    assert fonts["both"].written == ["한 α", "한"] and fonts["emoji"].written == ["😀"]
    with pytest.warns(ClipcWarning, match="漢"):
        assert faces("한漢") == [fonts["both"]]


def test_fonts_of_bitmaps_are_scaled():
    large = drawing._Face(ImageFont.load_default(80))
    small = drawing._Face(ImageFont.load_default(80), scale=0.25)
    assert small.length("abc") == large.length("abc") / 4
    assert small.ascent < large.ascent / 3
    pictures = []
    for face, size in ((large, 400), (small, 100)):
        canvas = Image.new("RGB", (size, size // 2), (255, 255, 255))
        face.write(canvas, "abc", size // 10, size // 4, (34, 34, 34))
        pictures.append(np.asarray(canvas.resize((100, 50), Image.Resampling.BOX)).astype(int))
    assert np.ptp(pictures[0]) > 100
    assert np.abs(pictures[0] - pictures[1]).mean() < 3


# ---- colour maps ----


def lightness(colours):
    """CIE L* of sRGB colours, 0 to 255."""
    linear = colours / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


@pytest.mark.parametrize("name", ["heat", "viridis", "grey"])
def test_lightness_grows_with_the_value(name):
    light = lightness(colormaps.colour_table(name, 101))
    assert (np.diff(light) > 0).all() and light[-1] - light[0] > 60


@pytest.mark.parametrize("name", ["blue-red", "purple-green"])
def test_diverging_maps_are_lightest_in_the_middle(name):
    light = lightness(colormaps.colour_table(name, 101))
    assert (np.diff(light[:51]) > 0).all() and (np.diff(light[50:]) < 0).all()
    assert abs(light[0] - light[-1]) < 15


@pytest.mark.parametrize("name", colormaps.names())
def test_tables(name):
    table = colormaps.colour_table(name, 33)
    assert table.shape == (33, 3) and table.dtype == np.float32
    assert table.min() >= 0 and table.max() <= 255
    assert np.array_equal(colormaps.colour_table(name, 65)[::2], table)


def test_names_of_matplotlib():
    matplotlib = require("matplotlib")
    values, level = ramp()
    got = array(PICTURE, values, colormap="magma", opacity=1, fade=False)
    assert np.abs(got - 255 * matplotlib.colormaps["magma"](level / (LEVELS - 1))[..., :3]).max() <= 0.501
    for name in ("viridis", "jet"):  # ours of the same name have fewer or other corners
        theirs = 255 * matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]
        off = np.abs(colormaps.colour_table(name, 256) - theirs)
        assert off.max() < 40 and off.mean() < 7
    with pytest.raises(ValueError, match="got 'magmaa'; is 'magma'"):
        overlay(PICTURE, values, colormap="magmaa")


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert overlay(PICTURE, ramp()[0], colormap="jet").size == (WIDTH, HEIGHT)
    with pytest.raises(
        ValueError, match=r"heat, jet, viridis, .*pip install 'clipc\[analysis\]'.* got 'magma'"
    ):
        overlay(PICTURE, ramp()[0], colormap="magma")


# ---- refusals ----

GOOD = np.zeros((HEIGHT, WIDTH), np.float32)


@pytest.mark.parametrize(
    "maps, error, words",
    [
        (np.zeros((7, 7), np.float32), ValueError, r"maps: .* image, \(40, 60\), got \(7, 7\); .*raw=True"),
        (np.zeros((2, 7, 7), np.float32), ValueError, r"maps\[0\]: .*raw=True"),
        ([GOOD, np.zeros((41, 60), np.float32)], ValueError, r"maps\[1\]: .* got \(41, 60\); draw it on"),
        (GOOD.T, ValueError, "same exif="),
        (np.zeros(5, np.float32), ValueError, r"expected shape \(H, W\) or \(N, H, W\), got \(5,\)"),
        (np.zeros((1, 1, 40, 60), np.float32), ValueError, r"got \(1, 1, 40, 60\)"),
        (np.float32(1), ValueError, r"got \(\)"),
        ([], ValueError, "at least one map"),
        (GOOD[None][:0], ValueError, "at least one map"),
        (np.zeros((HEIGHT, WIDTH), np.uint8), TypeError, "floating dtype, .* got uint8; divide"),
        (np.zeros((HEIGHT, WIDTH), bool), TypeError, r"got bool; use map.astype"),
        (np.zeros((HEIGHT, WIDTH), np.int64), TypeError, "got int64"),
        (np.zeros((HEIGHT, WIDTH), complex), TypeError, "got complex128"),
        (None, TypeError, "maps: expected an array of numbers, got object"),
        (["a"], TypeError, r"maps\[0\]: expected an array of numbers"),
        (np.full((HEIGHT, WIDTH), np.nan, np.float32), ValueError, "NaN or infinity"),
        (np.where(np.arange(WIDTH) == 3, np.inf, GOOD), ValueError, "NaN or infinity"),
        ([GOOD, GOOD + 1.01], ValueError, r"maps\[1\]: expected values in \[0, 1\].* got 1.01 to 1.01"),
        (GOOD - 3, ValueError, r"in \[-1, 1\] for a difference map, got -3 to -3; .*raw=True"),
    ],
)  # fmt: skip
def test_wrong_maps(maps, error, words):
    with pytest.raises(error, match=words):
        overlay(PICTURE, maps)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"opacity": 1.5}, ValueError, "opacity: expected 0 to 1, got 1.5"),
        ({"opacity": float("nan")}, ValueError, "opacity: expected 0 to 1"),
        ({"opacity": "half"}, TypeError, "opacity: expected a number, got str"),
        ({"opacity": None}, TypeError, "opacity: expected a number, got NoneType"),
        ({"labels": ["a", "b"]}, ValueError, "labels: expected 1, one for each map, got 2"),
        ({"labels": []}, ValueError, "labels: expected 1"),
        ({"labels": ["a"] * 3, "original": True}, ValueError, "expected 1, one for each map, or 2 with"),
        ({"labels": [3]}, TypeError, r"labels\[0\]: expected a str, got int"),
        ({"labels": 3}, TypeError, "labels: expected 'auto', None or a list of str, got int"),
        ({"colormap": 3}, TypeError, "colormap: expected a name, such as 'heat', got int"),
        ({"colorbar": "yes"}, ValueError, "colorbar: expected 'auto', True or False, got 'yes'"),
        ({"columns": 0}, ValueError, "columns: expected at least 1, got 0"),
        ({"columns": 1.5}, TypeError, "columns: expected a whole number, got float"),
        ({"size": 0}, ValueError, "size: expected at least 1"),
        ({"size": "large"}, TypeError, "size: expected a whole number, got str"),
        ({"font_size": 0}, ValueError, "font_size: expected 1 to 1000, got 0"),
        ({"seen_box": (0, 0, 5)}, TypeError, "seen_box: expected four numbers"),
        ({"seen_box": 5}, TypeError, "seen_box: expected four numbers"),
        ({"seen_box": (5, 0, 5, 9)}, ValueError, "seen_box: .*the image of 60 x 40 pixels, got"),
        ({"seen_box": (60, 0, 70, 9)}, ValueError, "seen_box"),
        ({"seen_box": (float("-inf"), 0, 9, 9)}, ValueError, "seen_box"),
        ({"seen_box": (float("nan"), 0, 9, 9)}, ValueError, "seen_box"),
        ({"labels": "a", "font": 3}, TypeError, "font: expected the path .* got int"),
        ({"labels": "a", "font": ImageFont.ImageFont()}, TypeError, "font: .* got ImageFont"),
        (
            {"labels": "a", "font": "missing.ttf"},
            FileNotFoundError,
            "font: there is no such file.*missing.ttf",
        ),
        ({"labels": "a", "font": __file__}, OSError, "font: .*test_drawing.py.* expected a TrueType"),
    ],
)
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        overlay(PICTURE, GOOD, **options)


def test_several_images():
    for images in ([PICTURE], (PICTURE, PICTURE), np.zeros((1, 3, 8, 8), np.float32)):
        with pytest.raises(TypeError, match="one image, got several"):
            overlay(images, GOOD)


# ---- extremes ----


@pytest.mark.parametrize("height, width", [(1, 1), (10, 2000), (2000, 10), (1, 5000), (3, 2)])
def test_tiny_and_elongated(height, width):
    picture = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    maps = np.stack([np.zeros((height, width), np.float32), np.ones((height, width), np.float32)])
    assert array(picture, maps[0]).shape == picture.shape
    figure = array(picture, maps, labels=["a caption", "another one"], original=True, size=9000)
    assert len(places(figure, picture)) >= 2  # the original and the map of zeros
    assert figure.shape[1] > 3 * width + 200 or width > 1000
    assert max(array(picture, maps, labels=["", "a"]).shape) < 4000


def test_imported_when_used():
    program = (
        "import sys, clipc.drawing\n"
        "assert not {'PIL', 'matplotlib'} & set(sys.modules), 'imported at once'\n"
        "import numpy\n"
        "clipc.drawing.overlay(numpy.zeros((5, 5, 3), numpy.uint8), numpy.zeros((5, 5)))\n"
        "assert 'PIL' in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
