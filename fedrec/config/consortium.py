"""consortium.toml: the members and the item catalogue they share."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from fedrec.config.base import Inside, Slug, Table, Text, TomlFile, matches
from fedrec.core.ids import clean_id
from fedrec.errors import WrongInput

Key = Annotated[str, matches(r"[0-9a-f]{64}", "must be an Ed25519 key as 64 hex digits")]


class Member(Table):
    """One institution as the others see it."""

    name: Slug
    folder: Inside
    url: Annotated[str, matches(r"(https?://[^/\s@?#]+)?", "must be http(s)://host:port, or empty")] = ""
    key: Annotated[str, matches(r"([0-9a-f]{64})?", "must be an Ed25519 key as 64 hex digits, or empty")] = ""
    former: tuple[Key, ...] = Field(default=(), strict=False)  # before it was renewed: packs of then are signed by them


class Demo(Table):
    """What `fedrec demo` does here. The first model that recommends is published.

    `models` are names of fedrec.models, or my_factors, the class of fedrec/examples; the last member's owner denies
    the plan `denied`.
    """

    models: tuple[Text, ...] = Field(default=("default",), strict=False, min_length=1)
    denied: str = ""

    @field_validator("denied")
    @classmethod
    def _one_of_them(cls, value: str, info: ValidationInfo) -> str:
        if value and value not in info.data.get("models", (value,))[1:]:
            raise ValueError("must be one of models, and not the first")
        return value


class ConsortiumConfig(TomlFile):
    """The members, in the order in which their updates are added, and their item catalogue."""

    name: Slug
    title: Text
    catalogue: Inside = "items.csv"
    ca: Inside | None = None  # the authority behind the members' https certificates; None = the machine's own
    member: tuple[Member, ...] = Field(strict=False)
    demo: Demo = Demo()

    @field_validator("member")
    @classmethod
    def _one_of_each(cls, value: tuple[Member, ...]) -> tuple[Member, ...]:
        if not value:
            raise ValueError("must name at least one institution")
        for key in ("name", "folder"):
            if len({getattr(m, key) for m in value}) < len(value):
                raise ValueError(f"two members have the same {key}")
        return value

    @property
    def keys(self) -> dict[str, tuple[str, ...]]:
        """The members' keys by name: the one of today, and those before it."""
        return {m.name: (m.key, *m.former) for m in self.member}

    @property
    def ca_path(self) -> Path | None:
        return None if self.ca is None else self.folder / self.ca

    @property
    def catalogue_path(self) -> Path:
        return self.folder / self.catalogue

    def member_folder(self, name: str) -> Path:
        """The folder of one member; KeyError when there is none of that name."""
        return self.folder / {m.name: m.folder for m in self.member}[name]

    def item_ids(self) -> tuple[str, ...]:
        """The catalogue's ids; a position in it is the item's index everywhere.

        Raises:
            WrongInput: the file is missing, its first column is not `item`, or an id is bad or twice there.
        """
        lines = csv.reader(io.StringIO(self._catalogue_text()))
        if (next(lines, None) or [""])[0] != "item":
            raise WrongInput(f"{self.catalogue_path}: the first column must be called item")
        found: dict[str, None] = {}
        for row in lines:
            identity = clean_id(row[0]) if row else None
            if identity is None or identity in found:
                raise WrongInput(f"{self.catalogue_path}: line {lines.line_num} has no usable id, or one twice")
            found[identity] = None
        if not found:
            raise WrongInput(f"{self.catalogue_path}: has no item")
        return tuple(found)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the members' names and keys in order and the catalogue's text, read once; 64 hex digits.

        Folders and addresses are left out: they may differ between the members' own copies.
        """
        pinned = {"name": self.name, "members": [[m.name, m.key] for m in self.member]}
        head = json.dumps(pinned, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(f"fedrec-consortium-v1\n{head}\n{self._catalogue_text()}".encode()).hexdigest()

    def as_toml(self) -> str:
        """The file's text, for writing it again when addresses and keys are known."""
        lines = [f"{key} = {_quoted(getattr(self, key))}" for key in ("name", "title", "catalogue")]
        lines += [] if self.ca is None else [f"ca = {_quoted(self.ca)}"]
        lines += ["", "[demo]", f"models = {json.dumps(self.demo.models)}", f"denied = {_quoted(self.demo.denied)}"]
        for member in self.member:
            lines += [
                "",
                "[[member]]",
                *(f"{key} = {_quoted(getattr(member, key))}" for key in ("name", "folder", "url", "key")),
            ]
            lines += [f"former = {json.dumps(member.former)}"] if member.former else []
        return "\n".join(lines) + "\n"

    def _catalogue_text(self) -> str:
        try:
            return self.catalogue_path.read_text(encoding="utf-8-sig")  # universal newlines: CRLF counts as LF
        except FileNotFoundError:
            raise WrongInput(f"{self.catalogue_path}: there is no item catalogue yet") from None
        except (OSError, UnicodeDecodeError) as error:
            raise WrongInput(f"{self.catalogue_path}: cannot be read as UTF-8 text ({type(error).__name__})") from None


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
