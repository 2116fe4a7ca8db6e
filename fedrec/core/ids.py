"""One spelling for each raw id, so that two writings of one user or item are one."""

from __future__ import annotations

import unicodedata

LONGEST = 256  # characters


def clean_id(value: object) -> str | None:
    """The id as text in Unicode NFC without outer blanks, or None when it cannot be an id.

    Ids are opaque: leading zeros stay and look-alike letters stay different. None, NaN, blank text,
    control characters (newline, NUL), lone surrogates and more than 256 characters give None.
    A whole float, which pandas makes of integers next to gaps, reads as the integer.
    """
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return None
        value = int(value) if value.is_integer() else value
    if value is None:
        return None
    text = unicodedata.normalize("NFC", str(value)).strip()
    if not text or len(text) > LONGEST or any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        return None
    return text
