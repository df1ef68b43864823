"""Hostile files, a kind each: `kinds(folder, marker)` writes them and says what is to come of each.

Most are an honest little checkpoint with one hostile thing in it, so that it is that thing that is refused, or that does nothing
("same": the honest network comes out). Pickles are written step by step, as no pickler would.
"""

import io
import json
import pickle
import struct
import warnings
import zipfile
import zlib

import numpy as np
import torch

from editor.pickles import LEGACY_PT
from stylegan_layers import Config, Generator

SAME, REFUSED = "same", ""


def honest():
    """The network that is in the honest files."""
    torch.manual_seed(0)
    return Generator(Config("stylegan2", 8, 64, 8, 1, 16, 16))


# ---------------------------------------------------------------------------------------------------------------------
# Steps of pickles


def name(module, what):
    return b"c" + module.encode() + b"\n" + what.encode() + b"\n"


def text(value):
    value = value.encode()
    return b"X" + struct.pack("<I", len(value)) + value


def raw(value):
    return b"B" + struct.pack("<I", len(value)) + value


def number(n):
    return b"\x8a\x08" + struct.pack("<q", n)


def tuple_(*parts):
    return b"(" + b"".join(parts) + b"t"


def numbers(*values):
    return tuple_(*map(number, values))


def call(function, *arguments):
    return function + tuple_(*arguments) + b"R"


def dict_(**values):
    return b"}(" + b"".join(text(k) + v for k, v in values.items()) + b"u"


def dag(levels):
    """t = (t, t), again and again: two bytes more, twice the size."""
    return b"K\x01" + b"2\x86" * levels


def legacy(count=1, data=b"\0\0\0\0", kind="FloatStorage", key="0", tail=b""):
    """A PyTorch file of before 2020 that holds a storage alone."""
    pid = tuple_(text("storage"), name("torch", kind), text(key), text("cpu"), number(count), b"N") + b"Q."
    head = LEGACY_PT + b"\x80\x02M\xe9\x03.\x80\x02" + dict_(little_endian=b"\x88") + b"."
    return head + b"\x80\x02" + pid + b"\x80\x02](" + text(key) + b"e." + struct.pack("<q", count) + data + tail


LOAD, REBUILD = name("torch.storage", "_load_from_bytes"), name("torch._utils", "_rebuild_tensor_v2")


def tensor(size, stride, offset=0, storage=None):
    storage = call(LOAD, raw(legacy())) if storage is None else storage
    return call(REBUILD, storage, number(offset), numbers(*size), numbers(*stride), b"\x89", b"}")


def array(shape, data, dtype=None, state=None):
    dtype = call(name("numpy", "dtype"), text("f4")) if dtype is None else dtype
    empty = call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), numbers(0), raw(b"b"))
    return empty + (tuple_(b"K\x01", shape, dtype, b"\x89", data) if state is None else state) + b"b"


class Persistent:
    """A module as StyleGAN2-ADA-PyTorch's persistence.py pickles it."""

    def __init__(self, state, class_name="Generator"):
        self.meta = {"type": "class", "version": 6, "module_src": "import os", "class_name": class_name, "state": state}

    def __reduce__(self):
        return torch.nn.Module, (self.meta,)


def module(network, class_name="Generator", **more):
    own = {k: v for k, v in network._buffers.items() if k not in network._non_persistent_buffers_set}
    inner = {k: module(v, "Layer") for k, v in network._modules.items()}
    return Persistent({"_parameters": dict(network._parameters), "_buffers": own, "_modules": inner} | more, class_name)


def ada(**more):
    """A pickle of {"G_ema": honest module, "extra": "@extra"}; `more` is what else the module's dict has. Of protocol 3: no frames."""
    program = pickle.dumps({"G_ema": module(honest(), **more), "extra": "@extra"}, 3)
    return program.replace(b"ctorch.nn.modules.module\nModule\n", name("torch_utils.persistence", "_reconstruct_persistent_obj"))


def put(program, place, steps):
    """The pickle with other steps where it has the text `place`."""
    assert program.count(text(place)) == 1
    return program.replace(text(place), steps)


def tensorflow(static=b"}", variables=b"]", own=b"]", components=None):
    """A pickle of (G, D, Gs)."""
    network = name("dnnlib.tflib.network", "Network") + b")\x81"
    parts = dict_(synthesis=network + dict_(variables=variables, static_kwargs=static) + b"b", mapping=network + b"}b")
    last = network + dict_(components=components or parts, variables=own) + b"b"
    return b"\x80\x03(" + (network + b"}b") * 2 + last + b"t."


# ---------------------------------------------------------------------------------------------------------------------
# Kinds: {name: (steps or bytes, what is said, or SAME)}


