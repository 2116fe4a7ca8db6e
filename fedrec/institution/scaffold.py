"""A new institution's folder: settings, schema guessed from the data, data card, mock, keys. Overwrites nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fedrec.config import SchemaConfig, SiteConfig
from fedrec.errors import ConfigError, WrongInput
from fedrec.institution.mock import make_mock
from fedrec.institution.site import Keys
from fedrec.institution.sources import read_file

ROLES = ("user", "item", "rating", "time")
_USUAL = {  # how columns are called, letters and digits only, most telling first
    "user": ("user", "userid", "uid", "customer", "customerid", "member", "memberid", "reader", "readerid", "account"),
    "item": (
        "item", "itemid", "iid", "movie", "movieid", "film", "filmid", "product", "productid", "sku",
        "book", "bookid", "isbn", "article", "articleid", "track", "trackid", "song", "songid",
    ),
    "rating": ("rating", "score", "stars", "grade", "plays", "playcount", "count"),
    "time": ("timestamp", "time", "ts", "date", "datetime", "createdat", "ratedat", "at"),
}  # fmt: skip
# Usual scales, narrowest first. The public schema holds one of these and never the data's own extremes.
_SCALES = ((0.0, 1.0), (1.0, 5.0), (0.5, 5.0), (0.0, 5.0), (1.0, 10.0), (0.0, 10.0), (1.0, 100.0), (0.0, 100.0))
_MILLISECONDS = 10**11  # as seconds this is the year 5138


@dataclass
class Guess:
    """Which columns a data file seems to have, and what was guessed, in words."""

    columns: dict[str, str] = field(default_factory=dict)
    scale: tuple[float, float, float] = (1.0, 5.0, 1.0)
    unit: str = "s"
    said: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Made:
    """What `scaffold` wrote."""

    folder: Path
    files: tuple[str, ...]
    key: str  # public, as consortium.toml pins it
    said: tuple[str, ...]  # what was guessed


def guess(data: Path, given: Mapping[str, str] | None = None) -> Guess:
    """Read a data file's columns and say which is which.

    Args:
        given: columns that are known, by user, item, rating or time; an empty name means that there is none.

    Raises:
        DataError: the file cannot be read.
        WrongInput: no column looks like the user's or the item's, or a given one is not there.
    """
    table, found = read_file(data, header(data)), Guess()
    names = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(table.column_names)}
    for role in ROLES:
        named = (given or {}).get(role)
        name = named if named is not None else next((names[usual] for usual in _USUAL[role] if usual in names), "")
        if named and named not in table.column_names:
            raise WrongInput(f"{data.name}: has no column {named}; it has {', '.join(table.column_names)}")
        if name:
            found.columns[role] = name
            found.said += [] if named else [f"{role} is the column {name}, by its name"]
        elif role in ("user", "item"):
            shown = ", ".join(table.column_names)
            raise WrongInput(f"{data.name}: which column is the {role}? Say --column {role}=NAME; it has {shown}")
        else:
            found.said.append(f"no column of a {role}")
    if "rating" in found.columns:
        _guess_scale(table[found.columns["rating"]], found)
    if "time" in found.columns:
        _guess_unit(table[found.columns["time"]], found)
    return found


def header(data: Path) -> list[str]:
    """A data file's column names. Raises: DataError, as `read_file`."""
    if data.suffix.lower() == ".parquet" and data.is_file():
        import pyarrow.parquet as parquet

        try:
            return list(parquet.read_schema(data).names)
        except (pa.ArrowException, OSError):
            return []  # read_file says what is wrong with it
    from fedrec.institution.table import read_arrow

    return list(read_arrow(data).column_names)


