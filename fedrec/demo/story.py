"""The whole story on real datasites, told once from the data to the table: `fedrec demo`."""

from __future__ import annotations

import importlib
import json
import platform
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fedrec
from fedrec.config import ConsortiumConfig, SchemaConfig, SiteConfig
from fedrec.config.consortium import Demo
from fedrec.core.params import SharedParams
from fedrec.datasets import WORLDS, DataSource, get_ml100k, synthetic
from fedrec.demo import owners
from fedrec.demo.plans import Settings, of_features, of_models, of_size
from fedrec.demo.sites import (
    SCIENTIST,
    Sites,
    finish_all,
    prepare,
    share_key,
    start_fedrec,
    timed,
    undisturbed,
    write_secret,
)
from fedrec.demo.sites import fedrec as command
from fedrec.demo.table import comparison, gains, in_words, yardstick
from fedrec.errors import Refused, Unreachable, WrongInput
from fedrec.exchange.privacy import Privacy
from fedrec.exchange.secure_sum import FEW
from fedrec.institution.audit import verify
from fedrec.institution.evidence.reconcile import reconcile
from fedrec.scientist.connect import connect
from fedrec.scientist.datasites import Datasites
from fedrec.scientist.driver import Round
from fedrec.scientist.plan import Plan
from fedrec.scientist.runs import Run

Say = Callable[[str], None]
_COUNT = {1: "one", 2: "two", 3: "three"}


@dataclass(frozen=True)
class Options:
    """What `fedrec demo` was asked for.

    Args:
        rounds: of gradient models; None takes each model's own.
        keep: folder in which the sites' folders stay; None takes a temporary one and deletes it.
        pause: called when every owner has decided, before the first round.
        advance: called after every round.
        privacy: what stands between the updates and the centre; None = nothing. With noise another model is
            trained than the consortium's [demo] table names: one that bounds what a user adds.
    """

    consortium: Path = Path("domains/movies")
    from_file: Path | None = None
    synthetic: bool = False
    rounds: int | None = None
    keep: Path | None = None
    seed: int = 0
    pause: Callable[[], object] | None = None
    advance: Callable[[str, Round, int], object] | None = None
    privacy: Privacy | None = field(default_factory=lambda: Privacy("secure"))