def calls(marker):
    """Steps that should run something."""
    touch, os_system = text(f"touch {marker}"), name("os", "system")
    evil = b"\x80\x02" + call(os_system, touch) + b"."
    part = call(name("functools", "partial"), os_system, touch)
    dotted = text("numpy") + text("core.multiarray._reconstruct.__globals__") + b"\x93"
    names = "which no StyleGAN file needs; nothing of it was run"
    return {
        "reduce system": (call(os_system, touch), names),
        "reduce posix": (call(name("posix", "system"), touch), names),
        "reduce eval": (call(name("builtins", "eval"), text(f"open({str(marker)!r}, 'w')")), names),
        "reduce eval of Python 2": (call(name("__builtin__", "eval"), text(f"open({str(marker)!r}, 'w')")), names),
        "reduce import": (call(name("builtins", "__import__"), text("this")), names),
        "reduce getattr": (call(call(name("builtins", "getattr"), name("os", "path"), text("os")), touch), names),
        "reduce Popen": (call(name("subprocess", "Popen"), touch), names),
        "reduce torch.load": (call(name("torch", "load"), text("/dev/zero")), names),
        "reduce pickle.loads": (call(name("pickle", "loads"), raw(evil)), names),
        "reduce attrgetter": (call(call(name("operator", "attrgetter"), text("system")), name("os", "path")), names),
        "reduce map": (call(name("builtins", "map"), os_system, b"](" + touch + b"e"), names),
        "reduce the name of a class": (call(name("dnnlib.util", "EasyDict.__init__"), b"}"), names),
        "stack global with dots": (call(text("os") + text("path.os.system") + b"\x93", touch), names),
        "stack global into numpy": (call(dotted, touch), names),
        "stack global of a list": (b"]" + text("a") + b"\x93", "a name that is no text"),
        "a name of 5,000 letters": (name("os", "a" * 5000), names),
        "new object of system": (os_system + tuple_(touch) + b"\x81", SAME),
        "new object with words": (os_system + tuple_(touch) + b"}\x92", "the step NEWOBJ_EX"),
        "object of Python 2": (b"(" + os_system + touch + b"o", "the step OBJ"),
        "instance of Python 2": (b"(" + touch + b"ios\nsystem\n", "the step INST"),
        "copyreg of system": (call(name("copyreg", "_reconstructor"), os_system, touch, b"N"), SAME),
        "copyreg of no class": (call(name("copyreg", "_reconstructor"), touch, touch, b"N"), "no class"),
        "copyreg of a function": (call(name("copyreg", "__newobj__"), LOAD, raw(evil)), "no class"),
        "a factory of defaults": (call(name("collections", "defaultdict"), os_system) + text("a") + b"K\x01s", SAME),
        "partial": (part, SAME),
        "partial, called": (call(part, touch), "calls something that is no function"),
        "call of a text": (call(touch, touch), "calls something that is no function"),
        "call with a list": (name("torch", "Size") + b"](K\x01eR", "calls something that is no function"),
        "call with 17 arguments": (call(name("torch", "Size"), *[b"N"] * 17), "too much"),
        "state of a new object": (os_system + b")\x81" + dict_(__setstate__=os_system, __reduce__=os_system) + b"b", SAME),
        "state twice": (os_system + b")\x81}b}b", "tries to change a Module"),
        "state of a class": (os_system + dict_(call=touch) + b"b", "tries to change a Class"),
        "state of a function": (LOAD + dict_(call=os_system) + b"b", "tries to change a Function"),
        "state of a text": (touch + dict_(a=touch) + b"b", "tries to change a str"),
        "state of a list": (b"]" + dict_(append=os_system) + b"b", "tries to change a list"),
        "state of a dict": (b"}" + dict_(items=os_system) + b"b", "tries to change a dict"),
        "state of an EasyDict": (name("dnnlib.util", "EasyDict") + b")R" + dict_(get=os_system) + b"b", "tries to change a EasyDict"),
        "state of an OrderedDict": (name("collections", "OrderedDict") + b")R" + dict_(items=os_system) + b"b", SAME),
        "state of a tensor": (tensor((1,), (1,)) + dict_(read=os_system) + b"b", "tries to change a Tensor"),
        "items of a new object": (os_system + b")\x81" + text("a") + b"K\x01s", "no dict"),
        "items of a tensor": (tensor((1,), (1,)) + b"(" + text("a") + b"K\x01u", "no dict"),
        "items appended to a dict": (b"}K\x01a", "no list"),
        "items appended to a new object": (os_system + b")\x81(K\x01e", "no list"),
        "items added to a list": (b"](K\x01\x90", "no set"),
        "odd items": (b"}(K\x01K\x02K\x03u", REFUSED),
        "a storage that is a pickle": (call(LOAD, raw(evil)), "something else"),
        "a storage that is a long pickle": (call(LOAD, raw(evil + bytes(2000))), "something else"),
        "a storage that is a list": (call(LOAD, b"]"), "objects"),
        "a storage within storages": (call(LOAD, raw(nested_storages(30))), "a storage within a storage"),
        "a tensor that runs something": (call(name("torch._tensor", "_rebuild_from_type_v2"), os_system, os_system, tuple_(touch), b"}"),
                                         "made by something else"),
        "a tensor made by its maker": (call(name("torch._tensor", "_rebuild_from_type_v2"),
                                            name("torch._tensor", "_rebuild_from_type_v2"), b"N", b")", b"}"), "made by something else"),
        "a parameter with hooks": (call(name("torch._utils", "_rebuild_parameter"), tensor((1,), (1,)), b"\x88", dict_(a=os_system)), SAME),
        "a parameter with a state": (call(name("torch._utils", "_rebuild_parameter_with_state"), tensor((1,), (1,)), b"\x88", b"}",
                                          dict_(__class__=os_system)), SAME),
        "source code": (call(name("torch_utils.persistence", "_reconstruct_persistent_obj"),
                             dict_(class_name=text("a"), module_src=text(f"open({str(marker)!r}, 'w')"))), SAME),
        "extension of 1 byte": (b"\x82\x01", "the step EXT1"),
        "extension of 2 bytes": (b"\x83\x01\x00", "the step EXT2"),
        "extension of 4 bytes": (b"\x84\x01\0\0\0", "the step EXT4"),
        "reference by text": (b"P../../x\n", "the step PERSID"),
        "reference": (touch + b"Q", "objects outside the file"),
        "buffer outside": (b"\x97", "the step NEXT_BUFFER"),
        "buffer read only": (touch + b"\x98", "the step READONLY_BUFFER"),
    }  # fmt: skip


def nested_storages(levels):
    inner = legacy(tail=bytes(1024))
    for _ in range(levels):
        inner = LEGACY_PT + b"\x80\x02" + call(LOAD, raw(inner)) + b"."
    return inner


