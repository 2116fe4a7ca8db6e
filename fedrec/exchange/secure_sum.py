"""The secure sum: every institution masks its update so that only the sum over all members can be read.

An update becomes whole numbers modulo 2^8, 2^16, 2^32 or 2^64 (fixed point). Each pair of members shares a key that
nobody else can make (X25519 of the keys pinned in consortium.toml); for each round it is spread by HKDF-SHA256 and
AES-256 in counter mode into one mask as long as the update, which one of the two adds and the other subtracts. In the
sum over all members the masks cancel. Nothing grows: a masked update has as many bytes as its fixed-point numbers.
Source: Bonawitz et al. 2017, Practical secure aggregation, CCS, section 4, with long-lived instead of per-round
public keys, so without forward secrecy: who steals a site's key can later open what he has kept of its masked updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import crypto_scalarmult
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

from fedrec.core.params import Array
from fedrec.errors import Refused

if TYPE_CHECKING:
    from fedrec.exchange.plan import PlanText, Tensor

WEIGHT = "sum.weight"  # the array beside a weighted update; no tensor of a plan can have a dot in its name
FEW = 3  # of two members each knows the other's part from the sum
_SALT = b"fedrec secure sum v1"
_TURN = "The round was not merged; resume the run"


def to_ring(
    plan: PlanText, tensors: Mapping[str, Array], rows: int, users: int, members: int, n_items: int
) -> dict[str, Array]:
    """An update as unsigned whole numbers, times its weight where the plan takes a weighted mean.

    Args:
        rows, users: behind the update; what the plan weighs by, up to 10^9.
        members: how many updates are added; with so many as large as this one the sum does not wrap.

    Raises:
        Refused: `sum.range` for a number that is too large for that, `guard.shape` for another shape.
    """
    by = weighed(plan)
    weight = {"interactions": rows, "users": users}.get(by, 1)
    found = {name: _fixed(name, tensors[name], one, weight, members, n_items) for name, one in plan.leaves.items()}
    return {**found, WEIGHT: np.array([weight], np.uint64)} if by else found


def add(plan: PlanText, rings: Sequence[Mapping[str, Array]], n_items: int) -> dict[str, Array]:
    """The sum of the members' masked updates, modulo each array's width.

    Raises:
        Refused: `update.shape` or `update.dtype` for what is no masked update of this plan.
    """
    shapes = {name: (tensor.sized(n_items), _kind(tensor)) for name, tensor in plan.leaves.items()}
    if weighed(plan):
        shapes[WEIGHT] = ((1,), np.dtype(np.uint64))
    total = {name: np.zeros(shape, kind) for name, (shape, kind) in shapes.items()}
    for ring in rings:
        if set(ring) != set(shapes) or any(ring[name].shape != shape for name, (shape, _) in shapes.items()):
            raise Refused("update.shape", "a masked update has other arrays than the plan declares", _TURN)
        for name, array in ring.items():
            if array.dtype != shapes[name][1]:
                raise Refused("update.dtype", f"{name} is {array.dtype}", _TURN)
            total[name] += array
    return total


def from_ring(plan: PlanText, total: Mapping[str, Array], members: int) -> dict[str, Array]:
    """What the plan's aggregator would have made of the updates: their sum, their mean or their weighted mean.

    Raises:
        Refused: `update.weight` when nobody has a weight above 0.
    """
    name, by = merged_by(plan)
    part: float = 1.0 if name in ("sum", "gradient-sum") else members
    if by:
        part = float(total[WEIGHT][0])
        if not 0 < part <= members * 10**9:
            raise Refused("update.weight", f"the sum of all weights by {by} cannot be true", _TURN)
    found = {}
    for key, tensor in plan.leaves.items():
        bits, width = _form(tensor)
        signed = total[key].view(f"int{width}").astype(np.float64) * (2.0**-bits / part)
        found[key] = signed.astype(tensor.dtype)
    return found


def weighed(plan: PlanText) -> str:
    """What an institution multiplies its update by, "interactions" or "users"; empty = nothing."""
    return merged_by(plan)[1]


def merged_by(plan: PlanText) -> tuple[str, str]:
    """(what merges the updates, what it weighs by): of an optimiser at the centre, what is inside it."""
    settings = plan.aggregator
    inner = "inner_" if "inner" in settings else ""
    name = str(settings["inner" if inner else "name"])
    return name, str(settings.get(f"{inner}by", "interactions")) if name == "weighted-mean" else ""


def masked(
    ring: Mapping[str, Array], own: str, key: SigningKey, members: Mapping[str, str], context: bytes
) -> dict[str, Array]:
    """The ring with this member's masks.

    Args:
        own: this member's name; key: its site's key.
        members: pinned public keys by name, in the consortium's order, this one's too; hex.
        context: what the masks are for: plan, run, round, rows, model, members. Never the same for two updates.

    Raises:
        Refused: `sum.keys` for a member whose key is missing or no key.
    """
    if members.get(own) != key.verify_key.encode().hex():
        raise Refused("sum.keys", f"{own} is no member of this sum under its own key", "Check consortium.toml")
    flat = {name: np.array(array, order="C", copy=True) for name, array in sorted(ring.items())}
    after = False
    for name, public in members.items():
        if name == own:
            after = True
            continue
        stream = keystream(pair_seed(key, public, name, context))
        for array in flat.values():
            mask = np.frombuffer(stream.update(bytes(array.nbytes)), array.dtype).reshape(array.shape)
            if after:
                array += mask
            else:
                array -= mask
    return flat


def pair_seed(key: SigningKey, public: str, name: str, context: bytes) -> bytes:
    """What this member shares with another one for one context, and nobody else can make; 32 bytes.

    Raises:
        Refused: `sum.keys`.
    """
    try:
        theirs = VerifyKey(bytes.fromhex(public)).to_curve25519_public_key()
        shared = crypto_scalarmult(bytes(key.to_curve25519_private_key()), bytes(theirs))
    except (CryptoError, ValueError, TypeError, RuntimeError):
        raise Refused("sum.keys", f"{name} has no key in consortium.toml that can be used", "Pin its key") from None
    return spread(shared, context)


def spread(secret: bytes, context: bytes) -> bytes:
    """32 bytes for one context; they tell nothing of the secret or of another context's."""
    return HKDF(SHA256(), 32, _SALT, context).derive(secret)


def keystream(seed: bytes) -> CipherContext:
    """The bytes that a seed stands for, as long as one likes."""
    return Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()


def _fixed(name: str, array: Array, tensor: Tensor, weight: int, members: int, n_items: int) -> Array:
    bits, width = _form(tensor)
    if array.shape != tensor.sized(n_items):
        raise Refused("guard.shape", f"{name} has another shape than the plan declares", "Look at the model")
    if not 0 <= weight <= 10**9:
        raise Refused("sum.range", "the weight is larger than 10^9", "Use a plain mean")
    steps = np.rint(array.astype(np.float64) * (float(weight) * 2.0**bits))
    most = (2 ** (width - 1) - 1) // members
    if steps.size and not np.abs(steps).max() <= most:
        reason = f"{name} holds a number that {members} sites cannot add in {width} bits with {bits} behind the point"
        raise Refused("sum.range", reason, f"Submit with fixed={{'{name}': (fewer bits, {width} or more)}}")
    found: Array = steps.astype(f"int{width}").view(f"uint{width}")
    return found


def _form(tensor: Tensor) -> tuple[int, int]:
    assert tensor.fixed is not None  # excludes.py
    return tensor.fixed


def _kind(tensor: Tensor) -> np.dtype[Any]:
    return np.dtype(f"uint{_form(tensor)[1]}")
