"""CLIP's byte-pair tokenizer: text to token ids and back.

The ids are those of OpenAI's `simple_tokenizer.py`, with which every CLIP model that clipc loads was
trained. A text goes through four steps:

1. *clean*: `ftfy.fix_text`, HTML entities resolved twice, runs of white space made one space, lower case;
2. *split* into words: contractions ('s, 're, ...), runs of letters, single numbers, runs of the rest;
3. write each word as its UTF-8 bytes, one visible character ("symbol") per byte;
4. *merge* neighbouring symbols by rank (BPE), the last symbol of a word being marked with ``</w>``.

The vocabulary of 49,408 entries is made of the 256 symbols, the 256 symbols with ``</w>``, one entry
for each merge, and the start and end tokens.

Importing this module loads little more than NumPy. The merges and the package `tokenizers`, which does
step 4, are loaded by the first call; `ftfy` by the first text that needs it.
"""

import bisect
import functools
import operator
import os
import re
import threading
from collections.abc import Iterable, Mapping

import numpy as np

__all__ = [
    "CONTEXT_LENGTH",
    "END_TOKEN",
    "START_TOKEN",
    "VOCAB_SIZE",
    "decode",
    "encode",
    "split_words",
    "tokenize",
]

VOCAB_SIZE = 49408
START_TOKEN = 49406
END_TOKEN = 49407
CONTEXT_LENGTH = 77
MERGE_COUNT = VOCAB_SIZE - 2 * 256 - 2

_SPECIAL_TOKENS = {"<|startoftext|>": START_TOKEN, "<|endoftext|>": END_TOKEN}


def tokenize(texts, context_length=CONTEXT_LENGTH, truncate=False):
    """Token ids of texts, as the text tower takes them.

    Parameters
    ----------
    texts : str or sequence of str
        One text or N of them. An empty text is allowed, an empty sequence is not.
    context_length : int
        Length T of a row, at least 2; 77 for every CLIP model of OpenAI's, 16 for OWL-ViT.
    truncate : bool
        Cut a text that is too long, instead of raising ValueError. The first T - 1 tokens stay
        and the end token is put last.

    Returns
    -------
    numpy.ndarray
        int32, shape (N, T): START_TOKEN, the ids of the text, END_TOKEN, then zeros. One text
        gives N = 1.

    Raises
    ------
    TypeError
        If `texts` is not a string or a sequence of strings, or `context_length` not an integer.
    ValueError
        If `texts` is empty, a text is too long, or `context_length` is less than 2.

    Examples
    --------
    >>> tokenize("a photo of a cat", context_length=9).tolist()
    [[49406, 320, 1125, 539, 320, 2368, 49407, 0, 0]]
    """
    texts = as_text_list(texts)
    context_length = _as_context_length(context_length)
    ids = np.zeros((len(texts), context_length), dtype=np.int32)
    for position, text in enumerate(texts):
        row = [START_TOKEN, *encode(text), END_TOKEN]
        if len(row) > context_length:
            if not truncate:
                raise ValueError(
                    f"text {position} is too long: {len(row)} tokens with the start and end tokens, "
                    f"the limit is {context_length}: {_shorten(text)} (truncate=True cuts it)"
                )
            row = row[:context_length]
            row[-1] = END_TOKEN
        ids[position, : len(row)] = row
    return ids


def encode(text):
    """Token ids of one text, without the start and end tokens.

    Parameters
    ----------
    text : str
        Of any length.

    Returns
    -------
    list of int
        Each in [0, VOCAB_SIZE). Empty if nothing is left of the text after cleaning.
        START_TOKEN and END_TOKEN occur only where the text spells them out as "<|startoftext|>" or
        "<|endoftext|>", in any case.

    Raises
    ------
    TypeError
        If `text` is not a string.
    """
    return [i for word in _words(_clean(_as_text(text))) for i in _word_ids(word)]


