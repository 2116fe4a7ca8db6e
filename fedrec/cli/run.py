"""`fedrec run`: the scientist's rounds without a notebook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fedrec.cli.output import emit, json_option, say
from fedrec.errors import WrongInput


@click.command()
@click.argument(
    "file", metavar="RUN.toml", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--resume",
    "folder",
    metavar="RUNDIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Go on with a run from its last committed round.",
)
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default="runs",
    show_default=True,
    help="Folder of all runs.",
)
@click.option("--wait", type=float, default=0.0, show_default=True, help="Seconds to wait for the owners' decisions.")
@json_option
def run(file: Path | None, folder: Path | None, runs: Path, wait: float, target: str | None) -> None:
    """Submit RUN.toml's plan, do its rounds when the owners have approved it, evaluate and publish as it says.

    Logs in as FEDREC_USER with FEDREC_PASSWORD at every institution.
    """
    from fedrec.config import RunConfig
    from fedrec.scientist.connect import connect
    from fedrec.scientist.progress import live
    from fedrec.scientist.runfile import plan_of
    from fedrec.scientist.runs import Run

    if (file is None) == (folder is None):
        raise WrongInput("give RUN.toml, or --resume RUNDIR")
    if file is not None:
        config = RunConfig.load(file)
        plan = plan_of(config)
        after: dict[str, Any] = {
            "consortium": str(config.consortium_path.absolute()),
            "evaluate": list(config.evaluate),
            "publish": config.publish,
        }
        federation = connect(config.consortium_path)
        requests = federation.submit(plan)
        say(f"plan {plan.fingerprint[:12]} submitted to {', '.join(federation.sites())}")
        requests.wait(wait, require="approved")
        current = Run.start(plan, federation, protocol=config.protocol, folder=runs)
        current.keep("run.toml", file.read_text())
        current.keep("after.json", json.dumps(after))
    else:
        assert folder is not None
        after = {"evaluate": [], "publish": False, **_kept(folder / "run.json"), **_kept(folder / "after.json")}
        if not after.get("consortium"):
            raise WrongInput(f"{folder}: is no folder of a run on datasites")
        current = Run.load(connect(after["consortium"]), folder)
        plan = current.plan
    say(f"run {current.id} in {current.folder}")
    with live(current.id, plan.spec.rounds, current.sites) as board:
        board.taking_part(current.sites)
        current.finish(board.advance, on_state=board.watch)
    facts: dict[str, Any] = {
        "run": current.id,
        "model_sha256": current.model_sha256,
        "rounds": len(current.log),
        "resumed_from": current.resumed_from,
    }
    lines = [f"{current.id}: {len(current.log)} rounds, model {current.model_sha256}"]
    for protocol in after["evaluate"]:
        table = current.evaluate(protocol)
        facts.setdefault("evaluations", {})[protocol] = table.to_dict("records")
        lines.append(f"\n{protocol}\n{table.to_string(index=False, float_format=lambda value: f'{value:.4f}')}")
    if after["publish"]:
        facts["published"] = current.publish()
        lines.append(f"\npublished to {', '.join(facts['published'])}")
    emit(facts, target, text="\n".join(lines))


def _kept(path: Path) -> dict[str, Any]:
    """What a run's folder says in one of its JSON files; nothing when it has none."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
