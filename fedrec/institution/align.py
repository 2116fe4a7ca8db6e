"""The items that two institutions have in common, found by a natural key, and what both call them from then on.

    the first member     begin  ->  request              sealed and signed: align_files.py
    the other            take   ->  response             learns how many keys were asked
    the first member     take   ->  result, catalogue    learns the common keys and how many the other has
    the other            take                            learns the common keys and their shared ids

With more institutions, the first member does so with each. Shared ids come from a secret that only it has, so an item
has the same one at all. What the protocol hides, and from whom: exchange/psi.py and docs/data-quality.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrec.config import SchemaConfig
from fedrec.core.ids import clean_id
from fedrec.errors import Refused, WrongInput
from fedrec.exchange import psi
from fedrec.institution import shared_items
from fedrec.institution.align_files import Opened, Party, form, seal, unseal
from fedrec.institution.local import local_act
from fedrec.institution.sources import read_file

FEW = 5  # fewer common items are neither counted nor used
TIMES = 10  # a request may ask for so many times as many keys as the one who answers has


def begin(folder: Path, other: str, items: Path, column: str, out: Path) -> dict[str, Any]:
    """Write the request to `other` into the folder `out`.

    Args:
        items: the institution's own table of items; its id column is called as in schema.toml.
        column: the natural key in it.

    Raises:
        WrongInput: this is not the first member, or there is no other one of that name.
    """
    party = Party.of(folder)
    if party.name != party.first:
        raise WrongInput(f"{party.name} is not the consortium's first member; {party.first} asks")
    if other == party.name or other not in party.members:
        raise WrongInput(f"{other}: no other member of the consortium has that name")
    own, session = _own(folder, items, column), secrets.token_hex(16)
    with local_act(folder, "catalogue", "request", detail={"with": other, "keys": len(own)}):
        whole = _secret(folder)
        order = sorted(own, key=lambda key: psi.shared_id(whole, key))  # so that a place tells nothing of the key
        secret, request = psi.ask(order)
        data = seal(party, "request", other, session, "", {"request": _text(request)})
        _wait(folder, session, data, {"with": other, "own": {key: own[key] for key in order}, "secret": _text(secret)})
        return {"step": "request", "with": other, "keys": len(own), "file": _put(out, other, "request", data)}


def take(
    folder: Path, file: Path, items: Path | None, column: str | None, out: Path, most: int | None = None
) -> dict[str, Any]:
    """Take a file of the other institution, and write what follows from it.

    Args:
        items, column: as in `begin`; needed for a request only.
        most: keys that a request may ask for; None = TIMES the own ones.

    Raises:
        Refused: as `unseal`; `align.replay` for a file that was taken or that nobody waits for, `align.size`.
    """
    party = Party.of(folder)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise WrongInput(f"{file}: cannot be read ({error.strerror})") from None
    with local_act(folder, "catalogue", "take") as said:
        opened = unseal(party, data)
        if not re.fullmatch("[0-9a-f]{32}", opened.session):
            raise form()
        if opened.step == "request":
            if items is None or column is None:
                raise WrongInput("this is a request: give --items FILE and --key COLUMN to answer it")
            done = _answer(folder, party, opened, _own(folder, items, column), out, most)
        else:
            done = (_finish if opened.step == "response" else _learn)(folder, party, opened, out)
        said.update({name: value for name, value in done.items() if name not in ("file", "catalogue", "mapping")})
    return done


def _answer(
    folder: Path, party: Party, opened: Opened, own: dict[str, list[str]], out: Path, most: int | None
) -> dict[str, Any]:
    if opened.maker != party.first:
        raise Refused("align.maker", f"only {party.first}, the first member, asks", "Say who brought this file")
    if _path(folder, opened.session).exists():
        raise _replay()
    request = _bytes(opened.body, "request")
    asked, allowed = psi.asked(request), TIMES * len(own) if most is None else most
    if asked > allowed:
        reason = f"it asks for {asked} keys, and {allowed} are allowed"
        raise Refused("align.size", reason, "Ask why; --most allows more")
    setup, response = psi.answer(sorted(own), request)
    body = {"setup": _text(setup), "response": _text(response)}
    data = seal(party, "response", opened.maker, opened.session, opened.sha256, body)
    _wait(folder, opened.session, data, {"with": opened.maker, "own": own, "secret": ""})
    written = _put(out, opened.maker, "response", data)
    return {"step": "response", "with": opened.maker, "keys": len(own), "asked": asked, "file": written}


def _finish(folder: Path, party: Party, opened: Opened, out: Path) -> dict[str, Any]:
    kept = _waiting(folder, opened, first=True)
    own: dict[str, list[str]] = kept["own"]
    setup, response = _bytes(opened.body, "setup"), _bytes(opened.body, "response")
    found, theirs = psi.common(base64.b64decode(kept["secret"]), list(own), setup, response)
    enough = len(found) >= FEW
    ids = {key: psi.shared_id(_secret(folder), key) for key in found} if enough else {}
    data = seal(party, "result", opened.maker, opened.session, opened.sha256, {"ids": ids})
    done: dict[str, Any] = {"step": "result", "with": opened.maker, "keys": len(own), "theirs": theirs}
    done |= {"common": _count(len(found))} | _map(folder, opened.maker, own, ids)
    _keep(folder, opened.session, {})
    done["file"] = _put(out, opened.maker, "result", data)
    if known := set(_known(folder).values()):
        path = out / "catalogue.csv"
        path.write_text("\n".join(["item", *sorted(known)]) + "\n", encoding="utf-8")
        done["catalogue"] = str(path)
    return done


def _learn(folder: Path, party: Party, opened: Opened, out: Path) -> dict[str, Any]:  # noqa: ARG001  the last step
    kept, ids = _waiting(folder, opened, first=False), opened.body.get("ids")
    own: dict[str, list[str]] = kept["own"]
    if opened.maker != party.first or type(ids) is not dict or not ids.keys() <= own.keys() or 0 < len(ids) < FEW:
        raise form()
    if any(type(one) is not str or not re.fullmatch("s[0-9a-f]{24}", one) for one in ids.values()):
        raise form()
    if len(set(ids.values())) < len(ids):
        raise form()
    done = {"step": "done", "with": opened.maker, "keys": len(own), "common": _count(len(ids))}
    done |= _map(folder, opened.maker, own, ids)
    _keep(folder, opened.session, {})
    return done


def _own(folder: Path, items: Path, column: str) -> dict[str, list[str]]:
    """Own ids by cleaned key; items without a usable key are left out.

    Raises:
        WrongInput: no key is usable, or an id has two.
    """
    name = SchemaConfig.load(folder / "schema.toml").columns.item
    table = read_file(items, list(dict.fromkeys([name, column])))
    keys: dict[str, str] = {}
    for raw, value in zip(table[name].to_pylist(), table[column].to_pylist(), strict=True):
        own, key = clean_id(raw), psi.clean_key(value)
        if own is not None and key is not None and keys.setdefault(own, key) != key:
            raise WrongInput(f"{items.name}: an item has two different values of {column}")
    if not keys:
        raise WrongInput(f"{items.name}: no item has a usable {column}")
    found: dict[str, list[str]] = {}
    for own, key in sorted(keys.items()):
        found.setdefault(key, []).append(own)
    return found


def _map(folder: Path, other: str, own: Mapping[str, list[str]], ids: Mapping[str, str]) -> dict[str, Any]:
    """Keep what is shared with `other`, and write all of it into the institution's folder."""
    _write(_path(folder, f"with-{other}"), {one: ids[key] for key in ids for one in own[key]})
    path, known = folder / shared_items.NAME, _known(folder)
    if not known:
        path.unlink(missing_ok=True)
        return {}
    shared_items.write(path, known)
    return {"mapping": str(path)}


