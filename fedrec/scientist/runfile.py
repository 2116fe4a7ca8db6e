"""RUN.toml as a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedrec import aggregation, models
from fedrec.config import RunConfig
from fedrec.core.params import SharedParams
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.privacy import Privacy
from fedrec.exchange.wire import decode
from fedrec.models.local import LocalEpochs
from fedrec.scientist.plan import Plan, without_docstrings


def plan_of(config: RunConfig) -> Plan:
    """The plan that a run's settings describe.

    Raises:
        WrongInput: no such model, aggregator, schedule, stop rule or setting; it evaluates rows that it trains on; or
            `start_from` holds no finished run.
    """
    allowed = {"p1": {"p1", "p2"}, "p2": {"p1", "p2"}}.get(config.protocol, {config.protocol} - {"all"})
    if wrong := [protocol for protocol in config.evaluate if protocol not in allowed]:
        raise WrongInput(f"evaluate: {wrong[0]} needs a model trained on its own split; protocol is {config.protocol}")
    merges = config.aggregator and aggregation.create({"name": config.aggregator.name, **config.aggregator.settings})
    turns = config.schedule and aggregation.schedule_of({"name": config.schedule.name, **config.schedule.settings})
    try:
        privacy = Privacy.from_table(config.privacy) if config.privacy else None
    except (TypeError, ValueError) as error:
        raise WrongInput(f"privacy: {error}") from None
    common: dict[str, Any] = {
        "aggregator": merges, "rounds": config.rounds, "train": (config.protocol,), "evaluate": bool(config.evaluate),
        "publish": config.publish, "name": config.name, "purpose": config.purpose, "seed": config.seed,
        "use": config.use or "", "local": LocalEpochs.from_table(config.local), "schedule": turns,
        "stop": aggregation.stop_of(config.stop) if config.stop else None,
        "codec": config.codec and config.codec.name, "sites": config.sites, "validate": config.validate_models,
        "privacy": privacy, "start_from": config.start_from and model_of(config.folder / config.start_from),
    }  # fmt: skip
    if config.code_path is None:
        return Plan(model=models.create(str(config.model.name), config.model.settings), **common)
    try:
        text = config.code_path.read_text(encoding="utf-8")
    except OSError as error:
        raise WrongInput(f"model.code: {config.code_path.name} cannot be read ({error.strerror})") from None
    settings = {"code": without_docstrings(text), "class": config.model.class_name, **config.model.settings}
    return Plan(model=models.create("own", settings), **common)


def model_of(folder: Path) -> SharedParams:
    """The model that a finished run left.

    Raises:
        WrongInput: there is none.
    """
    try:
        return SharedParams(decode((folder / "model.safetensors").read_bytes()))
    except (OSError, ValueError, Refused):
        raise WrongInput(f"start_from: {folder} holds no finished run") from None
