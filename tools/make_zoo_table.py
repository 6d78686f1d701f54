"""Write the table of models in docs/models.md from clipc/data/zoo.json.

    python tools/make_zoo_table.py
"""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "clipc" / "data" / "zoo.json"
DOCUMENT = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- table: tools/make_zoo_table.py -->\n", "<!-- end of table -->\n"

HEADER = """\
| name | family | image | embedding | heads (image, text) | activation | size | licence | from |
|---|---|---|---|---|---|---|---|---|
"""


def table(models):
    """The table in Markdown."""
    return HEADER + "".join(_row(model) for model in models)


def _row(model):
    mean = "" if model["mean"] == "clip" else f", pixel mean {model['mean'][0]}"
    resize = {"shortest": "", "squash": ", squashed", "pad": ", padded"}[model["resize"]]
    sources = model["sources"]
    size = next((f"{source['bytes'] / 1e6:,.0f} MB" for source in sources if source.get("bytes")), "")
    cells = (
        f"`{model['name']}`", model["family"], f"{model['image_size']}²{resize}{mean}", model["embed_dim"],
        f"{model['vision_heads']}, {model['text_heads']}", model["activation"], size,
        _licence(model), "; ".join(map(_place, sources)),
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |\n"


def _licence(model):
    if "embedded" in model["sources"][0]:
        return "[card](../clipc/data/tiny_model_card.md)"
    return model["licence"] or "see the repository"


def _place(source):
    if "repository" in source:
        return f"[{source['repository']}](https://huggingface.co/{source['repository']})"
    return "the package" if "embedded" in source else f"openaipublic.azureedge.net, {source['file']}"


def with_table(text, models):
    """The document with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table(models) + END + after


if __name__ == "__main__":
    models = json.loads(ZOO.read_text("utf-8"))["models"]
    DOCUMENT.write_text(with_table(DOCUMENT.read_text("utf-8"), models), "utf-8")
