"""The command line: what it prints, where, with which exit code, and what it leaves behind.

Most tests call it inside the test process. What depends on a process of its own (standard streams, signals,
pipes, imports, notes that are printed once a process) runs in one.
"""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import files_in, interrupt, picture, run, run_process
from PIL import Image

import clipc
from clipc import cli, weights

LABELS = ["dog", "cat", "a cup of coffee"]


@pytest.fixture(scope="module")
def tiny():
    return clipc.load("tiny")


IN_FOLDER = ["pictures/C.PNG", "pictures/a.jpg", "pictures/b.png"]


# --- classify ----------------------------------------------------------------------------------------


def test_one_image_prints_the_prediction_exactly(folder, tiny):
    result = run("classify", "pictures/b.png", *LABELS)
    assert result.stdout == f"{tiny.classify('pictures/b.png', LABELS)}\n"
    assert re.fullmatch(r"Top predictions:( [a-z ]+: \d+\.\d\d%){3}\n", result.stdout)


def test_several_images_print_a_line_each(folder, tiny):
    result = run("classify", "pictures/b.png", *LABELS, "--image", "pictures/a.jpg")
    lines = result.stdout.splitlines()
    for name, line in zip(["pictures/b.png", "pictures/a.jpg"], lines, strict=True):
        best = tiny.classify(name, LABELS)
        assert line.startswith(f"{name}  {best.label}: {100 * best.probability:.2f}%")
        assert line.split() == f"{name} {str(best).removeprefix('Top predictions: ')}".split()


@pytest.mark.parametrize("option", [[], ["--recursive"]])
def test_folder_is_taken_in_sorted_order(folder, option):
    result = run("classify", "pictures", *LABELS, *option)
    expected = IN_FOLDER + ["pictures/more/d.png"] * bool(option)
    assert [line.split()[0] for line in result.stdout.splitlines()] == expected


def test_columns_stand_below_each_other(folder):
    picture(5).save("pictures/고양이.png")
    lines = run("classify", "pictures", *LABELS).stdout.splitlines()
    starts = {len(re.match(r"\S+ +", line)[0]) + sum(ord(c) > 0x1000 for c in line) for line in lines}
    assert len(starts) == 1


def test_pattern(folder):
    lines = run("classify", "pictures/**/*.png", *LABELS).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["pictures/b.png", "pictures/more/d.png"]
    # One file behind a pattern still prints its path: the form depends on the call, not on what there is.
    assert run("classify", "pictures/b*", *LABELS).stdout.startswith("pictures/b.png  ")
    assert "no file matches 'pictures/*.gif'" in run("classify", "pictures/*.gif", "dog", code=1).stderr


def test_file_whose_name_looks_like_a_pattern(folder):
    picture(6).save("photo[1].png")
    assert run("classify", "photo[1].png", *LABELS).stdout.startswith("Top predictions: ")


def test_standard_input(folder, tiny):
    data = (folder / "pictures" / "b.png").read_bytes()
    expected = f"{tiny.classify('pictures/b.png', LABELS)}\n"
    assert run("classify", "-", *LABELS, input=data).stdout == expected
    assert run_process("classify", "-", *LABELS, input=data).stdout.decode() == expected
    assert "standard input: " in run("classify", "-", "dog", input=b"nonsense", code=1).stderr
    assert "standard input: " in run("classify", "-", "dog", input=b"", code=1).stderr


def test_json(folder, tiny):
    result = run("classify", "pictures", *LABELS, "--json", "--template", "a photo of a {}.", "-t", "a {}")
    document = json.loads(result.stdout)
    assert document["model"] == "tiny"
    assert document["templates"] == ["a photo of a {}.", "a {}"]
    assert document["skipped"] == []
    assert [entry["path"] for entry in document["images"]] == IN_FOLDER
    for entry in document["images"]:
        expected = tiny.classify(entry["path"], LABELS, templates=document["templates"])
        assert [p["label"] for p in entry["predictions"]] == list(expected)
        np.testing.assert_allclose(
            [p["probability"] for p in entry["predictions"]], list(expected.values()), atol=1e-6
        )


def test_json_of_one_image_has_the_same_form(folder):
    document = json.loads(run("classify", "pictures/b.png", *LABELS, "--json").stdout)
    assert [entry["path"] for entry in document["images"]] == ["pictures/b.png"]


