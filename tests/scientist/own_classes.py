"""Classes as a scientist writes them, for the tests of fedrec.Plan(code=...)."""
# ruff: noqa: E702

from __future__ import annotations

import numpy as np


class Documented:
    """Counts films.

    A second paragraph with 'quotes', "quotes" and a backslash \\n.
    """

    def __init__(self, weight=2.0):
        "A docstring in single quotes stays."
        self.weight = weight

    def init(self, n_items, seed):
        """One line."""
        return {"v": np.zeros(n_items)}

    def fit_site(self, rows, shared, private):
        '''In the
        other
        quotes.'''
        return {"v": self.weight * rows.matrix().toarray().sum(0)}, private

    def nothing(self):
        """Only a docstring."""

    class Inner:
        """Only a docstring, too."""

    def score(self, rows, shared, private):
        return np.tile(shared["v"], (rows.n_users, 1))  # a comment stays


class OneLiners:
    """Everything on one line."""

    def __init__(self): """Nothing."""

    def init(self, n_items, seed): """Zeros."""; return {"v": np.zeros(n_items)}

    def fit_site(self, rows, shared, private):
        """Ones."""; one = 1.0
        return {"v": np.full(rows.n_items, one)}, private

    def score(self, rows, shared, private): return np.zeros((rows.n_users, rows.n_items))


class Texts:
    def init(self, n_items, seed):
        text = """a text, not a docstring"""
        return {"v": np.zeros(len(text))}

    def fit_site(self, rows, shared, private):
        return dict(shared), private

    def score(self, rows, shared, private):
        return np.zeros((rows.n_users, rows.n_items))
