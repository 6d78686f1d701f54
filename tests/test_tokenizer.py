"""The tokenizer against OpenAI's own, as packaged in clip-anytorch.

The oracle is loaded by the path of its file: the package itself wants torchvision when imported.
"""

import doctest
import gzip
import hashlib
import html
import importlib.metadata
import importlib.util
import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clipc import tokenizer
from clipc.data import unicode_classes
from clipc.tokenizer import END_TOKEN, START_TOKEN, VOCAB_SIZE, decode, encode, split_words, tokenize

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = json.loads((Path(__file__).parent / "golden" / "tokens.json").read_text(encoding="ascii"))
INSTALL = (
    "this test compares with OpenAI's tokenizer: "
    "pip install --no-deps clip-anytorch && pip install ftfy regex"
)

# The first example makes the oracle and the vocabulary, which no deadline should count.
PROPERTY = settings(
    deadline=None, max_examples=300, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def oracle_folder():
    try:
        folder = Path(importlib.metadata.distribution("clip-anytorch").locate_file("clip"))
    except importlib.metadata.PackageNotFoundError:
        pytest.fail(f"clip-anytorch is not installed; {INSTALL}")
    return folder


@pytest.fixture(scope="session")
def oracle():
    """OpenAI's SimpleTokenizer."""
    try:
        module = load(oracle_folder() / "simple_tokenizer.py", "openai_simple_tokenizer")
    except ImportError as error:
        pytest.fail(f"{error}; {INSTALL}")
    instance = module.SimpleTokenizer()
    instance.clean = lambda text: module.whitespace_clean(module.basic_clean(text)).lower()
    return instance


# --- equality with the oracle ----------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=range(len(GOLDEN["cases"])))
def test_encode_equals_golden(case):
    assert encode(case["text"]) == case["ids"]


def test_encode_equals_oracle_on_golden_texts(oracle):
    for case in GOLDEN["cases"]:
        assert encode(case["text"]) == oracle.encode(case["text"]), case["text"]


# Fragments whose combinations reach every rule: contractions, entities, mojibake, special tokens,
# white space, scripts, numbers, joiners, case variants.
FRAGMENTS = st.sampled_from(
    ["'s", "'S", "'ſ", "'re", "’ll", "'", "&amp;", "&amp;lt;", "&", "&#x", "&#0;", "&#xD800;", "&#x1c;"]
    + ["&nbsp;", "&#133;", "&notin;", ";", "<", ">", "<|startoftext|>", "<|ENDOFTEXT|>", "<|", "|>"]
    + ["<|ſtartoftext|>", "Ã©", "â€™", "Ã ", "ðŸ˜€", "ï¼", " ", "  ", "\n", "\r\n", "\t", "\x0b", "\x0c"]
    + ["\x1c", "\x1f", "\x85", "\xa0", "\u3000", "\u2028", "\u200b", "\u200d", "\ufe0f", "\ufeff", "\x00"]
    + ["\x1b[0m", "\x7f", "\x9d", "\ud83d", "\ude00", "İ", "ß", "Σ", "ς", "ǅ", "ﬁ", "ﬆ", "\u212a", "ſ"]
    + ["ᾳ", "\u0345", "\u0307", "é", "e\u0301", "한국", "ㅋ", "日本", "ｶﾞ", "猫", "７", "½", "Ⅷ", "٣", "𝟘"]
    + ["👩‍👧", "🇰🇷", "👍🏽", "_", "-", "...", "a", "photo", "Of", "THE", "cat", "xqzj", "1", "42"]
)
# Unassigned characters are left out: to a `regex` of another Unicode version they may be letters.
ASSIGNED = st.characters(exclude_categories=["Cn"])
MIXED_TEXT = st.lists(FRAGMENTS | ASSIGNED | st.text(ASSIGNED, max_size=4), max_size=12).map("".join)


@PROPERTY
@given(MIXED_TEXT)
@example("<&#xFB06; &amp;#xFB06;")
@example("a\u0345b")
@example("\x1c a \x1c")
def test_encode_equals_oracle(oracle, text):
    assert encode(text) == oracle.encode(text)


@PROPERTY
@given(
    st.text(st.characters(max_codepoint=0x7F), max_size=40)
    | st.text(st.sampled_from("a 1'&#;<>lt\t\n\x0b\r\f\x1c\x7f"))
)
@example("&lt")
@example("a\x0bb \x1cc\x1f")
def test_clean_equals_oracle_on_ascii(oracle, text):
    """The rule for leaving ftfy out: where it applies, ftfy and the entities change white space at most."""
    assert tokenizer._clean(text) == oracle.clean(text)


def test_every_plain_character_is_left_alone_by_ftfy():
    import ftfy

    plain = [chr(code) for code in range(0x110000) if tokenizer._PLAIN.fullmatch(chr(code))]
    assert len(plain) == 98 and "&" not in plain
    for character in plain:
        text = f"x{character}y {character}{character}"
        assert html.unescape(ftfy.fix_text(text)) == text.replace("\r", "\n")


@pytest.fixture(scope="session")
def class_maker():
    return load(ROOT / "tools" / "make_unicode_classes.py", "make_unicode_classes")


def test_character_classes_equal_regex(class_maker):
    """Every code point is of the class that OpenAI's pattern puts it in.

    A `regex` that knows another version of Unicode than the table may differ in characters which
    one of the two regards as unassigned, and in no others.
    """
    import regex

    made = class_maker.class_runs()
    shipped = list(zip(unicode_classes.STARTS, unicode_classes.CLASSES, strict=True))
    if class_maker.unicode_version() == unicode_classes.UNICODE_VERSION:
        assert made == shipped
        return

    def spread(runs):
        ends = [start for start, _ in runs[1:]] + [0x110000]
        return "".join(found * (end - start) for (start, found), end in zip(runs, ends, strict=True))

    pairs = enumerate(zip(spread(made), spread(shipped), strict=True))
    differing = [chr(code) for code, (by_regex, by_table) in pairs if by_regex != by_table]
    unassigned = {c for c in differing if regex.match(r"\p{Cn}", c) or unicodedata.category(c) == "Cn"}
    assert [hex(ord(c)) for c in differing if c not in unassigned] == []


def test_split_equals_oracle_pattern_at_every_class_boundary(oracle, class_maker):
    """Whole texts, not single characters, at both sides of each boundary of the table."""
    classes = tokenizer._character_classes()
    checked = 0
    for start in unicode_classes.STARTS[1:]:
        for character in (chr(start - 1), chr(start)):
            expected = class_maker.character_class(character)
            if not character.isascii() and character != "ſ" and classes[ord(character)] != expected:
                continue  # another version of Unicode; the test above judges these
            # The pattern meets cleaned text only: in lower case, a space as the one white space.
            text = tokenizer._WHITE_SPACE.sub(" ", f"a{character}{character}'s 1{character}!".lower())
            assert tokenizer._words(text) == oracle.pat.findall(text), ascii(character)
            checked += 1
    assert checked > 2500


def test_words_do_not_depend_on_the_python_version():
    """Letters of Unicode 18, which no `re` or `unicodedata` knows yet, are letters."""
    letter = "\u0c5c"
    assert [word for word, _ in split_words(f"{letter}{letter}!{letter}")] == [letter * 2, "!", letter]


def test_long_words_equal_oracle(oracle):
    generator = random.Random(20210105)
    words = ["a" * 2000, "ab" * 700, "hahah" * 300, "!" * 999, "ㅋ" * 400, "👩‍" * 100]
    for letters in ("abc", "etaoinshr", "aeiouzq", "가나다라", "abcdefghijklmnopqrstuvwxyz"):
        words += ["".join(generator.choices(letters, k=generator.randint(30, 300))) for _ in range(40)]
    for word in words:
        assert encode(word) == oracle.encode(word), word


def test_case_equals_oracle_for_every_cased_character(oracle):
    cased = [chr(c) for c in range(0x20000) if chr(c).lower() != chr(c)]
    assert len(cased) > 1000
    for i in range(0, len(cased), 50):
        for joint in ("", " ", "x"):
            text = joint.join(cased[i : i + 50])
            assert encode(text) == oracle.encode(text)


# --- tokenize --------------------------------------------------------------------------------------


def test_tokenize_shape_and_padding(oracle):
    texts = ["a photo of a cat", "", "간호사 &amp; doctor"]
    ids = tokenize(texts)
    assert ids.shape == (3, 77) and ids.dtype == np.int32
    for row, text in zip(ids, texts, strict=True):
        expected = [START_TOKEN, *oracle.encode(text), END_TOKEN]
        assert row.tolist() == expected + [0] * (77 - len(expected))
    assert tokenize("").tolist() == [[START_TOKEN, END_TOKEN] + [0] * 75]
    assert np.array_equal(tokenize(texts[0]), ids[:1])
    assert tokenize(["dog"], context_length=16).shape == (1, 16)


@pytest.mark.parametrize("texts", [("a", "b"), np.array(["a", "b"]), {"a": 1, "b": 2}.keys(), iter("ab")])
def test_tokenize_takes_whatever_yields_texts_in_order(texts):
    assert np.array_equal(tokenize(texts), tokenize(["a", "b"]))


@pytest.mark.parametrize("words", [75, 76, 200])
def test_tokenize_length_limit(words):
    text = " ".join(["cat"] * words)
    if words == 75:
        assert tokenize(text)[0, -1] == END_TOKEN
        return
    message = rf"^text 1 is too long: {words + 2} tokens .*limit is 77.*'cat cat.*truncate=True"
    with pytest.raises(ValueError, match=message) as raised:
        tokenize(["short", text])
    assert len(str(raised.value)) < 250
    row = tokenize(text, truncate=True)[0]
    assert row.tolist() == [START_TOKEN, *[2368] * 75, END_TOKEN]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (None, "got NoneType"),
        (3, "got int"),
        (b"cat", "got bytes"),
        ({"cat": 1}, "got dict"),
        ({"cat"}, "got set"),
        (np.array("cat"), "got ndarray with 0 dimensions"),
        (np.array([["cat"]]), "got ndarray with 2 dimensions"),
        (["cat", b"dog"], r"texts\[1\]: expected str, got bytes"),
        (["cat", "dog", None], r"texts\[2\]: expected str, got NoneType"),
        ([["cat"]], r"texts\[0\]: expected str, got list"),
        (np.array([1, 2]), r"texts\[0\]: expected str, got int64"),
    ],
)
def test_tokenize_rejects_other_types(texts, message):
    with pytest.raises(TypeError, match=message):
        tokenize(texts)


