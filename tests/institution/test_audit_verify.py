"""verify.py is one file that needs nobody: its Ed25519, its size, its imports, and its verdict away from fedrec."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from audit_logs import KEY, PUBLIC, SIGNER, checkpoints, kept, write
from click.testing import CliRunner
from nacl.signing import SigningKey

from fedrec.cli.main import cli
from fedrec.institution import verify as verifier
from fedrec.institution.verify import ORDER, ed25519

FILE = Path(verifier.__file__)
# RFC 8032, 7.1: public key, message, signature
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf", hashlib.sha512(b"abc").hexdigest(),
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e030"
        "3dca179c138ac17ad9bef1177331a704",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("key", "message", "signature"), VECTORS)
def test_signatures_of_rfc_8032_are_good_and_no_changed_one_is(key, message, signature):
    given = [bytes.fromhex(text) for text in (key, message, signature)]
    assert ed25519(*given)
    for part in (0, 2):
        for place in range(0, len(given[part]), 7):
            wrong = bytearray(given[part])
            wrong[place] ^= 1 << (place % 8)
            assert not ed25519(*[*given[:part], bytes(wrong), *given[part + 1 :]])
    assert not ed25519(given[0], given[1] + b"x", given[2])
    s = int.from_bytes(given[2][32:], "little") + ORDER  # another writing of the same number
    assert not ed25519(given[0], given[1], given[2][:32] + s.to_bytes(32, "little"))
    for short in (given[2][:63], given[2] + b"\0", b""):
        assert not ed25519(given[0], given[1], short)
    assert not ed25519(given[0][:31], given[1], given[2])
    assert not ed25519(b"\xff" * 32, given[1], given[2])  # y above the prime


def test_it_agrees_with_libsodium():
    for number in range(40):
        key, message = SigningKey(bytes([number]) * 32), bytes(range(number))
        assert ed25519(key.verify_key.encode(), message, key.sign(message).signature)


def test_the_file_is_small_and_imports_the_standard_library_alone():
    text = FILE.read_text()
    assert len(text.splitlines()) <= 250
    imports = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imports <= sys.stdlib_module_names


def alone(folder: Path, *words: object) -> tuple[int, dict]:
    """The verdict of a copy of the file, run by Python without any site package."""
    copy = shutil.copy(FILE, folder / "verify.py")
    run = subprocess.run(
        [sys.executable, "-I", "-S", copy, *map(str, words)], capture_output=True, text=True, cwd=folder, check=False
    )
    assert run.stderr == ""
    return run.returncode, json.loads(run.stdout)


def commanded(*words: object) -> tuple[int, dict]:
    found = CliRunner().invoke(cli, ["audit", "verify", *map(str, words), "--json", "-"])
    return found.exit_code, json.loads(found.stdout)


def test_the_file_alone_and_the_command_say_the_same(tmp_path):
    site = tmp_path / "site"
    path = write(site / "state" / "audit", 20)
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    other = kept(tmp_path / "other", [checkpoints(data)[-1]])
    wrong = "00" * 32
    cases = [
        (data, [], 0, "ok"), (data, ["--key", PUBLIC], 0, "ok"), (data, ["--witness", other, "--key", PUBLIC], 0, "ok"),
        (data, ["--key", wrong], 3, "tampered"), (data[:-9], [], 0, "incomplete-tail"),
        (data[:-9], ["--witness", other], 3, "witness-clash"), (data.replace(b'"done"', b'"Done"', 3), [], 3, "tampered"),
        (b"".join(lines[:-3]), [], 0, "ok"), (b"".join(lines[:-3]), ["--witness", other], 3, "witness-clash"),
        (b"".join(lines[1:]), [], 3, "tampered"), (b"", [], 2, "unreadable"), (b"\xff\n" * 9, [], 3, "tampered"),
    ]  # fmt: skip
    for data, words, code, verdict in cases:
        path.write_bytes(data)
        found = alone(tmp_path, site, *words)
        assert (found[0], found[1]["verdict"]) == (code, verdict), words
        assert commanded(site, *words) == found
    assert alone(tmp_path, tmp_path / "none")[0] == 2


def test_the_command_pins_the_key_by_the_consortium_and_says_one_line(tmp_path):
    site = tmp_path / "aurora"
    write(site / "state" / "audit", 3)
    toml = tmp_path / "consortium.toml"
    text = 'name = "c"\ntitle = "C"\n[[member]]\nname = "aurora"\nfolder = "aurora"\nkey = "{}"\n'
    toml.write_text(text.format(PUBLIC))
    said = CliRunner().invoke(cli, ["audit", "verify", str(site), "--consortium", str(toml)])
    assert (said.exit_code, said.stdout) == (0, "ok, 8 events of aurora (its last signature covers 7)\n")
    toml.write_text(text.format("11" * 32))
    said = CliRunner().invoke(cli, ["audit", "verify", str(site), "--consortium", str(toml)])
    assert (said.exit_code, said.stdout) == (
        3, "tampered at event 0: the log is not signed with the key of any member\n",
    )  # fmt: skip
    assert SIGNER.key == KEY


@pytest.mark.parametrize("size", [0, 1, 100, 70_000])
def test_a_million_pieces_of_garbage_in_one_file_are_refused_in_bounded_memory(tmp_path, size):
    """T17; benchmarks/audit.py measures the memory."""
    path = tmp_path / "0001.jsonl"
    path.write_bytes((b"\x00" * size + b"\n") * (1_000_000 // max(1, size)))
    assert verifier.verify(path)["verdict"] == "tampered"
    good = write(tmp_path / "good", 1)
    good.write_bytes(good.read_bytes() + path.read_bytes())
    found = verifier.verify(good)
    assert (found["verdict"], found["first_bad"]) == ("tampered", 4)
    assert verifier.verify(good, witnesses=[path])["verdict"] == "tampered"
