"""Pickles and PyTorch files of others, read without running anything that they name.

A pickle is a small program. `Reader` runs it on its own stack: a stand-in of ours for each name that a StyleGAN file needs, and
nothing else. No object of a file is a Python class, is hashed before it is known to be plain, or is compared or printed whole.
Arrays and tensors stay in the file until their `read()`, and all that is read together is held to a small multiple of the file's
size: a kilobyte never becomes gigabytes.
"""

import io
import math
import os
import pickletools
import reprlib
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

LONG = 1024  # bytes; a longer byte string stays in the file until its network is wanted
MOST_MODULES = 2000  # of one network; the largest official ones have some 150
MOST_STEPS = 250_000  # of the pickle's program; the largest official files take some 50,000
ALLOWANCE = 8  # how many times the file's size may be read from it and made of it; float16, read and made float32, takes 3
FREE = 4 << 20  # bytes that any file may take beside that

LEGACY_PT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how PyTorch's files of before 2020 begin: a pickled magic number

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def shown(value, most=90):
    """A value or text from a file, short and without control characters, for an error message."""
    text = value[: most + 1] if isinstance(value, str) else _SHORT.repr(value)
    text = repr(text)[1:-1] if isinstance(value, str) else text
    return text if len(text) <= most else text[: most - 3] + "..."


# ---------------------------------------------------------------------------------------------------------------------
# Stand-ins for the objects of a file


class Stub:
    """An object of a class that we do not import; `state` is what the file gives it."""

    __slots__ = ("state",)

    def __init__(self, *_):
        self.state = {}


class Module:
    """A module of StyleGAN2-ADA-PyTorch: its class name and its `__dict__`."""

    __slots__ = ("class_name", "state")

    def __init__(self, meta):
        if not isinstance(meta, dict) or type(meta.get("class_name")) is not str:
            raise ValueError("a module without class name")
        self.class_name, self.state = meta["class_name"], meta.get("state")

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


class DType:
    """numpy.dtype: only plain numbers."""

    __slots__ = ("code", "order")

    def __init__(self, code="", *_):
        if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise ValueError(f"an array of type {shown(code)}, not numbers")
        self.code, self.order = code, "<"

    def numpy(self):
        return np.dtype(self.order + self.code)


class Place:
    """Bytes that stay in the file: `read()` gives them, and takes them off what the file may still cost."""

    __slots__ = ("reader", "start", "length")

    def __init__(self, reader, start, length):
        self.reader, self.start, self.length = reader, start, length

    def read(self):
        self.reader.spend(self.length)
        with self.reader.open() as f:
            f.seek(self.start)
            return f.read(self.length)


class Array:
    """numpy.ndarray: shape, type and bytes."""

    __slots__ = ("reader", "shape", "dtype", "fortran", "raw")

    def __init__(self, reader):
        self.reader, self.raw = reader, b""

    def fill(self, shape, dtype, fortran, raw):
        if type(dtype) is not DType or type(raw) not in (bytes, str, Place):
            raise ValueError("an array of objects")
        self.shape, self.dtype, self.fortran, self.raw = _sizes(shape), dtype, fortran, raw
        return self

    def read(self):
        """np.ndarray, as it was saved."""
        if self.raw == b"":
            raise ValueError("an array without numbers")
        self.reader.spend(4 * math.prod(self.shape))
        return np.frombuffer(_bytes(self.raw), self.dtype.numpy()).reshape(self.shape, order="F" if self.fortran else "C")


class Storage:
    """The numbers of a PyTorch tensor, in a row: what to call to get their bytes, their type (a key of STORAGES) and count."""

    __slots__ = ("raw", "kind", "count")

    def __init__(self, raw, kind, count):
        if type(kind) is not Kind or type(count) is not int or count < 0:
            raise ValueError("a storage without type or size")
        self.raw, self.kind, self.count = raw, kind, count

    @property
    def bytes(self):
        return self.count * int(STORAGES[self.kind.name][-1])

    def read(self):
        """np.ndarray of one dimension."""
        code, raw = STORAGES[self.kind.name], self.raw()
        if len(raw) != self.bytes:
            raise ValueError(f"not enough data: a storage has {len(raw)} bytes where {self.bytes} are declared")
        if code == "bf2":  # the upper half of a float32
            return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        return np.frombuffer(raw, "<" + code)


class Tensor:
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

    def read(self):
        """np.ndarray. A stride of 0 repeats numbers, as `expand` does; what that makes is charged as if it were in the file."""
        self.reader.spend(4 * math.prod(self.size))
        flat = self.storage.read()
        if 0 in self.size:
            return np.zeros(self.size, flat.dtype)
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.size, [s * flat.itemsize for s in self.stride], writeable=False)


