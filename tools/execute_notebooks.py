"""Execute notebooks in place, so that their outputs fit their code and show nothing but shipped pictures.

    python tools/execute_notebooks.py                           # all of notebooks/
    python tools/execute_notebooks.py notebooks/04_*.ipynb

Each runs in its own folder with `tiny`, without the environment variables that name a reader's models and
data. Its metadata then say so, and which code the outputs are of; the tests check both. A notebook with a
cell that fails stays as it was. Needs the extra `clipc[notebooks]`.
"""

import argparse
import hashlib
import os
import re
import sys
import time
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"

# What a reader sets to use models and data of their own.
READERS_OWN = ("CLIPC_MODEL", "CLIPC_DATA", "CLIPC_OWL", "CLIPC_CACHE")

# Longest time for one cell, seconds: one that hangs is an error, a slow machine is none.
CELL_SECONDS = 600

# A path or an address that is of one machine alone.
_OF_A_MACHINE = re.compile(
    r"(?<![\w.:/<])/(?:home|Users|root|tmp|var|private|usr|opt|mnt|work|srv|data|workspace|builds?)/[^\s'\"<>]*"
    r"|\b[A-Za-z]:\\[\w\\]+"
    r"|\bat 0x[0-9a-f]{6,}"
)


def execute(notebook, folder, **own):
    """Execute a notebook; the error of a cell is raised.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        Gets new outputs, and metadata of how they were made.
    folder : path
        Where the kernel runs.
    **own : str
        Those of `READERS_OWN` that the kernel is to see; it sees no others.
    """
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    kept = {name: value for name, value in os.environ.items() if name not in READERS_OWN}
    client.execute(env={**kept, **own})
    # Without the version of Python, which would change from machine to machine.
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["clipc"] = {"executed_with": sorted(own), "code_sha256": code_hash(notebook)}


def code_hash(notebook):
    """SHA-256 of the code of all cells, hexadecimal."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def outputs(notebook):
    """What the cells gave, one by one: number of the cell, MIME type or name of the stream, content."""
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                yield number, output.name, output.text
            elif output.output_type == "error":
                yield number, "error", f"{output.ename}: {output.evalue}"
            else:
                for kind, content in output.data.items():
                    yield number, kind, content


def problems(notebook):
    """Why a notebook should not be committed as it is, a list of sentences."""
    found = []
    made = notebook.metadata.get("clipc")
    if made is None:
        found.append("it was not executed by tools/execute_notebooks.py")
    elif made["executed_with"]:
        found.append(f"it was executed with {', '.join(made['executed_with'])}: it may show anything")
    elif made["code_sha256"] != code_hash(notebook):
        found.append("its code was changed after it was executed")
    for number, kind, content in outputs(notebook):
        if kind in ("stderr", "error"):
            found.append(f"cell {number}, {kind}: {content.strip()[:200]}")
        elif not kind.startswith("image/"):
            if "data:image" in str(content):
                found.append(f"cell {number}, {kind}: a picture inside of text, where none looks for it")
            paths = _OF_A_MACHINE.findall(str(content))
            found += [f"cell {number}, {kind}: {path!r} is of one machine alone" for path in paths]
    return found


def main(arguments=None):
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    failed = False
    for path in parser.parse_args(arguments).notebooks or sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        begin = time.perf_counter()
        execute(notebook, path.resolve().parent)
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - begin:.0f} s, {path.stat().st_size / 1e6:.1f} MB")
        for problem in problems(notebook):
            print(f"{path.name}: {problem}", file=sys.stderr)
            failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
