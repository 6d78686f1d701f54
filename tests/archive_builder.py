"""Archives as PyTorch writes them, made byte by byte, so that every byte can be a lie."""

import io
import struct
import zipfile
import zlib

import numpy as np

STORAGES = {"F32": "FloatStorage", "F16": "HalfStorage", "I64": "LongStorage"}

# Members that every archive of torch.save has beside the pickle and the storages.
USUAL = {"byteorder": b"little", "version": b"3\n", ".data/serialization_id": b"0" * 40}


# --- pieces of pickles --------------------------------------------------------------------------------


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def tuple_of(*parts):
    return b"(" + b"".join(parts) + b"t"


def call(module, name, *arguments):
    return named(module, name) + tuple_of(*arguments) + b"R"


def storage(key="0", numel=6, dtype="F32", first="storage", more=()):
    identity = [text(first), named("torch", STORAGES[dtype]), text(key), text("cpu"), number(numel), *more]
    return tuple_of(*identity) + b"Q"


HOOKS = named("collections", "OrderedDict") + b")R"


def tensor(shape=(2, 3), strides=None, offset=0, source=None, gradient=b"\x89", hooks=HOOKS, more=b""):
    """The pickle of a tensor; `source` is the pickle of its storage."""
    if strides is None:
        strides = [int(np.prod(shape[i + 1 :], dtype=object)) for i in range(len(shape))]
    axes = [tuple_of(*map(number, values)) for values in (shape, strides)]
    source = storage() if source is None else source
    return call("torch._utils", "_rebuild_tensor_v2", source, number(offset), *axes, gradient, hooks, more)


def dict_of(**values):
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


def pickle_of(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def script_object(attributes, name="Model"):
    return named("__torch__", name) + b")\x81" + attributes + b"b"


# --- archives -----------------------------------------------------------------------------------------


def zip_of(members, root="archive/", lies=None, end=None, before=b"", comment=b"", zip64=None):
    """A zip archive.

    Parameters
    ----------
    members : list of (str, bytes)
    lies : dict of str to dict
        For a member: what to write instead of the truth, into the header in front of it ("local_...") or into
        the directory (the others): name, flags, method, crc, packed, size, offset, extra, data.
    end : dict
        Likewise for the end of the directory: here, count, length, offset, disk, comment_length.
    zip64 : dict, optional
        Write the long form of the end as well, with these lies.
    """
    file = io.BytesIO()
    file.write(before)
    directory = []
    for short, data in members:
        name = root + short
        lie = (lies or {}).get(short, {})
        fact = {"name": name, "flags": 0x800, "method": 0, "crc": zlib.crc32(data), "packed": len(data),
                "size": len(data), "offset": file.tell(), "extra": b"", "data": data}  # fmt: skip
        there = fact | {key: value for key, value in lie.items() if not key.startswith("local_")}
        here = fact | {key.removeprefix("local_"): value for key, value in lie.items() if key != "name"}
        here["offset"] = fact["offset"]
        raw = here["name"].encode()
        file.write(struct.pack(
            "<4s5H3L2H", here.get("signature", b"PK\x03\x04"), 20, here["flags"], here["method"], 0, 0,
            here["crc"], here["packed"], here["size"], len(raw), len(here["extra"])))  # fmt: skip
        file.write(raw + here["extra"] + here["data"])
        raw = there["name"].encode()
        directory.append(struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, there["flags"], there["method"], 0, 0, there["crc"],
            there["packed"], there["size"], len(raw), len(there["extra"]), 0, 0, 0, 0, there["offset"])
            + raw + there["extra"])  # fmt: skip
    begin = file.tell()
    file.write(b"".join(directory))
    length = file.tell() - begin
    fact = {"disk": 0, "here": len(members), "count": len(members), "length": length, "offset": begin}
    if zip64 is not None:
        at = file.tell()
        long = fact | {"record_length": 44, "at": at, "disks": 1} | zip64
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", long["record_length"], 45, 45, long["disk"], 0,
                               long["here"], long["count"], long["length"], long["offset"]))  # fmt: skip
        file.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, long["at"], long["disks"]))
    short = fact | {"comment_length": len(comment)} | (end or {})
    file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", short["disk"], 0, short["here"], short["count"],
                           short["length"], short["offset"], short["comment_length"]))  # fmt: skip
    return file.getvalue() + comment


NUMBERS = np.arange(6, dtype="<f4").tobytes()


def members_of(pickled, storages=None, **more):
    """The members of a state dict's archive; a value of None leaves one out."""
    members = {"data.pkl": pickled, **USUAL}
    storages = {"0": NUMBERS} if storages is None else storages
    members |= {f"data/{key}": data for key, data in storages.items()}
    members |= more
    return [(name, data) for name, data in members.items() if data is not None]


def archive_of(*parts, storages=None, members=None, **options):
    """A whole archive of the pickle with these parts."""
    return zip_of(members_of(pickle_of(*parts), storages, **(members or {})), **options)


def script_of(*parts, **options):
    """Like `archive_of`, for TorchScript."""
    more = {"constants.pkl": b"\x80\x02).", "code/__torch__.py": b"pass"}
    return archive_of(*parts, members=more, **options)


PLAIN = dict_of(w=tensor())  # a valid state dict of one tensor


def zipped(pickled, data, compressed=()):
    """The same archive as the standard library makes it, with some members compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members_of(pickled, {"0": data}):
            method = zipfile.ZIP_DEFLATED if name in compressed else zipfile.ZIP_STORED
            archive.writestr(f"archive/{name}", content, method)
    return file.getvalue()
