"""RUN.toml: one run of the scientist, as `fedrec run` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from fedrec.config.base import Relative, Slug, Table, Text, TomlFile, matches


class OpenTable(Table):
    """A table with free settings, such as `l2 = 200.0` below `name = "ease"`."""

    model_config = ConfigDict(extra="allow")

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that fedrec's config does not know itself; the named class checks them."""
        return dict(self.model_extra or {})


class Named(OpenTable):
    """An aggregator or a schedule by name."""

    name: Slug


class OnlyName(Table):
    """A codec by name; the plan checks that there is one."""

    name: Slug


class ModelTable(OpenTable):
    """A built-in model by name, or the scientist's own class from a Python file."""

    name: Slug | None = None
    class_name: Text | None = Field(default=None, alias="class")
    code: Relative | None = Field(default=None, validate_default=True)

    @field_validator("code")
    @classmethod
    def _one_of_two(cls, value: str | None, info: ValidationInfo) -> str | None:
        name, class_name = info.data.get("name"), info.data.get("class_name")
        if (value is None) == (name is None) or (value is None) != (class_name is None):
            raise ValueError("give either model.name, or model.code and model.class")
        return value


class RunConfig(TomlFile):
    """One run of the scientist, as `fedrec run` reads it."""

    consortium: Text  # a path, relative to this file or absolute
    name: Annotated[str, matches(r"[a-z][a-z0-9_]{0,39}", "must be 1 to 40 of a-z, 0-9 and '_', first a letter")]
    purpose: Text
    use: Slug | None = None  # one of the purposes that the sites allow; None where they do not ask
    model: ModelTable
    aggregator: Named | None = None  # None = the model's own
    schedule: Named | None = None  # None = every site in every round
    local: dict[str, Any] = Field(default_factory=dict)  # epochs at the sites; empty = gradients or statistics leave
    stop: dict[str, Any] = Field(default_factory=dict)  # when to end early; empty = never
    codec: OnlyName | None = None  # None = updates travel as float32
    rounds: int | None = Field(default=None, ge=1)  # None = the model's own
    seed: int = Field(default=0, ge=0)
    protocol: Literal["p1", "p2", "p3", "all"] = "all"  # which rows are trained on
    evaluate: tuple[Literal["p1", "p2", "p3"], ...] = Field(default=(), strict=False)
    validate_models: int = Field(default=0, ge=0, alias="validate")  # models that validation rows may measure
    publish: bool = False
    sites: tuple[Slug, ...] = Field(default=(), strict=False)  # who is asked; empty = every member
    start_from: Text | None = None  # the folder of a finished run; relative to this file or absolute
    privacy: dict[str, Any] = Field(default_factory=dict)  # empty = the centre sees each update, without noise

    @property
    def consortium_path(self) -> Path:
        return self.folder / self.consortium

    @property
    def code_path(self) -> Path | None:
        return None if self.model.code is None else self.folder / self.model.code