def test_batch_size_and_threads_change_nothing(folder, monkeypatch):
    monkeypatch.setattr(clipc, "set_num_threads", (asked := []).append)
    plain = run("classify", "pictures", *LABELS).stdout
    assert run("classify", "pictures", *LABELS, "--batch-size", 2, "--threads", 1).stdout == plain
    assert asked == [1]


def test_top_k(folder):
    assert run("classify", "pictures/b.png", *LABELS, "--top-k", 1).stdout.count("%") == 1
    many = [f"{noun} {number}" for noun in ("dog", "cat") for number in range(10)]
    assert run("classify", "pictures/b.png", *many).stdout.count("%") == cli.classify.PRINTED_LABELS
    assert run("classify", "pictures/b.png", *many, "-k", 15).stdout.count("%") == 15
    assert run("classify", "pictures/b.png", *many, "--json").stdout.count('"label"') == 20
    run("classify", "pictures/b.png", *LABELS, "-k", 0, code=2)


def test_labels_from_a_file(folder, tiny):
    Path("labels.txt").write_bytes("\ufeffdog\r\n\r\n  a cup of coffee \r\n".encode())
    expected = f"{tiny.classify('pictures/b.png', ['cat', 'dog', 'a cup of coffee'])}\n"
    assert run("classify", "pictures/b.png", "cat", "--labels-file", "labels.txt").stdout == expected
    assert (
        run("classify", "pictures/b.png", "cat", "-l", "-", input="dog\na cup of coffee").stdout == expected
    )
    assert "not both" in run("classify", "-", "-l", "-", input="dog", code=2).stderr
    Path("labels.txt").write_bytes(b"dog\nS\xe3o Paulo\n")
    assert (
        "labels.txt: line 2 is not UTF-8"
        in run("classify", "pictures/b.png", "-l", "labels.txt", code=1).stderr
    )
    Path("labels.txt").write_bytes(b"\n \n")
    assert "labels.txt: no labels" in run("classify", "pictures/b.png", "-l", "labels.txt", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'IMAGE' (see clipc classify --help)"),
        (["pictures/b.png"], "no labels"),
        (["pictures/b.png", "dog", "cat", "dog"], "the label 'dog' is given more than once"),
        (["pictures/b.png", "dog", " "], "a label is empty"),
        (["pictures/b.png", "pictures/a.jpg", "dog"], "more images: --image pictures/a.jpg"),
        (["pictures/b.png", "dog", "--template", "a photo"], "'a photo' has no {}"),
        (["pictures/b.png", "dog", "--wrong"], "--wrong"),
        (["-", "dog", "--image", "-"], "'-' is given more than once"),
        (["pictures/b.png", "dog", "--threads", "none"], "'none' is not a valid integer"),
    ],
)
def test_wrong_calls_of_classify(folder, arguments, message):
    result = run("classify", *arguments, code=2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_missing_image(folder):
    assert (
        run("classify", "missing.png", "dog", code=1).stderr == "clipc: missing.png: no such file or folder\n"
    )
    assert "does not download" in run("classify", "https://example.org/a.jpg", "dog", code=1).stderr


def test_folder_without_images(folder):
    os.makedirs("empty/below")
    result = run("classify", "empty", "dog", code=1)
    assert "empty: no images in this folder" in result.stderr
    assert "--recursive" in result.stderr


def test_unreadable_image(folder, tiny):
    Path("pictures/broken.jpg").write_text("no image")
    result = run("classify", "pictures", *LABELS, code=1)
    assert "clipc: pictures/broken.jpg: " in result.stderr
    assert result.stderr.count("\n") == 1

    result = run("classify", "pictures", *LABELS, "--skip-unreadable")
    assert [line.split()[0] for line in result.stdout.splitlines()] == IN_FOLDER
    assert result.stderr.startswith("note: skipped pictures/broken.jpg: ")

    arguments = ("missing.png", *LABELS, "--image", "pictures/b.png", "--image", "pictures/broken.jpg")
    document = json.loads(run("classify", *arguments, "--skip-unreadable", "--json").stdout)
    assert [entry["path"] for entry in document["images"]] == ["pictures/b.png"]
    assert [entry["path"] for entry in document["skipped"]] == ["missing.png", "pictures/broken.jpg"]

    result = run("classify", "pictures/broken.jpg", *LABELS, "--skip-unreadable", code=1)
    assert "none of the images could be read" in result.stderr


def test_exif_orientation(folder, tiny):
    image = picture(7)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save("turned.png", exif=exif)
    expected = tiny.classify(image.transpose(Image.Transpose.ROTATE_270), LABELS)
    assert run("classify", "turned.png", *LABELS, "--exif").stdout == f"{expected}\n"
    result = run_process("classify", "turned.png", *LABELS)
    assert b"note: " in result.stderr and b"--exif turns it upright" in result.stderr
    assert run_process("classify", "turned.png", *LABELS, "--quiet").stderr == b""


def test_file_names_that_are_no_text(folder):
    """Control characters must not reach the terminal, and bytes that are no UTF-8 not stop anything."""
    picture(8).save(b"pictures/\x1b[2J.png".decode())
    with open(b"pictures/\xff.png", "wb") as file:
        picture(9).save(file, "PNG")
    result = run_process("classify", "pictures", *LABELS)
    assert b"\x1b" not in result.stdout
    assert result.stdout.count(b"\n") == 5
    document = json.loads(run_process("classify", "pictures", *LABELS, "--json").stdout)
    assert "pictures/\udcff.png" in [entry["path"] for entry in document["images"]]


def test_words_that_the_embedded_model_does_not_know(folder):
    result = run_process("classify", "pictures/b.png", "dog", "kimchi")
    notes = result.stderr.decode().splitlines()
    assert len(notes) == 1 and notes[0].startswith("note: ") and "'kimchi'" in notes[0]
    assert result.stdout.startswith(b"Top predictions: ")


def test_default_model_is_named_in_a_note(folder):
    result = run_process("classify", "pictures", "dog", "cat", env={"CLIPC_MODEL": ""})
    notes = result.stderr.decode().splitlines()
    assert (
        len(notes) == 1 and notes[0].startswith("note: ") and "'tiny'" in notes[0] and "--model" in notes[0]
    )


# --- embed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
def test_embed_images(folder, tiny, normalize):
    option = ["--normalize"] * normalize
    result = run("embed", "pictures", "-o", "out.npy", "--names", "out.txt", "--batch-size", 2, *option)
    features = np.load("out.npy")
    assert features.dtype == np.float32 and features.shape == (3, 256)
    expected = np.concatenate([tiny.encode_image(name, normalize=normalize) for name in IN_FOLDER])
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max())
    assert Path("out.txt").read_text().splitlines() == IN_FOLDER
    assert result.stdout == "out.npy: 3 images, 256 numbers each, their names in out.txt\n"
    assert result.stderr == ""
    assert files_in(folder) == ["out.npy", "out.txt", "pictures"]


