"""`clipc detect`: what it asks of the library, what it prints and writes of the answer; wrong calls.

How well objects are found is tested elsewhere; here a detector stands in that answers at once.
"""

import csv
import functools
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from availability import require
from click.testing import CliRunner
from command_line import files_in, picture, read_terminal, run, run_process, terminal
from PIL import Image

import clipc
from clipc import cli, drawing
from clipc.detections import Detection, Detections
from clipc.drawing import draw_boxes

LOAD = functools.cache(clipc.load)
LABELS = ["dog", "cat", "a cup of coffee"]
IN_FOLDER = ["pictures/C.PNG", "pictures/a.jpg", "pictures/b.png"]


class Detector:
    """Stands in for `clipc.Model.detect`: finds each label once, and remembers what it was asked."""

    def __init__(self):
        self.calls = []
        self.pixels = []

    def __call__(self, image, labels, *, method, **options):
        self.calls.append({"labels": labels, "method": method, **options})
        self.pixels.append(image)
        return self.found(image, labels, method)

    @staticmethod
    def found(image, labels, method="auto"):
        """What depends on the picture: boxes by its size, scores by its colours."""
        height, width = image.shape[:2]
        score = round(float(image.mean()) / 256, 3)
        items = [
            Detection(label, score / (i + 1), (width / 8 * i, -3.5, width / 8 * i + width / 2, height * 0.75))
            for i, label in enumerate(labels) if label != "nothing"
        ]  # fmt: skip
        used = "windows" if method == "auto" else method
        return Detections(items, image_size=(width, height), labels=labels, method=used)


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    monkeypatch.setattr(clipc, "load", LOAD)
    stand_in = Detector()
    monkeypatch.setattr(clipc.Model, "detect", lambda self, *a, **o: stand_in(*a, **o), raising=False)
    return stand_in


@pytest.fixture
def detecting_process(folder):
    """A function like `run_process` whose process has the stand-in, too."""
    script = (
        "import sys, clipc, test_cli_detect\n"
        "from clipc import cli\n"
        "stand_in = test_cli_detect.Detector()\n"
        "clipc.Model.detect = lambda self, *a, **o: stand_in(*a, **o)\n"
        "cli.main(sys.argv[1:])\n"
    )
    tests = os.path.dirname(os.path.abspath(__file__))

    def command(*arguments):
        return [sys.executable, "-c", script, "detect", *map(str, arguments)]

    def call(*arguments, code=0, **options):
        path = os.pathsep.join([tests, os.environ["PYTHONPATH"]])
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        result = subprocess.run(
            command(*arguments), env={**os.environ, "PYTHONPATH": path}, timeout=60, **options
        )
        assert result.returncode == code, (result.stdout, result.stderr)
        return result

    return call


def pixels_of(path):
    with Image.open(path) as image:
        return np.array(image)


def answer(path, labels=LABELS):
    return Detector.found(np.array(Image.open(path).convert("RGB")), labels)


# --- what it prints ----------------------------------------------------------------------------------


def test_one_image_prints_the_table(folder):
    result = run("detect", "pictures/b.png", *LABELS)
    assert result.stdout == f"{answer('pictures/b.png')}\n"
    assert result.stdout.startswith("3 detections\nlabel            score    x0    y0    x1    y1\ndog  ")
    assert result.stderr == "" and files_in(folder) == ["pictures"]
    assert run("detect", "pictures/b.png", "nothing").stdout == "no detections\n"


def test_long_tables_are_not_cut(folder):
    labels = [f"label {i}" for i in range(60)]
    assert len(run("detect", "pictures/b.png", *labels).stdout.splitlines()) == 62