@pytest.mark.parametrize("texts", [[], (), np.array([], dtype=str)])
def test_tokenize_rejects_no_texts(texts):
    with pytest.raises(ValueError, match="at least one text"):
        tokenize(texts)


@pytest.mark.parametrize(
    ("length", "error"),
    [(1, ValueError), (0, ValueError), (-3, ValueError)]
    + [(7.0, TypeError), ("77", TypeError), (True, TypeError), (None, TypeError)],
)
def test_tokenize_rejects_context_length(length, error):
    with pytest.raises(error, match="context_length: expected"):
        tokenize("cat", context_length=length)


def test_tokenize_least_context_length():
    assert tokenize("cat", context_length=np.int64(2), truncate=True).tolist() == [[START_TOKEN, END_TOKEN]]


# --- encode, split_words, decode -------------------------------------------------------------------


@pytest.mark.parametrize("function", [encode, split_words])
@pytest.mark.parametrize("value", [None, 1, b"cat", ["cat"]])
def test_one_text_functions_reject_other_types(function, value):
    with pytest.raises(TypeError, match="text: expected str, got"):
        function(value)


def test_split_words_names_cleaned_words():
    assert split_words("It&#39;s A  Schnoodle’s <|ENDOFTEXT|>!") == [
        ("it", [585]), ("'s", [568]), ("a", [320]), ("schnoodle", encode("schnoodle")), ("'s", [568]),
        ("<|endoftext|>", [END_TOKEN]), ("!", [256]),
    ]  # fmt: skip
    assert split_words(" ") == []


