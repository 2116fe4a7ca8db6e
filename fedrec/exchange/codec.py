"""Arrays in fewer bytes, with a stated error: float16, and eight bits a number with one scale a row.

A codec is a pure value. What it loses in one round is handed back as `rest` and added to the next round's
arrays (error feedback), so that the sum over rounds is right to one round's error.
Source of error feedback: Seide et al. 2014, 1-bit SGD, Interspeech; Karimireddy et al. 2019, ICML, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedrec.core.params import Array
from fedrec.errors import Refused, WrongInput

SCALES = "scale."  # prefix of the rows' scales in a message


class Codec(Protocol):
    """Arrays ↔ smaller arrays that travel in safetensors; arrays that are no float32 travel as they are."""

    def pack(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """What travels. Raises: Refused `codec.range` for a number that it cannot hold."""
        ...

    def unpack(self, packed: Mapping[str, Array]) -> dict[str, Array]:
        """The arrays again. Raises: Refused `codec.form` when they were not packed by this codec."""
        ...

    def error(self, array: Array) -> Array:
        """The largest absolute error for each number of a float32 array; broadcasts to its shape."""
        ...

    def size(self, array: Array) -> int:
        """Bytes of the array as it travels, without a header."""
        ...


@dataclass(frozen=True, slots=True)
class Float32:
    """Nothing is changed."""

    def pack(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return dict(arrays)

    def unpack(self, packed: Mapping[str, Array]) -> dict[str, Array]:
        return dict(packed)

    def error(self, array: Array) -> Array:
        return np.zeros_like(array)

    def size(self, array: Array) -> int:
        return array.nbytes


@dataclass(frozen=True, slots=True)
class Float16:
    """Half the bytes: 11 bits of precision, so 2^-11 of each number, or 2^-25 near zero; up to 65,504."""

    def pack(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        packed = {}
        for name, array in arrays.items():
            if array.dtype == np.float32 and not (np.abs(array) <= np.finfo(np.float16).max).all():
                raise Refused("codec.range", f"{name} holds a number that float16 cannot", "Use int8 or float32")
            packed[name] = array.astype(np.float16) if array.dtype == np.float32 else array
        return packed

    def unpack(self, packed: Mapping[str, Array]) -> dict[str, Array]:
        return {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in packed.items()}

    def error(self, array: Array) -> Array:
        found: Array = np.maximum(np.abs(array) * 2.0**-11, 2.0**-25)
        return found

    def size(self, array: Array) -> int:
        return array.nbytes // 2 if array.dtype == np.float32 else array.nbytes


@dataclass(frozen=True, slots=True)
class Int8:
    """A quarter of the bytes: each row as whole numbers from -127 to 127 times the row's own scale.

    The scale is the row's largest absolute number / 127, and the error half of it. A vector is one row; of an
    array with more axes, every vector along the last one.
    """

    def pack(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        packed = {}
        for name, array in arrays.items():
            if array.dtype != np.float32:
                packed[name] = array
                continue
            scale = _scale(array)
            if not np.isfinite(scale).all():
                raise Refused("codec.range", f"{name} holds a number that is not finite", "Look at the model")
            steps = np.divide(array, scale, where=scale > 0, out=np.zeros(array.shape, np.float64))
            packed[name] = np.clip(np.rint(steps), -127, 127).astype(np.int8)
            packed[SCALES + name] = scale
        return packed

    def unpack(self, packed: Mapping[str, Array]) -> dict[str, Array]:
        found = {}
        for name, array in packed.items():
            if name.startswith(SCALES):
                continue
            if array.dtype != np.int8:
                found[name] = array
                continue
            scale = packed.get(SCALES + name)
            if scale is None or scale.dtype != np.float32 or scale.shape != _rows(array):
                raise Refused("codec.form", f"{name} has no scale for each of its rows", "Send it again")
            found[name] = (array * scale.astype(np.float64)).astype(np.float32)
        return found

    def error(self, array: Array) -> Array:
        # half a step, the rounding of scale and product to float32, and a scale too small for a float32
        found: Array = (0.5 + 127 * 2.0**-22) * _scale(array).astype(np.float64) + 127 * 2.0**-149
        return found

    def size(self, array: Array) -> int:
        return array.size + 4 * int(np.prod(_rows(array))) if array.dtype == np.float32 else array.nbytes


CODECS: dict[str, Codec] = {"float32": Float32(), "float16": Float16(), "int8": Int8()}


def codec_of(name: str) -> Codec:
    """The codec of this name. Raises: WrongInput when there is none."""
    if name not in CODECS:
        raise WrongInput(f"unknown codec {name!r}; one of {', '.join(CODECS)}")
    return CODECS[name]


def pack_with_feedback(
    codec: Codec, arrays: Mapping[str, Array], rest: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(what travels, the next rest) for gradients or what parameters moved; not for parameters themselves.

    Args:
        rest: what the round before could not send; empty in round 0.

    Raises:
        Refused: as `Codec.pack`.
    """
    wanted = {name: a + rest[name] if name in rest else a for name, a in arrays.items()}
    packed = codec.pack(wanted)
    got = codec.unpack(packed)
    return packed, {name: a - got[name] for name, a in wanted.items() if a.dtype == np.float32}


def pack_update(
    codec: Codec, update: Mapping[str, Array], base: Mapping[str, Array] | None, rest: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(what travels, the next rest) of an update: a gradient itself, of parameters what they moved.

    Args:
        base: the model that parameters were trained from; None for a gradient.

    Raises:
        Refused: `codec.form` when the base holds other arrays, and as `Codec.pack`.
    """
    if base is not None:
        _check_same(update, base)
        update = {name: (array - base[name]).astype(array.dtype) for name, array in update.items()}
    return pack_with_feedback(codec, update, rest)


def unpack_update(codec: Codec, packed: Mapping[str, Array], base: Mapping[str, Array] | None) -> dict[str, Array]:
    """The update that `pack_update` packed, to one round's error. Raises: Refused `codec.form`."""
    update = codec.unpack(packed)
    if base is None:
        return update
    _check_same(update, base)
    return {name: (base[name] + array).astype(array.dtype) for name, array in update.items()}


def _check_same(update: Mapping[str, Array], base: Mapping[str, Array]) -> None:
    if any(name not in base or base[name].shape != array.shape for name, array in update.items()):
        raise Refused("codec.form", "the update has other arrays than the model it was trained from", "Send it again")


def _rows(array: Array) -> tuple[int, ...]:
    return (*array.shape[:-1], 1) if array.ndim else ()


def _scale(array: Array) -> Array:
    """One float32 a row, so that 127 of them reach its largest number."""
    if not array.size:
        return np.zeros(_rows(array), np.float32)
    largest = np.abs(array).max(axis=-1, keepdims=True) if array.ndim else np.abs(array)
    return (largest.astype(np.float64) / 127).astype(np.float32)
