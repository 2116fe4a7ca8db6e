"""Verify a fedrec audit log offline: `python verify.py LOG [--key HEX] [--witness OTHER]...`

Needs Python 3.11 alone. LOG is a site's folder, an audit folder or a file; OTHER another institution's, or a copy. Exit
0: ok, or incomplete-tail (the last line was not written whole); 3: tampered, or witness-clash (OTHER holds others); 2:
nothing to verify, or an OTHER that holds nothing of LOG, or is bad itself. The log is JSON lines in canonical form (RFC
8785), with the SHA-256 of the line before in `prev`, its own in `hash`. An act is two events: intent, and outcome with
its number in `of`. A checkpoint is an event that the site signs (Ed25519) over the Merkle root (RFC 6962) so far.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial, reduce
from hashlib import sha256, sha512
from pathlib import Path
from typing import Any

TEXTS = ("act", "actor", "at", "hash", "object", "outcome", "permit", "prev", "purpose", "request", "role", "run")
KEYS = frozenset([*TEXTS, "detail", "of", "round", "seq"])
SINGLE = frozenset(["start", "stop", "checkpoint", "witness", "repair"])  # acts of one event; all others have two
SIGNED = ("key", "name", "site", "kind", "root", "size", "time")  # what a checkpoint's signature covers
KIND, GAP, MAX_LINE, MAX_OPEN = "fedrec-checkpoint-v1", 256, 1 << 16, 1000  # events between two; bytes; acts at once
GOOD, RENEWED = ("ok", "incomplete-tail"), ("key", "renew", "done")  # the latter names the site's next key
NAMED = re.compile(rb'"~(?<!\\"~)([0-9a-f]{64})"')  # in a line: a text beside the log, which can be erased
_decode = json.JSONDecoder(parse_float=str, parse_constant=str).decode  # neither is whole: not canonical then
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


class Checker:
    """Checks a log event by event, and knows after each what it needs to go on; small, however long the log."""

    def __init__(self, every: bool = False) -> None:
        self.every = every  # check every signature, not only the last one, which stands for all before it
        self.seq, self.prev, self.checkpoint, self.started = 0, "0" * 64, -1, False
        self.peaks: list[bytes] = []  # roots of the complete subtrees so far, largest first
        self.open, self.last = dict[int, str](), dict[str, Any]()  # intents without an outcome: act; last checkpoint
        self.texts, self.erased = dict[str, str](), set[bytes]()  # texts: by their redaction, and those that are gone
        self.keys, self.named, self.heir = dict[str, Any](), "", ""  # last checkpoint of each; new key; once signed

    def feed(self, line: bytes) -> str:
        """What is wrong with the next line; "" when it is right, and then it counts."""
        try:
            event = _decode(text := line.decode())
            if type(event) is not dict or event.keys() != KEYS or set(map(type, map(event.get, TEXTS))) != {str}:
                return "the event lacks keys, or has others"
            if _encode(event) != text[:-1]:
                return "the event is not in canonical form"
            digest, seq = event["hash"], event["seq"]
            if type(seq) is not int or seq != self.seq:
                return f"event {self.seq} is missing, moved or doubled"
            if event["prev"] != self.prev:
                return "the event does not follow from the one before"
            if sha256(text[:-1].replace(f'"hash":"{digest}",', "", 1).encode()).hexdigest() != digest:
                return "the event's content was changed"
            if wrong := self._wrong(event, event["act"], event["detail"], event["of"]):
                return wrong
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return "the event is not readable"
        if event["act"] == "checkpoint":
            self.checkpoint, self.last, self.heir = seq, event["detail"], self.named
            self.keys = {**self.keys, self.last["key"]: self.last}
        elif event["act"] in ("redact", "start"):
            self.texts[f"open_{seq}"], said = event["object"], {f"open_{seq}": event["outcome"], **event["detail"]}
            self.erased |= {self.texts[name].encode() for name in said if said[name] == "done" and name in self.texts}
        new, size = sha256(b"\x00" + line[:-1]).digest(), seq
        while size & 1:
            new, size = sha256(b"\x01" + self.peaks.pop() + new).digest(), size >> 1
        self.peaks.append(new)
        self.seq, self.prev, self.started = seq + 1, digest, event["act"] == "start"
        return ""

    def root(self) -> str:
        """The Merkle root of the events so far."""
        return reduce(lambda a, b: sha256(b"\x01" + b + a).digest(), reversed(self.peaks or [sha256().digest()])).hex()

    def _wrong(self, event: dict[str, Any], act: str, detail: dict[str, Any], of: int | None) -> str:
        for key, value in detail.items():
            if not key.isascii() or type(value) not in (str, bool, int) or (type(value) is int and abs(value) >> 53):
                return "the detail is not of texts, whole numbers, true and false"
        if not {type(of), type(event["round"])} <= {int, type(None)}:
            return "a number is not a whole number"
        if act == "checkpoint":
            return self._wrong_checkpoint(event, {key: detail[key] for key in SIGNED}, detail)
        if self.checkpoint < 0:
            return "the log does not begin with its site's signed checkpoint"
        if self.seq - self.checkpoint > GAP or self.started:
            return "a signed checkpoint is missing before the event"
        if event["outcome"] == "intent" and of is None and len(self.open) < MAX_OPEN:
            self.open[self.seq] = act
        elif of is not None or act not in SINGLE or event["outcome"] == "intent":
            if of is None or event["outcome"] == "intent" or self.open.get(of) != act:
                return "an act is not one intent and one outcome"
            del self.open[of]
            self.named = detail["key"] if (act, event["object"], event["outcome"]) == RENEWED else self.named
        elif act in ("start", "stop"):
            if {int(key[5:]) for key in detail if key.startswith("open_")} != self.open.keys():
                return f"the site's {act} came without saying what became of the acts that were open"
            self.open = {} if act == "start" else self.open
        return ""

    def _wrong_checkpoint(self, event: dict[str, Any], facts: dict[str, Any], detail: dict[str, Any]) -> str:
        if (facts["kind"], facts["size"], facts["root"]) != (KIND, self.seq, self.root()):
            return "the checkpoint does not stand for the events before it"
        if any(facts[x] not in (self.last.get(x, facts[x]), {"key": self.heir}.get(x)) for x in SIGNED[:3]):
            return "the checkpoint is another site's"
        more = {f"open_{number}": act for number, act in self.open.items()} | {"peaks": b"".join(self.peaks).hex()}
        rest = {"at": facts["time"], "object": facts["root"], "actor": "site", "role": "site", "outcome": "done"}
        rest |= {"of": None, "permit": "", "purpose": "", "request": "", "round": None, "run": ""}
        facts |= {"signature": detail["signature"]} | (more if "peaks" in detail else {})
        wrong = "" if not self.every or signed(detail) else "the checkpoint is not signed by its key"
        return wrong if {**event, **rest, "detail": facts} == event else "the checkpoint says more than is signed"


def files(place: Path) -> list[Path]:
    """A log's files, oldest first."""
    return next(filter(None, (sorted(place.glob(f"{at}*.jsonl")) for at in ("state/audit/", "audit/", ""))), [place])


