"""Two runs side by side."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

from fedrec.scientist.lines import score_table

if TYPE_CHECKING:
    import pandas as pd

    from fedrec.scientist.runs import Run


def side_by_side(one: Run, other: Run) -> pd.DataFrame:
    """What differs in the plans, then what the runs cost and reached; one row per fact, one column per run."""
    import pandas as pd

    settings = [_flat(tomllib.loads(run.plan.text)) for run in (one, other)]
    names = [name for name in {**settings[0], **settings[1]} if settings[0].get(name) != settings[1].get(name)]
    facts = [_facts(run) for run in (one, other)]
    rows = {name: [table.get(name, "") for table in settings] for name in names}
    rows |= {name: [table.get(name, "") for table in facts] for name in {**facts[0], **facts[1]}}
    columns = [one.id, other.id] if one.id != other.id else ["this", "other"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    """Settings by "table.name"; own code by its length only."""
    found = {}
    for name, value in table.items():
        inner = {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        found.update({key: f"{len(one)} letters" if key == "model.code" else one for key, one in inner.items()})
    return found


def _facts(run: Run) -> dict[str, Any]:
    log = run.log
    facts: dict[str, Any] = {"rounds done": len(log), "institutions": len(run.sites)}
    facts |= {name.replace("_", " "): sum(line[name] for line in log) for name in ("bytes_up", "bytes_down", "seconds")}
    facts["updates left out"] = sum(len(line.get("left_out", {})) for line in log)
    if qualities := [line["quality"] for line in log if "quality" in line]:
        facts["best validation ndcg@10"] = max(qualities)
    for protocol, answers in run.evaluations.items():
        table = score_table(answers).set_index(["scope", "institution"])
        for metric in table.columns.drop("users"):
            facts[f"{protocol} {metric}"] = table.loc[("federated", "all"), metric]
    return facts | {"model": run.model_sha256[:12]}