def test_several_images_print_a_line_for_each_detection(folder):
    result = run("detect", "pictures/b.png", *LABELS, "--image", "pictures/a.jpg")
    lines = iter(result.stdout.splitlines())
    for name in ("pictures/b.png", "pictures/a.jpg"):
        for item in answer(name):
            expected = f"{name} {item.label} {item.score:.3f} " + " ".join(f"{side:.1f}" for side in item.box)
            line = next(lines)
            assert line.split() == expected.split()
    assert next(lines, None) is None
    starts = {line.index("0.") for line in result.stdout.splitlines()}
    assert len(starts) == 1 and len({len(line) for line in result.stdout.splitlines()}) == 1
    result = run("detect", "pictures", "nothing")
    assert result.stdout.splitlines() == [f"{name:14}  no detections" for name in IN_FOLDER]


@pytest.mark.parametrize("option", [[], ["--recursive"]])
def test_folders_and_patterns(folder, option):
    lines = run("detect", "pictures", "dog", *option).stdout.splitlines()
    assert [line.split()[0] for line in lines] == IN_FOLDER + ["pictures/more/d.png"] * bool(option)
    # One file behind a pattern still prints its path: the form depends on the call, not on what there is.
    assert run("detect", "pictures/b*", "dog").stdout.startswith("pictures/b.png  dog  ")


def test_standard_input(folder):
    data = Path("pictures/b.png").read_bytes()
    assert run("detect", "-", *LABELS, input=data).stdout == f"{answer('pictures/b.png')}\n"
    run("detect", "-", "dog", "-o", "found/", input=data)
    assert files_in(folder / "found") == ["standard-input.png"]


def test_json(folder):
    result = run("detect", "pictures/b.png", "dog", "nothing", "-i", "pictures/a.jpg", "--json", "-q",
                 "-t", "a {}.", "--background", "grass", "-o", "found.json")  # fmt: skip
    document = json.loads(result.stdout)
    assert result.stdout == Path("found.json").read_text()
    assert len(result.stdout.splitlines()) == 19  # a line for each image, detection, label
    annotations = document.pop("annotations")
    assert document == {
        "model": "tiny", "method": "windows", "templates": ["a {}."], "background": ["grass"],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "nothing"}],
        "images": [{"id": 1, "path": "pictures/b.png", "width": 96, "height": 72},
                   {"id": 2, "path": "pictures/a.jpg", "width": 96, "height": 72}],
        "skipped": [],
    }  # fmt: skip
    assert annotations == [
        {"id": i, "image_id": i, "category_id": 1, "label": "dog", "bbox": [0, -3.5, 48, 57.5],
         "score": answer(name, ["dog"])[0].score}
        for i, name in enumerate(["pictures/b.png", "pictures/a.jpg"], 1)
    ]  # fmt: skip
    alone = json.loads(run("detect", "pictures/b.png", "nothing", "--json").stdout)
    assert alone["annotations"] == [] and alone["background"] is None and alone["templates"] == ["{}"]
    assert alone.keys() == {**document, "annotations": []}.keys()


def test_json_is_read_by_pycocotools(folder):
    coco = require("pycocotools.coco")
    run("detect", "pictures", *LABELS, "-o", "found.json")
    document = coco.COCO("found.json")
    assert document.getImgIds() == [1, 2, 3] and len(document.getAnnIds(imgIds=[2])) == 3
    assert [entry["name"] for entry in document.loadCats([1, 2, 3])] == LABELS


