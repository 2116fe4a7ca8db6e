"""One thread for linear algebra, so that a sum has one order and a model has one hash."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import scipy.linalg  # noqa: F401  brings its own BLAS, which must be there when the libraries are looked up
from threadpoolctl import ThreadpoolController

_found: dict[bool, ThreadpoolController] = {}


def _libraries() -> ThreadpoolController:
    """The loaded linear-algebra libraries, looked up once without and once with torch.

    Kept, because the look-up reads files: in the jail there are none.
    """
    with_torch = "torch" in sys.modules
    if with_torch not in _found:
        _found[with_torch] = ThreadpoolController()
    return _found[with_torch]


_libraries()


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS, OpenMP and, when it is already imported, torch run on one thread inside; restored after.

    Torch imported inside is not caught: import it before. May be nested.
    """
    torch: Any = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 1
    with _libraries().limit(limits=1):
        if before != 1:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if before != 1:
                torch.set_num_threads(before)
