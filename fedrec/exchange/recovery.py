"""Secure sums that need not be done again when an institution is lost: double masks and shares of what makes them.

Beside the masks of its pairs an update has a mask of its own. Each institution splits what makes its masks, its own and
those of its pairs, into shares, one for each member, sealed for it; they travel with the update. Once the centre has
the updates of at least two thirds of the members, those members sign the set that is to be summed, each one set only.
Who sees such signatures of as many members then tells, of each institution in the set, its share of the own mask and of
the pairs with those that are missing: the centre takes these masks off, and the sum over the set is left. Of an
institution that is missing nobody tells the own mask, so an update that comes later, or was hidden, stays unreadable.
Source: Bonawitz et al. 2017, Practical secure aggregation, CCS, sections 4 and 6 (the signed set is against a centre
that lies about who is missing). Pairs have long-lived keys here, so what is shared is the seed of one round's mask; and
everything an institution draws follows from its key and the round, so that it keeps nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.signing import SigningKey

from fedrec.core.params import Array
from fedrec.errors import Refused
from fedrec.exchange import shamir
from fedrec.exchange.passport import sign, signed_by
from fedrec.exchange.secure_sum import keystream, masked, pair_seed, spread

SHARES = "sum.shares"  # the array beside a doubly masked update, a sealed row for each member
FEWEST = 4  # of three members all are needed: so it is in a round that another one is away from
_TAG = 16  # bytes of a sealed row's tag
_WISH = "Resume the run"


def threshold(members: int) -> int:
    """How many of so many members are needed, and enough: more than two thirds."""
    return 2 * members // 3 + 1


def locked(
    ring: Mapping[str, Array], own: str, key: SigningKey, members: Mapping[str, str], context: bytes
) -> dict[str, Array]:
    """The ring with this member's masks and its own one, and the shares of what makes them: uint8, members x bytes.

    Args:
        as `secure_sum.masked`.

    Raises:
        Refused: `sum.keys` for a member whose key is missing or no key.
    """
    flat = masked(ring, own, key, members, context)
    _mask(flat, lock := _own_seed(key, context), add=True)
    seeds = [lock if name == own else pair_seed(key, members[name], name, context) for name in members]
    drawn = keystream(spread(key.encode(), context + b"\0shares"))
    size = (threshold(len(members)) - 1) * shamir.COEFFICIENT
    shares = [shamir.split(seed, len(members), drawn.update(bytes(size))) for seed in seeds]
    rows = [
        _box(key, members[name], name, own, context).encrypt(bytes(12), b"".join(row), None)
        for name, row in zip(members, zip(*shares, strict=True), strict=True)
    ]
    return {**flat, SHARES: np.frombuffer(b"".join(rows), np.uint8).reshape(len(members), -1)}


def rows_of(ring: Mapping[str, Array], members: int) -> tuple[dict[str, Array], list[bytes]]:
    """What came from a member: the masked arrays, and the sealed rows in the order of the members.

    Raises:
        Refused: `update.shape`.
    """
    table = ring.get(SHARES)
    if table is None or table.dtype != np.uint8 or table.shape != (members, members * shamir.SHARE + _TAG):
        raise Refused("update.shape", "a masked update has no shares of its masks", _WISH)
    return {name: array for name, array in ring.items() if name != SHARES}, [row.tobytes() for row in table]


def agreement(among: Sequence[str], context: bytes, key: SigningKey) -> str:
    """A member's signature that the sum is to be over `among`; hex."""
    return str(sign(_agreed(among, context), key)["signature"])


def check_among(
    among: Sequence[str], members: Mapping[str, str], own: str, signatures: Mapping[str, str] | None, context: bytes
) -> None:
    """Accept a set to be summed; with `signatures` only when enough of it have signed the same.

    Args:
        members: pinned public keys by name, in the consortium's order; hex.

    Raises:
        Refused: `sum.unmask`.
    """
    need = threshold(len(members))
    if [name for name in members if name in among] != list(among) or own not in among or len(among) < need:
        reason = f"the set is not {need} or more of the round's members in their order, this one among them"
        raise Refused("sum.unmask", reason, _WISH)
    if signatures is None:
        return
    facts = _agreed(among, context)
    good = [name for name in among if signed_by({**facts, "signature": signatures.get(name, "")}, members[name])]
    if len(good) < need:
        reason = f"{len(good)} of the members have signed this set, and {need} are needed"
        raise Refused("sum.unmask", reason, _WISH)


def told(
    rows: Mapping[str, bytes], key: SigningKey, members: Mapping[str, str], context: bytes
) -> dict[str, dict[str, str]]:
    """This member's shares of what is to be taken off: by institution of the set, by whose mask; hex.

    Args:
        rows: what each institution of the set has sealed for this one; `check_among` has accepted the set.

    Raises:
        Refused: `sum.unmask` for a row that its institution did not make for this round.
    """
    names, found = list(members), dict[str, dict[str, str]]()
    for name, sealed in rows.items():
        try:
            row = _box(key, members[name], name, name, context).decrypt(bytes(12), sealed, None)
        except (InvalidTag, ValueError):
            reason = f"the shares are not those that {name} made for this institution and round"
            raise Refused("sum.unmask", reason, _WISH) from None
        parts = {one: row[at * shamir.SHARE :][: shamir.SHARE].hex() for at, one in enumerate(names)}
        found[name] = {one: part for one, part in parts.items() if one == name or one not in rows}
    return found


def unlocked(
    total: Mapping[str, Array],
    members: Sequence[str],
    among: Sequence[str],
    said: Mapping[str, Mapping[str, Mapping[str, str]]],
) -> dict[str, Array]:
    """The sum over `among`, of their added rings.

    Args:
        said: what each member that was asked has `told`, at least `threshold` of them.

    Raises:
        Refused: `sum.unmask` when what they told is no mask.
    """
    flat = {name: np.array(array, order="C", copy=True) for name, array in sorted(total.items())}
    numbers = {name: number for number, name in enumerate(members, start=1)}
    try:
        for name in among:
            for other in (name, *(one for one in members if one not in among)):
                shares = {numbers[one]: bytes.fromhex(what[name][other]) for one, what in said.items()}
                after = other != name and numbers[other] > numbers[name]
                _mask(flat, shamir.join(shares), add=other != name and not after)
    except (ValueError, KeyError, TypeError):
        raise Refused("sum.unmask", "what the institutions told is no mask of this round", _WISH) from None
    return flat


def _mask(flat: Mapping[str, Array], seed: bytes, *, add: bool) -> None:
    """Add what a seed makes to arrays in the order of their names, or take it off."""
    stream = keystream(seed)
    for array in flat.values():
        mask = np.frombuffer(stream.update(bytes(array.nbytes)), array.dtype).reshape(array.shape)
        if add:
            np.add(array, mask, out=array)
        else:
            np.subtract(array, mask, out=array)


def _own_seed(key: SigningKey, context: bytes) -> bytes:
    return spread(key.encode(), context + b"\0own")


def _box(key: SigningKey, public: str, other: str, maker: str, context: bytes) -> ChaCha20Poly1305:
    """What seals the row of `maker`; a key for each maker, reader and round, so that it needs no nonce."""
    purpose = context + b"\0row " + maker.encode()
    if public == key.verify_key.encode().hex():
        return ChaCha20Poly1305(spread(key.encode(), purpose))
    return ChaCha20Poly1305(pair_seed(key, public, other, purpose))


def _agreed(among: Sequence[str], context: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(context).hexdigest()
    return {"kind": "fedrec-sum-among-v1", "context": digest, "among": list(among)}
