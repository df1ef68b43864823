"""Pickles and PyTorch files of others, read without running anything that they name.

A pickle is a small program. `Reader` runs it on its own stack: a stand-in of ours (`editor.stand_ins`) for each name that a StyleGAN
file needs, and a Class that cannot be called for every other. No object of a file is a Python class, is hashed before it is known
to be plain, or is compared or printed whole. Long texts and byte strings stay in the file until they are wanted, and what is made of
them is held to twice the file's size: a kilobyte never becomes gigabytes.
"""

import io
import pickletools
import sys
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np

from editor.stand_ins import (
    STORAGES,
    Array,
    Class,
    DType,
    EasyDict,
    Function,
    Kind,
    Module,
    Place,
    Storage,
    Stub,
    Tensor,
    as_bytes,
    plain,
    shown,
)

__all__ = ["Array", "Class", "Module", "Place", "Reader", "Stub", "Tensor", "read_pt", "shown"]

LONG = 1024  # bytes; a longer text or byte string stays in the file until its network is wanted
LINE = 10_000  # bytes of a name or number that a line holds
MOST_STEPS = 250_000  # of the pickle's program; the largest official files take some 50,000
MOST_KEYS = 20_000  # of a dict; each name is looked for in tables
MADE = 2  # how many times the file's size may be made of it; float16, made float32, takes 2
FREE = 32 << 20  # bytes that any file may take beside that
READ = 8  # how many times the file's size, and FREE, may be read: a storage may lie under several tensors
DIRECTORY = 4 << 20  # bytes of a zip archive's list of records; 2,000 tensors take 200,000

LEGACY_PT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how PyTorch's files of before 2020 begin: a pickled magic number


# ---------------------------------------------------------------------------------------------------------------------
# The program of a pickle


class _Bounded:
    """A file that refuses to be asked for more than it has, or than `most`: Python would ask the system for that memory first."""

    most = 1 << 62

    def read(self, count=-1):
        if count > self.most:
            raise ValueError("not enough data in stream: it declares more than the file has")
        return super().read(count)

    def readline(self, _=-1):
        line = super().readline(LINE + 1)
        if len(line) > LINE:
            raise ValueError(f"a line of more than {LINE:,} bytes")
        return line


class _File(_Bounded, io.BufferedReader):
    pass


class _Bytes(_Bounded, io.BytesIO):
    pass


