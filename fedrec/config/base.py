"""What all checked files share: how a table behaves, how a file is loaded, and small types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, PrivateAttr, ValidationError

from fedrec.config import problems
from fedrec.errors import ConfigError


class Table(BaseModel):
    """A TOML table: no unknown key, no silent conversion, no nan or inf, no change afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TomlFile(Table):
    """A table that is a whole file; relative paths in it start at the file's folder."""

    _folder: Path = PrivateAttr(default=Path("."))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The checked file.

        Raises:
            ConfigError: all problems of the file together, each with its dotted key.
        """
        path = Path(path)
        try:
            found = cls.model_validate(problems.read(path))
        except ValidationError as error:
            said = [problems.sentence(dict(p), _known_keys(cls, p)) for p in error.errors(include_url=False)]
            raise ConfigError(str(path), said) from None
        found._folder = path.absolute().parent
        return found

    @property
    def folder(self) -> Path:
        return self._folder


def _known_keys(table: type[BaseModel], problem: Mapping[str, Any]) -> set[str]:
    """The keys that are allowed where an unknown one was found; empty for other problems."""
    if problem["type"] != "extra_forbidden":
        return set()
    for part in problem["loc"][:-1]:
        if isinstance(part, str) and part in table.model_fields:  # else a place in a list, or a free name of a table
            annotation = table.model_fields[part].annotation
            kinds = (annotation, *get_args(annotation))
            table = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), table)
    return {field.alias or name for name, field in table.model_fields.items()}


def matches(pattern: str, says: str) -> AfterValidator:
    """A check that the whole text has this form; `says` follows the key in the problem."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(says)
        return value

    return AfterValidator(check)


def _inside(value: str) -> str:
    """A relative path that stays below the folder of its file."""
    path = Path(value)
    if not value.strip() or path.is_absolute() or ".." in path.parts or "\x00" in value:
        raise ValueError("must be a relative path without '..'")
    return value


def _relative(value: str) -> str:
    if not value.strip() or Path(value).is_absolute() or "\x00" in value:
        raise ValueError("must be a relative path")
    return value


Slug = Annotated[str, matches(r"[a-z0-9][a-z0-9-]{0,62}", "must be 1 to 63 of a-z, 0-9 and '-', not first '-'")]
Email = Annotated[str, matches(r"[^@\s]+@[^@\s]+\.[^@\s.]+", "must be an e-mail address")]
Text = Annotated[str, matches(r"(?s).*\S.*", "must not be blank")]
Inside = Annotated[str, AfterValidator(_inside)]
Relative = Annotated[str, AfterValidator(_relative)]
