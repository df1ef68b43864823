"""What the objects of a pickle become: stand-ins of ours, which hold what the file says and can do nothing.

`editor.pickles` makes them. Arrays and tensors stay in the file until their `read()`; what they are read into is held to twice the
file's size (`Reader.spend`). None is compared, hashed or printed by what the file built.
"""

import math
import reprlib

import numpy as np

MOST_MODULES = 2000  # of one network; the largest official ones have some 150

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def shown(value, most=90):
    """A value or text from a file, short and without control characters, for an error message."""
    text = value[: most + 1] if isinstance(value, str) else _SHORT.repr(value)
    text = repr(text)[1:-1] if isinstance(value, str) else text
    return text if len(text) <= most else text[: most - 3] + "..."


class StandIn:
    """What all of them are; said in a message, one shows its kind and nothing of the file."""

    __slots__ = ()

    def __repr__(self):
        return f"<{type(self).__name__}>"


class Stub(StandIn):
    """An object that the toolkit has no use for, or reads itself; `state` is what the file gives it."""

    __slots__ = ("state",)

    def __init__(self, *_):
        self.state = {}


class Class(StandIn):
    """A name that the reader does not know, as a file's class: instances of it become Modules. It cannot be called."""

    __slots__ = ("name",)

    def __init__(self, name):
        self.name = name


class Module(StandIn):
    """An object of a class of others, mostly a network's module: the class's name, where it was defined, and its `__dict__`.

    `origin` is the class's full name, such as `training.networks.Generator`, or None for StyleGAN2-ADA-PyTorch's persistent classes,
    which bring their source along.
    """

    __slots__ = ("class_name", "origin", "state")

    def __init__(self, class_name, state, origin=None):
        self.class_name, self.state, self.origin = class_name, state, origin

    @classmethod
    def persistent(cls, meta):
        """From the dict that StyleGAN2-ADA-PyTorch's persistence.py writes."""
        if type(meta) is not dict or type(meta.get("class_name")) is not str:
            raise ValueError("a module without class name")
        return cls(meta["class_name"], meta.get("state"))

    @classmethod
    def instance(cls, known, *_):
        """A new object of an unknown class, without state; what the class's `__new__` would be given is left out."""
        if type(known) is not Class:
            raise ValueError(f"it makes an object of something that is no class: {shown(known)}")
        return cls(known.name.rpartition(".")[2], None, known.name)

    def parts(self):
        """[(full name with a dot at its end, Module)] of this module, whose name is empty, and of all inside it."""
        found, left = [], [("", self)]
        while left:
            prefix, module = left.pop()
            if not isinstance(module, Module) or not isinstance(module.state, dict) or len(prefix) > 200:
                raise ValueError(f"the module {shown(prefix)} is something else, or nested too deep")
            found.append((prefix, module))
            left += [(f"{prefix}{name}.", child) for name, child in (module.state.get("_modules") or {}).items() if child is not None]
            if len(found) + len(left) > MOST_MODULES:  # a module may hold itself
                raise ValueError(f"more than {MOST_MODULES:,} modules")
        return found


class DType(StandIn):
    """numpy.dtype: only plain numbers."""

    __slots__ = ("code", "order")

    def __init__(self, code="", *_):
        if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise ValueError(f"an array of type {shown(code)}, not numbers")
        self.code, self.order = code, "<"

    def numpy(self):
        return np.dtype(self.order + self.code)


class Place(StandIn):
    """Bytes that stay in the file: `read()` gives them. Those of a text are in UTF-8 there, and mean Latin-1."""

    __slots__ = ("reader", "start", "length", "text")

    def __init__(self, reader, start, length, text=False):
        self.reader, self.start, self.length, self.text = reader, start, length, text

    def read(self):
        self.reader.spend(read=self.length)
        with self.reader.open() as f:
            f.seek(self.start)
            raw = f.read(self.length)
        if not self.text:
            return raw
        if (
            np.frombuffer(raw, np.uint8).max(initial=0) > 0xC3
        ):  # beyond Latin-1, where one character may make all others four times as large
            raise ValueError("an array of objects")
        return raw.decode().encode("latin1")


