"""Weight files that mean harm: a table of (name, bytes, pattern of the message that refuses it).

Run as a program with a folder, it opens each file in there, and prints as JSON what came of it: the
exception, its message, the seconds of processor time, and whatever Python's audit hooks report that would be
an execution or an import. It does so with little memory: whoever allocates what a file promises, fails.
"""

import json
import os
import struct
import sys
import time
from pathlib import Path

import numpy as np
from archive_builder import (
    HOOKS,
    NUMBERS,
    PLAIN,
    archive_of,
    call,
    dict_of,
    members_of,
    named,
    number,
    pickle_of,
    script_object,
    script_of,
    storage,
    tensor,
    text,
    tuple_of,
    zip_of,
    zipped,
)
from weights_builder import vit_shapes

# A program that is run when a hostile file has its way. It leaves a file in the current folder.
CANARY = "canary"
SHELL = text(f"touch {CANARY}")
PYTHON = text(f"open({CANARY!r}, 'w').close()")

EXECUTING = {
    "os.system": call("os", "system", SHELL),
    "posix.system": call("posix", "system", SHELL),
    "nt.system": call("nt", "system", SHELL),
    "os.popen": call("os", "popen", SHELL),
    "os.execv": call("os", "execv", text("/bin/touch"), b"](" + text("touch") + text(CANARY) + b"e"),
    "subprocess.Popen": call("subprocess", "Popen", b"](" + text("touch") + text(CANARY) + b"e"),
    "subprocess.check_output": call(
        "subprocess", "check_output", b"](" + text("touch") + text(CANARY) + b"e"
    ),
    "builtins.eval": call("builtins", "eval", PYTHON),
    "builtins.exec": call("builtins", "exec", PYTHON),
    "builtins.compile": call("builtins", "compile", PYTHON, text("x"), text("exec")),
    "builtins.open": call("builtins", "open", text(CANARY), text("w")),
    "builtins.getattr": call("builtins", "getattr", named("os", "path"), text("os")),
    "builtins.__import__": call("builtins", "__import__", text("antigravity")),
    "__builtin__.eval": call("__builtin__", "eval", PYTHON),
    "builtins.set": call("builtins", "set", b"]"),
    "builtins.bytearray": call("builtins", "bytearray", number(2**31 - 1)),
    "_codecs.encode": call("_codecs", "encode", text("x"), text("latin1")),
    "codecs.decode": call("codecs", "decode", text("x"), text("rot13")),
    "pickle.loads": call("pickle", "loads", text("x")),
    "_pickle.loads": call("_pickle", "loads", text("x")),
    "marshal.loads": call("marshal", "loads", text("x")),
    "importlib.import_module": call("importlib", "import_module", text("antigravity")),
    "runpy.run_path": call("runpy", "run_path", text("x")),
    "timeit.timeit": call("timeit", "timeit", PYTHON),
    "pty.spawn": call("pty", "spawn", text("/bin/sh")),
    "pip.main": call("pip", "main", b"](" + text("list") + b"e"),
    "webbrowser.open": call("webbrowser", "open", text("http://localhost")),
    "shutil.rmtree": call("shutil", "rmtree", text(CANARY)),
    "operator.attrgetter": call("operator", "attrgetter", text("system")),
    "functools.partial": call("functools", "partial", named("os", "system"), SHELL),
    "torch.load": call("torch", "load", text("x")),
    "torch.hub.load": call("torch.hub", "load", text("x"), text("y")),
    "torch.jit.load": call("torch.jit", "load", text("x")),
    "torch.storage._load_from_bytes": call("torch.storage", "_load_from_bytes", text("x")),
    "torch._utils._rebuild_tensor": call("torch._utils", "_rebuild_tensor", number(0)),
    "torch._utils._rebuild_wrapper_subclass": call("torch._utils", "_rebuild_wrapper_subclass", number(0)),
    "torch._tensor._rebuild_from_type_v2": call(
        "torch._tensor", "_rebuild_from_type_v2", named("os", "system")
    ),
    "numpy.load": call("numpy", "load", text("x")),
    "numpy.core.multiarray._reconstruct": call("numpy.core.multiarray", "_reconstruct", number(0)),
    "clipc.load": call("clipc", "load", text("x")),
    "collections.OrderedDict.__class__": call("collections", "OrderedDict.__class__", number(0)),
    "collections.Counter": call("collections", "Counter", b"]"),
    "torch.nn.modules.linear.Linear": named("torch.nn.modules.linear", "Linear") + b")\x81}b",
    "__torch__.Model": script_object(b"}"),  # not in a state dict
    "os.system of a subclass": call("__torch__.os\x00", "system", SHELL),
}


