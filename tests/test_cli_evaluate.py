"""``clipc evaluate``: what it prints and writes, and how it stops and goes on."""

import csv
import json
import os
import re
import shutil
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import files_in, interrupt, picture, run, run_process
from PIL import Image

import clipc
from clipc import evaluate
from clipc.cli import evaluate as command
from clipc.terminal import columns

CLASSES = ["dog", "cat", "coffee"]
N_EACH = 4
CAPTIONS = [
    ["a dog"], ["a cat", "an animal"], ["a cup of coffee", "a bottle", "a plate"],
    ["a bus"], ["a tree", "a flower"], ["a house", "a bridge", "a boat"],
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return clipc.load("tiny")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """photos/ with a folder for each class, and captions/ with labels.csv."""
    folder = tmp_path_factory.mktemp("made_once")
    for i, label in enumerate(CLASSES):
        (folder / "photos" / label).mkdir(parents=True)
        for j in range(N_EACH):
            picture(10 * i + j).save(folder / "photos" / label / f"{j}.png")
    (folder / "captions").mkdir()
    with open(folder / "captions" / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "caption", "part"])
        for i, captions in enumerate(CAPTIONS):
            picture(100 + i).save(folder / "captions" / f"{i}.png")
            writer.writerows([f"{i}.png", caption, "ab"[i % 2]] for caption in captions)
    return folder


