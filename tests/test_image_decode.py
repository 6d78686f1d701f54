"""Decoding: PNG equal to Pillow, JPEG close to it, and nothing damaged passes for a picture."""

import glob
import io
import os
import pathlib
import struct
import subprocess
import sys
import threading
import zlib

import image_files
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encode, jpeg_segments, pillow_rgb, random_png, smooth_picture
from PIL import Image

from clipc import _core
from clipc.errors import ImageError

LIMIT = 178_956_970


def decode(data):
    return _core.decode_image(data, LIMIT)


# ---- PNG ----


@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize("colour, depth", image_files.KINDS)
def test_png_equals_pillow(colour, depth, interlaced):
    for height, width in [(1, 1), (1, 9), (9, 1), (3, 5), (17, 23), (33, 31)]:
        data = random_png(colour, depth, height, width, interlaced=interlaced, n_idat=1 + width % 3)
        assert np.array_equal(decode(data), pillow_rgb(data)), (height, width)
        assert _core.image_info(data) == ("PNG", height, width, False)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("colour, depth", [kind for kind in image_files.KINDS if kind[0] in (0, 2, 3)])
def test_png_transparent_colours_are_dropped(colour, depth):
    transparency = {0: struct.pack(">H", 1), 2: struct.pack(">HHH", 1, 2, 3), 3: bytes([0, 128])}[colour]
    data = random_png(colour, depth, 12, 13)
    with_transparency = random_png(colour, depth, 12, 13, transparency=transparency)
    assert np.array_equal(decode(with_transparency), decode(data))
    assert np.array_equal(decode(with_transparency), pillow_rgb(with_transparency))


def test_png_alpha_is_dropped_and_not_blended():
    rgba = np.random.default_rng(0).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    rgba[:, :, 3] = 0
    assert np.array_equal(decode(encode(rgba, "PNG")), rgba[:, :, :3])


def test_png_pixels_beyond_the_palette_are_black():
    data = image_files.png(np.array([[[0], [1], [2], [250]]]), 3, 8, palette=bytes([10, 20, 30, 40, 50, 60]))
    assert decode(data).tolist() == [[[10, 20, 30], [40, 50, 60], [0, 0, 0], [0, 0, 0]]]
    assert np.array_equal(decode(data), pillow_rgb(data))


@pytest.mark.parametrize("colour, depth, interlaced", [(2, 8, False), (3, 4, True), (0, 1, False)])
def test_png_cut_anywhere_is_refused(colour, depth, interlaced):
    data = random_png(colour, depth, 7, 6, interlaced=interlaced, n_idat=2)
    for end in range(len(data)):
        if end < 8:  # not yet a PNG signature: for another decoder, which knows no such format
            assert decode(data[:end]) is None
            continue
        with pytest.raises(ImageError):
            decode(data[:end])
    assert np.array_equal(decode(data + b"trailing bytes"), decode(data))


@settings(deadline=None, max_examples=250)
@given(st.integers(0, 10**6), st.integers(1, 255), st.sampled_from([(2, 8), (3, 2), (6, 16)]))
def test_png_with_a_changed_byte_is_refused_or_the_same(position, change, kind):
    data = bytearray(random_png(*kind, 9, 8))
    expected = decode(bytes(data))
    data[position % len(data)] ^= change
    try:
        result = decode(bytes(data))
    except ImageError:
        return
    # None: the signature is gone, so it is no PNG.
    assert result is None or np.array_equal(result, expected)


def chunks_to_png(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(image_files.png_chunk(*chunk) for chunk in chunks)


HEADER = (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0))
PIXELS = (b"IDAT", zlib.compress(b"\x00abcdef"))
END = (b"IEND", b"")


@pytest.mark.parametrize(
    "chunks, words",
    [
        ([PIXELS, HEADER, END], "the first chunk is no header"),
        ([HEADER, HEADER, PIXELS, END], "second header"),
        ([HEADER, END], "no image data"),
        ([HEADER, (b"IDAT", b""), END], "no image data"),
        ([HEADER, (b"IDAT", zlib.compress(b"\x00abcde")), END], "do not give its pixels"),
        ([HEADER, (b"IDAT", zlib.compress(b"\x00abcdef")[:-6]), END], "do not give its pixels"),
        ([HEADER, (b"IDAT", zlib.compress(b"\x07abcdef")), END], "do not give its pixels"),
        ([HEADER, PIXELS, (b"tEXt", b"a\0b"), PIXELS, END], "interrupted"),
        ([(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0)), PIXELS, END], "palette is missing"),
        ([(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 3, 2, 0, 0, 0)), PIXELS, END], "invalid colour type"),
        ([(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 5, 0, 0, 0)), PIXELS, END], "invalid colour type"),
        ([(b"IHDR", struct.pack(">IIBBBBB", 0, 1, 8, 2, 0, 0, 0)), PIXELS, END], "invalid width"),
        ([HEADER, (b"PLTE", b"ab"), PIXELS, END], "invalid palette"),
    ],
)
def test_png_of_wrong_structure_is_refused(chunks, words):
    with pytest.raises(ImageError, match=words):
        decode(chunks_to_png(*chunks))


