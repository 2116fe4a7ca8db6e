"""Merkle trees: RFC 6962's own examples, and every proof of every tree up to 40 leaves, whole and with a part missing."""

from __future__ import annotations

import hashlib

import pytest

from fedrec.exchange.merkle import Partial, consistency, extends, includes, inclusion, leaf, root, whole
from fedrec.exchange.wire import canonical
from fedrec.institution.verify import Checker

# The test tree of the certificate-transparency reference implementation and its roots, sizes 0 to 8
DATA = [bytes.fromhex(x) for x in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]  # fmt: skip
ROOTS = """
e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d
fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125
aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77
d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7
4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4
76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef
ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c
5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328
""".split()
LEAVES = [leaf(b"%d" % number) for number in range(40)]


def test_roots_are_those_of_the_reference_tree():
    assert [root([leaf(data) for data in DATA[:size]]).hex() for size in range(9)] == ROOTS


def test_a_proof_of_the_reference_tree():
    """The consistency proof from 6 to 8 leaves, written out in RFC 6962, 2.1.3: [k, m, n] in the picture there."""
    subtree = whole([leaf(data) for data in DATA])
    assert consistency(6, 8, subtree) == [subtree(4, 6), subtree(6, 8), subtree(0, 4)]
    assert inclusion(0, 7, subtree) == [subtree(1, 2), subtree(2, 4), subtree(4, 7)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13, 32, 40])
def test_every_leaf_is_shown_to_be_in_the_tree_and_no_other(size):
    tree, subtree = root(LEAVES[:size]), whole(LEAVES[:size])
    for index in range(size):
        proof = inclusion(index, size, subtree)
        assert includes(index, size, LEAVES[index], proof, tree)
        assert not includes(index, size, leaf(b"other"), proof, tree)
        assert not includes(index, size, LEAVES[index], [*proof, tree], tree)
        assert not proof or not includes(index, size, LEAVES[index], proof[:-1], tree)
        assert not includes((index + 1) % size, size, LEAVES[index], proof, tree) or size == 1
    assert not includes(size, size, LEAVES[0], [], tree)
    assert not includes(-1, size, LEAVES[0], [], tree)


def test_every_older_tree_is_shown_to_be_the_beginning_and_no_other():
    for new in range(1, 41):
        subtree, tree = whole(LEAVES[:new]), root(LEAVES[:new])
        for old in range(1, new + 1):
            before, proof = root(LEAVES[:old]), consistency(old, new, subtree)
            assert extends(old, new, before, tree, proof)
            wrong = root([leaf(b"other"), *LEAVES[1:old]])
            assert not extends(old, new, wrong, tree, proof)
            assert not extends(old, new, before, wrong, proof)
            assert not extends(old, new, before, tree, [*proof, tree])
            assert not proof or not extends(old, new, before, tree, proof[:-1])
    assert not extends(0, 3, root([]), tree, [])
    assert not extends(3, 2, tree, tree, [])


def test_a_tree_with_only_its_peaks_and_newer_leaves_gives_the_same_proofs():
    state = Checker()
    for known in range(40):
        part = Partial(state.peaks.copy(), known, LEAVES[known:])
        for old in range(max(1, known), 41):
            assert consistency(old, 40, part.subtree) == consistency(old, 40, whole(LEAVES)), (known, old)
        new, size = LEAVES[known], known
        while size & 1:  # as verify.py grows its own
            new, size = hashlib.sha256(b"\x01" + state.peaks.pop() + new).digest(), size >> 1
        state.peaks.append(new)
        assert state.root() == root(LEAVES[: known + 1]).hex()


def test_canonical_json_is_that_of_rfc_8785():
    """Sections 3.2.2.2 (strings) and 3.2.3 (keys in the order of their UTF-16 code units)."""
    assert (
        canonical({"string": '\u20ac$\u000f\nA\'B"\\\\"/'})
        == b'{"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    order = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    text = canonical({"nested": dict.fromkeys(keys, ""), "b": True, "a": [None, -1]}).decode()
    places = [text.index('"\\r":' if key == "\r" else f'"{key}":') for key in order]
    assert places == sorted(places)
    assert text.startswith('{"a":[null,-1],"b":true,"nested":{')
    with pytest.raises(ValueError, match="surrogates"):
        canonical({"a": "\ud800"})
