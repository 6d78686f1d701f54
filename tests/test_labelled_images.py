"""Reading labelled pictures: CSV files of every kind that people have, and folders of class folders."""

import csv
import os
import sys
import warnings

import numpy as np
import pytest

import clipc
from clipc.errors import ClipcWarning
from clipc.labelled_images import LabelledImages, read_labelled_images

TABLE = "file,label,age\nimages/a.png,cat,10-19\nimages/b.png,dog,70+\nimages/c.png,cat,70+\n"


@pytest.fixture
def written(tmp_path):
    """A function that writes labels.csv, text or bytes, and gives its path."""
    def write(content, name="labels.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def tree(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


# --- CSV ---------------------------------------------------------------------------------------------


def test_folder_and_file_give_the_same(written, tmp_path):
    path = written(TABLE)
    for given in (path, str(path), tmp_path, str(tmp_path)):
        data = read_labelled_images(given)
        assert data.files == ["images/a.png", "images/b.png", "images/c.png"]
        assert data.paths == [str(tmp_path / name) for name in data.files]
        assert data.columns == {"label": ["cat", "dog", "cat"], "age": ["10-19", "70+", "70+"]}
        assert data.source == str(path)
        assert len(data) == 3
    assert read_labelled_images(data) is data


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + TABLE.encode(),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("\n", "\r").encode(),
        TABLE.rstrip("\n").encode(),
        ("\n" + TABLE.replace("\n", "\n \n,,\n")).encode(),
        TABLE.replace(",", " , ").encode(),
        b'"file","label","age"\n"images/a.png", "cat","10-19"\nimages/b.png,dog,70+\nimages/c.png,cat,"70+"',
        b"age,,file,label,\n10-19,0,images/a.png,cat,\n70+,1,images/b.png,dog,\n70+,2,images/c.png,cat,\n",
    ],
    ids=["BOM", "CRLF", "CR", "no last newline", "empty lines", "spaces", "quotes", "unnamed columns"],
)
def test_forms_of_the_same_table(written, content):
    data = read_labelled_images(written(content))
    assert data.files == ["images/a.png", "images/b.png", "images/c.png"]
    assert data.column("label") == ["cat", "dog", "cat"]
    assert data.column("age") == ["10-19", "70+", "70+"]
    assert sorted(data.columns) == ["age", "label"]


def test_values_with_commas_quotes_and_newlines(written):
    values = ['a cup, "white", of tea', "two\nlines", "고양이", "semi;colon"]
    path = written("")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["file", "caption"], *([f"{i}.png", value] for i, value in enumerate(values))])
    assert read_labelled_images(path).column("caption") == values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "labels.csv: the file is empty"),
        ("\n\n", "labels.csv: the file is empty"),
        ("file,label\n", "labels.csv: no rows below the names"),
        ("name,label\na.png,cat\n", "line 1: expected a column 'file'.*the columns are name, label"),
        (",,\n1,2,3\n", "labels.csv, line 2: expected a column 'file'"),
        ("file,label,label\na.png,cat,dog\n", "line 1: the column 'label' is there twice"),
        ("file;label\na.png;cat\n", "line 1: expected columns separated by commas, .* by semicolons"),
        ("file\tlabel\na.png\tcat\n", "line 1: expected columns separated by commas, .* by tabs"),
        ("file,label,age\na.png,cat\n", "line 2: expected 3 values, .* file, label, age, got 2$"),
        ('file,label\n"a.png","two\nlines"\nb.png,a,b\n', "line 4: expected 2 values, .* 3; put .* quotes"),
        ("file,label\na.png,cat\n,dog\n", "line 3: the column 'file' has no value"),
        ("file,label\nhttps://example.org/a.png,cat\n", "line 2: expected a file, got a URL"),
        ('file,label\na.png,cat\nb.png,"dog\nc.png,cat\n', "line 3: is not a row of a CSV file"),
        ('file,label\na.png,"cat"s\n', "line 2: is not a row of a CSV file"),
        ("file,label\na.png,c\0t\n", "line 2: (holds a zero byte|is not a row of .* NUL)"),
        (b"file,label\r\na.png,cat\r\nb.png,S\xe3o Paulo\r\n", "line 3: is not UTF-8; save"),
        (b"\xef\xbb\xbffile,label\n\xe3.png,cat\n", "line 2: is not UTF-8"),
        (b"file,label\n" + b"a" * 11 + b"\n\xff", "line 3: is not UTF-8"),
        (TABLE.encode("utf-16"), "is UTF-16"),
    ],
)
def test_what_is_wrong_with_a_table(written, content, message):
    with pytest.raises(ValueError, match=message):
        read_labelled_images(written(content))