def split_words(text):
    """The words of a text with the token ids of each.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of (str, list of int)
        Words as they are after cleaning (lower case, entities resolved), each with one id or more.
        All the ids in order are `encode(text)`.

    Raises
    ------
    TypeError
        If `text` is not a string.

    Examples
    --------
    >>> split_words("A photo of a Shiba-Inu")[-3:]
    [('shiba', [823, 1792]), ('-', [268]), ('inu', [512, 340])]
    """
    return [(word, list(_word_ids(word))) for word in _words(_clean(_as_text(text)))]


def decode(ids):
    """The text that token ids stand for.

    Parameters
    ----------
    ids : iterable of int
        Each in [0, VOCAB_SIZE). Nothing is left out: the start and end tokens are spelled out, and
        the zeros that `tokenize` pads with are the entry "!".

    Returns
    -------
    str
        Lower-case text with a space behind each word. Bytes that are not valid UTF-8, as parts of a
        character are, become U+FFFD.

    Raises
    ------
    TypeError
        If an id is not an integer.
    ValueError
        If an id is outside the vocabulary.

    Examples
    --------
    >>> decode(encode("A photo of a cat"))
    'a photo of a cat '
    """
    if isinstance(ids, (str, bytes, bytearray)) or not isinstance(ids, Iterable):
        raise TypeError(f"ids: expected an iterable of int, got {type(ids).__name__}")
    entries = _vocabulary().entries
    symbols = []
    for position, value in enumerate(ids):
        try:
            index = operator.index(value)
        except TypeError:
            raise TypeError(f"ids[{position}]: expected an int, got {type(value).__name__}") from None
        if not 0 <= index < VOCAB_SIZE:
            raise ValueError(f"ids[{position}]: expected 0 to {VOCAB_SIZE - 1}, got {index}")
        symbols.append(entries[index])
    text = "".join(symbols).translate(_SYMBOL_BYTES).encode("latin-1")
    return text.decode("utf-8", errors="replace").replace("</w>", " ")


# --- arguments -------------------------------------------------------------------------------------


def _as_text(text):
    if not isinstance(text, str):
        raise TypeError(f"text: expected str, got {type(text).__name__}")
    return text


def as_text_list(texts, name="texts"):
    """A list of at least one string, from a string or anything ordered that yields strings.

    `name` is what messages call the argument.
    """
    if isinstance(texts, str):
        return [texts]
    # These can be iterated as well, but over integers, over keys, or in no fixed order.
    unsuitable = (bytes, bytearray, memoryview, Mapping, set, frozenset)
    if isinstance(texts, unsuitable) or not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) != 1:
        raise TypeError(f"{name}: expected str or a sequence of str, got {_describe(texts)}")
    texts = list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{position}]: expected str, got {_describe(text)}")
    if not texts:
        raise ValueError(f"{name}: expected at least one text, got an empty sequence")
    return texts


def _as_context_length(context_length):
    try:
        if isinstance(context_length, bool):
            raise TypeError
        length = operator.index(context_length)
    except TypeError:
        raise TypeError(f"context_length: expected int, got {_describe(context_length)}") from None
    if length < 2:
        raise ValueError(f"context_length: expected at least 2 (the start and end tokens), got {length}")
    return length


def _describe(value):
    ndim = getattr(value, "ndim", 1)
    return type(value).__name__ if ndim == 1 else f"{type(value).__name__} with {ndim} dimensions"


def _shorten(text, limit=60):
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


# --- step 1: clean ---------------------------------------------------------------------------------

# Texts on which neither ftfy nor html.unescape changes anything but white space: printable ASCII
# without the "&" of an entity. Of the control characters, ftfy removes all but these four, and
# rewrites "\r" as the line feed that becomes a space anyway.
_PLAIN = re.compile(r"[\t\n\f\r !-%'-~]*")

# What `\s` means to the package `regex`: Unicode's White_Space. The `\s` of `re` has U+001C to U+001F too.
_WHITE_SPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


def _clean(text):
    if not _PLAIN.fullmatch(text):
        import html

        import ftfy  # 60 ms, and most prompts do without

        # Twice, as some of the web texts behind CLIP were escaped twice ("&amp;lt;").
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return _WHITE_SPACE.sub(" ", text).strip().lower()


# --- step 2: split into words ----------------------------------------------------------------------