@pytest.mark.parametrize("normalize", [False, True])
def test_embed_texts(folder, tiny, normalize):
    texts = ["a dog", "a cup of coffee", "-"]
    option = ["--normalize"] * normalize
    run("embed", "--texts", "-o", "out.npy", *option, "--", *texts)
    expected = tiny.encode_text(texts, normalize=normalize)
    np.testing.assert_allclose(np.load("out.npy"), expected, atol=1e-5 * np.abs(expected).max())


def test_embed_lines_of_a_file(folder, tiny):
    """Row N of texts is line N, also when a line is empty."""
    result = run(
        "embed", "--texts", "-f", "-", "-o", "t.npy", "--names", "t.txt", input="a dog\n\nn\u2028n\r\na cat"
    )
    texts = ["a dog", "", "n\u2028n", "a cat"]
    assert Path("t.txt").read_text().split("\n") == [*texts, ""]
    np.testing.assert_allclose(np.load("t.npy"), tiny.encode_text(texts), atol=1e-5)
    assert "4 texts" in result.stdout

    run(
        "embed",
        "pictures/b.png",
        "--from-file",
        "-",
        "-o",
        "i.npy",
        "--names",
        "i.txt",
        input="pictures/a.jpg\n\n",
    )
    assert Path("i.txt").read_text().splitlines() == ["pictures/b.png", "pictures/a.jpg"]
    for option in (["--texts"], []):
        assert "the file is empty" in run("embed", *option, "-f", os.devnull, "-o", "x.npy", code=1).stderr
    assert not Path("x.npy").exists()


