"""The notebooks: they run without and with a reader's own data, and what is committed may be shown."""

import base64
import importlib.util
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from availability import require
from PIL import Image

nbformat = require("nbformat")
NEEDED = ("nbclient", "ipykernel", "matplotlib", "pandas", "pycocotools", "scipy", "sklearn", "statsmodels")
for module in NEEDED:
    require(module)

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

LARGEST_FILE = 2_000_000

# Columns and rows that figures are compared in, and by how much a field may differ, of 255. What moves lines
# and letters a little, such as another Matplotlib or processor, stays below; another picture does not.
FIELDS = (24, 12)
TOLERANCE = 40

_spec = importlib.util.spec_from_file_location("execute_notebooks", ROOT / "tools" / "execute_notebooks.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


def read(path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.fixture
def folder(tmp_path):
    """A folder like that of the notebooks; beside it are the shipped photographs, and nothing else."""
    shutil.copytree(ROOT / "examples" / "images", tmp_path / "examples" / "images")
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def images(notebook):
    """(number of the cell, RGB image) of every picture that the cells gave."""
    return [
        (number, Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))
        for number, kind, content in tool.outputs(notebook)
        if kind.startswith("image/")
    ]


def largest_difference(one, other):
    """Between the mean colours of the fields of two pictures, 0 to 255."""
    fields = [np.asarray(image.resize(FIELDS, Image.Resampling.BOX), float) for image in (one, other)]
    return np.abs(fields[0] - fields[1]).max()


# ---- they run --------------------------------------------------------------------------------------------


@pytest.mark.full
@EACH
def test_without_data(path, folder):
    """It sees the shipped photographs alone, so the committed figures show no others if they are the same."""
    notebook = read(path)
    committed = images(notebook)
    tool.execute(notebook, folder)
    made = images(notebook)
    assert [number for number, _ in made] == [number for number, _ in committed]
    for (number, one), (_, other) in zip(committed, made):
        difference = largest_difference(one, other)
        assert difference < TOLERANCE, f"the picture of cell {number} is another one than its code makes"


@pytest.mark.full
@EACH
def test_with_data(path, folder, data_dir, tmp_path):
    notebook = read(path)
    before = list(tool.outputs(notebook))
    tool.execute(notebook, folder, CLIPC_DATA=str(data_dir), CLIPC_CACHE=str(tmp_path / "cache"))
    assert list(tool.outputs(notebook)) != before
    assert any("CLIPC_DATA" in problem for problem in tool.problems(notebook))


@pytest.mark.full
def test_detection_with_a_detector(folder, oracles, tmp_path):
    """The cells around OWL-ViT, with random weights."""
    require("transformers")
    from oracles import detectors

    reference = detectors.build_detector(detectors.DETECTORS["OWL-ViT small"])
    checkpoint = detectors.save_detector(reference, tmp_path / "owlvit")
    notebook = read(ROOT / "notebooks" / "04_zero_shot_detection.ipynb")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = [*code[:3], *(cell for cell in code if "detect_by_image" in cell.source)]
    assert len(notebook.cells) == 4
    tool.execute(notebook, folder, CLIPC_OWL=str(checkpoint))
    assert [number for number, _ in images(notebook)] == [2, 3]
    told = [content for number, kind, content in tool.outputs(notebook) if (number, kind) == (3, "stdout")]
    assert [line.split(":")[0] for line in "".join(told).splitlines()] == ["cat", "espresso"]


@pytest.mark.full
def test_a_failing_cell_is_an_error(folder):
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        tool.execute(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), folder)


@pytest.mark.full
def test_kernels_see_only_what_they_are_given(folder, monkeypatch):
    monkeypatch.setenv("CLIPC_DATA", "/of/someone")
    monkeypatch.setenv("CLIPC_MODEL", "/of/someone")
    cell = nbformat.v4.new_code_cell(
        "import os\nprint(*(os.environ.get(f'CLIPC_{name}') for name in ('DATA', 'MODEL', 'OWL')))"
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    tool.execute(notebook, folder, CLIPC_OWL="owl")
    assert list(tool.outputs(notebook)) == [(0, "stdout", "None None owl\n")]


# ---- what is committed -----------------------------------------------------------------------------------


@EACH
def test_committed_outputs(path):
    """Executed as a whole, in order, without a reader's data; no warnings, errors, or paths of a machine."""
    notebook = read(path)
    assert tool.problems(notebook) == []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert path.stat().st_size < LARGEST_FILE


@EACH
def test_nothing_of_this_machine_is_committed(path):
    text = path.read_text(encoding="utf-8")
    for place in (ROOT, Path.home()):
        if len(place.parts) > 1:
            assert json.dumps(str(place))[1:-1] not in text


def notebook_with(*outputs, executed_with=(), code="1"):
    cell = nbformat.v4.new_code_cell("1", outputs=list(outputs))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    sha = tool.code_hash(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]))
    notebook.metadata["clipc"] = {"executed_with": list(executed_with), "code_sha256": sha}
    return notebook


def stream(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def html(text):
    return nbformat.v4.new_output("display_data", data={"text/html": text})


@pytest.mark.parametrize(
    ("notebook", "problem"),
    [
        (notebook_with(executed_with=["CLIPC_DATA"]), "CLIPC_DATA"),
        (notebook_with(code="2"), "changed"),
        (notebook_with(stream("/home/someone/clipc/x.py:3: ClipcWarning", "stderr")), "stderr"),
        (notebook_with(nbformat.v4.new_output("error", ename="E", evalue="v", traceback=[])), "E: v"),
        (notebook_with(stream("read from /home/someone/photos")), "'/home/someone/photos'"),
        (notebook_with(html("<td>/tmp/x</td>")), "'/tmp/x'"),
        (notebook_with(html("<img src='data:image/png;base64,AAAA'>")), "a picture inside"),
        (notebook_with(stream(r"C:\Users\someone")), "Users"),
        (notebook_with(stream("<object at 0x7f1234567890>")), "0x7f1234567890"),
        (nbformat.v4.new_notebook(), "execute_notebooks"),
    ],
)
def test_problems_are_found(notebook, problem):
    (found,) = tool.problems(notebook)
    assert problem in found


def test_what_is_no_problem():
    fine = [stream("and/or, 3/4, s/picture, examples/images, ../data/x"), html("<a href='https://x.org/data/y'></a>")]
    assert tool.problems(notebook_with(*fine)) == []


def test_other_pictures_are_noticed():
    """Of the shipped photographs each is another picture than the others; one panel of a figure is enough."""
    cat, coffee, rocket = (
        Image.open(ROOT / "examples" / "images" / name).convert("RGB").resize((300, 200))
        for name in ("cat.png", "coffee.png", "rocket.jpg")
    )
    figures = []
    for last in (cat, coffee, rocket):
        figure = Image.new("RGB", (1300, 450), "white")
        for i in range(7):
            figure.paste(cat, (20 + i % 4 * 320, 20 + i // 4 * 220))
        figure.paste(last, (980, 240))
        figures.append(figure)
    assert largest_difference(figures[0], figures[1]) > TOLERANCE
    assert largest_difference(figures[0], figures[2]) > TOLERANCE
    moved = Image.new("RGB", (1300, 450), "white")
    moved.paste(figures[0], (3, 2))
    assert largest_difference(figures[0], moved) < TOLERANCE / 2