class Reader:
    """Runs a pickle: `load()` gives the object that it describes.

    Args:
        path: the file.
        start: where in it the pickle begins, in bytes.
        program: the pickle itself, bytes, where it does not lie in the file as it is.
        parent: the Reader whose allowance this one uses, for a pickle inside another file.
    """

    def __init__(self, path, start=0, program=None, parent=None):
        self.path, self.start, self.program = Path(path), start, program
        self.whole, self.depth = (parent.whole, parent.depth + 1) if parent else (self, 0)
        size = self.path.stat().st_size
        self.size = size if program is None else len(program)
        self.made, self.left, self.steps, self.kept = MADE * size + FREE, READ * (size + FREE), 0, None
        self.names, self.refer = parent.names if parent else _names(self), None  # refer: what "objects outside the pickle" are, or None

    def open(self):
        """The file, or what stands for it, where the pickle begins."""
        f = _File(io.FileIO(self.path)) if self.program is None else _Bytes(self.program)
        f.most = self.size
        f.seek(self.start)
        return f

    def spend(self, made=0, read=0):
        """Take bytes that are made, or read to make them, off what this file may cost; ValueError when it is used up."""
        whole = self.whole
        whole.made, whole.left = whole.made - made, whole.left - read
        if whole.made < 0 or whole.left < 0:
            raise ValueError("its tensors together are many times as large as the file")

    def load(self):
        """The object: dict, list, tuple, numbers, text and the stand-ins.

        Raises:
            ValueError, IndexError, KeyError, TypeError: not a pickle of the formats that the toolkit knows.
        """
        with self.open() as f:
            return self.run(f)

    def run(self, f):
        """Run the pickle that begins where the file f stands, and leave f at its end."""
        self.stack, self.marks, self.memo = [], [], {}
        for name, argument in self._program(f):
            self.whole.steps += 1
            if self.whole.steps > MOST_STEPS:  # of all pickles in the file together
                raise ValueError(f"a pickle of more than {MOST_STEPS:,} steps")
            self._step(name, argument)
        found = self.stack.pop()
        self.stack = self.marks = self.memo = None  # nothing that the object does not need outlives the run
        return found

    def _program(self, f):
        """The steps [(name, argument)] from where f stands to the pickle's end; long texts and byte strings are passed over, as Places."""
        name = None
        while name != "STOP":
            code = f.read(1)
            step = CODES.get(code)
            if step is None:
                raise ValueError(f"a step {code!r} that no pickle has" if code else "pickle exhausted before its end")
            name, argument = step.name, None
            if name in LENGTHS:
                count = int.from_bytes(f.read(LENGTHS[name]), "little")
                if count > self.size - f.tell():
                    raise ValueError("not enough data in stream: it declares more than the file has")
                if count >= LONG:
                    argument = Place(self, f.tell(), count, "UNICODE" in name)
                    f.seek(count, 1)
                else:
                    argument = f.read(count)
                    argument = argument.decode(LENGTHS_OF_TEXT[name], "surrogatepass") if name in LENGTHS_OF_TEXT else argument
            elif step.arg is not None:
                argument = step.arg.reader(f)
            yield name, argument

    def _step(self, name, argument):
        if name in LITERALS:
            if type(argument) is int and argument.bit_length() > 128:
                raise ValueError("a number of more than 128 bits")
            if type(argument) in (str, bytes):
                self.spend(sys.getsizeof(argument))
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
        if len(self.stack[-1]) > MOST_KEYS:
            raise ValueError(f"a dict of more than {MOST_KEYS:,} keys")

    def _add(self, items):
        if type(self.stack[-1]) is not set:
            raise ValueError("it adds to something that is no set")
        self.stack[-1].update(map(plain, items))

    def _name(self, module, name):
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        full = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        full = full.replace("copy_reg.", "copyreg.", 1)
        if len(full) > 200:
            raise ValueError(f"it names {shown(full)}, which no StyleGAN file needs; nothing of it was run")
        self.stack.append(self.names[full] if full in self.names else Class(full))

    def _call(self, function, arguments):
        if type(function) is Class:
            raise ValueError(f"it names {shown(function.name)}, which no StyleGAN file needs; nothing of it was run")
        if type(function) is not Function or type(arguments) is not tuple or len(arguments) > 16:
            raise ValueError("it calls something that is no function, or with too much")
        self.stack.append(function.call(*arguments))

    def _new(self, made_of, arguments):
        """An object of a class: of one that is not known, a Module."""
        if type(made_of) is Class:
            self.stack.append(Module.instance(made_of))
        else:
            self._call(made_of, arguments)

    def _build(self, state):
        """Give the object on the stack its state: as much as each kind needs."""
        target = self.stack[-1]
        if type(target) is Stub or (type(target) is Module and target.state is None):
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
    if len(items) > 2 * MOST_KEYS:
        raise ValueError(f"a dict of more than {MOST_KEYS:,} keys")
    return list(zip(map(plain, items[::2]), items[1::2], strict=True))


LITERALS = dict.fromkeys(["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
                          "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
                          "BINBYTES8", "BYTEARRAY8", "NONE"]) | {"NEWTRUE": True, "NEWFALSE": False}  # fmt: skip
CODES = {step.code.encode("latin1"): step for step in pickletools.opcodes}
LENGTHS = {"BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8, "BINSTRING": 4, "BINUNICODE": 4, "BINUNICODE8": 8}  # bytes of a length
LENGTHS_OF_TEXT = {"BINSTRING": "latin1", "BINUNICODE": "utf-8", "BINUNICODE8": "utf-8"}
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
    "NEWOBJ": lambda r, a: r._new(*r._last(2)),
    "BUILD": lambda r, a: r._build(r.stack.pop()),
    "BINPERSID": lambda r, a: r._refer(r.stack.pop()),
}


# ---------------------------------------------------------------------------------------------------------------------
# The names that a file may use


def _names(reader):
    """{name in a file: its stand-in}."""
    unused = ("argparse.Namespace", "functools.partial", "torch.device", "pathlib.PosixPath", "pathlib.WindowsPath")  # of a training
    known = {name: Stub for name in unused} | _python(reader) | _numpy(reader) | _torch(reader)
    return {name: Function(call) for name, call in known.items()} | {f"torch.{name}Storage": Kind(name) for name in STORAGES}