class Kind:
    """A type of storage: a name of STORAGES."""

    __slots__ = ("name",)

    def __init__(self, name):
        self.name = name


STORAGES = {"Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "bf2", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1",
            "Byte": "u1", "Bool": "b1"}  # fmt: skip


class EasyDict(dict):
    """dnnlib's dict with attributes, without the attributes."""

    __slots__ = ()


class Function:
    """What a file may call."""

    __slots__ = ("call",)

    def __init__(self, call):
        self.call = call


def _sizes(values):
    """A shape, stride or offset: up to eight whole numbers, none below 0, or ValueError."""
    if type(values) not in (tuple, list) or len(values) > 8 or any(type(n) is not int or not 0 <= n < 1 << 48 for n in values):
        raise ValueError(f"a shape or place of {shown(values)}")
    return tuple(values)


def _bytes(raw):
    """The bytes of an array or storage: themselves, text of protocol 2, or still in the file."""
    raw = raw.read() if type(raw) is Place else raw
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if type(raw) is not bytes:
        raise ValueError("an array of objects")
    return raw


def _plain(key):
    """A key of a dict or set; anything but text and numbers of 60 bits could take for ever to hash."""
    if key is not None and type(key) not in (str, bytes, bool) and not (type(key) is int and abs(key) < 1 << 60):
        raise ValueError(f"a dict or set with the key {shown(key)}; only text and numbers are expected")
    return key


# ---------------------------------------------------------------------------------------------------------------------
# The program of a pickle


class _Bounded(io.BufferedReader):
    """A file that refuses to be asked for more than it has; pickletools would ask the system for that memory first."""

    def read(self, count=-1):
        if count > os.fstat(self.fileno()).st_size:
            raise ValueError("not enough data in stream: it declares more than the file has")
        return super().read(count)


class Reader:
    """Runs a pickle: `load()` gives the object that it describes.

    Args:
        path: the file.
        start: where in it the pickle begins, in bytes.
        program: the pickle itself, bytes, where it does not lie in the file as it is.
        parent: the Reader whose allowance this one uses, for a pickle inside another file.
    """

    def __init__(self, path, start=0, program=None, parent=None):
        self.path, self.start, self.program, self.parent = Path(path), start, program, parent
        self.left, self.steps = ALLOWANCE * self.path.stat().st_size + FREE, 0
        self.names, self.refer = _names(self), None  # refer: what "objects outside the pickle" are, or None

    def open(self):
        """The file, or what stands for it, where the pickle begins."""
        f = _Bounded(io.FileIO(self.path)) if self.program is None else io.BytesIO(self.program)
        f.seek(self.start)
        return f

    def spend(self, size):
        """Take `size` bytes off what this file may cost; ValueError when it is used up."""
        if self.parent:
            return self.parent.spend(size)
        self.left -= size
        if self.left < 0:
            raise ValueError("its tensors together are many times as large as the file")

    def load(self):
        """The object: dict, list, tuple, numbers, text and the stand-ins above.

        Raises:
            ValueError, IndexError, KeyError, TypeError: not a pickle of the formats that the toolkit knows.
        """
        with self.open() as f:
            return self.run(f)

    def run(self, f):
        """Run the pickle that begins where the file f stands, and leave f at its end."""
        self.stack, self.marks, self.memo = [], [], {}
        whole = self
        while whole.parent:
            whole = whole.parent
        for op, argument, _ in pickletools.genops(f):
            whole.steps += 1
            if whole.steps > MOST_STEPS:  # of all pickles in the file together
                raise ValueError(f"a pickle of more than {MOST_STEPS:,} steps")
            if type(argument) is bytes and len(argument) >= LONG:
                argument = Place(self, f.tell() - len(argument), len(argument))
            self._step(op.name, argument)
        return self.stack.pop()

    def _step(self, name, argument):
        if name in LITERALS:
            if type(argument) is int and argument.bit_length() > 128:
                raise ValueError("a number of more than 128 bits")
            if type(argument) is bytearray:
                argument = bytes(argument)
            self.stack.append(LITERALS[name] if argument is None else argument)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise ValueError(f"it takes {argument} from its memory, where nothing was put")
            self.stack.append(self.memo[argument])
        elif name not in STEPS:
            raise ValueError(f"a pickle with the step {name}, which no StyleGAN file needs")
        else:
            STEPS[name](self, argument)

    def _items(self):
        """What lies above the last mark, taken off with it."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _pop(self):
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def _last(self, count):
        """The last `count` items, taken off."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def _append(self, items):
        if type(self.stack[-1]) is not list:
            raise ValueError("it appends to something that is no list")
        self.stack[-1].extend(items)

    def _set(self, items):
        if not isinstance(self.stack[-1], dict):
            raise ValueError("it sets items of something that is no dict")
        self.stack[-1].update(_pairs(items))

    def _add(self, items):
        if type(self.stack[-1]) is not set:
            raise ValueError("it adds to something that is no set")
        self.stack[-1].update(map(_plain, items))

    def _name(self, module, name):
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        full = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        if full not in self.names:
            raise ValueError(f"it names {shown(full)}, which no StyleGAN file needs; nothing of it was run")
        self.stack.append(self.names[full])

    def _call(self, function, arguments):
        if type(function) is not Function or type(arguments) is not tuple or len(arguments) > 16:
            raise ValueError("it calls something that is no function, or with too much")
        self.stack.append(function.call(*arguments))

    def _build(self, state):
        """Give the object on the stack its state: as much as each kind needs."""
        target = self.stack[-1]
        if type(target) is Stub:
            target.state = state
        elif type(target) is DType:
            target.order = ">" if state[1] == ">" else "<"
        elif type(target) is Array:
            target.fill(*state[1:])
        elif type(target) is OrderedDict:  # a state_dict() has the versions of its modules as an attribute, which is left out
            pass
        elif state or not isinstance(target, dict):
            raise ValueError(f"the file tries to change a {type(target).__name__}")

    def _refer(self, name):
        if not self.refer:
            raise ValueError("it refers to objects outside the file")
        self.stack.append(self.refer(name))