def lines(place: Path) -> Iterator[bytes]:
    """A log's lines with their newlines; one that is too long comes in pieces."""
    for path in files(place):
        with path.open("rb") as file:
            yield from iter(partial(file.readline, MAX_LINE), b"")


def verify(place: Path, key: str = "", witnesses: Iterable[Path] = (), every: bool = False) -> dict[str, Any]:
    """Check a log with the key that its site must have ("" believes the log's own); never raises on what it reads.
    `signed`, `witnessed`: events that the last checkpoint, and the last that a witness holds, stand for. `open`: the
    acts without outcome. `witnesses`: what each is and holds; `unreadable` are lines that the site's key did not sign.
    `absent`: texts that an event `redact` erased; of a single file all that are not beside it.
    """
    log, witnesses, torn, folder = Checker(every), list(witnesses), False, files(place)[0].parent
    heard, held, names = list[dict[str, Any]](), dict[int, list[Any]](), dict[bytes, int]()  # names: seq, -1: there

    def say(verdict: str, first_bad: int | None = None, reason: str = "") -> dict[str, Any]:
        found = dict[str, Any](verdict=verdict, events=log.seq, first_bad=first_bad, reason=reason, witnesses=heard)
        found |= {"site": log.last.get("name", ""), "key": log.last.get("key", ""), "keys": [*log.keys]}
        found |= {"pinned": key.lower() in log.keys, "absent": sum(n >= 0 for n in names.values()), "open": [*log.open]}
        return found | {"signed": max(0, log.checkpoint), "witnessed": max([0, *(row["newest"] for row in heard)])}

    try:
        for line in lines(place):
            bad = "the event is not readable" if torn or len(line) == MAX_LINE else ""
            torn = not line.endswith(b"\n")
            if bad := bad or ("" if torn else log.feed(line)):
                return say("tampered", log.seq, bad)
            for name in set(NAMED.findall(line)) - names.keys() if b'"~' in line else ():
                path = folder / "texts" / name.decode()
                small = path.is_file() and path.stat().st_size < MAX_LINE
                names[name] = -1 if small and sha256(path.read_bytes()).hexdigest() == path.name else log.seq - 1
            heard = heard or [_heard(place, log.last, held) for place in witnesses if log.seq == 1 and not torn]
            if clash := next(_clashes(held.get(log.seq - 1, ()), log), ""):
                return say("witness-clash", log.seq - 1, clash)
        if not (log.keys and all(map(signed, log.keys.values()))):
            return verify(place, key, witnesses, every=True) if log.seq else say("unreadable", None, "it has no event")
        if key and key.lower() not in log.keys:
            return say("tampered", 0, "the log is signed with another key than the given one")
        if clash := next((why for size in sorted(held) if size >= log.seq for why in _clashes(held[size], log)), ""):
            return say("witness-clash", log.seq, f"the log ends too early: {clash}")
        if place.is_dir() and (lost := [at for name, at in names.items() if at >= 0 and name not in log.erased]):
            return say("tampered", min(lost), "a text of the event was changed, or is gone and no event erased it")
    except OSError as error:
        return say("unreadable", None, str(error.strerror))
    return say("incomplete-tail", log.seq, "the last line was not written whole") if torn else say("ok")