# OpenAI's pattern, for a text in which every character beyond ASCII has been replaced by its class: L
# letter, N number, O other, S separator. The text is in lower case, so that capitals are free for this.
_WORD = re.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[a-zL]+|[0-9N]|[^ Sa-zL0-9N]+"
)


class _CharacterClasses(dict):
    """Map for str.translate: code point to its class as a letter, ASCII to itself."""

    def __init__(self):
        from clipc.data import unicode_classes

        self._starts = unicode_classes.STARTS
        self._classes = unicode_classes.CLASSES
        self.update((code, code) for code in range(128))
        # OpenAI's pattern ignores case, and the long s is a case variant of s: 'ſ is a contraction.
        # (U+0345 is one of iota, a letter, and hence falls into none of the pattern's classes: the
        # table calls it a separator.)
        self[ord("ſ")] = ord("s")

    def __missing__(self, code):
        found = self._classes[bisect.bisect_right(self._starts, code) - 1]
        if code <= 0xFFFF:  # bounds the memory; rarer characters are looked up again
            self[code] = found
        return found


@functools.lru_cache(maxsize=1)
def _character_classes():
    return _CharacterClasses()


def _words(text):
    """The words of a cleaned text, in order."""
    if text.isascii():
        return _WORD.findall(text)
    classes = text.translate(_character_classes())  # one character for each, so that positions agree
    return [text[match.start() : match.end()] for match in _WORD.finditer(classes)]


# --- steps 3 and 4: symbols and merges -------------------------------------------------------------


def byte_symbols():
    """The symbol of each byte, one visible character: a dict in the order of the vocabulary.

    Bytes that are visible in Latin-1 stand for themselves and come first. The others (control
    characters, spaces, the soft hyphen) follow, as the characters from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}


_BYTE_SYMBOLS = byte_symbols()
_SYMBOL_BYTES = {ord(symbol): chr(byte) for byte, symbol in _BYTE_SYMBOLS.items()}


class _Vocabulary:
    """The entries by id, and the BPE model. Immutable once made, apart from the model's own cache."""

    def __init__(self):
        import gzip
        import importlib.resources

        from tokenizers.models import BPE

        packed = importlib.resources.files("clipc.data").joinpath("merges.gz").read_bytes()
        halves = np.frombuffer(gzip.decompress(packed), dtype="<u2").reshape(2, MERGE_COUNT)
        symbols = list(_BYTE_SYMBOLS.values())
        entries = symbols + [symbol + "</w>" for symbol in symbols]
        merges = []
        for left, right in zip(*halves.tolist(), strict=True):
            merge = (entries[left], entries[right])
            merges.append(merge)
            entries.append(merge[0] + merge[1])
        entries.extend(_SPECIAL_TOKENS)
        ids = dict(zip(entries, range(VOCAB_SIZE), strict=True))
        self.entries = entries
        # Only the model is used, word by word: it starts no threads and so may be forked. The
        # splitter of `tokenizers` is left out because its engine knows an older Unicode than `regex`.
        self.bpe = BPE(vocab=ids, merges=merges, end_of_word_suffix="</w>")


_vocabulary_made = None
_vocabulary_lock = threading.Lock()


def _vocabulary():
    global _vocabulary_made
    if _vocabulary_made is None:
        with _vocabulary_lock:
            if _vocabulary_made is None:
                _vocabulary_made = _Vocabulary()
    return _vocabulary_made


def _renew_lock():
    """A child forked while another thread made the vocabulary would wait for that thread forever."""
    global _vocabulary_lock
    _vocabulary_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _word_ids(word):
    """The ids of one word, as a tuple."""
    # Words recur in prompts, freaks of thousands of characters do not and should not be kept.
    return _cached_word_ids(word) if len(word) <= 32 else _merged_ids(word)


def _merged_ids(word):
    if word in _SPECIAL_TOKENS:
        return (_SPECIAL_TOKENS[word],)
    symbols = word if word.isascii() else word.encode("utf-8").decode("latin-1").translate(_BYTE_SYMBOLS)
    return tuple(token.id for token in _vocabulary().bpe.tokenize(symbols))


_cached_word_ids = functools.lru_cache(maxsize=65536)(_merged_ids)
