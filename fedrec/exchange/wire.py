"""Parameters as bytes: safetensors, never pickle, one byte string for one set of parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedrec.core.params import Array
from fedrec.errors import Refused

MAX_TENSORS = 256


def encode(tensors: Mapping[str, Array]) -> bytes:
    """The tensors as safetensors; the same tensors give the same bytes in whatever order they come."""
    return save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})


def decode(data: bytes) -> dict[str, Array]:
    """The tensors in `data`.

    Raises:
        Refused: `wire.format` when the bytes are not safetensors or hold more than 256 tensors.
    """
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Refused(
            "wire.format", f"the tensors are not safetensors ({type(error).__name__})", "Send them again"
        ) from None
    if len(tensors) > MAX_TENSORS:
        raise Refused("wire.format", f"more than {MAX_TENSORS} tensors", "Send fewer")
    return dict(tensors)


def sha256(data: bytes) -> str:
    """SHA-256 of `data`; 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest(tensors: Mapping[str, Array]) -> str:
    """SHA-256 of the encoded tensors: the name of a model or an update."""
    return sha256(encode(tensors))


def canonical(value: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no spaces: what is signed and hashed. Floats are not allowed in it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