def _pairs(items):
    """key, value, key, value, ... -> pairs."""
    return list(zip(map(_plain, items[::2]), items[1::2], strict=True))


LITERALS = dict.fromkeys(["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
                          "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
                          "BINBYTES8", "BYTEARRAY8", "NONE"]) | {"NEWTRUE": True, "NEWFALSE": False}  # fmt: skip
STEPS = {  # a step of the program -> what it does to the reader, with its argument
    "PROTO": lambda r, a: None,
    "FRAME": lambda r, a: None,
    "STOP": lambda r, a: None,
    "MARK": lambda r, a: r.marks.append(len(r.stack)),
    "POP": lambda r, a: r._pop(),
    "POP_MARK": lambda r, a: r._items(),
    "DUP": lambda r, a: r.stack.append(r.stack[-1]),
    "MEMOIZE": lambda r, a: r.memo.update({len(r.memo): r.stack[-1]}),
    "EMPTY_LIST": lambda r, a: r.stack.append([]),
    "EMPTY_TUPLE": lambda r, a: r.stack.append(()),
    "EMPTY_DICT": lambda r, a: r.stack.append({}),
    "EMPTY_SET": lambda r, a: r.stack.append(set()),
    "LIST": lambda r, a: r.stack.append(r._items()),
    "TUPLE": lambda r, a: r.stack.append(tuple(r._items())),
    "TUPLE1": lambda r, a: r.stack.append(tuple(r._last(1))),
    "TUPLE2": lambda r, a: r.stack.append(tuple(r._last(2))),
    "TUPLE3": lambda r, a: r.stack.append(tuple(r._last(3))),
    "DICT": lambda r, a: r.stack.append(dict(_pairs(r._items()))),
    "APPEND": lambda r, a: r._append(r._last(1)),
    "APPENDS": lambda r, a: r._append(r._items()),
    "SETITEM": lambda r, a: r._set(r._last(2)),
    "SETITEMS": lambda r, a: r._set(r._items()),
    "ADDITEMS": lambda r, a: r._add(r._items()),
    "GLOBAL": lambda r, a: r._name(*a.rsplit(" ", 1)),
    "STACK_GLOBAL": lambda r, a: r._name(*r._last(2)),
    "REDUCE": lambda r, a: r._call(*r._last(2)),
    "NEWOBJ": lambda r, a: r._call(*r._last(2)),
    "BUILD": lambda r, a: r._build(r.stack.pop()),
    "BINPERSID": lambda r, a: r._refer(r.stack.pop()),
}


# ---------------------------------------------------------------------------------------------------------------------
# The names that a file may use