def costs():
    """Steps that should cost time or memory."""
    sets, small = name("builtins", "set"), b"K\x01"
    return {
        "key of pairs of pairs": (b"}" + dag(60) + small + b"s", "the key"),
        "keys of pairs of pairs": (b"}(" + dag(60) + small + b"u", "the key"),
        "dict of pairs of pairs": (b"(" + dag(60) + small + b"d", "the key"),
        "set of pairs of pairs": (call(sets, b"]" + dag(60) + b"a"), "the key"),
        "set of a set": (call(sets, b"](" + b"\x8fe"), "the key"),
        "frozen set of pairs of pairs": (b"(" + dag(60) + b"\x91", "the step FROZENSET"),
        "added pairs of pairs": (b"\x8f(" + dag(60) + b"\x90", "the key"),
        "ordered pairs of pairs": (call(name("collections", "OrderedDict"), b"]" + dag(60) + small + b"\x86a"), "the key"),
        "key of a large number": (b"}\x8a\x10" + b"\x7f" * 16 + small + b"s", "the key"),
        "key that is a tensor": (b"}" + tensor((1,), (1,)) + small + b"s", "the key"),
        "key that is a class": (b"}" + name("os", "system") + small + b"s", "the key"),
        "key that is a long text": (b"}" + text("a" * 5000) + small + b"s", "the key"),
        "tuples of 100,000 levels": (b")" + b"\x85" * 100_000, SAME),
        "tuples of 100,000 levels as a key": (b"}" + b")" + b"\x85" * 100_000 + small + b"s", "the key"),
        "lists of 100,000 levels": (b"]" * 100_000 + b"a" * 99_999, SAME),
        "steps": (b"N0" * 130_000 + b"N", "more than 250,000 steps"),
        "marks": (b"(" * 260_000, "more than 250,000 steps"),
        "pairs of pairs": (dag(100), SAME),
        "keys": (b"}(" + b"".join(text(str(i)) + b"N" for i in range(60_000)) + b"u", "keys"),
        "keys, one after the other": (b"}" + b"".join(text(str(i)) + b"Ns" for i in range(60_000)), "keys"),
        "a list in itself": (b"]q\xffh\xffa", SAME),
        "a list of itself, again and again": (b"]q\xff" + b"(" + b"h\xff" * 1000 + b"e", SAME),
        "long number": (b"\x8a\xff" + b"\x7f" * 255, "128 bits"),
        "longer number": (b"\x8b\xff\xff\xff\x7fabc", REFUSED),
        "number of negative length": (b"\x8b\xff\xff\xff\xffabc", REFUSED),
        "number in 9,000 digits": (b"L" + b"9" * 9000 + b"L\n", REFUSED),
        "line without end": (b"V" + b"a" * 50_000, "a line of more than"),
        "whole number of letters": (b"Iabc\n", REFUSED),
        "number that is none": (b"Fabc\n", REFUSED),
        "text of 2^62": (b"\x8d" + struct.pack("<Q", 1 << 62) + b"abc", "more than the file has"),
        "text of 4 GB": (b"X\xff\xff\xff\xffabc", "more than the file has"),
        "text that is no UTF-8": (b"\x8c\x02\xff\xff", REFUSED),
        "text without quotes": (b"Sabc\n", REFUSED),
        "bytes of 20 GB": (b"\x8e" + struct.pack("<Q", 20 << 30) + b"abc", "more than the file has"),
        "bytes of 4 GB": (b"B\xff\xff\xff\xffabc", "more than the file has"),
        "byte array of a TB": (b"\x96" + struct.pack("<Q", 1 << 40) + b"abc", "more than the file has"),
        "text of Python 2 of negative length": (b"T\xff\xff\xff\xffabc", "more than the file has"),
        "frame of 2^60": (b"\x95" + struct.pack("<Q", 1 << 60) + b"N", SAME),
        "memory at 99999999999": (b"]p99999999999\n", SAME),
        "memory at -1": (b"]p-1\n", SAME),
        "memory never put": (b"j\xff\xff\xff\x7f", "nothing was put"),
        "protocol 9": (b"\x80\x09N", SAME),
        "an end in the middle": (b".", REFUSED),
        "a mark never made": (b"tttttttt", REFUSED),
        "a step that is none": (b"\xfe", "that no pickle has"),
        "text in text in text": (text("\U0010ffff" + "a" * 900) * 1000 + b"0" * 999, SAME),
    }  # fmt: skip