@PROPERTY
@given(MIXED_TEXT)
def test_split_words_joins_to_encode(oracle, text):
    words = split_words(text)
    assert [i for _, ids in words for i in ids] == encode(text)
    assert [word for word, _ in words] == oracle.pat.findall(oracle.clean(text))
    assert all(ids and 0 <= min(ids) <= max(ids) < VOCAB_SIZE for _, ids in words)


def test_results_are_the_callers_own():
    split_words("mutable")[0][1].append(1)
    encode("mutable").append(1)
    assert split_words("mutable") == [("mutable", encode("mutable"))]
    assert encode("mutable") == [i for i in encode("mutable") if i != 1]


@PROPERTY
@given(st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=20))
@example([START_TOKEN, 2368, END_TOKEN, 0, 0])
def test_decode_equals_oracle(oracle, ids):
    assert decode(ids) == oracle.decode(ids) == decode(np.array(ids, dtype=np.int32))


def test_decode_every_entry_equals_oracle(oracle):
    for i in range(VOCAB_SIZE):
        assert decode([i]) == oracle.decode([i])


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1, VOCAB_SIZE], ValueError, r"ids\[1\]: expected 0 to 49407, got 49408"),
        ([-1], ValueError, r"ids\[0\]: .* got -1"),
        ([0, 1.5], TypeError, r"ids\[1\]: expected an int, got float"),
        ("cat", TypeError, "got str"),
        (7, TypeError, "got int"),
        (np.zeros((1, 77), np.int32), TypeError, r"ids\[0\]: expected an int, got ndarray"),
    ],
)
def test_decode_rejects(ids, error, message):
    with pytest.raises(error, match=message):
        decode(ids)


