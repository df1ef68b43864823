"""The restricted unpickler: a stand-in of ours for each name that an official file needs, and nothing else."""

import io
import pickle
import pickletools
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np

# ---------------------------------------------------------------------------------------------------------------------
# The restricted unpickler: a stand-in of ours for each name that an official file needs


class _Sealed(type):
    def __setattr__(cls, name, value):
        raise ValueError("the file tries to change a class")


class Stub(metaclass=_Sealed):
    """An object of a class that we do not import; `state` is what the file gives it."""

    __slots__ = ("state",)

    def __init__(self, *args):
        self.state = {}

    def __setstate__(self, state):
        self.state = state


class EasyDict(dict, metaclass=_Sealed):
    """dnnlib's dict with attributes, without the attributes."""

    __slots__ = ()

    def __setstate__(self, state):
        if state:
            raise ValueError("an EasyDict with attributes")


class DType(Stub):
    """numpy.dtype: only plain numbers."""

    __slots__ = ("code", "order")

    def __init__(self, code="", *_):
        if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise ValueError(f"an array of type {code!r}, not numbers")
        self.code, self.order = code, "<"

    def __setstate__(self, state):
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self):
        return np.dtype(self.order + self.code)


class _Fixed:
    """What a file may use and may not change."""

    __slots__ = ()

    def __setstate__(self, state):
        raise ValueError(f"the file tries to change a {type(self).__name__}")


class Later(_Fixed):
    """A value that stays in the file until `read()`: a checkpoint holds up to three networks, and one is wanted at a time."""

    __slots__ = ("read",)

    def __init__(self, read):
        self.read = read


class Array(Stub):
    """numpy.ndarray: shape, type and bytes."""

    __slots__ = ()

    def __setstate__(self, state):
        _, _, dtype, _, raw = state
        if type(dtype) is not DType or type(raw) not in (bytes, str, Later):
            raise ValueError("an array of objects")
        self.state = state

    def read(self):
        _, shape, dtype, fortran, raw = self.state
        return np.frombuffer(_bytes(raw), dtype.numpy()).reshape(shape, order="F" if fortran else "C")


class Function(_Fixed):
    """A callable that the file may call."""

    __slots__ = ("call",)

    def __init__(self, call):
        self.call = call

    def __call__(self, *args):
        return self.call(*args)


class Module(_Fixed):
    """A module of StyleGAN2-ADA-PyTorch: its class name and its `__dict__`."""

    __slots__ = ("class_name", "state")

    def __init__(self, meta):
        self.class_name, self.state = meta["class_name"], meta["state"]


def _bytes(raw):
    """The bytes of an array or storage: themselves, text of protocol 2, or still in the file."""
    raw = raw.read() if type(raw) is Later else raw
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if type(raw) is not bytes:
        raise ValueError("an array of objects")
    return raw


def _scalar(dtype, raw):
    return np.frombuffer(_bytes(raw), dtype.numpy())[0].item()


def _encode(text, encoding):
    if encoding != "latin1" or type(text) is not str:
        raise ValueError("an encoding other than latin1")
    return text.encode("latin1")


def _storage(raw):
    def read():
        import torch

        storage = torch.load(io.BytesIO(_bytes(raw)), weights_only=True, map_location="cpu")
        if not isinstance(storage, (torch.storage.TypedStorage, torch.UntypedStorage)):
            raise ValueError("what should be a tensor's storage is something else")
        return storage

    return Later(read)


def _tensor(storage, offset, size, stride, *_):
    def read():
        import torch

        values = storage.read()
        flat = torch.tensor([], dtype=values.dtype).set_(values)
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if min(size, default=1) > 0 and not 0 <= last < len(flat) or min(stride, default=0) < 0:
            raise ValueError("a tensor larger than its storage")
        return flat.as_strided(size, stride, offset)

    if type(storage) is not Later:
        raise ValueError("a tensor without storage")
    return Later(read)


def _names():
    names = {
        "dnnlib.tflib.network.Network": Stub,
        "dnnlib.util.EasyDict": EasyDict,
        "collections.OrderedDict": OrderedDict,
        "builtins.set": Function(set),  # a PyTorch module's names of buffers that are not saved, in pickles of protocol 3 and below
        "numpy.ndarray": Array,
        "numpy.dtype": DType,
        "_codecs.encode": Function(_encode),
        "torch_utils.persistence._reconstruct_persistent_obj": Function(Module),
        "torch._utils._rebuild_parameter": Function(lambda data, *_: data),
        "torch._utils._rebuild_tensor_v2": Function(_tensor),
        "torch.storage._load_from_bytes": Function(_storage),
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[f"{core}._reconstruct"] = Function(lambda *_: Array())
        names[f"{core}.scalar"] = Function(_scalar)
    return names


LONG = 1024  # bytes; a longer string stays in the file until its network is wanted


class Reader(pickle.Unpickler):
    """An unpickler that knows `_names()` and nothing else; arrays and tensors are left in the file until their `read()`."""

    def __init__(self, path):
        super().__init__(self._skeleton(path), encoding="latin1")
        self.names, self.path = _names(), path

    @staticmethod
    def _skeleton(path):
        """The pickle with references (place, length) instead of its long byte strings, so that little is held at a time.

        A memo index sizes a table before anything else is looked at, so that is checked here.
        """
        size, kept, begin = Path(path).stat().st_size, io.BytesIO(), 0
        with open(path, "rb") as f, open(path, "rb") as again:
            for op, argument, start in pickletools.genops(f):
                long = op.name in ("BINBYTES", "BINBYTES8") and len(argument) >= LONG
                if "PUT" in op.name and int(argument) > size:
                    raise ValueError("a memo index past the end of the file")
                if "PERSID" in op.name:
                    raise ValueError("it refers to objects outside the file")
                if long or op.name == "FRAME":  # frames would have other lengths now; they are optional
                    again.seek(begin)
                    kept.write(again.read(start - begin))
                    begin = f.tell()
                if long:  # LONG1, LONG1, TUPLE2, BINPERSID
                    kept.write(struct.pack("<2sq2sq2s", b"\x8a\x08", begin - len(argument), b"\x8a\x08", len(argument), b"\x86Q"))
            again.seek(begin)
            kept.write(again.read(f.tell() - begin))
        kept.seek(0)
        return kept

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.names:
            raise ValueError(f"it names {module}.{name}, which no StyleGAN1 or StyleGAN2 file needs; nothing of it was run")
        return self.names[f"{module}.{name}"]

    def persistent_load(self, pid):
        start, length = pid

        def read():
            with open(self.path, "rb") as f:
                f.seek(start)
                return f.read(length)

        return Later(read)


def read_pt(path):
    """A PyTorch file of plain data and tensors, in the zip format or the one before it; other names are refused as by `Reader`."""
    import torch

    with open(path, "rb") as f:
        zipped = f.read(2) == b"PK"
    with torch.serialization.safe_globals([(Stub, "argparse.Namespace")]):  # rosinality's training flags, of no use here
        return torch.load(path, weights_only=True, map_location="cpu", mmap=zipped)