def scaffold(
    folder: Path, *, name: str, owner: str, title: str = "", port: int = 0, data: Path | None = None,
    schema: Path | None = None, columns: Mapping[str, str] | None = None, consortium: str = "../consortium.toml",
) -> Made:  # fmt: skip
    """Make an institution's folder: site.toml, schema.toml, DATASHEET.md, mock.csv, data/ and keys.

    Everything is checked first, and nothing is written when something is wrong.

    Args:
        data: .csv, .tsv or .parquet, copied to data/; None = data/ratings.csv comes later.
        schema: a schema.toml to copy; None = one guessed from `data`.
        columns: see `guess`.

    Raises:
        WrongInput: a file that would be written is there already, or an argument is wrong.
    """
    title = title or name.replace("-", " ").title()
    target = "data/ratings" + (data.suffix.lower() if data is not None else ".csv")
    files = ["site.toml", "schema.toml", "DATASHEET.md", "mock.csv", *([target] if data is not None else [])]
    inside = data is not None and data.resolve() == (folder / target).resolve()
    there = [file for file in files if (folder / file).exists() and not (inside and file == target)]
    if there:
        raise WrongInput(f"{folder}: {', '.join(there)} is there already; nothing was written")
    if data is not None and (not data.is_file() or data.suffix.lower() not in (".csv", ".tsv", ".parquet")):
        raise WrongInput(f"{data}: must be a .csv, .tsv or .parquet file that is there")
    found = Guess(dict(zip(ROLES, ("user", "item", "rating", "timestamp"), strict=True)))
    if schema is None and data is not None:
        found = guess(data, columns)
    elif schema is None:
        found.said.append("no data file was given: the columns user, item, rating (1 to 5) and timestamp are assumed")
    texts = {"site.toml": _site_text(name, title, owner, port, target, consortium)}
    texts["schema.toml"] = _schema_text(title, found) if schema is None else _text_of(schema)
    config = _checked(texts)
    texts["DATASHEET.md"] = _card(title, config)
    texts["mock.csv"] = make_mock(config).to_csv(index=False)
    (folder / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
    for file, text in texts.items():
        with (folder / file).open("x", encoding="utf-8") as out:
            out.write(text)
    if data is not None and not inside:
        descriptor = os.open(folder / target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with data.open("rb") as rows, os.fdopen(descriptor, "wb") as copy:
            shutil.copyfileobj(rows, copy)
    return Made(folder, tuple(files), Keys.load_or_make(folder / "state").public, tuple(found.said))


def _guess_scale(column: pa.ChunkedArray, found: Guess) -> None:
    values = _numbers(column)
    if values.empty:
        raise WrongInput(
            f"the column {found.columns['rating']} holds no number; say --column rating= when there is none"
        )
    least, most = float(values.min()), float(values.max())
    step = 1.0 if (values % 1 == 0).all() else 0.5 if (values % 0.5 == 0).all() else 0.01
    fitting = [(low, high) for low, high in _SCALES if low <= least and most <= high]
    if fitting:
        low, high = fitting[0]
        why = "the narrowest usual scale that holds every rating"
    else:
        low, high = (0.0 if least >= 0 else -1e6), 1e6
        why = "no usual scale holds every rating: put the real bounds in"
    found.scale = (low, high, step)
    found.said.append(f"ratings go from {low:g} to {high:g} in steps of {step:g}: {why}")


def _guess_unit(column: pa.ChunkedArray, found: Guess) -> None:
    values = _numbers(column)
    if len(values) < len(column) / 2:
        found.unit, why = "iso", "dates and times as text, in UTC unless they say otherwise"
    elif (values.abs() > _MILLISECONDS).mean() > 0.5:
        found.unit, why = "ms", "milliseconds since 1970"
    else:
        found.unit, why = "s", "seconds since 1970"
    found.said.append(f"times are {why}")


def _numbers(column: pa.ChunkedArray) -> pd.Series[float]:
    """The cells that are finite numbers; dates are none."""
    if pa.types.is_temporal(column.type):
        return pd.Series(dtype=float)
    cells = pc.cast(column, pa.string()).to_pandas()
    numbers: pd.Series[float] = pd.to_numeric(cells, errors="coerce").astype(float)
    return numbers[numbers.abs() < float("inf")]


def _text_of(schema: Path) -> str:
    try:
        return schema.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongInput(f"{schema}: cannot be read as UTF-8 text ({type(error).__name__})") from None


def _checked(texts: Mapping[str, str]) -> SchemaConfig:
    """The schema, when both files are right."""
    with tempfile.TemporaryDirectory() as place:
        for file, text in texts.items():
            (Path(place) / file).write_text(text, encoding="utf-8")
        try:
            SiteConfig.load(Path(place) / "site.toml")
            return SchemaConfig.load(Path(place) / "schema.toml")
        except ConfigError as error:
            raise ConfigError(Path(error.file).name, error.problems) from None


def _site_text(name: str, title: str, owner: str, port: int, data: str, consortium: str) -> str:
    lines = [f"name = {_quoted(name)}", f"title = {_quoted(title)}", f"owner = {_quoted(owner)}"]
    lines.append(f"port = {port}" + ("" if port else "   # any free port; fedrec site status tells which"))
    lines += [f"data = {_quoted(data)}", f"consortium = {_quoted(consortium)}", "", "[limits]"]
    lines.append(
        "own_code = false   # the scientist's own training code: read docs/threat-model.md before you allow it"
    )
    return "\n".join(lines) + "\n"


def _schema_text(title: str, found: Guess) -> str:
    lines = [
        f"title = {_quoted(title)}",
        'on_duplicate = "last"',
        "max_rejected = 0.01   # share of rows",
        "",
        "[columns]",
    ]
    lines += [f"{role} = {_quoted(column)}" for role, column in found.columns.items()]
    if "rating" in found.columns:
        low, high, step = found.scale
        lines += ["", "[rating]", f"min = {low}", f"max = {high}", f"step = {step}"]
    if "time" in found.columns:
        lines += ["", "[time]", f"unit = {_quoted(found.unit)}"]
    return "\n".join(lines) + "\n"


def _card(title: str, schema: SchemaConfig) -> str:
    named = ", ".join(f"`{name}`" for name in schema.row_columns)
    return (
        f"# {title}\n\n**What.** One row is what one user did with one item: {named}."
        " `schema.toml` says the same in a form that programs read.\n\n"
        "**Where from.** (Which system, since when, which part of it.)\n\n"
        "**How collected.** (By whom, for what, with whose consent.)\n\n"
        "**Who may use it.** (For which purposes; what must not be done with it.)\n\n"
        "**What is left out.** Columns that `schema.toml` does not name are not read.\n\n"
        "**Known gaps.** (Who and what is missing.)\n\n"
        "**Mock.** `mock.csv` is made from `schema.toml` alone: same columns and scale, no real row.\n"
    )


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
