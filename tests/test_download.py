"""Downloads from a server on loopback, with every fault: the file arrives, or nothing has its name."""

import email.utils
import json
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from file_server import Faults, sha256, unused_port

from clipc.errors import DownloadError, NoNetworkError
from clipc.weights import download
from clipc.weights.download import DiskFullError, NotThereError, Remote

DATA = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)


@pytest.fixture
def target(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model" / "weights.dat"


GOOD = sha256(DATA)


def fetch(server, target, sha=GOOD, **faults):
    """Serve DATA with these faults (unless the server has the file already) and download it."""
    if faults or "/file" not in server.files:
        server.files["/file"] = Faults(faults.pop("data", DATA), **faults)
    remote = download.look(f"{server.url}/file")
    return download.download(remote._replace(sha256=sha), target)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_complete(target, data=DATA):
    assert target.read_bytes() == data
    assert left_in(target.parent) == [target.name]


def assert_nothing(target):
    assert left_in(target.parent) == []


def ranges(server):
    return [headers.get("Range") for headers in server.gets("/file")]


# -- transfers that succeed ------------------------------------------------------------------------------


def test_a_plain_download(loopback, target):
    assert fetch(loopback, target) == sha256(DATA)
    assert_complete(target)
    (headers,) = loopback.gets()
    assert headers["Accept-Encoding"] == "identity" and "Range" not in headers


def test_without_a_published_hash_the_hash_is_computed(loopback, target):
    assert fetch(loopback, target, sha=None) == sha256(DATA)
    assert_complete(target)


def test_the_hub_tells_the_hash_before_it_redirects(loopback, target):
    loopback.files["/file"] = Faults(DATA, redirect="/storage", linked=sha256(DATA))
    loopback.files["/storage"] = Faults(DATA)
    remote = download.look(f"{loopback.url}/file")
    assert remote == Remote(f"{loopback.url}/file", len(DATA), sha256(DATA))
    assert [path for _, path, _ in loopback.requests] == ["/file"]  # HEAD is not redirected
    download.download(remote, target)
    assert_complete(target)


def test_a_plain_redirect_is_followed(loopback, target):
    loopback.files["/storage"] = Faults(DATA)
    assert fetch(loopback, target, redirect="/storage") == sha256(DATA)
    assert download.look(f"{loopback.url}/file").size == len(DATA)
    assert_complete(target)


def test_endless_redirects(loopback, target):
    with pytest.raises(DownloadError, match="redirects"):
        fetch(loopback, target, redirect="/file")
    assert_nothing(target)


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_is_resumed(loopback, target, reset):
    fetch(loopback, target, cut_after=[100_000, 120_000], reset=reset, etag='"one"')
    assert_complete(target)
    first, *rest = ranges(loopback)
    begins = [int(text.removeprefix("bytes=").removesuffix("-")) for text in rest]
    assert first is None and len(rest) == 2 and 0 < begins[0] <= 100_000 < begins[1] < 220_001
    assert all(headers["If-Range"] == '"one"' for headers in loopback.gets()[1:])


def test_a_stalled_connection_is_resumed(loopback, target):
    begun = time.monotonic()
    fetch(loopback, target, stall_after=[150_000], etag='"one"')
    assert time.monotonic() - begun < 5
    assert_complete(target)
    assert len(ranges(loopback)) == 2 and ranges(loopback)[1]


def test_a_server_without_ranges_starts_again(loopback, target):
    fetch(loopback, target, cut_after=[100_000], ranges=False, etag='"one"')
    assert_complete(target)
    assert len(ranges(loopback)) == 2 and ranges(loopback)[1]


@pytest.mark.parametrize("etag", ['"one"', None])
def test_a_file_that_changes_meanwhile_is_not_glued(loopback, target, etag):
    """With an ETag the server sends the new file as a whole; without one the hash tells."""

    def change(faults):
        faults.data, faults.etag, faults.then = OTHER, etag and '"two"', None

    loopback.files["/file"] = Faults(DATA, cut_after=[100_000], etag=etag, then=change)
    remote = download.look(f"{loopback.url}/file")._replace(sha256=sha256(OTHER))
    download.download(remote, target)
    assert_complete(target, OTHER)


def test_a_file_that_changes_without_any_hash(loopback, target):
    """Nothing tells versions apart, so no part is kept."""

    def change(faults):
        faults.data, faults.then = OTHER, None

    fetch(loopback, target, sha=None, cut_after=[100_000], then=change)
    assert_complete(target, OTHER)
    assert ranges(loopback) == [None, None]


def test_a_compressed_answer_is_unpacked(loopback, target):
    fetch(loopback, target, encoding="gzip")
    assert_complete(target)


def test_a_compressed_answer_that_breaks_starts_again(loopback, target):
    fetch(loopback, target, encoding="gzip", cut_after=[100_000], etag='"one"')
    assert_complete(target)
    assert ranges(loopback) == [None, None]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(loopback, target, status):
    fetch(loopback, target, statuses=[(status, {})] * 2)
    assert_complete(target)


def test_retry_after_is_waited_for(loopback, target, monkeypatch):
    """As seconds, and as a date, which has whole seconds."""
    slept = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    date = email.utils.formatdate(time.time() + 2, usegmt=True)
    fetch(loopback, target, statuses=[(503, {"Retry-After": "1"}), (429, {"Retry-After": date})])
    assert_complete(target)
    waits = [seconds for seconds in slept if seconds >= 0.9]
    assert waits[0] == 1 and 0.9 <= waits[1] <= 2


def test_a_server_that_knows_no_head(loopback, target):
    fetch(loopback, target, head=405)
    assert_complete(target)


def test_an_existing_file_is_replaced_only_by_a_good_one(loopback, target):
    target.write_bytes(b"the old one")
    with pytest.raises(DownloadError):
        fetch(loopback, target, data=OTHER)
    assert target.read_bytes() == b"the old one" and left_in(target.parent) == [target.name]
    fetch(loopback, target, data=DATA)
    assert_complete(target)


# -- transfers that fail ---------------------------------------------------------------------------------


def test_the_wrong_bytes(loopback, target):
    with pytest.raises(DownloadError) as caught:
        fetch(loopback, target, data=OTHER)
    message = str(caught.value)
    assert sha256(DATA) in message and sha256(OTHER) in message and "300000 bytes" in message
    assert repr(OTHER[:8])[2:-1] in message
    assert_nothing(target)


@pytest.mark.parametrize("sha", [sha256(DATA), None])
def test_a_web_page_in_place_of_the_file(loopback, target, sha):
    page = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    with pytest.raises(DownloadError, match="web page"):
        fetch(loopback, target, sha=sha, data=page, content_type="text/html; charset=utf-8")
    assert_nothing(target)
    with pytest.raises(DownloadError, match="web page"):
        fetch(loopback, target, sha=sha, data=page)
    assert_nothing(target)


@pytest.mark.parametrize(
    "name, data",
    [("config.json", b"{'no': 'json'}"), ("model.safetensors", DATA), ("x.json", b"<html>"), ("x.pt", DATA),
     ("x.bin", b"PK\x03\x04" + DATA)],
)
def test_the_content_counts_where_no_hash_is_known(loopback, target, name, data):
    with pytest.raises(DownloadError, match=f"{name} from 127.0.0.1.* is not what it should be"):
        fetch(loopback, target.with_name(name), sha=None, data=data)
    assert_nothing(target)


def test_a_server_that_promises_more_than_it_sends(loopback, target):
    with pytest.raises(DownloadError, match="expected 400000 bytes, the server now says 300000"):
        fetch(loopback, target, length=400_000)
    assert_nothing(target)
    loopback.files["/file"] = Faults(DATA, length=400_000, ranges=False)
    with pytest.raises(DownloadError, match="tried 3 times.*; .* are kept"):
        fetch(loopback, target)
    assert not target.exists()


def test_a_server_that_promises_less_than_it_has(loopback, target):
    with pytest.raises(DownloadError, match="expected SHA-256"):
        fetch(loopback, target, length=200_000)
    assert_nothing(target)


def test_lengths_that_contradict_each_other(loopback, target):
    loopback.files["/file"] = Faults(DATA, length=299_999)
    with pytest.raises(DownloadError, match="expected 300000 bytes, .* says 299999, which begin with b"):
        download.download(Remote(f"{loopback.url}/file", 300_000, sha256(DATA)), target)
    assert_nothing(target)


def test_a_connection_that_always_breaks_keeps_what_came(loopback, target):
    loopback.files["/file"] = Faults(DATA, cut_after=[100_000] + [0] * 9, etag='"one"')
    with pytest.raises(DownloadError, match="are kept, the next attempt goes on from there"):
        fetch(loopback, target)
    kept = target.with_name("weights.dat.part").stat().st_size
    assert 0 < kept <= 100_000 and not target.exists()
    loopback.files["/file"].cut_after, loopback.requests[:] = [], []
    fetch(loopback, target)
    assert_complete(target)
    assert ranges(loopback) == [f"bytes={kept}-"]


def test_progress_renews_the_patience(loopback, target):
    """Five breaks are more than three attempts, but each brings more of the file."""
    fetch(loopback, target, cut_after=[70_000] * 4, etag='"one"')
    assert_complete(target)
    assert len(ranges(loopback)) == 5


def test_a_server_without_ranges_that_always_breaks_is_given_up(loopback, target):
    with pytest.raises(DownloadError, match="tried 3 times"):
        fetch(loopback, target, cut_after=[100_000] * 20, ranges=False)
    assert 3 <= len(ranges(loopback)) <= 5


def test_a_part_of_another_file_is_thrown_away(loopback, target):
    part = target.with_name("weights.dat.part")
    part.write_bytes(b"x" * 50_000)
    part.with_name(part.name + ".json").write_text(json.dumps({"url": "elsewhere", "sha256": sha256(OTHER)}))
    fetch(loopback, target)
    assert_complete(target)
    assert ranges(loopback) == [None]


def test_a_damaged_part_is_found_by_the_hash_and_fetched_anew(loopback, target):
    part = target.with_name("weights.dat.part")
    part.write_bytes(bytes(50_000))  # as a crash of the computer leaves it
    part.with_name(part.name + ".json").write_text(json.dumps({"sha256": sha256(DATA)}))
    fetch(loopback, target)
    assert_complete(target)
    assert ranges(loopback) == ["bytes=50000-", None]


def test_a_complete_part_is_only_verified(loopback, target):
    part = target.with_name("weights.dat.part")
    part.write_bytes(DATA)
    part.with_name(part.name + ".json").write_text(json.dumps({"sha256": sha256(DATA)}))
    fetch(loopback, target)
    assert_complete(target)
    assert ranges(loopback) == []


@pytest.mark.parametrize(
    "status, headers, message",
    [
        (401, {}, "refused .401.: there is no such repository, or it is private or gated; set HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, "gated: accept its terms in a browser first; set HF_TOKEN"),
        (418, {}, "answered 418"),
        (503, {"Retry-After": "3600"}, "asks to wait 3600 s: try again later"),
        (503, {}, "answered 503 .*tried 3 times"),
    ],
)
def test_refusals(loopback, target, status, headers, message):
    with pytest.raises(DownloadError, match=message):
        fetch(loopback, target, statuses=[(status, headers)] * 9)
    assert_nothing(target)


def test_a_file_that_is_not_there(loopback):
    with pytest.raises(NotThereError, match="no such file .404."):
        download.look(f"{loopback.url}/none")


def test_no_server(target, loopback):
    gone = f"http://127.0.0.1:{unused_port()}/file"
    with pytest.raises(NoNetworkError, match="cannot be reached: .*refused"):
        download.look(gone)
    with pytest.raises(NoNetworkError, match="address of no-such-host.invalid cannot be found"):
        download.look("http://no-such-host.invalid/file")
    with pytest.raises(NoNetworkError):
        download.download(Remote(gone), target)
    assert_nothing(target)


def test_a_proxy_that_is_not_there(monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(NoNetworkError, match="through the proxy"):
        download.look("http://example.invalid/file", download.Policy(1, 1, 1, 1, 0.01))


def test_a_server_that_answers_with_nothing(loopback):
    loopback.files["/file"] = Faults(DATA, then=None)
    loopback._httpd.RequestHandlerClass.do_HEAD = lambda self: loopback.closing.wait(1)
    with pytest.raises(DownloadError, match="sent nothing for 0.4 s .tried 3 times"):
        download.look(f"{loopback.url}/file")


def test_reachable(loopback):
    gone = f"http://127.0.0.1:{unused_port()}/"
    assert download.reachable([gone, f"{loopback.url}/404"]) is None
    assert "refused" in download.reachable([gone])
    begun = time.monotonic()
    loopback._httpd.RequestHandlerClass.do_HEAD = lambda self: loopback.closing.wait(2)
    assert download.reachable([f"{loopback.url}/"], seconds=0.2)
    assert time.monotonic() - begun < 1.5


# -- the disk --------------------------------------------------------------------------------------------


def test_no_space_is_told_before_the_transfer(loopback, target, monkeypatch):
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    with pytest.raises(DiskFullError, match="needs 300 kB more, .* has 1 kB free; CLIPC_CACHE"):
        fetch(loopback, target)
    assert not target.exists()


def test_a_disk_that_runs_full(loopback, target):
    """A limit of the file size in a child process stands for a full disk: writing fails in the midst."""
    loopback.files["/file"] = Faults(DATA, etag='"one"')
    code = f"""
import resource
from pathlib import Path
from clipc.weights import download
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    download.download(
        download.Remote({loopback.url + "/file"!r}, 300_000, {sha256(DATA)!r}), Path({str(target)!r})
    )
except download.DiskFullError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "cannot be written: File too large. What arrived is kept" in run.stdout, run.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    kept = target.with_name("weights.dat.part").stat().st_size
    assert 0 < kept <= 200_000 and not target.exists()
    fetch(loopback, target)
    assert_complete(target)
    assert ranges(loopback)[-1] == f"bytes={kept}-"


def test_a_folder_that_cannot_be_written(loopback, target):
    target.write_bytes(b"a file in the place of a folder")
    with pytest.raises(DownloadError, match="cannot be written: Not a directory"):
        fetch(loopback, target / "deeper")
    assert target.read_bytes() == b"a file in the place of a folder"


# -- Ctrl-C ----------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_came(loopback, target):
    loopback.files["/file"] = Faults(DATA, etag='"one"', pace=0.1)
    code = f"""
from pathlib import Path
from clipc.weights import download
remote = download.Remote({loopback.url + "/file"!r}, 300_000, {sha256(DATA)!r})
download.download(remote, Path({str(target)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    part = target.with_name("weights.dat.part")
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size >= 60_000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    kept = part.stat().st_size
    assert 0 < kept < len(DATA) and not target.exists()
    assert not [name for name in left_in(target.parent) if not name.startswith("weights.dat.part")]
    loopback.files["/file"].pace = 0
    fetch(loopback, target)
    assert_complete(target)
    assert ranges(loopback)[-1] == f"bytes={kept}-"


# -- the token -------------------------------------------------------------------------------------------


def test_the_token_goes_to_the_hub_alone(loopback, target, monkeypatch):
    from file_server import FileServer

    monkeypatch.setenv("HF_TOKEN", "secret")
    with FileServer({"/storage": Faults(DATA)}) as storage:
        fetch(loopback, target, redirect=f"{storage.url}/storage")
        assert_complete(target)
        assert [headers.get("Authorization") for _, _, headers in loopback.requests] == ["Bearer secret"] * 2
        assert storage.requests and not any("Authorization" in headers for _, _, headers in storage.requests)
        download.look(f"{storage.url}/storage")
        assert not any("Authorization" in headers for _, _, headers in storage.requests)


def test_addresses_of_the_hub(monkeypatch):
    for name in ("CLIPC_HUB", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert download.hub_url("a/b", "main", "c") == "https://huggingface.co/a/b/resolve/main/c"
    assert download.hub_url("a/b", "refs/pr/1", "c") == "https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/c"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert download.hub() == "https://mirror.example"
    monkeypatch.setenv("CLIPC_HUB", "mine.example/hub")
    assert download.hub() == "https://mine.example/hub"


@pytest.mark.parametrize(
    "value, expected", [("", False), ("0", False), ("no", False), ("1", True), ("yes", True)]
)
def test_offline(monkeypatch, value, expected):
    monkeypatch.setenv("CLIPC_OFFLINE", value)
    assert download.offline() is expected


# -- what is said ----------------------------------------------------------------------------------------


def test_listeners(loopback, target, capsys):
    said = []
    with download.listening(said.append, bar=True):
        fetch(loopback, target, cut_after=[100_000], etag='"one"', pace=0.01)
        download.say("here")
    assert said == ["here"]
    shown = capsys.readouterr()
    assert "weights.dat" in shown.err and shown.out == ""
    download.say("there")
    assert capsys.readouterr().err == "there\n"


def test_nothing_is_printed_without_a_terminal(loopback, target, capsys):
    fetch(loopback, target)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "size, text",
    [(None, "size unknown"), (5, "5 bytes"), (353_976_522, "354 MB"), (1_353_500_174, "1.35 GB")],
)
def test_megabytes(size, text):
    assert download.megabytes(size) == text


def test_import_is_light():
    code = (
        "import sys, clipc.weights.cache, clipc.cli;"
        "print({'pooch', 'requests', 'urllib3', 'tqdm'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
