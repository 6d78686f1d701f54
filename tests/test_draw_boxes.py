"""Boxes drawn on pictures: exact pixels, captions and where they stand, colours, refusals."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encode, smooth_picture
from PIL import Image, ImageFont

from clipc import drawing
from clipc.detections import Detection, Detections, label_colour
from clipc.drawing import draw_boxes
from clipc.errors import ClipcWarning

HEIGHT, WIDTH = 120, 160
PICTURE = smooth_picture(HEIGHT, WIDTH)
ORANGE, BLUE, PINK = (label_colour(i) for i in range(3))
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
PLAIN = {"labels": False, "scores": False}


def array(*arguments, **options):
    return draw_boxes(*arguments, as_array=True, **options)


def a_box(box, label="dog", score=0.5):
    return Detection(label, score, box)


def found(*items, labels=("dog", "cat", "bird"), size=(WIDTH, HEIGHT)):
    return Detections(items, image_size=size, labels=labels, method="windows")


def outline(picture, place, line, rim, colour, ink):
    """The same pixel by pixel: how far each lies within the box decides."""
    left, top, right, bottom = place
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    # 0 for the outermost pixels of the box, negative outside.
    depth = np.minimum.reduce([x - left, right - 1 - x, y - top, bottom - 1 - y])
    result = picture.astype(float)
    rims = ((depth < 0) & (depth >= -rim)) | ((depth >= line) & (depth < line + rim))
    result[rims] = 0.45 * result[rims] + 0.55 * np.array(ink)
    result[(depth >= 0) & (depth < line)] = colour
    return result


def tags(monkeypatch, *arguments, **options):
    """[(text, (left, top, right, bottom))] of the captions that a call draws, the last drawn first."""
    drawn, places = [], []
    place, write = drawing._tag_place, drawing._Writer.write
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "_tag_place", lambda *a: places.append(place(*a)) or places[-1])
        patch.setattr(drawing._Writer, "write", lambda self, *a: drawn.append(a[1]) or write(self, *a))
        picture = array(*arguments, **options)
    return list(zip(drawn[::-1], [p for p in places if p])), picture


# ---- lines ----


@pytest.mark.parametrize("line", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((40, 30, 90, 80), (40, 30, 90, 80)),
        ((40.4, 30.4, 90.4, 80.4), (40, 30, 90, 80)),  # a pixel belongs to a box when its centre does
        ((40.6, 30.6, 90.6, 80.6), (41, 31, 91, 81)),
        ((0, 0, WIDTH, HEIGHT), (0, 0, WIDTH, HEIGHT)),
        ((-50, 30, 20, 900), (0, 30, 20, HEIGHT)),
        ((-50, -50, 500, 500), (0, 0, WIDTH, HEIGHT)),
        ((40, 30, 43, 35), (40, 30, 43, 35)),
        ((40, 30, 40, 30), (40, 30, 41, 31)),  # without an area: one pixel
        ((WIDTH - 0.1, HEIGHT - 0.1, 900, 900), (WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT)),
    ],
)
def test_lines(line, box, place):
    got = array(PICTURE, found(a_box(box)), width=line, **PLAIN)
    assert got.dtype == np.uint8 and got.shape == PICTURE.shape
    expected = outline(PICTURE, place, line, max(1, line // 3), ORANGE, BLACK)
    assert np.abs(got - expected).max() <= 0.501
    assert np.array_equal(got, array(PICTURE, [a_box(place)], width=line, **PLAIN))


@pytest.mark.parametrize(
    "box",
    [
        (-9, 5, 0, 9),
        (WIDTH, 5, 200, 9),
        (5, -9, 9, 0),
        (5, HEIGHT, 9, 200),
        (-9, -9, -5, -5),
        (900, 1, 901, 2),
    ],
)
def test_boxes_outside_of_the_picture(box):
    assert np.array_equal(array(PICTURE, found(a_box(box))), PICTURE)


def test_nothing_found():
    for nothing in (found(), [], ()):
        assert np.array_equal(array(PICTURE, nothing), PICTURE)


def test_rims_contrast_with_the_line():
    box = (40, 30, 90, 80)
    for colour, ink in (
        ("white", BLACK), ("yellow", BLACK), ("#e69f00", BLACK), ("black", WHITE), ("navy", WHITE),
        ("blue", WHITE), ("#0072b2", WHITE), ("#757575", WHITE), ("#767676", BLACK),
    ):  # fmt: skip
        ground = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
        got = array(ground, found(a_box(box)), colors=colour, width=1, **PLAIN)
        assert got[29, 40].tolist() == [round(45 + 0.55 * channel) for channel in ink], colour
        assert got[31, 41].tolist() == got[29, 40].tolist()


def test_highest_score_on_top():
    low, high = a_box((20, 20, 80, 80), "cat", 0.3), a_box((50, 50, 110, 110), "dog", 0.9)
    expected = array(array(PICTURE, [low], colors=BLUE, **PLAIN), [high], colors=ORANGE, **PLAIN)
    for order in ((low, high), (high, low)):
        assert np.array_equal(array(PICTURE, found(*order), **PLAIN), expected)
    equal = [a_box((20, 20, 80, 80), "cat"), a_box((50, 50, 110, 110))]
    last = array(array(PICTURE, equal[1:], colors=ORANGE, **PLAIN), equal[:1], colors=BLUE, **PLAIN)
    assert np.array_equal(array(PICTURE, found(*equal), **PLAIN), last)  # of equal ones, the first


def test_width_grows_with_the_picture_and_shrinks_with_the_box():
    def line(side, box):
        ground = np.full((side, side, 3), 100, np.uint8)
        got = array(ground, [a_box(box)], **PLAIN)
        return int((got[side // 2] == ORANGE).all(axis=1).sum()) // 2

    widths = [line(side, (0, 0, side, side)) for side in (32, 200, 640, 1200, 2400)]
    assert widths == sorted(widths) and widths[0] == 1 and 2 <= widths[2] <= 4 and 8 <= widths[-1] <= 14
    assert line(2400, (1190, 1190, 1214, 1214)) == 3


def test_inputs_are_not_written_to():
    picture, boxes = PICTURE.copy(), found(a_box((10, 10, 90, 90)))
    array(picture, boxes)[:] = 7
    array(picture, found())[:] = 7
    assert np.array_equal(picture, PICTURE) and boxes == found(a_box((10, 10, 90, 90)))


# ---- captions ----


def test_caption(monkeypatch):
    boxes = found(a_box((30, 40, 120, 110), "dog", 0.876))
    bare = array(PICTURE, boxes, **PLAIN)
    ((text, (left, top, right, bottom)),), got = tags(monkeypatch, PICTURE, boxes)
    assert text == "dog 0.88" and (left, bottom) == (30, 40) and bottom - top > 10 and right < 120
    changed = np.argwhere((got != bare).any(axis=2))
    assert changed.min(axis=0).tolist() == [top, left] and changed.max(axis=0).tolist() == [
        bottom - 1,
        right - 1,
    ]
    tag = got[top:bottom, left:right]
    assert (tag[0] == ORANGE).all() and (tag[:, 0] == ORANGE).all()
    # Black letters: colours between orange and black, and some that are quite black.
    assert (tag <= ORANGE).all() and (tag.max(axis=2) < 60).sum() > 10


def test_what_captions_say(monkeypatch):
    boxes = found(a_box((10, 60, 150, 110), "cat", 0.994), a_box((10, 20, 150, 50), "dog", 0.304))

    def texts(**options):
        return [text for text, _ in tags(monkeypatch, PICTURE, boxes, **options)[0]]

    assert texts() == ["cat 0.99", "dog 0.30"]
    assert texts(scores=False) == ["cat", "dog"] and texts(labels=False) == ["0.99", "0.30"]
    assert texts(labels={"dog": "hound", "fox": "x"}, scores=False) == ["cat", "hound"]
    assert texts(labels={}, scores=False) == ["cat", "dog"]
    assert texts(labels=False, scores=False) == []
    assert texts(labels={"dog": " ", "cat": "\n a\tb\x00"}, scores=False) == ["a b"]


@pytest.mark.parametrize(
    ("box", "where"),
    [
        ((40, 40, 140, 110), lambda tag, box: tag[3] == box[1] and tag[0] == box[0]),  # above
        ((40, 3, 140, 110), lambda tag, box: tag[1] == box[1] and tag[0] == box[0]),  # inside
        (
            (140, 40, 155, 110),
            lambda tag, box: tag[3] == box[1] and tag[2] == WIDTH,
        ),  # pushed into the picture
        ((40, 3, 60, 10), lambda tag, box: tag[1] == box[3]),  # below a small box
        ((0, 0, WIDTH, HEIGHT), lambda tag, box: tag[:2] == (0, 0)),
        ((20, 0, 25, HEIGHT), lambda tag, box: tag[0] == box[2]),  # beside
        ((-40, -30, 90, 80), lambda tag, box: tag[:2] == (0, 0)),
    ],
)
def test_places_of_captions(monkeypatch, box, where):
    ((_, tag),), _ = tags(monkeypatch, PICTURE, found(a_box(box)))
    assert where(tag, box), tag


def test_captions_make_room_for_each_other(monkeypatch):
    same = [a_box((30, 40, 120, 110), label, 0.9 - 0.1 * i) for i, label in enumerate(("dog", "cat", "bird"))]
    placed, _ = tags(monkeypatch, PICTURE, found(*same))
    assert [text for text, _ in placed] == ["dog 0.90", "cat 0.80", "bird 0.70"]
    alone, _ = tags(monkeypatch, PICTURE, found(same[0]))
    assert placed[0] == alone[0]  # the highest score has the first choice
    covered = np.zeros((HEIGHT, WIDTH), int)
    for _, (left, top, right, bottom) in placed:
        covered[top:bottom, left:right] += 1
    assert covered.max() == 1


def test_captions_without_room_are_left_out(monkeypatch):
    crowd = [a_box((60, 50, 80, 60), score=0.9 - 0.01 * i) for i in range(60)]
    placed, _ = tags(monkeypatch, PICTURE, found(*crowd))
    assert 3 <= len(placed) <= 12
    for text, (left, top, right, bottom) in placed:
        assert text.startswith("dog 0.") and 0 <= left < right <= WIDTH and 0 <= top < bottom <= HEIGHT
    # All boxes are drawn nevertheless, each rim over those beneath it.
    apart = [a_box((7 * i, 100, 7 * i + 5, 105), score=0.9 - 0.01 * i) for i in range(20)]
    got = array(PICTURE, found(*crowd, *apart))
    assert all((got[100, 7 * i] == ORANGE).all() for i in range(20))


def test_long_captions_are_shortened(monkeypatch):
    label = "a very long description of a dog"
    boxes = [a_box((10, 60, 50, 110), label)]
    ((text, (left, _, right, _)),), _ = tags(monkeypatch, PICTURE, boxes)
    assert text.startswith("a very") and text.endswith("… 0.50") and len(text) < len(label)
    assert 0 <= left < right <= WIDTH
    ((text, _),), _ = tags(monkeypatch, PICTURE, boxes, scores=False)
    assert text.startswith("a very") and text.endswith("…")
    ((text, _),), _ = tags(monkeypatch, PICTURE[:, :38].copy(), [a_box((1, 60, 20, 110), label)])
    assert text == "0.50"
    for extreme in ("x" * 100_000, "word " * 20_000):
        assert array(PICTURE, [a_box((10, 60, 50, 110), extreme)]).shape == PICTURE.shape


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (3, 2), (12, 200), (200, 12), (1, 5000), (5000, 1), (20, 20)]
)
def test_tiny_and_elongated(height, width):
    picture = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    boxes = [a_box((0, 0, width, height)), a_box((width / 2, height / 2, width, height), "cat")]
    assert array(picture, boxes).shape == picture.shape
    assert array(picture, boxes, width=50, font_size=50).shape == picture.shape
    if min(height, width) < 15:
        assert np.array_equal(array(picture, boxes), array(picture, boxes, **PLAIN))  # no room for words


def test_large_picture():
    picture = np.zeros((4000, 6000, 3), np.uint8)
    boxes = found(a_box((2000, 1000, 5000, 3000)), size=(6000, 4000))
    got = array(picture, boxes)
    assert got.shape == picture.shape
    rows, columns = np.nonzero(got.any(axis=2))
    assert columns.max() - columns.min() < 3100 and rows.max() < 3020
    assert 800 < rows.min() < 1000 - 80  # captions are large enough to be read when all of it is on a screen


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    corners=st.lists(st.tuples(*[st.floats(-60, 150)] * 4), max_size=6),
    options=st.fixed_dictionaries({"labels": st.booleans(), "scores": st.booleans()}),
    width=st.none() | st.integers(1, 9),
    font_size=st.none() | st.integers(1, 30),
)
def test_any_boxes(shape, corners, options, width, font_size):
    picture = np.full((*shape, 3), 77, np.uint8)
    boxes = [
        a_box((min(x, u), min(y, v), max(x, u), max(y, v)), label, i / 7)
        for (i, (x, y, u, v)), label in zip(enumerate(corners), "abcdef")
    ]
    got = array(picture, boxes, width=width, font_size=font_size, **options)
    assert got.shape == picture.shape
    inside = [box for box in boxes if box.box[2] > 0 and box.box[3] > 0
              and box.box[0] < shape[1] and box.box[1] < shape[0]]  # fmt: skip
    assert (got != picture).any() == bool(inside)
    if boxes and not (options["labels"] or options["scores"]):
        near = np.zeros(shape, bool)
        reach = 1 + max(1, (width or 1) // 3)
        for x0, y0, x1, y1 in (box.box for box in inside):
            y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
            near |= (x > x0 - reach) & (x < x1 + reach) & (y > y0 - reach) & (y < y1 + reach)
        assert (got[~near] == 77).all()


# ---- fonts ----


def test_fonts(tmp_path):
    boxes = found(a_box((10, 60, 150, 110)))
    font = ImageFont.load_default(20)
    path = tmp_path / "font.ttf"
    path.write_bytes(font.font_bytes if hasattr(font, "font_bytes") else font.path.getvalue())
    builtin = array(PICTURE, boxes, font_size=20)
    assert np.array_equal(array(PICTURE, boxes, font=font), builtin)
    by_name = array(PICTURE, boxes, font=str(path), font_size=20)
    assert np.array_equal(array(PICTURE, boxes, font=path, font_size=20), by_name)
    assert not np.array_equal(array(PICTURE, boxes, font_size=30), builtin)
    assert np.array_equal(array(PICTURE, boxes, font=font, font_size=30), array(PICTURE, boxes, font_size=30))


def test_other_scripts(monkeypatch):
    if not any(drawing._system_fonts()):
        pytest.skip("no fonts are installed")
    boxes = found(a_box((10, 60, 150, 110)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClipcWarning)  # the fonts may lack Hangul
        placed, got = tags(monkeypatch, PICTURE, boxes, labels={"dog": "강아지"})
    assert placed[0][0] == "강아지 0.50"
    assert not np.array_equal(got, array(PICTURE, boxes))


def test_missing_glyphs_are_told_once(no_system_fonts):
    boxes = found(a_box((10, 60, 150, 110)), a_box((10, 10, 150, 50), "cat"))
    with pytest.warns(ClipcWarning, match="아.*font=") as caught:
        draw_boxes(PICTURE, boxes, labels={"dog": "강아지", "cat": "아기"})
    assert len(caught) == 1 and caught[0].filename == __file__


def test_fonts_are_not_loaded_without_captions(monkeypatch):
    monkeypatch.setattr(drawing, "_Writer", lambda *a: pytest.fail("a font is loaded"))
    array(PICTURE, found(a_box((10, 60, 150, 110))), **PLAIN)
    array(PICTURE, found(), font="missing.ttf")


# ---- colours ----


def colours_of(detections, **options):
    """The colour of the line of each, read off the picture at the upper left corner."""
    got = array(PICTURE, detections, width=2, **PLAIN, **options)
    corners = [(int(item.box[1]), int(item.box[0])) for item in detections]
    return [tuple(got[corner].tolist()) for corner in corners]


def test_each_label_has_its_colour():
    dog, cat, bird = (a_box((10 + 40 * i, 20, 40 + 40 * i, 60), label, 0.9 - 0.1 * i)
                      for i, label in enumerate(("dog", "cat", "bird")))  # fmt: skip
    boxes = found(dog, cat, bird)
    assert colours_of(boxes) == [ORANGE, BLUE, PINK]
    # Of the labels that were looked for, whichever are found.
    assert colours_of(boxes[1:]) == [BLUE, PINK] and colours_of(boxes.of("bird")) == [PINK]
    assert colours_of(found(dog, bird, labels=("bird", "dog"))) == [BLUE, ORANGE]
    # In a plain list, in the order in which they come.
    assert colours_of([bird, dog]) == [ORANGE, BLUE]
    assert colours_of((dog, cat)) == [ORANGE, BLUE]


@pytest.mark.parametrize(
    ("colors", "expected"),
    [
        ("red", [(255, 0, 0)] * 3),
        ("#0af", [(0, 170, 255)] * 3),
        ((1, 2, 3), [(1, 2, 3)] * 3),
        ([1, 2, np.uint8(3)], [(1, 2, 3)] * 3),
        (["red", (1, 2, 3), "lime"], [(255, 0, 0), (1, 2, 3), (0, 255, 0)]),
        ((("red"), "lime"), [(255, 0, 0), (0, 255, 0), (255, 0, 0)]),
        ({"cat": "red", "fox": "lime"}, [ORANGE, (255, 0, 0), PINK]),
        ({}, [ORANGE, BLUE, PINK]),
        (None, [ORANGE, BLUE, PINK]),
    ],
)
def test_colours_of_the_caller(colors, expected):
    boxes = found(*(a_box((10 + 40 * i, 20, 40 + 40 * i, 60), label)
                    for i, label in enumerate(("dog", "cat", "bird"))))  # fmt: skip
    assert colours_of(boxes, colors=colors) == expected


# ---- size, orientation, kinds ----


def test_size(monkeypatch):
    boxes = found(a_box((40, 30, 120, 90)))
    got = array(PICTURE, boxes, size=80)
    assert got.shape == (60, 80, 3)
    small = np.asarray(Image.fromarray(PICTURE).resize((80, 60), Image.Resampling.LANCZOS))
    assert np.array_equal(got, array(small, [a_box((20, 15, 60, 45))]))
    assert np.array_equal(array(PICTURE, boxes, size=9000), array(PICTURE, boxes))
    assert array(PICTURE, boxes, size=1).shape == (1, 1, 3)


def test_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(PICTURE), "PNG", exif=exif)
    upright = np.ascontiguousarray(np.rot90(PICTURE, -1))
    boxes = found(a_box((10, 20, 100, 140)), size=(HEIGHT, WIDTH))
    assert np.array_equal(array(data, boxes, exif=True), array(upright, boxes))
    with pytest.raises(
        ValueError, match="in an image of 120 x 160 pixels, got one of 160 x 120; .* same exif="
    ):
        draw_boxes(PICTURE, boxes)


def test_kinds_of_images(tmp_path):
    boxes = found(a_box((10, 20, 100, 110)))
    expected = array(PICTURE, boxes)
    path = tmp_path / "picture.png"
    path.write_bytes(encode(PICTURE, "PNG"))
    for image in (path, str(path), path.read_bytes(), Image.fromarray(PICTURE)):
        assert np.array_equal(array(image, boxes), expected)
    picture = draw_boxes(PICTURE, boxes)
    assert isinstance(picture, Image.Image) and picture.mode == "RGB" and picture.size == (WIDTH, HEIGHT)
    assert np.array_equal(np.asarray(picture), expected)
    grey = array(PICTURE[:, :, 0], boxes)
    assert np.array_equal(grey, array(np.dstack([PICTURE[:, :, 0]] * 3), boxes))
    assert np.array_equal(array(PICTURE, (item for item in boxes)), expected)


# ---- refusals ----


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"labels": "dog"}, TypeError, "labels: expected True, False or a dict from label to str, got str"),
        ({"labels": {"dog": 3}}, TypeError, r"labels\['dog'\]: expected a str, got int"),
        ({"width": 0}, ValueError, "width: expected at least 1, got 0"),
        ({"width": 1.5}, TypeError, "width: expected a whole number, got float"),
        ({"size": 0}, ValueError, "size: expected at least 1"),
        ({"font_size": 0}, ValueError, "font_size: expected 1 to 1000, got 0"),
        ({"font": 3}, TypeError, "font: expected the path .* got int"),
        ({"font": "missing.ttf"}, FileNotFoundError, "font: there is no such file.*missing.ttf"),
        ({"font": __file__}, OSError, "font: .*test_draw_boxes.py.* expected a TrueType"),
        ({"colors": "mud"}, ValueError, "colors: expected the name of a colour or '#rrggbb', got 'mud'"),
        ({"colors": 3}, TypeError, "colors: expected a colour, or a list or dict of colours, got int"),
        ({"colors": []}, ValueError, "colors: expected at least one, got none"),
        ({"colors": (1, 2)}, ValueError, r"colors: expected three numbers from 0 to 255, got \(1, 2\)"),
        ({"colors": (1, 2, 256)}, ValueError, "colors: expected three numbers from 0 to 255"),
        ({"colors": ["red", 3.5]}, TypeError, r"colors\[1\]: expected a str or three whole numbers, got 3.5"),
        ({"colors": {"dog": (0.5, 0, 0)}}, TypeError, r"colors\['dog'\]: expected a str or three whole"),
    ],
)
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        draw_boxes(PICTURE, found(a_box((10, 20, 100, 110))), **options)


def test_wrong_detections():
    with pytest.raises(
        TypeError, match="detections: expected clipc.Detections or a list of Detection, got int"
    ):
        draw_boxes(PICTURE, 3)
    with pytest.raises(TypeError, match=r"detections\[0\]: expected a clipc.Detection, got tuple"):
        draw_boxes(PICTURE, [(1, 2, 3, 4)])
    with pytest.raises(ValueError, match="an image of 7 x 9 pixels, got one of 160 x 120; draw them on the"):
        draw_boxes(PICTURE, found(size=(7, 9)))
    with pytest.raises(TypeError, match="one image, got several; call it for each"):
        draw_boxes([PICTURE], [found()])


def test_imported_when_used():
    program = (
        "import sys, clipc.drawing\n"
        "assert 'PIL' not in sys.modules, 'imported at once'\n"
        "import numpy\n"
        "from clipc.detections import Detection\n"
        "box = Detection('a', 1, (9, 20, 40, 40))\n"
        "clipc.drawing.draw_boxes(numpy.zeros((50, 50, 3), numpy.uint8), [box])\n"
        "assert 'PIL' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
