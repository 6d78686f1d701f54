"""The directory of a zip archive, checked before any byte of a member is used.

The standard library reads the directory. What it leaves open is settled here: how much there may be of
everything, that members lie in the file one behind the other, and that the header in front of each member
says what the directory says. Only members that are stored as they are have a place in the file to read from.
"""

from __future__ import annotations

import os
import struct
import zipfile
from typing import NamedTuple

from clipc.errors import WeightsError
from clipc.weights.tensor_file import read_exactly, shortened

# An archive of a large model with the state of its optimizer has some thousand members of 100 bytes each in
# the directory. Python needs ten times as much for what it reads from it.
MAX_MEMBERS = 50_000
MAX_DIRECTORY_BYTES = 5_000_000
MAX_NAME_BYTES = 512

END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR_64 = struct.Struct("<4sLQL")
LOCAL = struct.Struct("<4s2HH2HL2L2H")

ENCRYPTED = 0x1 | 0x40 | 0x2000  # also strong encryption, and a directory that is encrypted
PATCH = 0x20
SIZES_FOLLOW = 0x8
UTF8 = 0x800


class Member(NamedTuple):
    """Where the bytes of a member lie in the file, and their CRC-32."""

    begin: int
    size: int
    crc: int


class ZipDirectory:
    """The members of a zip archive.

    Parameters
    ----------
    path : pathlib.Path
        For messages.
    file : raw binary file
        Stays open, and is read by `member` again.

    Attributes
    ----------
    names : list of str
        In the order of the file, all different; folders are left out.

    Raises
    ------
    WeightsError
        It is damaged, contradicts itself, or is larger than the limits above.
    """

    def __init__(self, path, file):
        self._path = path
        self._file = file
        size = os.fstat(file.fileno()).st_size
        count, end = _check_end(path, file, size)
        try:
            infos = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, ArithmeticError, EOFError,
                LookupError) as error:  # fmt: skip
            raise WeightsError(
                f"{path} is a damaged zip archive: {shortened(str(error))}; download it again"
            ) from None
        if len(infos) != count:
            raise WeightsError(f"{path}: the directory holds {len(infos)} members, its end says {count}")
        self._infos = {}
        self._limits = {}
        infos.sort(key=lambda info: info.header_offset)
        limits = [info.header_offset for info in infos[1:]] + [end]
        for info, limit in zip(infos, limits):
            name = info.orig_filename
            self._check(info, limit)
            if name in self._infos:
                raise WeightsError(f"{path}: refused: the member {shortened(name)} is there twice")
            self._infos[name] = info
            self._limits[name] = limit
        self.names = [name for name in self._infos if not name.endswith("/")]

    def _check(self, info, limit):
        """Check what the directory says about one member."""
        name = info.orig_filename

        def refuse(problem):
            raise WeightsError(f"{self._path}: refused: the member {shortened(name)} {problem}")

        raw = _raw_name(info)
        if not raw or len(raw) > MAX_NAME_BYTES:
            refuse(f"has a name of {len(raw)} bytes, expected 1 to {MAX_NAME_BYTES}")
        if not name.isprintable() or "\\" in name or ":" in name:
            refuse("has a name with characters that PyTorch does not write")
        if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
            refuse("has a name that leads elsewhere")
        if info.flag_bits & ENCRYPTED:
            refuse("is encrypted")
        if info.flag_bits & PATCH:
            refuse("is a patch for another file")
        if name.endswith("/") and info.file_size:
            refuse("is a folder with content")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            refuse(f"is stored in {info.compress_size} bytes but {info.file_size} bytes long")
        if info.header_offset + LOCAL.size + len(raw) + info.compress_size > limit:
            refuse("overlaps what follows it")

    def __contains__(self, name):
        return name in self._infos

    def member(self, name):
        """Find out where a member lies.

        Returns
        -------
        Member

        Raises
        ------
        KeyError
            There is none of this name.
        WeightsError
            It is compressed, or the header in front of it contradicts the directory.
        """
        info = self._infos[name]
        if info.compress_type != zipfile.ZIP_STORED:
            raise WeightsError(
                f"{self._path}: refused: the member {shortened(name)} is compressed; PyTorch stores it as it "
                "is, so unpack the archive and pack it again without compression (zip -0 -r)"
            )
        self._file.seek(info.header_offset)
        header = LOCAL.unpack(read_exactly(self._file, LOCAL.size))
        signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = header
        raw = _raw_name(info)
        found = read_exactly(self._file, name_length) if name_length == len(raw) else None
        extra = read_exactly(self._file, extra_length) if found is not None else b""
        sizes = [size, packed]
        if size == 0xFFFFFFFF or packed == 0xFFFFFFFF:
            sizes = _sizes_64(extra, sizes)
        stated = [*sizes, crc]
        expected = [info.file_size, info.file_size, info.CRC]
        agrees = (
            (signature, flags, method, found) == (b"PK\x03\x04", info.flag_bits, info.compress_type, raw)
            and (stated == expected or (flags & SIZES_FOLLOW and stated == [0, 0, 0]))
        )  # fmt: skip
        begin = info.header_offset + LOCAL.size + name_length + extra_length
        if not agrees or begin + info.file_size > self._limits[name]:
            raise WeightsError(
                f"{self._path}: refused: the header of the member {shortened(name)} contradicts the "
                "directory of the archive"
            )
        return Member(begin, info.file_size, info.CRC)


