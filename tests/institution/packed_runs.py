"""Evidence packs for tests: read, changed, and signed again by who has the site's own key."""

from __future__ import annotations

import json
import shutil
import zipfile

from nacl.signing import SigningKey

from fedrec.exchange.passport import sign
from fedrec.exchange.wire import sha256
from fedrec.institution.evidence.pack import _zip


def copied(folder, tmp_path):
    shutil.copytree(folder.parent, tmp_path / "copy")
    return tmp_path / "copy" / folder.name


def files(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def signed_again(contents, folder):
    """The pack with a new manifest, as someone with the site's own key would make it."""
    contents.pop("MANIFEST.json")
    key = SigningKey(bytes.fromhex((folder / "state" / "keys" / "site.key").read_text().strip()))
    facts = sign({"files": {name: sha256(data) for name, data in contents.items()}}, key)
    return _zip({**contents, "MANIFEST.json": json.dumps(facts).encode()})
