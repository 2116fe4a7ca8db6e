"""A site on a file system of its own that is full, well again, and read-only at its next start: `unshare --mount … little_disk.py DIR`.

Prints JSON: the codes of a task, an approval and a model's arrival on the full disk and afterwards, and how the start ended.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "institution"))

from every_operation import Here
from small_site import OWNER, START, approved, make_site, recipe, sent, submitted, task

from fedrec.errors import WrongInput
from fedrec.institution import audit, endpoint, serve
from fedrec.institution.decisions import Decisions
from fedrec.institution.jobs import Jobs
from fedrec.institution.site import Site
from fedrec.institution.trouble import refusal_of


def code_of(call: Any, *given: Any) -> str:
    """How a call ended: done, or the code of its refusal."""
    try:
        answer = call(*given)
    except Exception as error:
        return refusal_of(error).code
    return str(answer.get("code", answer["status"])) if isinstance(answer, dict) else "done"


def main(disk: Path) -> None:
    site = make_site(disk)
    jobs, row = Jobs(site, Here()), approved(site, recipe("popularity"))
    waiting, raw = submitted(site, recipe()), task(sent(site, row, START))
    endpoint.serve(jobs.start)

    def send() -> dict[str, Any]:
        answer = endpoint.call(row.key, row.plan, raw)
        return asyncio.run(jobs.wait(answer["key"], 20)) if answer["status"] == "running" else answer

    def all_of_them() -> list[str]:
        approve = Decisions(site, jobs).approve
        blob = code_of(sent, site, row, {"v": START["counts"]})
        return [code_of(send), code_of(approve, OWNER, waiting.id, {}, lambda: True), blob]

    found: dict[str, Any] = {}
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            for size in (65536, 4096, 512, 1):
                while filler.write(bytes(size)) == size:
                    pass
        except OSError as error:
            found["filled"] = error.strerror
    found["full"] = all_of_them()
    (disk / "filler").unlink()
    found["well"] = all_of_them()
    jobs.close()
    site.close()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        serve.serve(site.folder, "a password", lambda _: None)
    except WrongInput as error:
        found["read-only"] = str(error)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    site = Site.open(site.folder)
    found["used"] = site.ledger.used(row.id)
    found["verdict"] = audit.verify(site.audit.path).verdict
    site.close()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
