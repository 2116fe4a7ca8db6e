"""Reading a CSV or TSV file strictly: every cell is text, every line is whole, and no message holds a value."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import compute as pc
from pyarrow import csv as arrow_csv

from fedrec.errors import DataError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_table(path: Path, wanted: Sequence[str] | None = None) -> pd.DataFrame:
    """As `read_arrow`, in a DataFrame."""
    frame: pd.DataFrame = read_arrow(path, wanted).to_pandas(use_threads=False)
    return frame


def read_arrow(path: Path, wanted: Sequence[str] | None = None) -> pa.Table:
    """The wanted columns (None = all) of a UTF-8 file with a header, every cell as text.

    Nothing is guessed: "NA" and "007" stay what they are, and an empty cell is an empty text. A line with a
    cell too many or too few spoils the whole file, since it shows that the file was not written properly.

    Raises:
        DataError: no such file, another suffix, empty, not text, columns missing or named twice, a damaged line.
    """
    separator = _SEPARATORS.get(path.suffix.lower())
    if separator is None:
        raise DataError(f"{path.name}: the suffix must be .csv or .tsv")
    try:
        columns = _columns(path, separator, wanted)
        # One thread: pyarrow's pool aborts a process that ends right after a parse error.
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(use_threads=False),
            parse_options=arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        )
    except FileNotFoundError:
        raise DataError(f"{path.name}: there is no such file") from None
    except UnicodeDecodeError:
        raise DataError(f"{path.name}: is not UTF-8 text") from None
    except (pa.ArrowException, csv.Error) as error:
        text = "is not UTF-8 text" if "UTF8" in str(error) else "a line has more or fewer cells than the header"
        raise DataError(f"{path.name}: {text}") from None
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror})") from None
    if table.num_rows == 0:
        raise DataError(f"{path.name}: has a header but no rows")
    # A quote that is never closed swallows the lines after it, and would lose them without a word.
    if _quotes(path) % 2 or any(_has_line_break(table[name]) for name in columns):
        raise DataError(f"{path.name}: a quote is not closed, or a cell has a line break")
    return table


def _columns(path: Path, separator: str, wanted: Sequence[str] | None) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        found = next(csv.reader(file, delimiter=separator), None)
    if not found:
        raise DataError(f"{path.name}: is empty")
    # A file without a header has a row in its first line, and a row's values are not shown.
    header = all(name.isidentifier() and len(name) <= 40 for name in found)
    shown = ", ".join(found) if header else f"{len(found)} cells that do not look like column names"
    needed = found if wanted is None else list(wanted)
    if not set(needed) <= set(found):
        raise DataError(f"{path.name}: expected the columns {', '.join(needed)}; found {shown}")
    if any(found.count(name) > 1 for name in needed):
        raise DataError(f"{path.name}: has a column more than once; found {shown}")
    return needed


def _quotes(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b'"') for block in iter(lambda: file.read(1 << 20), b""))


def _has_line_break(column: pa.ChunkedArray) -> bool:
    return any(pc.any(pc.match_substring(column, mark)).as_py() for mark in "\n\r")
