"""`clipc bias`: what it asks of the library, what it prints and writes; wrong calls.

What the figures are, and how a report looks, is tested elsewhere.
"""

import csv
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from availability import require
from command_line import files_in, picture, run, run_process

import clipc
from clipc import bias
from clipc.bias import audits, wordings
from clipc.bias.report_text import to_dict, wording_dict, wording_text

require("matplotlib")

ASK = ("--label", "dog", "--label", "cat", "--group", "kind", "--resamples", 99)
LABELS = ["dog", "cat"]


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """A folder with twelve pictures (of nobody) and labels.csv, in the current folder."""
    folder = tmp_path / "faces"
    (folder / "images").mkdir(parents=True)
    rows = ["file,kind,place,core"]
    for i in range(12):
        picture(i, (64, 64)).save(folder / "images" / f"{i:02d}.png")
        rows.append(f"images/{i:02d}.png,{'xy'[i % 2]},{'pqr'[i // 4]},{int(i < 8)}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CLIPC_MODEL", "tiny")
    monkeypatch.delenv("CLIPC_DEBUG", raising=False)
    return folder


@pytest.fixture
def no_work(monkeypatch):
    """Fails the test when an audit begins."""
    def begin(*arguments, **options):
        raise AssertionError("the work began")

    monkeypatch.setattr(bias, "audit", begin)
    monkeypatch.setattr(bias, "wording", begin)


def expected(*arguments, **options):
    return bias.audit(*arguments, **{"model": "tiny", "resamples": 99, **options})


# --- what is printed --------------------------------------------------------------------------------------


def test_prints_a_line_for_each_picture_and_the_report(faces):
    result = run("bias", "faces", *ASK)
    report = expected("faces", LABELS, "kind")
    assert result.stdout == f"{report.lines()}\n\n{report}\n"
    first = clipc.classify("faces/images/00.png", LABELS, model="tiny")
    line = result.stdout.splitlines()[0]
    assert line.split("  ")[:2] == ["images/00.png", "x"]
    assert re.search(r"Top predictions: \w+: \d+\.\d\d% \w+: \d+\.\d\d%$", line)
    assert line.endswith(str(first))
    assert result.stdout.count("Top predictions") == 12
    assert result.stderr == ""


def test_without_lines(faces):
    result = run("bias", "faces", *ASK, "--no-lines")
    assert result.stdout == f"{expected('faces', LABELS, 'kind')}\n"


def test_json(faces):
    document = json.loads(run("bias", "faces", *ASK, "--json").stdout)
    assert document == json.loads(json.dumps(to_dict(expected("faces", LABELS, "kind"))))
    assert len(document["images"]) == 12
    without = json.loads(run("bias", "faces", *ASK, "--json", "--no-lines").stdout)
    assert without == {name: value for name, value in document.items() if name != "images"}


def test_a_csv_file_and_a_folder_of_groups(faces):
    assert run("bias", "faces/labels.csv", *ASK, "--no-lines").stdout.count("12: x 6, y 6") == 1
    for group in "xy":
        (faces / "by group" / group).mkdir(parents=True)
    for i in range(6):
        picture(i, (64, 64)).save(faces / "by group" / "xy"[i % 2] / f"{i}.png")
    result = run("bias", "faces/by group", "--label", "dog", "--label", "cat", "--group", "label",
                 "--resamples", 9, "--no-lines")  # fmt: skip
    assert "6: x 3, y 3" in result.stdout


