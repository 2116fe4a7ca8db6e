# ---
# jupyter:
#   kernelspec:
#     display_name: auditor of aurora
#     language: python
#     name: fedrec-auditor
# ---

# %% [markdown]
# # 4 · The auditor
#
# **You are the auditor of Aurora Film House.** You trained nothing and decided nothing. You were asked: *who asked
# what, who approved it, what ran, and what left?*
#
# **You will see** what your account may do (very little), whether the log is whole, who did what, the story of one
# run as four institutions tell it, and what happens when somebody changes one byte of the evidence.
#
# Run this notebook when notebook 3 has trained.
#
# > In real life each institution makes the evidence of its own site, and sends it to you; you need no running site
# > and no trust in fedrec: the log's checks are one file of Python without any library. In the lab the four
# > institutions' folders lie on one machine, which is why one person can ask all four here.

# %%
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pandas as pd
import syft as sy

from fedrec.config import ConsortiumConfig
from fedrec.institution.evidence.timeline import figure_of, merge
from fedrec.institution.serve import status

site = Path(os.environ["FEDREC_SITE"])
consortium = ConsortiumConfig.load(os.environ["FEDREC_CONSORTIUM"])
folders = {member.name: consortium.member_folder(member.name) for member in consortium.member}
work = Path(tempfile.mkdtemp())


def fedrec(*words):
    """What a command answers, and the code that it ended with."""
    done = subprocess.run(["fedrec", *map(str, words), "--json", "-"], capture_output=True, text=True)
    return json.loads(done.stdout) if done.stdout else done.stderr, done.returncode


# %% [markdown]
# ## What your account may do
#
# All that PySyft offers to your account at the site: the data card, the mock, and who you are. No requests, no
# code, no decisions.

# %%
address, _, port = status(site)["url"].rpartition(":")
me = sy.login(url=address, port=int(port), email=os.environ["FEDREC_USER"], password=os.environ["FEDREC_PASSWORD"])
may = sorted({endpoint.service_path for endpoint in me.api.endpoints.values()})
assert not [path for path in may if path.startswith(("code.", "request.", "user.create"))]
print("\n".join(may))

# %% [markdown]
# And one thing that PySyft does not have: the site's whole audit log, over the network, with your account alone. The
# copy is yours; every tool below works on it as on the original. Reading is an act too, so the log's last lines are
# about you.

# %%
mine = work / "aurora.jsonl"
fetched, code = fedrec("audit", "fetch", status(site)["url"], mine)
assert code == 0, fetched
lines = fedrec("audit", "log", mine)[0]["events"]
assert lines[-1]["actor"] == os.environ["FEDREC_USER"]
print(fetched["verdict"], fetched["events"], "events")
pd.DataFrame(lines)[["seq", "at", "actor", "role", "act", "object", "outcome"]].tail(4)

# %% [markdown]
# ## Is the log whole?
#
# Each event carries the hash of the one before, and the site signs all of them every round. The other institutions
# keep those signatures: cutting the end off, or writing everything anew with a stolen key, clashes with what they
# hold.

# %%
pinned = ("--consortium", os.environ["FEDREC_CONSORTIUM"])
verdicts = {}
for name, folder in folders.items():
    others = [word for other in folders.values() if other != folder for word in ("--witness", other)]
    verdicts[name], _ = fedrec("audit", "verify", folder, *pinned, *others)
pd.DataFrame(verdicts).T[["verdict", "events", "signed", "witnessed"]]

# %% [markdown]
# ## Who did what
#
# From the log alone: the accounts with their roles, and how often each did what. Refusals count too.

# %%
told, _ = fedrec("audit", "access", site, "--from", "2000-01-01", "--to", "2099-12-31")
people = {one["who"]: one["did"] for one in told["accounts"]}
pd.DataFrame(people).fillna(0).astype(int).T

# %%
pd.DataFrame(told["permits"])[["scientist", "approver", "plan", "not_before", "not_after", "train"]].assign(
    plan=lambda table: table["plan"].str[:12]
)

# %% [markdown]
# ## One run, as four institutions tell it
#
# A pack holds all that one site knows of a run: its events with proofs, the permit, the plan's text, the policy of
# that day, and the signed passport of every update. Each is checked before it is believed.

# %%
events, _ = fedrec("audit", "log", site, "--act", "train", "--outcome", "done")
run = [event["run"] for event in events["events"] if event["run"].startswith("my_factors")][-1]
made = {}
for name, folder in folders.items():
    place = status(site)["url"] if folder.samefile(site) else folder  # aurora's with your account
    pack, _ = fedrec("audit", "pack", place, "--run", run, "--out", work / f"{name}.zip")
    verdict, _ = fedrec("audit", "verify", work / f"{name}.zip", *pinned)
    made[name] = {"kB": pack["bytes"] // 1000, "SHA-256": pack["sha256"][:16], "verdict": verdict["verdict"]}
pd.DataFrame(made).T

# %% [markdown]
# Four clocks need not agree: what orders the story is that a round starts from everybody's updates of the round
# before.

# %%
story = merge([work / f"{name}.zip" for name in folders])
drawn = figure_of(story)

# %%
print("missing:", story["missing"] or "nothing", "| clashes:", story["clashes"] or "nothing")
pd.DataFrame(story["clocks"])

# %% [markdown]
# ## Is what left what the approved text gives?
#
# The site's jail runs the approved text once more, on the data and the models of then. If one bit of an update had
# come from anything else, its SHA-256 would be another.

# %%
again, _ = fedrec("audit", "replay", site, "--run", run, "--round", 1)
pd.DataFrame(again["tasks"])[["kind", "round", "recorded", "replayed", "same"]].assign(
    recorded=lambda table: table["recorded"].str[:16], replayed=lambda table: table["replayed"].str[:16]
)

# %% [markdown]
# Did something happen that the log does not know? The log against the ledger, PySyft's database, and what lies
# ready to leave:

# %%
found, code = fedrec("audit", "reconcile", site)
print(found["findings"] or "every act has its event, every event its act")

# %% [markdown]
# ## One byte changed
#
# Somebody who can write the site's files makes himself look innocent: in a copy of the log, one letter of a role
# is another. And in a pack, one byte anywhere.

# %% tags=["final-table"]
copy = work / "log"
shutil.copytree(site / "state" / "audit", copy)
first = min(copy.glob("*.jsonl"))
data = first.read_bytes()
place = data.index(b'"scientist"') + 1
first.write_bytes(data[:place] + b"e" + data[place + 1 :])

evil = bytearray((work / "aurora.zip").read_bytes())
evil[len(evil) // 2] ^= 1
(work / "evil.zip").write_bytes(evil)

rows = {}
for what, place in (
    ("aurora's log", site),
    ("its copy, one letter changed", copy),
    ("aurora's pack", work / "aurora.zip"),
    ("the pack, one bit changed", work / "evil.zip"),
):
    verdict, code = fedrec("audit", "verify", place)
    rows[what] = {"verdict": verdict["verdict"], "at event": verdict["first_bad"], "exit": code}
    if verdict["reason"]:
        print(f"{what}: {verdict['reason']}")
shutil.rmtree(work)
pd.DataFrame(rows).T