def test_csv(folder):
    picture(5).save("pictures/a, b.png")
    run("detect", "pictures", "dog", 'a "big" cat', "-o", "found.csv")
    with open("found.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "label", "score", "x0", "y0", "x1", "y1"] and len(rows) == 8
    for i, name in enumerate(["pictures/C.PNG", "pictures/a, b.png", "pictures/a.jpg", "pictures/b.png"]):
        for row, item in zip(rows[2 * i : 2 * i + 2], answer(name, ["dog", 'a "big" cat'])):
            assert row["image"] == name and row["label"] == item.label
            assert float(row["score"]) == pytest.approx(item.score, rel=1e-5)
            assert [float(row[side]) for side in ("x0", "y0", "x1", "y1")] == pytest.approx(
                item.box, abs=0.006
            )
    run("detect", "pictures", "nothing", "-o", "none.csv")
    assert Path("none.csv").read_text() == "image,label,score,x0,y0,x1,y1\n"


def test_file_names_that_are_no_text(folder):
    name = os.fsdecode(b"pictures/\xff.png")
    picture(5).save(name)
    run("detect", "pictures/*.png", "dog", "-o", "found.json", "-o", "found.csv", "-o", "found")
    paths = [entry["path"] for entry in json.loads(Path("found.json").read_bytes())["images"]]
    assert name in paths and len(paths) == 2
    assert b"pictures/\xff.png,dog," in Path("found.csv").read_bytes()
    assert os.path.exists(os.fsdecode(b"found/\xff.png"))


# --- what it asks of the library ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--method", "dense"], {"method": "dense"}),
        (["--threshold", "0.25"], {"threshold": 0.25}),
        (["--threshold", "0"], {"threshold": 0}),
        (["--nms", "0.3"], {"nms": 0.3}),
        (["--nms", "soft"], {"nms": "soft"}),
        (["--nms", "none"], {"nms": None}),
        (["--clip"], {"clip": True}),
        (["-t", "a {}.", "--template", "the {}."], {"templates": ("a {}.", "the {}.")}),
        (["--background", "sky", "--background", "a wall"], {"background": ["sky", "a wall"]}),
        (["--max-detections", "7"], {"max_detections": 7}),
        (["--image-size", "448"], {"image_size": 448}),
        (["--batch-size", "16"], {"batch_size": 16}),
    ],
)
def test_options(folder, detector, arguments, options):
    """What is not asked for is left to the library."""
    run("detect", "pictures/b.png", "dog", "cat", *arguments)
    expected = {"labels": ["dog", "cat"], "method": "auto", "clip": False, "progress": False, **options}
    assert detector.calls == [expected]
    assert np.array_equal(detector.pixels[0], pixels_of("pictures/b.png"))


def test_methods_and_arguments_are_those_of_the_library():
    """Against the real thing, which the stand-in does not check."""
    detection = require("clipc.detection")
    assert cli.detect.METHODS == tuple(detection.METHODS)


def test_labels_from_a_file(folder, detector):
    Path("labels.txt").write_text("cat\n\n bird \n")
    run("detect", "pictures/b.png", "dog", "--labels-file", "labels.txt")
    run("detect", "pictures/b.png", "-l", "-", input=b"fox\n")
    assert [call["labels"] for call in detector.calls] == [["dog", "cat", "bird"], ["fox"]]


def test_exif_and_threads(folder, detector, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.open("pictures/b.png").convert("RGB")
    upright.transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
    monkeypatch.setattr(clipc, "set_num_threads", (asked := []).append)
    run("detect", "turned.png", "dog", "--exif", "--threads", 1, "-o", "found.png")
    assert asked == [1] and "exif" not in detector.calls[0]
    assert np.array_equal(detector.pixels[0], np.array(upright))
    expected = draw_boxes(upright, answer("pictures/b.png", ["dog"]), as_array=True)
    assert np.array_equal(pixels_of("found.png"), expected)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("boxes.json", "[[1, 2, 30, 40], [5.5, 6, 70, 80]]"),
        ("boxes.json", '{"pictures/b.png": [[1, 2, 30, 40], [5.5, 6, 70, 80]], "other.png": []}'),
        ("boxes.txt", '\ufeff{"b.png": [[1, 2, 30, 40], ["5.5", 6, 70, 80]]}'),
        ("boxes.csv", "1,2,30,40\n\n5.5, 6, 70, 80\n"),
        ("boxes.csv", "x0,y0,x1,y1\n1,2,30,40\n5.5,6,70,80\n"),
        (
            "boxes.CSV",
            'Label,Y1, X1,y0,x0,image\nd,40,30,2,1,b.png\nd,4,3,2,1,a.jpg\n"d",80,70,6,5.5,b.png\n',
        ),
    ],
)
def test_boxes(folder, detector, name, text):
    Path(name).write_text(text, encoding="utf-8")
    run("detect", "pictures/b.png", "dog", "--boxes", name)
    (call,) = detector.calls
    assert call["method"] == "proposals" and call["boxes"].dtype == np.float32
    assert call["boxes"].tolist() == [[1, 2, 30, 40], [5.5, 6, 70, 80]]


