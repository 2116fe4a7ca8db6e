"""`fedrec.Plan`: what a scientist proposes, from a model or from a class of his own."""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import fedrec
from fedrec import aggregation, models
from fedrec.aggregation import Aggregator, Buffered, Mean, Schedule, Stop, Synchronous, WeightedMean
from fedrec.core.params import SharedParams
from fedrec.errors import WrongInput
from fedrec.exchange.budget import report, why_not
from fedrec.exchange.codec import codec_of
from fedrec.exchange.plan import DTYPES, PlanText, Tensor, fingerprint
from fedrec.exchange.privacy import Privacy
from fedrec.exchange.wire import digest
from fedrec.models import Model
from fedrec.models.local import LocalEpochs

FRACTION = 24  # bits behind the point where the plan does not say: 50 sites' sums are right to 2e-6, at any weight


class HasModel(Protocol):
    """A run, as a plan that continues it needs it."""

    @property
    def shared(self) -> SharedParams: ...


@dataclass(frozen=True)
class Plan:
    """A plan; `text` is what every owner reads.

    Model, aggregator, schedule, stop and local may be given as tables, such as {"name": "adam", "lr": 0.03}.

    Args:
        model: a recipe, such as fedrec.models.Ease(l2=200.0). Give this or `code`.
        code: a class of your own (or its text); its source stands in the plan, see docs/own-code.md.
        settings: literal keyword arguments of your own class.
        aggregator: how the centre merges; None takes what fits the model, or WeightedMean with `local`.
        local: epochs at the sites, such as fedrec.models.LocalEpochs(5), after which parameters leave; None lets
            the model's own contribution leave, a gradient or a statistic.
        schedule: which sites train when; None is every site in every round.
        stop: when a run ends before its last round; None is never.
        codec: "float16" or "int8", half or a quarter of an update's bytes, rounded with error feedback; None sends
            float32.
        privacy: a secure sum, noise, or both; None lets the centre see each institution's update.
        rounds: training rounds of one run; None takes the model's own.
        train: which rows each run trains on: "p1", "p3" (parts held out for evaluation) or "all".
        runs: how many runs of each kind the permits should allow.
        evaluate: ask for hit counts, as sums over users.
        publish: ask to install the model at the institutions.
        name: a-z, 0-9, _; part of the request's function name.
        use: one of the purposes that the sites allow, such as "research"; purpose says it in your own words.
        sites: the institutions that are asked, by name; none is all.
        start_from: a model to continue, such as a finished run, or the SHA-256 of one; its SHA-256 stands in the plan.
        validate: models of one run that may be measured on the sites' validation rows, after its last round.
        search: settings that the centre tries on the merged statistic, see `federation.search`.
        norms: largest L2 norm of an update's arrays, by name; the sites' guards hold you to it.
        fixed: of arrays under a secure sum, by name: (bits behind the point, bits in all), in all 8, 16, 32 or 64; of
            those not named what is exact for whole numbers, and to about 1e-6 for others.
    """

    model: Model | None = None
    code: type | str | None = None
    settings: dict[str, Any] | None = None
    aggregator: Aggregator | None = None
    local: LocalEpochs | None = None
    schedule: Schedule | None = None
    stop: Stop | None = None
    codec: str | None = None
    privacy: Privacy | None = None
    rounds: int | None = None
    train: tuple[str, ...] = ("all",)
    runs: int = 1
    evaluate: bool = False
    publish: bool = False
    days: int = 30
    name: str = ""
    purpose: str = "Better recommendations for the users of all institutions"
    seed: int = 0
    use: str = ""
    norms: dict[str, float] | None = None
    fixed: dict[str, tuple[int, int]] | None = None
    sites: tuple[str, ...] = ()
    start_from: HasModel | SharedParams | str | None = None
    validate: int = 0
    search: dict[str, list[Any]] | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.code is None):
            raise WrongInput("a plan has either a model or code of its own")
        for name, read in _TABLES.items():
            if isinstance(given := getattr(self, name), Mapping):
                object.__setattr__(self, name, read(given))
            elif given is not None and (isinstance(given, type) or not is_dataclass(given)):
                raise WrongInput(f"{name}={given!r}: give one of fedrec's values, or its table, such as {{'name': …}}")
        self._check_fit()
        PlanText.parse(self.text)  # everything that is wrong with a plan is said when it is made

    @classmethod
    def from_text(cls, text: str) -> Plan:
        """The plan that has this text.

        Raises:
            Refused: `request.form` when it is no plan's text.
        """
        spec = PlanText.parse(text)
        return cls(
            model=models.from_plan(spec.model),
            aggregator=aggregation.create(spec.aggregator),
            local=LocalEpochs.from_table(spec.local),
            schedule=aggregation.schedule_of(spec.schedule) if spec.schedule else None,
            stop=aggregation.stop_of(spec.stop) if spec.stop else None,
            codec=spec.codec.get("name"),
            privacy=spec.protects if spec.privacy else None,
            rounds=spec.rounds,
            train=spec.train,
            runs=spec.runs,
            evaluate=spec.evaluate,
            publish=spec.publish,
            days=spec.days,
            name=spec.name,
            purpose=spec.purpose,
            seed=spec.seed,
            use=spec.use,
            norms={name: tensor.norm for name, tensor in spec.leaves.items() if tensor.norm is not None},
            fixed={name: tensor.fixed for name, tensor in spec.leaves.items() if tensor.fixed is not None},
            sites=spec.sites,
            start_from=spec.start or None,
            validate=spec.validate,
            search=dict(spec.search) or None,
        )

    @cached_property
    def built(self) -> Model:
        """The model that the centre and the sites run."""
        if self.model is not None:
            return self.model
        assert self.code is not None
        text = without_docstrings(self.code) if isinstance(self.code, str) else source_of(self.code)
        return models.create("own", {"code": text, **(self.settings or {})})

    @property
    def beginning(self) -> SharedParams | None:
        """The model that round 0 starts from, when the plan names one.

        Raises:
            WrongInput: only its SHA-256 is known here.
        """
        given = self.start_from
        if isinstance(given, str):
            raise WrongInput(f"the plan starts from the model {given[:12]}, which is not here: give it as start_from")
        if given is None:
            return None
        model = given if isinstance(given, SharedParams) else given.shared
        return self.local.begin(model) if self.local else model

    @property
    def plain(self) -> Plan:
        """The same plan with nothing between updates and centre: the yardstick of one place that holds all rows."""
        return replace(self, privacy=None, fixed=None)

    @property
    def merges(self) -> Aggregator:
        """The aggregator of the plan."""
        if self.aggregator is None and self.local is not None:
            return WeightedMean()
        return self.aggregator or aggregation.default_for(self.built)

    @property
    def turns(self) -> Schedule:
        """Which sites train when."""
        return self.schedule or Synchronous()

    def _check_fit(self) -> None:
        """Refuse what would run and mean nothing."""
        kind = self.built.aggregator_default
        if (kind != "adam" and self.local is not None) or (kind == "sum" and isinstance(self.schedule, Buffered)):
            name = self.built.name
            raise WrongInput(f"{name} releases no gradients: no local epochs, no asynchronous rounds")
        if self.local is not None and self.local.scaffold:
            averages = isinstance(self.merges, Mean | WeightedMean) and self.built.name != "own"
            if not averages or type(self.turns) is not Synchronous:
                raise WrongInput("scaffold needs a built-in model, a mean of parameters, and all sites in every round")
        if self.codec is not None:
            codec_of(self.codec)
            if self.spec.codec and kind != "adam":
                raise WrongInput(f"{self.built.name} releases a statistic once, and exactly: no codec")
            if self.spec.codec and self.norms:
                raise WrongInput("a codec rounds an update and adds what it lost before: it keeps no norms")
        if found := why_not(self.spec, self.built):
            raise WrongInput(f"{found[0]}. {found[1]}")
        measured = self.validate or {"model-quality", "global-quality"} & set(self.spec.measures)
        if measured and not set(self.train) <= {"p1", "p2"}:
            raise WrongInput("validation rows are held out under p1 and p2 only: train on these, or do not use them")

    def _leaves(self) -> dict[str, Tensor]:
        """What leaves: the model's arrays, with the norms and the fixed-point forms that the plan gives them."""
        texts = self.local.leaves(self.built.leaves()) if self.local else self.built.leaves()
        leaves = {name: Tensor.parse(text) for name, text in texts.items()}
        for what, given in (("norms", self.norms or {}), ("fixed", self.fixed or {})):
            if unknown := set(given) - set(leaves):
                raise WrongInput(f"{what}: an update has no array {sorted(unknown)[0]}")
        leaves = {name: replace(tensor, norm=(self.norms or {}).get(name)) for name, tensor in leaves.items()}
        if self.privacy is None or self.privacy.sum == "plain":
            if self.fixed:
                raise WrongInput("fixed: fixed-point numbers are for a sum that nobody sees the parts of, see privacy")
            return leaves
        weighted = isinstance(getattr(self.merges, "inner", self.merges), WeightedMean)
        return {name: replace(tensor, fixed=self._fixed(name, tensor, weighted)) for name, tensor in leaves.items()}

    def _fixed(self, name: str, tensor: Tensor, weighted: bool) -> tuple[int, int]:
        """The fixed-point form of an array: whole numbers as they are, of others what holds any weight or statistic."""
        if self.fixed and name in self.fixed:
            bits, width = self.fixed[name]
            return bits, width
        exact = self.privacy is None or self.privacy.epsilon is None
        if (exact and name in getattr(self.built, "whole", ())) or tensor.dtype.startswith("int"):
            return 0, 64 if weighted else max(32, 8 * DTYPES[tensor.dtype])
        return FRACTION, 64

    @cached_property
    def spec(self) -> PlanText:
        """The plan as data that has one text."""
        model = self.built
        begins = None if isinstance(self.start_from, str) else self.beginning
        return PlanText(
            name=self.name or model.name.replace("-", "_"),
            purpose=self.purpose,
            model=models.table_of(model),
            aggregator=aggregation.settings_of(self.merges),
            local=self.local.table() if self.local else {},
            schedule=aggregation.settings_of(self.schedule) if self.schedule else {},
            stop=asdict(self.stop) if self.stop else {},
            codec={"name": self.codec} if self.codec not in (None, "float32") else {},
            privacy=self.privacy.table() if self.privacy else {},
            leaves=self._leaves(),
            rounds=self.rounds or model.rounds_default,
            train=tuple(self.train),
            runs=self.runs,
            evaluate=self.evaluate,
            publish=self.publish,
            days=self.days,
            seed=self.seed,
            fedrec=fedrec.__version__,
            use=self.use,
            validate=self.validate,
            sites=tuple(self.sites),
            start=self.start_from if isinstance(self.start_from, str) else digest(begins.tensors) if begins else "",
            search=self.search or {},
        )

    @cached_property
    def text(self) -> str:
        """What stands in the request, and what the owner reads."""
        return self.spec.text()

    def epsilon_report(self, institutions: int = 1) -> str:
        """What the plan's epsilon says, as the owners will read it; also to a customer of so many institutions."""
        return "\n".join(report(self.spec, self.built, institutions))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the text; the same on page, command line and log."""
        return fingerprint(self.text)


_TABLES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "model": models.from_plan,
    "aggregator": aggregation.create,
    "schedule": aggregation.schedule_of,
    "stop": aggregation.stop_of,
    "local": lambda table: LocalEpochs.from_table({"update": "parameters", **table}),
}


def source_of(cls: type) -> str:
    """The source of a class, from a notebook cell or a file, fit for a plan.

    Raises:
        WrongInput: Python does not know the source, or as `without_docstrings`.
    """
    try:
        return without_docstrings(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return without_docstrings(_from_notebook(cls))


def without_docstrings(text: str) -> str:
    """Python with its docstrings as comments, line for line: a plan has no room for three quotes in a row.

    Raises:
        WrongInput: no Python, or other texts between three quotes.
    """
    lines = text.splitlines()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise WrongInput(f"own code is no Python: {error}") from None
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            doc = node.body[0]
            first, last = doc.lineno - 1, (doc.end_lineno or doc.lineno) - 1
            before = lines[first].encode()[: doc.col_offset].decode()
            after = lines[last].encode()[doc.end_col_offset :].decode()
            if '"""' not in lines[first] and "'''" not in lines[first]:
                continue
            if before.strip() or after.strip():  # beside other code
                lines[first : last + 1] = [f"{before}pass{after}", *[""] * (last - first)]
            else:
                _comment(lines, first, last, only=len(node.body) == 1)
    text = "\n".join(lines) + "\n"
    if '"""' in text or "'''" in text:
        raise WrongInput("own code: write texts with single quotes; a plan has no room for three in a row")
    return text


def _comment(lines: list[str], first: int, last: int, only: bool) -> None:
    indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    for number in range(first, last + 1):
        words = lines[number].strip().replace('"""', "").replace("'''", "").strip()
        lines[number] = f"{indent}# {words}".rstrip()
    if only:
        lines[last] += f"\n{indent}pass"


def _from_notebook(cls: type) -> str:
    """The part of a cell that made this very class: inspect knows no class of a notebook, but each function."""
    for code in (value.__code__ for value in vars(cls).values() if inspect.isfunction(value)):
        lines = linecache.getlines(code.co_filename)
        try:
            classes = [node for node in ast.walk(ast.parse("".join(lines))) if isinstance(node, ast.ClassDef)]
        except SyntaxError:
            continue
        for node in classes:
            if node.name == cls.__name__ and node.lineno <= code.co_firstlineno <= (node.end_lineno or 0):
                first = min([node.lineno, *(part.lineno for part in node.decorator_list)])
                return textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
    raise WrongInput(f"the source of {cls.__name__} is not known; give it as text")
