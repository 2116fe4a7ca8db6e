"""Any ratings file, as it comes: columns by name, by position or guessed, and what was left out is counted."""

from __future__ import annotations

import codecs
import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow.parquet as pq

from fedrec.core.ids import clean_id
from fedrec.errors import WrongInput

Role = Literal["user", "item", "rating", "timestamp"]
ROLES: tuple[Role, ...] = ("user", "item", "rating", "timestamp")
USUAL: dict[Role, tuple[str, ...]] = {  # lower case, letters and digits only
    "user": ("user", "userid", "uid", "username", "customer", "customerid", "member", "memberid", "reviewerid"),
    "item": (
        *("item", "itemid", "iid", "movie", "movieid", "product", "productid", "parentasin", "asin", "artist"),
        *("artistid", "song", "songid", "track", "trackid", "book", "bookid", "isbn", "business", "businessid", "sku"),
    ),
    "rating": (
        "rating",
        "ratings",
        "score",
        "stars",
        "overall",
        "count",
        "plays",
        "playcount",
        "weight",
        "quantity",
        "qty",
        "bookrating",
    ),
    "timestamp": ("timestamp", "time", "ts", "date", "datetime", "unixtime", "unixreviewtime", "createdat"),
}
LATIN = "latin-1"
LEAST_SHARE = 0.5  # of the rows must be whole, or the file is not what it was taken for


@dataclass(frozen=True, slots=True)
class Ratings:
    """The rows of a file.

    Args:
        frame: user, item (clean ids) and, where the file has them, rating (float64) and timestamp (int64, seconds);
            `group` if one was asked for.
        columns: which column of the file was taken for which role, by its name or its position from 1.
        left_out: lines or rows that could not be used, by reason.
        duplicates: rows of a user and item that another row stands for.
        encoding: of the file's text; "" of a Parquet file.
    """

    frame: pd.DataFrame
    columns: dict[Role, str]
    left_out: dict[str, int]
    duplicates: int = 0
    encoding: str = ""

    def text(self) -> str:
        """One line on what was read as what, and what was left out."""
        taken = ", ".join(f"{role} = {name}" for role, name in self.columns.items())
        lost = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items() if count)
        twice = f" ({self.duplicates} of them duplicates)" if self.duplicates else ""
        odd = "; read as latin-1, since it is not UTF-8" if self.encoding == LATIN else ""
        return f"{len(self.frame)} rows{twice}; columns: {taken}" + (f"; left out: {lost}" if lost else "") + odd


def read_ratings(
    file: Path,
    columns: dict[Role, str] | None = None,
    *,
    sep: str | None = None,
    header: bool | None = None,
    group: str | None = None,
) -> Ratings:
    """The interactions of a CSV, TSV, `.inter`, `.dat` or Parquet file.

    Args:
        columns: a column's name, or its position from 1; what is missing is guessed from usual names, or,
            without a header, from the order user, item, rating, timestamp.
        sep: between cells; None finds it.
        header: whether the first line names the columns; None looks.
        group: a column of the file, or of a users.csv beside it, that becomes the frame's `group`.

    Raises:
        WrongInput: no such file, no such column, no column for users or items, or hardly a usable row.
    """
    table, damaged = read_cells(file, sep, header)
    chosen = _chosen(table, dict(columns or {}), file)
    frame = pd.DataFrame({role: table[name] for role, name in chosen.items()})
    if group is not None:
        frame["group"] = _group(table, chosen["user"], file, group)
    before = len(frame)
    lost = {"damaged lines": damaged}
    for role in ("user", "item"):
        known = {raw: clean_id(raw) for raw in frame[role].unique()}
        frame[role] = frame[role].map(known)
        frame, lost[f"rows without a usable {role}"] = _kept(frame, role)
    if "rating" in frame:
        frame["rating"] = pd.to_numeric(frame["rating"], errors="coerce").astype("float64")
        frame["rating"] = frame["rating"].where(frame["rating"].abs() < 3e38)
        frame, lost["rows without a number as rating"] = _kept(frame, "rating")
    if "timestamp" in frame:
        frame["timestamp"] = _seconds(frame["timestamp"])
        frame, lost["rows without a usable time"] = _kept(frame, "timestamp")
        frame["timestamp"] = frame["timestamp"].astype("int64")
    if len(frame) < max(1, LEAST_SHARE * before):
        raise WrongInput(f"{file.name}: {len(frame)} of {before} rows can be used; name the columns ({_spell(chosen)})")
    twice, encoding = int(frame.duplicated(["user", "item"]).sum()), "" if _is_parquet(file) else encoding_of(file)
    taken = {role: str(name) for role, name in chosen.items()}
    return Ratings(frame.reset_index(drop=True), taken, lost, twice, encoding)


