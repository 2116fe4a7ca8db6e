"""RUN.toml to the end: submit, wait for the owners, rounds, evaluation, publishing; once, or whenever data are new."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedrec.config import RunConfig
from fedrec.errors import FedrecError, WrongInput
from fedrec.scientist.connect import connect
from fedrec.scientist.datasites import Datasites
from fedrec.scientist.folder import write
from fedrec.scientist.plan import Plan
from fedrec.scientist.progress import live
from fedrec.scientist.runfile import model_of, plan_of
from fedrec.scientist.runs import Run

Say = Callable[[str], object]


def begin(file: Path, runs: Path, wait: float, say: Say) -> Run:
    """Submit the plan and wait for the owners; the run stands before its first round.

    Args:
        wait: seconds for the owners' decisions.

    Raises:
        WrongInput: settings that are none.
        Refused: an owner said no, or none has decided yet.
    """
    config = RunConfig.load(file)
    plan = plan_of(config)
    return _begin(file, config, plan, connect(config.consortium_path), runs, wait, say)


def again(folder: Path) -> Run:
    """A run as its folder has it, before the round at which it was interrupted.

    Raises:
        WrongInput: the folder is not that of a run on datasites.
    """
    consortium = {**_kept(folder / "run.json"), **_kept(folder / "after.json")}.get("consortium")
    if not consortium:
        raise WrongInput(f"{folder}: is no folder of a run on datasites")
    return Run.load(connect(consortium), folder)


def finish(run: Run, say: Say) -> tuple[dict[str, Any], str]:
    """Do what is left of a run: rounds, evaluation, publishing; returns JSON's keys and what a person reads."""
    assert run.folder is not None
    after = {"evaluate": [], "publish": False, **_kept(run.folder / "after.json")}
    say(f"run {run.id} in {run.folder}")
    with live(run.id, run.plan.spec.rounds, run.sites) as board:
        board.taking_part(run.sites)
        run.finish(board.advance, on_state=board.watch)
    facts: dict[str, Any] = {
        "run": run.id, "model_sha256": run.model_sha256, "rounds": len(run.log), "resumed_from": run.resumed_from
    }  # fmt: skip
    lines = [f"{run.id}: {len(run.log)} rounds, model {run.model_sha256}"]
    for protocol in after["evaluate"]:
        table = run.evaluate(protocol)
        facts.setdefault("evaluations", {})[protocol] = table.to_dict("records")
        lines.append(f"\n{protocol}\n{table.to_string(index=False, float_format=lambda value: f'{value:.4f}')}")
    if after["publish"]:
        facts["published"] = run.publish()
        lines.append(f"\npublished to {', '.join(facts['published'])}")
    return facts, "\n".join(lines)


def every(file: Path, seconds: float, runs: Path, say: Say) -> Iterator[dict[str, Any]]:
    """Train whenever an institution has new data; a gradient model goes on from the one that was trained last.

    Looks every so many seconds, for ever. Owners approve each new plan, because a permit is for one version of the
    data. What goes wrong is said, and tried again at the next look; a run that was interrupted goes on first.

    Yields:
        What `finish` returns for JSON, after each run.
    """
    config = RunConfig.load(file)
    plan_of(config)  # what is wrong with it is said now
    runs.mkdir(parents=True, exist_ok=True)
    place = runs / f"{config.name}.every.json"
    federation: Datasites | None = None
    while True:
        began = time.monotonic()
        try:
            federation = federation or connect(config.consortium_path)
            found = _when_new(file, config, federation, place, seconds, say)
            if found is not None:
                yield found
        except FedrecError as error:
            say(str(error))
        left = max(0.0, seconds - (time.monotonic() - began))
        say(f"next look at {datetime.now(UTC) + timedelta(seconds=left):%Y-%m-%d %H:%M:%S} UTC")
        time.sleep(left)


def _when_new(
    file: Path, config: RunConfig, federation: Datasites, place: Path, wait: float, say: Say
) -> dict[str, Any] | None:
    last, runs = _kept(place), place.parent
    if last and not last["done"]:
        run, state = Run.load(federation, runs / last["run"]), last
    else:
        versions = federation.data_versions()
        if versions == last.get("versions"):
            say("no institution has new data")
            return None
        mark = hashlib.sha256(json.dumps(versions, sort_keys=True).encode()).hexdigest()[:8]
        plan = plan_of(config)
        plan = replace(plan, purpose=f"{plan.purpose} (data {mark})")  # the same plan until the data change again
        if last and plan.built.aggregator_default == "adam":
            plan = replace(plan, start_from=model_of(runs / last["run"]))
        run = _begin(file, config, plan, federation, runs, wait, say)
        state = {"versions": versions, "run": run.id, "done": False}
        write(place, json.dumps(state).encode())
    facts, text = finish(run, say)
    write(place, json.dumps({**state, "done": True}).encode())
    say(text)
    return facts


def _begin(file: Path, config: RunConfig, plan: Plan, federation: Datasites, runs: Path, wait: float, say: Say) -> Run:
    requests = federation.submit(plan)
    say(f"plan {plan.fingerprint[:12]} submitted to {', '.join(requests.ids)}")
    requests.wait(wait, require="approved")
    run = Run.start(plan, federation, protocol=config.protocol, folder=runs)
    run.keep("run.toml", file.read_text())
    after = {
        "consortium": str(config.consortium_path.absolute()),
        "evaluate": list(config.evaluate),
        "publish": config.publish,
    }
    run.keep("after.json", json.dumps(after))
    return run


def _kept(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing when there is none."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