def settings():
    """What a module says of itself, in Python: it is pickled beside honest tensors."""
    wide = {}
    for _ in range(3):
        wide = {f"{i}_kwargs": wide for i in range(300)}
    deep, long, pairs = {}, "a" * 3000, 1
    for _ in range(60):
        pairs = (pairs, pairs)
    for _ in range(50):
        deep = {"a_kwargs": deep}
    return {
        "kwargs of kwargs": ({"_init_kwargs": deep}, "nested too deep"),
        "kwargs that are wide": ({"_init_kwargs": wide}, REFUSED),
        "kwargs that are no dict": ({"_init_kwargs": [1]}, REFUSED),
        "setting that is unknown": ({"_init_kwargs": {"\x1b[31m": 1}}, "no such setting"),
        "setting that is long": ({"_init_kwargs": {"activation": long}}, "lrelu"),
        "clamp that is no number": ({"_init_kwargs": {"conv_clamp": "1"}}, "conv_clamp"),
        "clamp of pairs of pairs": ({"_init_kwargs": {"conv_clamp": pairs}}, "conv_clamp"),
        "setting of pairs of pairs": ({"_init_kwargs": {"activation": pairs}}, "lrelu"),
        "setting of a tensor": ({"_init_kwargs": {"activation": torch.zeros(4)}}, "lrelu"),
        "clamp that is not finite": ({"_init_kwargs": {"conv_clamp": float("nan")}}, "conv_clamp"),
        "classes": ({"_init_kwargs": {"c_dim": 10**9}}, REFUSED),
        "resolution that is a lie": ({"_init_kwargs": {"img_resolution": 0, "w_dim": 10**6, "channel_base": 10**9}}, REFUSED),
        "layers that are a lie": ({"_init_kwargs": {"mapping_kwargs": {"num_layers": 10**9}}}, None),
        "modules that are a list": ({"_modules": [1]}, REFUSED),
        "modules that are text": ({"_modules": {"a": "b"}}, "something else"),
        "parameters that are text": ({"_parameters": "abc"}, REFUSED),
        "parameter of another kind": ({"_parameters": {"a": {}}}, REFUSED),
        "parameter that is left over": ({"_parameters": {"\u202ea": torch.zeros(1)}}, REFUSED),
        "layer of a high number": ({"_parameters": {"mapping.fc99999999999.weight": torch.zeros(1)}}, REFUSED),
        "layers of high numbers": ({"_parameters": {f"mapping.fc{i}.weight": torch.zeros(1, 1) for i in range(1, 900)}}, REFUSED),
        "side of a high number": ({"_parameters": {"synthesis.b9999.conv1.weight": torch.zeros(1, 1, 1, 1)}}, REFUSED),
        "side of a higher number": ({"_parameters": {"synthesis.b" + "9" * 5000 + ".conv1.weight": torch.zeros(1)}}, REFUSED),
    }


def tensors():
    """Steps of a tensor or array, in the place of an honest one."""
    f4 = name("numpy", "dtype") + text("f4") + b"\x85R"

    def dtype(code):
        return call(name("numpy", "dtype"), text(code))

    def scalar(kind, data):
        return call(name("numpy.core.multiarray", "scalar"), kind, data)

    size, buffer = numbers(8), raw(bytes(32))
    big = b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
    return {
        "stride of 0": (tensor((28_000, 28_000), (0, 0)), "many times as large"),
        "strides that overlap": (tensor((2000, 2000, 20), (1, 1, 1), storage=call(LOAD, raw(legacy(5000, bytes(20_000))))), "many times"),
        "strides too many": (tensor((8,), (1, 1)), REFUSED),
        "stride below 0": (tensor((1, 1), (-1, 1)), "a shape or place"),
        "size below 0": (tensor((-8,), (1,)), "a shape or place"),
        "size of 2^62": (tensor((1 << 62,), (0,)), "a shape or place"),
        "sizes of 2^120": (tensor((1 << 40, 1 << 40, 1 << 40), (0, 0, 0)), "many times"),
        "sizes of 0 and 2^40": (tensor((0, 1 << 40), (1, 1)), REFUSED),
        "nine dimensions": (tensor((1,) * 9, (1,) * 9), "a shape or place"),
        "size of text": (call(REBUILD, call(LOAD, raw(legacy())), b"K\x00", text("ab"), text("ab"), b"\x89", b"}"), "a shape or place"),
        "size of a number": (call(REBUILD, call(LOAD, raw(legacy())), b"K\x00", b"K\x08", b"K\x08", b"\x89", b"}"), "a shape or place"),
        "size of pairs of pairs": (call(REBUILD, call(LOAD, raw(legacy())), b"K\x00", dag(60), dag(60), b"\x89", b"}"), "a shape or place"),
        "size of truths": (call(REBUILD, call(LOAD, raw(legacy())), b"K\x00", b"\x88\x85", b"\x88\x85", b"\x89", b"}"), "a shape or place"),
        "offset behind its storage": (tensor((1,), (1,), 5), "larger than its storage"),
        "offset below 0": (tensor((1,), (1,), -1), "a shape or place"),
        "size behind its storage": (tensor((8,), (1,)), "larger than its storage"),
        "tensor of an array": (tensor((8,), (1,), storage=array(size, buffer)), "without storage"),
        "tensor of text": (tensor((8,), (1,), storage=text("a")), "without storage"),
        "tensor of too few words": (REBUILD + b")R", REFUSED),
        "storage of 2^40 numbers": (tensor((8,), (1,), storage=call(LOAD, raw(legacy(1 << 40)))), REFUSED),
        "storage of -1 numbers": (tensor((8,), (1,), storage=call(LOAD, raw(legacy(-1)))), "a storage without size"),
        "storage that goes on behind its bytes": (tensor((8,), (1,), storage=call(LOAD, raw(legacy(900, bytes(1100))))), "not enough data"),
        "storage of an unknown type": (tensor((1,), (1,), storage=call(LOAD, raw(legacy(kind="QInt32Storage")))), "a storage without size"),
        "storage of a function": (tensor((1,), (1,), storage=call(LOAD, raw(legacy(kind="Size")))), "a storage without size"),
        "dtype of objects": (array(size, buffer, dtype("O8")), "not numbers"),
        "dtype of letters": (array(size, buffer, dtype("U99999999")), "not numbers"),
        "dtype of records": (array(size, buffer, dtype("V8")), "not numbers"),
        "dtype of long text": (array(size, buffer, dtype("f4" * 3000)), "not numbers"),
        "dtype that is none": (array(size, buffer, text("f4")), "array of objects"),
        "dtype with too short a state": (array(size, buffer, f4 + b"(K\x03tb"), REFUSED),
        "dtype with metadata": (array(numbers(1 << 30), buffer, f4 + tuple_(b"K\x04", text("<"), *[b"N"] * 3, *[b"K\x00"] * 3,
                                                                           dict_(a=dag(60))) + b"b"), "many times"),
        "array of objects": (array(size, b"]"), "array of objects"),
        "array of too few bytes": (array(size, raw(bytes(31))), REFUSED),
        "array of too many bytes": (array(size, raw(bytes(36))), REFUSED),
        "array of 2^80": (array(numbers(1 << 40, 1 << 40), buffer), "many times"),
        "array of -8": (array(numbers(-8), buffer), "a shape or place"),
        "array of fractions": (array(b"G" + bytes(8) + b"\x85", buffer), "a shape or place"),
        "array of wide letters": (array(size, text("\u1234" * 5000)), "array of objects"),
        "array with too short a state": (array(size, buffer, state=b"K\x01\x85"), REFUSED),
        "array with a long state": (array(size, buffer, state=b"(" + b"K\x01" * 900 + b"t"), REFUSED),
        "array without state": (array(size, buffer)[: -len(tuple_(b"K\x01", size, dtype("f4"), b"\x89", buffer)) - 1], "without numbers"),
        "array in another array's bytes": (array(size, array(size, buffer)), "array of objects"),
        "buffer of objects": (call(name("numpy.core.numeric", "_frombuffer"), b"]", dtype("f4"), size, text("C")), "array of objects"),
        "number of objects": (scalar(dtype("O8"), raw(bytes(8))), "not numbers"),
        "number of a MB": (scalar(dtype("f4"), big), "more than 64 bytes"),
        "number of 3 bytes": (scalar(dtype("f4"), raw(bytes(3))), REFUSED),
        "encoded in another way": (call(name("_codecs", "encode"), text("a"), text("zlib")), "other than latin1"),
        "encoded number": (call(name("_codecs", "encode"), b"K\x01", text("latin1")), "other than latin1"),
        "NaN": (tensor((16,), (1,), storage=call(LOAD, raw(legacy(16, struct.pack("<f", float("nan")) * 16)))), "NaN"),
        "truth": (b"\x88", REFUSED),
        "text": (text("a"), "no tensor"),
        "module": (name("os", "system") + b")\x81", "no tensor"),
        "pairs of pairs": (dag(60), "no tensor"),
    }  # fmt: skip


