"""The encrypted updates of a plan with `[privacy] sum = "ckks"`, as they travel: ciphertexts, and a tag beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedrec.core.params import Array
from fedrec.errors import Refused
from fedrec.exchange import ckks, ckks_tag
from fedrec.exchange.ckks import Form, Layout

if TYPE_CHECKING:
    from fedrec.exchange.plan import PlanText

TAG, TAGS = "tag", "tags"  # arrays beside the ciphertexts: of one update; of a sum, in the order of its members
WEIGHT = Form((1,), 64, True)


def layout_of(plan: PlanText, n_items: int, sites: int) -> Layout:
    """The ring of an update of this plan; `sites` updates are added. Raises: Refused `ckks.sites`."""
    from fedrec.exchange.secure_sum import WEIGHT as NAME
    from fedrec.exchange.secure_sum import weighed

    forms = {}
    for name, one in plan.leaves.items():
        bits, width = one.fixed or (0, 64)
        forms[name] = Form(one.sized(n_items), width, bits == 0)
    return Layout({**forms, NAME: WEIGHT} if weighed(plan) else forms, sites)


def encrypted(ring: Mapping[str, Array], key: bytes, layout: Layout, context: bytes, site: str) -> dict[str, Array]:
    """What leaves the site. Raises: Refused `ckks.range`."""
    ciphers = ckks.encrypt(ring, key, layout)
    return {**ckks.pack(ciphers), TAG: ckks_tag.seal(ciphers, key, context, site)}


def added(messages: Sequence[Mapping[str, Array]], layout: Layout) -> dict[str, Array]:
    """What an institution is asked to decrypt: the sum, and the members' tags in their order.

    Raises:
        Refused: `ckks.form` when a message is no encrypted update of this plan.
    """
    tags = [_taken(message, TAG, (ckks_tag.SIZE,)) for message in messages]
    total = ckks.add([ckks.unpack(_rest(message, TAG), layout) for message in messages])
    return {**ckks.pack(total), TAGS: np.stack(tags)}


def decrypted(
    asked: Mapping[str, Array], key: bytes, layout: Layout, context: bytes, members: Sequence[str]
) -> dict[str, Array]:
    """The ring of the sum, if that is what was asked.

    Raises:
        Refused: `ckks.form`, `ckks.tag`, `ckks.sum`, `ckks.garbage`.
    """
    tags = _taken(asked, TAGS, (len(members), ckks_tag.SIZE))
    ciphers = ckks.unpack(_rest(asked, TAGS), layout)
    ckks_tag.check_sum(ciphers, dict(zip(members, tags, strict=True)), key, context)
    return ckks.decrypt(ciphers, key, layout)


def _taken(message: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    array = message.get(name)
    if array is None or array.shape != shape or array.dtype != np.uint8:
        raise Refused("ckks.form", "an encrypted update has no tag, or another form of one", "Leave it out")
    return array


def _rest(message: Mapping[str, Array], name: str) -> dict[str, Array]:
    return {key: array for key, array in message.items() if key != name}