@dataclass
class Story:
    """What has happened so far; `report` is the JSON of contracts.md."""

    options: Options
    say: Say
    began: float = field(default_factory=time.monotonic)
    runs: list[Run] = field(default_factory=list)

    def tell(self) -> dict[str, Any]:
        """Do everything, shut everything down whatever happens, and return the report."""
        imports = threading.Thread(target=importlib.import_module, args=("fedrec.scientist.syft_client",))
        with _work(self.options.keep) as work:
            with timed("data", self.say):
                data = self._data(work / "source")
            config = prepare(self.options.consortium, work / "consortium", work / "source", self.options.seed)
            members = [member.name for member in config.member]
            passwords = {name: secrets.token_urlsafe(12) for name in (*members, "scientist")}
            if self.options.keep is not None:
                write_secret(work / "passwords.json", passwords)
                self.say(f"the passwords of the owners and of {SCIENTIST} are in {work / 'passwords.json'}")
            sites = Sites(work / "consortium", passwords.__getitem__)
            imports.start()  # PySyft takes seconds to load: while the sites start
            began = time.monotonic()
            try:
                with sites:
                    took = time.monotonic() - began
                    self.say(f"{len(sites.all)} datasites started, each took its own data in ({took:.1f} s)")
                    imports.join()
                    return self.on_sites(sites, data, passwords["scientist"])
            finally:
                with undisturbed():
                    imports.join()  # Python cannot end in the middle of an import without a traceback

    def on_sites(self, sites: Sites, data: DataSource, password: str) -> dict[str, Any]:
        """Everything from the accounts to the table, on sites that run; returns the report."""
        for site in sites.all.values():
            facts = site.facts or {}
            self.say(f"  {site.name:14} {site.url}  pid {facts['pid']}  jail level {facts['jail_level']}")
        sites.add_user(SCIENTIST, "scientist", password)
        federation = connect(sites.consortium, SCIENTIST, password)
        first = federation.sites()[0]
        mock = federation.mocks()[first].head(3).to_string(index=False)
        self.say(f"the scientist sees mocks only, such as {first}'s:\n{mock}")
        demo = _demo_of(sites.config.demo, self.options.privacy)
        schemas = [SchemaConfig.load(site.folder / "schema.toml") for site in sites.all.values()]  # it is public
        settings: dict[str, Mapping[str, Any]] = {}
        privacy = self._privacy(len(federation.sites()))
        if sums := of_features(demo.models, schemas, self.options.seed, privacy):
            self._decided(federation, sites, sums)
            for name, plan in sums.items():
                run = self._train(federation, plan.spec.name, plan, "p1")
                settings[name] = plan.built.settings(run.shared)  # type: ignore[attr-defined]
        models = demo.models
        if privacy is not None and privacy.sum == "ckks":
            models = self._encrypted(sites, models, settings, federation.n_items, privacy)
        plans = of_models(models, settings, self.options.rounds, self.options.seed, privacy)
        denier, denied = federation.sites()[-1], demo.denied if demo.denied in plans else ""
        self._decided(federation, sites, plans, denier if denied else "", denied)
        if self.options.pause is not None:
            self.options.pause()
        for name, plan in plans.items():
            for rows in plan.train:
                self._train(federation, name, plan, rows)
        if denied:
            self._denied_site_refuses(federation, plans[denied], denier)
        published = next((run for run in self.runs if run.protocol == "all"), None)
        if published is not None:
            with timed("model published; every site made top-100 lists for its users, which stay there", self.say):
                published.publish()
        return self._report(sites, data, published, self._lists(sites) if published else [])

    def _privacy(self, members: int) -> Privacy | None:
        """What was asked for, where there are enough institutions for it; says what it means."""
        privacy = self.options.privacy
        if privacy is not None and members < FEW:
            self.say("for two institutions a sum protects nothing against each other: the centre sees each update")
            privacy = None if privacy.epsilon is None else Privacy(epsilon=privacy.epsilon)
        elif privacy is None:
            self.say("--plain: the centre sees each institution's update")
        elif privacy.sum == "ckks":
            self.say("encrypted: the centre adds what it cannot read, and an institution decrypts the sum of all")
        else:
            self.say("secure sum: the centre gets masked numbers, which only their sum over all institutions opens")
        if privacy is not None and privacy.epsilon is not None:
            self.say(f"with noise: epsilon {privacy.epsilon:g} for a person's rows, over all that leaves a site")
        return privacy

    def _encrypted(
        self, sites: Sites, models: Sequence[str], settings: Settings, n_items: int, privacy: Privacy
    ) -> tuple[str, ...]:
        """Give the institutions their shared key; the models whose encrypted updates are not too large."""
        with timed("the institutions share a key: the first made it, nobody who carried it can read it", self.say):
            share_key(sites)
        most = min(SiteConfig.load(site.folder / "site.toml").limits.megabytes for site in sites.all.values())
        small = of_size(models, settings, n_items, most, privacy)
        if large := [name for name in models if name not in small]:
            self.say(f"left out, since an encrypted update would have more than {most:g} MB: {', '.join(large)}")
        return small

    def _seen(self, site: str, update: SharedParams, catalogue: Sequence[str]) -> None:
        """What a plain update tells the centre about an institution."""
        counts = next((array.diagonal() for name, array in update.tensors.items() if name == "gram"), None)
        if counts is not None:
            best = sorted(range(len(counts)), key=lambda item: -counts[item])[:3]
            named = ", ".join(f"{catalogue[item]} by {counts[item]:.0f} users" for item in best)
            self.say(f"  the centre now knows what {site} sold, item by item: {named}, …")

    def _decided(
        self, federation: Datasites, sites: Sites, plans: Mapping[str, Plan], denier: str = "", denied: str = ""
    ) -> None:
        """Submit the plans; every owner reads all of them, then approves; `denier` denies the plan called `denied`."""
        first, many = federation.sites()[0], f"{_COUNT.get(len(plans), len(plans))} plan{'s' * (len(plans) > 1)}"
        with timed(f"{many} submitted to every site as PySyft code requests", self.say):
            asked = {name: federation.submit(plan) for name, plan in plans.items()}
        requests = {site: {name: one.ids[site] for name, one in asked.items()} for site in sites.all}
        texts = owners.read(sites, requests)
        shown = next((name for name, plan in plans.items() if plan.code), next(iter(plans)))
        about = "the scientist's own code" if plans[shown].code else f"the plan {plans[shown].name}"
        self.say(f"\nwhat the owner of {first} reads about {about}:\n")
        self.say(texts[requests[first][shown]])
        rest = f"{len(texts) - 1} more request{'s' * (len(texts) > 2)}"
        self.say(f"the {len(sites.all)} owners read {rest} in the same way; each is in a log\n")
        said = f"{denier} denies one plan, everything else is approved" if denied else "everything is approved"
        with timed(f"owners decided: {said}", self.say):
            owners.decide(sites, requests, denier, denied)
            for one in asked.values():
                one.wait(120, show=lambda _: None)

    def _train(self, federation: Datasites, name: str, plan: Plan, rows: str) -> Run:
        def advance(done: Round, total: int) -> None:
            if self.options.advance is not None:
                self.options.advance(f"{name} on {rows}", done, total)
            if (update := done.answers[0].update) is not None and not self.runs and self.options.privacy is None:
                self._seen(done.sites[0], update.tensors, federation.catalogue)

        run = federation.train(plan, protocol=rows, on_round=advance)
        self.runs.append(run)
        if plan.evaluate and rows != "all":
            run.evaluate()
        seconds = sum(line["seconds"] for line in run.log)
        up = sum(line["bytes_up"] for line in run.log) / 1e6
        where = f"{len(run.log)} rounds, {len(run.log[0]['sites'])} sites"
        self.say(f"  {name} on {rows}: {where}, {up:.1f} MB up, {seconds:.1f} s")
        return run

    def _denied_site_refuses(self, federation: Datasites, plan: Plan, denier: str) -> None:
        """The owner's no holds at the site, whatever the driver does: ask for a round anyway."""
        try:
            federation.ask(denier, plan)
        except Refused as refusal:
            self.say(f"  {denier} was asked all the same: {refusal}")
            return
        raise AssertionError(f"{denier} ran a plan that its owner denied")

    def _lists(self, sites: Sites) -> list[dict[str, Any]]:
        """What each site serves now, and to how many of its users; as its operator sees it."""
        folders = [str(site.folder) for site in sites.all.values()]
        shown = finish_all([start_fedrec(["site", "models", "list", folder, "--json", "-"]) for folder in folders])
        found = []
        for name, text in zip(sites.all, shown, strict=True):
            served = next(model for model in json.loads(text)["models"] if model["served"])
            found.append({"institution": name, "model": served["model"], "users": served["users"]})
            self.say(f"  {name:14} serves {served['name']} {served['model'][:8]}: lists for {served['users']} users")
        best = command(["recommend", folders[0], "--user", "somebody new", "-k", "3"]).splitlines()[1:4]
        self.say(f"  at {found[0]['institution']}, for somebody new: {', '.join(best)}")
        return found

    def _report(
        self, sites: Sites, data: DataSource, published: Run | None, lists: list[dict[str, Any]]
    ) -> dict[str, Any]:
        with timed("the same models trained centrally, as the yardstick", self.say):
            found = comparison(sites, self.runs)
        table = [row for row in found if "auc" not in row]
        anchored = data.source.startswith("ml-100k") and "default" in {row["model"] for row in table}
        known = yardstick(table) if anchored else None
        self.say(in_words(known))
        audit = []
        self.say("each institution's audit log, with what the others hold of it:")
        pinned = ConsortiumConfig.load(sites.consortium).keys
        for site in sites.all.values():
            others = [other.folder for other in sites.all.values() if other is not site]
            verdict = verify(site.folder, witnesses=others, pinned=pinned)
            facts = {key: getattr(verdict, key) for key in ("verdict", "events", "witnessed")}
            gaps = [one.as_dict() for one in reconcile(site.folder)]
            audit.append({"site": site.name, **facts, "gaps": gaps})
            self.say(f"  {site.name:14} {verdict.sentence()}; {len(gaps)} acts without event or events without act")
        return {
            "institutions": list(sites.all),
            "sites": [
                {"institution": site.name, **{key: (site.facts or {})[key] for key in ("url", "pid", "uid")}}
                for site in sites.all.values()
            ],
            "data": {"source": data.source, "sha256": data.sha256, "rows": data.rows},
            "approvals": owners.approvals(sites),
            "rounds": [
                {key: line[key] for key in ("run", "round", "sites", "bytes_up", "bytes_down", "seconds")}
                for run in self.runs
                for line in run.log
            ],
            "table": table,
            "outcomes": [row for row in found if "auc" in row],
            "worth": gains(self.runs),
            "yardstick": known,
            "published": lists,
            "models": ({published.plan.name: published.model_sha256} if published else {})
            | {f"{run.plan.name}-{run.protocol}": run.model_sha256 for run in self.runs},
            "epsilon": max((run.plan.spec.protects.epsilon or 0.0 for run in self.runs), default=0.0) or None,
            "audit": audit,
            "seconds": round(time.monotonic() - self.began, 1),
            "seed": self.options.seed,
            "versions": _versions(),
        }

    def _data(self, folder: Path) -> DataSource:
        name = ConsortiumConfig.load(self.options.consortium / "consortium.toml").name
        if name in WORLDS:
            return WORLDS[name](folder, self.options.seed)
        if self.options.synthetic:
            return synthetic(folder, seed=self.options.seed)
        try:
            return get_ml100k(folder, self.options.from_file, progress=self.say)
        except Unreachable as error:
            self.say(f"ML-100K cannot be had ({error}); going on with generated data, as with --synthetic")
            return synthetic(folder, seed=self.options.seed)


