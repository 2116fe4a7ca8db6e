"""Characters that look like others: mixed scripts, doubles of Latin letters, letters that Python reads otherwise."""

from __future__ import annotations

import re
import unicodedata

# Cyrillic, Greek and Armenian letters that are drawn as Latin ones (from Unicode's confusables.txt, the common part).
DOUBLES = dict(
    zip(
        "аеорсухіјѕԁһԛԝӏьгкмтвн" "АВЕКМНОРСТУХІЈЅԌԚԜӀ" "ινορυ" "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ" "օսոհցզ",
        "aeopcyxijsdhqwlbrkmtbh" "ABEKMHOPCTYXIJSGQWI" "ivopu" "ABEZHIKMNOPTYX" "ounhgq",
        strict=True,
    )
)  # fmt: skip
_WORD = re.compile(r"[^\W\d_][\w]*")
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "FULLWIDTH", "MATHEMATICAL")


def look_alikes(text: str) -> list[tuple[int, str]]:
    """Line numbers with what is odd there; plain words of one script, such as a Russian comment, are not."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        for match in _WORD.finditer(line):
            if reason := odd(match[0]):
                found.append((number, reason))
        for char in line:
            if ord(char) > 127 and (
                char.isdecimal() or unicodedata.name(char, "").startswith(("FULLWIDTH", "MODIFIER"))
            ):
                found.append((number, f"{char!r} (U+{ord(char):04X}) instead of a plain sign"))
    return found


def odd(word: str) -> str:
    """What is odd about a word, or an empty text."""
    word = "".join(char for char in word if unicodedata.category(char) != "No")  # the 2 of a square in a comment
    if word.isascii():
        return ""
    scripts = {_script(char) for char in word if char.isalpha()} - {""}
    if len(scripts) > 1:
        return f"{word!r} mixes the scripts {', '.join(sorted(name.capitalize() for name in scripts))}"
    if unicodedata.normalize("NFKC", word) != word:
        return f"{word!r} is read by Python as {unicodedata.normalize('NFKC', word)!r}"
    letters = [char for char in word if char.isalpha() and not char.isascii()]
    if letters and all(char in DOUBLES for char in letters):
        return f"{word!r} can be taken for {''.join(DOUBLES.get(char, char) for char in word)!r}"
    return ""


def _script(char: str) -> str:
    name = unicodedata.name(char, "")
    return next((script for script in _SCRIPTS if name.startswith(script)), "other" if name else "")
