"""The ledger's rows: permits that wait, requests, calls, accounts, results, the pause; jobs are in test_ledger.py."""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import replace

import pytest
from test_ledger import HERE, NOW, live, permit, reserve, row, task

from fedrec.errors import Refused
from fedrec.institution.ledger import Ledger


@pytest.mark.parametrize("undone", ["reopened", "voided"])
def test_a_pending_permit_is_void_after_reopening(tmp_path, undone):
    ledger = Ledger(tmp_path / "l")
    ledger.add_request(row())
    ledger.permit_pending("r" * 32, permit())
    again = Ledger(tmp_path / "l")
    if undone == "voided":
        assert again.void_pending() == 1
        assert again.void_pending() == 0
    assert again.request("r" * 32).signed_permit is None
    with pytest.raises(Refused, match=r"permit\.missing"):
        reserve(again, 1)


def test_control_the_same_permit_made_live_lets_the_task_run(tmp_path):
    live(tmp_path / "l").close()
    again = Ledger(tmp_path / "l")
    assert again.void_pending() == 0
    assert reserve(again, 1) is None


@pytest.mark.parametrize("decision", ["denied", "revoked"])
def test_an_approval_that_ends_after_a_no_does_not_undo_it(tmp_path, decision):
    """One owner's approval is pending while another's denial is acknowledged: the no stays."""
    ledger = Ledger(tmp_path / "l")
    ledger.add_request(row())
    ledger.permit_pending("r" * 32, permit())
    ledger.decide("r" * 32, decision, "second@x.org", NOW, "no")
    with pytest.raises(Refused, match=rf"permit\.{decision}"):
        ledger.decide("r" * 32, "approved", "first@x.org", NOW, "")
    assert (ledger.request("r" * 32).decision, ledger.request("r" * 32).decided_by) == (decision, "second@x.org")
    assert ledger.request("r" * 32).signed_permit is None
    ledger.permit_pending("r" * 32, permit())  # a new decision, begun after the no, is another thing
    ledger.decide("r" * 32, "approved", "first@x.org", NOW, "")
    assert reserve(ledger, 1) is None


def test_one_plan_of_one_scientist_is_one_request(tmp_path):
    ledger = Ledger(tmp_path / "l")
    ledger.add_request(row())
    with pytest.raises(Refused, match=r"request\.exists"):
        ledger.add_request(row(id="q" * 32, code="d" * 32))
    ledger.add_request(row(id="q" * 32, code="d" * 32, key="9" * 64))
    assert [found.id[0] for found in ledger.requests()] == ["q", "r"]
    assert ledger.request_of("9" * 64, row().fingerprint).id == "q" * 32
    assert ledger.request("c" * 32).id == "r" * 32


def test_a_call_is_new_once_also_after_reopening(tmp_path):
    ledger = Ledger(tmp_path / "l")
    assert [ledger.first_time(b"1"), ledger.first_time(b"1"), ledger.first_time(b"2")] == [True, False, True]
    ledger.close()
    assert Ledger(tmp_path / "l").first_time(b"1") is False


def test_a_disabled_account_has_no_role_and_a_changed_role_keeps_its_key(tmp_path):
    ledger = Ledger(tmp_path / "l")
    ledger.add_account("a@x.org", "k1", "scientist", NOW)
    ledger.add_account("a@x.org", "k2", "auditor", NOW)
    assert (ledger.account_of("k1").role, ledger.account_of("k2")) == ("auditor", None)
    assert ledger.disable_account("a@x.org")
    assert not ledger.disable_account("b@x.org")
    assert ledger.account_of("k1") is None
    assert [account.enabled for account in ledger.accounts()] == [False]
    assert (tmp_path / "l").stat().st_mode & 0o777 == 0o600


def test_a_request_that_is_not_there_reserves_nothing(tmp_path):
    with pytest.raises(Refused, match=r"permit\.missing"):
        reserve(Ledger(tmp_path / "l"), 1)


def test_the_last_eight_results_of_a_request_are_remembered(tmp_path):
    ledger = live(tmp_path / "l")
    assert [ledger.add_result(f"{number}", "r" * 32) for number in range(8)] == [[]] * 8
    assert ledger.add_result("8", "r" * 32) == ["0"]
    assert ledger.request_of_result("0") is None
    assert ledger.request_of_result("8").id == "r" * 32
    assert ledger.add_result("9", "q" * 32) == []


def test_another_process_that_holds_the_file_is_waited_for(tmp_path):
    ledger = live(tmp_path / "l")
    other = sqlite3.connect(tmp_path / "l", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    assert reserve(ledger, 1) is None


def test_a_paused_ledger_reserves_nothing_until_it_is_resumed(tmp_path):
    ledger = live(tmp_path / "l")
    ledger.pause("", NOW)
    assert ledger.paused()
    with pytest.raises(Refused, match=r"permit\.paused"):
        reserve(ledger, 1)
    assert ledger.used("r" * 32) == {}
    assert [ledger.resume(), ledger.resume(), ledger.paused()] == [True, False, False]
    assert reserve(ledger, 1) is None
    assert [job.task.run for job in ledger.jobs_of("r" * 32, "run-1")] == ["run-1"]


def test_a_file_that_another_process_keeps_is_refused_in_time_and_reads_go_on_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr("fedrec.institution.ledger.WAIT_S", 1.0)
    ledger, said = live(tmp_path / "l"), []
    other = sqlite3.connect(tmp_path / "l", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    def write():
        with pytest.raises(Refused, match=r"ledger\.write.*locked"):
            reserve(ledger, 1)
        said.append(time.monotonic() - began)

    began = time.monotonic()
    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.1)
    assert ledger.request("r" * 32) is not None
    assert time.monotonic() - began < 0.8
    thread.join()
    assert 0.9 < said[0] < 5
    assert ledger.used("r" * 32) == {}
    other.execute("COMMIT")
    assert reserve(ledger, 1) is None


def test_a_permit_does_not_live_while_its_account_is_disabled(tmp_path):
    ledger = live(tmp_path / "l")
    ledger.add_account(row().scientist, row().key, "scientist", NOW)
    assert reserve(ledger, 1) is None
    ledger.disable_account(row().scientist)
    with pytest.raises(Refused, match=r"permit\.account"):
        reserve(ledger, 2)
    ledger.add_account(row().scientist, row().key, "scientist", NOW)
    assert reserve(ledger, 2) is None


def test_a_nonce_with_another_model_reserves_nothing(tmp_path):
    ledger = live(tmp_path / "l")
    reserve(ledger, 1)
    other = replace(task(1), base="b" * 64)
    with pytest.raises(Refused, match=r"task\.nonce"):
        ledger.reserve(other.key("r" * 32), "r" * 32, other, NOW, HERE)
    assert ledger.used("r" * 32) == {"train": 1}
