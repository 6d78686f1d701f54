r"""Make clipc/data/unicode_classes.py, the classes of characters that CLIP's tokenizer splits at.

    python tools/make_unicode_classes.py

OpenAI's tokenizer finds words with the package `regex` and the classes \p{L}, \p{N} and \s, case
ignored. The standard `re` and the engine inside `tokenizers` know other, older versions of Unicode,
so the classes are written down here and clipc gives the same tokens on every Python. The
table is taken from the pattern itself, character by character, rather than from the general
categories: with case ignored, the two differ for U+0345 (see clipc/tokenizer.py).
"""

import sys
from pathlib import Path

import regex

OUTPUT = Path(__file__).resolve().parents[1] / "clipc" / "data" / "unicode_classes.py"

CLASS_PATTERN = regex.compile(r"(?P<L>[\p{L}]+)|(?P<N>[\p{N}])|(?P<O>[^\s\p{L}\p{N}]+)", regex.IGNORECASE)


def character_class(character):
    """"L" letter, "N" number, "O" other, "S" matched by none of them (separates words)."""
    match = CLASS_PATTERN.match(character)
    return match.lastgroup if match else "S"


def class_runs():
    """The runs of code points of one class: a list of (first code point, class)."""
    runs = []
    for code in range(sys.maxunicode + 1):
        # A surrogate stands for no character; "O" keeps the table short and is never looked up.
        found = "O" if 0xD800 <= code <= 0xDFFF else character_class(chr(code))
        if not runs or runs[-1][1] != found:
            runs.append((code, found))
    return runs


def unicode_version():
    """The version of Unicode that the installed `regex` states in its description, or "unknown"."""
    import importlib.metadata
    import re

    text = importlib.metadata.metadata("regex").get_payload() or ""
    found = re.search(r"supports Unicode ([0-9.]+[0-9])", text)
    return found.group(1) if found else "unknown"


def lines_of(parts, width=96):
    line = ""
    for part in parts:
        if len(line) + len(part) > width:
            yield line.rstrip()
            line = ""
        line += part
    yield line.rstrip()


def main():
    runs = class_runs()
    with OUTPUT.open("w", encoding="ascii") as out:
        out.write(
            '"""Classes of Unicode characters for splitting text into words.\n\n'
            "Made by tools/make_unicode_classes.py; do not edit. A run of code points of one class begins\n"
            "at STARTS[i] and is of the class CLASSES[i]: L letter, N number, O other, S separator. Derived\n"
            "from the Unicode Character Database, copyright Unicode, Inc., under the Unicode License v3.\n"
            '"""\n\n'
            f'UNICODE_VERSION = "{unicode_version()}"\n\nSTARTS = (\n'
        )
        for line in lines_of([f"{start:#x}, " for start, _ in runs]):
            out.write(f"    {line}\n")
        out.write(")\n\nCLASSES = (\n")
        classes = "".join(found for _, found in runs)
        for i in range(0, len(classes), 96):
            out.write(f'    "{classes[i:i + 96]}"\n')
        out.write(")\n")
    print(f"{OUTPUT.name}: {len(runs)} runs, Unicode {unicode_version()}")


if __name__ == "__main__":
    main()
