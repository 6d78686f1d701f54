"""Make clipc/data/merges.gz, the byte-pair merges of CLIP's tokenizer.

    python tools/make_merges.py bpe_simple_vocab_16e6.txt.gz

The source is OpenAI's vocabulary file (MIT licence, copyright 2021 OpenAI; the notice travels with
the result in clipc/data/merges.md). It is part of https://github.com/openai/CLIP (folder `clip`) and
of the packages clip-anytorch and open_clip_torch on PyPI.

Of its 262,145 lines CLIP uses lines 1 to 48,894, so only those are kept, and not as text: the two
halves of a merge are themselves entries of the vocabulary, and an id fits 16 bits. The file is the
gzip of a little-endian uint16 array of shape (2, 48894): the row of left halves, then the row of
right halves. Merge i makes the entry 512 + i. That is 167 kB; the same lines as gzipped text are
208 kB and take longer to read.

The result is the same wherever it is made, up to the version of zlib, which may compress in another
way; `--check` therefore compares the content.
"""

import argparse
import gzip
import hashlib
import io
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from clipc.tokenizer import MERGE_COUNT, byte_symbols

SOURCE_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
OUTPUT = Path(__file__).resolve().parents[1] / "clipc" / "data" / "merges.gz"


def read_merges(path):
    """The (left, right) symbols of the merges that CLIP uses, in order of rank.

    Raises ValueError when the file is not the one whose hash is known.
    """
    packed = Path(path).read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != SOURCE_SHA256:
        raise ValueError(f"{path}: expected SHA-256 {SOURCE_SHA256}, got {found}")
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    return [tuple(line.split()) for line in lines[1 : MERGE_COUNT + 1]]  # line 0 is a heading


def merge_ids(merges):
    """Replace the symbols of the merges by their ids. Returns uint16 (2, MERGE_COUNT).

    Two properties are checked on the way, because they make the order in which equal pairs of a word
    are merged irrelevant, and so let any correct BPE implementation stand in for OpenAI's: a merge
    uses only entries that come before it, and no two merges make the same entry.
    """
    symbols = list(byte_symbols().values())
    ids = {symbol: i for i, symbol in enumerate(symbols + [s + "</w>" for s in symbols])}
    halves = np.empty((2, len(merges)), dtype="<u2")
    for i, (left, right) in enumerate(merges):
        halves[:, i] = ids[left], ids[right]
        if left + right in ids:
            raise ValueError(f"merge {i}: {left + right!r} is already in the vocabulary")
        ids[left + right] = 512 + i
    return halves


def pack(halves):
    """The bytes of the file. The header names neither a time nor a file, to be reproducible."""
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=out, mtime=0) as file:
        file.write(halves.astype("<u2").tobytes())
    return out.getvalue()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="path of bpe_simple_vocab_16e6.txt.gz")
    parser.add_argument("--check", action="store_true", help="only compare with the file that is there")
    args = parser.parse_args()
    packed = pack(merge_ids(read_merges(args.source)))
    if args.check:
        same = OUTPUT.exists() and gzip.decompress(OUTPUT.read_bytes()) == gzip.decompress(packed)
        print(f"{OUTPUT.name}: {'the same merges' if same else 'other merges than the source holds'}")
        return 0 if same else 1
    OUTPUT.write_bytes(packed)
    print(f"{OUTPUT.name}: {MERGE_COUNT} merges, {len(packed)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