def _names(reader):
    """{name in a file: its stand-in}."""

    def text(value, encoding):
        if encoding != "latin1" or type(value) is not str:
            raise ValueError("an encoding other than latin1")
        reader.spend(len(value))
        return value.encode("latin1")

    def collection(kind):
        def make(values=()):
            reader.spend(100 * len(values))
            return kind(map(_plain, values)) if kind is set else kind((_plain(key), value) for key, value in values)

        return make

    def scalar(dtype, raw):
        if type(raw) is Place or len(raw) > 64:
            raise ValueError("a number of more than 64 bytes")
        return np.frombuffer(_bytes(raw), dtype.numpy())[0].item()

    def from_buffer(raw, dtype, shape, order):
        return Array(reader).fill(shape, dtype, order == "F", raw)

    def tensor(storage, offset, size, stride, *_):
        return Tensor(reader, storage, offset, size, stride)

    def storage(raw):  # a PyTorch file in the format before zip, which holds a storage alone
        where = (raw.start, raw.reader.program, raw.length) if type(raw) is Place else (0, raw, len(raw))
        reader.spend(where[2])
        return _legacy(Reader(reader.path, *where[:2], reader))

    known = {
        "dnnlib.tflib.network.Network": Stub,
        "dnnlib.util.EasyDict": lambda: EasyDict(),
        "collections.OrderedDict": collection(OrderedDict),
        "builtins.set": collection(set),  # a module's names of buffers that are not saved, in pickles of protocol 3 and below
        "numpy.ndarray": Stub,
        "numpy.dtype": DType,
        "_codecs.encode": text,
        "torch_utils.persistence._reconstruct_persistent_obj": Module,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch.storage._load_from_bytes": storage,
        "torch.Size": lambda values: values,
    }
    for core in ("numpy.core", "numpy._core"):
        known |= {f"{core}.multiarray._reconstruct": lambda *_: Array(reader), f"{core}.multiarray.scalar": scalar,
                  f"{core}.numeric._frombuffer": from_buffer}  # fmt: skip
    unused = ("argparse.Namespace", "torch.device", "pathlib.PosixPath", "pathlib.WindowsPath")  # the flags of a training
    known |= {name: Stub for name in unused}
    return {name: Function(call) for name, call in known.items()} | {f"torch.{name}Storage": Kind(name) for name in STORAGES}


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch's files


def read_pt(path):
    """A PyTorch file, in the zip format or the one before it -> its object; names that are not known are refused, as by `Reader`.

    Raises:
        ValueError, ...: as `Reader.load`.
    """
    with open(path, "rb") as f:
        zipped = f.read(2) == b"PK"
    return _zipped(path) if zipped else _legacy(Reader(path))


def _zipped(path):
    """A zip archive: the pickle data.pkl, and a record data/NAME for each storage."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"not enough data: {error}") from None
    records, whole = {info.filename: info for info in archive.infolist()}, Reader(path)
    pickle = [name for name in records if name.rpartition("/")[2] == "data.pkl"]
    if len(pickle) != 1 or len(records) != len(archive.infolist()):
        raise ValueError("a zip archive, but none that PyTorch writes: it needs one data.pkl, and no name twice")
    folder = pickle[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in records:
        raise ValueError("a TorchScript archive, which holds a program; save the network's state_dict() instead")

    def record(name):
        info = records.get(folder + name)
        if info is None:
            raise ValueError(f"not enough data: the record {shown(name)} is missing")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise ValueError(f"the record {shown(name)} is encrypted, or compressed in a way that PyTorch does not know")
        whole.spend(info.file_size)
        return archive.read(info)  # checks its checksum; what a zip tool has deflated since is read right

    def refer(pid):
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or type(pid[2]) is not str:
            raise ValueError("a reference to something that is no storage")
        return Storage(lambda: record(f"data/{pid[2]}"), pid[1], pid[4])

    if folder + "byteorder" in records and record("byteorder") != b"little":
        raise ValueError("a file of a big-endian machine")
    reader = Reader(path, program=record("data.pkl"), parent=whole)
    reader.refer = refer
    return reader.load()


def _legacy(reader):
    """The format before zip: pickles of a magic number, a version, the machine and the object; then the storages."""
    storages, places = {}, {}

    def refer(pid):
        if type(pid) is not tuple or len(pid) != 6 or pid[0] != "storage" or type(pid[2]) is not str or pid[5] is not None:
            raise ValueError("a reference to something that is no storage")
        if pid[2] not in storages:
            storages[pid[2]] = Storage(lambda: places[pid[2]].read(), pid[1], pid[4])
        return storages[pid[2]]

    with reader.open() as f:
        if f.read(len(LEGACY_PT)) != LEGACY_PT:
            raise ValueError("what should be a tensor's storage is something else")
        _, machine = reader.run(f), reader.run(f)
        if type(machine) is not dict or machine.get("little_endian") is not True:
            raise ValueError("a file of a big-endian machine")
        reader.refer = refer
        found, names = reader.run(f), reader.run(f)
        for name in names:
            if name not in storages:
                raise ValueError("a storage that nothing refers to")
            if f.read(8) != storages[name].count.to_bytes(8, "little"):
                raise ValueError(f"not enough data: the storage {shown(name)} is missing, or of another size than declared")
            places[name] = Place(reader, f.tell(), storages[name].bytes)
            f.seek(storages[name].bytes, 1)
        if storages.keys() != places.keys():
            raise ValueError("not enough data: some storages are missing")
    return found
