"""What a scientist sees of a run and how he steers it: states, callbacks, pictures, sites by name, models continued."""

from __future__ import annotations

import json

import pytest
from test_schedules import MF, merged, plan, refusing, slow
from test_simulation import rows, split

import fedrec
from fedrec import models
from fedrec.aggregation import Periodic, Quorum, Sampled, Stop
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.plan import PlanText
from fedrec.scientist.federation import SiteRefused, SiteState
from fedrec.scientist.progress import Board, widgets_of
from fedrec.scientist.runs import Run
from fedrec.simulation import SimulatedFederation


class Slowly(SimulatedFederation):
    """Four sites whose owners approve one after another: `approved` says who has by now."""

    approved: tuple[str, ...] = ()

    def ready(self, plan, among=()):
        return tuple(site for site in super().ready(plan, among) if site in self.approved)


def slowly(*approved):
    sites = split(rows(40), 4)
    found = Slowly(sites._rows, sites.n_items)
    found.approved = approved
    return found


# states and callbacks


def test_each_site_is_seen_training_and_done_and_the_callbacks_come_in_order():
    seen, said = [], []
    run = slow().train(
        plan(rounds=2),
        on_state=lambda one: seen.append((one.number, one.site, one.state)),
        on_round=lambda done, total: said.append((done.number, total)),
        on_end=lambda run: said.append(run.model_sha256),
    )
    names = slow().sites()
    each = [(number, site, state) for number in (0, 1) for state in ("training", "done") for site in names]
    assert seen == each
    assert said == [(0, 2), (1, 2), run.model_sha256]


def test_a_refusal_is_told_with_its_reason_while_the_run_goes_on():
    told = []
    sites = refusing("site-1", {1})
    sites.train(plan(Quorum(3), rounds=3), on_refusal=told.append)
    assert [(one.site, one.number, one.why.code) for one in told] == [("site-1", 1, "permit.revoked")]
    assert sites.told == []  # the site has said no itself


def test_a_refusal_that_ends_the_run_is_told_too_and_no_end():
    told = []
    with pytest.raises(Refused, match=r"permit\.revoked"):
        refusing("site-2", {0}).train(plan(), on_refusal=told.append, on_end=lambda _: told.append("end"))
    assert [(one.site, one.why.code) for one in told] == [("site-2", "permit.revoked")]


def test_the_owner_hears_which_update_the_centre_left_out():
    sites = slow(s2=3.5)
    sites.train(plan(Quorum(3, patience=2.0, max_staleness=1), rounds=4))
    assert [(site, number, code) for site, _, number, code in sites.told] == [("site-2", 1, "update.late")]


def test_the_board_says_what_each_site_does_and_why_one_does_not():
    board = Board("run", 3, ("a", "b", "<c>"))
    board.taking_part(("a", "b"))
    assert dict(board.sites()) == {"a": "approved", "b": "approved", "<c>": "waiting for approval"}
    no = SiteRefused("b", Refused("permit.revoked", "the data owner revoked this permit", "Ask"))
    for state in (SiteState("a", 0, "queued"), SiteState("a", 0, "training"), SiteState("b", 0, "refused", no)):
        board.watch(state)
    assert dict(board.sites())["a"] == "training"  # nothing is known yet of how long it takes
    assert dict(board.sites())["b"] == "refused: permit.revoked, b: the data owner revoked this permit"
    board.watch(SiteState("a", 0, "uploading"))
    board._last["a"] = 1e9
    board.watch(SiteState("a", 1, "training"))
    assert dict(board.sites())["a"] == "training, about 0 %"
    assert "&lt;c&gt;" in board._repr_html_()
    assert "0 of 3 rounds" in board.head
    slow().train(plan(rounds=2), on_round=board.advance)
    assert "2 of 2 rounds" in board.head


def test_a_notebook_has_a_bar_for_the_rounds_and_one_for_each_site_that_follow_the_board():
    board = Board("run", 2, ("a",))
    widgets, draw = widgets_of(board)
    rounds, head, table = widgets.children
    assert (rounds.value, rounds.max) == (0, 2)
    assert [one.value for one in table.children] == ["a", 0, "waiting for approval"]
    no = SiteRefused("b", Refused("permit.revoked", "the data owner revoked this permit", "Ask"))
    for state in (SiteState("a", 0, "training"), SiteState("a", 0, "done"), SiteState("b", 0, "refused", no)):
        board.watch(state)
    slow().train(plan(rounds=1), on_round=board.advance)
    draw()
    assert (rounds.value, rounds.max, head.value) == (1, 1, board.head)
    assert [one.value for one in table.children[:3]] == ["a", 100, "done"]
    assert [one.value for one in table.children[3:]] == ["b", 0, f"refused: permit.revoked, {no.reason}"]
    assert table.children[4].bar_style == "danger"


# pictures and tables