@pytest.mark.parametrize(
    ("options", "call"),
    [
        (["--group", "kind", "--group", "place"], {"groups": ["kind", "place"]}),
        (["--block", "place"], {"block": ["place"]}),
        (["--template", "a photo of a {}.", "-t", "a {}"], {"templates": ["a photo of a {}.", "a {}"]}),
        (["--top-k", 3, "-k", 5], {"top_k": [3, 5]}),
        (["--seed", 7, "--resamples", 5], {"seed": 7, "resamples": 5}),
        (["--confidence", 0.9], {"confidence": 0.9}),
        (["--no-cache", "--exif"], {"cache": False, "exif": True}),
        (["--skip-unreadable", "--skip-ungrouped"], {"skip_unreadable": True, "skip_ungrouped": True}),
        (["--batch-size", 5], {"batch_size": 5}),
    ],
)
def test_options_reach_the_library(faces, monkeypatch, options, call):
    calls = []

    def audit(images, labels, groups, **asked):
        calls.append({"images": images, "labels": labels, "groups": groups, **asked})
        raise ValueError("enough")

    monkeypatch.setattr(bias, "audit", audit)
    group = [] if "--group" in options else ["--group", "kind"]
    run("bias", "faces", "--label", "dog", "--label", "cat", *group, *options, code=1)
    (made,) = calls
    assert made["labels"] == LABELS and made["model"].name == "tiny" and len(made["images"]) == 12
    defaults = {
        "groups": ["kind"], "block": None, "templates": None, "top_k": None, "seed": 0, "confidence": 0.95,
        "resamples": 9999, "cache": True, "exif": False, "skip_unreadable": False, "skip_ungrouped": False,
        "batch_size": None, "progress": False,
    }  # fmt: skip
    for name, value in {**defaults, **call}.items():
        assert made[name] == value, name


def test_where_chooses_pictures(faces):
    def pictures(*conditions):
        options = [part for condition in conditions for part in ("--where", condition)]
        document = json.loads(run("bias", "faces", *ASK, "--json", *options).stdout)
        return [int(Path(image["file"]).stem) for image in document["images"]]

    assert pictures("core=1") == list(range(8))
    assert pictures("core=1", "place=q") == [4, 5, 6, 7]
    assert pictures("place=q", "place = r") == list(range(4, 12))


def test_preset_and_labels_from_a_file(faces):
    result = run("bias", "faces", "--preset", "nurse-doctor", "--group", "kind", "--resamples", 9)
    assert "Preset    nurse-doctor" in result.stdout
    assert re.search(r"Top predictions: (Nurse|Doctor): ", result.stdout)
    Path("labels.txt").write_text("dog\ncat\n")
    result = run("bias", "faces", "--labels-file", "labels.txt", "--group", "kind", "--resamples", 99)
    assert result.stdout == run("bias", "faces", *ASK).stdout


def test_presets_are_listed(faces):
    text = run("bias", "--list-presets").stdout
    for preset in bias.PRESETS.values():
        assert f"{preset.name}\n" in text
        assert f"labels: {', '.join(preset.labels)} template: " in " ".join(text.split())
    assert max(map(len, text.splitlines())) < 110


def test_unreadable_pictures(faces):
    (faces / "images" / "03.png").write_bytes(b"no picture")
    assert "03.png" in run("bias", "faces", *ASK, code=1).stderr
    result = run("bias", "faces", *ASK, "--skip-unreadable")
    assert "11: x 6, y 5" in result.stdout
    assert "Left out because they cannot be read: images/03.png" in result.stdout
    assert "03.png" in result.stderr
    document = json.loads(run("bias", "faces", *ASK, "--skip-unreadable", "--json").stdout)
    assert [entry["file"] for entry in document["unreadable"]] == ["images/03.png"]


def test_names_cannot_move_the_cursor(faces):
    table = (faces / "labels.csv").read_text().replace("images/00.png,x", '"images/0\x1b[2J.png",x')
    (faces / "images" / "00.png").rename(faces / "images" / "0\x1b[2J.png")
    (faces / "labels.csv").write_text(table)
    assert "\x1b" not in run("bias", "faces", *ASK).stdout


# --- other words ------------------------------------------------------------------------------------------


def test_wordings_are_compared(faces):
    options = ("-t", "{}", "--compare-wording", "a bus, a tree", "--compare-wording", "human-gorilla")
    result = run("bias", "faces", *ASK, *options)
    report = bias.wording(
        "faces", {"dog/cat": LABELS, "a bus/a tree": ["a bus", "a tree"], "human-gorilla": "human-gorilla"},
        "kind", templates="{}", model="tiny", resamples=99,
    )  # fmt: skip
    assert result.stdout == f"{wording_text(report)}\n"
    document = json.loads(run("bias", "faces", *ASK, *options, "--json").stdout)
    assert document == json.loads(json.dumps(wording_dict(report)))


