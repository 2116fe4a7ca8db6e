"""The scientist's own training code as a model.

The text holds one class such as fedrec/examples/my_factors.py, with plain dicts of arrays:

    class MyModel:
        def __init__(self, **settings): ...
        def init(self, n_items, seed): ...              # -> shared
        def fit_site(self, rows, shared, private): ...  # -> (contribution, private); private is {} in round 0
        def score(self, rows, shared, private): ...     # -> (n_users, n_items), higher is better
        def finish(self, shared, merged): ...           # optional; shared + merged without it

`rows` is a core.Interactions. The contribution is the gradient of the *mean* loss over the rows, with the
names and shapes of `shared`; floats are sent as float32. torch tensors may be returned in place of numpy's.
The names `np` and, where the text says torch, `torch` are there without an import, as in a notebook cell.
"""

from __future__ import annotations

import ast
import importlib
import random
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams, add
from fedrec.core.threads import one_thread
from fedrec.errors import WrongInput

NEEDED = ("init", "fit_site", "score")
FILE = "<plan>"  # how a traceback names the text


@dataclass(frozen=True)
class OwnModel:
    """Adapts a class given as text to `Model`. The text is parsed when built, run only when used.

    Every call makes a new instance and seeds `random`, numpy and torch from the shared parameters: what the
    class keeps in itself is lost between rounds, so simulation and datasites agree bit for bit.

    Args:
        text: Python with exactly one class at its top level.
        settings: literal keyword arguments of the class.
    """

    text: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    name: ClassVar[str] = "own"
    rounds_default: ClassVar[int] = 25
    aggregator_default: ClassVar[str] = "adam"
    by_user: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.class_name  # noqa: B018  raises on a text that cannot be used

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> OwnModel:
        """The model of a plan's table: `code`, `class` and the settings of that class.

        Raises:
            WrongInput: `code` is missing, or `class` is not the class in it.
        """
        rest = {key: value for key, value in settings.items() if key not in ("code", "class")}
        if not isinstance(settings.get("code"), str):
            raise WrongInput("own code needs the setting `code`, the text of one Python class")
        model = cls(settings["code"], rest)
        if settings.get("class", model.class_name) != model.class_name:
            raise WrongInput(f"the code holds the class {model.class_name}, the plan names {settings['class']}")
        return model

    @property
    def class_name(self) -> str:
        """The name of the one class.

        Raises:
            WrongInput: no Python, not one class, or a method is missing.
        """
        try:
            body = ast.parse(self.text, FILE).body
        except (SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise WrongInput(f"own code is no Python{line}: {getattr(error, 'msg', error)}") from None
        classes = [node for node in body if isinstance(node, ast.ClassDef)]
        if len(classes) != 1:
            raise WrongInput(f"own code must hold exactly one class at its top level, it holds {len(classes)}")
        methods = {node.name for node in classes[0].body if isinstance(node, ast.FunctionDef)}
        if missing := [method for method in NEEDED if method not in methods]:
            raise WrongInput(f"class {classes[0].name} in own code lacks {', '.join(missing)}")
        return classes[0].name

    def leaves(self) -> dict[str, str]:
        """Found by asking `init` for two catalogues: what has their length is "items". Runs the text.

        Raises:
            WrongInput: an array grows with the catalogue in another way.
        """
        small, large = self.init(5, 0).tensors, self.init(7, 0).tensors
        found = {}
        for name, array in small.items():
            sizes = list(zip(array.shape, large[name].shape, strict=True))
            if any(a != b and (a, b) != (5, 7) for a, b in sizes):
                raise WrongInput(f"own code: a side of {name} must be the number of items or fixed")
            shape = ["items" if pair == (5, 7) else str(pair[0]) for pair in sizes]
            found[name] = f"{array.dtype} {' x '.join(shape)}".strip()
        return found

    def init(self, n_items: int, seed: int) -> SharedParams:
        with self._instance({}, seed) as own:
            return SharedParams(_sent(own.init(n_items, seed), "init"))

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        with self._instance(shared.tensors) as own:
            answer = own.fit_site(rows, _copies(shared.tensors), _copies(private.tensors))
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise WrongInput("own code: fit_site must return (contribution, private)")
            return SharedParams(_sent(answer[0], "fit_site")), PrivateParams(_arrays(answer[1], "fit_site"))

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        with self._instance(shared.tensors) as own:
            if not hasattr(own, "finish"):
                return add(shared, merged)
            return SharedParams(_sent(own.finish(_copies(shared.tensors), _copies(merged.tensors)), "finish"))

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        with self._instance(shared.tensors) as own:
            found = _array(own.score(rows, _copies(shared.tensors), _copies(private.tensors)))
        if found.shape != (rows.n_users, rows.n_items):
            raise WrongInput(f"own code: score has shape {found.shape}, not {(rows.n_users, rows.n_items)}")
        return found

    @contextmanager
    def _instance(self, shared: Mapping[str, Array], seed: int = 0) -> Iterator[Any]:
        """A new instance in a new module, on one thread, with seeded generators that are put back after."""
        module = ModuleType("fedrec_own_code")
        module.__dict__["np"] = np
        if "torch" in self.text:
            module.__dict__["torch"] = importlib.import_module("torch")
        sys.modules[module.__name__] = module  # dataclasses and torch look their class's module up
        for name in sorted(shared):
            seed = zlib.crc32(np.ascontiguousarray(shared[name]).tobytes(), seed)
        with one_thread(), _seeded(seed):
            exec(compile(self.text, FILE, "exec"), module.__dict__)
            yield module.__dict__[self.class_name](**self.settings)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        if torch:
            torch.set_rng_state(before[2])


def _array(value: Any) -> Array:
    found: Array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    return found


def _arrays(named: Any, method: str) -> dict[str, Array]:
    if not isinstance(named, Mapping) or not all(isinstance(name, str) for name in named):
        raise WrongInput(f"own code: {method} must return arrays by name, a dict")
    return {name: np.array(_array(value)) for name, value in named.items()}


def _sent(named: Any, method: str) -> dict[str, Array]:
    """Arrays as they travel: floats as float32."""
    arrays = _arrays(named, method)
    return {name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in arrays.items()}


def _copies(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Writable copies: own code may change its inputs in place."""
    return {name: np.array(array) for name, array in tensors.items()}
