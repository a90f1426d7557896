"""Decorators that compile the kernel's functions, and slices of arrays without overhead.

numba has no types for mypy; the decorators here keep the type of a function.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit, types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic
from numba.np import arrayobj as untyped_arrayobj
from numpy.typing import NDArray

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
Floats = NDArray[np.float32]

ZERO, ONE, TWO, SIX = np.float32(0), np.float32(1), np.float32(2), np.float32(6)
"""Float32 constants: a float64 constant makes a loop compute in float64, which is half as fast."""

_cgutils, _arrayobj = cast(Any, untyped_cgutils), cast(Any, untyped_arrayobj)
_LEAN: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}


def compiled(function: _F) -> _F:
    """Compile for calls from compiled code; sums may be reordered, products contracted."""
    return cast(_F, njit(fastmath=True, **_LEAN)(function))


def inlined(function: _F) -> _F:
    """Compile as a part of the caller, because a call copies tuples of arrays by value."""
    return cast(_F, njit(fastmath=True, forceinline=True, **_LEAN)(function))


def rounded(function: _F) -> _F:
    """Compile like `compiled`, but with each operation rounded as written."""
    return cast(_F, njit(**_LEAN)(function))


def entry(function: _F) -> _F:
    """Compile for calls from Python, without the interpreter lock; cached on disk if possible.

    numba raises if it can write neither next to the source nor to the user's cache.
    """
    how = {"fastmath": True, "nogil": True, **_LEAN}
    try:
        return cast(_F, njit(cache=True, **how)(function))
    except RuntimeError:
        return cast(_F, njit(**how)(function))


def sources() -> int:
    """A checksum of all sources, which every entry must enclose: numba's cache checks only the
    entry's own file and the values that it encloses."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return zlib.crc32(b"".join(file.read_bytes() for file in files))


def call(entry: Callable[..., Any], *arguments: Any) -> None:
    """Call an entry; if a full disk prevents caching, the second call finds it compiled."""
    try:
        entry(*arguments)
    except OSError:
        entry(*arguments)


# --- arrays without an owner
#
# numba counts the references to an array whenever code takes a slice or gets an array from a tuple.
# Each count is an atomic operation, which is slow compared with the work on small views.
# The caller of the entry must hold the arrays that are used here.


def _part(typing_context: Any, array: Any, start: Any, length: Any) -> Any:
    """array[start : start + length] of a contiguous array with one axis, without any check.

    numba's own slices handle negative indices, which keeps the compiler from using vector
    instructions.
    """

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        source = _arrayobj.make_array(array)(context, builder, values[0])
        out = _arrayobj.make_array(array)(context, builder)
        _arrayobj.populate_array(
            out,
            data=builder.gep(source.data, [values[1]]),
            shape=_cgutils.pack_array(builder, [values[2]]),
            strides=_cgutils.pack_array(builder, [source.itemsize]),
            itemsize=source.itemsize,
            meminfo=None,
        )
        return out._getvalue()

    return array(array, types.intp, types.intp), build


def _borrowed(typing_context: Any, group: Any) -> Any:
    """The same tuple, with arrays that have no owner."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        members = zip(group, _cgutils.unpack_tuple(builder, values[0]), strict=True)
        lent = [_lend(context, builder, kind, member) for kind, member in members]
        return context.make_tuple(builder, group, lent)

    return group(group), build


def _lend(context: Any, builder: Any, kind: Any, member: Any) -> Any:
    if not isinstance(kind, types.Array):
        return member
    array = _arrayobj.make_array(kind)(context, builder, member)
    array.meminfo = array.parent = _cgutils.get_null_value(array.meminfo.type)
    return array._getvalue()


part = cast(Callable[[NDArray[Any], int, int], NDArray[Any]], intrinsic(_part))
borrowed = cast(Callable[[_T], _T], intrinsic(_borrowed))