def test_boxes_of_several_images(folder, detector):
    """What it writes as CSV can be taken up again."""
    run("detect", "pictures", "dog", "-o", "found.csv")
    run("detect", "pictures", "cat", "--boxes", "found.csv", "--method", "proposals")
    for call, name in zip(detector.calls[3:], IN_FOLDER, strict=True):
        np.testing.assert_allclose(call["boxes"], answer(name, ["dog"]).boxes, atol=0.006)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b.json", "[[1, 2, 30, 40]", "b.json: expected JSON, or a name that ends with .csv: "),
        ("b.json", "3", "b.json: boxes: expected a list of boxes [x0, y0, x1, y1]"),
        (
            "b.json",
            "[[1, 2, 3]]",
            "b.json: boxes, box 1: expected four numbers x0, y0, x1, y1, got [1, 2, 3]",
        ),
        ("b.json", '[[1, 2, 3, "x"]]', "b.json: boxes, box 1: expected four numbers"),
        ("b.json", "[[1, 2, 3, 4], [5, 5, 5, 9]]", "boxes, box 2: expected x0 < x1 and y0 < y1"),
        ("b.json", "[[1, 2, NaN, 4]]", "expected x0 < x1 and y0 < y1, got [1, 2, nan, 4]"),
        ("b.json", "[]", "b.json: no boxes of the image pictures/b.png"),
        ("b.json", '{"pictures/b.png": 3}', "b.json: pictures/b.png: expected a list of boxes"),
        ("b.json", '{"a.jpg": [[1, 2, 3, 4]]}', "b.json: no boxes of the image pictures/b.png"),
        ("b.csv", "", "b.csv: no boxes of the image pictures/b.png"),
        (
            "b.csv",
            "x0,y0,x1\n1,2,3\n",
            "b.csv: line 1: expected the columns x0, y0, x1, y1, and perhaps image",
        ),
        (
            "b.csv",
            "1,2,3\n",
            "b.csv: line 1: expected the columns x0, y0, x1, y1, and perhaps image, got 1, 2, 3",
        ),
        ("b.csv", "1,2,3,4\n\n1,2,3\n", "b.csv: line 3: expected 4 columns, got 3"),
        ("b.csv", "1,2,3,4\n1,2,3,x\n", "b.csv: line 2: expected four numbers"),
        (
            "b.csv",
            "a,b,c,d\n",
            "b.csv: line 1: expected four numbers x0, y0, x1, y1, got ['a', 'b', 'c', 'd']",
        ),
    ],
)
def test_wrong_boxes(folder, monkeypatch, name, text, message):
    monkeypatch.setattr(clipc, "load", lambda name: pytest.fail("a model is loaded"))
    Path(name).write_text(text)
    result = run("detect", "pictures/b.png", "dog", "--boxes", name, code=1)
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_boxes_without_images_for_several(folder):
    Path("b.json").write_text("[[1, 2, 3, 4]]")
    result = run("detect", "pictures", "dog", "--boxes", "b.json", code=2)
    assert "b.json does not say which image its boxes are of, and there are 3" in result.stderr


# --- pictures ----------------------------------------------------------------------------------------


def test_picture(folder):
    run("detect", "pictures/b.png", *LABELS, "-o", "found.png")
    expected = draw_boxes("pictures/b.png", answer("pictures/b.png"), as_array=True)
    assert np.array_equal(pixels_of("found.png"), expected)
    run("detect", "pictures/b.png", *LABELS, "-o", "small.png", "--size", 50, "--font-size", 12)
    expected = draw_boxes("pictures/b.png", answer("pictures/b.png"), size=50, font_size=12, as_array=True)
    assert np.array_equal(pixels_of("small.png"), expected) and expected.shape == (38, 50, 3)


FONT = next((path for paths in drawing._system_fonts() for path in paths), None)


