"""Boxes from COCO JSON and YOLO text: the right pixels, and refusals that name the file and the line."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_files import encode, smooth_picture

from clipc.annotations import AnnotatedPicture, read_boxes
from clipc.errors import ClipcWarning, ImageError

EXAMPLES = Path(__file__).parents[1] / "examples" / "images"


def png(width, height):
    return encode(smooth_picture(height, width), "PNG")


@pytest.fixture
def yolo(tmp_path):
    """A function (label text, ...) that writes a YOLO folder with a picture of 200 x 100 pixels."""

    def write(text, *, names="cat\ndog\nbird\n", picture=True, **files):
        folder = tmp_path / "yolo"
        for name in ("images/train", "labels/train"):
            (folder / name).mkdir(parents=True)
        if picture:
            (folder / "images/train/a.png").write_bytes(png(200, 100))
        if text is not None:
            (folder / "labels/train/a.txt").write_bytes(text.encode() if isinstance(text, str) else text)
        if names is not None:
            (folder / "names.txt").write_text(names)
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(content)
        return folder

    return write


def coco_content(**changes):
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 200, "height": 100}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [10, 20, 30, 40], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 200, 100]},
        ],
    }
    content.update(changes)
    return content


@pytest.fixture
def coco(tmp_path):
    """A function (content, or text) that writes a COCO folder with a picture of 200 x 100 pixels."""

    def write(content, *, name="instances.json", size=(200, 100)):
        folder = tmp_path / "coco"
        (folder / "images").mkdir(parents=True)
        (folder / "images" / "a.png").write_bytes(png(*size))
        text = content if isinstance(content, (str, bytes)) else json.dumps(content)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder

    return write


# ---- what is read ----


def test_yolo_boxes_are_pixels(yolo):
    folder = yolo("1 0.5 0.5 0.2 0.4\n\n0 0.25 0.5 0.5 1\n1 1e-1 .1 +0.1 0.1\r\n")
    pictures = read_boxes(folder)
    assert pictures.names == ("cat", "dog", "bird")
    (picture,) = pictures
    assert (picture.width, picture.height) == (200, 100)
    assert picture.image == folder / "images/train/a.png"
    assert list(picture.boxes) == ["cat", "dog"]
    np.testing.assert_allclose(picture.boxes["cat"], [[0, 0, 100, 100]], atol=1e-9)
    np.testing.assert_allclose(picture.boxes["dog"], [[80, 30, 120, 70], [10, 5, 30, 15]], atol=1e-9)
    assert picture.crowds == {}


def test_the_folder_of_labels_itself(yolo):
    folder = yolo("1 0.5 0.5 0.2 0.4\n")
    assert read_boxes(folder / "labels")[0].boxes["dog"].shape == (1, 4)


def test_labels_beside_other_folders(yolo):
    folder = yolo("1 0.5 0.5 0.2 0.4\n")
    pictures = read_boxes(folder / "labels/train", images=folder / "images/train", names=["x", "y"])
    assert list(pictures[0].boxes) == ["y"]


def test_pictures_without_labels_have_no_boxes(yolo):
    folder = yolo("1 0.5 0.5 0.2 0.4\n")
    (folder / "images/train/b.png").write_bytes(png(30, 20))
    (folder / "labels/train/a.txt").rename(folder / "labels/train/b.txt")
    first, second = read_boxes(folder)
    assert first.boxes == {} and list(second.boxes) == ["dog"]


@pytest.mark.parametrize(
    "text",
    [
        "names: [cat, dog, bird]",
        "train: images\nnc: 3\nnames: ['cat', \"dog\",\n  bird]  # all\nval: x",
        "names: {0: cat, 1: 'dog', 2: bird,}",
        "names:\n  0: cat\n  1: dog  # barks\n\n  2: 'bird'\nnc: 3\n",
        "names:\n- cat\n- dog\n- bird\nnc: 3\n",
        "path: ../x # names: [a]\n'names':\n  - cat\n  - \"dog\"\n  - bird\n",
        "\ufeffnames:\n    1: dog\n    0: cat\n    2: bird",
    ],
)
def test_names_of_yaml_files(yolo, text):
    folder = yolo("1 0.5 0.5 0.2 0.4\n", names=None, data__yaml=text)
    assert read_boxes(folder).names == ("cat", "dog", "bird")


@pytest.mark.parametrize(
    "text",
    [
        "names: [\"it's\", traffic light, \"a, b\", 'he''s', x]",
        "names:\n  - it's\n  - traffic light\n  - 'a, b'\n  - he's\n  - x",
        "names: {0: \"it's\", 1: traffic light, 2: 'a, b', 3: \"he's\", 4: x}",
    ],
)
def test_quotes_in_yaml_names(yolo, text):
    folder = yolo("1 0.5 0.5 0.2 0.4\n", names=None, data__yml=text)
    assert read_boxes(folder).names == ("it's", "traffic light", "a, b", "he's", "x")


def test_yaml_names_agree_with_pyyaml(yolo, tmp_path):
    from availability import require

    yaml = require("yaml")
    words = [
        "hot dog",
        "it's",
        "a, b",
        "x: y",
        "# no comment",
        "Füße",
        "고양이",
        "- dash",
        "[x]",
        "a#b",
        'q"q',
    ]
    listed, numbered = words, dict(enumerate(words))
    for number, (names, in_lines) in enumerate(itertools.product([listed, numbered], [True, False])):
        style = False if in_lines else None  # None: the innermost list or dict goes on one line
        text = yaml.safe_dump({"nc": 3, "names": names}, default_flow_style=style, allow_unicode=True)
        (tmp_path / str(number)).mkdir()
        folder = tmp_path / str(number) / "labels"
        folder.mkdir()
        (folder.parent / "images").mkdir()
        (folder.parent / "images" / "a.png").write_bytes(png(20, 10))
        (folder / "a.txt").write_text("10 0.5 0.5 0.2 0.4\n")
        (folder.parent / "data.yaml").write_text(text, encoding="utf-8")
        assert read_boxes(folder).names == tuple(words)


def test_coco_boxes_are_pixels(coco):
    folder = coco(coco_content())
    for path in (folder, folder / "instances.json"):
        pictures = read_boxes(path)
        assert pictures.names == ("cat", "dog")
        (picture,) = pictures
        assert list(picture.boxes) == ["cat", "dog"]
        assert picture.boxes["dog"].tolist() == [[10, 20, 40, 60]]
        assert picture.boxes["cat"].tolist() == [[0, 0, 200, 100]]


def test_crowds_are_kept_apart(coco):
    content = coco_content()
    content["annotations"][0]["iscrowd"] = 1
    picture = read_boxes(coco(content))[0]
    assert list(picture.boxes) == ["cat"]
    assert picture.crowds["dog"].tolist() == [[10, 20, 40, 60]]


def test_boxes_follow_a_reduced_picture(coco):
    picture = read_boxes(coco(coco_content(), size=(100, 50)))[0]
    assert (picture.width, picture.height) == (100, 50)
    assert picture.boxes["dog"].tolist() == [[5, 10, 20, 30]]


def test_sizes_may_be_missing(coco):
    content = coco_content(images=[{"id": 7, "file_name": "a.png"}])
    assert read_boxes(coco(content))[0].boxes["dog"].tolist() == [[10, 20, 40, 60]]


@pytest.mark.parametrize("place", ["images/val2017", "val2017", "."])
def test_where_coco_pictures_lie(coco, place):
    folder = coco(coco_content(), name="annotations/instances_val2017.json")
    (folder / place).mkdir(exist_ok=True)
    shutil.move(folder / "images/a.png", folder / place / "a.png")
    assert len(read_boxes(folder)) == 1
    assert len(read_boxes(folder / "annotations/instances_val2017.json", images=folder / place)) == 1


def test_both_formats_give_the_same(tmp_path):
    """The shipped photographs with the same boxes in both formats."""
    files = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".png", ".jpg"))
    assert len(files) == 3
    sizes = {"cat": (451, 300), "coffee": (600, 400), "rocket": (640, 427)}
    names = ["cat", "cup", "rocket", "sky"]
    rng = np.random.default_rng(0)
    boxes = {
        stem: [
            (int(rng.integers(4)), *(rng.uniform(0, 0.5, 2) * size), *(rng.uniform(0.1, 0.5, 2) * size))
            for _ in range(5)
        ]
        for stem, size in sizes.items()
    }
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "names.txt").write_text("\n".join(names))
    entries, annotations = [], []
    for i, file in enumerate(reversed(files)):
        shutil.copy(file, images / file.name)
        width, height = sizes[file.stem]
        entries.append({"id": i, "file_name": file.name, "width": width, "height": height})
        lines = []
        for index, x, y, w, h in boxes[file.stem]:
            annotations.append({"image_id": i, "category_id": 10 + index, "bbox": [x, y, w, h], "iscrowd": 0})
            numbers = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            lines.append(f"{index} " + " ".join(f"{number:.12f}" for number in numbers))
        (tmp_path / "labels" / f"{file.stem}.txt").write_text("\n".join(lines))
    categories = [{"id": 10 + i, "name": name} for i, name in enumerate(names)]
    json_file = tmp_path / "boxes.json"
    json_file.write_text(
        json.dumps({"images": entries, "annotations": annotations, "categories": categories})
    )
    from_yolo, from_coco = read_boxes(tmp_path), read_boxes(json_file)
    assert from_yolo.names == from_coco.names == tuple(names)
    assert [p.image for p in from_yolo] == [p.image for p in from_coco]
    for ours, theirs in zip(from_yolo, from_coco):
        assert list(ours.boxes) == list(theirs.boxes)
        assert (ours.width, ours.height) == (theirs.width, theirs.height) == sizes[ours.image.stem]
        for label in ours.boxes:
            np.testing.assert_allclose(ours.boxes[label], theirs.boxes[label], atol=1e-6)


def test_coco128(clip_data):
    pictures = read_boxes(clip_data("coco128"))
    assert len(pictures) == 256 and len(pictures.names) == 80
    assert sum(len(boxes) for picture in pictures for boxes in picture.boxes.values()) == 929 + 898
    assert sum(not picture.boxes for picture in pictures) == 2


# ---- overshoot ----


def test_tiny_overshoot_is_cut(yolo):
    picture = read_boxes(yolo("0 0.5 0.5 1.01 1.01\n0 0.05 0.5 0.11 0.5\n"))[0]
    np.testing.assert_allclose(picture.boxes["cat"], [[0, 0, 200, 100], [0, 25, 21, 75]], atol=1e-9)


@pytest.mark.parametrize("line", ["0 0.5 0.5 1.1 1", "0 0.04 0.5 0.11 0.5", "0 0.5 0.99 0.5 0.1"])
def test_boxes_outside_are_refused(yolo, line):
    with pytest.raises(ValueError, match=r"a\.txt, line 2: "):
        read_boxes(yolo("1 0.5 0.5 0.2 0.4\n" + line))


def test_coco_overshoot(tmp_path, coco):
    content = coco_content()
    content["annotations"][0]["bbox"] = [-1, 50, 100, 50.5]
    assert read_boxes(coco(content))[0].boxes["dog"].tolist() == [[0, 50, 99, 100]]
    content["annotations"][0]["bbox"] = [0, 50, 100, 60]
    (tmp_path / "coco/instances.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"instances\.json, annotations\[0\]: the box reaches vertically"):
        read_boxes(tmp_path / "coco")


def test_boxes_without_an_area_are_left_out(yolo):
    with pytest.warns(ClipcWarning, match="2 boxes without an area"):
        picture = read_boxes(yolo("0 0.5 0.5 0 0.1\n1 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0"))[0]
    assert list(picture.boxes) == ["dog"]


# ---- what is refused ----


@pytest.mark.parametrize(
    "line, message",
    [
        ("0 0.5 0.5 0.2", "expected 5 columns, class xc yc w h, got 4"),
        ("0 0.5 0.5 0.2 0.2 0.9", "got 6"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.1 0.3", "polygons"),
        ("cat 0.5 0.5 0.2 0.2", "expected the index of a class, got 'cat'"),
        ("-1 0.5 0.5 0.2 0.2", "expected the index"),
        ("1.0 0.5 0.5 0.2 0.2", "expected the index"),
        ("٣ 0.5 0.5 0.2 0.2", "expected the index"),
        ("3 0.5 0.5 0.2 0.2", "class 3 has no name; the 3 names go from 0 to 2"),
        ("0 0.5 half 0.2 0.2", "expected a number, got 'half'"),
        ("0 0.5 nan 0.2 0.2", "expected a number, got 'nan'"),
        ("0 0.5 inf 0.2 0.2", "expected a number, got 'inf'"),
        ("0 0.5 1_0 0.2 0.2", "expected a number, got '1_0'"),
        ("0 0.5 0x1 0.2 0.2", "expected a number"),
        ("0 1e999 0.5 0.2 0.2", "shares of the picture's sides"),
        ("0 100 50 20 20", "shares of the picture's sides"),
        ("0 0.5 0.5 -0.2 0.2", "0 or more"),
        ("0,0.5,0.5,0.2,0.2", "expected 5 columns"),
        ("\0" * 200, "expected 5 columns"),
    ],
)
def test_damaged_yolo_lines(yolo, line, message):
    folder = yolo("1 0.5 0.5 0.2 0.4\n\n" + line + "\n")
    with pytest.raises(ValueError) as caught:
        read_boxes(folder)
    assert f"{folder / 'labels/train/a.txt'}, line 3: " in str(caught.value)
    assert message in str(caught.value) and len(str(caught.value)) < 500


def test_yolo_files_that_are_no_text(yolo):
    with pytest.raises(ValueError, match=r"a\.txt: expected text in UTF-8, got the byte 0xff"):
        read_boxes(yolo(b"\xff\xfe0\x00"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("names: !!python/object/apply:os.system ['x']", "line 1: expected a list or a dict"),
        ("names:\n  - !!python/name:os.system\n", "line 2: expected '- name'"),
        ("nc: 3\nnames: [cat, dog", "line 2: cannot read the names"),
        ("names: [cat, [dog]]", "line 1: cannot read"),
        ("names: {0: cat, dog}", "line 1: cannot read"),
        ("names: {0: cat, 0: dog}", "named twice"),
        ("names:\n  0: cat\n  0: dog", "line 3: the class 0 is named twice"),
        ("names:\n  - cat\n  1: dog", "line 3"),
        ("names:\n  - &anchor cat", "line 2"),
        ("names:\n  zero: cat", "line 2"),
        ("names:\n  - ''", "line 2: expected the name of a class"),
        ('names: ["a\\u0000b"]', "expected the name of a class"),
        ("names:\nnc: 3", "line 1: expected names"),
        ("names: []", "at least one name"),
        ("names: *all", "expected a list or a dict"),
    ],
)
def test_damaged_yaml(yolo, text, message):
    with pytest.raises(ValueError, match=r"data\.yaml, line ") as caught:
        read_boxes(yolo("0 0.5 0.5 0.2 0.4\n", names=None, data__yaml=text))
    assert message in str(caught.value)


def test_names_that_are_missing_or_contradict(yolo, tmp_path):
    folder = yolo("0 0.5 0.5 0.2 0.4\n", names=None, other__yaml="train: x\n")
    with pytest.raises(FileNotFoundError, match="no names of the classes"):
        read_boxes(folder)
    (folder / "a.yaml").write_text("names: [a]")
    (folder / "b.yaml").write_text("names: [b]")
    with pytest.raises(ValueError, match=r"a\.yaml and .*b\.yaml give different names"):
        read_boxes(folder)
    assert read_boxes(folder, names={0: "c", 5: "d"}).names == ("c", "d")
    (folder / "names.txt").write_text("x\n\ny\n")
    with pytest.raises(ValueError, match=r"names\.txt, line 2: expected the name"):
        read_boxes(folder)
    for wrong in ("cat", 3, ["a", 3], {"a": "b"}, {-1: "a"}, [], [" "]):
        with pytest.raises((TypeError, ValueError), match="names"):
            read_boxes(folder, names=wrong)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "line 1, column 1: expected JSON"),
        ('{\n"images": [}', "line 2, column 12: expected JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"images": ' + "9" * 5000 + "}", "instances.json"),
        ("[]", "expected an object with images, annotations and categories, got a list"),
        ('{"images": [], "categories": []}', "expected a list 'annotations', got none"),
        ('{"images": {}, "annotations": [], "categories": []}', "expected a list 'images', got an object"),
        (
            '{"images": [3], "annotations": [], "categories": []}',
            "images[0]: expected an object, got a number",
        ),
        ('{"images": [], "annotations": [], "categories": []}', "no picture"),
        (b"\xff{}", "expected text in UTF-8"),
    ],
)
def test_damaged_json(coco, text, message):
    with pytest.raises(ValueError) as caught:
        read_boxes(coco(text))
    assert "instances.json" in str(caught.value) and message in str(caught.value)


def changed(list_name, index, **values):
    def change(content):
        content[list_name][index].update(values)
        for key in [key for key, value in values.items() if value is ...]:
            del content[list_name][index][key]

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (changed("images", 0, id=...), "images[0]: expected an id"),
        (changed("images", 0, id=[1]), "images[0]: expected an id"),
        (changed("images", 0, id=True), "images[0]: expected an id"),
        (changed("images", 0, file_name=3), "images[0]: expected a file_name"),
        (changed("images", 0, file_name=""), "images[0]: expected a file_name"),
        (changed("images", 0, file_name="a\0.png"), "images[0]: expected a file_name"),
        (changed("images", 0, file_name="../a.png"), "inside the pictures' folder"),
        (changed("images", 0, file_name="x/../../a.png"), "inside the pictures' folder"),
        (changed("images", 0, file_name="/etc/passwd"), "inside the pictures' folder"),
        (changed("images", 0, file_name="..\\a.png"), "inside the pictures' folder"),
        (changed("images", 0, file_name="C:\\a.png"), "inside the pictures' folder"),
        (changed("images", 0, width="200"), "images[0]: expected a width and a height"),
        (changed("images", 0, width=0), "images[0]: expected a width and a height"),
        (changed("images", 0, width=100, height=200), "other proportions"),
        (changed("categories", 0, name=...), "categories[0], name: expected the name"),
        (changed("categories", 0, name=" "), "categories[0], name: expected the name"),
        (changed("categories", 1, id=3), "categories[1]: the id 3 is that of categories[0]"),
        (changed("annotations", 1, id=1), "annotations[1]: the id 1 is that of annotations[0]"),
        (changed("annotations", 1, image_id=8), "annotations[1]: there is no image_id 8"),
        (changed("annotations", 1, image_id=...), "annotations[1]: there is no image_id None"),
        (changed("annotations", 1, image_id={}), "annotations[1]: there is no image_id {}"),
        (changed("annotations", 1, category_id=1), "annotations[1]: there is no category_id 1"),
        (changed("annotations", 1, bbox=...), "annotations[1]: expected a bbox"),
        (changed("annotations", 1, bbox=[1, 2, 3]), "annotations[1]: expected a bbox"),
        (changed("annotations", 1, bbox=[1, 2, 3, "4"]), "annotations[1]: expected a bbox"),
        (changed("annotations", 1, bbox=[1, 2, 3, True]), "annotations[1]: expected a bbox"),
        (changed("annotations", 1, bbox=[1, 2, 3, float("nan")]), "annotations[1]: expected a bbox"),
        (changed("annotations", 1, bbox=[1, 2, 3, 10**400]), "annotations[1]: expected a bbox"),
        (changed("annotations", 1, bbox=[1, 2, -3, 4]), "annotations[1]: expected a width and height"),
        (changed("annotations", 1, bbox=[300, 2, 3, 4]), "annotations[1]: the box reaches horizontally"),
        (changed("annotations", 1, iscrowd=2), "annotations[1]: expected 0 or 1 for iscrowd"),
    ],
)
def test_damaged_coco(coco, change, message):
    content = coco_content()
    change(content)
    with pytest.raises(ValueError) as caught:
        read_boxes(coco(content))
    assert str(caught.value).count("instances.json") and message in str(caught.value)


def test_pictures_that_occur_twice(coco, tmp_path):
    image = {"id": 7, "file_name": "a.png"}
    folder = coco(coco_content(images=[image, image]))
    with pytest.raises(ValueError, match=r"images\[1\]: the id 7 is that of images\[0\]"):
        read_boxes(folder)
    (folder / "instances.json").write_text(
        json.dumps(coco_content(images=[image, {"id": 8, "file_name": "./a.png"}]))
    )
    with pytest.raises(ValueError, match=r"images\[1\]: the file_name './a.png' is that of images\[0\]"):
        read_boxes(folder)


def test_two_pictures_of_one_label_file(yolo):
    folder = yolo("0 0.5 0.5 0.2 0.4\n")
    (folder / "images/train/a.JPG").write_bytes(png(20, 10))
    with pytest.raises(ValueError, match="would share one label file"):
        read_boxes(folder)


# ---- what is missing ----


def test_missing_yolo_picture(yolo):
    folder = yolo("0 0.5 0.5 0.2 0.4\n", picture=False)
    with pytest.raises(FileNotFoundError, match=r"a\.txt: there is no picture"):
        read_boxes(folder)
    (folder / "images/train/b.png").write_bytes(png(20, 10))
    with pytest.warns(ClipcWarning, match="1 pictures are skipped"):
        pictures = read_boxes(folder, skip_unreadable=True)
    assert len(pictures) == 1 and len(pictures.skipped) == 1


def test_missing_coco_picture(coco):
    content = coco_content()
    content["images"].append({"id": 8, "file_name": "b.png"})
    folder = coco(content)
    with pytest.raises(FileNotFoundError, match=r"instances\.json, images\[1\]: .*b\.png"):
        read_boxes(folder)
    with pytest.warns(ClipcWarning, match=r"skipped, .*b\.png"):
        assert len(read_boxes(folder, skip_unreadable=True)) == 1
    (folder / "images/a.png").unlink()
    with pytest.raises(FileNotFoundError, match="none of its pictures"):
        read_boxes(folder)


def test_unreadable_picture(yolo):
    folder = yolo("0 0.5 0.5 0.2 0.4\n")
    (folder / "images/train/b.jpg").write_bytes(b"no picture at all")
    with pytest.raises(ImageError, match=r"b\.jpg"):
        read_boxes(folder)
    with pytest.warns(ClipcWarning, match=r"b\.jpg"):
        pictures = read_boxes(folder, skip_unreadable=True)
    assert [picture.image.name for picture in pictures] == ["a.png"]


def test_nothing_there(tmp_path, yolo):
    with pytest.raises(FileNotFoundError):
        read_boxes(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no annotations found"):
        read_boxes(tmp_path / "empty")
    folder = yolo(None)
    with pytest.raises(ValueError, match="no label files"):
        read_boxes(folder)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_boxes(folder, images=folder / "nowhere")
    shutil.rmtree(folder / "images")
    with pytest.raises(FileNotFoundError, match="no folder 'images'"):
        read_boxes(folder)


def test_what_is_ambiguous(yolo):
    folder = yolo("0 0.5 0.5 0.2 0.4\n")
    (folder / "package.json").write_text("{}")
    assert len(read_boxes(folder)) == 1
    (folder / "instances.json").write_text("{}")
    with pytest.raises(ValueError, match="two formats"):
        read_boxes(folder)
    (folder / "instances_2.json").write_text("{}")
    with pytest.raises(ValueError, match="several annotation files"):
        read_boxes(folder)


def test_links_in_a_circle(yolo):
    folder = yolo("1 0.5 0.5 0.2 0.4\n")
    (folder / "images/train/again").symlink_to(folder / "images")
    assert len(read_boxes(folder)) == 1


# ---- pictures of one's own ----


def test_annotated_picture_checks_what_it_gets():
    picture = AnnotatedPicture("x.png", 10, 20, {"cat": [(1, 2, 3, 4)], "dog": []})
    assert picture.boxes["cat"].shape == (1, 4) and "dog" not in picture.boxes
    assert not picture.boxes["cat"].flags.writeable
    for boxes in ([(1, 2, 3)], [(3, 2, 1, 4)], [(1, 2, 3, np.nan)], "x", 3):
        with pytest.raises(ValueError, match="cat"):
            AnnotatedPicture("x.png", 10, 20, {"cat": boxes})
    with pytest.raises(TypeError):
        AnnotatedPicture("x.png", 10, 20, [(1, 2, 3, 4)])
    with pytest.raises(ValueError):
        AnnotatedPicture("x.png", 0, 20, {})
    with pytest.raises(TypeError):
        AnnotatedPicture("x.png", 1.5, 20, {})
