"""The plan: what a scientist proposes, as the text that an owner reads and a site runs.

The text is TOML with a fixed order, so one plan has one text and one fingerprint. Own code stands in
it as a literal string between three single quotes: what the owner reads is what runs.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedrec.errors import Refused
from fedrec.exchange.ckks import MAX_SITES
from fedrec.exchange.ckks_plan import layout_of
from fedrec.exchange.codec import CODECS, Codec
from fedrec.exchange.excludes import check_excluded
from fedrec.exchange.plan_form import bad_form, check_text, table_text
from fedrec.exchange.privacy import Privacy

PROTOCOLS = ("p1", "p2", "p3", "all")
VALIDATION = "validation"  # rows that are neither trained on under p1 and p2 nor held out for their evaluation
DTYPES = {"float16": 2, "float32": 4, "float64": 8, "int32": 4, "int64": 8}
_USE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SECTIONS = {
    "name",
    "purpose",
    "use",
    "fedrec",
    "seed",
    "model",
    "aggregator",
    "asks",
    "leaves",
    "local",
    "schedule",
    "stop",
    "search",
    "start",
    "codec",
    "privacy",
}
_OPTIONAL = ("local", "schedule", "stop", "search", "codec", "privacy")
SPARE = 2  # rounds of a run that may be done again under a secure sum, when a site is lost
_ASKS = {"train", "rounds", "runs", "evaluate", "validate", "publish", "days", "sites"}
_TOP_TYPES = {"name": str, "purpose": str, "fedrec": str, "seed": int}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array that leaves: its dtype and its shape, where "items" stands for the catalogue's length.

    Args:
        norm: largest L2 norm over all its numbers that the guard lets out; None = any.
        fixed: (bits behind the point, bits in all) of its numbers in a sum that nobody sees the parts of; None = they
            leave as they are.
    """

    dtype: str
    shape: tuple[int | str, ...]
    norm: float | None = None
    fixed: tuple[int, int] | None = None

    def sized(self, n_items: int) -> tuple[int, ...]:
        """The shape in numbers, for a catalogue of `n_items`."""
        return tuple(n_items if size == "items" else int(size) for size in self.shape)

    def nbytes(self, n_items: int) -> int:
        """Bytes of the array itself, without a header."""
        total = DTYPES[self.dtype]
        for size in self.sized(n_items):
            total *= size
        return total

    def __str__(self) -> str:
        most = "" if self.norm is None else f" norm {self.norm!r}"
        form = "" if self.fixed is None else f" fixed {self.fixed[0]} of {self.fixed[1]}"
        return f"{self.dtype} {' x '.join(str(size) for size in self.shape)}{most}{form}"

    @classmethod
    def parse(cls, text: str) -> Tensor:
        """The tensor that `str` wrote, such as "float32 items x 64 norm 10.0 fixed 21 of 32"."""
        text, _, form = text.partition(" fixed ")
        text, _, most = text.partition(" norm ")
        bits, _, width = form.partition(" of ")
        fixed = (int(bits), int(width)) if form else None
        if fixed is not None and not (fixed[1] in (8, 16, 32, 64) and 0 <= fixed[0] < fixed[1]):
            raise ValueError(f"fixed {form}")
        dtype, _, shape = text.partition(" ")
        sizes = tuple(size if size == "items" else int(size) for size in shape.split(" x ")) if shape else ()
        if dtype not in DTYPES or any(isinstance(size, int) and size < 1 for size in sizes):
            raise ValueError(text)
        norm = float(most) if most else None
        if norm is not None and not 0 < norm < float("inf"):
            raise ValueError(f"norm {most}")
        return cls(dtype, sizes, norm, fixed)