def bomb(levels, opening, closing):
    """Ten of the previous value at each level: short, and endless for whoever walks through it."""
    parts = [b"]q\x00"]
    for level in range(levels):
        parts.append(opening + 10 * (b"h" + bytes([level])) + closing + b"q" + bytes([level + 1]))
    return b"".join(parts)


def tree_of_objects(levels):
    """A TorchScript module with ten names for one module, which has ten names for one module, ..."""
    parts = [script_object(dict_of(w=tensor())) + b"q\x01"]
    for level in range(1, levels):
        names = b"".join(text(f"a{i}") + b"h" + bytes([level]) for i in range(10))
        parts.append(script_object(b"}(" + names + b"u") + b"q" + bytes([level + 1]))
    # All but the last one would be left on the stack: they go into a dict beside it.
    head = b"}" + b"".join(text(f"x{i}") + part + b"s" for i, part in enumerate(parts[:-1]))
    return script_object(dict_of(rest=head, model=parts[-1]))


def chain_of_objects(depth):
    """Modules in modules, deeper than any stack."""
    name = named("__torch__", "M") + b"q\x01"
    one = b")\x81}" + text("a")
    return name + b"h\x01".join([one] * depth) + b"N" + b"sb" * depth


def cycle():
    """A module that is its own child."""
    return named("__torch__", "M") + b")\x81q\x01}" + text("me") + b"h\x01sb"


F = b"\x80\x02"
OLD_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
OLD_SYSTEM = pickle_of(dict_of(little_endian=b"\x88"))


OLD_KEYS = b"](" + text("0") + b"e"
OLD_DATA = struct.pack("<q", 6) + NUMBERS


def old_file(content, keys=OLD_KEYS, data=OLD_DATA, system=OLD_SYSTEM, version=1001):
    return OLD_MAGIC + pickle_of(number(version)) + system + pickle_of(content) + pickle_of(keys) + data


def with_opcode(code, rest=b""):
    return archive_of(b"}" + code + rest)


def view(*arguments, **options):
    return archive_of(dict_of(w=tensor(*arguments, **options)))


def lie(member="data/0", **lies):
    return archive_of(PLAIN, lies={member: lies})