def _python(reader):
    """What a file may call of Python, and of the projects that train StyleGANs."""

    def text(value, encoding):
        if encoding != "latin1" or not (type(value) is str or (type(value) is Place and value.text)):
            raise ValueError("an encoding other than latin1")
        if type(value) is Place:
            return value
        reader.spend(100 + len(value))
        return value.encode("latin1")

    def collection(kind):
        def make(values=()):
            reader.spend(100 * len(values))
            if len(values) > MOST_KEYS:
                raise ValueError(f"a dict or set of more than {MOST_KEYS:,} keys")
            return kind(map(plain, values)) if kind is set else kind((plain(key), value) for key, value in values)

        return make

    return {
        "collections.OrderedDict": collection(OrderedDict),
        "collections.defaultdict": lambda *_: {},
        "builtins.set": collection(set),  # a module's names of buffers that are not saved, in pickles of protocol 3 and below
        "copyreg._reconstructor": Module.instance,
        "copyreg.__newobj__": Module.instance,
        "_codecs.encode": text,
        "dnnlib.tflib.network.Network": Stub,
        "dnnlib.util.EasyDict": lambda: EasyDict(),
        "torch_utils.persistence._reconstruct_persistent_obj": Module.persistent,
    }


def _numpy(reader):
    """What a file may call of NumPy."""

    def scalar(dtype, raw):
        if type(raw) is Place or len(raw) > 64:
            raise ValueError("a number of more than 64 bytes")
        return np.frombuffer(as_bytes(raw), dtype.numpy())[0].item()

    def from_buffer(raw, dtype, shape, order):
        return Array(reader).fill(shape, dtype, order == "F", raw)

    known = {"numpy.ndarray": Stub, "numpy.dtype": DType}
    for core in ("numpy.core", "numpy._core"):
        known |= {f"{core}.multiarray._reconstruct": lambda *_: Array(reader), f"{core}.multiarray.scalar": scalar,
                  f"{core}.numeric._frombuffer": from_buffer}  # fmt: skip
    return known