class Array(StandIn):
    """numpy.ndarray: shape, type and bytes."""

    __slots__ = ("reader", "shape", "dtype", "fortran", "raw")

    def __init__(self, reader):
        self.reader, self.raw = reader, None

    def fill(self, shape, dtype, fortran, raw):
        if type(dtype) is not DType or type(raw) not in (bytes, str, Place):
            raise ValueError("an array of objects")
        self.shape, self.dtype, self.fortran, self.raw = _sizes(shape), dtype, fortran, raw
        return self

    def read(self):
        """np.ndarray, as it was saved."""
        if self.raw is None:
            raise ValueError("an array without numbers")
        self.reader.spend(4 * math.prod(self.shape))
        return np.frombuffer(as_bytes(self.raw), self.dtype.numpy()).reshape(self.shape, order="F" if self.fortran else "C")


class Kind(StandIn):
    """A type of storage: a name of STORAGES."""

    __slots__ = ("name",)

    def __init__(self, name):
        self.name = name


STORAGES = {"Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "bf2", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1",
            "Byte": "u1", "Bool": "b1"}  # fmt: skip


class Storage(StandIn):
    """The numbers of a PyTorch tensor, in a row: what to call to get their bytes, their type (a key of STORAGES) and count."""

    __slots__ = ("reader", "raw", "kind", "count", "uses")

    def __init__(self, reader, raw, kind, count):
        if type(kind) is not Kind or type(count) is not int or not 0 <= count < 1 << 48:
            raise ValueError("a storage without size, or of a number type that is not read (complex, quantised)")
        self.reader, self.raw, self.kind, self.count, self.uses = reader, raw, kind, count, 0

    @property
    def bytes(self):
        return self.count * int(STORAGES[self.kind.name][-1])

    def read(self):
        """np.ndarray of one dimension. The last one that several tensors lie in is kept, so that it is not read for each of them."""
        kept, self.reader.whole.kept = self.reader.whole.kept, None
        numbers = kept[1] if kept and kept[0] is self else None
        del kept  # two storages are never held at once
        numbers = self._read() if numbers is None else numbers
        if self.uses > 1:
            self.reader.whole.kept = self, numbers
        return numbers

    def _read(self):
        code, raw = STORAGES[self.kind.name], self.raw()
        if len(raw) != self.bytes:
            raise ValueError(f"not enough data: a storage has {len(raw)} bytes where {self.bytes} are declared")
        if code == "bf2":  # the upper half of a float32
            halves = np.zeros((self.count, 2), "<u2")
            halves[:, 1] = np.frombuffer(raw, "<u2")
            return halves.view("<f4")[:, 0]
        return np.frombuffer(raw, "<" + code)


class Tensor(StandIn):
    """A PyTorch tensor: a window on its storage."""

    __slots__ = ("reader", "storage", "offset", "size", "stride")

    def __init__(self, reader, storage, offset, size, stride):
        if type(storage) is not Storage:
            raise ValueError("a tensor without storage")
        size, stride = _sizes(size), _sizes(stride)
        last = _sizes((offset,))[0] + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if min(size, default=1) > 0 and last >= storage.count:
            raise ValueError("a tensor larger than its storage")
        self.reader, self.storage, self.offset, self.size, self.stride = reader, storage, offset, size, stride
        storage.uses += 1

    def read(self):
        """np.ndarray. Strides may repeat numbers, as `expand` does; what that makes is charged as if each were in the file."""
        self.reader.spend(4 * math.prod(self.size))
        flat = self.storage.read()
        if 0 in self.size:
            return np.zeros(self.size, flat.dtype)
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.size, [s * flat.itemsize for s in self.stride], writeable=False)


class EasyDict(dict):
    """dnnlib's dict with attributes, without the attributes."""

    __slots__ = ()


class Function(StandIn):
    """What a file may call."""

    __slots__ = ("call",)

    def __init__(self, call):
        self.call = call


def _sizes(values):
    """A shape, stride or offset: up to eight whole numbers, none below 0, or ValueError."""
    if type(values) not in (tuple, list) or len(values) > 8 or any(type(n) is not int or not 0 <= n < 1 << 48 for n in values):
        raise ValueError(f"a shape or place of {shown(values)}")
    return tuple(values)


def as_bytes(raw):
    """The bytes of an array or storage: themselves, text of protocol 2, or still in the file."""
    raw = raw.read() if type(raw) is Place else raw
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if type(raw) is not bytes:
        raise ValueError("an array of objects")
    return raw


def plain(key):
    """A key of a dict or set; anything but text and numbers of 60 bits could take for ever to hash."""
    if key is not None and type(key) not in (str, bytes, bool) and not (type(key) is int and abs(key) < 1 << 60):
        raise ValueError(f"a dict or set with the key {shown(key)}; only text and numbers are expected")
    return key