@pytest.fixture(autouse=True)
def photos(made_once, tmp_path, monkeypatch):
    """The current folder, with a copy of `made_once`."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPC_MODEL", "tiny")
    monkeypatch.setenv("CLIPC_CACHE", str(tmp_path / "cache"))
    return tmp_path


def files_of(classes=CLASSES):
    return [f"{label}/{j}.png" for label in sorted(classes) for j in range(N_EACH)]


def document(*arguments, **options):
    return json.loads(run("evaluate", *arguments, "--json", **options).stdout)


def table(text, first):
    """Lines of a printed table from the one that begins with `first`, split where two spaces are."""
    lines = text.split("\n")
    begin = next(i for i, line in enumerate(lines) if line.startswith(first))
    end = next((i for i in range(begin, len(lines)) if not lines[i]), len(lines))
    return [re.split(r" {2,}", line.strip()) for line in lines[begin:end]]


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# --- zero-shot ---------------------------------------------------------------------------------------


def test_zero_shot_prints_the_accuracy(tiny):
    paths = [f"photos/{file}" for file in files_of()]
    right = 0
    for path in paths:
        best = tiny.classify(path, sorted(CLASSES)).label
        right += best == path.split("/")[1]
    printed = run("evaluate", "zero-shot", "photos", "-t", "{}").stdout
    assert printed.startswith("Zero-shot accuracy, in % (higher is better)\n12 pictures of 3 classes, 3 ")
    header, row = table(printed, "condition")
    assert header == ["condition", "prompts", "top-1", "95 % interval"]
    assert row[:3] == ["original", "label alone", f"{100 * right / 12:.1f}"]


def test_zero_shot_equals_the_function(tiny):
    expected = evaluate.zero_shot(
        "photos", model=tiny, conditions=["original", "grey"], top=(1, 2), cache=False
    )
    result = document("zero-shot", "photos", "--condition", "grey", "--top", 2)
    assert result == json.loads(json.dumps(expected.to_dict()))
    printed = run("evaluate", "zero-shot", "photos", "--condition", "grey", "--top", 2).stdout
    rows = expected.rows()
    assert [row[:2] for row in table(printed, "condition  prompts")[1:]] == [
        [row["condition"], row["prompts"]] for row in rows
    ]
    compared = table(printed.partition("Differences of top-1")[2], "condition")[1:]
    assert len(compared) == len(rows) - 1
    for line, row in zip(compared, rows[1:]):
        assert line[:3] == [row["condition"], row["prompts"], row["compared_with"]]
        assert line[3] == f"{100 * row['difference']:+.1f}"


def test_prompts(tiny):
    def prompts(*options):
        return document("zero-shot", "photos", *options)["prompts"]

    photo = "a photo of a {}."
    assert prompts() == {name: list(templates) for name, templates in evaluate.PROMPTS.items()}
    assert prompts("-t", photo) == {photo: [photo]}
    assert prompts("-t", photo, "-t", "a {}") == {"ensemble of 2": [photo, "a {}"]}
    assert prompts("--compare-template", photo) == {"label alone": ["{}"], photo: [photo]}
    assert prompts(
        "-t", "a {}", "--compare-template", "mine=the {}", "--compare-template", "{}=1",
        "--compare-template", "mine=my {}",
    ) == {"a {}": ["a {}"], "mine": ["the {}", "my {}"], "{}=1": ["{}=1"]}  # fmt: skip
    for options, message in [
        (["-t", "a photo"], "has no {} where the label goes"),
        (["--compare-template", "x=a photo"], "--compare-template: 'a photo' has no {}"),
        (["--compare-template", "{}."] * 2, "'{}.' is given more than once"),
        (["-t", photo, "--compare-template", photo], "is given more than once"),
    ]:
        assert message in run("evaluate", "zero-shot", "photos", *options, code=2).stderr


def test_conditions():
    assert command.CONDITIONS == tuple(evaluate.CONDITIONS)

    def conditions(*names):
        options = [word for name in names for word in ("--condition", name)]
        rows = document("zero-shot", "photos", "-t", "{}", *options)["rows"]
        return [row["condition"] for row in rows]

    assert conditions() == ["original"]
    assert conditions("edges", "grey") == ["original", "edges", "grey"]
    assert conditions("original", "blur", "blur") == ["original", "blur"]
    assert conditions("all") == list(command.CONDITIONS)
    assert "'--condition'" in run("evaluate", "zero-shot", "photos", "--condition", "x", code=2).stderr


def test_which_pictures(photos):
    rows = [[file, label, i % 2] for i, (file, label) in enumerate((f, f.split("/")[0]) for f in files_of())]
    with open("photos/labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "noun", "odd"], *rows])
    message = run("evaluate", "zero-shot", "photos", code=1).stderr
    assert "photos/labels.csv: there is no column 'label'; there are noun, odd" in message
    some = document("zero-shot", "photos", "-c", "noun", "--where", "odd=1", "--csv", "some.csv", "-t", "{}")
    assert some["n"] == 6
    assert [line[0] for line in read_csv("some.csv")[1:]] == [file for file, _, odd in rows if odd]
    arguments = ["--where", "noun=dog", "--where", "noun = cat", "--where", "odd=0"]
    assert document("zero-shot", "photos/labels.csv", "-c", "noun", *arguments)["n"] == 4
    for where, code, part in [
        ("odd=2", 1, "no picture has odd='2'; the values of 'odd' are '0', '1'"),
        ("even=1", 1, "no column 'even'"),
        ("odd", 2, "expected COLUMN=VALUE"),
        ("=1", 2, "expected COLUMN=VALUE"),
    ]:
        assert part in run("evaluate", "zero-shot", "photos", "--where", where, code=code).stderr
    message = run("evaluate", "zero-shot", "photos", "-c", "noun", "--where", "noun=dog", code=2).stderr
    assert "--labels-file: expected at least two to choose from" in message
    drawn = []
    for seed in (0, 0, 1):
        options = ["-t", "{}", "--limit", 5, "--seed", seed, "--csv", "drawn.csv", "--force"]
        run("evaluate", "zero-shot", "photos", "-c", "noun", *options)
        drawn.append([line[0] for line in read_csv("drawn.csv")[1:]])
    assert len(drawn[0]) == 5
    assert drawn[0] == drawn[1] != drawn[2]
    with open("photos/labels.csv", "a") as file:
        file.write("dog/0.png,,1\n")
    message = run("evaluate", "zero-shot", "photos", "-c", "noun", code=1).stderr
    assert "no value in line 14; fill it in, or choose rows with --where" in message


def test_labels_file():
    Path("labels.txt").write_text("dog\ncat\n\ncoffee\nbus\n")
    result = document("zero-shot", "photos", "-l", "labels.txt")
    assert result["labels"] == {label: label for label in ["dog", "cat", "coffee", "bus"]}
    assert result["rows"][0]["chance"] == 0.25
    Path("labels.txt").write_text("coffee\ta cup of coffee\ndog\tpuppy\ncat\n")
    result = document("zero-shot", "photos", "-l", "-", input=Path("labels.txt").read_text())
    assert result["labels"] == {"coffee": "a cup of coffee", "dog": "puppy", "cat": "cat"}
    for text, code, part in [
        ("dog\ncat\n", 2, "--labels-file: pictures are labelled 'coffee' in 'label', which labels lacks"),
        ("dog\tx\ndog\ty\n", 2, "the label 'dog' is given more than once"),
        ("dog\ta\tb\n", 1, "expected a label, or a value, a tab and the words for it; got 2 tabs"),
        ("\n", 1, "no labels in this file"),
    ]:
        Path("labels.txt").write_text(text)
        assert part in run("evaluate", "zero-shot", "photos", "-l", "labels.txt", code=code).stderr


def test_answers_as_csv(tiny):
    run("evaluate", "zero-shot", "photos", "--csv", "answers.csv", "--condition", "grey", "-t", "a {}")
    header, *rows = read_csv("answers.csv")
    assert header == ["file", "true", "condition", "prompts", "predicted", "probability", "right"]
    assert [row[2] for row in rows] == ["original"] * 12 + ["grey"] * 12
    for file, true, _, prompts, predicted, probability, right in rows[:12]:
        best = tiny.classify(f"photos/{file}", sorted(CLASSES), templates="a {}")
        assert (true, predicted, prompts) == (file.split("/")[0], best.label, "a {}")
        assert float(probability) == pytest.approx(best.probability, rel=1e-3)
        assert int(right) == (true == predicted)
    grey = np.repeat(np.asarray(Image.open(f"photos/{rows[12][0]}").convert("L"))[..., None], 3, axis=2)
    # Grey before resizing instead of after it: nearly the same.
    best = tiny.classify(grey, sorted(CLASSES), templates="a {}")
    assert rows[12][4] == best.label
    assert float(rows[12][5]) == pytest.approx(best.probability, abs=0.05)


def test_classes_and_mistakes(tiny):
    result = evaluate.zero_shot("photos", model=tiny, cache=False)
    best = max(result.prompts, key=lambda name: result.row(name)["top1"])
    printed = run("evaluate", "zero-shot", "photos", "--classes", "--mistakes", 2).stdout
    mistakes = table(printed.partition(f"Most frequent mistakes ({best}, original)\n\n")[2], "label")
    expected = result.most_confused(2, best)
    assert mistakes[1:] == [[m["true"], m["predicted"], str(m["count"]), str(m["n"])] for m in expected]
    classes = table(printed.partition(f"Classes ({best}, original)\n\n")[2], "label")
    assert [row[:3] for row in classes[1:]] == [
        [row["label"], "4", f"{100 * row['accuracy']:.1f}"] for row in result.per_class(best)
    ]
    plain = run("evaluate", "zero-shot", "photos", "--mistakes", 0).stdout
    assert "mistakes" not in plain and "Classes" not in plain


def test_labels_that_the_model_does_not_know():
    os.rename("photos/coffee", "photos/firefighter")
    result = run("evaluate", "zero-shot", "photos")
    assert "The model lacks words of 1 label: firefighter" in result.stdout
    assert "note: the model 'tiny' has no embedding for 'firefighter'" in result.stderr
    assert "Model.knows" not in result.stderr


def test_plots():
    run("evaluate", "zero-shot", "photos", "--plot", "bars.png", "--plot-confusion", "confusion.svg")
    with Image.open("bars.png") as bars:
        assert bars.format == "PNG"
        assert len(np.unique(np.asarray(bars))) > 10
    assert "<svg" in Path("confusion.svg").read_text()
    run("evaluate", "retrieval", "captions", "--plot", "recall.pdf")
    assert Path("recall.pdf").read_bytes().startswith(b"%PDF")


def test_files_are_checked_before_the_work(monkeypatch):
    monkeypatch.setattr(clipc, "load", None)
    Path("there.csv").write_text("mine")
    os.mkdir("folder")
    for options, code, part in [
        (["--csv", "there.csv"], 1, "there.csv: exists already; --force overwrites it"),
        (["--csv", "folder"], 1, "folder: is a folder"),
        (["--csv", "none/x.csv"], 1, "there is no folder"),
        (["--plot", "x.jpeg"], 2, "expected a name that ends with .png, .pdf, .svg; got 'x.jpeg'"),
        (["--plot", "x.png", "--plot-confusion", "./x.png"], 2, "--plot and --plot-confusion name the same"),
    ]:
        assert part in run("evaluate", "zero-shot", "photos", *options, code=code).stderr
    assert Path("there.csv").read_text() == "mine"
    assert files_in(Path()) == ["captions", "folder", "photos", "there.csv"]


def test_overwriting():
    Path("out.csv").write_text("mine")
    run("evaluate", "zero-shot", "photos", "--csv", "out.csv", "--force")
    assert len(read_csv("out.csv")) == 1 + 3 * 12


def test_nothing_is_left_of_files_after_an_error(monkeypatch):
    Path("photos/cat/9.png").write_bytes(b"no picture")
    run("evaluate", "zero-shot", "photos", "--csv", "out.csv", "--plot", "out.png", code=1)
    assert "out.csv" not in files_in(Path()) and "out.png" not in files_in(Path())


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = run("evaluate", "zero-shot", "photos", "--plot", "x.png", code=1).stderr
    assert "plots need matplotlib, which is not installed: pip install 'clipc[analysis]'" in message
    run("evaluate", "zero-shot", "photos")


# --- unreadable pictures, data that are not there -----------------------------------------------------------


def test_unreadable_pictures():
    Path("photos/cat/1.png").write_bytes(b"no picture")
    message = run("evaluate", "zero-shot", "photos", code=1).stderr
    assert re.search(r"photos/cat/1.png'?: .*; --skip-unreadable leaves out what cannot be read\n", message)
    result = run("evaluate", "zero-shot", "photos", "--skip-unreadable", "--json")
    assert result.stderr.startswith("note: 1 of 12 images cannot be read: cat/1.png: ")
    assert result.stderr.count("note: ") == 1
    found = json.loads(result.stdout)
    assert found["n"] == 11
    assert [name for name, reason in found["unreadable"]] == ["cat/1.png"]
    assert run("evaluate", "zero-shot", "photos", "--skip-unreadable", "--quiet").stderr == ""


def test_data_that_are_not_there():
    os.mkdir("empty")
    for data, code, part in [
        ("none", 1, "clipc: none: No such file or directory\n"),
        ("-", 2, "DATA is a folder or a CSV file"),
        ("empty", 1, "empty: expected labels.csv, or a subfolder with images for each class"),
        ("photos/cat", 1, "and 4 images beside them"),
        ("photos/cat/0.png", 1, "expected a folder, or a file with the ending .csv"),
    ]:
        for task in ("zero-shot", "linear-probe", "retrieval"):
            assert part in run("evaluate", task, data, code=code).stderr


# --- the cache ----------------------------------------------------------------------------------------------


def n_stored(folder):
    total = 0
    for path in Path(folder).glob("*.sqlite"):
        connection = sqlite3.connect(path)
        total += connection.execute("SELECT count(*) FROM features").fetchone()[0]
        connection.close()
    return total


def test_pictures_are_encoded_once(monkeypatch):
    first = run("evaluate", "zero-shot", "photos", "--condition", "grey").stdout
    assert n_stored("cache/features") == 24
    monkeypatch.setattr(clipc.Model, "encode_image", None)
    assert run("evaluate", "zero-shot", "photos", "--condition", "grey").stdout == first
    document("linear-probe", "photos", "--strength", 0.001, "--folds", 2)


def test_no_cache():
    run("evaluate", "zero-shot", "photos", "--no-cache")
    assert not os.path.exists("cache")


def test_ctrl_c_and_going_on(clip_data):
    data = str(clip_data("zeroshot"))
    arguments = ["evaluate", "zero-shot", data, "-t", "{}", "--batch-size", "4"]
    shown = interrupt(*arguments, when=rb" [1-9][0-9]*/1000 ")
    assert b"note: pictures that were encoded are kept; the same command goes on from there" in shown
    assert b"clipc: interrupted" in shown
    assert b"Traceback" not in shown
    n_done = n_stored("cache/features")
    assert 0 < n_done < 1000 and n_done % 4 == 0
    # Enough of what is left shows that it goes on; all of it would take long.
    shown = interrupt(*arguments, when=rf" (?!{n_done}/)[1-9][0-9]*/1000 ".encode())
    assert n_stored("cache/features") > n_done


def test_no_bar_without_a_terminal():
    result = run_process("evaluate", "zero-shot", "photos", env={"PYTHONWARNINGS": "error"})
    assert result.stderr == b""


# --- linear-probe ------------------------------------------------------------------------------------------


def test_linear_probe_equals_the_function(tiny):
    options = ["--folds", 2, "--strength", 0.001, "--shots", 1, "--draws", 2, "--seed", 3]
    expected = evaluate.linear_probe(
        "photos", model=tiny, folds=2, C=0.001, shots=(1,), draws=2, seed=3, cache=False
    )
    assert document("linear-probe", "photos", *options) == json.loads(json.dumps(expected.to_dict()))
    printed = run("evaluate", "linear-probe", "photos", *options, "--csv", "x.csv", "--plot", "x.png").stdout
    assert printed == f"{expected}\n"
    header, *rows = read_csv("x.csv")
    assert header == ["file", "true", "linear probe", "right", "zero-shot", "zero-shot right"]
    assert [row[0] for row in rows] == files_of()
    assert sum(int(row[3]) for row in rows) / 12 == pytest.approx(expected.accuracy)
    for file, true, probe, right, zero, zero_right in rows:
        best = tiny.classify(f"photos/{file}", sorted(CLASSES), templates="a photo of a {}.").label
        assert (true, zero) == (file.split("/")[0], best)
        assert (int(right), int(zero_right)) == (probe == true, zero == true)
    with Image.open("x.png") as plot:
        assert plot.format == "PNG"


def test_linear_probe_with_a_test_set(tiny):
    (Path("test") / "cat").mkdir(parents=True)
    os.rename("photos/cat/0.png", "test/cat/0.png")
    os.mkdir("test/dog")
    os.rename("photos/dog/1.png", "test/dog/1.png")
    options = ["--test", "test", "--strength", 0.01, "-t", "a {}", "-t", "the {}", "--normalize"]
    expected = evaluate.linear_probe(
        "photos", "test", model=tiny, C=0.01, prompts=["a {}", "the {}"], normalize=True, cache=False
    )
    found = document("linear-probe", "photos", *options)
    assert found == json.loads(json.dumps(expected.to_dict()))
    assert (found["n"], found["rows"][-1]["n_train"]) == (2, 10)


def test_linear_probe_that_cannot_be(monkeypatch):
    message = run("evaluate", "linear-probe", "photos", "--folds", 5, code=1).stderr
    assert "needs 5 pictures of each class" in message
    for options in (["--folds", 1], ["--strength", 0], ["--shots", 0], ["--draws", 0]):
        run("evaluate", "linear-probe", "photos", *options, code=2)
    options = ["--folds", 2, "--strength", 1, "--shots", 3]
    message = run("evaluate", "linear-probe", "photos", *options, code=2).stderr
    assert "--shots: 3 of each class are not there" in message


# --- retrieval ---------------------------------------------------------------------------------------------


def test_retrieval_equals_the_function(tiny):
    expected = evaluate.retrieval("captions", model=tiny, k=(1, 3), seed=2, cache=False)
    options = ["--top", 3, "--top", 1, "--seed", 2]
    assert document("retrieval", "captions", *options, "-q") == json.loads(json.dumps(expected.to_dict()))
    printed = run("evaluate", "retrieval", "captions/labels.csv", *options).stdout
    lines = iter(table(printed, "direction")[1:])
    for row in expected.rows():
        for k in (1, 3):
            line = next(lines)
            assert line[:3] == [row["direction"], str(k), f"{100 * row[f'recall{k}']:.1f}"]
            assert line[4] == f"{100 * row[f'chance{k}']:.1f}"
        assert f"{row['direction']} {row['median_rank']:g} of {row['n_items']}" in printed
    assert "The model lacks words" not in printed


def test_ranks_as_csv(tiny):
    run("evaluate", "retrieval", "captions", "--csv", "ranks.csv", "-q")
    header, *rows = read_csv("ranks.csv")
    assert header == ["query", "file", "caption", "rank"]
    table = read_csv("captions/labels.csv")[1:]
    names = [f"{i}.png" for i in range(6)]
    images = tiny.encode_image([f"captions/{name}" for name in names], normalize=True)
    texts = tiny.encode_text([row[1] for row in table], normalize=True)
    cosines = images @ texts.T
    own = [names.index(row[0]) for row in table]
    assert [row[:3] for row in rows] == [["image", name, ""] for name in names] + [
        ["text", row[0], row[1]] for row in table
    ]
    for i, row in enumerate(rows[:6]):
        best = max(cosines[i, j] for j, image in enumerate(own) if image == i)
        assert float(row[3]) == 1 + sum(cosines[i] > best + 1e-6)
    for j, row in enumerate(rows[6:]):
        assert float(row[3]) == 1 + sum(cosines[:, j] > cosines[own[j], j] + 1e-6)


def test_captions_that_are_too_long():
    with open("captions/labels.csv", "a") as file:
        file.write("0.png," + "dog " * 100 + "firefighter,a\n")
    message = run("evaluate", "retrieval", "captions", code=1).stderr
    assert "; --truncate cuts it\n" in message
    printed = run("evaluate", "retrieval", "captions", "--truncate").stdout
    assert "; 1 caption cut; " in printed
    assert "The model lacks words of 1 of 13 captions\n" in printed
    only_b = run("evaluate", "retrieval", "captions", "--where", "part=b").stdout
    assert "\n3 pictures with 6 captions" in only_b
    assert "'a photo' has no {}" in run("evaluate", "retrieval", "captions", "-t", "a photo", code=2).stderr


# --- help, and how it looks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["zero-shot", "linear-probe", "retrieval"])
def test_help(task):
    long = run("evaluate", task, "--help").stdout
    assert f"  clipc evaluate {task} " in long
    for option in ("--where COLUMN=VALUE", "--json", "--csv FILE", "--plot FILE", "--skip-unreadable",
                   "--no-cache", "--seed N", "--limit N", "-m, --model NAME", "-q, --quiet"):  # fmt: skip
        assert option in long
    assert max(map(len, long.splitlines())) <= 100
    # Examples that are printed are calls that work.
    for line in re.findall(rf"^ +clipc (evaluate {task} .*)$", long, re.MULTILINE):
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)]
        assert words[:2] == ["evaluate", task]
        parsed = command.evaluate.commands[task].make_context(task, words[2:])
        assert parsed.params["data"] == words[2]


def test_group_without_a_task():
    result = run_process("evaluate", code=2)
    assert result.stdout == b""
    assert b"Usage: clipc evaluate" in result.stderr and b"zero-shot" in result.stderr
    assert "No such command 'x'" in run("evaluate", "x", code=2).stderr
    assert "Missing argument 'DATA' (see clipc evaluate zero-shot --help)" in run(
        "evaluate", "zero-shot", code=2
    ).stderr
    assert "clipc evaluate zero-shot photos/" in run("--help").stdout


@pytest.mark.parametrize("arguments", [
    ["zero-shot", "photos", "--condition", "all", "--classes"], ["retrieval", "captions"],
])  # fmt: skip
def test_tables_fit_a_terminal(arguments):
    printed = run("evaluate", *arguments).stdout
    for line in printed.split("\n\n", 1)[1].splitlines():
        assert columns(line) <= 100, line
        assert line == line.rstrip()
    assert not printed.endswith("\n\n")


def test_file_names_that_could_move_the_cursor():
    os.rename("photos/dog", "photos/d\x1b[2Jog")
    printed = run("evaluate", "zero-shot", "photos", "--classes").stdout
    assert "\x1b" not in printed
    assert "d\ufffd[2Jog" in printed