def test_font(folder):
    if FONT is None:
        pytest.skip("no fonts are installed")
    run("detect", "pictures/b.png", *LABELS, "-o", "found.png", "--font", FONT)
    expected = draw_boxes("pictures/b.png", answer("pictures/b.png"), font=FONT, as_array=True)
    assert np.array_equal(pixels_of("found.png"), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp", ".bmp", ".tif"])
def test_picture_formats(folder, suffix):
    run("detect", "pictures/b.png", "dog", "-o", f"found{suffix}")
    kind = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF"}.get(suffix[1:].lower(), suffix[1:].upper())
    with Image.open(f"found{suffix}") as image:
        assert image.format == kind and image.size == (96, 72)


@pytest.mark.parametrize("name", ["found", "found/", "there", "there/", "with.dot/"])
def test_folder_of_pictures(folder, name):
    Path("there").mkdir()
    picture(5).save("pictures/e.gif")
    run("detect", "pictures", "dog", "--recursive", "-o", name)
    found = folder / name
    assert files_in(found) == ["C.PNG", "a.jpg", "b.png", "e.gif.png", "more"]
    assert files_in(found / "more") == ["d.png"]
    expected = draw_boxes("pictures/more/d.png", answer("pictures/more/d.png", ["dog"]), as_array=True)
    assert np.array_equal(pixels_of(found / "more" / "d.png"), expected)


def test_several_results_at_once(folder):
    run("detect", "pictures/b.png", "dog", "-o", "a.png", "-o", "found/", "-o", "a.json", "-o", "a.csv", "-q")
    assert files_in(folder) == ["a.csv", "a.json", "a.png", "found", "pictures"]
    assert Path("a.png").read_bytes() == Path("found/b.png").read_bytes()


def test_folder_is_written_again_only_when_told(folder):
    run("detect", "pictures", "dog", "-o", "found")
    before = Path("found/b.png").read_bytes()
    result = run("detect", "pictures", "cat", "bird", "-o", "found", code=1)
    assert "found/C.PNG: exists already; --force overwrites it" in result.stderr and result.stdout == ""
    assert Path("found/b.png").read_bytes() == before
    run("detect", "pictures", "cat", "bird", "-o", "found", "--force")
    assert Path("found/b.png").read_bytes() != before


@pytest.mark.parametrize("output", ["pictures", "pictures/", ".", "here/../pictures"])
def test_images_are_never_overwritten(folder, output):
    Path("here").mkdir()
    before = {path: path.read_bytes() for path in Path("pictures").glob("*.*")}
    # For "." the images in common lie in pictures/: one named from there would be written onto itself.
    arguments = ["pictures"] if output != "." else ["pictures/b.png"]
    if output == ".":
        os.symlink("pictures/b.png", "b.png")
    result = run("detect", *arguments, "dog", "-o", output, "--force", code=2)
    assert "is one of the images; name another place" in result.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_images_of_one_name(folder):
    run("detect", "pictures/b.png", "dog", "-i", "pictures/more/d.png", "-o", "found")
    assert files_in(folder / "found") == ["b.png", "more"]
    result = run("detect", "pictures", "dog", "-i", "pictures/b.png", "-o", "again", code=2)
    assert "again/b.png: would be the picture of both pictures/b.png and pictures/b.png" in result.stderr
    assert not Path("again").exists()


# --- images that cannot be read ----------------------------------------------------------------------


def test_unreadable_images(folder):
    Path("pictures/broken.png").write_bytes(Path("pictures/b.png").read_bytes()[:300])
    result = run("detect", "pictures", "dog", "-o", "found", "-o", "found.json", code=1)
    assert result.stderr.startswith("clipc: pictures/broken.png: ") and not Path("found.json").exists()
    result = run("detect", "pictures", "dog", "-i", "missing.png", "--skip-unreadable", "--force",
                 "-o", "found", "-o", "found.json")  # fmt: skip
    notes = result.stderr.splitlines()
    assert len(notes) == 2 and notes[0].startswith("note: skipped pictures/broken.png: ")
    assert notes[1] == "note: skipped missing.png: No such file or directory"
    document = json.loads(Path("found.json").read_text())
    assert [entry["path"] for entry in document["images"]] == IN_FOLDER
    assert [entry["path"] for entry in document["skipped"]] == ["pictures/broken.png", "missing.png"]
    assert document["skipped"][1]["reason"] == "No such file or directory"
    # Images have numbers in the order of those that were read.
    assert [entry["image_id"] for entry in document["annotations"]] == [1, 2, 3]
    assert "broken.png" not in files_in(folder / "found" / "pictures")


def test_all_images_unreadable(folder):
    result = run("detect", "pictures/notes.txt", "dog", "--skip-unreadable", "-o", "x.json", "--json", code=1)
    assert result.stderr.splitlines()[-1] == "clipc: none of the images could be read"
    assert result.stdout == "" and files_in(folder) == ["pictures"]


# --- wrong calls, and files that cannot be written ---------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing argument 'IMAGE'"),
        (["pictures/b.png"], 2, "no labels; they follow the image, as in: clipc detect photo.jpg dog cat"),
        (["pictures/b.png", "dog", "dog"], 2, "the label 'dog' is given more than once"),
        (["pictures/b.png", "dog", " "], 2, "a label is empty"),
        (["pictures/b.png", "pictures/a.jpg"], 2, "more images: --image pictures/a.jpg"),
        (["pictures", "dog", "-o", "x.png"], 2, "x.png: one picture for 3 images; name a folder instead"),
        (["pictures/b.png", "dog", "-o", "x.docx"], 2, "x.docx: expected a name that ends with .png, "),
        (["pictures/b.png", "dog", "-o", "x.png", "-o", "y.jpg"], 2, "two of a kind, x.png and y.jpg"),
        (["pictures/b.png", "dog", "-o", "x", "-o", "y/"], 2, "-o names two of a kind, x and y/"),
        (["pictures/b.png", "dog", "-o", "pictures/b.png", "--force"], 2, "is one of the images"),
        (["pictures/b.png", "dog", "-o", "pictures/a.jpg"], 1, "pictures/a.jpg: exists already; --force"),
        (
            ["pictures/b.png", "dog", "-o", "nowhere/x.png"],
            1,
            "nowhere/x.png: cannot be written, there is no",
        ),
        (
            ["pictures/b.png", "dog", "-o", "nowhere/x/"],
            1,
            "nowhere/x: cannot be written, there is no folder",
        ),
        (
            ["pictures/b.png", "dog", "-o", "nowhere/x.csv"],
            1,
            "nowhere/x.csv: cannot be written, there is no",
        ),
        (["pictures/b.png", "dog", "-o", "pictures/notes.txt/"], 1, "is a file, expected a folder"),
        (["pictures/b.png", "dog", "--size", "9"], 2, "--size is for pictures; name one with -o"),
        (["pictures/b.png", "dog", "--font-size", "9", "-o", "x.csv"], 2, "--font-size is for pictures"),
        (["pictures/b.png", "dog", "--font", "pictures/a.jpg", "-o", "x.png"], 2, "--font: "),
        (["pictures/b.png", "dog", "--method", "window"], 2, "'window' is not one of 'auto', 'windows'"),
        (["pictures/b.png", "dog", "--method", "owl", "--boxes", "pictures/notes.txt"], 2, "not for owl"),
        (["pictures/b.png", "dog", "--boxes", "b.json"], 2, "'--boxes'"),
        (["pictures/b.png", "dog", "--nms", "2"], 2, "'--nms'"),
        (["pictures/b.png", "dog", "--nms", "hard"], 2, "'--nms'"),
        (["pictures/b.png", "dog", "--threshold", "-1"], 2, "'--threshold'"),
        (["pictures/b.png", "dog", "--max-detections", "0"], 2, "'--max-detections'"),
        (["pictures/b.png", "dog", "--background", " "], 2, "a text of --background is empty"),
        (["pictures/b.png", "dog", "-t", "a photo"], 2, "'a photo' has no {}"),
        (["-", "dog", "-l", "-"], 2, "standard input can hold the image or the labels, not both"),
        (["missing.png", "dog"], 1, "missing.png: no such file or folder"),
        (["pictures/*.gif", "dog"], 1, "no file matches 'pictures/*.gif'"),
    ],
)
def test_wrong_calls(folder, monkeypatch, arguments, code, message):
    monkeypatch.setattr(clipc, "load", lambda name: pytest.fail("a model is loaded"))
    before = Path("pictures/b.png").read_bytes()
    result = run("detect", *arguments, code=code, input=b"")
    assert message in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert files_in(folder) == ["pictures"] and Path("pictures/b.png").read_bytes() == before


