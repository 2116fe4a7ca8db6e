# ---
# jupyter:
#   kernelspec:
#     display_name: scientist
#     language: python
#     name: fedrec-scientist
# ---

# %% [markdown]
# # 5 · How the centre merges, by hand
#
# **You are Ada, a data scientist,** with a pencil. Two institutions, A and B, and a model of one number, theta, so
# that every merge can be done in the head. Nothing here needs a datasite: `fedrec.simulate` is the same federation
# in one process.
#
# **You will see** the article's formulas for two institutions, each worked out by `fedrec.aggregation` and by hand; why
# its two gradient forms differ by the number of institutions; and what a lie does to a mean.
#
# > In real life theta is the item vectors of a recommender, some hundred thousand numbers, each merged as this one.

# %%
import numpy as np
import pandas as pd

import fedrec
from fedrec.aggregation import CoordinateMedian, GradientMean, GradientSum, Mean, SiteUpdate, WeightedMean
from fedrec.core.params import SharedParams
from fedrec.models import LocalEpochs


def theta(value):
    return SharedParams({"theta": np.array([value], dtype=np.float32)})


def merged(aggregator, start, **sent):
    # What the model becomes when A and B send these numbers: 100 rows stand behind A's, 300 behind B's.
    updates = [SiteUpdate(site, {"A": 100, "B": 300}.get(site, 100), theta(value)) for site, value in sent.items()]
    step, _ = aggregator.apply(aggregator.init(theta(start)), theta(start), updates)
    return float(step["theta"][0]) + (start if aggregator.descends else 0.0)


# %% [markdown]
# ## Parameters
#
# A wants theta to be 2, B wants 6: their losses are (theta - 2)²/2 and (theta - 6)²/2, the gradients theta - 2 and
# theta - 6.
# theta starts at 0. Each takes one local step of rate 0.5:
#
# * theta_A = 0 - 0.5 · (0 - 2) = **1**, theta_B = 0 - 0.5 · (0 - 6) = **3**

# %%
print("(theta_A + theta_B) / 2                      (1 + 3) / 2 =", merged(Mean(), 0, A=1, B=3))
print("weighted by 100 and 300 rows   (1·100 + 3·300) / 400 =", merged(WeightedMean(), 0, A=1, B=3))

# %% [markdown]
# ## Gradients
#
# The article takes the gradients at the *local* parameters: at theta_A = 1 it is 1 - 2 = **-1**, at theta_B = 3 it is
# 3 - 6 = **-3**.
# At the *global* theta = 0 they would be -2 and -6: another step. With alpha = 0.5:

# %%
print("theta - alpha (1/N) sum, at local parameters    0 + 0.5 · 4 / 2 =", merged(GradientMean(0.5), 0, A=-1, B=-3))
print("theta - alpha (1/N) sum, at the global one      0 + 0.5 · 8 / 2 =", merged(GradientMean(0.5), 0, A=-2, B=-6))

# %% [markdown]
# One learning rate per institution: theta - alpha_A · gradient_A - alpha_B · gradient_B. With equal rates it goes
# **N = 2 times** as far as the mean: the article's two forms are not the same, alpha in one is alpha / N in the other.

# %%
both, own = GradientSum(0.5), GradientSum.of({"A": 0.5, "B": 0.1})
print("alpha_A = alpha_B = 0.5                     0 + 0.5 · 1 + 0.5 · 3 =", merged(both, 0, A=-1, B=-3))
print("alpha_A = 0.5, alpha_B = 0.1                0 + 0.5 · 1 + 0.1 · 3 =", round(merged(own, 0, A=-1, B=-3), 6))
print(
    "the factor between the two forms            2 / 1 =",
    merged(both, 0, A=-1, B=-3) / merged(GradientMean(0.5), 0, A=-1, B=-3),
)

# %% [markdown]
# ## The same by a federation
#
# A class whose one number learns the mean rating; A's ratings are all 2, B's all 6. `LocalEpochs` makes the
# institutions send parameters in place of a gradient.


# %%
class MeanRating:
    def init(self, n_items, seed):
        return {"theta": np.zeros(1)}

    def fit_site(self, rows, shared, private):
        return {"theta": shared["theta"] - rows.rating.mean()}, {}

    def score(self, rows, shared, private):
        return np.zeros((rows.n_users, rows.n_items))


def rated(value, rows):
    return pd.DataFrame({"user": range(rows), "item": 0, "rating": value, "timestamp": range(rows)})


federation = fedrec.simulate({"A": rated(2.0, 100), "B": rated(6.0, 300)})


def after_one_round(**settings):
    return float(federation.train(fedrec.Plan(code=MeanRating, rounds=1, **settings)).shared["theta"][0])


descent = {"rate": 0.5, "optimiser": "sgd"}
print(
    "one local epoch, mean                                   ",
    after_one_round(local=LocalEpochs(1, **descent), aggregator=Mean()),
)
print("one local epoch, by rows                                ", after_one_round(local=LocalEpochs(1, **descent)))
print(
    "two local epochs: 1 → 1.5, 3 → 4.5, mean                ",
    after_one_round(local=LocalEpochs(2, **descent), aggregator=Mean()),
)
print("gradients at the global parameter, mean, alpha 0.5      ", after_one_round(aggregator=GradientMean(0.5)))
print("gradients at the global parameter, sum, alpha 0.5       ", after_one_round(aggregator=GradientSum(0.5)))

# %% [markdown]
# ## A lie
#
# A third institution says 1000. The mean follows it; the median does not. Which rule survives how many bad sites:
# `docs/aggregation.md`.

# %% tags=["final-table"]
honest, lied = {"A": 1, "B": 3}, {"A": 1, "B": 3, "C": 1000}
rules = {"mean": Mean(), "weighted by rows": WeightedMean(), "median": CoordinateMedian()}
table = pd.DataFrame(
    {
        "of 1 and 3": {name: merged(rule, 0, **honest) for name, rule in rules.items()},
        "of 1, 3 and 1000": {name: merged(rule, 0, **lied) for name, rule in rules.items()},
    }
).round(2)
table