def test_templates_are_compared(faces):
    document = json.loads(run("bias", "faces", *ASK, "--compare-template", "a {}", "--json").stdout)
    assert document["templates"] == {"{}": ["{}"], "a {}": ["a {}"]}
    assert list(document["label_sets"]) == ["dog/cat"]
    document = json.loads(
        run("bias", "faces", *ASK, "-t", "a {}", "-t", "the {}", "--compare-template", "{}", "--json").stdout
    )
    assert document["templates"] == {"ensemble of 2": ["a {}", "the {}"], "{}": ["{}"]}


def test_wordings_as_files(faces):
    run("bias", "faces", *ASK, "--compare-wording", "a bus,a tree", "--html", "w.html", "--csv", "w.csv")
    assert "<h1>Wording: dog/cat, a bus/a tree by kind</h1>" in Path("w.html").read_text()
    rows = list(csv.DictReader(io.StringIO(Path("w.csv").read_text())))
    assert len(rows) == 12 * 2 * 2
    assert {(row["wording"], row["label"]) for row in rows} <= {
        ("dog/cat", "dog"), ("dog/cat", "cat"), ("a bus/a tree", "a bus"), ("a bus/a tree", "a tree"),
    }  # fmt: skip


# --- files ------------------------------------------------------------------------------------------------


def test_csv_has_the_probabilities(faces):
    run("bias", "faces", *ASK, "--block", "place", "--csv", "out.csv")
    report = expected("faces", LABELS, "kind", block="place")
    rows = list(csv.reader(io.StringIO(Path("out.csv").read_text())))
    assert rows[0] == ["file", "kind", "place", "label", "p dog", "p cat"]
    assert [row[0] for row in rows[1:]] == report.files
    assert [row[1] for row in rows[1:]] == list(report.group_of)
    assert [row[2] for row in rows[1:]] == list(report.block_of)
    assert [row[3] for row in rows[1:]] == [prediction.label for prediction in report.predictions]
    np.testing.assert_allclose(
        [[float(p) for p in row[4:]] for row in rows[1:]], report.probabilities, rtol=1e-5
    )