@dataclass(frozen=True, slots=True)
class PlanText:
    """A plan as data; `text()` and `parse()` are inverse.

    Args:
        model: name and literal settings; own code has name "own", "class" and "code".
        aggregator: name and literal settings of what the centre does.
        train: which rows a run trains on, one run each: p1, p2, p3 or all.
        rounds: training rounds of one run, at least 1.
        runs: how many runs of each kind may be made, at least 1.
        evaluate: whether hit counts, as sums over users, are asked for after the last round.
        publish: whether the merged model is installed at the sites.
        days: how long the permit is asked for.
        use: one of the purposes that the sites allow, such as research; empty where they do not ask.
        leaves: every array of an update, by name.
        local: epochs at the site, after which parameters leave; empty = the model's own contribution leaves.
        schedule: name and settings of which sites train when; empty = every site in every round.
        stop: when a run ends before its last round; empty = never.
        validate: models of one run that may be measured on the validation rows, after its last round.
        sites: the institutions that are asked, by name; empty = all.
        start: SHA-256 of the encoded model that round 0 starts from; empty = the model's own beginning.
        search: settings that the centre tries on the merged statistic, by name.
        codec: by name, how updates are rounded so that they travel in fewer bytes; empty = not at all.
        privacy: what stands between an update and the centre, see `Privacy`; empty = nothing.
    """

    name: str
    purpose: str
    model: Mapping[str, Any]
    aggregator: Mapping[str, Any]
    leaves: Mapping[str, Tensor]
    rounds: int = 1
    train: tuple[str, ...] = ("all",)
    runs: int = 1
    evaluate: bool = False
    publish: bool = False
    days: int = 30
    seed: int = 0
    fedrec: str = field(default="")
    use: str = ""
    local: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    stop: Mapping[str, Any] = field(default_factory=dict)
    validate: int = 0
    sites: tuple[str, ...] = ()
    start: str = ""
    search: Mapping[str, Any] = field(default_factory=dict)
    codec: Mapping[str, Any] = field(default_factory=dict)
    privacy: Mapping[str, Any] = field(default_factory=dict)

    @property
    def protects(self) -> Privacy:
        """What stands between an update and the centre."""
        return Privacy.from_table(self.privacy)

    @property
    def packs(self) -> Codec | None:
        """The codec of the plan's updates; None where they travel as they are."""
        return CODECS[self.codec["name"]] if self.codec else None

    def travels(self, n_items: int) -> int:
        """Bytes of an update's arrays as they travel, without a header."""
        if self.protects.sum == "ckks":
            return layout_of(self, n_items, len(self.sites) or MAX_SITES).nbytes
        codec, total = self.packs or CODECS["float32"], 0
        for tensor in self.leaves.values():
            shape, dtype = tensor.sized(n_items), np.dtype(f"uint{tensor.fixed[1]}" if tensor.fixed else tensor.dtype)
            total += codec.size(np.broadcast_to(np.zeros((), dtype), shape))
        return total

    @property
    def measures(self) -> tuple[str, ...]:
        """Numbers that leave beside each update, because the centre weighs or stops by them."""
        weighed = "*".join(str(value) for key, value in self.aggregator.items() if key == "by" or key.endswith("_by"))
        found = [name for name in ("data-quality", "model-quality") if name in weighed.split("*")]
        return (*found, "global-quality") if self.stop.get("patience") else tuple(found)

    @property
    def features(self) -> tuple[str, ...]:
        """Whose features the model's setting `columns` names, of "users" and "items"; a job gets no others."""
        given = self.model.get("columns", ())
        columns = [str(name) for name in given] if isinstance(given, list | tuple) else []  # of own code: anything
        return tuple(of for of in ("users", "items") if any(name.startswith(f"{of[:-1]}.") for name in columns))

    @property
    def train_tasks(self) -> int:
        """How many training rounds the plan needs at one site, and some to do again without a site that was lost."""
        spare = 0 if self.protects.sum == "plain" else SPARE
        return (self.rounds + spare) * self.runs * len(self.train)

    @property
    def own_code(self) -> str | None:
        """The scientist's own code, or None for a recipe."""
        return self.model.get("code") if self.model["name"] == "own" else None

    def text(self) -> str:
        """The plan's one text, which stands between the triple quotes of the request."""
        use = {"use": self.use} if self.use else {}
        start = {"start": self.start} if self.start else {}
        top = {"name": self.name, "purpose": self.purpose, **use, "fedrec": self.fedrec, "seed": self.seed, **start}
        asks = {
            "train": list(self.train),
            "rounds": self.rounds,
            "runs": self.runs,
            "evaluate": self.evaluate,
            **({"validate": self.validate} if self.validate else {}),
            "publish": self.publish,
            "days": self.days,
            **({"sites": list(self.sites)} if self.sites else {}),
        }
        leaves = {name: str(tensor) for name, tensor in self.leaves.items()}
        parts = [table_text("", top), table_text("asks", asks), table_text("leaves", leaves)]
        parts += [table_text("aggregator", self.aggregator)]
        parts += [table_text(title, table) for title in _OPTIONAL if (table := getattr(self, title))]
        parts += [table_text("model", self.model)]
        text = "\n" + "\n".join(parts)
        check_text(text)
        return text

    @classmethod
    def parse(cls, text: str) -> PlanText:
        """Read a plan; it must be the very text that `text()` writes.

        Raises:
            Refused: `request.form` with the first thing that is wrong.
        """
        check_text(text)
        try:
            plan = cls._from_table(tomllib.loads(text))
            same = plan.text() == text
        except tomllib.TOMLDecodeError as error:
            raise bad_form(f"the plan is not TOML ({error})") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise bad_form(f"the plan lacks or misuses {error}") from None
        except RecursionError:
            raise bad_form("the plan is nested too deeply") from None
        if not same:
            raise bad_form("the plan is not in the form that fedrec writes (order, spacing or an unknown key)")
        return plan

    @classmethod
    def _from_table(cls, raw: dict[str, Any]) -> PlanText:
        if unknown := set(raw) - _SECTIONS | set(raw["asks"]) - _ASKS:
            raise ValueError(f"unknown key {sorted(unknown)[0]}")
        for key, kind in _TOP_TYPES.items():
            if type(raw[key]) is not kind:
                raise TypeError(key)
        asks = raw["asks"]
        for key in ("rounds", "runs", "days"):
            if type(asks[key]) is not int or not 1 <= asks[key] <= 100_000:
                raise ValueError(f"asks.{key}: a whole number from 1 to 100000")
        if type(asks.get("validate", 0)) is not int or not 0 <= asks.get("validate", 0) <= 1000:
            raise ValueError("asks.validate: a whole number to 1000")
        for key in ("evaluate", "publish"):
            if type(asks[key]) is not bool:
                raise TypeError(f"asks.{key}")
        train = tuple(asks["train"])
        if not train or len(set(train)) != len(train) or any(rows not in PROTOCOLS for rows in train):
            raise ValueError(f"asks.train: some of {', '.join(PROTOCOLS)}")
        if not _NAME.fullmatch(raw["name"]) or not 0 <= raw["seed"] < 2**32:
            raise ValueError("name (a-z, 0-9, _) or seed (0 to 2**32 - 1)")
        if type(raw.get("use", "")) is not str or not _USE.fullmatch(raw.get("use", "any")):
            raise ValueError("use: 1 to 63 of a-z, 0-9 and -")
        sites = asks.get("sites", [])
        named = type(sites) is list and all(type(name) is str and _SITE.fullmatch(name) for name in sites)
        if not named or len(set(sites)) != len(sites):
            raise ValueError("asks.sites: names of institutions, each once")
        start = raw.get("start", "")
        if type(start) is not str or not re.fullmatch(r"([0-9a-f]{64})?", start):
            raise ValueError("start: 64 hex digits")
        if type(raw["model"]["name"]) is not str or type(raw["aggregator"]["name"]) is not str:
            raise TypeError("model.name or aggregator.name")
        if any(title in raw and not (type(raw[title]) is dict and raw[title]) for title in _OPTIONAL):
            raise ValueError("an empty table")
        leaves = {name: Tensor.parse(text) for name, text in raw["leaves"].items()}
        _check_codec(raw.get("codec"), leaves)
        Privacy.from_table(raw.get("privacy", {}))
        plan = cls(
            name=raw["name"],
            purpose=raw["purpose"],
            fedrec=raw["fedrec"],
            seed=raw["seed"],
            model=raw["model"],
            aggregator=raw["aggregator"],
            leaves=leaves,
            rounds=asks["rounds"],
            train=train,
            runs=asks["runs"],
            evaluate=asks["evaluate"],
            publish=asks["publish"],
            days=asks["days"],
            use=raw.get("use", ""),
            validate=asks.get("validate", 0),
            sites=tuple(sites),
            start=start,
            **{title: raw.get(title, {}) for title in _OPTIONAL},
        )
        check_excluded(plan)
        return plan


def check_start(plan: PlanText, kind: str, number: int, base: str) -> None:
    """Refuse a round 0 that does not start from the model which the plan names.

    Raises:
        Refused: `task.start`.
    """
    if plan.start and kind == "train" and number == 0 and base != plan.start:
        raise Refused("task.start", "round 0 starts from another model than the plan names", "Send the plan's model")


def _check_codec(table: Mapping[str, Any] | None, leaves: Mapping[str, Tensor]) -> None:
    if table is None:
        return
    if set(table) != {"name"} or table["name"] not in ("float16", "int8"):
        raise ValueError("codec.name: float16 or int8")
    if any(tensor.dtype != "float32" or tensor.norm is not None for tensor in leaves.values()):
        raise ValueError("codec: it packs float32 arrays, and rounding keeps no norm")


def fingerprint(text: str) -> str:
    """SHA-256 of the plan's UTF-8 bytes; 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()