@pytest.mark.parametrize(
    ("raised", "code", "shown"),
    [
        (
            ValueError("method: 'tiny' has no detection head"),
            2,
            "--method: 'tiny' has no detection head (see ",
        ),
        (
            ValueError("image_size: expected a multiple of 32"),
            2,
            "--image-size: expected a multiple of 32 (see ",
        ),
        (ValueError("text 0 is too long: 102 tokens"), 1, "text 0 is too long: 102 tokens\n"),
        (MemoryError("cannot allocate"), 1, "not enough memory: cannot allocate\n"),
    ],
)
def test_errors_of_the_library(folder, monkeypatch, raised, code, shown):
    def fail(self, *arguments, **options):
        raise raised

    monkeypatch.setattr(clipc.Model, "detect", fail, raising=False)
    result = run("detect", "pictures/b.png", "dog", "-o", "x.json", code=code)
    assert result.stderr.startswith(f"clipc: {shown}") and files_in(folder) == ["pictures"]


@pytest.mark.parametrize("name", ["found.png", "found.json", "found.csv"])
def test_full_disk_leaves_nothing(detecting_process, folder, name):
    """A limit on the size of files stands for the disk: writing fails in the same place."""
    Path(name).write_text("from before")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (128, 128))

    result = detecting_process("pictures/b.png", *LABELS, "-o", name, "--force", code=1, preexec_fn=limit)
    assert result.stderr.decode() == f"clipc: {name}: cannot be written: File too large\n"
    assert files_in(folder) == [name, "pictures"] and Path(name).read_text() == "from before"


