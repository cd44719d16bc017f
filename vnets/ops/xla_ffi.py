"""XLA's foreign function interface: a handler that is a function in Python.

The structures are those of the header xla/ffi/api/c_api.h, which
`jax.ffi.include_dir()` has.
"""

import _thread
import ctypes
from collections.abc import Callable

import jax

_Pointer = ctypes.c_void_p
_HEAD = [("struct_size", ctypes.c_size_t), ("extension", _Pointer)]


class _Buffer(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("dtype", ctypes.c_int),
        ("data", _Pointer),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    ]

    @property
    def key(self) -> tuple:
        return self.dtype, tuple(self.dims[: self.rank])


class _Buffers(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("size", ctypes.c_int64),
        ("types", _Pointer),
        ("items", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    ]


class _Array(ctypes.Structure):
    _fields_ = [
        ("dtype", ctypes.c_int),
        ("size", ctypes.c_size_t),
        ("data", ctypes.POINTER(ctypes.c_int64)),
    ]


class _Attributes(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("size", ctypes.c_int64),
        ("types", _Pointer),
        ("names", _Pointer),
        ("items", ctypes.POINTER(ctypes.POINTER(_Array))),
    ]


class _Frame(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("api", _Pointer),
        ("context", _Pointer),
        ("stage", ctypes.c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    ]


class _Version(ctypes.Structure):
    _fields_ = [*_HEAD, ("major", ctypes.c_int), ("minor", ctypes.c_int)]


class _Api(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("version", _Version),
        ("internal", _Pointer),
        ("error", ctypes.CFUNCTYPE(_Pointer, _Pointer)),
    ]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("version", _Version)]


class _MetadataExtension(ctypes.Structure):
    """By which XLA asks which version of the interface a handler was written for."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("next", _Pointer),
        ("metadata", ctypes.POINTER(_Metadata)),
    ]


class _ErrorMade(ctypes.Structure):
    _fields_ = [*_HEAD, ("message", ctypes.c_char_p), ("code", ctypes.c_int)]


# Fields are added at the ends of structures only, under the same first number.
_VERSION = (0, 3)
_INTERNAL = 13  # XLA's code of an error inside
_METADATA = 1  # the type of the extension
_CALLED = ctypes.CFUNCTYPE(_Pointer, ctypes.POINTER(_Frame))


def register(target: str, compute: Callable[..., None]):
    """Lets compiled functions call a function by `jax.ffi.ffi_call`, on a CPU.

    Args:
      target: the name that `ffi_call` is given.
      compute: of two arrays and a result, each a buffer with `key`, (type, shape), and
        the address `data`, and of the numbers of the attribute. What it raises becomes
        an error of the compiled function.

    Returns:
      The handler, which must live as long as the process.
    """

    @_CALLED
    def handler(pointer):
        frame = pointer.contents
        api = ctypes.cast(frame.api, ctypes.POINTER(_Api)).contents
        try:
            if frame.extension:
                asked = ctypes.cast(
                    frame.extension, ctypes.POINTER(_MetadataExtension)
                ).contents
                if asked.type == _METADATA:
                    _tell(asked.metadata.contents.version, api.version)
                    return None
            first, second = (frame.arguments.items[i].contents for i in range(2))
            numbers = frame.attributes.items[0].contents
            compute(
                *(first, second, frame.results.items[0].contents),
                tuple(numbers.data[: numbers.size]),
            )
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                _thread.interrupt_main()
            size, message = ctypes.sizeof(_ErrorMade), repr(error).encode()
            made = _ErrorMade(size, None, message, _INTERNAL)
            return api.error(ctypes.addressof(made))
        return None

    pointer = ctypes.cast(handler, ctypes.c_void_p).value
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p,) * 3
    jax.ffi.register_ffi_target(target, capsule(pointer, None, None), platform="cpu")
    return handler


def _tell(asked: _Version, theirs: _Version) -> None:
    major, least = _VERSION
    known = theirs.major == major and theirs.minor >= least
    asked.major, asked.minor = (major, theirs.minor) if known else _VERSION
