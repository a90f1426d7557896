"""How the kernel's functions are compiled, and how they look at a part of an array.

numba has no types for mypy; the decorators here say that a function stays what it is.
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
"""With a float64 constant a loop would compute in float64, half as many numbers at once."""

_cgutils, _arrayobj = cast(Any, untyped_cgutils), cast(Any, untyped_arrayobj)
_LEAN: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}


def compiled(function: _F) -> _F:
    """Compiled when called from compiled code; sums may be reordered, products contracted."""
    return cast(_F, njit(fastmath=True, **_LEAN)(function))


def inlined(function: _F) -> _F:
    """Compiled as a part of its caller: tuples of arrays that are passed on are copied by value."""
    return cast(_F, njit(fastmath=True, forceinline=True, **_LEAN)(function))


def rounded(function: _F) -> _F:
    """The same, but each operation is rounded as it stands."""
    return cast(_F, njit(**_LEAN)(function))


def entry(function: _F) -> _F:
    """What Python calls: without the global interpreter lock, and kept on disk if that is possible.

    numba refuses at once where it may not write, neither beside the source nor in the user's cache.
    """
    how = {"fastmath": True, "nogil": True, **_LEAN}
    try:
        return cast(_F, njit(cache=True, **how)(function))
    except RuntimeError:
        return cast(_F, njit(**how)(function))


def sources() -> int:
    """What every entry must enclose: numba's cache looks for changes in an entry's own file only,
    and at what it encloses."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return zlib.crc32(b"".join(file.read_bytes() for file in files))


def call(entry: Callable[..., Any], *arguments: Any) -> None:
    """Call an entry; where it was compiled and a full disk cannot keep it, it is ready by then."""
    try:
        entry(*arguments)
    except OSError:
        entry(*arguments)


# --- arrays without an owner
#
# numba counts the references to an array whenever a slice is taken or an array is got from a tuple.
# Such a count is an atomic operation, and small views have little else to do.
# What is looked at here must be held by the caller of the entry.


def _part(typing_context: Any, array: Any, start: Any, length: Any) -> Any:
    """array[start : start + length] of a contiguous array with one axis, without any check.

    The compiler does not see through the treatment of negative indices in a slice, and then does
    not use vector instructions.
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
    """The same tuple; its arrays have no owner."""

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
