"""The gate: real signed calls of PySyft, bent in every way; nothing is deserialised before it is admitted."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest
import syft_calls
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syft_calls import KEYS, SCHEMA, SITE

from fedrec.errors import Refused
from fedrec.institution.envelope import open_envelope, read_call
from fedrec.institution.gate import MAX_CALL, Gate
from fedrec.institution.ledger import Ledger

LAX = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Bytes of PySyft's own classes, and what the canary did; made in a process of its own."""
    canary = tmp_path_factory.mktemp("canary") / "awake"
    run = subprocess.run([sys.executable, syft_calls.__file__, str(canary)], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    return {**found, "calls": {name: bytes.fromhex(data) for name, data in found["calls"].items()}}


@pytest.fixture
def ledger(tmp_path):
    made_ = Ledger(tmp_path / "ledger")
    for role in ("owner", "reviewer", "scientist", "auditor", "operator"):
        made_.add_account(f"{role}@x.org", KEYS[role].verify_key.encode().hex(), role, "2026-01-01T00:00:00Z")
    yield made_
    made_.close()


@pytest.fixture
def gate(ledger):
    return Gate(SITE, ledger.account_of, ledger.first_time, b"s" * 32)


def code_of(call, *given_):
    try:
        call(*given_)
    except Refused as refusal:
        return refusal.code
    return ""


# Cap'n Proto records, read and written again


def opened(data):
    with SCHEMA.from_bytes(data) as record:
        names, fields = list(record.fieldsName), [b"".join(part) for part in record.fieldsData]
        return record.canonicalName, list(zip(names, fields, strict=True)), b"".join(record.nonrecursiveBlob)


def closed(name, fields=(), blob=None):
    record = SCHEMA.new_message(canonicalName=name, version=1)
    if blob is not None:
        record.nonrecursiveBlob = [blob]
        return record.to_bytes()
    record.init("fieldsName", len(fields))
    record.init("fieldsData", len(fields))
    for place, (field, data) in enumerate(fields):
        record.fieldsName[place] = field
        record.fieldsData[place] = [data]
    return record.to_bytes()


def changed(data, **new):
    """The same record with some fields replaced (None: left out)."""
    name, fields, _ = opened(data)
    return closed(
        name, [(field, new.get(field, value)) for field, value in fields if new.get(field, value) is not None]
    )


def blob(kind, value):
    return closed(kind, blob=value)


def signed(message, key):
    """An envelope around message bytes, as PySyft writes it."""
    verify = closed("SyftVerifyKey", [("verify_key", blob("nacl_verify_key", key.verify_key.encode()))])
    fields = [
        ("credentials", verify),
        ("signature", blob("bytes", key.sign(message).signature)),
        ("serialized_message", blob("bytes", message)),
    ]
    return closed("SignedSyftAPICall", fields)


NUMBER = iter(range(10**9))


def call(made, role, path="request.get_all", **fields):
    """A call of `role` to `path`, fresh: PySyft's own message with another path and a signature of ours."""
    message = open_envelope(made["calls"]["good"]).message
    unique = blob("str", f"call-{next(NUMBER)}".encode())
    return signed(changed(message, path=blob("str", path.encode()), kwargs=unique, **fields), KEYS[role])


# the envelope


def test_a_call_of_pysyft_is_read_without_deserialising_it(made, gate):
    account, found = gate.admit(made["calls"]["good"])
    assert (account.email, account.role) == ("scientist@x.org", "scientist")
    assert (found.path, found.site, found.blocking) == ("request.get_all", SITE, True)


def test_a_canary_in_a_call_does_not_wake_in_the_gate_but_in_pysyft(made, gate):
    assert made["woken"] == [False, True]  # after Gate.admit, after PySyft's own deserialisation (the control)
    assert code_of(gate.admit, made["calls"]["canary"]) == ""


def test_our_own_envelopes_are_good_ones(made, gate):
    """So the refusals below are for what is wrong in them, and not for who wrote them."""
    assert code_of(gate.admit, call(made, "scientist")) == ""
    assert code_of(gate.admit, signed(open_envelope(made["calls"]["again"]).message, KEYS["scientist"])) == ""


@LAX
@given(st.binary(max_size=300))
def test_random_bytes_are_refused_and_nothing_else_is_raised(gate, data):
    assert code_of(gate.admit, data) == "gate.signature"


def test_every_cut_of_a_call_is_refused(made, gate):
    good = made["calls"]["good"]
    for length in range(0, len(good), 13):
        assert code_of(gate.admit, good[:length]) == "gate.signature", length
    assert code_of(gate.admit, good) == ""


@LAX
@given(st.data())
def test_a_call_with_changed_bytes_is_refused_or_means_the_same(made, data):
    """Cap'n Proto has bytes without meaning, such as padding; what was signed and by whom never changes."""
    good = made["calls"]["good"]
    place = data.draw(st.integers(0, len(good) - 1))
    bent = good[:place] + data.draw(st.binary(min_size=1, max_size=9)) + good[place + data.draw(st.integers(0, 9)) :]
    gate = Gate(SITE, lambda _: None, lambda _: True, b"")
    try:
        envelope = open_envelope(bent)
        envelope.check_signature()
    except Refused:
        return
    assert (envelope.key, envelope.message) == (open_envelope(good).key, open_envelope(good).message)
    assert code_of(gate.admit, bent) == "gate.role"


def test_envelopes_that_lack_double_or_rename_a_field_are_refused(made, gate):
    good = made["calls"]["good"]
    name, fields, _ = opened(good)
    for field in ("credentials", "signature", "serialized_message"):
        value = dict(fields)[field]
        for bent in (
            changed(good, **{field: None}),
            closed(name, [*fields, (field, value)]),
            closed(name, [(field, value), *fields]),
            changed(good, **{field: b""}),
            changed(good, **{field: good}),
            changed(good, **{field: blob("str", b"x")}),
        ):
            assert code_of(gate.admit, bent) == "gate.signature", field
    for other in ("SyftAPICall", "SignedSyftAPICal", ""):
        assert code_of(gate.admit, closed(other, fields)) == "gate.signature"
    assert code_of(gate.admit, made["calls"]["unsigned"]) == "gate.signature"


@pytest.mark.parametrize("field", ["path", "server_uid", "blocking"])
def test_signed_calls_that_lack_double_or_rename_a_field_are_refused(made, gate, field):
    message = open_envelope(made["calls"]["good"]).message
    name, fields, _ = opened(message)
    value = dict(fields)[field]
    for bent in (
        changed(message, **{field: None}),
        closed(name, [*fields, (field, value)]),
        changed(message, **{field: b""}),
        changed(message, **{field: blob("dict", b"x")}),
        closed("SyftAPICal", fields),
        b"",
        b"garbage",
    ):
        assert code_of(gate.admit, signed(bent, KEYS["scientist"])) == "gate.signature"


def test_a_signature_of_another_key_or_length_is_refused(made, gate):
    good, other = made["calls"]["good"], open_envelope(made["calls"]["again"])
    for signature in (other.signature, b"", b"x", bytes(64), bytes(65)):
        assert code_of(gate.admit, changed(good, signature=blob("bytes", signature))) == "gate.signature"
    for key in (b"", b"x", bytes(32), bytes(31), KEYS["owner"].verify_key.encode()):
        bent = closed("SyftVerifyKey", [("verify_key", blob("nacl_verify_key", key))])
        assert code_of(gate.admit, changed(good, credentials=bent)) == "gate.signature"
    assert code_of(gate.admit, changed(good, serialized_message=blob("bytes", other.message))) == "gate.signature"


# who, where, what


def test_the_other_site_an_unknown_key_and_a_disabled_account_are_refused(made, gate, ledger):
    assert code_of(gate.admit, made["calls"]["elsewhere"]) == "gate.site"
    assert code_of(gate.admit, made["calls"]["stranger"]) == "gate.role"
    assert code_of(gate.admit, call(made, "owner")) == ""
    ledger.disable_account("owner@x.org")
    assert code_of(gate.admit, call(made, "owner")) == "gate.role"


def test_a_call_that_does_not_block_is_refused(made, gate):
    """PySyft would queue it as a job before it looks at any permission."""
    assert code_of(gate.admit, made["calls"]["queued"]) == "gate.role"
    for value in (b"", b"0", b"True", b"2", b"11"):
        assert code_of(gate.admit, call(made, "scientist", blocking=blob("bool", value))) == "gate.role"


def test_a_call_above_the_limit_is_refused_before_it_is_read(made, gate):
    large = made["calls"]["large"]
    assert len(large) > MAX_CALL
    began = time.monotonic()
    assert code_of(gate.admit, large) == "gate.size"
    assert code_of(gate.admit, b"x" * (MAX_CALL + 1)) == "gate.size"
    assert time.monotonic() - began < 0.1
    assert code_of(gate.admit, b"x" * MAX_CALL) == "gate.signature"


EVERYONE = "owner reviewer scientist auditor operator"
ALLOWED = {  # contracts.md and trust.md section 5, written down again
    "user.get_current_user": EVERYONE,
    "metadata.get_metadata": EVERYONE,
    "dataset.get_all": EVERYONE,
    "action.get_mock": "owner reviewer scientist auditor",
    "request.get_all": "owner reviewer scientist",
    "user.get_all": "owner reviewer",
    "notifications.resolve_object": "owner reviewer",
    "request.apply": "owner reviewer",
    "request.undo": "owner reviewer",
    "api.view": "scientist",
    "code.request_code_execution": "scientist",
    "code.call": "scientist",
    "action.set": "scientist",
    "action.get": "owner scientist",
    "action.has_storage_permission": "scientist",
}
DENIED = """
    code.submit code.get_all code.get_by_id code.delete code_history.submit_version code_history.get_all
    project.create_project project.add_message request.submit request.add_changes request.filter_all_requests
    request.tag request.delete_by_uid policy.get_all policy.add api.set api.add api.call api.call_public_in_jobs
    api.call_in_jobs api.call_private_in_jobs api.call_mock_in_jobs api.delete user.create user.update
    user.delete user.search user.get_by_verify_key user.reset_password user.register dataset.add dataset.delete
    dataset.get_by_id dataset.upload settings.get settings.update settings.allow_guest_signup action.np_array
    action.get_pointer action.delete action.execute action.exists blob_storage.allocate blob_storage.read
    worker.start_workers worker_image.build worker_pool.launch job.get job.get_all job.kill queue.delete_by_uid
    notifications.send notifier.turn_on migration.get_migration_data sync.sync_items
    network.exchange_credentials_with log.get_stdout output.create enclave.upload attestation.attest
    data_subject.add model.get_all asset.get usercodestatus.create
""".split()


@pytest.mark.parametrize("path", ALLOWED)
def test_each_role_calls_what_its_table_lists_and_nothing_else(made, gate, path):
    for role in EVERYONE.split():
        expected = "" if role in ALLOWED[path].split() else "gate.role"
        assert code_of(gate.admit, call(made, role, path)) == expected, role


@pytest.mark.parametrize("role", EVERYONE.split())
def test_everything_else_is_denied_to_everyone(made, gate, role):
    odd = [
        "",
        " ",
        "request.get_all ",
        "Request.get_all",
        "request.get_all\0",
        "request..get_all",
        "fedrec.round",
        "request.gеt_all",
    ]
    for path in [*DENIED, *odd]:
        assert code_of(gate.admit, call(made, role, path)) == "gate.role", path
    message = open_envelope(made["calls"]["good"]).message
    assert (
        code_of(gate.admit, signed(changed(message, path=blob("str", b"request.get_all\xff")), KEYS[role]))
        == "gate.role"
    )


# replay


def test_a_call_sent_again_is_refused_also_after_a_restart(made, gate, tmp_path):
    good = made["calls"]["good"]
    assert code_of(gate.admit, good) == ""
    assert code_of(gate.admit, good) == "gate.replay"
    again = Ledger(tmp_path / "ledger")
    assert code_of(Gate(SITE, again.account_of, again.first_time, b"s" * 32).admit, good) == "gate.replay"
    again.close()
    assert code_of(gate.admit, made["calls"]["again"]) == ""  # the control: PySyft gives every call its own id


def test_a_resent_call_in_another_wrapping_is_the_same_call(made, gate):
    """The hash is over key and signed bytes, so more fields or another order of the envelope do not make it new."""
    good = made["calls"]["good"]
    assert code_of(gate.admit, good) == ""
    name, fields, _ = opened(good)
    assert code_of(gate.admit, closed(name, fields[::-1])) == "gate.replay"
    assert code_of(gate.admit, closed(name, [*fields, ("more", b"")])) == "gate.replay"
    envelope = open_envelope(good)
    high = int.from_bytes(envelope.signature[32:], "little") + 2**252 + 27742317777372353535851937790883648493
    assert (
        code_of(
            gate.admit, changed(good, signature=blob("bytes", envelope.signature[:32] + high.to_bytes(32, "little")))
        )
        == "gate.signature"
    )


def test_a_refused_call_is_not_remembered(made, gate, ledger):
    refused = call(made, "scientist", "request.apply")
    assert [code_of(gate.admit, refused) for _ in range(2)] == ["gate.role", "gate.role"]
    ledger.add_account("scientist@x.org", KEYS["scientist"].verify_key.encode().hex(), "owner", "2026-01-01T00:00:00Z")
    assert code_of(gate.admit, refused) == ""


def test_the_same_call_from_eight_threads_is_admitted_once(made, gate):
    good, said = call(made, "scientist"), []
    threads = [threading.Thread(target=lambda: said.append(code_of(gate.admit, good))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [""] + ["gate.replay"] * 7


def test_syft_is_not_imported_by_the_gate():
    code = "import sys, fedrec.institution.gate; print('syft' in sys.modules, 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
    assert code_of(read_call, b"") == "gate.signature"