def test_embed_standard_input(folder, tiny):
    run("embed", "-", "-o", "out.npy", input=Path("pictures/b.png").read_bytes())
    np.testing.assert_allclose(np.load("out.npy"), tiny.encode_image("pictures/b.png"), atol=1e-5)


def test_text_that_is_too_long(folder, tiny):
    text = "dog " * 100
    result = run("embed", "--texts", "cat", text, "-o", "out.npy", code=1)
    assert "text 1 is too long" in result.stderr and "(--truncate cuts it)" in result.stderr
    assert files_in(folder) == ["pictures"]
    run("embed", "--texts", "cat", text, "-o", "out.npy", "--truncate")
    np.testing.assert_allclose(np.load("out.npy"), tiny.encode_text(["cat", text], truncate=True), atol=1e-5)


def test_embed_unreadable_images(folder, tiny):
    Path("pictures/aa.png").write_bytes(Path("pictures/b.png").read_bytes()[:500])
    result = run("embed", "pictures", "-o", "out.npy", code=1)
    assert "pictures/aa.png: " in result.stderr
    assert files_in(folder) == ["pictures"]

    result = run("embed", "pictures", "-o", "out.npy", "--skip-unreadable")
    assert result.stderr.startswith("note: skipped pictures/aa.png: ")
    expected = tiny.encode_image(IN_FOLDER)
    np.testing.assert_allclose(np.load("out.npy"), expected, atol=1e-5 * np.abs(expected).max())
    # Rows do not correspond to the folder any more, so the list is written unasked.
    assert Path("out.txt").read_text().splitlines() == IN_FOLDER

    result = run("embed", "pictures/aa.png", "-o", "none.npy", "--skip-unreadable", code=1)
    assert "nothing is written" in result.stderr
    assert not Path("none.npy").exists()


def test_embed_overwrites_only_when_told(folder):
    run("embed", "pictures", "-o", "out.npy")
    first = Path("out.npy").read_bytes()
    os.chmod("out.npy", 0o600)
    assert "--force overwrites it" in run("embed", "pictures/b.png", "-o", "out.npy", code=1).stderr
    assert Path("out.npy").read_bytes() == first
    os.symlink("out.npy", "link.npy")
    run("embed", "pictures/b.png", "-o", "link.npy", "--force")
    assert Path("link.npy").is_symlink()
    assert np.load("out.npy").shape == (1, 256)
    assert stat.S_IMODE(os.stat("out.npy").st_mode) == 0o600


def test_embed_gives_new_files_the_usual_permissions(folder):
    previous = os.umask(0o027)
    try:
        run("embed", "pictures/b.png", "-o", "out.npy")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(os.stat("out.npy").st_mode) == 0o640


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pictures"], 2, "Missing option '-o'"),
        (["-o", "x.npy"], 2, "no inputs"),
        (["pictures", "-o", "nowhere/x.npy"], 1, "nowhere/x.npy: cannot be written, there is no folder"),
        (["pictures", "-o", "pictures"], 1, "pictures: is a folder"),
        (["pictures", "-o", os.devnull, "--force"], 1, "it is no regular file"),
        (["pictures", "-o", "x.npy", "--names", "./x.npy"], 2, "the same file"),
        (["--texts", "dog", "-o", "x.npy", "--exif"], 2, "for images"),
        (["--texts", "a\nb", "-o", "x.npy", "--names", "x.txt"], 1, "line break"),
        (["pictures", "-o", "x.npy", "--truncate"], 2, "--texts"),
        (["missing.png", "-o", "x.npy"], 1, "missing.png: no such file or folder"),
    ],
)
def test_wrong_calls_of_embed(folder, arguments, code, message):
    assert message in run("embed", *arguments, code=code).stderr
    assert files_in(folder) == ["pictures"]
    assert os.path.exists(os.devnull) and not os.path.isfile(os.devnull)


