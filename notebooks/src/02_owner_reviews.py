# ---
# jupyter:
#   kernelspec:
#     display_name: owner of aurora
#     language: python
#     name: fedrec-owner
# ---

# %% [markdown]
# # 2 · The owner reviews
#
# **You are the data owner of Aurora Film House again**, on the day when a scientist asks for something.
#
# **You will see** three requests arrive, read what each would run and what would leave, approve one as asked, one
# within a limit, and deny one with a reason. You use nothing but PySyft's own client: what fedrec adds happens at
# the site. The last cell is a table of who decided what, and what was used of it.
#
# > In real life this is the institution's machine; see notebook 1. The owners of the other three cinemas decide
# > on their own. In the lab they approve everything, by themselves, a moment after it arrives.

# %%
import json
import os
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import syft as sy
from IPython.display import HTML, clear_output

from fedrec.exchange.request import check
from fedrec.institution.review import html_of
from fedrec.institution.serve import status

folder = Path(os.environ["FEDREC_SITE"])
address, _, port = status(folder)["url"].rpartition(":")
me = {"email": os.environ["FEDREC_USER"], "password": os.environ["FEDREC_PASSWORD"]}
owner = sy.login(url=address, port=int(port), **me)

# %% [markdown]
# ## Requests arrive
#
# **Now run notebook 3**; this cell waits for the three plans that it submits, for a quarter of an hour at most.

# %%
PATIENCE = 900  # seconds
EXPECTED = ("ease", "my_factors", "itemcf")


def waiting_requests():
    """Undecided requests by their plan's name; of two with the same name the newer one."""
    found = sorted(owner.requests, key=lambda request: str(request.request_time))
    return {check(one.code.raw_code)[1].name: one for one in found if one.status.name == "PENDING"}


deadline = time.monotonic() + PATIENCE
while missing := set(EXPECTED) - set(waiting := waiting_requests()):
    clear_output(wait=True)
    print(f"{datetime.now():%H:%M:%S}  waiting for {', '.join(sorted(missing))}: run notebook 3 now")
    if time.monotonic() > deadline:
        raise TimeoutError("the plans did not come: run notebook 3, then this cell again")
    time.sleep(2)
clear_output()
pd.DataFrame(
    {
        "request": waiting[name].id.no_dash[:8],
        "asked by": waiting[name].requesting_user_email,
        "at": str(waiting[name].request_time)[:19],
        "status": waiting[name].status.name,
    }
    for name in EXPECTED
).set_index(pd.Index(EXPECTED, name="plan"))

# %% [markdown]
# ## Read before you decide
#
# A request has one form only: two lines of Python around a plan. `fedrec requests show` says in plain words what
# would leave, what could be learnt from it, and what runs. Ada's own training code stands in the plan word for
# word, and what you read is what the site runs: in a process without network, files or your other data.

# %%
ids = {name: waiting[name].id.no_dash for name in EXPECTED}
own_code = ids["my_factors"]
# !fedrec requests show "{folder}" {own_code}

# %% [markdown]
# The same as a page. *What to look at* is read from the code by the machine, line by line: it points, you judge.


# %%
def shown(name):
    """What `fedrec requests show` says of a request, as data."""
    command = ["fedrec", "requests", "show", str(folder), ids[name], "--json", "-"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


HTML(html_of(shown("my_factors")))

# %% [markdown]
# The other two are *recipes*: models of the fedrec that you have installed, with settings. The same facts side by
# side:

# %%
asked = {}
for name in EXPECTED:
    plan = check(waiting[name].code.raw_code)[1]
    asked[name] = {
        "runs": "own code" if plan.own_code else f"recipe {plan.model['name']}",
        "leaves each round": ", ".join(f"{leaf}: {tensor}" for leaf, tensor in plan.leaves.items()),
        "rounds asked": plan.train_tasks,
        "rows": ", ".join(plan.train),
        "hit counts": plan.evaluate,
        "installs the model": plan.publish,
    }
pd.DataFrame(asked)

# %% [markdown]
# ## Decide
#
# **ease** sends one matrix, once per run: how many members watched both of two films. Approved as asked.

# %%
waiting["ease"].approve()

# %% [markdown]
# **my_factors** asks for fifty rounds, two runs of twenty-five. You grant one run, for a week. PySyft's clients
# know no such limits, but pass on what they are given; the site signs them into a permit and checks it on every
# call.

# %%
week = (datetime.now(UTC) + timedelta(days=7)).strftime("%Y-%m-%dT%H:%M:%SZ")
waiting["my_factors"].approve(rounds=25, until=week, reason="one run first, then we talk")

# %% [markdown]
# **itemcf** would send the same matrix once more, for a model that is weaker than ease. You see no need.

# %%
waiting["itemcf"].deny(reason="ease already has these counts; we send them once")

# %% [markdown]
# ## What the site wrote down
#
# Every act stands in an append-only log, each line chained to the one before by its hash.

# %%
# !fedrec audit verify "$FEDREC_SITE"

# %% [markdown]
# Who decided what, and what has been used of each permit by now. **Run this last cell again when notebook 3 has
# trained.**

# %% tags=["final-table"]
rows = {}
for name in ids:
    told = shown(name)
    permit, used = told["permit"] or {"tasks": {}, "not_after": ""}, told["facts"]["used"]
    rows[name] = {
        "decision": told["status"],
        "by": told["decided_by"],
        "used": ", ".join(f"{kind} {used.get(kind, 0)} of {count}" for kind, count in permit["tasks"].items() if count),
        "until": permit["not_after"],
        "reason": told["reason"],
    }
pd.DataFrame(rows).T