def test_png_with_more_data_than_pixels_decodes():
    data = chunks_to_png(HEADER, (b"IDAT", zlib.compress(b"\x00abcdef" + bytes(50))), END)
    assert decode(data).tobytes() == b"abcdef"


def test_png_that_inflates_far_beyond_its_size_is_refused():
    bomb = zlib.compress(bytes(20_000_000), 9)
    with pytest.raises(ImageError, match="far too many"):
        decode(chunks_to_png(HEADER, (b"IDAT", bomb), END))


def test_png_unknown_critical_chunk_is_for_another_decoder():
    assert decode(chunks_to_png(HEADER, (b"ABCD", b""), PIXELS, END)) is None
    assert decode(chunks_to_png(HEADER, (b"abCD", b""), PIXELS, END)) is not None


# ---- JPEG: agreement ----


def difference(data):
    """Mean and largest difference to Pillow, in levels."""
    ours = decode(data)
    assert ours is not None and ours.dtype == np.uint8 and ours.flags.c_contiguous
    levels = np.abs(ours.astype(int) - pillow_rgb(data))
    return levels.mean(), levels.max()


JPEG_OPTIONS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restart": {"restart_marker_blocks": 3},
    "restart rows, progressive": {"restart_marker_rows": 1, "progressive": True},
}


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "grey"])
@pytest.mark.parametrize("options", JPEG_OPTIONS.values(), ids=JPEG_OPTIONS)
def test_jpeg_is_close_to_pillow(options, subsampling):
    worst_mean = worst_max = 0
    for height, width, grain in [
        (97, 133, 3.0),
        (64, 48, 40.0),
        (1, 1, 0.0),
        (3, 2, 0.0),
        (17, 5, 3.0),
        (8, 40, 3.0),
    ]:
        picture = Image.fromarray(smooth_picture(height, width, grain=grain))
        for quality in (10, 50, 75, 95, 100):
            if subsampling == "grey":
                data = encode(picture.convert("L"), "JPEG", quality=quality, **options)
            else:
                data = encode(picture, "JPEG", quality=quality, subsampling=subsampling, **options)
            mean, largest = difference(data)
            worst_mean, worst_max = max(worst_mean, mean), max(worst_max, largest)
            assert _core.image_info(data) == ("JPEG", height, width, False)
    print(
        f"JPEG {subsampling}: mean difference to Pillow at most {worst_mean:.4f}, largest {worst_max} levels"
    )
    assert worst_mean <= 0.2 and worst_max <= 8


@pytest.mark.parametrize(
    "original, sampling, block",
    [("4:2:2", 0x12, (16, 8)), ("4:2:0", 0x41, (8, 32)), ("4:2:0", 0x14, (32, 8))],
    ids=["4:4:0", "4:1:1", "1x4"],
)
def test_jpeg_of_rare_subsampling_is_close_to_pillow(original, sampling, block):
    height, width = (8, 16) if original == "4:2:2" else (16, 16)
    data = encode(smooth_picture(6 * height, 5 * width), "JPEG", quality=90, subsampling=original)
    data = image_files.jpeg_with_frame(data, height=6 * block[0], width=5 * block[1], sampling=sampling)
    mean, largest = difference(data)
    print(f"sampling {sampling:#x}: mean difference to Pillow {mean:.4f}, largest {largest} levels")
    assert mean <= 0.2 and largest <= 8


def test_jpeg_with_a_scan_for_each_component():
    planes = smooth_picture(45, 61).transpose(2, 0, 1)
    data = image_files.jpeg_of_separate_scans(np.ascontiguousarray(planes))
    mean, largest = difference(data)
    assert mean <= 0.2 and largest <= 8
    last_scan = data.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="not coded by any scan"):
        decode(data[:last_scan] + b"\xff\xd9")


def photographs():
    """Content of photographs under CLIPC_DATA, or of generated pictures."""
    folder = os.environ.get("CLIPC_DATA")
    if not folder:
        sizes = [(240, 320), (333, 500), (300, 199)]
        return [
            encode(smooth_picture(h, w, seed=h), "JPEG", quality=q) for h, w in sizes for q in (60, 85, 95)
        ]
    paths = sorted(glob.glob(os.path.join(folder, "coco128", "images", "**", "*.jp*g"), recursive=True))[:60]
    paths += sorted(glob.glob(os.path.join(folder, "zeroshot", "images", "*")))[:60]
    assert paths, f"no photographs under {folder}"
    return [pathlib.Path(path).read_bytes() for path in paths]