@pytest.mark.parametrize("failing", ["save", "fsync", "replace"])
def test_failed_write_leaves_nothing(folder, monkeypatch, failing):
    Path("out.npy").write_text("from before")

    def fail(*arguments, **options):
        if failing == "save":
            arguments[0].write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        *{"save": (np, "save"), "fsync": (os, "fsync"), "replace": (os, "replace")}[failing], fail
    )
    result = run("embed", "pictures", "-o", "out.npy", "--names", "out.txt", "--force", code=1)
    assert "No space left on device" in result.stderr
    assert files_in(folder) == ["out.npy", "pictures"]
    assert Path("out.npy").read_text() == "from before"


def test_interrupted_embed_leaves_nothing(folder):
    """Ctrl-C in the middle of a long run; that it is in the middle is seen on the progress bar."""
    Path("list.txt").write_text("pictures/b.png\n" * 100_000)
    arguments = ["embed", "-f", "list.txt", "-o", "out.npy", "--batch-size", "8"]
    shown = interrupt(*arguments, when=rb" [1-9]\d*/100000 ")
    assert b"clipc: interrupted" in shown and b"Traceback" not in shown
    assert files_in(folder) == ["list.txt", "pictures"]


# --- models and info ---------------------------------------------------------------------------------


def test_models(folder, monkeypatch):
    monkeypatch.setenv("CLIPC_CACHE", str(folder / "cache"))
    cached = weights.cache.cached_model_folder(weights.named_models()["RN50"])
    cached.mkdir(parents=True)
    (cached / "open_clip_model.safetensors").write_bytes(b"1234")
    lines = run("models").stdout.splitlines()
    count = len(clipc.available_models())
    assert [line.split()[0] for line in lines[1 : count + 1]] == clipc.available_models()
    assert re.fullmatch(r"RN50 +224 x 224 +1024 +4 bytes +cached", lines[1])
    assert re.fullmatch(r"ViT-L/14@336px +336 x 336 +768 +934 MB +not in the cache", lines[9])
    assert re.fullmatch(r"tiny +64 x 64 +256 +28 MB +embedded", lines[10])
    assert str(folder / "cache") in lines[count + 2] and "tiny" in lines[count + 3]

    document = json.loads(run("models", "--json").stdout)
    assert document["cache"] == str(folder / "cache") and document["default"] == "tiny"
    rows = {row["name"]: row for row in document["models"]}
    assert list(rows) == clipc.available_models()
    assert rows["RN50"]["path"] == str(cached / "open_clip_model.safetensors")
    assert rows["ViT-B/32"]["path"] is None and rows["ViT-B/32"]["state"] == "not in the cache"


def test_info_of_this_computer(folder):
    facts = clipc.show_config(mode="dicts")
    assert json.loads(run("info", "--json").stdout) == facts
    lines = run("info").stdout.splitlines()
    assert [re.split("  +", line, maxsplit=1) for line in lines] == [
        [key, str(value)] for key, value in facts.items()
    ]


def test_info_of_a_model(folder, tiny):
    facts = json.loads(run("info", "tiny", "--json").stdout)
    assert facts["embed_dim"] == 256 and facts["image_size"] == 64 and facts["vision_layers"] == [2, 2, 2, 2]
    assert facts["layout"] == "openai" and facts["sources"]["activation"] == "file metadata"
    assert facts["parameters"] == sum(entry["numbers"] for entry in facts["stored_as"].values())
    stored = weights.open_weights(weights.EMBEDDED_FILE)
    with stored:
        assert facts["parameters"] == sum(int(np.prod(info.shape)) for info in stored.tensors.values())
    text = run("info", weights.EMBEDDED_FILE).stdout
    for expected in (
        "ModifiedResNet",
        "64 x 64 pixels",
        "quick_gelu (from: file metadata)",
        "float16",
        "77 tokens",
    ):
        assert expected in text