def _demo_of(demo: Demo, privacy: Privacy | None) -> Demo:
    """What the demo does: with noise it trains a model made for that, which nobody denies."""
    if privacy is not None and privacy.epsilon is not None:
        return Demo(models=("private",))
    return demo


@contextmanager
def _work(keep: Path | None) -> Iterator[Path]:
    """The folder for everything that is written; deleted at the end unless it is kept.

    Raises:
        WrongInput: it cannot be written, or the one to keep has files: accounts of an earlier demo stay as they are.
    """
    if keep is not None:
        _fresh(keep)
        yield keep
        return
    try:
        folder = Path(tempfile.mkdtemp(prefix="fedrec-demo-"))
    except OSError as error:
        raise WrongInput(f"no folder for temporary files can be written ({error.strerror}); set TMPDIR") from None
    try:
        yield folder
    finally:
        with undisturbed():
            shutil.rmtree(folder, ignore_errors=True)


def _fresh(keep: Path) -> None:
    try:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise WrongInput(f"--keep {keep}: is not empty; name a new folder, or delete this one")
        (keep / ".gitignore").write_text("*\n")  # rows, keys and passwords
    except OSError as error:
        raise WrongInput(f"--keep {keep}: cannot be written ({error.strerror}); name another folder") from None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "fedrec": fedrec.__version__}
    for name in ("syft", "torch", "numpy", "pandas"):
        found[name] = str(sys.modules[name].__version__)
    return found
