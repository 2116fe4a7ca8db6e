"""site.toml: one institution, its owner and its limits."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from fedrec.config.base import Email, Inside, Relative, Slug, Table, Text, TomlFile, matches


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


class Tls(Table):
    """The site itself speaks plain HTTP; who else may reach it is the proxy's part (deploy/nginx.conf)."""

    behind_proxy: bool = False  # a proxy in front of it ends TLS, and nothing else can reach the port


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("must be [least, most]")
    return value


Setting = Annotated[str, matches(r"[a-z0-9_]+\.[a-z][a-z0-9_]*", "must be a model's name and a setting, as in ease.l2")]
Range = Annotated[tuple[float, float], Field(strict=False), AfterValidator(_ordered)]


def _hours(value: str) -> str:
    first, _, last = value.partition("-")
    if not 0 <= int(first) < int(last) <= 24:
        raise ValueError("must be FIRST-LAST with 0 <= FIRST < LAST <= 24, in UTC")
    return value


Hours = Annotated[str, matches(r"[0-9]{1,2}-[0-9]{1,2}", 'must be hours in UTC such as "1-5"'), AfterValidator(_hours)]


class Limits(Table):
    """What one permit of this site may allow at most."""

    train: int = Field(default=500, ge=1)  # train tasks
    evaluate: int = Field(default=100, ge=0)  # evaluate tasks
    megabytes: float = Field(default=64.0, gt=0)  # per release; MB = 10**6 bytes
    minutes: float = Field(default=10.0, gt=0)  # per job
    memory_mb: int = Field(default=4096, ge=64)  # per job
    state_mb: int = Field(default=1000, ge=1)  # private parameters that a round leaves at the site, per run
    min_users_per_row: int = Field(default=1, ge=1)  # rows backed by fewer users are released as zero
    members_apart: int = Field(default=2, ge=1)  # sums of the same statistic differ by so many institutions, or by none
    users_apart: int = Field(default=1, ge=1)  # fewer changed users since the last exact release are refused; 1 = never
    thin_cells: float = Field(default=1.0, ge=0, le=1)  # share of pairs of items with few users that may leave exactly
    leak_gate: int | None = Field(default=None, ge=0, le=100)  # an attack right in more of 100 tries waits for a person
    jail_level: int = Field(default=2, ge=1, le=3)  # the least level that a job may run in
    epsilon_limit: float | None = Field(default=None, gt=0)  # of all runs together; None = no plan has to have one
    delta: float = Field(default=1e-5, gt=0, lt=0.01)  # the chance that epsilon_limit does not hold
    own_code: bool = False  # may a plan bring its own training code
    tell_errors: bool = True  # is the scientist told the class and line of an exception in his plan
    allow_echo: bool = False  # the model that sends back what it got; for benchmarks
    publish: bool = True  # may a run replace the served model
    days: int = Field(default=90, ge=1)  # longest life of a permit
    hours: Hours = "0-24"  # of the day in UTC, in which tasks are taken; a permit may have fewer
    replay_mb: int = Field(default=2000, ge=0)  # models of past rounds that are kept so that they can be replayed
    models: tuple[Slug, ...] = Field(default=(), strict=False)  # names of allowed models; empty = all
    purposes: tuple[Slug, ...] = Field(default=(), strict=False)  # what a plan may be used for; empty = anything
    settings: dict[Setting, Range] = Field(default_factory=dict)  # "ease.l2" = [least, most]

    @field_validator("own_code")
    @classmethod
    def _own_code_needs_walls(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("jail_level", 2) < 2:
            raise ValueError("needs jail_level = 2 or 3: level 1 isolates neither network nor files")
        return value


def _one_select(value: str) -> str:
    text = value.strip().removesuffix(";")
    if not re.match(r"(?i)(select|with)\b", text):
        raise ValueError("must begin with SELECT or WITH")
    if ";" in text:
        raise ValueError("must be one statement, without a semicolon inside")
    return text


Query = Annotated[str, AfterValidator(_one_select)]
_DATABASES = r"(sqlite|postgresql(\+psycopg2?)?)://\S+"


class Source(Table):
    """A database that the rows are read from, over a connection that cannot write."""

    url: Text | None = None  # a SQLAlchemy URL without a password
    url_env: Annotated[str, matches(r"[A-Z][A-Z0-9_]*", "must be a variable's name in capitals")] | None = Field(
        default=None, validate_default=True
    )
    query: Query
    user_query: Query | None = None  # one row a user, for [features.user]
    item_query: Query | None = None  # one row an item, for [features.item]

    @field_validator("url")
    @classmethod
    def _of_a_known_kind(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(_DATABASES, value):
            raise ValueError("must be a sqlite:// or postgresql:// URL: for others no read-only connection is known")
        if value is not None and re.search(r"//[^/@]*:[^/]*@|[?&](ssl)?password=", value):
            raise ValueError("must not hold a password: name an environment variable in source.url_env instead")
        return value

    @field_validator("url_env")
    @classmethod
    def _one_of_two(cls, value: str | None, info: ValidationInfo) -> str | None:
        if "url" in info.data and (value is None) == (info.data["url"] is None):
            raise ValueError("give either source.url or source.url_env")
        return value


class SiteConfig(TomlFile):
    """One institution, as its site.toml states it."""

    name: Slug
    title: Text
    owner: Email
    tls: Tls = Tls()
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)  # 0 = any free port
    data: Inside = "data/ratings.csv"  # .csv, .tsv or .parquet; not read when [source] is given
    user_data: Inside | None = None  # one row a user, for [features.user]; None = columns of the rows
    item_data: Inside | None = None  # one row an item, for [features.item]; None = columns of the catalogue
    item_ids: Inside | None = None  # own id, shared id; as fedrec catalogue align writes it
    consortium: Relative = "../consortium.toml"
    source: Source | None = None  # a database instead of the file
    limits: Limits = Limits()

    @field_validator("host")
    @classmethod
    def _no_network_without_tls(cls, value: str, info: ValidationInfo) -> str:
        behind = info.data.get("tls", Tls()).behind_proxy
        if _is_loopback(value) or (behind and _is_address(value)):
            return value
        raise ValueError(
            "must be 127.0.0.1, ::1 or localhost: sites are not served to a network without TLS; with "
            "tls.behind_proxy = true any IP address, when a proxy that speaks TLS is all that can reach it"
        )

    @property
    def data_path(self) -> Path:
        return self.folder / self.data

    @property
    def consortium_path(self) -> Path:
        return self.folder / self.consortium