def tensorflows():
    def variable(named, value=b"K\x01"):
        return b"](" + text(named) + value + b"\x86e"

    return {
        "noise of 2^30000000000": (tensorflow(variables=variable("noise60000000000")), REFUSED),
        "noise of 5,000 digits": (tensorflow(variables=variable("noise" + "9" * 900)), REFUSED),
        "label_size of pairs of pairs": (tensorflow(static=dict_(label_size=dag(40))), REFUSED),
        "conv_clamp of pairs of pairs": (tensorflow(static=dict_(conv_clamp=dag(60)), variables=variable("4x4/Const/const")), REFUSED),
        "settings that are a list": (tensorflow(static=b"]K\x01a"), REFUSED),
        "variables that are a number": (tensorflow(variables=b"K\x01"), "no list of names"),
        "variables of pairs of pairs": (tensorflow(variables=b"](" + dag(60) + b"K\x01\x86e"), "no list of names"),
        "components that are a list": (tensorflow(components=b"]"), REFUSED),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Files of PyTorch


def archive(state, packing=zipfile.ZIP_STORED, change=None, last=None):
    """An honest `.pt` in the zip format, its records changed: change(name, raw) -> raw or None (left out); last(ZipFile) adds to it."""
    stream, out = io.BytesIO(), io.BytesIO()
    torch.save(state, stream)
    with zipfile.ZipFile(stream) as a, zipfile.ZipFile(out, "w", packing) as b:
        for info in a.infolist():
            content = a.read(info)
            content = change(info.filename, content) if change else content
            if content is not None:
                b.writestr(zipfile.ZipInfo(info.filename), content, packing)
        if last:
            last(b)
    return out.getvalue()


def patched(data, record, offset, value, local=None):
    """The bytes of a zip archive with `value` at `offset` of the record's entry in its directory, or of its own header (`local`)."""
    entry = data.index(record.encode(), data.index(b"PK\x01\x02")) - 46
    own = data.index(record.encode()) - 30
    at = own + local if local is not None else entry + offset
    return data[:at] + value + data[at + len(value) :]


def pt_pid(state, **change):
    """An honest `.pt` whose pickle refers to its storages in another way: by other steps for type, key, count."""

    def other(named, content):
        if not named.endswith("data.pkl"):
            return content
        pid = tuple_(text("storage"), change.get("kind", name("torch", "FloatStorage")), change.get("key", text("0")), text("cpu"),
                     change.get("count", number(4))) + b"Q"  # fmt: skip
        pid = change.get("pid", pid)
        return b"\x80\x02" + dict_(**{"g_synthesis.torgb.weight": tensor((4,), (1,), storage=pid)}) + b"."

    return archive(state, change=other)


def zips():
    state = honest().state_dict()
    plain, deflated = archive(state), archive(state, zipfile.ZIP_DEFLATED)
    first, bomb = "archive/data/0", zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = bomb.compress(bytes(100 << 20)) + bomb.flush()
    huge = struct.pack("<I", 100 << 20)

    def heavy(record, size=huge, crc=0):
        """A record that unpacks to 100 MB of zeros, whatever size it declares."""
        data = archive(state, change=lambda named, content: packed if named == record else content)
        data = patched(patched(data, record, 10, b"\x08\0"), record, 24, size)  # deflated
        return patched(data, record, 16, struct.pack("<I", crc))

    def twice(b):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            b.writestr(first, b"abcd")

    def many(b):
        for i in range(60_000):
            b.filelist.append(info := zipfile.ZipInfo("x" * 60 + str(i)))
            info.header_offset = 0
            info.CRC = info.compress_size = info.file_size = 0

    def named(b):
        for i in range(30_000):
            b.filelist.append(info := zipfile.ZipInfo(str(i)))
            info.header_offset = i * 50 + 10**6
            info.CRC = info.compress_size = info.file_size = 0

    end = plain.rindex(b"PK\x05\x06")
    return {
        "deflated": (deflated, SAME),
        "comment of 65,535 bytes": (plain[:end] + plain[end:-2] + b"\xff\xff" + b"a" * 65_535, SAME),
        "checksum": (patched(plain, first, 16, b"abcd"), "CRC"),
        "two sizes": (patched(plain, first, 24, struct.pack("<I", 7)), "two sizes"),
        "size of 4 GB": (patched(patched(plain, first, 24, b"\xfe\xff\xff\xff"), first, 20, b"\xfe\xff\xff\xff"), REFUSED),
        "deflated size that is too small": (patched(deflated, first, 24, struct.pack("<I", 7)), REFUSED),
        "deflated size that is too large": (patched(deflated, first, 24, struct.pack("<I", 1 << 20)), REFUSED),
        "100 MB in a record": (heavy(first), "many times as large"),
        "100 MB in a record of 7": (heavy(first, struct.pack("<I", 7), zlib.crc32(bytes(7))), "not enough data"),
        "100 MB in the pickle": (heavy("archive/data.pkl"), "many times as large"),
        "100 MB in the byte order": (heavy("archive/byteorder"), "many times as large"),
        "encrypted": (patched(plain, first, 8, b"\x01\0"), "encrypted"),
        "bzip2": (archive(state, zipfile.ZIP_BZIP2), "compressed in a way"),
        "lzma": (archive(state, zipfile.ZIP_LZMA), "compressed in a way"),
        "unknown packing": (patched(plain, first, 10, b"\x63\0"), "compressed in a way"),
        "unknown version": (patched(plain, first, 6, b"\xff\xff"), REFUSED),
        "another name in its own header": (patched(plain, first, 0, b"archive/data/9", local=30), REFUSED),
        "no own header": (patched(plain, first, 0, b"PK\x07\x07", local=0), REFUSED),
        "own header that is far": (patched(plain, first, 42, b"\xff\xff\xff\x7f"), REFUSED),
        "one record on another": (patched(plain, "archive/data/1", 42, struct.pack("<I", plain.index(first.encode()) - 30)), "lies on"),
        "own header with a long field": (patched(plain, first, 0, b"\xff\xff", local=28), REFUSED),
        "name twice": (archive(state, last=twice), "twice"),
        "name with a zero": (patched(plain, first, 46, b"archive/data/\0"), REFUSED),
        "names that climb": (archive(state, last=lambda b: b.writestr("../../x", b"abc")), SAME),
        "names of the root": (archive(state, last=lambda b: b.writestr("/etc/x", b"abc")), SAME),
        "60,000 names": (archive(state, last=many), "more than the file has"),
        "30,000 names behind the file": (archive(state, last=named), "behind the file"),
        "20,000 records that nothing needs": (archive(state, last=lambda b: [b.writestr(f"a/{i}", b"") for i in range(20_000)]), SAME),
        "directory of 4 GB": (plain[: end + 12] + b"\xfe\xff\xff\xff" + plain[end + 16 :], REFUSED),
        "directory that is far": (plain[: end + 16] + b"\xfe\xff\xff\xff" + plain[end + 20 :], REFUSED),
        "directory of 64 bits": (plain[:end] + b"PK\x06\x07" + b"\xff" * 16 + plain[end:], REFUSED),
        "no directory": (plain[: plain.index(b"PK\x01\x02")], "not enough data"),
        "half a file": (plain[: len(plain) // 2], "not enough data"),
        "two pickles": (archive(state, last=lambda b: b.writestr("b/data.pkl", b"N.")), "needs one data.pkl"),
        "no pickle": (archive(state, change=lambda n, raw: None if n.endswith(".pkl") else raw), "needs one data.pkl"),
        "pickle that is a zip": (archive(state, change=lambda n, raw: plain if n.endswith(".pkl") else raw), REFUSED),
        "program of TorchScript": (archive(state, last=lambda b: b.writestr("archive/constants.pkl", b"N.")), "TorchScript"),
        "other byte order": (archive(state, change=lambda n, raw: b"big" if n.endswith("byteorder") else raw), "big-endian"),
        "no byte order": (archive(state, change=lambda n, raw: None if n.endswith("byteorder") else raw), SAME),
        "record that is missing": (archive(state, change=lambda n, raw: None if n == first else raw), "is missing"),
        "record that is short": (archive(state, change=lambda n, raw: raw[:-4] if n == first else raw), "not enough data"),
        "record that is long": (archive(state, change=lambda n, raw: raw + b"abcd" if n == first else raw), "not enough data"),
        "storage by a path": (pt_pid(state, key=text("../../../etc/passwd")), "is missing"),
        "storage by the pickle's name": (pt_pid(state, key=text("../data.pkl")), "is missing"),
        "storage by a number": (pt_pid(state, key=b"K\x00"), "no storage"),
        "storage of many": (pt_pid(state, count=number(1 << 40)), REFUSED),
        "storage of less than none": (pt_pid(state, count=number(-1)), "a storage without size"),
        "storage of half": (pt_pid(state, count=b"G?\xe0" + bytes(6)), "a storage without size"),
        "storage of another type": (pt_pid(state, kind=name("torch", "DoubleStorage")), "not enough data"),
        "storage of no type": (pt_pid(state, kind=name("os", "system")), "a storage without size"),
        "storage in two types": (pt_pid(state, pid=tuple_(text("storage"), name("torch", "HalfStorage"), text("0"), text("cpu"), number(4))
                                        + b"Q0" + tuple_(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(4))
                                        + b"Q"), "in two ways"),
        "reference to a module": (pt_pid(state, pid=tuple_(text("module"), name("os", "system"), *[text("a")] * 2) + b"Q"), "no storage"),
        "reference of a list": (pt_pid(state, pid=b"]Q"), "no storage"),
        "reference of pairs of pairs": (pt_pid(state, pid=dag(60) + b"Q"), "no storage"),
    }  # fmt: skip


def legacies():
    stream = io.BytesIO()
    torch.save(honest().state_dict(), stream, _use_new_zipfile_serialization=False)
    whole, key = stream.getvalue(), b"X\x01\0\0\x000"
    plain = legacy()
    machine = plain.index(b"\x88")
    return {
        "before 2020, whole": (whole, SAME),
        "before 2020, half": (whole[: len(whole) // 2], "not enough data"),
        "before 2020, other byte order": (plain[:machine] + b"\x89" + plain[machine + 1 :], "big-endian"),
        "before 2020, no machine": (LEGACY_PT + b"\x80\x02N.\x80\x02N.\x80\x02N.\x80\x02].", "big-endian"),
        "before 2020, no list": (LEGACY_PT + plain[len(LEGACY_PT) : machine] + b"\x88u.N.N.", "storages are missing"),
        "before 2020, list of pairs": (LEGACY_PT + plain[len(LEGACY_PT) : machine] + b"\x88u.N.]" + dag(60) + b"a.", REFUSED),
        "before 2020, a name twice": (plain.replace(b"](" + key, b"](" + key + key), REFUSED),
        "before 2020, another name": (plain.replace(b"](" + key, b"](" + key.replace(b"0", b"1")), "nothing refers to"),
        "before 2020, another count": (plain.replace(struct.pack("<q", 1) + bytes(4), struct.pack("<q", 2) + bytes(4)), REFUSED),
        "of 2016: a tar": (b"./sys_info".ljust(512, b"\0") * 4, "neither a pickle"),
    }


# ---------------------------------------------------------------------------------------------------------------------
# `.safetensors`, `.npy`, `.npz`


def safetensors(header, data=bytes(64), length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def with_config(**config):
    from safetensors.torch import save

    config = {"resolution": 8, "channel_base": 64, "channel_max": 8, "mapping_layers": 1, "z_dim": 16, "w_dim": 16} | config
    meta = {"format": "1", "kind": config.pop("kind", "stylegan2"), "config": config.pop("config", json.dumps(config))}
    return save({k: v.contiguous() for k, v in honest().state_dict().items()}, meta | config.pop("meta", {}))


def headers():
    def one(dtype="F32", shape=(16,), offsets=(0, 64)):
        return {"synthesis.b4.const": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}

    a = one()["synthesis.b4.const"]
    return {
        "header of 2^63": safetensors(one(), length=1 << 63), "header behind the file": safetensors(one(), length=1 << 20),
        "header of nothing": safetensors(b""), "header that is no JSON": safetensors(b"{'a': 1}"), "header that is a list": safetensors([]),
        "header of 100,000 levels": safetensors(b"[" * 100_000), "header with a key twice": safetensors(
            json.dumps(one()).encode()[:-1] + b", " + json.dumps(one()).encode()[1:]),
        "header in UTF-16": safetensors(json.dumps(one()).encode("utf-16")), "header with NaN": safetensors(b'{"a": NaN}'),
        "tensors on each other": safetensors({"a": a, "b": a}), "tensor behind the file": safetensors(one(shape=(99,), offsets=(0, 396))),
        "tensor of a negative place": safetensors(one(offsets=(-64, 0))), "tensor that ends first": safetensors(one(offsets=(64, 0))),
        "tensor of 2^80": safetensors(one(shape=(1 << 40, 1 << 40))), "tensor of too few bytes": safetensors(one(shape=(99,))),
        "tensor of -16": safetensors(one(shape=(-16,))), "tensor of halves": safetensors(one(shape=(1.5,))),
        "tensor of an unknown type": safetensors(one("O8")), "bytes that are no one's": safetensors(one(), bytes(999)),
        "metadata of numbers": safetensors(one() | {"__metadata__": {"format": 1}}),
        "metadata of dicts": safetensors(one() | {"__metadata__": {"format": {"a": {}}}}),
        "100,000 tensors": safetensors({str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}, b""),
    }  # fmt: skip


def configs():
    deep = "[" * 100_000
    return {
        "mapping of 10^9 layers": with_config(mapping_layers=10**9), "mapping of 64 layers": with_config(mapping_layers=64),
        "w of 10^6": with_config(w_dim=10**6), "w of 8192": with_config(w_dim=8192), "z of 8192": with_config(z_dim=8192),
        "channels of 10^9": with_config(channel_base=10**9), "widest and largest": with_config(
            channel_base=1 << 24, channel_max=8192, resolution=1024, mapping_layers=64, z_dim=8192, w_dim=8192),
        "side of 0": with_config(resolution=0), "side of 24": with_config(resolution=24), "side of 2^70": with_config(resolution=1 << 70),
        "side of -8": with_config(resolution=-8), "side of text": with_config(resolution="8"),
        "side of a list": with_config(resolution=[8]),
        "side of truth": with_config(resolution=True), "side of 1e400": with_config(config='{"resolution": 1e400, "channel_base": 64}'),
        "side of 9,000 digits": with_config(config='{"channel_base": 64, "resolution": ' + "9" * 9000 + "}"),
        "setting that is nested": with_config(config=f'{{"resolution": {deep}'), "config that is nested": with_config(config=deep),
        "config that is a list": with_config(config="[1]"), "config that is a number": with_config(config="1"),
        "config with NaN": with_config(config='{"resolution": NaN}'), "config with a key twice": with_config(
            config='{"resolution": 8, "resolution": 16}'),
        "setting that is unknown": with_config(**{"\x1b[31m": 1}), "clamp of text": with_config(conv_clamp="a" * 1_000_000),
        "clamp below 0": with_config(conv_clamp=-1), "kind that is unknown": with_config(kind="\x1b[31m" + "a" * 100_000),
        "kind of another role": with_config(kind="encoder"), "format that is unknown": with_config(meta={"format": "9" * 100_000}),
        "alignment that is nested": with_config(meta={"alignment": deep}), "alignment that is a lie": with_config(
            meta={"alignment": '{"scale": 1e300, "em_scale": -1e300}'}),
    }  # fmt: skip


def npy(header, data=bytes(64), version=1, length=None):
    header = header if isinstance(header, bytes) else (header + "\n").encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", length or len(header)) + header + data


def said_by_npy(descr="'<f4'", order="False", shape="(1, 16)", **more):
    return npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}", **more)


def npz(content, named="w.npy", packing=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as f:
        f.writestr(named, content)
    return stream.getvalue()


def latents(marker):
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], object))
    evil, zeros = f"__import__('os').system('touch {marker}')", said_by_npy(shape="(1, 18, 2000000)", data=bytes(144_000_000))
    small, whole = npz(zeros), npz(said_by_npy())
    return {
        "shape of 2^80": said_by_npy(shape="(1099511627776, 1099511627776)"), "shape of 10 GB": said_by_npy(shape="(1, 18, 138888888)"),
        "shape below 0": said_by_npy(shape="(-1, 16)"), "shape of two below 0": said_by_npy(shape="(-4, -4)"),
        "shape of halves": said_by_npy(shape="(1.5, 16)"), "shape of text": said_by_npy(shape="'ab'"), "shape of a list": said_by_npy(
            shape="[1, 16]"), "shape of truths": said_by_npy(shape="(True, True)"), "shape of a 9,000-digit number": said_by_npy(
            shape="(" + "9" * 9000 + ",)"), "shape of 2,000 dimensions": said_by_npy(shape="(" + "1," * 2000 + ")"),
        "objects": stream.getvalue(), "objects that are a lie": said_by_npy("'|O'"), "records": said_by_npy("[('a', '<f4'), ('b', '|O')]"),
        "an array in an array": said_by_npy("('<f4', (1000, 1000, 1000))"), "letters": said_by_npy("'<U999999999'"),
        "bytes": said_by_npy("'|V1000000000'"), "times": said_by_npy("'<M8[s]'"), "numbers that are complex": said_by_npy("'<c8'"),
        "dtype of code": said_by_npy(evil), "dtype with code": said_by_npy(f"[('a', '<f4', {evil})]"), "order of code": said_by_npy(
            order=evil), "order of text": said_by_npy(order="'C'"), "header of code": npy(evil), "header of a power": npy("9**9**9"),
        "header of brackets": npy("(" * 9000), "header of long code": npy("[" + "1," * 30_000 + "]", version=1), "header without end": npy(
            "{'descr'", length=60_000), "header of 4 GB": npy("{}", version=2, length=0xFFFFFFFE), "version 9": npy("{}", version=9),
        "header of letters": npy(b"\xff" * 99), "keys too many": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': 1}"),
        "NaN": said_by_npy(data=struct.pack("<f", float("nan")) * 16), "infinity of doubles": said_by_npy(
            "'<f8'", data=struct.pack("<d", 1e300) * 16), "too few bytes": said_by_npy(data=bytes(60)), "half a header": said_by_npy()[:40],
        "144 MB in 140 KB": small, "144 MB that are called 64 bytes": patched(small, "w.npy", 24, struct.pack("<I", 64)),
        "a short record that is called long": patched(whole, "w.npy", 24, struct.pack("<I", 1 << 30)),
        "objects in a zip": npz(
            stream.getvalue()), "bzip2": npz(zeros[:99], packing=zipfile.ZIP_BZIP2), "no w": npz(said_by_npy(), "\x1b[31m.npy"),
        "encrypted": patched(whole, "w.npy", 8, b"\x01\0"), "checksum": patched(whole, "w.npy", 16, b"abcd"), "a pickle": b"\x80\x04N.",
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------


def kinds(folder, marker):
    """Write the files of all kinds.

    Returns:
        list of (kind, entry that reads it, path, what is said: SAME, or a part of the refusal).
    """
    program = ada()
    hole = module(honest())
    hole.meta["state"]["_modules"]["mapping"].meta["state"]["_buffers"]["w_avg"] = "@tensor"
    place = pickle.dumps({"G_ema": hole}, 3).replace(b"ctorch.nn.modules.module\nModule\n",
                                                     name("torch_utils.persistence", "_reconstruct_persistent_obj"))  # fmt: skip
    found, listed = {}, []
    found |= {f"call, {k}": ("pkl", put(program, "@extra", v), said) for k, (v, said) in calls(marker).items()}
    found |= {f"cost, {k}": ("pkl", put(program, "@extra", v), said) for k, (v, said) in costs().items()}
    found |= {f"tensor, {k}": ("pkl", put(place, "@tensor", v), said) for k, (v, said) in tensors().items()}
    found |= {f"module, {k}": ("pkl", ada(**v), said) for k, (v, said) in settings().items()}
    found |= {f"network, {k}": ("pkl", v, said) for k, (v, said) in tensorflows().items()}
    found |= {f"pt, {k}": ("pt", v, said) for k, (v, said) in (zips() | legacies()).items()}
    found |= {f"header, {k}": ("safetensors", v, REFUSED) for k, v in headers().items()}
    for i, (kind, (ending, content, said)) in enumerate(found.items()):
        listed.append((kind, "convert", folder / f"{i}.{ending}", SAME if said is None else said))
        listed[-1][2].write_bytes(content)
    for group, entry, ending, files in (("config", "load", "safetensors", configs()), ("latent", "face", "npy", latents(marker))):
        for i, (kind, content) in enumerate(files.items()):
            listed.append((f"{group}, {kind}", entry, folder / f"{group}{i}.{ending}", REFUSED))
            listed[-1][2].write_bytes(content)
    return listed
