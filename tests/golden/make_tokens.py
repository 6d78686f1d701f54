"""Make tokens.json: token ids of OpenAI's tokenizer for a fixed list of texts.

    pip install --no-deps clip-anytorch && pip install ftfy regex
    python tests/golden/make_tokens.py

The tests compare clipc with the installed tokenizer as well; this file pins the ids, so that a
change of `ftfy` or `regex` that moves clipc and the original alike is noticed. tokens.json names the
versions that made it.
"""

import importlib.metadata
import importlib.util
import json
import platform
from pathlib import Path

HERE = Path(__file__).resolve().parent

TEXTS = [
    "",
    "   \t\n ",
    "a photo of a cat",
    "a photo of a nurse, working at the hospital.",
    "A PHOTO of a Shiba-Inu!!! (2019)",
    "it's we're they've i'm you'll he'd don't o'clock 'tis rock'n'roll IT'S",
    "it’s a “quoted” word",
    "간호사가 병원에서 일하고 있는 사진",
    "의사 선생님 123명 ㅋㅋㅋ",
    "日本語の写真、猫が２匹います。ｶﾀｶﾅ",
    "中文照片：一只猫",
    "фотография кошки, Ёлка",
    "صورة قطة ١٢٣",
    "बिल्ली की तस्वीर ४५६",
    "👩‍👩‍👧‍👦 family 👍🏽 🇰🇷🇯🇵 🏴󠁧󠁢󠁷󠁬󠁳󠁿 ❤️ 1️⃣",
    "fish &amp; chips &lt;b&gt; &#39;ok&#39; &eacute;",
    "doubly &amp;lt;escaped&amp;gt; &amp;amp;amp; &copy &notit;",
    "<b>bold &amp; brave</b> &AMP; &#x1F600;",
    "nul\x00l bell\x07 vertical\x0btab esc\x1b[31mred\x1b[0m del\x7f \x1cfs\x1f",
    "mojibake: schÃ¶n â€œquotesâ€\x9d dâ€™accord âœ” Ã la carte ðŸ˜€",
    "İSTANBUL ıI Straße STRASSE ΣΊΣΥΦΟΣ ὈΔΥΣΣΕΎΣ Ǆ ǅ ﬁne ﬆop K Å",
    "'ſ 'S ſt <|ſtartoftext|>",
    "½ ³ Ⅷ ④ ٣ ๓ 𝟘 一二三 1,234.56 3d mp3",
    "no-break\xa0space en\u2002quad ideo\u3000graphic line\u2028para\u2029nel\x85 ogham\u1680mark",
    "zwsp\u200bend bom\ufeff word\u2060joiner \u180emongol",
    "<|startoftext|> in the <|EndOfText|> text <| startoftext |>",
    "lone \ud83d surrogate, pair \ud83d\ude00, \udfff",
    "α\u0345ᾳ !\u0345! \u0345 a\u0345b",
    "e\u0301 \u1100\u1161\u11a8 ｆｕｌｌ ｗｉｄｔｈ",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "hahahahahahahahahahahaha!!!!!!!!!!!???? ---====~~~~",
    "https://example.org/path?query=1&copy=2#fragment @user #hashtag snake_case",
    "\ufffd \u200d \u200e \U000e0001 \ue000",
]


def main():
    path = importlib.metadata.distribution("clip-anytorch").locate_file("clip/simple_tokenizer.py")
    spec = importlib.util.spec_from_file_location("openai_simple_tokenizer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = module.SimpleTokenizer()
    made_with = {name: importlib.metadata.version(name) for name in ("clip-anytorch", "ftfy", "regex")}
    made_with["python"] = platform.python_version()
    # JSON escapes keep lone surrogates and control characters as they are.
    cases = ",\n".join(json.dumps({"text": text, "ids": tokenizer.encode(text)}) for text in TEXTS)
    (HERE / "tokens.json").write_text(
        f'{{"made_with": {json.dumps(made_with)},\n"cases": [\n{cases}\n]}}\n', encoding="ascii"
    )


if __name__ == "__main__":
    main()
