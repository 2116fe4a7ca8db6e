"""The demo tells each institution whether federation was worth it; here on a simulation's runs."""

import io

import numpy as np
import pandas as pd
from rich.console import Console

import fedrec
from fedrec.demo.table import _worth, gains


def test_every_institution_reads_one_verdict_per_model_and_nothing_of_runs_without_evaluation():
    rng = np.random.default_rng(0)
    frames = {
        name: pd.DataFrame(
            [(f"{name}{u}", f"{u % 4}-{i}", t) for u in range(20) for t, i in enumerate(rng.permutation(12)[:8])],
            columns=["user", "item", "timestamp"],
        )
        for name in ("north", "south")
    }
    federation = fedrec.simulate(frames, rating=None)
    plan = fedrec.Plan(model=fedrec.models.Ease(l2=20.0), train=("p1", "all"), evaluate=True, name="ours")
    runs = [federation.train(plan, protocol=rows) for rows in ("p1", "all")]
    runs[0].evaluate()
    rows = gains(runs)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(_worth({"worth": rows}))
    drawn = console.export_text()
    verdicts = {row["institution"]: row["verdict"] for row in rows if not row["group"]}
    assert list(verdicts) == ["north", "south", "all"]
    assert all(verdict in drawn for verdict in verdicts.values())
    assert drawn.count("ours") == 3