def test_error_position_counts_the_byte_order_mark(written):
    # The bad byte is the first of line 3: an offset wrong by the three bytes of the mark would say line 2.
    with pytest.raises(ValueError, match="line 3: is not UTF-8"):
        read_labelled_images(written(b"\xef\xbb\xbffile,label\na.png,cat\n\xffb.png,dog\n"))


def test_value_too_long_for_the_csv_module(written):
    with pytest.raises(ValueError, match="line 2: is not a row of a CSV file"):
        read_labelled_images(written("file,label\na.png," + "x" * (csv.field_size_limit() + 1)))


def test_files_are_below_the_folder_or_the_one_above(tmp_path, monkeypatch):
    here = tmp_path / "captions"
    tree(tmp_path, "captions/images/a.png", "captions/images/both.png", "images/both.png", "images/b.png")
    (here / "labels.csv").write_text(
        "file\nimages/a.png\nimages/b.png\nimages/both.png\nimages/none.png\n" + f"{tmp_path}/images/b.png\n"
    )
    expected = [
        here / "images/a.png", tmp_path / "images/b.png", here / "images/both.png", here / "images/none.png",
        tmp_path / "images/b.png",
    ]
    data = read_labelled_images(here)
    assert data.paths == list(map(str, expected))
    assert data.columns == {}
    # From inside the folder, where the path has no parent that can be read off.
    monkeypatch.chdir(here)
    for given in (".", "labels.csv"):
        data = read_labelled_images(given)
        assert [os.path.realpath(path) for path in data.paths] == list(map(str, expected))


def test_backslashes_of_another_system(tmp_path, written):
    tree(tmp_path, "images/a.png", "odd\\name.png")
    data = read_labelled_images(written("file\nimages\\a.png\nodd\\name.png\n"))
    assert data.paths == [str(tmp_path / "images/a.png"), str(tmp_path / "odd\\name.png")]
    assert data.files == ["images\\a.png", "odd\\name.png"]