def test_info_of_a_vision_transformer(folder):
    """Only the head of the file counts: these are the tensors that tell sizes, and no whole model."""
    from safetensors.numpy import save_file

    shapes = {
        "visual.conv1.weight": (128, 3, 16, 16),
        "visual.positional_embedding": (17, 128),
        "visual.proj": (128, 32),
        "visual.transformer.resblocks.0.mlp.c_fc.weight": (512, 128),
        "token_embedding.weight": (100, 64),
        "positional_embedding": (9, 64),
        "text_projection": (64, 32),
        "logit_scale": (),
        "ln_final.weight": (64,),
        "transformer.resblocks.0.mlp.c_fc.weight": (256, 64),
    }
    save_file({name: np.zeros(shape, np.float16) for name, shape in shapes.items()}, "vit.safetensors")
    text = run("info", "vit.safetensors").stdout
    for expected in (
        "vision transformer, 1 blocks of width 128, MLP 512, patches of 16 x 16 pixels",
        "64 x 64 pixels",
        "quick_gelu (from: default)",
        "2 (from: default)",
        "up to 9 tokens, vocabulary of 100",
        "10 in float16",
    ):
        assert expected in text


def test_info_of_what_is_no_model(folder):
    assert "missing.safetensors" in run("info", "missing.safetensors", code=1).stderr
    assert "did you mean" in run("info", "ViT-B/31", code=1).stderr
    assert "pictures/b.png" in run("info", "pictures/b.png", code=1).stderr


# --- the program -------------------------------------------------------------------------------------


def test_version_and_help(folder):
    assert run("--version").stdout == f"clipc {clipc.__version__}\n"
    for command in ([], ["classify"], ["embed"], ["models"], ["info"]):
        long = run(*command, "--help").stdout
        assert run(*command, "-h").stdout == long
        assert " ".join(["  clipc", *command]) in long, "an example"
    result = CliRunner().invoke(cli.main, [])
    assert result.exit_code == 2 and "Commands:" in result.output
    assert "No such command 'wrong'" in run("wrong", code=2).stderr


def test_debug_shows_where(folder, monkeypatch):
    for arguments, env in ((["--debug"], {}), ([], {"CLIPC_DEBUG": "1"})):
        result = run_process(
            "classify", "pictures/b.png", "dog", "--model", "pictures", *arguments, code=1, env=env
        )
        assert b"Traceback" in result.stderr
        assert b"FileNotFoundError: no .safetensors, .pt or .bin file" in result.stderr
    result = run_process(
        "classify", "pictures/b.png", "dog", "--model", "pictures", code=1, env={"CLIPC_DEBUG": "0"}
    )
    assert result.stderr == b"clipc: no .safetensors, .pt or .bin file in pictures\n"


def test_internal_error_is_a_line_too(folder, monkeypatch):
    monkeypatch.setattr(clipc, "load", lambda name: 1 / 0)
    result = run("classify", "pictures/b.png", "dog", code=1)
    assert "internal error, ZeroDivisionError: division by zero (CLIPC_DEBUG=1 shows where)" in result.stderr


def test_warnings_of_others_stay(folder, monkeypatch):
    with pytest.warns(DeprecationWarning, match="theirs"):
        monkeypatch.setattr(clipc, "load", lambda name: warn_and_stop())
        run("classify", "pictures/b.png", "dog", code=1)


def warn_and_stop():
    import warnings

    warnings.warn("theirs", DeprecationWarning, stacklevel=2)
    raise ValueError("stop")


def test_broken_pipe_is_quiet(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "clipc", "classify", "pictures", *LABELS, "--batch-size", "1"]
        + ["--image", "pictures"] * 50,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline().startswith(b"pictures/C.PNG")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_full_disk_behind_standard_output(folder):
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "clipc", "models"],
            stdout=full,
            stderr=subprocess.PIPE,
            )
    assert result.returncode == 1
    assert result.stderr == b"clipc: No space left on device\n"


def test_help_loads_nothing_that_it_does_not_need():
    script = (
        "import sys\n"
        "from clipc.cli import main\n"
        "sys.argv = ['clipc', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert result.stdout.startswith("Usage: clipc ")
    loaded = set(result.stderr.split())
    assert "numpy" in loaded
    assert not loaded & {"PIL", "tokenizers", "safetensors", "tqdm", "ftfy", "rich"}


def test_completion(folder):
    env = {
        "_CLIPC_COMPLETE": "bash_complete",
        "COMP_WORDS": "clipc classify x.png --model ViT",
        "COMP_CWORD": "4",
    }
    result = run_process(env=env)
    assert b"ViT-B/32" in result.stdout and b"RN50" not in result.stdout