def test_photographs_are_close_to_pillow():
    pairs = [difference(data) for data in photographs() if Image.open(io.BytesIO(data)).mode in ("RGB", "L")]
    means, largest = zip(*pairs)
    print(
        f"{len(pairs)} photographs: mean difference to Pillow {np.mean(means):.4f} levels, "
        f"worst mean {max(means):.4f}, largest {max(largest)}"
    )
    assert max(means) <= 0.2 and max(largest) <= 8


# ---- JPEG: damage ----

SMALL_JPEGS = {
    "baseline": {"quality": 60, "subsampling": "4:2:0"},
    "progressive": {"quality": 60, "subsampling": "4:2:0", "progressive": True},
    "restart": {"quality": 60, "subsampling": "4:4:4", "restart_marker_blocks": 1},
    "optimised": {"quality": 90, "subsampling": "4:2:2", "optimize": True},
}


@pytest.fixture(params=SMALL_JPEGS.values(), ids=SMALL_JPEGS)
def small_jpeg(request):
    return encode(smooth_picture(35, 27, grain=20.0), "JPEG", **request.param)


def test_jpeg_cut_anywhere_is_refused(small_jpeg):
    for end in range(len(small_jpeg)):
        if end < 3:
            assert decode(small_jpeg[:end]) is None
            continue
        with pytest.raises(ImageError):
            decode(small_jpeg[:end])
    assert np.array_equal(decode(small_jpeg + b"trailing"), decode(small_jpeg))


def test_jpeg_scan_cut_anywhere_and_closed_is_refused(small_jpeg, request):
    """Also when an end-of-image marker follows, which makes it look complete."""
    _, _, begin = list(jpeg_segments(small_jpeg))[-1]
    for end in range(begin, len(small_jpeg) - 2):
        data = small_jpeg[:end] + b"\xff\xd9"
        try:
            decode(data)
        except ImageError:
            continue
        # Only between two scans of a progressive file is the rest a valid file of lower quality, also when
        # the first byte of a marker is left as filling.
        assert "progressive" in str(request.node.name)
        assert {small_jpeg[end : end + 2], small_jpeg[end - 1 : end + 1]} & {b"\xff\xda", b"\xff\xc4"}


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(sorted(SMALL_JPEGS)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_jpeg_with_changed_bytes_never_crashes(name, changes):
    data = bytearray(encode(smooth_picture(35, 27, grain=20.0), "JPEG", **SMALL_JPEGS[name]))
    for position, value in changes:
        data[position % len(data)] = value
    try:
        result = _core.decode_image(bytes(data), 10**6)
    except ImageError:
        return
    assert result is None or (result.ndim == 3 and result.shape[2] == 3)


def without_segment(data, kind):
    _marker, at, end = next(s for s in jpeg_segments(data) if s[0] == kind)
    return data[:at] + data[end:]


def test_jpeg_without_its_tables_is_refused():
    data = encode(smooth_picture(20, 20), "JPEG")
    for kind in (0xC4, 0xDB):
        with pytest.raises(ImageError, match="table that is not defined"):
            decode(without_segment(data, kind))
    with pytest.raises(ImageError, match="before the frame header"):
        decode(without_segment(data, 0xC0))


def test_jpeg_huffman_table_with_too_many_codes_is_refused():
    data = bytearray(encode(smooth_picture(20, 20), "JPEG"))
    at = next(s for s in jpeg_segments(bytes(data)) if s[0] == 0xC4)[1]
    for counts, words in (
        (bytes([3] + [0] * 15), "more codes"),
        (bytes([0] * 8 + [255] * 8), "does not fit"),
    ):
        data[at + 5 : at + 21] = counts
        with pytest.raises(ImageError, match=words):
            decode(bytes(data))


def test_jpeg_with_missing_restart_marker_is_refused():
    data = encode(smooth_picture(40, 40), "JPEG", restart_marker_blocks=2)
    at = data.index(b"\xff\xd1")
    with pytest.raises(ImageError, match="restart marker is missing"):
        decode(data[: at + 1] + b"\xd2" + data[at + 2 :])
    with pytest.raises(ImageError):
        decode(data[:at] + data[at + 2 :])


def test_jpeg_for_another_decoder():
    picture = Image.fromarray(smooth_picture(20, 20))
    assert decode(encode(picture.convert("CMYK"), "JPEG")) is None
    plain = encode(picture, "JPEG")
    at = next(s for s in jpeg_segments(plain) if s[0] == 0xC0)[1]
    assert decode(plain[: at + 1] + b"\xc9" + plain[at + 2 :]) is None  # arithmetic coding
    assert decode(plain[: at + 4] + b"\x0c" + plain[at + 5 :]) is None  # 12 bits
    # JFIF says YCbCr, the names of the components say RGB: libjpeg believes JFIF, stb_image the names.
    renamed = bytearray(plain)
    scan = list(jpeg_segments(plain))[-1][1]
    for i, name in enumerate(b"RGB"):
        renamed[at + 10 + 3 * i] = name
        renamed[scan + 5 + 2 * i] = name
    assert decode(bytes(renamed)) is None


def test_jpeg_in_rgb_equals_pillow():
    data = encode(smooth_picture(30, 31), "JPEG", keep_rgb=True, quality=95)
    mean, largest = difference(data)
    assert mean <= 0.2 and largest <= 8


def test_jpeg_with_bytes_between_segments_is_for_another_decoder():
    data = encode(smooth_picture(20, 20), "JPEG")
    at = next(s for s in jpeg_segments(data) if s[0] == 0xDB)[1]
    assert decode(data[:at] + b"\0\0" + data[at:]) is None
    assert decode(data[:at] + b"\xff\xff" + data[at:]) is not None  # filling is allowed


# ---- limits, other bytes, threads ----


def test_size_is_checked_before_anything_is_allocated():
    huge_png = chunks_to_png(
        (b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 16, 6, 0, 0, 0)), PIXELS, END
    )
    jpeg = bytearray(encode(smooth_picture(16, 16), "JPEG", progressive=True))
    at = next(s for s in jpeg_segments(bytes(jpeg)) if s[0] == 0xC2)[1]
    jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    for data in (huge_png, bytes(jpeg)):
        with pytest.raises(ImageError, match=r"more than the limit of 178956970 .*CLIPC_MAX_IMAGE_PIXELS"):
            decode(data)


