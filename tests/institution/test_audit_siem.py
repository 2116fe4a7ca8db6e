"""CEF and OCSF: every line of a real story reads back as the event it was, whatever characters it holds."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from audit_logs import write
from told import tell

from fedrec.institution.evidence import export, find, siem

REQUIRED = {  # schema.ocsf.io, 1.6.0: what each class requires beside the base event
    3001: {"user"},
    3002: {"user"},
    6002: {"app"},
    6003: {"actor", "api", "src_endpoint"},
}
BASE = {"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"}
NASTY = ["a|b", "a=b", "a\\b", "a\\", "a\nb", "a\r\nb", "\\n", "x cs1=y", "|=\\\n", "~", "名=字|"]


@pytest.fixture(scope="module")
def events(tmp_path_factory, jail):
    return list(find.events_of(tell(tmp_path_factory.mktemp("siem"), jail)))


def lines(events, form):
    file = io.StringIO()
    assert export.write(events, form, file) == len(events)
    found = file.getvalue().splitlines()
    assert len(found) == len(events)
    return found


def parsed(line: str) -> tuple[list[str], dict[str, str]]:
    """A CEF line as a reader of it takes it apart: seven header fields, then key=value."""
    whole = re.fullmatch(r"((?:\\.|[^\\|])*)\|" * 7 + "(.*)", line)
    assert whole
    *head, rest = whole.groups()
    keys = list(re.finditer(r"(?:^| )([A-Za-z]\w*)=", rest))
    keys = [one for one in keys if not rest[: one.end() - 1].endswith("\\")]
    ends = [*(one.start() for one in keys[1:]), len(rest)]
    plain = {"n": "\n", "r": "\r"}
    values = {
        one[1]: re.sub(r"\\(.)", lambda found: plain.get(found[1], found[1]), rest[one.end() : end])
        for one, end in zip(keys, ends, strict=True)
    }
    return [re.sub(r"\\(.)", r"\1", field) for field in head], values


def test_every_cef_line_reads_back(events):
    for event, line in zip(events, lines(events, "cef"), strict=True):
        head, fields = parsed(line)
        assert head[:3] == ["CEF:0", "fedrec", "fedrec"]
        assert (head[4], head[5]) == (event["act"], f"{event['act']} {event['outcome']}")
        assert 0 <= int(head[6]) <= 10
        labels = {fields[f"{key}Label"]: value for key, value in fields.items() if f"{key}Label" in fields}
        assert (fields["suser"], fields["spriv"], fields["outcome"]) == (
            event["actor"],
            event["role"],
            event["outcome"],
        )
        assert fields.get("msg", "") == event["purpose"]
        for name in ("object", "request", "permit", "run", "hash"):
            assert labels.get(name, "") == event[name]
        assert json.loads(labels.get("detail", "{}")) == event["detail"]
        assert [labels.get(name) for name in ("round", "of")] == [
            None if event[name] is None else str(event[name]) for name in ("round", "of")
        ]
        assert int(fields["externalId"]) == event["seq"]


@pytest.mark.parametrize("text", NASTY)
def test_no_character_ends_a_field_or_a_line(events, text):
    event = {**events[-1], "act": f"act{text}", "actor": text, "purpose": text, "detail": {"a": text}}
    (line,) = lines([event], "cef")
    head, fields = parsed(line)
    assert head[4] == " ".join(f"act{text}".splitlines())
    assert (fields["suser"], fields["msg"], json.loads(fields["cs5"])) == (text, text, {"a": text})
    (line,) = lines([event], "ocsf")
    assert json.loads(line)["unmapped"]["purpose"] == text


def test_control_an_unescaped_field_would_be_taken_for_two():
    assert parsed("CEF:0|v|p|1|a|b|1|msg=x suser=eve")[1] == {"msg": "x", "suser": "eve"}
    assert parsed("CEF:0|v|p|1|a|b|1|msg=" + siem._value("x suser=eve"))[1] == {"msg": "x suser=eve"}


def test_every_ocsf_line_has_what_its_class_requires(events):
    seen = set()
    for event, line in zip(events, lines(events, "ocsf"), strict=True):
        body = json.loads(line, parse_float=pytest.fail)
        seen.add(body["class_uid"])
        assert body.keys() >= BASE | REQUIRED[body["class_uid"]]
        assert body["category_uid"] == body["class_uid"] // 1000
        assert body["type_uid"] == body["class_uid"] * 100 + body["activity_id"]
        assert body["metadata"]["version"] == siem.OCSF
        assert body["metadata"]["product"]["vendor_name"] == "fedrec"
        at = datetime.fromtimestamp(body["time"] / 1000, UTC)
        assert at.strftime("%Y-%m-%dT%H:%M:%S") == event["at"][:19]
        assert (body["metadata"]["uid"], body["status_code"]) == (event["hash"], event["outcome"])
        kept = {**body["unmapped"], "actor": body["actor"]["user"]["name"], "act": body["metadata"]["event_code"]}
        kept |= {"seq": body["metadata"]["sequence"], "at": body["metadata"]["original_time"]}
        kept |= {"hash": body["metadata"]["uid"], "outcome": body["status_code"]}
        assert kept == {name: value for name, value in event.items() if value not in ("", None, {})}
    assert seen == {3001, 6002, 6003}


@pytest.mark.parametrize(
    ("act", "outcome", "expected"),
    [
        ("login", "done", (3002, 1, 1, 1)),
        ("login", "gate.role", (3002, 1, 2, 2)),
        ("users.add", "done", (3001, 1, 1, 1)),
        ("users.disable", "done", (3001, 5, 1, 1)),
        ("stop", "done", (6002, 4, 1, 1)),
        ("revoke", "intent", (6003, 3, 99, 1)),
        ("redact", "done", (6003, 4, 1, 1)),
        ("witness", "clash", (6003, 1, 2, 4)),
        ("call", "gate.rate", (6003, 99, 2, 2)),
    ],
)
def test_acts_have_their_classes(events, act, outcome, expected):
    body = json.loads(siem.ocsf({**events[-1], "act": act, "outcome": outcome}))
    assert (body["class_uid"], body["activity_id"], body["status_id"], body["severity_id"]) == expected
    assert (body.get("activity_name") == act) == (body["activity_id"] == 99)
    assert (body.get("status") == "intent") == (body["status_id"] == 99)


def test_the_table_in_the_docs_names_every_act_of_a_class():
    text = (Path(__file__).parents[2] / "docs" / "auditing.md").read_text()
    for acts in (*siem._API.values(), siem._ACCOUNT, siem._LIFE):
        for act in acts:
            assert re.search(rf"[` \n]{re.escape(act)}[` \n]", text), act


def test_a_file_of_either_form_is_written(tmp_path):
    log = write(tmp_path / "log", 3).parent
    for form in ("cef", "ocsf"):
        assert len(lines(list(find.events_of(log)), form)) == 8