def safetensors(header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def stated(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


# --- the table ----------------------------------------------------------------------------------------

CASES = []


def case(name, content, message):
    CASES.append((name, content, message))


for _name, _parts in EXECUTING.items():
    _what = _name.replace("os.system of a subclass", r"'__torch__.os\\x00.system'").replace(".", r"\.")
    case(
        f"calls {_name}", archive_of(_parts), f"refused: the archive asks for {_what}.*opcode GLOBAL at byte"
    )

# The same by other instructions.
case(
    "STACK_GLOBAL",
    archive_of(text("os") + text("system") + b"\x93" + tuple_of(SHELL) + b"R"),
    "asks for os.system .opcode STACK_GLOBAL at byte 20 of data.pkl.; clipc executes nothing",
)
case("STACK_GLOBAL of numbers", archive_of(number(1) + number(2) + b"\x93."), "names a global with something")
case(
    "STACK_GLOBAL with dots", archive_of(text("torch") + text("FloatStorage.__init__") + b"\x93."), "asks for"
)
case("INST", with_opcode(b"(" + SHELL + b"ios\nsystem\n"), "no state dict needs .opcode INST at byte 21")
case("OBJ", with_opcode(b"(" + named("collections", "OrderedDict") + b"o"), "opcode OBJ")
case(
    "NEWOBJ of a storage class",
    archive_of(named("torch", "FloatStorage") + b")\x81"),
    "makes an object of torch.FloatStorage",
)
case("NEWOBJ of OrderedDict", archive_of(named("collections", "OrderedDict") + b")\x81"), "makes an object")
case(
    "NEWOBJ with arguments", script_of(named("__torch__", "M") + tuple_of(SHELL) + b"\x81"), "with arguments"
)
case("NEWOBJ of a text", archive_of(text("os") + b")\x81"), "makes an object of a text")
case("NEWOBJ_EX", with_opcode(b"\x92"), "opcode NEWOBJ_EX")
case("EXT1", with_opcode(b"\x82\x01"), "opcode EXT1")
case("EXT2", with_opcode(b"\x83\x01\x00"), "opcode EXT2")
case("EXT4", with_opcode(b"\x84\x01\x00\x00\x00"), "opcode EXT4")
case("REDUCE of a class of TorchScript", script_of(named("__torch__", "M") + b")R"), "calls __torch__.M")
case(
    "REDUCE of a storage class",
    archive_of(named("torch", "FloatStorage") + b")R"),
    "calls torch.FloatStorage",
)
case("REDUCE of a text", archive_of(text("os.system") + tuple_of(SHELL) + b"R"), "calls a text")
case("REDUCE with a list", archive_of(named("collections", "OrderedDict") + b"]R"), "with a list")
case(
    "REDUCE of OrderedDict with pairs", archive_of(call("collections", "OrderedDict", b"]")), "with arguments"
)
case(
    "BUILD with __setstate__",
    archive_of(PLAIN + dict_of(__setstate__=number(1)) + b"b"),
    "sets the state of a dict",
)
case(
    "BUILD with a tuple of states",
    archive_of(HOOKS + b"N" + b"}\x86b"),
    "sets the state of a dict to a tuple",
)
case(
    "BUILD with numbers as names",
    archive_of(HOOKS + b"}" + number(1) + b"Nsb"),
    "sets the state of a dict to a dict",
)
case("BUILD of a tensor", archive_of(tensor() + b"}b"), "sets the state of a tensor")
case(
    "BUILD of a global",
    archive_of(named("torch", "FloatStorage") + b"}b"),
    "sets the state of torch.FloatStorage",
)
case(
    "BUILD twice",
    script_of(named("__torch__", "M") + b")\x81}b}b"),
    "sets the state of an object of __torch__.M",
)
case("PERSID", with_opcode(b"Pos.system\n"), "opcode PERSID")
case("BINPERSID of a text", archive_of(text("module") + b"Q"), "not a whole storage")
case("BINPERSID of a module", archive_of(storage(first="module")), "not a whole storage")
case(
    "BINPERSID of a view",
    archive_of(storage(more=[tuple_of(text("1"), number(0), number(1))])),
    "not a whole",
)
case(
    "BINPERSID of something callable",
    archive_of(
        tuple_of(text("storage"), named("collections", "OrderedDict"), text("0"), text("cpu"), number(6))
        + b"Q"
    ),
    "of the kind collections.OrderedDict",
)
case("BINPERSID that is deep", archive_of(b")" + b"\x85" * 100_000 + b"Q"), "not a whole storage")
case(
    "storage elsewhere",
    archive_of(dict_of(w=tensor(source=storage("../../../etc/passwd")))),
    "storage called",
)
case(
    "storage with an absolute path",
    archive_of(dict_of(w=tensor(source=storage("/etc/passwd")))),
    "storage called",
)
case("storage without a name", archive_of(dict_of(w=tensor(source=storage("")))), "storage called")
case("storage that is missing", archive_of(PLAIN, storages={}), "member archive/data/0 is missing")
case("storage that is too short", archive_of(PLAIN, storages={"0": b"1234"}), "has 4 bytes, expected 24")
case("storage that is too long", archive_of(PLAIN, storages={"0": bytes(28)}), "has 28 bytes, expected 24")
case(
    "storage in two ways",
    archive_of(dict_of(w=tensor(), v=tensor((3,), source=storage(numel=3)))),
    "two ways",
)
case(
    "storage of -1 numbers", archive_of(dict_of(w=tensor(source=storage(numel=-1)))), "storage of -1 numbers"
)
case(
    "storage whose bytes wrap",
    archive_of(dict_of(w=tensor(source=storage(numel=2**62)))),
    "storage of 4611686",
)
case(
    "storage of 2^127 numbers",
    archive_of(dict_of(w=tensor(source=storage(numel=2**100)))),
    "storage of 12676",
)
case("quantized storage", archive_of(named("torch", "QInt8Storage")), "asks for torch.QInt8Storage")

# Shapes.
case("strides beyond the storage", view((2, 3), (4, 1)), "beyond its end")
case("offset beyond the storage", view((2, 3), offset=1), "beyond its end")
case("offset of 2^62", view((1,), offset=2**62), "beyond its end")
case("negative offset", view((1,), offset=-1), "no sizes")
case("negative stride", view((2, 3), (-3, 1)), "no sizes")
case("negative size", view((-2, 3), (3, 1)), "no sizes")
case("product that wraps to 6", view((2**32, 2**32 + 1), (0, 0)), "too large")
case("product that wraps to 0", view((2**32, 2**32), (0, 0)), "too large")
case("huge behind a zero", view((0, 2**62, 2**62), (1, 1, 1)), "too large")
case("size of 2^64", view((2**64,), (0,)), "no sizes")
case("index that wraps", view((3,), (2**62,)), "beyond its end")
case("one number repeated 2^40 times", view((2**40,), (0,)), "repeat the numbers")
case(
    "many huge tensors",
    archive_of(b"}(" + b"".join(text(f"w{i}") + tensor((2**23,), (0,)) for i in range(9)) + b"u"),
    "repeat the numbers",
)
case("twelve axes", view((1,) * 12), "12 axes")
case(
    "shape is a list",
    archive_of(
        dict_of(
            w=call("torch._utils", "_rebuild_tensor_v2", storage(), number(0), b"]", b"]", b"\x89", HOOKS)
        )
    ),
    "shape and strides do not match",
)
case("more strides than axes", view((6,), (1, 1)), "shape and strides do not match")
case(
    "truth values as sizes",
    archive_of(
        dict_of(
            w=call(
                "torch._utils",
                "_rebuild_tensor_v2",
                storage(),
                number(0),
                tuple_of(b"\x88"),
                tuple_of(b"\x88"),
                b"\x89",
                HOOKS,
            )
        )
    ),
    "no sizes",
)
case(
    "fractions as sizes",
    archive_of(
        dict_of(
            w=call(
                "torch._utils",
                "_rebuild_tensor_v2",
                storage(),
                number(0),
                tuple_of(b"G" + struct.pack(">d", 2.0)),
                tuple_of(number(1)),
                b"\x89",
                HOOKS,
            )
        )
    ),
    "no sizes",
)
case("tensor of no storage", archive_of(dict_of(w=tensor(source=text("0")))), "makes a tensor of a text")
case("tensor with hooks", archive_of(dict_of(w=tensor(hooks=dict_of(a=number(1))))), "hooks or properties")
case(
    "tensor that is negated", archive_of(dict_of(w=tensor(more=dict_of(neg=b"\x88")))), "hooks or properties"
)
case(
    "tensor of three arguments",
    archive_of(call("torch._utils", "_rebuild_tensor_v2", number(0))),
    "1 arguments",
)
case(
    "parameter of no tensor",
    archive_of(call("torch._utils", "_rebuild_parameter", number(0), b"\x88", HOOKS)),
    "not a tensor",
)

# Bombs and cuts.
case("laughing lists", archive_of(bomb(200, b"](", b"e")), "expected a dict|ends with")
case("laughing tuples", archive_of(dict_of(w=bomb(1, b"(", b"t"))), "expected a tensor|damaged")
case("laughing modules", script_of(tree_of_objects(30)), "more than 200000 modules|tensors, expected")
case("module in itself", script_of(cycle()), "nested more than 64 deep")
case("modules 10,000 deep", script_of(chain_of_objects(10_000)), "nested more than 64 deep")
case("marks 100,000 deep", archive_of(b"(" * 100_000), "more than 200 deep")
case(
    "tuples 400,000 deep",
    archive_of(b")" + b"\x85" * 400_000),
    "expected a dict of names and tensors, got a tuple",
)
case(
    "endless instructions",
    archive_of(b"N" * 199_000 + b"(" + b"N" * 199_000 + b"(" + b"N" * 199_000),
    "more than 500000 instructions",
)
case("full stack", archive_of(b"N" * 300_000), "more than 200000 values on the stack")
case("memo of 400,000 values", archive_of(b"}" + b"\x94" * 499_000), "holds no tensors")
case("memo far away", archive_of(b"}r\xff\xff\xff\xff"), "holds no tensors")
case("value from the memo that is not there", archive_of(b"h\x07"), "used before it was made")
case("number of 255 bytes", archive_of(b"\x8a\xff" + bytes(255)), "whole number of 255 bytes")
case("LONG4", archive_of(b"\x8b\xff\xff\xff\x7f"), "opcode LONG4")
case("BINUNICODE of 4 GB", archive_of(b"X\xff\xff\xff\xff"), "text of 4294967295 bytes")
case("BINUNICODE8 of 2^64", archive_of(b"\x8d" + b"\xff" * 8), "text of 18446744073709551615 bytes")
case("BINBYTES8 of 2^63", archive_of(b"\x8e" + b"\xff" * 7 + b"\x7f"), "opcode BINBYTES8")
case("BYTEARRAY8 of 2^63", archive_of(b"\x96" + b"\xff" * 7 + b"\x7f"), "opcode BYTEARRAY8")
case("FRAME of 2^64", archive_of(b"\x95" + b"\xff" * 8), "a frame of")
case("NEXT_BUFFER", with_opcode(b"\x97"), "opcode NEXT_BUFFER")
case("DUP", with_opcode(b"2"), "opcode DUP")
case("opcode that is none", with_opcode(b"\xff"), "opcode 0xff")
case("protocol 1", zip_of(members_of(b"\x80\x01}.")), "protocol is 1")
case("protocol 9", zip_of(members_of(b"\x80\x09}.")), "protocol is 9")
case("pickle of nothing", zip_of(members_of(b"")), "data.pkl ends at byte 0")
case("pickle without end", zip_of(members_of(F + PLAIN)), "in the middle of an instruction")
case("pickle that goes on", zip_of(members_of(pickle_of(PLAIN) + b"cos\nsystem\n")), "goes on behind its end")
case("pickle cut in a text", zip_of(members_of(F + b"X\x20\x00\x00\x00ab")), "ends at byte 9")
case("pickle cut in a name", zip_of(members_of(F + b"cos\nsys")), "a name is cut short")
case("name of 100 kB", archive_of(b"c" + b"a" * 100_000 + b"\nb\n"), "longer than 512 bytes")
case("text that is not UTF-8", archive_of(b"X\x02\x00\x00\x00\xff\xfe"), "not UTF-8")
case("empty stack", archive_of(b"R"), "the stack is empty")
case("no mark", archive_of(b"u"), "no mark on the stack")
case("key without a value", archive_of(b"}(" + text("a") + b"u"), "a key without a value")
case("tensor as a key", archive_of(b"}(" + tensor() + b"Nu"), "with a tensor as a key")
case("tuple as a key", archive_of(b"})" + b"\x85" * 100_000 + b"Ns"), "with a tuple as a key")
case("items of a tensor", archive_of(tensor() + b"(" + text("a") + b"Nu"), "sets items of a tensor")
case("append to a dict", archive_of(b"}Na"), "appends to a dict")
case("two values at the end", archive_of(b"}}"), "ends with 2 values")
case("open mark at the end", archive_of(b"}(N"), "ends with 1 values")
case("pickle of 17 MB", zip_of(members_of(bytes(17_000_000))), "17000000 bytes, expected at most 16000000")
case("one tensor is the file", archive_of(tensor()), "got a tensor")
case("state dict of numbers", archive_of(b"}" + number(1) + tensor() + b"s"), "got the name 1")
case(
    "state dict of dicts",
    archive_of(dict_of(visual=dict_of(w=tensor()))),
    "visual: expected a tensor, got a dict",
)
case("state dict of nothing", archive_of(b"}"), "holds no tensors")
case("tensor without a name", archive_of(b"}" + text("") + tensor() + b"s"), "name of 0 characters")
case(
    "tensor with a long name",
    archive_of(b"}" + text("a" * 5000) + tensor() + b"s"),
    "name of 5000 characters",
)
case(
    "20,000 tensors",
    archive_of(
        dict_of(first=tensor() + b"q\x01"),
        b"(",
        b"".join(text(f"a{i}") + b"h\x01" for i in range(20_000)),
        b"u",
    ),
    "20001 tensors, expected at most 10000",
)

# Zip archives.
case(
    "compressed storage that unpacks to 40 MB",
    zipped(pickle_of(PLAIN), bytes(40_000_000), ["data/0"]),
    "data/0 is compressed",
)
case(
    "compressed pickle",
    zipped(pickle_of(PLAIN) + bytes(30_000_000), NUMBERS, ["data.pkl"]),
    "data.pkl is compressed",
)
case("unknown compression", lie(method=99), "is compressed")
case(
    "member twice", zip_of([*members_of(pickle_of(PLAIN)), ("data.pkl", pickle_of(PLAIN))]), "is there twice"
)
case(
    "member twice, one hostile",
    zip_of([*members_of(pickle_of(PLAIN)), ("data.pkl", pickle_of(SHELL))]),
    "twice",
)
case("members that overlap", lie("version", offset=0), "overlaps|there twice|damaged")
case("member behind the directory", lie(offset=2**31), "damaged|overlaps")
case("member of 2 GB", lie(size=2**31, packed=2**31), "overlaps")
case("sizes that differ", lie(size=2**30), "stored in 24 bytes but 1073741824")
case("directory shrinks a member", lie(size=20, packed=20), "has 20 bytes|contradicts")
case(
    "header in front says another size",
    lie(local_size=2**31, local_packed=2**31),
    "contradicts the directory",
)
case("header in front says another name", lie(local_name="archive/data/1"), "contradicts the directory")
case("header in front has a longer name", lie(local_name="archive/" + "x" * 300), "contradicts|overlaps")
case("header in front is encrypted", lie(local_flags=0x801), "contradicts the directory")
case("header in front is compressed", lie(local_method=8), "contradicts the directory")
case("header in front has another CRC", lie(local_crc=1), "contradicts the directory")
case("header in front is none", lie(local_signature=b"XXXX"), "contradicts the directory")
case(
    "header in front with a long extra field",
    lie(local_extra=bytes(60_000), local_data=b""),
    "overlaps|contradicts",
)
case("CRC of the pickle", lie("data.pkl", crc=1), "check sum of archive/data.pkl")
case("CRC of a storage", lie(crc=1), "check sum of data/0")
case("encrypted member", lie(flags=0x801), "is encrypted")
case("strongly encrypted member", lie(flags=0x841), "is encrypted")
case("encrypted directory", lie(flags=0x2800), "is encrypted")
case("patch", lie(flags=0x820), "is a patch")
case("name with ..", archive_of(PLAIN, lies={"version": {"name": "archive/../version"}}), "leads elsewhere")
case("absolute name", archive_of(PLAIN, root="/archive/"), "leads elsewhere")
case("name with a drive", archive_of(PLAIN, root="C:/archive/"), "characters that PyTorch does not write")
case("name with a backslash", archive_of(PLAIN, root="a\\b/"), "characters that PyTorch does not write")
case(
    "name with a null",
    archive_of(PLAIN, lies={"version": {"name": "archive/version\0.py"}}),
    "characters that",
)
case("name with a line break", archive_of(PLAIN, root="a\nb/"), "characters that")
case("name of 30 kB", archive_of(PLAIN, root="a" * 30_000 + "/"), "a name of 300")
case("folder with content", archive_of(PLAIN, members={"x/": b"abc"}), "folder with content")
case("other member", archive_of(PLAIN, members={"setup.py": b"import os"}), "a member archive/setup.py")
case(
    "code in a state dict",
    archive_of(PLAIN, members={"code/a.py": b"import os"}),
    "a member archive/code/a.py",
)
case(
    "second top folder",
    archive_of(PLAIN, lies={"version": {"name": "other/version"}}),
    "a member other/version",
)
case("no folder", archive_of(PLAIN, root=""), "no member data.pkl/data.pkl|is not a state dict")
case("torch.package", zip_of([("package/data.pkl", pickle_of(PLAIN)), (".data/version", b"6")]), "no member")
case("zip of something else", zip_of([("word/document.xml", b"<x/>")]), "is not a state dict")
case("zip of nothing", zip_of([]), "is not a state dict")
case("big byte order", archive_of(PLAIN, members={"byteorder": b"big"}), "byte order is big")
case("strange byte order", archive_of(PLAIN, members={"byteorder": b"\xff\xfe"}), "byte order is")
case(
    "endless byte order",
    archive_of(PLAIN, members={"byteorder": bytes(5_000_000)}),
    "5000000 bytes, expected at most 16",
)
case(
    "70,000 members",
    zip_of(
        [("data.pkl", b"")], end={"here": 0xFFFF, "count": 0xFFFF}, zip64={"here": 70_000, "count": 70_000}
    ),
    "70000 members",
)
case(
    "directory of 2^63 bytes",
    zip_of([("data.pkl", b"")], end={"length": 0xFFFFFFFF}, zip64={"length": 2**63}),
    "directory of 9223",
)
case("60,000 members", zip_of([("data.pkl", b"")] * 60_000), "60000 members")
case(
    "fewer members than said",
    archive_of(PLAIN, end={"here": 9, "count": 9}),
    "holds 5 members, its end says 9",
)
case(
    "more members than said",
    archive_of(PLAIN, end={"here": 1, "count": 1}),
    "holds 5 members, its end says 1",
)
case("directory elsewhere", archive_of(PLAIN, end={"offset": 7}), "does not lead to the end")
case("directory of no length", archive_of(PLAIN, end={"length": 0}), "does not lead to the end")
case("several disks", archive_of(PLAIN, end={"disk": 1}), "spread over several files")
case(
    "long comment that is not there",
    archive_of(PLAIN, end={"comment_length": 500}),
    "does not lead to the end",
)
case(
    "archive behind a program",
    archive_of(PLAIN, before=b"PK\x03\x04" + b"#!/bin/sh\n" * 9, end={"offset": 0}),
    "does not lead|contradict",
)
case("two archives in one", archive_of(PLAIN) + archive_of(PLAIN), "does not lead|damaged|overlaps")
case("zip64 contradicts", archive_of(PLAIN, zip64={"count": 7, "here": 7}), "two ends .* contradict")
case("zip64 elsewhere", archive_of(PLAIN, zip64={"at": 3}), "two ends .* contradict")
case("zip64 of two disks", archive_of(PLAIN, zip64={"disks": 2}), "two ends .* contradict")
case("zip64 of a long record", archive_of(PLAIN, zip64={"record_length": 2**40}), "two ends .* contradict")
case(
    "zip64 sizes of a member",
    lie(size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=struct.pack("<2H2Q", 1, 16, 2**60, 2**60)),
    "damaged|overlaps|contradicts",
)
case(
    "zip64 field cut short",
    lie(size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=struct.pack("<2HL", 1, 4, 0)),
    "damaged|overlaps",
)
case("nothing behind the first bytes", b"PK\x03\x04", "cut short")
case("end alone", b"PK\x05\x06", "cut short")
case("half an archive", archive_of(PLAIN)[:300], "cut short")

# Old files.
case(
    "old file that calls os.system",
    old_file(EXECUTING["os.system"]),
    "asks for os.system .*of the state dict",
)
case(
    "old file whose description calls",
    old_file(PLAIN, system=pickle_of(EXECUTING["os.system"])),
    "of the description",
)
case("old file whose list calls", old_file(PLAIN, keys=EXECUTING["os.system"]), "of the list of storages")
case("old file of another version", old_file(PLAIN, version=7), "expected a file of version 1001")
case(
    "old file in big byte order",
    old_file(PLAIN, system=pickle_of(dict_of(little_endian=b"\x89"))),
    "little byte order",
)
case("old file cut short", old_file(PLAIN)[:-1], "is cut short: the storage 0 ends at byte")
case("old file that goes on", old_file(PLAIN) + b"x", "1 bytes follow")
case(
    "old file with another count",
    old_file(PLAIN, data=struct.pack("<q", 5) + NUMBERS),
    "has 5 numbers, expected 6",
)
case(
    "old file with a storage twice",
    old_file(PLAIN, keys=b"](" + text("0") * 2 + b"e"),
    "list of its storages",
)
case("old file with another storage", old_file(PLAIN, keys=b"](" + text("1") + b"e"), "list of its storages")
case("old file whose list is none", old_file(PLAIN, keys=b"N"), "list of its storages")
case("old file of TorchScript", old_file(script_object(PLAIN)), "asks for __torch__.Model")
case(
    "old file of a huge storage",
    old_file(dict_of(w=tensor((2**50,), source=storage(numel=2**50)))),
    "is cut short",
)
case("plain pickle", pickle_of(PLAIN), "is not a state dict of PyTorch")
case("plain pickle that calls", pickle_of(EXECUTING["os.system"]), "is not a state dict of PyTorch")
case("plain pickle of protocol 5", b"\x80\x05\x95" + bytes(8) + b"}.", "is not a state dict of PyTorch")
case("plain pickle of protocol 0", b"cos\nsystem\n(S'touch canary'\ntR.", "is not a safetensors file")

# safetensors.
case("safetensors: data cut", safetensors(stated(), bytes(7)), "cut short")
case("safetensors: more data", safetensors(stated(), bytes(9)), "belong to no tensor")
case("safetensors: 2^40 bytes", safetensors(stated("U8", (2**40,), (0, 2**40)), bytes(8)), "cut short")
case("safetensors: product wraps", safetensors(stated(shape=(2**62 + 1, 8)), bytes(8)), "too large")
case("safetensors: negative", safetensors(stated(shape=(-2,)), bytes(8)), "whole numbers from 0")
case("safetensors: header of 2^64", safetensors(stated(), bytes(8), 2**64 - 1), "not a safetensors file")
case("safetensors: header of 100 MB", safetensors(stated(), bytes(8), 100_000_000), "not a safetensors file")
case("safetensors: 5 MB of brackets", safetensors(b'{"a":' + b"[" * 4_900_000), "not valid JSON")
case("safetensors: 5 MB of lists", safetensors(b'{"a":[' + b"[]," * 1_600_000 + b"0]}"), "exactly dtype")
case(
    "safetensors: endless number",
    safetensors(b'{"a":' + b"9" * 4_900_000 + b"}"),
    "not a number that can be used",
)
case("safetensors: name twice", safetensors(b'{"a":1,"a":2}'), "appears twice")
case(
    "safetensors: many names",
    safetensors(b"{" + b",".join(b'"%d":0' % i for i in range(400_000)) + b"}"),
    "exactly dtype",
)

# Files beside the weights: here the content is a folder, name to bytes.
SHAPES = vit_shapes(64, 1, 8, 1, 1, 4, {"width": 64, "layers": 1, "mlp": 8, "vocab": 4, "context": 4})
ENDS = np.cumsum([4 * int(np.prod(shape)) for shape in SHAPES.values()]).tolist()
MODEL = safetensors(
    {
        name: {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
        for (name, shape), begin, end in zip(SHAPES.items(), [0, *ENDS], ENDS)
    },
    bytes(ENDS[-1]),
)
CONFIG = b'{"model_type":"clip","vision_config":{"hidden_size":64},"text_config":%s}'


def beside(message, what, config, file="config.json"):
    case(f"{file}: {what}", {"model.safetensors": MODEL, file: config}, message)


def index(message, what, weight_map, **files):
    content = json.dumps({"weight_map": weight_map}).encode()
    case(f"index: {what}", {"pytorch_model.bin.index.json": content, **files}, message)


beside("not valid JSON: nested too deeply", "nested too deeply", CONFIG % (b"[" * 500_000 + b"]" * 500_000))
beside("longer than 5000000 bytes", "endless", CONFIG % (b"[" + b" " * 20_000_000 + b"]"))
beside("appears twice", "name twice", CONFIG % b'{"hidden_size":64,"hidden_size":65}')
beside(
    "not a number that can be used", "endless number", CONFIG % (b'{"hidden_size":' + b"9" * 1_000_000 + b"}")
)
beside("NaN is not a number", "NaN", CONFIG % b'{"hidden_size":NaN}')
beside("expected an object", "a list for an object", CONFIG % b"[[[]]]")
beside("expected an object", "object in a text", CONFIG % (b'"' + b"x" * 1_000_000 + b'"'))
beside("holds a JSON list", "a list", b"[]")
beside("not valid JSON", "not UTF-8", b'{"model_type":"\xff"}')
beside("not valid JSON", "cut short", b'{"model_cfg":', "open_clip_config.json")
beside("not valid JSON", "nested too deeply", b'{"image_mean":' + b"[" * 500_000, "preprocessor_config.json")
index("expected a file beside the index", "another folder", {"w": "../../secret.bin"})
index("expected a file beside the index", "absolute path", {"w": "/etc/passwd"})
index(
    "v is in a.bin, the index says nothing",
    "another tensor there",
    {"w": "a.bin"},
    **{"a.bin": archive_of(dict_of(v=tensor()))},
)
index("asks for os.system", "hostile part", {"w": "a.bin"}, **{"a.bin": archive_of(EXECUTING["os.system"])})
index("a.bin .*a text file|not a safetensors file", "itself", {"w": "pytorch_model.bin.index.json"})


def write_cases(folder):
    """Write the table into a folder, one file or folder for each line, named by its number."""
    for i, (_, content, _) in enumerate(CASES):
        path = folder / f"{i:03}"
        if isinstance(content, dict):
            path.mkdir()
            for name, data in content.items():
                (path / name).write_bytes(data)
        else:
            path.write_bytes(content)


def outcome(path):
    """Open a file and read all of it: what the table is about."""
    from clipc.weights import open_model, open_weights

    events.clear()
    start = time.process_time()
    try:
        if path.is_dir():
            open_model(path)[1].close()
        else:
            with open_weights(path) as weights:
                for name in weights.tensors:
                    weights.read(name)
        kind, message = "", ""
    except BaseException as error:
        kind, message = type(error).__name__, str(error)
    return {"kind": kind, "message": message, "seconds": time.process_time() - start, "events": list(events)}


events = []
WATCHED = (
    "exec",
    "compile",
    "import",
    "os.",
    "subprocess.",
    "pickle.",
    "marshal.",
    "socket.",
    "shutil.",
    "ctypes.",
)
HARMLESS = ("os.listdir", "os.scandir")


def watch(event, arguments):
    if event.startswith(WATCHED) and event not in HARMLESS:
        events.append(f"{event} {arguments!r}"[:200])


def main(folder, extra):
    import resource

    from clipc.weights import open_weights

    # All that is imported on the way, so that every import after this is one that a file asked for.
    for name, content in (("archive", archive_of(PLAIN)), ("model", MODEL)):
        Path(name).write_bytes(content)
        open_weights(name).close()
    "".encode("cp437")
    if extra and sys.platform == "linux":
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + extra, used + extra))
    sys.addaudithook(watch)
    results = {path.name: outcome(path) for path in sorted(Path(folder).iterdir())}
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