def _heard(place: Path, own: Mapping[str, Any], held: dict[int, list[Any]]) -> dict[str, Any]:
    """What a witness is; what it says of this site goes into `held` by size, and counts once its signature is good."""
    found = verify(place)
    row = {"witness": found["site"] or place.name, "verdict": found["verdict"], "held": 0, "newest": 0, "unreadable": 0}
    for line in lines(place) if found["verdict"] != "unreadable" else ():
        try:
            if line.startswith((b'{"act":"witness"', b'{"act":"checkpoint"')):
                facts = {name: _decode(line.decode())["detail"][name] for name in (*SIGNED, "signature")}
                if facts["site"] == own["site"] or facts["name"] == own["name"]:
                    held.setdefault(int(facts["size"]), []).append((facts, row))
        except (ValueError, KeyError, TypeError, RecursionError):
            row["unreadable"] += 1
    return row


def _clashes(kept: Iterable[tuple[dict[str, Any], dict[str, Any]]], log: Checker) -> Iterator[str]:
    """How what the witnesses hold of one size differs from the log; what its key never signed is nobody's testimony."""
    for facts, row in kept:
        if not (facts.items() <= log.last.items() or (facts["key"] in [*log.keys, log.heir] and signed(facts))):
            row["unreadable"] += 1
        elif any(facts[name] != log.last[name] for name in ("root", "size")):
            yield f"a witness holds another signed checkpoint of {facts['size']} events of this site"
        else:
            row["held"], row["newest"] = row["held"] + 1, log.last["size"]


def signed(facts: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has a good signature of the key that it names."""
    try:
        text, key, good = _encode({name: facts[name] for name in SIGNED}), facts["key"], facts["signature"]
        return ed25519(bytes.fromhex(key), text.encode(), bytes.fromhex(good))
    except (ValueError, KeyError, TypeError):
        return False


P, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D, ROOT = -121665 * pow(121666, -1, P) % P, pow(2, (P - 1) // 4, P)


def ed25519(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature is good (RFC 8032, 5.1.7)."""
    a, r, s = _point(key), _point(signature[:32]), int.from_bytes(signature[32:], "little")
    base = _point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    if a is None or r is None or base is None or len(signature) != 64 or s >= ORDER:
        return False
    h = int.from_bytes(sha512(signature[:32] + key + message).digest(), "little") % ORDER
    left, right = _times(s, base), _add(r, _times(h, a))
    return not any((left[i] * right[2] - right[i] * left[2]) % P for i in (0, 1))


def _add(p: tuple[int, ...], q: tuple[int, ...]) -> tuple[int, ...]:  # x, y, z, x * y / z
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    return (b - a) * (d - c) % P, (d + c) * (b + a) % P, (d - c) * (d + c) % P, (b - a) * (b + a) % P


def _times(factor: int, p: tuple[int, ...]) -> tuple[int, ...]:
    zero: tuple[int, ...] = (0, 1, 1, 0)
    return reduce(lambda q, bit: _add(_add(q, q), p) if bit == "1" else _add(q, q), f"{factor:b}", zero)


def _point(data: bytes) -> tuple[int, ...] | None:
    sign, y = divmod(int.from_bytes(data, "little"), 1 << 255)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    roots = (x for r in (root, root * ROOT % P) for x in (r, P - r) if (x * x - square) % P == 0 and x & 1 == sign)
    x = next(roots, P)
    return None if len(data) != 32 or y >= P or x == P else (x, y, 1, x * y % P)


def main(words: list[str]) -> int:
    """Verify what the command line names; returns the exit code."""
    given = {word: [b for a, b in zip(words, words[1:]) if a == word] for word in ("--key", "--witness")}  # noqa: B905, RUF007
    found = verify(Path(words[0] if words else "."), "".join(given["--key"]), map(Path, given["--witness"]))
    sys.stdout.write(json.dumps(found) + "\n")
    weak = any(not row["held"] or row["verdict"] not in GOOD for row in found["witnesses"])
    return 2 * weak if found["verdict"] in GOOD else 2 if found["verdict"] == "unreadable" else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
