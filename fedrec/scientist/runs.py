"""A run: its rounds, its folder, its model; goes on from the last committed round after any crash.

runs/<run>/plan.toml  run.json  rounds.jsonl  checkpoints/NNNNNN.safetensors  model.safetensors  card.md
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrec.aggregation import Stop
from fedrec.aggregation.merge import norm
from fedrec.core.metrics import Sums
from fedrec.core.params import SharedParams, moved
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.wire import decode, digest, encode
from fedrec.scientist.driver import Round, begin, train
from fedrec.scientist.federation import Answer, Federation, RoundTask
from fedrec.scientist.folder import commit, held, newest, rounds_of, write
from fedrec.scientist.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

OnRound = Callable[[Round, int], None]


class Run:
    """One run of a plan on a federation.

    Args:
        sites: who takes part, the same until the end; a run that lost one stops rather than go on without it.
        folder: where rounds and checkpoints are kept; None keeps them in memory only.
    """

    def __init__(
        self, plan: Plan, federation: Federation, run: str, protocol: str, sites: Sequence[str], folder: Path | None
    ) -> None:
        self.plan, self.federation, self.id, self.protocol, self.folder = plan, federation, run, protocol, folder
        self.sites, self.now = tuple(sites), begin(plan, federation)
        self.resumed_from: int | None = None
        self.best: SharedParams | None = None  # by validation, where the plan stops by it
        self.log: list[dict[str, Any]] = []
        self.evaluations: dict[str, list[Answer]] = {}

    @classmethod
    def start(
        cls, plan: Plan, federation: Federation, *, protocol: str | None = None, folder: Path | None = None
    ) -> Run:
        """A new run before its first round.

        Args:
            protocol: which rows are trained on; by default the plan's only one.
            folder: the folder of all runs, such as runs/; the run gets one below it.

        Raises:
            WrongInput: the plan trains on several kinds of rows and none was named, or on others.
            Refused: `permit.missing` when no institution has approved the plan.
        """
        rows = protocol or (plan.train[0] if len(plan.train) == 1 else "")
        if rows not in plan.train:
            raise WrongInput(f"the plan trains on {', '.join(plan.train)}: name one as protocol")
        sites = federation.ready(plan)
        if not sites:
            raise Refused("permit.missing", "no institution has approved this plan", "Wait for the owners' decisions")
        name = f"{plan.spec.name}-{rows}-{secrets.token_hex(4)}"
        run = cls(plan, federation, name, rows, sites, folder / name if folder else None)
        if run.folder is not None:
            (run.folder / "checkpoints").mkdir(parents=True)
            write(run.folder / "plan.toml", plan.text.encode())
            facts = {"run": name, "protocol": rows, "fingerprint": plan.fingerprint, "sites": list(sites)}
            facts["consortium"] = str(getattr(federation, "consortium", ""))  # where resume finds it
            write(run.folder / "run.json", json.dumps(facts).encode())  # last: without it there is no run
        return run

    @classmethod
    def load(cls, federation: Federation, folder: Path) -> Run:
        """A run as its folder has it, ready to go on from its last committed round; nothing is written yet.

        Raises:
            WrongInput: the folder holds no run, or its plan was changed.
        """
        try:
            facts = json.loads((folder / "run.json").read_text())
            plan = Plan.from_text((folder / "plan.toml").read_text())
        except (OSError, ValueError):
            raise WrongInput(f"{folder}: holds no run") from None
        if facts["fingerprint"] != plan.fingerprint:
            raise WrongInput(f"{folder}: plan.toml is not the plan that the run was started with")
        run = cls(plan, federation, facts["run"], facts["protocol"], facts["sites"], folder)
        run._read(folder)
        run.resumed_from = run.now.number
        return run

    def resume(self, on_round: OnRound | None = None) -> Run:
        """Go on from the last committed round to the end: after an interruption, a refusal, or `federation.attach`."""
        self.resumed_from = self.now.number
        return self.finish(on_round)

    def keep(self, name: str, text: str) -> None:
        """Put a text beside the run, such as the RUN.toml that it came from."""
        if self.folder is not None:
            write(self.folder / name, text.encode())

    @property
    def shared(self) -> SharedParams:
        """The model now."""
        return self.now.shared

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the encoded model."""
        return digest(self.shared.tensors)

    def rounds(self) -> Iterator[Round]:
        """Do the rounds that are left; each is committed before it is yielded.

        Raises:
            Refused: `run.busy` while another program drives the run; what a site says.
        """
        with self._driven():
            yield from self._rounds()

    def _rounds(self) -> Iterator[Round]:
        stop = self.plan.stop or Stop()
        if stop.reached(self.log):
            return
        for done in train(self.plan, self.federation, self.id, self.protocol, self.sites, self.now):
            self._commit(done)
            yield done
            if stop.reached(self.log):
                return

    @contextmanager
    def _driven(self) -> Iterator[None]:
        """Alone with the run's folder, from where it stands: another program may have gone on since it was read."""
        with held(self.folder) if self.folder is not None else nullcontext():
            if self.folder is not None:
                self._read(self.folder)
                self.resumed_from = None if self.resumed_from is None else self.now.number
                text = "".join(json.dumps(line) + "\n" for line in self.log)
                if self.log or (self.folder / "rounds.jsonl").exists():
                    write(self.folder / "rounds.jsonl", text.encode())  # without what a crash has torn
            yield

    def _read(self, folder: Path) -> None:
        """Stand where the folder says."""
        if (found := newest(folder)) is not None:
            self.now = found
        if (folder / "best.safetensors").exists():
            self.best = SharedParams(decode((folder / "best.safetensors").read_bytes()))
        self.log = rounds_of(folder, before=self.now.number)

    def finish(self, on_round: OnRound | None = None) -> Run:
        """Do all rounds that are left, then write the model and its card.

        Where the plan stops by validation, the model is the best of those that were measured.

        Raises:
            Refused: a site said no; the run stands at its last committed round and can be resumed.
        """
        with self._driven():
            self._to_the_end(on_round)
        return self

    def _to_the_end(self, on_round: OnRound | None) -> None:
        total = self.plan.spec.rounds
        try:
            for done in self._rounds():
                if on_round is not None:
                    on_round(done, total)
        except Refused as refusal:
            where = f"Resume with fedrec run --resume {self.folder}" if self.folder else "Call run.resume()"
            raise Refused(
                refusal.code,
                f"{refusal.reason} (round {self.now.number} of {total}; {self.now.number} rounds are committed)",
                f"{refusal.next_step}. {where}",
            ) from refusal
        self.federation.end(self.id, self.sites)
        if self.best is not None:
            self.now = replace(self.now, shared=self.best)
        if self.folder is not None:
            write(self.folder / "model.safetensors", encode(self.shared.tensors))
            write(self.folder / "card.md", self._card().encode())

    def evaluate(self, protocol: str | None = None) -> pd.DataFrame:
        """Ask the sites how well the model finds held-out items; only sums over users leave them.

        Args:
            protocol: p1, p2 or p3; by default the one that the run trained for.

        Returns:
            One row per scope and institution, "all" being the mean over users, with their number in `users`.
        """
        import pandas as pd

        name = protocol or self.protocol
        if name not in self.evaluations:
            self.evaluations[name] = list(self._last("evaluate", name))
        rows = []
        for scope in self.evaluations[name][0].numbers:
            sums = {answer.site: Sums.from_dict(answer.numbers[scope]) for answer in self.evaluations[name]}
            total = sum(sums.values(), start=Sums())
            for site, part in (*sums.items(), ("all", total)):
                rows.append({"scope": scope, "institution": site, **part.means(), "users": part.users})
        return pd.DataFrame(rows)

    def publish(self) -> dict[str, str]:
        """Install the model at the institutions, which make top-100 lists that stay there; {site: model's SHA-256}."""
        return {answer.site: self.model_sha256 for answer in self._last("publish", self.protocol)}

    def plot(self, what: str = "rounds", path: Path | None = None) -> Any:
        """A matplotlib figure, written to `path` if one is given.

        Args:
            what: "rounds" for seconds and bytes of each; or a column of `evaluate`, such as "ndcg@10", by institution.
        """
        from fedrec.scientist.plots import rounds_figure, scores_figure

        title = f"{self.plan.spec.name}, trained on {self.protocol}"
        if what == "rounds":
            return rounds_figure(self.log, title, path)
        return scores_figure(self.evaluate(), what, title, path)

    def _last(self, kind: str, protocol: str) -> list[Answer]:
        """A task after the last round, for every site that has trained: by the round that each trained last."""
        trained: dict[str, int] = {}
        for line in self.log:
            trained |= {site: line["round"] - line.get("late", {}).get(site, 0) for site in line["sites"]}
        answers: list[Answer] = []
        for number in sorted(set(trained.values())):
            sites = tuple(site for site in self.sites if trained.get(site) == number)
            answers += self.federation.run(RoundTask(self.plan, kind, self.id, number, protocol, sites, self.shared))
        return sorted(answers, key=lambda answer: self.sites.index(answer.site))

    def _commit(self, done: Round) -> None:
        """Stand after this round, and say so in the folder."""
        line: dict[str, Any] = {
            "run": self.id,
            "round": done.number,
            "sites": list(done.sites),
            "bytes_up": sum(a.bytes_up for a in done.answers),
            "bytes_down": sum(a.bytes_down for a in done.answers),
            "seconds": round(done.seconds, 4),
            "weights": {a.site: a.update.weight for a in done.answers if a.update},
            "norm": _change(self.shared, done.after.shared),
            "updates": {a.site: a.receipt.get("sha256", "") for a in done.answers},
            "model": digest(done.after.shared.tensors),
        }
        line |= {key: dict(value) for key, value in (("late", done.late), ("left_out", done.left_out)) if value}
        if (quality := _quality(done)) is not None:
            line["quality"] = quality
        self.log.append(line)
        before, self.now = self.now, done.after
        if (
            self.plan.stop is not None
            and self.plan.stop.patience
            and self.plan.stop.best(self.log) == len(self.log) - 1
        ):
            self.best = before.shared
            if self.folder is not None:
                write(self.folder / "best.safetensors", encode(self.best.tensors))
        if self.folder is not None:
            commit(self.folder, done.after, line)

    def _card(self) -> str:
        last: Mapping[str, Any] = self.log[-1] if self.log else {}
        facts = [
            f"plan: {self.plan.fingerprint}",
            f"model: {self.model_sha256}",
            f"rows: {self.protocol}",
            f"rounds: {len(self.log)}",
            f"institutions: {', '.join(last.get('sites', []))}",
        ]
        listed = "\n".join(f"- {fact}" for fact in facts)
        return f"# {self.id}\n\n{listed}\n\n## Plan\n\n```toml\n{self.plan.text.strip()}\n```\n"


def _change(before: SharedParams, after: SharedParams) -> float:
    """The L2 norm of what a round moved; of the whole model where a statistic has become one of other arrays."""
    shapes = [{name: array.shape for name, array in model.tensors.items()} for model in (before, after)]
    return norm(moved(after, before, descends=False) if shapes[0] == shapes[1] else after)


def _quality(done: Round) -> float | None:
    """Validation NDCG@10 of the model that the round started from, mean over the sites by their users."""
    said = [
        (a.update.users, a.update.measures["global-quality"])
        for a in done.answers
        if a.update and "global-quality" in a.update.measures
    ]
    users = sum(count for count, _ in said)
    return sum(count * value for count, value in said) / users if users else None
