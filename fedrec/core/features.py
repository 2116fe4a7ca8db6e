"""What an institution knows about users or items, by index, as models read it: one column of numbers at a time."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.core.seeds import mix


@dataclass(frozen=True, slots=True)
class Labels:
    """One feature of texts.

    Args:
        values: the texts that occur.
        has: who has which; shape (n, values).
        known: who has any; shape (n,).
    """

    values: tuple[str, ...]
    has: sparse.csr_matrix
    known: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Features:
    """All features of n users, or of n items.

    Args:
        numbers: by name, NaN where unknown; shape (n,).
        labels: texts and tags by name.
    """

    n: int
    numbers: Mapping[str, NDArray[np.float64]]
    labels: Mapping[str, Labels]

    def column(self, name: str) -> NDArray[np.float64]:
        """One column, NaN where it is unknown; shape (n,). A feature that nobody keeps is unknown for all.

        Args:
            name: `age` is a number; `genre=War` is 1 for who has that text, else 0; `age?` is 1 where unknown, else 0.
        """
        if name.endswith("?") and "=" not in name:
            return 1.0 - self._known(name[:-1])
        feature, equals, text = name.partition("=")
        if not equals:
            return np.array(self.numbers.get(name, np.full(self.n, np.nan)))
        if feature not in self.labels:
            return np.full(self.n, np.nan)
        labels = self.labels[feature]
        found = np.zeros(self.n)
        if text in labels.values:
            found[:] = labels.has[:, [labels.values.index(text)]].toarray()[:, 0]
        found[~labels.known] = np.nan
        return found

    def columns(self) -> tuple[str, ...]:
        """Every column there is: the numbers, and one for each text."""
        texts = [f"{name}={value}" for name, labels in self.labels.items() for value in labels.values]
        return (*self.numbers, *texts)

    def take(self, keep: NDArray[Any] | slice) -> Features:
        """The users or items at these positions."""
        numbers = {name: array[keep] for name, array in self.numbers.items()}
        labels = {name: Labels(one.values, one.has[keep], one.known[keep]) for name, one in self.labels.items()}
        return Features(len(np.arange(self.n)[keep]), numbers, labels)

    def keys(self) -> NDArray[np.uint64]:
        """One hash of each one's features, whatever its index; equal ones have equal keys; shape (n,)."""
        total = np.zeros(self.n, dtype=np.uint64)
        for name, array in self.numbers.items():
            known = np.where(np.isnan(array), np.inf, array + 0.0)
            total += mix(known.view(np.uint64) ^ _hash(name))
        for name, labels in self.labels.items():
            texts = np.array([_hash(f"{name}={value}") for value in labels.values], dtype=np.uint64)
            rows = labels.has.tocoo()
            np.add.at(total, rows.row, mix(texts)[rows.col])
        return mix(total)

    def _known(self, name: str) -> NDArray[np.float64]:
        if name in self.labels:
            return self.labels[name].known.astype(np.float64)
        return (~np.isnan(self.column(name))).astype(np.float64)


def from_values(columns: Mapping[str, Sequence[Any]], n: int) -> Features:
    """Features from plain values by name: numbers, texts, or lists of texts; None where unknown."""
    numbers, labels = {}, {}
    for name, values in columns.items():
        known = np.array([value is not None for value in values], dtype=np.bool_)
        if all(value is None or isinstance(value, int | float) for value in values):
            numbers[name] = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
            continue
        lists = [[] if value is None else [value] if isinstance(value, str) else list(value) for value in values]
        names = tuple(sorted({text for one in lists for text in one}))
        place = {text: index for index, text in enumerate(names)}
        pairs = sorted({(row, place[text]) for row, one in enumerate(lists) for text in one})
        where = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        has = sparse.csr_matrix((np.ones(len(pairs)), (where[0], where[1])), shape=(n, len(names)))
        labels[name] = Labels(names, has, known)
    return Features(n, numbers, labels)


def joined(parts: Sequence[Features]) -> Features:
    """The users of several institutions one after another; what one does not keep is unknown for its users."""
    n = sum(part.n for part in parts)
    numbers = {
        name: np.concatenate([part.column(name) for part in parts])
        for name in dict.fromkeys(name for part in parts for name in part.numbers)
    }
    labels = {}
    for name in dict.fromkeys(name for part in parts for name in part.labels):
        values = tuple(sorted({v for part in parts if name in part.labels for v in part.labels[name].values}))
        dense = [np.stack([part.column(f"{name}={v}") for v in values], 1) for part in parts]
        has = sparse.csr_matrix(np.nan_to_num(np.concatenate(dense)))
        labels[name] = Labels(values, has, np.concatenate([part._known(name) > 0 for part in parts]))
    return Features(n, numbers, labels)


def _hash(text: str) -> np.uint64:
    data = text.encode()
    return np.uint64(zlib.crc32(data) << 32 | zlib.crc32(data, 1))
