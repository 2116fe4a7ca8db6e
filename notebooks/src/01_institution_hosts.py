# ---
# jupyter:
#   kernelspec:
#     display_name: owner of aurora
#     language: python
#     name: fedrec-owner
# ---

# %% [markdown]
# # 1 · An institution hosts its data
#
# **You are the data owner of Aurora Film House**, one of four cinemas that want to recommend films together. None
# of them may show its ratings to anybody, and each alone has too few.
#
# **You will see** what the institution's folder says, the report on the ratings that were taken in, the mock that
# outsiders get instead of them, the site as PySyft shows it to its users, and at the end, in a plot, why one
# cinema alone has too little.
#
# The four notebooks tell one story. Open each in a tab of its own and run them in order: **1 an institution
# hosts** → 2 the owner reviews → 3 the scientist trains → 4 the auditor asks what happened.
#
# > In real life notebooks 1, 2 and 4 run on the institution's machine and notebook 3 on the scientist's. `fedrec
# > lab` puts both roles on one machine; each kernel is given its own role's password only. They are processes of
# > one person's account, though: here it is good manners that keeps them apart, there it is two machines.
# >
# > This notebook shows real rows. Never send a saved copy of it outside the institution.

# %% [markdown]
# ## What the folder says
#
# Three short files that people write, and a `data` folder that git ignores. `site.toml` says who owns the site
# and what any permit may allow at most; `schema.toml` says what a row looks like and holds no value from the
# data.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Code, Markdown

folder = Path(os.environ["FEDREC_SITE"])
Code((folder / "site.toml").read_text(), language="toml")

# %%
Code((folder / "schema.toml").read_text(), language="toml")

# %% [markdown]
# The datasheet is for people: what the rows are, where they come from, who may use them.

# %%
Markdown((folder / "DATASHEET.md").read_text())

# %% [markdown]
# ## Taking the ratings in
#
# `fedrec site check` reads settings and ratings as the site does when it starts: ids are normalised, rows that
# the schema does not allow are counted and left out, and what is left becomes one version of the site's store,
# named by its content.

# %%
# !fedrec site check "$FEDREC_SITE"

# %% [markdown]
# ## Real rows and the mock
#
# The mock is made from `schema.toml` alone, so it can hold nothing of a real row: same columns, same scale,
# invented ids. A scientist writes and tries code on it.

# %%
real = pd.read_csv(folder / "data" / "ratings.csv", dtype={"user": str, "item": str})
mock = pd.read_csv(folder / "mock.csv")
both = pd.concat({"real, stays here": real.head(5), "mock, for everybody": mock.head(5)}, axis=1)
assert not set(real["user"]) & set(mock["user"])
both

# %% [markdown]
# ## The site
#
# `fedrec site serve` runs the datasite: one process, one port, this folder. The lab started it for you.

# %%
# !fedrec site status "$FEDREC_SITE"

# %% [markdown]
# Its accounts. An operator makes them on this machine with `fedrec site users add`; nobody can register from
# outside. You are the owner; Ada, the scientist, may look at mocks, submit plans, and run those that you approve.

# %%
# !fedrec site users list "$FEDREC_SITE"

# %% [markdown]
# ## What others see
#
# Any PySyft 0.9.5 client can log in with an account. It finds one dataset: the datasheet above, the mock, and the
# version of the data. The ratings are not in PySyft's store at all, so no call to PySyft can reach them.

# %%
import syft as sy

from fedrec.institution.serve import status

address, _, port = status(folder)["url"].rpartition(":")
me = {"email": os.environ["FEDREC_USER"], "password": os.environ["FEDREC_PASSWORD"]}
owner = sy.login(url=address, port=int(port), **me)

# %%
card = owner.datasets[0]
asset = card.assets[0]
print(f"dataset {card.name}, asset {asset.name}, {asset.shape} rows and columns of mock\n")
print("\n".join(card.description.text.splitlines()[:4]), "\n...\n", card.description.text.splitlines()[-1])
asset.mock.head()

# %% [markdown]
# ## Why one cinema alone has too little
#
# Half of the catalogue is known to a handful of your members or to none: what goes with such a film cannot be
# learnt here. The other three cinemas have the same trouble with other films.

# %%
from fedrec.config import ConsortiumConfig

films = ConsortiumConfig.load(os.environ["FEDREC_CONSORTIUM"]).item_ids()
touched = real.groupby("item")["user"].nunique().reindex(films, fill_value=0).sort_values()[::-1]
lengths = real.groupby("user").size()
few = int((touched < 5).sum())

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
left.fill_between(np.arange(1, len(films) + 1), touched, color="#2a6fbb")
left.axvspan(len(films) - few, len(films), color="#e08a2e", alpha=0.25)
middle = (len(films) - few / 2, touched.max() / 2)
left.annotate(f"{few} of {len(films)} films:\nfewer than 5 members each", middle, ha="center")
left.set(xlabel="films, most watched first", ylabel="members who rated it", title="The long tail")
left.set(xlim=(0, len(films)), ylim=(0, None))
right.hist(lengths, bins=range(0, lengths.max() + 20, 20), color="#2a6fbb")
right.set(xlabel="films that a member rated", ylabel="members", xlim=(0, None))
right.set_title(f"{len(lengths)} members, {len(real):,} ratings")
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# The site runs and waits. Go on in **notebook 2**, where requests arrive, with notebook 3 open beside it.
