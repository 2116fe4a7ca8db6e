"""A run: its rounds, its folder, its model; goes on from the last committed round after any crash.

runs/<run>/plan.toml  run.json  rounds.jsonl  checkpoints/NNNNNN.safetensors  model.safetensors  card.md
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrec.aggregation import Stop
from fedrec.core.params import SharedParams
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.plan import VALIDATION
from fedrec.exchange.wire import decode, digest, encode
from fedrec.scientist.driver import Round, begin, train
from fedrec.scientist.federation import Answer, Federation, RoundTask, SiteState, Watch, nobody
from fedrec.scientist.folder import commit, held, newest, rounds_of, write
from fedrec.scientist.lines import card_of, epsilon_so_far, line_of, score_table
from fedrec.scientist.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

OnRound = Callable[[Round, int], None]


class Run:
    """One run of a plan on a federation.

    Args:
        sites: who takes part; without a schedule a run that lost one stops rather than go on without it.
        folder: where rounds and checkpoints are kept; None keeps them in memory only.
    """

    def __init__(
        self, plan: Plan, federation: Federation, run: str, protocol: str, sites: Sequence[str], folder: Path | None
    ) -> None:
        self.plan, self.federation, self.id, self.protocol, self.folder = plan, federation, run, protocol, folder
        self._sites, self.now = list(sites), begin(plan, federation)
        self.joins = False  # whether sites whose owners approve later take part as well
        self.resumed_from: int | None = None
        self.best: SharedParams | None = None  # by validation, where the plan stops by it
        self.log: list[dict[str, Any]] = []
        self.kept: Round | None = None  # the last round, where the plan validates: other models are made from it
        self.evaluations: dict[str, list[Answer]] = {}
        self._asked: list[Answer] = []  # for after the last round

    @classmethod
    def start(
        cls,
        plan: Plan,
        federation: Federation,
        *,
        protocol: str | None = None,
        folder: Path | None = None,
        sites: Sequence[str] = (),
    ) -> Run:
        """A new run before its first round.

        Args:
            protocol: which rows are trained on; by default the plan's only one.
            folder: the folder of all runs, such as runs/; the run gets one below it.
            sites: who takes part, of those that have approved the plan; none is all.

        Raises:
            WrongInput: the plan trains on several kinds of rows and none was named, or on others.
            Refused: `permit.missing` when no institution has approved the plan.
        """
        rows = protocol or (plan.train[0] if len(plan.train) == 1 else "")
        if rows not in plan.train:
            raise WrongInput(f"the plan trains on {', '.join(plan.train)}: name one as protocol")
        ready = federation.ready(plan)
        if not ready:
            raise Refused("permit.missing", "no institution has approved this plan", "Wait for the owners' decisions")
        if missing := [site for site in sites if site not in ready]:
            raise Refused("permit.missing", f"{missing[0]} has not approved this plan", "Wait for its owner's decision")
        chosen = [site for site in ready if site in (sites or ready)]
        name = f"{plan.spec.name}-{rows}-{secrets.token_hex(4)}"
        run = cls(plan, federation, name, rows, chosen, folder / name if folder else None)
        run.joins = plan.turns.joins and not sites
        if run.folder is not None:
            (run.folder / "checkpoints").mkdir(parents=True)
            write(run.folder / "plan.toml", plan.text.encode())
            if plan.beginning is not None:
                write(run.folder / "start.safetensors", encode(plan.beginning.tensors))
            run._say_who()  # last: without it there is no run
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
            if plan.spec.start:
                plan = replace(plan, start_from=SharedParams(decode((folder / "start.safetensors").read_bytes())))
        except (OSError, ValueError):
            raise WrongInput(f"{folder}: holds no run") from None
        if facts["fingerprint"] != plan.fingerprint:
            raise WrongInput(f"{folder}: plan.toml is not the plan that the run was started with")
        run = cls(plan, federation, facts["run"], facts["protocol"], facts["sites"], folder)
        run.joins = bool(facts.get("joins"))
        run._read(folder)
        run.resumed_from = run.now.number
        return run

    def resume(self, **on: Any) -> Run:
        """Go on from the last committed round to the end: after an interruption, a refusal, or `federation.attach`."""
        self.resumed_from = self.now.number
        return self.finish(**on)

    def _say_who(self) -> None:
        """Write run.json: who takes part, and where `resume` finds them."""
        facts: dict[str, Any] = {"run": self.id, "protocol": self.protocol, "fingerprint": self.plan.fingerprint}
        facts |= {"sites": list(self.sites), "joins": self.joins}
        self.keep("run.json", json.dumps(facts | {"consortium": str(getattr(self.federation, "consortium", ""))}))

    def _join(self) -> None:
        """Take in the sites whose owners have approved the plan since; a site that does not answer now joins later."""
        for site in [site for site in self.federation.sites() if site not in self.sites]:
            try:
                new = self.federation.ready(self.plan, (site,))
            except Refused:
                continue
            if new:
                self._sites.append(site)
                self._sites.sort(key=self.federation.sites().index)
                self._say_who()

    def keep(self, name: str, text: str) -> None:
        """Put a text beside the run, such as the RUN.toml that it came from."""
        if self.folder is not None:
            write(self.folder / name, text.encode())

    @property
    def sites(self) -> tuple[str, ...]:
        """Who takes part, in the order in which updates are added."""
        return tuple(self._sites)

    @property
    def shared(self) -> SharedParams:
        """The model now."""
        return self.now.shared

    @property
    def epsilon(self) -> float | None:
        """Spent so far for one person's rows at one institution; for customers of several `Plan.epsilon_report`."""
        return epsilon_so_far(self.plan.spec.protects, self.log, self._asked)

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

    def _rounds(self, watch: Watch = nobody) -> Iterator[Round]:
        if (stop := self.plan.stop or Stop()).reached(self.log):
            return
        for done in train(self.plan, self.federation, self.id, self.protocol, self._sites, self.now, watch):
            self._commit(done)
            yield done
            if stop.reached(self.log):
                return
            if self.joins:
                self._join()

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

    def finish(
        self,
        on_round: OnRound | None = None,
        *,
        on_refusal: Callable[[SiteState], object] | None = None,
        on_end: Callable[[Run], object] | None = None,
        on_state: Watch = nobody,
    ) -> Run:
        """Do all rounds that are left, then write the model and its card.

        Where the plan stops by validation, the model is the best of those that were measured.

        Args:
            on_round: called with each committed round and the plan's number of rounds.
            on_refusal: called when a site says no or its update is refused; `site`, `number` and `why` say the rest.
            on_end: called with the run when its model is there.
            on_state: called whenever a site begins to do something else.

        Raises:
            Refused: a site said no; the run stands at its last committed round and can be resumed.
        """

        def watch(state: SiteState) -> None:
            on_state(state)
            if state.state == "refused" and on_refusal is not None:
                on_refusal(state)

        with self._driven():
            self._to_the_end(on_round, watch)
        if on_end is not None:
            on_end(self)
        return self

    def _to_the_end(self, on_round: OnRound | None, watch: Watch) -> None:
        total, told = self.plan.spec.rounds, on_round or (lambda *_: None)
        try:
            for done in self._rounds(watch):
                told(done, total)
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
        self.write_model()

    def write_model(self) -> None:
        """Put the model as it is now into the folder, with its card."""
        if self.folder is not None:
            write(self.folder / "model.safetensors", encode(self.shared.tensors))
            facts = (self.id, self.protocol, self.plan.text, self.plan.fingerprint, self.model_sha256, self.log)
            write(self.folder / "card.md", card_of(*facts).encode())

    def evaluate(self, protocol: str | None = None) -> pd.DataFrame:
        """Ask the sites how well the model finds held-out items; only sums over users leave them.

        Args:
            protocol: p1, p2 or p3; by default the one that the run trained for.

        Returns:
            One row per scope and institution, "all" being the mean over users, with their number in `users`.
        """
        name = protocol or self.protocol
        if name not in self.evaluations:
            self.evaluations[name] = self._last("evaluate", name, self.shared)
        return score_table(self.evaluations[name])

    def worth(self, protocol: str | None = None, *, centralised: Run | None = None) -> pd.DataFrame:
        """Is it worth it for us: one row per institution and group of users, with a verdict; see `worth.of_run`."""
        from fedrec.scientist.worth import of_run

        return of_run(self, protocol or self.protocol, centralised)

    def validate(self, model: SharedParams | None = None) -> pd.DataFrame:
        """As `evaluate`, of a model of this run on the validation rows: the run's, or one made from its statistic.

        Raises:
            Refused: `permit.evaluate` when the models that the plan asks to validate are used up.
        """
        table = score_table(self._last("evaluate", VALIDATION, model or self.shared))
        return table[table["scope"] == "federated"].drop(columns="scope")

    def contributions(self) -> pd.DataFrame:
        """What leaving out each institution changes for the others on validation rows; see `search.contributions`."""
        from fedrec.scientist.search import contributions

        return contributions(self)

    def compare(self, other: Run) -> pd.DataFrame:
        """Two runs side by side: what differs in their plans, and what they cost and reached; one row per fact."""
        from fedrec.scientist.compare import side_by_side

        return side_by_side(self, other)

    def publish(self) -> dict[str, str]:
        """Install the model at the institutions, which make top-100 lists that stay there; {site: model's SHA-256}."""
        return {answer.site: self.model_sha256 for answer in self._last("publish", self.protocol, self.shared)}

    def plot(self, what: str = "rounds", path: Path | None = None) -> Any:
        """A matplotlib figure, written to `path` if one is given.

        Args:
            what: "rounds" for convergence, institutions, weights and bytes; "worth" for what each institution gains,
                with intervals; or a column of `evaluate`, such as "ndcg@10", by institution.
        """
        from fedrec.scientist.plots import rounds_figure, scores_figure, worth_figure

        title = f"{self.plan.spec.name}, trained on {self.protocol}"
        if what == "rounds":
            measured = score_table(self.evaluations[self.protocol]) if self.protocol in self.evaluations else None
            return rounds_figure(self.log, title, path, measured)
        if what == "worth":
            return worth_figure(self.worth(), title, path)
        return scores_figure(self.evaluate(), what, title, path)

    def _last(self, kind: str, protocol: str, model: SharedParams) -> list[Answer]:
        """A task after the last round, for every site that has trained: by the round that each trained last."""
        trained: dict[str, int] = {}
        for line in self.log:
            trained |= {site: line["round"] - line.get("late", {}).get(site, 0) for site in line["sites"]}
        answers: list[Answer] = []
        for number in sorted(set(trained.values())):
            sites = tuple(site for site in self.sites if trained.get(site) == number)
            answers += self.federation.run(RoundTask(self.plan, kind, self.id, number, protocol, sites, model))
        self._asked += answers
        return sorted(answers, key=lambda answer: self.sites.index(answer.site))

    def _commit(self, done: Round) -> None:
        """Stand after this round, and say so in the folder."""
        line = line_of(self.id, self.shared, done)
        self.log.append(line)
        line["epsilon"] = self.epsilon
        if self.plan.validate:
            self.kept = done
        before, self.now = self.now, done.after
        stop = self.plan.stop
        if stop is not None and stop.patience and stop.best(self.log) == len(self.log) - 1:
            self.best = before.shared
            if self.folder is not None:
                write(self.folder / "best.safetensors", encode(self.best.tensors))
        if self.folder is not None:
            commit(self.folder, done.after, line)