SHORT_OF_MEMORY = """
import resource, sys
import numpy as np
from clipc import _core

files = [open(path, "rb").read() for path in sys.argv[1:]]
small = np.zeros((50, 50, 3), np.uint8)
_core.set_num_threads(1)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
calls = [lambda data=data: _core.decode_image(data, 10**9) for data in files]
calls += [lambda: _core.resize(small, 1, 2**24), lambda: _core.resize(small, 30000, 30000)]
for call in calls:
    try:
        call()
    except MemoryError as error:
        print("MemoryError", error)
    else:
        print("enough")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_lack_of_memory_is_a_memory_error(tmp_path):
    flat = Image.new("RGB", (5000, 5000))
    paths = [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.png")]
    flat.save(paths[0], quality=50)
    flat.save(paths[1], quality=50, progressive=True)
    flat.save(paths[2])
    # A sanitizer would rather end the process than let an allocation fail.
    options = os.environ.get("ASAN_OPTIONS", "") + ":allocator_may_return_null=1"
    run = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, *paths],
        capture_output=True,
        text=True,
        env={**os.environ, "ASAN_OPTIONS": options},
    )
    lines = run.stdout.splitlines()
    assert run.returncode == 0 and len(lines) == 5, run.stderr
    assert all(line.startswith("MemoryError") for line in lines), lines
    assert "bytes could not be allocated" in lines[1] or "out of memory" in lines[1]


def test_limit_is_inclusive():
    data = encode(smooth_picture(10, 12), "PNG")
    assert _core.decode_image(data, 120).shape == (10, 12, 3)
    with pytest.raises(ImageError, match="12 x 10 = 120 pixels, more than the limit of 119"):
        _core.decode_image(data, 119)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"GIF89a", b"hello", bytes(100)])
def test_other_bytes_are_for_another_decoder(data):
    assert decode(data) is None
    assert _core.image_info(data) is None


def test_wrong_arguments():
    with pytest.raises(TypeError):
        _core.decode_image("text", LIMIT)
    with pytest.raises(TypeError):
        _core.decode_image(bytearray(b"x"), LIMIT)
    with pytest.raises(ValueError, match="max_pixels: expected at least 1"):
        _core.decode_image(b"x", 0)
    with pytest.raises(TypeError, match="data: expected bytes, got str"):
        _core.image_info("text")


def test_several_threads_decode_at_once():
    good = encode(smooth_picture(200, 300), "JPEG")
    damaged = random_png(2, 8, 40, 40)[:-30]
    expected = decode(good)
    failures = []

    def work(number):
        for _ in range(10):
            if number % 2:
                try:
                    decode(damaged)
                    failures.append("damaged file accepted")
                except ImageError as error:
                    if "ends early" not in str(error):
                        failures.append(str(error))
            elif not np.array_equal(decode(good), expected):
                failures.append("different pixels")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_decoded_array_owns_its_pixels():
    array = decode(encode(smooth_picture(10, 10), "PNG"))
    part = array[2:5]
    copy = part.copy()
    del array
    assert part.flags.writeable and np.array_equal(part, copy)
