"""site.toml: one institution, its owner and its limits."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from fedrec.config.base import Email, Inside, Relative, Slug, Table, Text, TomlFile


def _loopback(value: str) -> str:
    try:
        local = value == "localhost" or ipaddress.ip_address(value).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ValueError("must be 127.0.0.1, ::1 or localhost: sites are not served to a network without TLS")
    return value


class Limits(Table):
    """What one permit of this site may allow at most."""

    train: int = Field(default=500, ge=1)  # train tasks
    evaluate: int = Field(default=100, ge=0)  # evaluate tasks
    megabytes: float = Field(default=64.0, gt=0)  # per release; MB = 10**6 bytes
    minutes: float = Field(default=10.0, gt=0)  # per job
    memory_mb: int = Field(default=4096, ge=64)  # per job
    min_users_per_row: int = Field(default=1, ge=1)  # rows backed by fewer users are released as zero
    jail_level: int = Field(default=2, ge=1, le=3)  # the least level that a job may run in
    own_code: bool = False  # may a plan bring its own training code
    allow_echo: bool = False  # the model that sends back what it got; for benchmarks
    publish: bool = True  # may a run replace the served model
    days: int = Field(default=90, ge=1)  # longest life of a permit
    models: tuple[Slug, ...] = Field(default=(), strict=False)  # names of allowed models; empty = all

    @field_validator("own_code")
    @classmethod
    def _own_code_needs_walls(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("jail_level", 2) < 2:
            raise ValueError("needs jail_level = 2 or 3: level 1 isolates neither network nor files")
        return value


class SiteConfig(TomlFile):
    """One institution, as its site.toml states it."""

    name: Slug
    title: Text
    owner: Email
    host: Annotated[str, AfterValidator(_loopback)] = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)  # 0 = any free port
    data: Inside = "data/ratings.csv"
    consortium: Relative = "../consortium.toml"
    limits: Limits = Limits()

    @property
    def data_path(self) -> Path:
        return self.folder / self.data

    @property
    def consortium_path(self) -> Path:
        return self.folder / self.consortium
