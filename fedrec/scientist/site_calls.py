"""Tasks under way at datasites: sent and received apart, a thread each."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedrec.core.params import Array
from fedrec.errors import Refused
from fedrec.exchange.ckks_plan import added, layout_of
from fedrec.exchange.wire import decode, encode, sha256
from fedrec.scientist.federation import Answer, RoundTask, SiteRefused, SiteState, Watch
from fedrec.scientist.fetch import check_shared
from fedrec.scientist.recovered import recovered

if TYPE_CHECKING:
    from fedrec.scientist.datasites import Datasites
    from fedrec.scientist.witnesses import Carried


class SiteCalls:
    """Tasks under way at datasites, a thread each; answers to a run that ended are lost with it."""

    def __init__(self, federation: Datasites, watch: Watch) -> None:
        self._federation, self._watch = federation, watch
        self._came = queue.SimpleQueue[Answer | SiteState | BaseException]()
        self._closed = threading.Event()
        self._begun = False  # whether a round was fetched: before the first, a driver that ended may have begun it

    @property
    def n_items(self) -> int:
        return self._federation.n_items

    def clock(self) -> float:
        return time.monotonic()

    def send(self, task: RoundTask) -> None:
        data = encode(task.shared.tensors)
        message = task.message(sha256(data))
        carried = self._federation.carried(task.run)
        for site in task.sites:  # threads of their own: a site that never answers holds up neither a run nor the end
            self._watch(SiteState(site, task.number, "sending"))
            given = (site, task, message, data, carried)
            threading.Thread(target=self._one, args=given, name=f"{task.run} {site}", daemon=True).start()

    def fetch(self, task: RoundTask, answers: Sequence[Answer]) -> tuple[list[Answer], list[dict[str, Array]]]:
        for site in task.sites:
            self._watch(SiteState(site, task.number, "uploading"))
        if task.plan.spec.protects.recover:
            again, self._begun = not self._begun, True
            return recovered(self._federation, task, answers, again)
        found = list(self._federation._pool.map(lambda answer: self._federation.fetch(answer), answers))
        answers, rings = [answer for answer, _ in found], [ring for _, ring in found]
        if task.plan.spec.protects.sum != "ckks":
            return answers, rings
        check_shared({answer.site: str(answer.receipt["shared_key"]) for answer in answers})
        total = added(rings, layout_of(task.plan.spec, self.n_items, len(task.members)))
        first, said = self._federation.ask_about(answers[0], "sum", encode(total))
        return [first, *answers[1:]], [decode(said)]

    def tell(self, site: str, task: RoundTask, refusal: Refused) -> None:
        self._federation._pool.submit(self._federation._tell, site, task, refusal.code)

    def receive(self, until: float | None) -> Sequence[Answer | SiteRefused]:
        while True:
            try:
                answer = self._came.get(timeout=None if until is None else max(0.0, until - self.clock()))
            except queue.Empty:
                return []
            if not isinstance(answer, SiteState):
                break
            self._watch(answer)
        if isinstance(answer, BaseException) and not isinstance(answer, SiteRefused):
            raise answer
        return [answer]

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        self._closed.set()

    def _one(self, site: str, task: RoundTask, message: dict[str, Any], data: bytes, carried: Carried) -> None:
        def say(state: str) -> None:
            self._came.put(SiteState(site, task.number, state))

        try:
            self._came.put(self._federation._one(site, task, message, data, carried, say, self._closed))
        except BaseException as error:  # told in the thread that waits
            self._came.put(error)
