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
    """JSON as RFC 8785 has it: what is signed and hashed.

    Floats are written as Python does, not as the RFC does: nothing that others must be able to verify has one.
    """
    return json.dumps(_sorted(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _sorted(value: Any) -> Any:
    """The keys in the order of their UTF-16 code units, at every level."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value, key=lambda key: key.encode("utf-16-be"))}
    return [_sorted(one) for one in value] if isinstance(value, list | tuple) else value
