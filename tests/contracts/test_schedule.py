"""Laws of every schedule, and the stop rules by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.aggregation import Buffered, Periodic, Quorum, Sampled, Stop, Synchronous, schedule_of, settings_of, stop_of
from fedrec.aggregation.schedules import Wait
from fedrec.errors import WrongInput
from fedrec.exchange.plan_form import literal

SITES = ("aurora", "borealis", "lumen", "delphi")
ALL = [Synchronous(), Sampled(2, seed=3), Periodic(2), Quorum(3), Buffered(2)]
every = pytest.mark.parametrize("schedule", ALL, ids=repr)


@every
@given(number=st.integers(0, 10**5), away=st.sets(st.sampled_from(SITES)))
def test_it_chooses_known_sites_once_in_their_order_and_always_the_same(schedule, number, away):
    chosen = schedule.choose(number, SITES, away)
    assert [site for site in SITES if site in chosen] == list(chosen)
    assert schedule.choose(number, SITES, away) == chosen
    if not away:
        assert chosen


@every
@given(chosen=st.integers(1, 4), late=st.integers(0, 3), seconds=st.lists(st.floats(0.1, 100), max_size=5))
def test_a_round_waits_for_no_more_answers_than_can_come(schedule, chosen, late, seconds):
    wait = schedule.wait(chosen, chosen + late, seconds)
    assert 1 <= wait.most <= chosen + late
    assert wait.least >= 1
    assert wait.seconds is None or wait.seconds > 0


@every
def test_it_can_stand_in_a_plan(schedule):
    table = settings_of(schedule)
    assert schedule_of(table) == schedule
    assert all(literal(value) for value in table.values())


def test_whom_each_asks():
    assert [Synchronous().choose(n, SITES, ()) for n in range(2)] == [SITES, SITES]
    assert [Periodic(2).choose(n, SITES, ()) for n in range(3)] == [("aurora", "lumen"), ("borealis", "delphi")] * 1 + [
        ("aurora", "lumen")
    ]
    assert Quorum(2).choose(5, SITES, {"borealis"}) == ("aurora", "lumen", "delphi")
    assert Buffered().choose(5, SITES, set(SITES)) == ()


def test_sampling_is_fair_and_depends_on_the_seed():
    """1,000 draws of 2 of 4: each site 500 times, standard deviation 16."""
    draws = [Sampled(2, seed=1).choose(n, SITES, ()) for n in range(1000)]
    assert {len(set(draw)) for draw in draws} == {2}
    assert all(440 < sum(site in draw for draw in draws) < 560 for site in SITES)
    assert draws != [Sampled(2, seed=2).choose(n, SITES, ()) for n in range(1000)]
    assert Sampled(9).choose(0, SITES, ()) == SITES


def test_how_long_each_waits():
    assert Synchronous().wait(4, 4, [1.0]) == Wait(4, 4)
    assert Quorum(3, patience=2.0).wait(4, 4, []) == Wait(3, 4)  # nothing is measured yet: wait for all
    assert Quorum(3, patience=2.0).wait(4, 4, [1.0, 1.0, 10.0]) == Wait(3, 4, 2.0)  # median 1
    assert Quorum(3).wait(3, 4, [1.0]) == Wait(3, 3, 2.0)  # nobody waits for the one that is late already
    assert Buffered(2).wait(3, 4, [1.0]) == Wait(2, 2)
    assert Buffered(5).wait(3, 3, [1.0]) == Wait(3, 3)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"name": "hourly"}, "unknown schedule 'hourly'; one of synchronous"),
        ({"name": "sampled", "k": 0}, "sampled.k must be 1 or more"),
        ({"name": "sampled", "n": 2}, "allowed: k, seed"),
        ({"name": "periodic", "every": 0}, "1 or more"),
        ({"name": "quorum", "patience": 0.5}, "1 or more"),
        ({"name": "quorum", "least": 0}, "1 or more"),
        ({"name": "buffered", "size": 2.0}, "must be a int"),
        ({"name": "buffered", "max_staleness": -1}, "0 or more"),
    ],
)
def test_a_wrong_table_is_refused_with_what_is_allowed(table, says):
    with pytest.raises(WrongInput, match=says):
        schedule_of(table)


def test_a_period_longer_than_the_number_of_sites_is_refused():
    with pytest.raises(WrongInput, match="number of sites, 4"):
        Periodic(5).choose(0, SITES, ())


def lines(*quality, norm=1.0):
    return [{"quality": value, "norm": norm} if value is not None else {"norm": norm} for value in quality]


def test_patience_counts_the_rounds_since_the_best():
    stop = Stop(patience=2)
    assert not stop.reached(lines(0.1, 0.2, 0.19))
    assert stop.reached(lines(0.1, 0.2, 0.19, 0.2))  # equal is no gain
    assert not stop.reached(lines(0.1, 0.2, 0.19, 0.21))
    assert stop.best(lines(0.1, 0.2, 0.19)) == 1
    assert stop.best(lines(None, None)) is None
    assert not stop.reached(lines(None, None, None, None))


def test_a_gain_too_small_does_not_count():
    """From .200 five per cent more is .210: .205 is none, .211 is one."""
    assert Stop(patience=1, gain=0.05).reached(lines(0.200, 0.205))
    assert not Stop(patience=1, gain=0.05).reached(lines(0.200, 0.211))


def test_a_small_step_ends_a_run_and_no_rule_never_does():
    assert Stop(step=0.5).reached(lines(None, norm=0.4))
    assert not Stop(step=0.5).reached(lines(None, norm=0.6))
    assert not Stop(step=0.5).reached([])
    assert not Stop().reached(lines(*[0.1] * 50, norm=0.0))
    for wrong in ({"patience": -1}, {"gain": -0.1}, {"step": float("inf")}, {"rounds": 3}):
        with pytest.raises(WrongInput):
            stop_of(wrong)