def test_the_picture_shows_convergence_institutions_weights_and_bytes(tmp_path):
    run = slow().train(plan(rounds=3, stop=Stop(patience=3), evaluate=True))
    figure = run.plot(path=tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 10_000
    titles = [axes.get_title() for axes in figure.axes]
    assert [title.split(":")[0].split(";")[0] for title in titles if title] == [
        "convergence", "institutions", "weights", "bytes",
    ]  # fmt: skip
    lines = figure.axes[1].get_lines()
    assert [line.get_label() for line in lines] == list(slow().sites())
    assert list(lines[0].get_ydata()) == [line["measures"]["site-0"]["global-quality"] for line in run.log]
    shares = [[bar.get_height() for bar in bars] for bars in figure.axes[2].containers]
    assert [pytest.approx(1.0)] * 3 == [sum(parts) for parts in zip(*shares, strict=True)]
    plain = slow().train(plan(rounds=1, evaluate=True))
    assert "not measured" in plain.plot().axes[1].get_title()
    plain.evaluate()
    assert plain.plot().axes[1].get_title() == "institutions: evaluation"


def test_two_runs_are_compared_by_what_differs_and_what_they_reached():
    one, two = slow().train(plan(rounds=2, evaluate=True)), slow().train(plan(rounds=3, seed=4, evaluate=True))
    one.evaluate()
    table = one.compare(two)
    assert list(table.columns) == [one.id, two.id]
    assert list(table.loc["asks.rounds"]) == [2, 3]
    assert list(table.loc["seed"]) == [0, 4]
    assert list(table.loc["rounds done"]) == [2, 3]
    assert "model.factors" not in table.index
    assert (
        table.loc["p1 ndcg@10", one.id]
        == one.evaluate().set_index(["scope", "institution"]).loc[("federated", "all"), "ndcg@10"]
    )
    assert table.loc["p1 ndcg@10", two.id] == ""


# sites


def test_sites_are_chosen_by_name_in_the_plan_or_for_one_run():
    named = plan(rounds=1, sites=("site-3", "site-1"))
    assert PlanText.parse(named.text).sites == ("site-3", "site-1")
    assert 'sites = ["site-3", "site-1"]' in named.text
    assert merged(slow().train(named)) == [("1", "3")]
    assert merged(slow().train(plan(rounds=1), sites=["site-2", "site-0"])) == [("0", "2")]
    with pytest.raises(Refused, match=r"permit\.missing: site-9 has not approved"):
        slow().train(plan(rounds=1), sites=["site-9"])


@pytest.mark.parametrize("schedule", [Quorum(2), Sampled(2)], ids=repr)
def test_a_site_that_approves_later_joins_from_the_next_round_on_and_stays(tmp_path, schedule):
    sites = slowly("site-0", "site-3")

    def approve(done, total):
        if done.number == 1:
            sites.approved = ("site-0", "site-1", "site-3")

    run = Run.start(plan(schedule, rounds=12), sites, folder=tmp_path)
    run.finish(approve)
    early, late = merged(run)[:2], merged(run)[2:]
    assert {name for names in early for name in names} == {"0", "3"}
    assert {name for names in late for name in names} == {"0", "1", "3"}
    assert run.sites == ("site-0", "site-1", "site-3")  # in the order of the federation
    assert json.loads((run.folder / "run.json").read_text())["sites"] == list(run.sites)
    assert Run.load(sites, run.folder).sites == run.sites


@pytest.mark.parametrize("schedule", [None, Periodic(2)], ids=repr)
def test_where_everybody_has_his_turn_nobody_joins(schedule):
    sites = slowly("site-0", "site-3")

    def approve(done, total):
        sites.approved = ("site-0", "site-1", "site-3")

    assert sites.train(plan(schedule, rounds=4), on_round=approve).sites == ("site-0", "site-3")


def test_a_site_that_leaves_comes_back_where_it_was():
    run = refusing("site-1", {2, 3}).train(plan(Quorum(3), rounds=6))
    assert [("1" in names) for names in merged(run)] == [True, True, False, False, True, True]


# models that are continued


def test_a_plan_continues_from_a_finished_run_and_says_which(tmp_path):
    first = slow().train(plan(rounds=2))
    second = plan(rounds=2, start_from=first)
    assert f'start = "{first.model_sha256}"' in second.text
    run = Run.start(second, slow(), folder=tmp_path)
    assert run.model_sha256 == first.model_sha256
    next(run.rounds())
    again = Run.load(slow(), run.folder)
    assert again.plan.fingerprint == second.fingerprint
    fresh = slow()
    assert Run.start(second, fresh).finish().model_sha256 != first.model_sha256
    with pytest.raises(WrongInput, match="not here"):
        Run.start(plan(start_from=first.model_sha256), slow())
    assert plan(rounds=2, start_from=first.model_sha256).fingerprint == second.fingerprint


def test_a_site_refuses_a_round_0_that_starts_from_another_model():
    first = slow().train(plan(rounds=1))

    class Another(SimulatedFederation):
        def run(self, task):
            from dataclasses import replace

            fresh = models.MF(factors=4).init(self.n_items, 9)
            return super().run(replace(task, shared=fresh))

    sites = split(rows(40), 4)
    with pytest.raises(Refused, match=r"task\.start"):
        Another(sites._rows, sites.n_items).train(plan(rounds=1, start_from=first))
    assert len(Another(sites._rows, sites.n_items).train(plan(rounds=1)).log) == 1  # control: a plan that names none


def test_a_closed_notebook_is_picked_up_by_the_runs_name(tmp_path):
    sites = slow()
    whole = slow().train(plan(rounds=4)).model_sha256
    run = Run.start(plan(rounds=4), sites, folder=tmp_path)
    next(run.rounds())
    name = run.id
    del run
    seen = []
    again = sites.attach(name, tmp_path)
    assert again.resume(on_round=lambda done, total: seen.append(done.number)).model_sha256 == whole
    assert (again.resumed_from, seen) == (1, [1, 2, 3])
    with pytest.raises(WrongInput, match="holds no run"):
        sites.attach("mf-p1-00000000", tmp_path)
    assert MF.factors == fedrec.Plan.from_text(again.plan.text).built.factors