def _known(folder: Path) -> dict[str, str]:
    """Shared id by own id, with whomever."""
    found: dict[str, str] = {}
    for path in sorted((folder / "state" / "align").glob("with-*.json")):
        found |= json.loads(path.read_text())
    return found


def _waiting(folder: Path, opened: Opened, first: bool) -> dict[str, Any]:
    """What was kept for this answer, which is taken once."""
    path = _path(folder, opened.session)
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if not kept or kept["with"] != opened.maker or kept["sent"] != opened.before or bool(kept["secret"]) is not first:
        raise _replay()
    return kept


def _count(number: int) -> int | str:
    return number if number >= FEW else f"fewer than {FEW}"


def _secret(folder: Path) -> bytes:
    path = _path(folder, "secret")
    if not path.exists():
        _write(path, secrets.token_hex(32))
    return bytes.fromhex(json.loads(path.read_text()))


def _wait(folder: Path, session: str, sent: bytes, kept: Mapping[str, Any]) -> None:
    """Keep what is needed when the answer to the file `sent` comes."""
    _keep(folder, session, {**kept, "sent": hashlib.sha256(sent).hexdigest()})


def _keep(folder: Path, session: str, kept: Mapping[str, Any]) -> None:
    """Nothing kept = the session is over, and stays known."""
    _write(_path(folder, session), kept)


def _path(folder: Path, name: str) -> Path:
    return folder / "state" / "align" / f"{name}.json"


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def _put(out: Path, other: str, step: str, data: bytes) -> str:
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{other}.{step}.json"
    path.write_bytes(data)
    return str(path)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(body: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(body[name], validate=True)
    except (KeyError, TypeError, ValueError):
        raise form() from None


def _replay() -> Refused:
    reason = "the file was taken before, or answers nothing that this site asked"
    return Refused("align.replay", reason, "Begin again with fedrec catalogue align --with")
