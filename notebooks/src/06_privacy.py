# ---
# jupyter:
#   kernelspec:
#     display_name: scientist
#     language: python
#     name: fedrec-scientist
# ---

# %% [markdown]
# # 6 · Privacy: what the centre sees, and what hiding costs
#
# **You are Ada, a data scientist.** Four cinemas would train with you if you could show them what leaves, who can read
# it, and what you give up for that.
#
# **You will see** an update as the centre gets it, plain and under the secure sum; that the model is the same to the
# last bit; what an epsilon says before anything is submitted; and how good a model is at epsilon 8, 4, 2 and 1.
#
# > Everything here runs in `fedrec.simulate`. In real life the same lines do the same at sites: `fedrec demo`, and
# > `fedrec demo --privacy epsilon=4`. What is protected against whom: docs/privacy.md.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from nacl.signing import SigningKey

import fedrec
from fedrec import models
from fedrec.datasets import get_ml100k, read_ratings, synthetic
from fedrec.demo.offline import federation_of
from fedrec.errors import Refused, Unreachable
from fedrec.exchange.privacy import Privacy
from fedrec.exchange.recovery import locked, rows_of, told, unlocked
from fedrec.exchange.secure_sum import add, masked, to_ring

with tempfile.TemporaryDirectory() as folder:
    try:
        source = get_ml100k(Path(folder))
    except Unreachable:
        source = synthetic(Path(folder))  # without a network: made-up ratings
    ratings = read_ratings(Path(folder) / "ratings.csv")
cinemas = federation_of(ratings, 4, "iid", seed=0)
print(f"{source.source}: {ratings.text()}")

# %% [markdown]
# ## What the centre sees
#
# Popularity is the smallest update there is: how many users of a cinema saw each film. Plain, the centre reads it off.
# Under the secure sum each pair of cinemas adds and subtracts the same random mask, made from keys that the centre does
# not have; what is left is noise, until all four are added.

# %%
secret = fedrec.Plan(model=models.Popularity(), privacy=Privacy("secure"), train=("p1",))
seen = []
run = cinemas.train(fedrec.Plan(model=models.Popularity(), train=("p1",)), on_round=lambda done, _: seen.append(done))
updates = {answer.site: answer.update.tensors.tensors for answer in seen[0].answers}

keys = {name: SigningKey.generate() for name in updates}
pinned = {name: key.verify_key.encode().hex() for name, key in keys.items()}
rings = {name: to_ring(secret.spec, one, 1, 1, len(keys), cinemas.n_items) for name, one in updates.items()}
hidden = {name: masked(ring, name, keys[name], pinned, b"round 0") for name, ring in rings.items()}

total = sum(one["counts"].astype(np.uint64) for one in hidden.values()) % 2**32
first = next(iter(updates))
figure, axes = plt.subplots(1, 3, figsize=(11, 2.8), layout="constrained")
axes[0].plot(updates[first]["counts"], linewidth=0.6)
axes[0].set(title=f"{first}, plain", xlabel="film", ylabel="users")
axes[1].plot(hidden[first]["counts"], ".", markersize=1)
axes[1].set(title=f"{first}, masked", xlabel="film")
axes[2].plot(total, linewidth=0.6)
axes[2].set(title="all four, added", xlabel="film")
print("the sum is that of the plain updates:", np.array_equal(total, sum(one["counts"] for one in updates.values())))

# %% [markdown]
# Without the fourth cinema the masks of its pairs would stay in the sum. A plan with `recover=True` does not lose the
# round then: each cinema adds a mask of its own too, and shares of what makes its masks travel with the update, sealed
# for the others. Three of four sign who is left, and tell what comes off. What the fourth sends later stays noise.

# %%
locks = {name: locked(rings[name], name, keys[name], pinned, b"round 0") for name in rings}
there = list(rings)[:3]  # the last cinema is lost
sealed = {name: dict(zip(pinned, rows_of(locks[name], 4)[1], strict=True)) for name in there}
said = {name: told({maker: sealed[maker][name] for maker in there}, keys[name], pinned, b"round 0") for name in there}
three = add(secret.spec, [{"counts": locks[name]["counts"]} for name in there], cinemas.n_items)
three = unlocked(three, list(pinned), there, said)["counts"]
print("the sum of three is right:", np.array_equal(three, sum(updates[name]["counts"] for name in there)))

# %% [markdown]
# The model is the same, to the last bit; only who could read what has changed.

# %%
plain = fedrec.Plan(model=models.Ease(l2=200.0), train=("p1",))
same = fedrec.Plan(model=models.Ease(l2=200.0), train=("p1",), privacy=Privacy("secure"))
print("the same model:", cinemas.train(plain).model_sha256 == cinemas.train(same).model_sha256)

# %% [markdown]
# ## What excludes what
#
# A rule that has to look at single updates cannot work on their sum. The plan says so when it is made, and what to take
# instead.

# %%
try:
    fedrec.Plan(model=models.MF(), aggregator=fedrec.aggregation.CoordinateMedian(), privacy=Privacy("secure"))
except Refused as refusal:
    print(refusal)

# %% [markdown]
# ## What an epsilon says, before anything is submitted
#
# The secure sum hides who sent what. It promises nothing about a person in the sum: that takes noise. Every number that
# leaves has it, what each user adds is bounded, and each institution's ledger books what it cost.

# %%
noisy = fedrec.Plan(model=models.Private(), train=("p1",), privacy=Privacy("secure", epsilon=4.0))
print(noisy.epsilon_report(4))

# %% [markdown]
# ## What it costs
#
# P2: the held-out film among 99 others. Four cinemas with 236 users each are few people for so much noise: what an
# epsilon asks for does not grow with the number of users, so ten times the users would lose far less.


# %% tags=["final-table"]
def found(epsilon):
    """P2 NDCG@10 of one draw of the noise, measured here on all rows: at real sites this figure has noise as well."""
    privacy = Privacy("secure", epsilon=epsilon) if epsilon else Privacy("secure")
    run = cinemas.train(fedrec.Plan(model=models.Private(), train=("p1",), privacy=privacy))
    open_ = fedrec.Plan(model=models.Private(), train=("p1",), evaluate=True)
    judged = fedrec.scientist.runs.Run.start(open_, cinemas)
    list(judged.rounds())
    judged.now = run.now
    table = judged.evaluate("p2").set_index(["scope", "institution"])["ndcg@10"]
    return table["federated", "all"], table["popularity", "all"]


table = pd.DataFrame(
    [{"epsilon": epsilon or "none", "NDCG@10": found(epsilon)[0]} for epsilon in (None, 8.0, 4.0, 2.0, 1.0)]
)
bar = found(None)[1]
axes = table.plot.bar(x="epsilon", y="NDCG@10", legend=False, figsize=(6, 3), rot=0)
axes.axhline(bar, color="grey", linestyle="--", linewidth=1)
axes.set(ylabel="P2 NDCG@10", title="one draw of the noise; dashed: popularity without noise")
table.round(3)

# %% [markdown]
# **In one sentence each.** The secure sum costs nothing in quality: take it always. Noise costs much while users are
# few: take it where a promise about each person is needed, and let each institution blend the result with its own model
# (`fedrec site models personalise`).