def _torch(reader):
    """What a file may call of PyTorch."""

    def tensor(storage, offset, size, stride, *_):
        return Tensor(reader, storage, offset, size, stride)

    def with_attributes(made_by, _, arguments, *__):  # a tensor that someone gave attributes, which are left out
        if type(made_by) is not Function or made_by.call is not tensor or type(arguments) is not tuple:
            raise ValueError("a tensor that is made by something else")
        return tensor(*arguments)

    def storage(raw):  # a PyTorch file in the format before zip, which holds a storage alone
        within = raw.reader if type(raw) is Place else reader
        if within.depth > 1:
            raise ValueError("a storage within a storage")
        if type(raw) is Place and not raw.text:
            return _legacy(Reader(reader.path, raw.start, within.program, within), raw.length)

        def read():
            program = as_bytes(raw)
            return _legacy(Reader(reader.path, 0, program, within), len(program))

        found = read()
        if type(raw) is Place and type(found) is Storage:  # text: its bytes are made once more when they are wanted, and not kept
            found.raw, found.reader = lambda: read().raw(), reader
        return found

    return {
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._tensor._rebuild_from_type_v2": with_attributes,
        "torch.storage._load_from_bytes": storage,
        "torch.Size": lambda values: values,
    }


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
    whole = Reader(path)
    records = _records(whole)
    pickle = [name for name in records if name.rpartition("/")[2] == "data.pkl"]
    if len(pickle) != 1:
        raise ValueError("a zip archive, but none that PyTorch writes: it needs one data.pkl, and no name twice")
    folder = pickle[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in records:
        raise ValueError("a TorchScript archive, which holds a program; save the network's state_dict() instead")
    if folder + "byteorder" in records and _record(whole, records, folder + "byteorder") != b"little":
        raise ValueError("a file of a big-endian machine")
    storages = {}

    def refer(pid):
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or type(pid[2]) is not str:
            raise ValueError("a reference to something that is no storage")
        name = f"{folder}data/{pid[2]}"
        return _once(storages, name, Storage(whole, lambda: _record(whole, records, name), pid[1], pid[4]))

    reader = Reader(path, program=_record(whole, records, folder + "data.pkl"), parent=whole)
    reader.refer = refer
    return reader.load()


def _records(reader):
    """The records {name: ZipInfo} of a zip archive; ValueError unless each has bytes and a name of its own."""
    with reader.open() as f:
        f.most = DIRECTORY
        try:
            found = zipfile.ZipFile(f).infolist()
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise ValueError(f"not enough data: {error}") from None
    end, records = 0, {}
    for info in sorted(found, key=lambda info: info.header_offset):
        if info.filename in records or info.orig_filename != info.filename:
            raise ValueError(f"a zip archive, but none that PyTorch writes: the name {shown(info.orig_filename)} is there twice, or odd")
        if info.header_offset < end or info.compress_size < 0:
            raise ValueError(f"the record {shown(info.filename)} lies on another")
        end = info.header_offset + 30 + len(info.orig_filename) + info.compress_size
        records[info.filename] = info
    if end > reader.size:
        raise ValueError("not enough data: a record ends behind the file")
    return records


def _record(reader, records, name):
    """The bytes of a record, its checksum compared; one that a zip tool has deflated since is read right.

    Python's own reading parses the archive's directory each time, and may inflate more than the size that is declared.
    """
    info = records.get(name)
    if info is None:
        raise ValueError(f"not enough data: the record {shown(name)} is missing")
    stored, size = info.compress_type == zipfile.ZIP_STORED, info.file_size
    if not (stored or info.compress_type == zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise ValueError(f"the record {shown(name)} is encrypted, or compressed in a way that PyTorch does not know")
    if stored and info.compress_size != size:
        raise ValueError(f"the record {shown(name)} is declared with two sizes")
    if size > MADE * reader.size + FREE:
        raise ValueError(f"the record {shown(name)} is many times as large as the file")
    reader.spend(read=size + info.compress_size)
    with reader.open() as f:
        f.seek(info.header_offset)
        head = f.read(30)
        own = f.read(int.from_bytes(head[26:28], "little")).decode("utf-8" if info.flag_bits & 0x800 else "cp437")
        if head[:4] != b"PK\3\4" or own != name:
            raise ValueError(f"not enough data: the record {shown(name)} is not where the archive says")
        f.seek(int.from_bytes(head[28:30], "little"), 1)
        raw = f.read(info.compress_size)
    if not stored:
        inflate = zlib.decompressobj(-15)
        raw = inflate.decompress(raw, size + 1)
    if len(raw) != size:
        raise ValueError(f"not enough data: the record {shown(name)} has {len(raw)} bytes where {size} are declared")
    if zlib.crc32(raw) != info.CRC:
        raise ValueError(f"Bad CRC-32 for file {shown(name)!r}")
    return raw


def _once(storages, name, storage):
    """The storage of that name as it was first declared; ValueError where it is now declared as another."""
    first = storages.setdefault(name, storage)
    if (first.kind, first.count) != (storage.kind, storage.count):
        raise ValueError(f"the storage {shown(name)} is declared in two ways")
    return first


def _legacy(reader, length=None):
    """The format before zip: pickles of a magic number, a version, the machine and the object; then the storages.

    Args:
        length: how many bytes of the file it may take, where it does not go to its end.
    """
    storages, places = {}, {}

    def refer(pid):
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module" and type(pid[1]) is Class:  # with its source, which is left out
            return pid[1]
        if type(pid) is not tuple or len(pid) != 6 or pid[0] != "storage" or type(pid[2]) is not str or pid[5] is not None:
            raise ValueError("a reference to something that is no storage")
        return _once(storages, pid[2], Storage(reader, lambda: places[pid[2]].read(), pid[1], pid[4]))

    with reader.open() as f:
        if f.read(len(LEGACY_PT)) != LEGACY_PT:
            raise ValueError("what should be a tensor's storage is something else")
        _, machine = reader.run(f), reader.run(f)
        if type(machine) is not dict or machine.get("little_endian") is not True:
            raise ValueError("a file of a big-endian machine")
        reader.refer = refer
        found, names = reader.run(f), reader.run(f)
        reader.refer = None  # which holds the reader: its program is let go at once
        if type(names) is not list or len(names) != len(storages):
            raise ValueError("not enough data: some storages are missing")
        for name in names:
            if type(name) is not str or name not in storages or name in places:
                raise ValueError("a storage that nothing refers to")
            if f.read(8) != storages[name].count.to_bytes(8, "little"):
                raise ValueError(f"not enough data: the storage {shown(name)} is missing, or of another size than declared")
            places[name] = Place(reader, f.tell(), storages[name].bytes)
            f.seek(storages[name].bytes, 1)
        if f.tell() > (reader.size if length is None else reader.start + length):
            raise ValueError("not enough data: a storage ends behind the file")
    return found
