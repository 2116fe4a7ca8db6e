"""Writes notebooks/*.ipynb, without outputs, from notebooks/src/*.py; with --check says which differ, and exits 1."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat

HERE = Path(__file__).parent


def paired(source: Path) -> str:
    """The one notebook of a source: the same text gives the same bytes, cell ids included."""
    read: Any = jupytext.read(source)
    cells = []
    for number, cell in enumerate(read.cells, 1):
        make = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
        tags = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
        cells.append(make(cell.source, id=f"cell-{number:02d}", metadata=tags))
    metadata = {"kernelspec": read.metadata["kernelspec"], "language_info": {"name": "python"}}
    text: str = nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=metadata))
    return text.rstrip("\n") + "\n"


def main(check: bool) -> int:
    """Write the notebooks, or compare; the number of those that differ."""
    wanted = {HERE / f"{source.stem}.ipynb": paired(source) for source in sorted((HERE / "src").glob("*.py"))}
    differ = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    differ += [path for path in sorted(HERE.glob("*.ipynb")) if path not in wanted]
    for path in differ:
        if check:
            print(f"notebooks/{path.name}: is not what src/{path.stem}.py gives; run make pair", file=sys.stderr)
        elif path in wanted:
            path.write_text(wanted[path], encoding="utf-8")
    return len(differ) if check else 0


if __name__ == "__main__":
    sys.exit(min(1, main("--check" in sys.argv[1:])))
