"""Image files for the tests, made on the spot: PNG of every kind, smooth pictures, unusual JPEG."""

import io
import itertools
import struct
import zlib

import numpy as np
from PIL import Image

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type: samples per pixel
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
KINDS = [(colour, depth) for colour, depths in DEPTHS.items() for depth in depths]
# First row and column, and steps, of the seven passes of an interlaced PNG.
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def smooth_picture(height, width, seed=0, grain=4.0):
    """Smooth noise with some grain, uint8 (height, width, 3): compresses and resizes like a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 12 + 3, width // 12 + 3, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(
        float
    )
    return np.clip(picture + rng.normal(size=picture.shape) * grain, 0, 255).astype(np.uint8)


def encode(picture, format, **options):
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, format, **options)
    return file.getvalue()


def pillow_rgb(data):
    """What Pillow makes of a file; 16-bit grey by its high byte, which `convert` would clip instead."""
    image = Image.open(io.BytesIO(data))
    if image.mode.startswith("I"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _filtered_rows(samples, depth, rng):
    """The rows of one (pass of an) image, packed, each with a random filter."""
    height, _width, channels = samples.shape
    if depth == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    elif depth == 8:
        rows = samples.astype(np.uint8).reshape(height, -1)
    else:
        bits = (samples.reshape(height, -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    step = max(1, channels * depth // 8)
    out = bytearray()
    above = np.zeros(rows.shape[1], int)
    for row in rows.astype(int):
        left = np.concatenate([np.zeros(step, int), row])[: len(row)]
        above_left = np.concatenate([np.zeros(step, int), above])[: len(row)]
        guess = left + above - above_left
        distances = np.abs(np.stack([left, above, above_left]) - guess)
        paeth = np.choose(distances.argmin(axis=0), [left, above, above_left])
        kind = int(rng.integers(5))
        prediction = [0, left, above, (left + above) // 2, paeth][kind]
        out += bytes([kind]) + ((row - prediction) % 256).astype(np.uint8).tobytes()
        above = row
    return bytes(out)


def png(
    samples, colour, depth, *, interlaced=False, palette=None, transparency=None, seed=0, n_idat=1, extra=b""
):
    """A PNG file of `samples` (H, W, channels), with all filters, optionally interlaced."""
    rng = np.random.default_rng(seed)
    height, width = samples.shape[:2]
    if interlaced:
        parts = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7]
        raw = b"".join(_filtered_rows(part, depth, rng) for part in parts if part.size)
    else:
        raw = _filtered_rows(samples, depth, rng)
    data = zlib.compress(raw)
    cuts = np.linspace(0, len(data), n_idat + 1).astype(int)
    file = b"\x89PNG\r\n\x1a\n" + png_chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    )
    if palette is not None:
        file += png_chunk(b"PLTE", palette)
    if transparency is not None:
        file += png_chunk(b"tRNS", transparency)
    file += extra
    for begin, end in itertools.pairwise(cuts):
        file += png_chunk(b"IDAT", data[begin:end])
    return file + png_chunk(b"IEND", b"")


def random_png(colour, depth, height, width, *, seed=0, **options):
    rng = np.random.default_rng((seed, colour, depth, height, width))
    samples = rng.integers(0, 2**depth, (height, width, CHANNELS[colour]))
    if colour == 3:
        options.setdefault("palette", rng.integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes())
    return png(samples, colour, depth, seed=seed, **options)


def jpeg_segments(data):
    """(marker, position, end) of each segment up to the first scan header, which is the last."""
    at = 2
    while True:
        marker = data[at + 1]
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at, end
        if marker == 0xDA:
            return
        at = end


def jpeg_with_frame(data, *, height, width, sampling):
    """The same coded blocks under another frame header: (height, width) and the first component's sampling
    factors, as one byte 0xHV. The numbers of coding units and of blocks in each must not change."""
    data = bytearray(data)
    for marker, at, _ in jpeg_segments(bytes(data)):
        if marker in (0xC0, 0xC1, 0xC2):
            data[at + 5 : at + 9] = struct.pack(">HH", height, width)
            data[at + 11] = sampling
    return bytes(data)


def jpeg_of_separate_scans(planes, quality=90):
    """A baseline JPEG whose three components each have a scan of their own, from three grey pictures."""
    files = [encode(Image.fromarray(plane), "JPEG", quality=quality) for plane in planes]
    out, scans = bytearray(b"\xff\xd8"), b""
    for marker, at, end in jpeg_segments(files[0]):
        if marker == 0xC0:
            header = files[0][at + 4 : at + 9]
            body = header + b"\x03" + b"".join(bytes([i + 1, 0x11, 0]) for i in range(3))
            out += b"\xff\xc0" + struct.pack(">H", len(body) + 2) + body
        elif marker != 0xDA:
            out += files[0][at:end]
    for i, file in enumerate(files):
        _, _, end = list(jpeg_segments(file))[-1]
        scans += b"\xff\xda" + struct.pack(">H", 8) + bytes([1, i + 1, 0, 0, 63, 0]) + file[end:-2]
    return bytes(out) + scans + b"\xff\xd9"
