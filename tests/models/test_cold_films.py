"""ML-100K: films that nobody has rated are found by genre and year, in four institutions."""

import csv
from dataclasses import replace

import numpy as np
from federating import deal, federate

from fedrec import models
from fedrec.core.features import from_values
from fedrec.datasets import get_ml100k


def area(model, sites, cold, held):
    """Share of (rated, not rated) pairs of cold films in the right order, mean over the users of all institutions."""
    shared, private = federate(model, sites, "all")
    shares = []
    for rows, own, truth in zip(sites, private, held, strict=True):
        for rated, score in zip(truth, model.score(rows, shared, own)[:, cold], strict=True):
            if rated.any():
                gap = score[rated][:, None] - score[~rated]
                shares.append((gap > 0).mean() + 0.5 * (gap == 0).mean())
    assert len(shares) > 900
    return float(np.mean(shares))


def test_films_that_nobody_has_rated_are_found_by_genre_and_year_and_at_chance_without(ml100k, tmp_path):
    get_ml100k(tmp_path)
    with open(tmp_path / "items.csv", encoding="utf-8", newline="") as file:
        films = list(csv.DictReader(file))
    years = [float(film["year"]) if film["year"].isdigit() else None for film in films]
    known = from_values({"year": years, "genres": [film["genres"].split("|") for film in films]}, len(films))
    cold = np.sort(np.random.default_rng(0).choice(len(films), 168, replace=False))
    whole = deal(ml100k, 4)
    held = [rows.matrix()[:, cold].toarray() > 0 for rows in whole]
    sites = [replace(rows.take(~np.isin(rows.item, cold)), items=known) for rows in whole]
    sums = models.FeatureSums(tuple(f"item.{name}" for name in known.columns()))
    prepared = sums.settings(federate(sums, sites, "all")[0])
    assert len(prepared["columns"]) > 15
    assert area(models.Hybrid(**prepared, factors=16), sites, cold, held) > 0.68
    assert abs(area(models.Hybrid(factors=16), sites, cold, held) - 0.5) < 0.05