def encoding_of(file: Path) -> str:
    """UTF-8, or Latin-1 where a file is none: there every byte is a letter, so that no two ids become one."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with file.open("rb") as data:
            while part := data.read(1 << 20):
                decoder.decode(part)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return LATIN
    return "utf-8-sig"


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() == ".parquet"


def read_cells(file: Path, sep: str | None = None, header: bool | None = None) -> tuple[pd.DataFrame, int]:
    """(the table, how many lines are damaged) of a CSV, TSV or Parquet file; cells are text but for Parquet's.

    Args:
        sep, header: as in `read_ratings`.

    Raises:
        WrongInput: no such file, or it is no table.
    """
    if not file.is_file():
        raise WrongInput(f"{file}: there is no such file")
    return _parquet(file) if _is_parquet(file) else _text(file, sep, header)


def _group(table: pd.DataFrame, user: str, file: Path, column: str) -> pd.Series:
    """The column's value by row; one that stands in users.csv goes by the user, whose id is its first column."""
    if column in table:
        return table[column].astype(str)
    beside = file.with_name("users.csv")
    people = pd.read_csv(beside, dtype=str, keep_default_na=False) if beside.is_file() else pd.DataFrame()
    if column not in people:
        raise WrongInput(f"--by column:{column}: neither {file.name} nor a users.csv beside it has this column")
    ids = [clean_id(raw) or "" for raw in people.iloc[:, 0]]
    of_user = dict(zip(ids, people[column], strict=True))
    return table[user].map(lambda raw: of_user.get(clean_id(raw) or "", ""))


def _kept(frame: pd.DataFrame, role: str) -> tuple[pd.DataFrame, int]:
    whole = frame[frame[role].notna()]
    return whole, len(frame) - len(whole)


def _parquet(file: Path) -> tuple[pd.DataFrame, int]:
    try:
        return pq.read_table(file).to_pandas(), 0
    except (OSError, ValueError) as error:
        raise WrongInput(f"{file.name}: cannot be read as Parquet ({type(error).__name__})") from None


def _text(file: Path, sep: str | None, header: bool | None) -> tuple[pd.DataFrame, int]:
    """Every cell as text; columns are named, or numbered from 1 as text; lines with too many cells are counted."""
    try:
        encoding = encoding_of(file)
        with file.open(encoding=encoding, newline="") as lines:
            first = [line for line in (lines.readline() for _ in range(20)) if line.strip()]
    except OSError as error:
        raise WrongInput(f"{file.name}: cannot be read ({error.strerror})") from None
    if not first:
        raise WrongInput(f"{file.name}: is empty")
    mark = sep or _separator(first[0])
    cells = next(csv.reader([first[0]], delimiter=mark)) if len(mark) == 1 else first[0].split(mark)
    named = _names(cells) if header is None else header
    try:
        table: pd.DataFrame = pd.read_csv(
            file,
            sep=mark if len(mark) == 1 else re.escape(mark),
            engine="c" if len(mark) == 1 else "python",
            header=0 if named else None,
            dtype=str,
            keep_default_na=False,
            encoding=encoding,
            on_bad_lines="skip",
            index_col=False,
        )
    except (ValueError, OSError) as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        raise WrongInput(f"{file.name}: cannot be read as a table ({type(error).__name__})") from None
    table.columns = [str(name).strip() if named else str(place + 1) for place, name in enumerate(table.columns)]
    with file.open("rb") as lines_of:
        lines_in_file = sum(1 for line in lines_of if line.strip())
    return table, max(0, lines_in_file - named - len(table))


def _separator(line: str) -> str:
    if "::" in line:
        return "::"
    return max("\t,;|", key=line.count) if any(mark in line for mark in "\t,;|") else " "


def _names(cells: list[str]) -> bool:
    """Whether the first line names columns: one of the usual names, or no number in it."""
    usual = any(plain(cell) in names for cell in cells for names in USUAL.values())
    return usual or not any(re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", cell) for cell in cells)


def plain(name: str) -> str:
    """A column's name in lower case, letters and digits only, without a kind such as `:token`."""
    return re.sub(r"[^a-z0-9]", "", str(name).split(":", maxsplit=1)[0].lower())


def _chosen(table: pd.DataFrame, asked: dict[Role, str], file: Path) -> dict[Role, str]:
    names = [str(name) for name in table.columns]
    chosen: dict[Role, str] = {}
    for role, name in asked.items():
        if name in names:
            chosen[role] = name
        elif name.isdecimal() and 1 <= int(name) <= len(names):
            chosen[role] = names[int(name) - 1]
        else:
            raise WrongInput(f"{file.name}: has no column {name}; it has {', '.join(names)}")
    numbered = names == [str(place + 1) for place in range(len(names))]
    for place, role in enumerate(ROLES):
        if role in chosen:
            continue
        free = [name for name in names if name not in chosen.values()]
        if numbered:
            if place < len(names) and names[place] in free:
                chosen[role] = names[place]
        elif found := [name for usual in USUAL[role] for name in free if plain(name) == usual]:
            chosen[role] = found[0]
    if missing := [role for role in ("user", "item") if role not in chosen]:
        wanted = " and ".join(f"--{role}-column" for role in missing)
        raise WrongInput(f"{file.name}: which column is it? Give {wanted}; it has {', '.join(names)}")
    return {role: chosen[role] for role in ROLES if role in chosen}


def _seconds(column: pd.Series) -> pd.Series:
    """Seconds since 1970 as Float64 from numbers (s, ms, us or ns by their size) or from dates; NaN where neither."""
    number = pd.to_numeric(column, errors="coerce")
    if number.notna().mean() < LEAST_SHARE:
        moments = pd.to_datetime(column, errors="coerce", utc=True, format="mixed")
        seconds = (moments - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)
        return seconds.where(moments.notna() & (seconds >= 0))
    usual = number.median()
    for scale in (1e9, 1e6, 1e3):
        if usual / scale > 1e8:  # after 1973 in this unit
            number = number // scale
            break
    return number.where((number >= 0) & (number < 2**53))


def _spell(chosen: dict[Role, str]) -> str:
    return ", ".join(f"{role} = {name}" for role, name in chosen.items())
