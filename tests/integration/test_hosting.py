"""What an operator relies on, at one running site: secrets gone, a log of its own, accounts, status after an end."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import real_sites
from real_sites import ADA_PASSWORD, command, login

from fedrec.demo.sites import SiteProcess
from fedrec.errors import Refused
from fedrec.institution import audit
from fedrec.institution.gate import PATHS

pytestmark = pytest.mark.sites
EVE, OLD, NEW = "eve@reset.example", "eve-old-secret-1", "eve-new-secret-2"


def rows(site: SiteProcess) -> list[dict[str, object]]:
    lines = (site.folder / "state" / "log" / "site.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_owners_password_is_in_no_environment_of_the_site(site):
    pid = int(site.facts["pid"])
    for process in (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))):
        assert site.owner_password.encode() not in Path(f"/proc/{process}/environ").read_bytes()
    assert b"PATH=" in Path(f"/proc/{pid}/environ").read_bytes()  # the control: others are still there


def test_the_log_says_that_the_site_started_and_names_nobody(site):
    log = rows(site)
    assert [row["facts"]["site"] for row in log if row["event"] == "start"][-1] == "solo"  # type: ignore[index]
    text = json.dumps(log)
    assert not any(word in text for word in (site.owner_password, ADA_PASSWORD, site.owner, real_sites.CANARY, "@"))


def test_an_account_whose_password_is_reset_logs_in_with_the_new_one_only(site, tmp_path):
    folder = site.folder
    assert command("site", "users", "add", folder, EVE, "--role", "auditor", FEDREC_PASSWORD=OLD).returncode == 0
    key = login(site, EVE, OLD).key
    file = tmp_path / "password"
    file.write_text(NEW + "\n")
    file.chmod(0o600)
    done = command("site", "users", "reset", folder, EVE, FEDREC_PASSWORD_FILE=str(file))
    assert (done.returncode, done.stdout) == (0, f"{EVE} has a new password at solo\n"), done.stderr
    assert login(site, EVE, NEW).key == key
    with pytest.raises(Refused, match=r"login\.password"):
        login(site, EVE, OLD)
    event = real_sites.events(site, act="users.reset")[-1]
    assert (event["outcome"], event["actor"], event["object"]) == ("done", "site", EVE)
    assert command("site", "users", "disable", folder, EVE).returncode == 0
    with pytest.raises(Refused, match=r"login\.password"):
        login(site, EVE, NEW)
    assert audit.verify(folder).verdict == "ok"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add", "{owner}", "--role", "scientist"), "the owner named in site.toml stays the owner"),
        (("disable", "{owner}"), "the owner named in site.toml cannot be disabled"),
        (("reset", "nobody@x.example"), "there is no such account"),
        (("add", "x@x.example", "--role", "king"), "role is one of owner, reviewer, scientist, auditor, operator"),
    ],
)
def test_what_would_leave_a_site_without_its_owner_is_refused(site, arguments, says):
    verb, email, *more = (word.format(owner=site.owner) for word in arguments)
    done = command("site", "users", verb, site.folder, email, *more, FEDREC_PASSWORD="long-enough-1")
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    users = json.loads(command("site", "users", "list", site.folder, "--json", "-").stdout)["users"]
    assert {"email": site.owner, "role": "owner", "enabled": True} in users


def test_no_role_can_make_accounts_or_grant_roles_over_the_network():
    allowed = frozenset().union(*PATHS.values())
    assert {path for path in allowed if path.startswith("user.")} == {"user.get_current_user", "user.get_all"}


def test_a_short_password_is_refused_and_not_repeated(site):
    done = command("site", "users", "reset", site.folder, site.owner, FEDREC_PASSWORD="canary9")
    assert (done.returncode, "canary9" in done.stderr + done.stdout) == (2, False)
    assert login(site, site.owner, site.owner_password).key


def test_check_of_a_running_site_says_that_its_port_is_its_own(site):
    done = command("site", "check", site.folder, "--json", "-")
    checks = {check["about"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0, done.stderr
    assert (checks["port"]["state"], checks["account"]["state"], checks["jail"]["state"]) == ("ok", "ok", "ok")
    assert checks["port"]["found"] == f"the site runs (process {site.facts['pid']})"