def test_wrong_arguments(tmp_path, written):
    with pytest.raises(FileNotFoundError):
        read_labelled_images(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        read_labelled_images(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match=r"labels.txt: expected a folder, or a file with the ending .csv"):
        read_labelled_images(written(TABLE, "labels.txt"))
    for wrong in (b"labels.csv", 3, None, ["a.png"]):
        with pytest.raises(TypeError, match="expected the path"):
            read_labelled_images(wrong)


# --- the class -----------------------------------------------------------------------------------------


def test_column(written):
    data = read_labelled_images(written(TABLE))
    assert data.column("file") == data.files
    with pytest.raises(ValueError, match="no column 'Label'; there are label, age"):
        data.column("Label")
    with pytest.raises(ValueError, match="there are no columns but 'file'"):
        read_labelled_images(written("file\na.png\n")).column("label")
    data.column("label")[0] = "changed"
    assert data.column("label")[0] == "cat"


def test_columns_that_need_a_value_in_every_row(written):
    path = written("file,label,note,empty\na.png,cat,,\nb.png,dog,blurred,\nc.png,,,\n")
    assert read_labelled_images(path).column("note") == ["", "blurred", ""]
    with pytest.raises(ValueError, match=r"column 'note' has no value in lines 2, 4; .* where\(\)"):
        read_labelled_images(path, column="note")
    with pytest.raises(ValueError, match="column 'label' has no value in line 4;"):
        read_labelled_images(path, column=["file", "label"])
    with pytest.raises(ValueError, match="the column 'empty' is empty"):
        read_labelled_images(path, column="empty")
    with pytest.raises(ValueError, match="there is no column 'group'"):
        read_labelled_images(path, column="group")
    # Rows that were chosen still know their lines.
    chosen = read_labelled_images(path).take([2, 1])
    with pytest.raises(ValueError, match="no value in line 4;"):
        chosen.filled_column("note")
    assert read_labelled_images(path).where(note="blurred").filled_column("note") == ["blurred"]
    lines = "".join(f"{i}.png,{'x' * (i == 0)}\n" for i in range(8))
    with pytest.raises(ValueError, match="lines 3, 4, 5, 6, 7 and 2 more"):
        read_labelled_images(written("file,label\n" + lines), column="label")


def test_where(written):
    data = read_labelled_images(written("file,age,core\na,70+,1\nb,70+,0\nc,0-2,1\nd,3-9,1\n"))
    assert data.where(age="70+", core=1).files == ["a"]
    assert data.where(core="1").files == ["a", "c", "d"]
    assert data.where(age=["3-9", "70+"]).files == ["a", "b", "d"]
    assert data.where(core=(1,), age={"0-2", "3-9"}).files == ["c", "d"]
    assert data.where().files == data.files
    assert data.where(file="b").columns == {"age": ["70+"], "core": ["0"]}
    with pytest.raises(ValueError, match="no picture has core='2'; the values of 'core' are '1', '0'"):
        data.where(core=2)
    with pytest.raises(ValueError, match="no picture has core='0'; the values of 'core' are '1'"):
        data.where(age="0-2", core=0)
    with pytest.raises(ValueError, match="no column 'sex'"):
        data.where(sex="m")
    with pytest.raises(ValueError, match="no picture has"):
        data.where(core=[])


def test_take(written):
    data = read_labelled_images(written(TABLE))
    for indices in ([2, 0], np.array([2, 0]), (-1, 0)):
        taken = data.take(indices)
        assert taken.files == ["images/c.png", "images/a.png"]
        assert taken.column("age") == ["70+", "10-19"]
        assert [os.path.basename(path) for path in taken.paths] == ["c.png", "a.png"]
    assert data.take(np.array([True, False, True])).files == ["images/a.png", "images/c.png"]
    assert len(data.take([])) == 0
    assert data.take([0, 0]).files == ["images/a.png"] * 2
    with pytest.raises(IndexError):
        data.take([3])
    with pytest.raises(ValueError, match="expected 3 values"):
        data.take([True, False])


def test_rows_and_pandas(written):
    data = read_labelled_images(written("age,file\n70+,a\n,b\n"))
    assert data.to_rows() == [{"file": "a", "age": "70+"}, {"file": "b", "age": ""}]
    frame = data.to_pandas()
    assert frame.to_dict("records") == data.to_rows()
    assert repr(data).startswith("<LabelledImages: 2 rows of ")
    assert repr(data).endswith("columns: age>")


def test_made_by_hand():
    data = LabelledImages(["a"], ["/x/a"], {"label": ["cat"]}, "by hand")
    assert data.where(label="cat").paths == ["/x/a"]
    with pytest.raises(ValueError, match="label: expected 1 values"):
        LabelledImages(["a"], ["/x/a"], {"label": []}, "by hand")
    with pytest.raises(ValueError, match="has no value in 'b'"):
        LabelledImages("ab", "ab", {"label": ["cat", ""]}, "by hand").filled_column("label")


# --- class folders -------------------------------------------------------------------------------------


def test_class_folders(tmp_path):
    tree(
        tmp_path, "dog/b.JPG", "dog/a.png", "cat/deep/er/c.webp", "cat/d.png", "cat/notes.txt", "cat/._d.png",
        ".git/e.png", "cat/.thumbnails/f.png", "README.md",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = read_labelled_images(tmp_path, column="label")
    assert data.files == ["cat/d.png", "cat/deep/er/c.webp", "dog/a.png", "dog/b.JPG"]
    assert data.column("label") == ["cat", "cat", "dog", "dog"]
    assert data.paths == [str(tmp_path / file) for file in data.files]
    assert data.source == str(tmp_path)
    with pytest.raises(ValueError, match="no column 'class'; there are label"):
        read_labelled_images(tmp_path, column="class")


def test_labels_csv_wins_over_class_folders(tmp_path, written):
    tree(tmp_path, "cat/a.png", "dog/b.png")
    written("file,label\ncat/a.png,kitten\n")
    assert read_labelled_images(tmp_path).column("label") == ["kitten"]


def test_class_folder_behind_a_link(tmp_path):
    tree(tmp_path, "elsewhere/a.png", "data/dog/b.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "cat")
    os.symlink(tmp_path / "data", tmp_path / "data" / "dog" / "loop")  # is not followed
    assert read_labelled_images(tmp_path / "data").files == ["cat/a.png", "dog/b.png"]


def test_what_is_left_out_is_told(tmp_path):
    tree(tmp_path, "dog/a.png", "cat/notes.txt", "owl/.hidden.png", "loose.png", "more.jpg")
    with pytest.warns(ClipcWarning) as told:
        data = read_labelled_images(tmp_path)
    assert data.files == ["dog/a.png"]
    messages = sorted(str(warning.message) for warning in told)
    assert [message.partition(": ")[2] for message in messages] == [
        "2 images beside the class folders, without a class, left out",
        "no images in the class folders 'cat', 'owl', left out",
    ]


def test_folders_that_hold_no_labels(tmp_path):
    with pytest.raises(ValueError, match="there is neither, and no images beside them$"):
        read_labelled_images(tmp_path)
    tree(tmp_path, "a.png", ".b.png", "empty/c.txt")
    with pytest.raises(ValueError, match="there is neither, and 1 image beside them$"):
        read_labelled_images(tmp_path)
    tree(tmp_path, "images.csv")
    with pytest.raises(ValueError, match="it holds images.csv: name the file that is meant"):
        read_labelled_images(tmp_path)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse such names")
def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"S\xe3o.png")
    tree(tmp_path, f"cat/{name}")
    assert read_labelled_images(tmp_path).files == [f"cat/{name}"]


# --- the data at hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zeroshot", "coco_captions", "seoul_landmarks", "professions"])
def test_data_sets(clip_data, name):
    pandas = pytest.importorskip("pandas")
    data = read_labelled_images(clip_data(name))
    frame = pandas.read_csv(clip_data(name) / "labels.csv", dtype=str, keep_default_na=False)
    assert data.to_pandas().equals(frame[["file", *(column for column in frame if column != "file")]])
    assert all(map(os.path.isfile, data.paths))


def test_sample_and_counts(tmp_path):
    rows = "".join(f"{i}.png,{'ab'[i % 3 == 0]}\n" for i in range(20))
    (tmp_path / "labels.csv").write_text("file,label\n" + rows)
    data = clipc.read_labelled_images(tmp_path)
    assert data.counts("label") == {"b": 7, "a": 13}
    with pytest.raises(ValueError, match="no column 'kind'"):
        data.counts("kind")
    some = data.sample(5)
    positions = [data.files.index(file) for file in some.files]
    assert positions == sorted(set(positions)) and len(positions) == 5
    assert some.files == data.sample(5).files != data.sample(5, seed=1).files
    assert data.sample(100).files == data.files
    with pytest.raises(ValueError, match="n: expected 1 or more"):
        data.sample(0)
