# ---
# jupyter:
#   kernelspec:
#     display_name: scientist
#     language: python
#     name: fedrec-scientist
# ---

# %% [markdown]
# # 5 · The models compared
#
# **You are Ada, a data scientist,** and before you ask four cinemas for anything you want to know which model is worth
# asking for. `fedrec.simulate` is the same federation in one process, so a comparison costs seconds.
#
# **You will see** seven models on MovieLens 100K dealt out to four cinemas: each cinema alone, all together, and all
# rows in one place, with intervals; what each cinema gains, in one sentence; what the lists are like beyond accuracy;
# and the example of the article that this project implements, ten institutions and one sigmoid unit.
#
# > In real life nobody can train "all rows in one place", and each cinema's figures reach you as sums over its
# > users: notebook 3 asks real sites the same questions.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import fedrec
from fedrec import models
from fedrec.core.metrics import spread
from fedrec.datasets import get_ml100k, read_ratings, synthetic
from fedrec.demo.offline import federation_of
from fedrec.errors import Unreachable
from fedrec.simulation import pooled

with tempfile.TemporaryDirectory() as folder:
    try:
        source = get_ml100k(Path(folder))
    except Unreachable:
        source = synthetic(Path(folder))  # without a network: made-up ratings
    ratings = read_ratings(Path(folder) / "ratings.csv")
cinemas = federation_of(ratings, 4, "iid", seed=0)
one_place = pooled(cinemas)
print(f"{source.source}: {ratings.text()}")

# %% [markdown]
# ## Seven models
#
# Protocol P1: each user's last film is held out, and a model has to find it among all films that he has not seen.
# `local` is the same model trained by each cinema on its own rows, for as many rounds: 25 for matrix factorisation
# (`mf`), one for the others.

# %%
seven = {
    "popularity": models.Popularity(),
    "itemcf": models.ItemCF(),
    "usercf": models.UserCF(),
    "ease": models.Ease(),
    "sequential": models.Sequential(),
    "default": models.Default(),
    "mf": models.MF(),
}
runs, worth = {}, {}
for name, model in seven.items():
    plan = fedrec.Plan(model=model, train=("p1",), evaluate=True)
    runs[name] = cinemas.train(plan)
    found = runs[name].worth(centralised=one_place.train(plan))
    worth[name] = found[found["group"] == ""].set_index("institution")

scopes = ["popularity", "local", "federated", "centralised"]
pd.DataFrame({name: found.loc["all", scopes] for name, found in worth.items()}).T.astype(float).round(4)

# %% [markdown]
# Federated equals centralised: six models add up exactly, and the gradients of `mf` up to rounding. The last film is
# one of the next ones that a user sees, so what looks at the order of films (`sequential`, and `default`, which blends
# it with EASE) finds it more often. Small differences mean nothing without their intervals:

# %%
names = list(worth)
figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
for number, scope in enumerate(("local", "federated")):
    means = [worth[name].loc["all", scope] for name in names]
    places = [place + 0.4 * number - 0.2 for place in range(len(names))]
    axes.bar(places, means, 0.4, label=scope, color=("#e08a2e", "#2a6fbb")[number])
gains = [worth[name].loc["all"] for name in names]
tops = [gain["federated"] for gain in gains]
sides = [[gain["gain"] - gain["low"] for gain in gains], [gain["high"] - gain["gain"] for gain in gains]]
axes.errorbar([place + 0.2 for place in range(len(names))], tops, yerr=sides, fmt="none", color="black", capsize=3)
axes.set_xticks(range(len(names)), names)
axes.set(ylabel="NDCG@10, all users", title="bars on federated: 95 % interval of its difference to local")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Is it worth it for us?
#
# One sentence for each cinema, about the default model. With some 236 users a cinema's own interval is wide.

# %%
for cinema, row in worth["default"].iterrows():
    print(f"{'all together' if cinema == 'all' else cinema:14} {row['verdict']}")
runs["default"].plot("worth")

# %% [markdown]
# ## Beyond accuracy
#
# `novelty@10` is how unusual the recommended films are at the cinema (1 = nobody there has seen them); `popular@10`
# is the share of the ten that belong to its most popular tenth of films. A list of bestsellers is safe, and useless.
# `coverage@10` is the share of all films that stand in anybody's ten, and `gini@10` how unevenly: 0 where every film
# stands in as many lists, near 1 where a few stand in all. In how many lists a film stands is known in simulation
# only: a site releases sums over users, none by film.

# %%
measured = {name: run.evaluate().set_index(["scope", "institution"]) for name, run in runs.items()}
columns = ["hr@10", "ndcg@10", "novelty@10", "popular@10"]
beyond = pd.DataFrame({name: found.loc[("federated", "all"), columns] for name, found in measured.items()}).T
kept = {name: cinemas.inside[run.id, "p1"].values() for name, run in runs.items()}  # what never leaves real sites
lists = {name: sum(one.listed["federated"] for one in of) for name, of in kept.items()}  # by film, in how many
beyond = beyond.join(pd.DataFrame({name: spread(times) for name, times in lists.items()}).T)
beyond.astype(float).round(3)

# %% [markdown]
# ## The article's example
#
# Ten institutions, ten features, one sigmoid unit, binary cross-entropy, Adam in five local epochs, FedAvg, ten
# rounds. As printed it does not run: the generated rows do not fit the input, and the state is made anew in every
# round. Repaired, as in `fedrec/examples/sigmoid_unit.py`; `python -m fedrec.examples.sigmoid_unit --real` does the
# same on ten datasites.

# %%
from fedrec.examples import sigmoid_unit

frames, held = sigmoid_unit.generated()
ten = sigmoid_unit.simulated(frames)
rounds, model = sigmoid_unit.table(ten, held)
together, _ = sigmoid_unit.table(pooled(ten), held)
print(f"AUC after ten rounds {rounds['auc'].iloc[-1]:.3f}, on pooled rows {together['auc'].iloc[-1]:.3f}")

# %%
figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
axes.plot(rounds.index, rounds["log-loss"], marker="o", color="#2a6fbb", label="ten institutions")
axes.plot(together.index, together["log-loss"], marker="o", color="#b8bec8", label="pooled rows")
axes.set(xlabel="round", ylabel="log-loss on held-out rows")
axes.legend(frameon=False)
plt.show()

# %% tags=["final-table"]
table = rounds[["log-loss", "auc", "brier", "calibration"]].astype(float).round(4)
table