# --- help, completion, progress ----------------------------------------------------------------------


def test_help_has_every_option_once(folder):
    text = run("detect", "--help").stdout
    params = cli.detect.detect.params
    options = [name for parameter in params for name in parameter.opts if name.startswith("--")]
    assert {"--method", "--output", "--model", "--json"} <= set(options)
    listing = text[text.index("\nInput:") :]
    for option in options:
        if option != "--debug":
            assert len(re.findall(rf"^  (?:-\w, )?{option}(?![\w-])", listing, re.M)) == 1, option
    for method in cli.detect.METHODS:
        assert re.search(rf"^    {method} ", text, re.M), method
    assert "  detect    " in CliRunner().invoke(cli.main, ["--help"]).stdout


def test_completion(folder):
    env = {
        "_CLIPC_COMPLETE": "bash_complete",
        "COMP_WORDS": "clipc detect x.png dog --method pro",
        "COMP_CWORD": "5",
    }
    result = run_process(env=env)
    assert b"proposals" in result.stdout and b"windows" not in result.stdout


def test_progress_bar_of_many_images(detecting_process):
    with terminal() as (ours, its_end):
        result = detecting_process("pictures", "dog", "--json", stderr=its_end)
        assert len(json.loads(result.stdout)["images"]) == 3
        assert re.search(rb"100%.* 3/3 .*image/s", read_terminal(ours))
    assert detecting_process("pictures", "dog").stderr == b"", "no bar where nobody watches"
    with terminal() as (ours, its_end):
        detecting_process("pictures", "dog", "--quiet", stderr=its_end)
        os.write(its_end, b"nothing else")
        assert read_terminal(ours) == b"nothing else"
