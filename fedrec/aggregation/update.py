"""What the centre gets from one site in one round."""

from __future__ import annotations

from dataclasses import dataclass

from fedrec.core.params import SharedParams


@dataclass(frozen=True, slots=True)
class SiteUpdate:
    """A site's contribution.

    Args:
        site: name in consortium.toml.
        weight: number of train rows behind it.
        tensors: the contribution itself.
    """

    site: str
    weight: float
    tensors: SharedParams