def test_html_is_a_page(faces):
    run("bias", "faces", *ASK, "--html", "report.html")
    text = Path("report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and text.count("<svg") == 4
    assert "dog, cat by kind" in text


def test_files_are_checked_before_the_work(faces, no_work):
    Path("there.html").write_text("mine")
    for options, message in [
        (["--html", "there.html"], "there.html: exists already; --force overwrites it"),
        (["--csv", "no/such/folder.csv"], "there is no folder"),
        (["--csv", "faces"], "is a folder"),
    ]:
        assert message in run("bias", "faces", *ASK, *options, code=1).stderr
    both = ["--html", "same", "--csv", "./same"]
    assert "--html and --csv name the same file" in run("bias", "faces", *ASK, *both, code=2).stderr
    assert Path("there.html").read_text() == "mine"


def test_files_are_replaced_when_asked(faces):
    Path("there.html").write_text("mine")
    run("bias", "faces", *ASK, "--html", "there.html", "--force")
    assert Path("there.html").read_text().startswith("<!DOCTYPE html>")


def test_a_failure_leaves_no_file(faces, monkeypatch):
    before = files_in(Path())
    monkeypatch.setattr("clipc.cli.bias._picture_rows", lambda report: 1 / 0)
    result = run("bias", "faces", *ASK, "--html", "r.html", "--csv", "r.csv", code=1)
    assert result.stdout == ""
    assert files_in(Path()) == sorted({*before, "cache"})


# --- wrong calls ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing argument 'FOLDER'"),
        (["faces", "--preset", "nurse-doctor"], 2, "no groups; name a column of labels.csv"),
        (["faces", "--group", "kind"], 2, "no labels; give --preset NAME"),
        (["faces", "--group", "kind", "--label", "dog"], 2, "two labels or more are compared, got 'dog'"),
        (["faces", "--group", "kind", "--label", "dog", "--label", "dog"], 2, "given more than once"),
        (["faces", "-g", "kind", "-p", "nurse-doctor", "--label", "dog"], 2, "either --preset or --label"),
        (["faces", "-g", "kind", "-p", "nurse"], 2, "expected one of nurse-doctor, people-gorilla"),
        (["faces", *ASK, "--where", "core"], 2, "expected COLUMN=VALUE, such as age=70+; got 'core'"),
        (["faces", *ASK, "--where", "core=7"], 1, "no picture has core='7'; the values of 'core' are"),
        (["faces", *ASK, "--where", "kind=x"], 2, "--group: expected two or more to compare"),
        (["faces", *ASK, "--block", "set"], 1, "there is no column 'set'; there are kind, place, core"),
        (["faces", "--label", "dog", "--label", "cat", "-g", "age"], 1, "there is no column 'age'"),
        (["faces", *ASK, "--group", "kind"], 2, "--group: a column is named twice"),
        (["faces", *ASK, "--top-k", 13], 2, "--top-k: expected up to 12"),
        (["faces", *ASK, "--top-k", 0], 2, "--top-k"),
        (["faces", *ASK, "--confidence", 1], 2, "--confidence"),
        (["faces", *ASK, "--template", "a photo"], 2, "has no {}"),
        (["faces", *ASK, "--compare-template", "a photo"], 2, "has no {}"),
        (["faces", *ASK, "--compare-template", "{}"], 2, "--compare-template: '{}' is given more than once"),
        (["faces", *ASK, "--compare-wording", "dog"], 2, "expected two labels or more with commas"),
        (["faces", *ASK, "--compare-wording", "dog,cat"], 2, "'dog/cat' is given more than once"),
        (["nothing", *ASK], 1, "nothing: No such file or directory"),
        (["faces/images/00.png", *ASK], 1, "expected a folder, or a file with the ending .csv"),
    ],
)
def test_wrong_calls(faces, arguments, code, message):
    result = run("bias", *arguments, code=code)
    assert message in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_a_missing_extra_is_named(faces, no_work, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pandas", None)
        assert "pip install 'clipc[analysis]'" in run("bias", "faces", *ASK, code=1).stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'clipc[analysis]'" in run("bias", "faces", *ASK, "--html", "r.html", code=1).stderr


def test_ungrouped_pictures(faces):
    table = (faces / "labels.csv").read_text().replace("images/00.png,x", "images/00.png,")
    (faces / "labels.csv").write_text(table)
    assert "--skip-ungrouped" in run("bias", "faces", *ASK, code=2).stderr
    assert "11: x 5, y 6" in run("bias", "faces", *ASK, "--skip-ungrouped").stdout


def test_help_has_sections_and_an_example(faces):
    text = run("bias", "--help").stdout
    for part in ("clipc bias faces/ --preset nurse-doctor --group gender", "Who is compared:", "Result:",
                 "pip install 'clipc[analysis]'"):  # fmt: skip
        assert part in text
    assert "bias" in run("--help").stdout
    assert "--recursive" not in text


def test_help_and_the_list_of_presets_load_no_statistics():
    code = (
        "import sys; from clipc.cli import main\n"
        "try: main(['bias', '--list-presets'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'pandas', 'scipy', 'statsmodels', 'matplotlib', 'sklearn'} & set(sys.modules)"
    )
    import subprocess

    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_as_a_process(faces):
    """As the user calls it: results alone on standard output."""
    result = run_process("bias", "faces", *ASK, "--no-lines", "--quiet")
    assert result.stdout.decode().startswith("Bias audit: dog, cat by kind\n")
    assert result.stderr == b""


def test_the_library_is_what_is_called():
    assert bias.audit is audits.audit and bias.wording is wordings.wording