# --- the packaged merges ---------------------------------------------------------------------------


def test_packaged_merges_are_openais(oracle):
    maker = load(ROOT / "tools" / "make_merges.py", "make_merges")
    source = oracle_folder() / "bpe_simple_vocab_16e6.txt.gz"
    merges = maker.read_merges(source)
    assert len(merges) == 48894
    assert merges == list(oracle.bpe_ranks)
    packed = maker.pack(maker.merge_ids(merges))
    assert gzip.decompress(maker.OUTPUT.read_bytes()) == gzip.decompress(packed)
    assert tokenizer._vocabulary().entries == list(oracle.encoder)
    time_field, name_flag = packed[4:8], packed[3] & 8
    assert time_field == bytes(4) and not name_flag


def test_make_merges_refuses_another_file(tmp_path):
    maker = load(ROOT / "tools" / "make_merges.py", "make_merges")
    other = tmp_path / "vocabulary.gz"
    other.write_bytes(gzip.compress(b"i n\n", mtime=0))
    with pytest.raises(ValueError, match=hashlib.sha256(other.read_bytes()).hexdigest()):
        maker.read_merges(other)


# --- the process -----------------------------------------------------------------------------------


def run(code):
    """Run code in a fresh interpreter. Returns stdout; fails when anything is on stderr."""
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.strip()


def test_docstring_examples():
    assert doctest.testmod(tokenizer) == (0, 3)


def test_import_is_light():
    loaded = run(
        "import sys, clipc.tokenizer as t\n"
        "light = not {'tokenizers', 'ftfy', 'regex'} & set(sys.modules)\n"
        "t.tokenize('A photo <b>of</b> a cat (2019)?!')\n"
        "plain = 'tokenizers' in sys.modules and not {'ftfy', 'regex'} & set(sys.modules)\n"
        "t.tokenize('fish &amp; chips')\n"
        "print(light, plain, 'ftfy' in sys.modules, 'regex' in sys.modules)"
    )
    assert loaded == "True True True False"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_fork_after_use_is_silent():
    assert run(
        "import os, clipc.tokenizer as t\n"
        "t.tokenize('cat')\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        f"    os._exit(0 if t.encode('zebra crossing') == {encode('zebra crossing')} else 1)\n"
        "print(os.waitpid(pid, 0)[1])"
    ) == "0"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_fork_while_another_thread_loads():
    """The lock held by a thread that the child does not have must not stop the child."""
    assert run(
        "import os, threading, time, clipc.tokenizer as t\n"
        "with t._vocabulary_lock:\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os._exit(0 if t.encode('cat') == [2368] else 1)\n"
        "    for _ in range(300):\n"
        "        done, status = os.waitpid(pid, os.WNOHANG)\n"
        "        if done: break\n"
        "        time.sleep(0.1)\n"
        "    else:\n"
        "        os.kill(pid, 9)\n"
        "print(done == pid and status)"
    ) == "0"


def test_first_use_by_many_threads():
    texts = ["a photo of a cat", "간호사", "fish &amp; chips", "<|endoftext|>"]
    expected = tokenize(texts).tolist()
    assert run(
        "import threading, clipc.tokenizer as t\n"
        "made = []\n"
        "original = t._Vocabulary.__init__\n"
        "def counted(self):\n"
        "    made.append(self); original(self)\n"
        "t._Vocabulary.__init__ = counted\n"
        f"texts, expected, results = {texts!a}, {expected!r}, []\n"
        "barrier = threading.Barrier(8)\n"
        "def work():\n"
        "    barrier.wait(); results.append(t.tokenize(texts).tolist())\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "[x.start() for x in threads]; [x.join() for x in threads]\n"
        "print(len(made), len(results), all(r == expected for r in results))"
    ) == "1 8 True"