def _check_end(path, file, size):
    """Check the end of the archive. Returns (number of members, where the directory begins)."""
    start = max(size - END.size - 0xFFFF, 0)
    file.seek(start)
    tail = read_exactly(file, size - start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < END.size:
        raise WeightsError(
            f"{path} is cut short: the directory at the end of the zip archive is missing; download it again"
        )
    _, *disks, here, count, length, offset, comment = END.unpack_from(tail, at)
    at += start
    begin = at
    numbers = [here, count, length, offset]
    if at >= LOCATOR_64.size + END_64.size:
        file.seek(at - LOCATOR_64.size - END_64.size)
        record = read_exactly(file, END_64.size)
        locator = LOCATOR_64.unpack(read_exactly(file, LOCATOR_64.size))
        if locator[0] == b"PK\x06\x07":
            begin = at - LOCATOR_64.size - END_64.size
            signature, record_length, _, _, *disks_64 = END_64.unpack(record)
            numbers_64 = disks_64[2:]
            # A number that the short record can hold must be the same in both.
            same = all(
                short in (long, limit)
                for short, long, limit in zip(numbers, numbers_64, (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF))
            )
            if (
                signature != b"PK\x06\x06"
                or record_length != END_64.size - 12
                or locator[1:] != (0, begin, 1)
                or disks_64[:2] != [0, 0]
                or not same
            ):
                raise WeightsError(f"{path}: refused: the two ends of the zip archive contradict each other")
            numbers = numbers_64
    here, count, length, offset = numbers
    if disks != [0, 0] or here != count:
        raise WeightsError(f"{path}: refused: the zip archive is spread over several files")
    if count > MAX_MEMBERS or length > MAX_DIRECTORY_BYTES:
        raise WeightsError(
            f"{path}: refused: the zip archive has {count} members and a directory of {length} bytes, "
            f"expected at most {MAX_MEMBERS} and {MAX_DIRECTORY_BYTES}"
        )
    if offset + length != begin or at + END.size + comment != size:
        raise WeightsError(
            f"{path} is a damaged zip archive: its directory is said to lie at byte {offset}, {length} bytes "
            f"long, which does not lead to the end of the file ({size} bytes)"
        )
    return count, offset


def _raw_name(info):
    """The name of a member as the file has it."""
    return info.orig_filename.encode("utf-8" if info.flag_bits & UTF8 else "cp437")


def _sizes_64(extra, sizes):
    """Sizes of a member whose header has no room for them: `sizes` with the numbers of the extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            numbers = list(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            return [numbers.pop(0) if size == 0xFFFFFFFF and numbers else size for size in sizes]
        at += 4 + length
    return sizes
