"""One URL to one file: resumed, verified, and there as a whole or not at all.

    remote = look(url)                     what the server says of the file: size, SHA-256
    download(remote, folder / "name")      to name.part, verified, renamed

pooch verifies the SHA-256 and gives the file its name; the transfer is our own, because pooch's cannot go on
where an earlier one stopped. What has arrived stays in ``name.part`` until the file is complete, whatever
ends the transfer: Ctrl-C, a broken connection, a full disk.

``requests`` takes proxies from the environment (``HTTPS_PROXY``, ``NO_PROXY``, ...), and certificates from
``REQUESTS_CA_BUNDLE``.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import json
import os
import re
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from clipc.errors import ClipcError, DownloadError, NoNetworkError
from clipc.progress import progress_bar

# Small enough that an interruption loses little, large enough not to slow a fast line down.
CHUNK_BYTES = 1 << 16
REDIRECTS = 10
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

WEB_PAGE = "a web page: the answer of a proxy or of a login page?"

HUB = "https://huggingface.co"


class Policy(NamedTuple):
    """How patient a download is. Times in seconds.

    Attributes
    ----------
    connect_timeout : float
        To reach a server.
    read_timeout : float
        Without a byte.
    attempts : int
        In a row that bring nothing new.
    connect_attempts : int
        To reach a server.
    backoff : float
        Before the second attempt; doubles with each.
    longest_wait : float
        That a server may ask for (``Retry-After``).
    """

    connect_timeout: float = 10
    read_timeout: float = 30
    attempts: int = 5
    connect_attempts: int = 2
    backoff: float = 1
    longest_wait: float = 60


POLICY = Policy()


class Remote(NamedTuple):
    """What is known of a file before it is downloaded; None where nothing is.

    Attributes
    ----------
    url : str
    size : int or None
        Bytes.
    sha256 : str or None
    """

    url: str
    size: int | None = None
    sha256: str | None = None

    @property
    def host(self):
        return urllib.parse.urlsplit(self.url).netloc


class NotThereError(DownloadError):
    """The server answers that it has no such file."""


class DiskFullError(DownloadError):
    """There is no space for the file, which another server would not change."""


class _BrokenError(DownloadError):
    """An attempt failed in a way that another may not; `wait`: seconds that the server asks for."""

    def __init__(self, message, wait=None):
        super().__init__(message)
        self.wait = wait


# -- what is said meanwhile ------------------------------------------------------------------------------


class Listener(NamedTuple):
    """Who is told what a download does: `say` takes a line, `bar` says whether a progress bar is wanted.

    None for `bar`: on a terminal and in a notebook.
    """

    say: object
    bar: bool | None = None


def _print_line(message):
    # Nobody listens where standard error is closed.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(message, file=sys.stderr, flush=True)


_TO_STDERR = Listener(_print_line)
_listener = contextvars.ContextVar("clipc_download_listener", default=_TO_STDERR)


@contextlib.contextmanager
def listening(say, bar=None):
    """Within the block, tell what downloads do to `say` instead of standard error; see `Listener`."""
    token = _listener.set(Listener(say, bar))
    try:
        yield
    finally:
        _listener.reset(token)


def say(message):
    """Tell whoever listens."""
    _listener.get().say(message)


def _bar_wanted():
    bar = _listener.get().bar
    if bar is not None:
        return bar
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")  # a notebook


def megabytes(size):
    """A number of bytes for people; decimal units, as the hub shows them."""
    if size is None:
        return "size unknown"
    if size < 1e6:
        return f"{size / 1e3:.0f} kB" if size >= 1000 else f"{size} bytes"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


# -- the environment -------------------------------------------------------------------------------------


def offline():
    """Whether ``CLIPC_OFFLINE`` forbids the network."""
    return os.environ.get("CLIPC_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")


def hub():
    """Address of the Hugging Face hub: ``CLIPC_HUB``, else ``HF_ENDPOINT``, else the hub itself."""
    chosen = os.environ.get("CLIPC_HUB") or os.environ.get("HF_ENDPOINT") or HUB
    return (chosen if "://" in chosen else f"https://{chosen}").rstrip("/")


def hub_url(repository, revision, name):
    """Address of a file in a repository of the hub."""
    return f"{hub()}/{repository}/resolve/{urllib.parse.quote(revision, safe='')}/{name}"


# -- one request -----------------------------------------------------------------------------------------


class _HubToken:
    """``HF_TOKEN`` for the hub. requests takes it out again when a redirect leads to another host."""

    def __init__(self, token):
        self.token = token

    def __call__(self, request):
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def _authorisation(url):
    token = os.environ.get("HF_TOKEN", "").strip()
    theirs, ours = (urllib.parse.urlsplit(address)[:2] for address in (url, hub()))
    return _HubToken(token) if token and theirs == ours else None


def _send(session, method, url, policy, *, headers=None, follow=True):
    """One request. Problems become errors that say whether a server was reached at all."""
    from requests import exceptions

    host = urllib.parse.urlsplit(url).netloc
    try:
        return session.request(
            method,
            url,
            # A compressed answer could not be resumed, and its length is not that of the file.
            headers={"Accept-Encoding": "identity", "User-Agent": "clipc", **(headers or {})},
            auth=_authorisation(url),
            timeout=(policy.connect_timeout, policy.read_timeout),
            stream=True,
            allow_redirects=follow,
        )
    except exceptions.ConnectTimeout:
        raise NoNetworkError(f"{host} did not answer within {policy.connect_timeout:g} s") from None
    except exceptions.ProxyError as error:
        raise NoNetworkError(f"{host} cannot be reached through the proxy: {_innermost(error)}") from None
    except exceptions.SSLError as error:
        raise NoNetworkError(f"{host}: no trusted connection: {_innermost(error)}") from None
    except exceptions.ReadTimeout:
        raise _BrokenError(f"{host} sent nothing for {policy.read_timeout:g} s") from None
    except exceptions.ConnectionError as error:
        reason = _innermost(error)
        if "NameResolution" in repr(error) or "getaddrinfo" in repr(error):
            raise NoNetworkError(f"the address of {host} cannot be found: {reason}") from None
        if "NewConnection" in repr(error):
            raise NoNetworkError(f"{host} cannot be reached: {reason}") from None
        raise _BrokenError(f"{host} broke the connection off: {reason}") from None
    except (exceptions.RequestException, ValueError) as error:
        raise DownloadError(f"{url}: {_innermost(error)}") from None


def _innermost(error):
    """The reason of an exception that wraps others, without the objects in their texts."""
    seen = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "reason", None) or next(
            (part for part in reversed(getattr(error, "args", ())) if isinstance(part, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = getattr(error, "strerror", None) or str(error)
    text = re.sub(r"<[^<>]* object at 0x[0-9a-f]+>(: )?|HTTPS?Connection\([^()]*\): ", "", text)
    return text.strip()[:200] or type(error).__name__


def _check_status(response, url):
    """Raise what an answer without the file means."""
    status = response.status_code
    if status in (200, 206):
        return
    host = urllib.parse.urlsplit(url).netloc
    code = response.headers.get("X-Error-Code", "")
    if status in (401, 403):
        if url.startswith(f"{hub()}/"):
            token = os.environ.get("HF_TOKEN")
            advice = "the token in HF_TOKEN does not allow it" if token else "set HF_TOKEN"
            meaning = (
                "the repository is gated: accept its terms in a browser first"
                if code == "GatedRepo"
                else "there is no such repository, or it is private or gated"
            )
            raise DownloadError(f"{url}: refused ({status}): {meaning}; {advice}")
        raise DownloadError(f"{url}: refused ({status})")
    if status in (404, 410):
        what = {"RepoNotFound": "repository", "RevisionNotFound": "revision"}.get(code, "file")
        raise NotThereError(f"{url}: no such {what} ({status})")
    if status in (408, 425, 429) or status >= 500:
        message = f"{host} answered {status} {response.reason or ''}".rstrip()
        raise _BrokenError(message, _retry_after(response))
    raise DownloadError(f"{url}: answered {status} {response.reason or ''}".rstrip())


def _retry_after(response):
    """Seconds of a Retry-After header, which holds a number or a date; None without one."""
    import email.utils

    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return int(value)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _wait(error, failures, policy):
    """Sleep before the next attempt, unless the server asks for more than anybody waits."""
    seconds = policy.backoff * 2 ** (failures - 1)
    asked = getattr(error, "wait", None)
    if asked is not None:
        if asked > policy.longest_wait:
            raise DownloadError(f"{error}; it asks to wait {asked:.0f} s: try again later") from None
        seconds = max(seconds, asked)
    time.sleep(min(seconds, policy.longest_wait))


# -- what a server says of a file ------------------------------------------------------------------------


def look(url, policy=None):
    """Ask a server for the size and, if it tells, the SHA-256 of a file.

    Parameters
    ----------
    url : str
    policy : Policy, optional

    Returns
    -------
    Remote

    Raises
    ------
    NoNetworkError
        No server was reached.
    NotThereError
        It has no such file.
    DownloadError
        It refuses, or does not answer.

    Notes
    -----
    The hub answers with a redirect, whose headers ``X-Linked-Etag`` and ``X-Linked-Size`` describe the file:
    for those kept with Git LFS, all weights, the former is the SHA-256. The redirect is not followed then.
    """
    policy = policy or POLICY
    failures = 0
    with _session() as session:
        while True:
            try:
                return _look_once(session, url, policy)
            except (_BrokenError, NoNetworkError) as error:
                failures += 1
                most = policy.connect_attempts if isinstance(error, NoNetworkError) else policy.attempts
                if failures >= most:
                    raise _final(error, failures) from None
                _wait(error, failures, policy)


def _look_once(session, url, policy):
    address = url
    for _ in range(REDIRECTS):
        with _send(session, "HEAD", address, policy, follow=False) as response:
            linked = response.headers.get("X-Linked-Etag", "")
            sha256 = linked.removeprefix("W/").strip('"').lower()
            if not re.fullmatch(r"[0-9a-f]{64}", sha256):
                sha256 = None
            size = response.headers.get("X-Linked-Size", "")
            if sha256 or size.isdigit():
                if response.status_code >= 400:
                    _check_status(response, url)
                return Remote(url, int(size) if size.isdigit() else None, sha256)
            if response.is_redirect:
                address = urllib.parse.urljoin(address, response.headers["Location"])
                continue
            # Simple servers know no HEAD, and signed addresses refuse it.
            signed = response.status_code in (400, 403) and not address.startswith(f"{hub()}/")
            if signed or response.status_code in (405, 501):
                return Remote(url)
            _check_status(response, url)
            size = response.headers.get("Content-Length", "")
            plain = response.headers.get("Content-Encoding", "identity") == "identity"
            return Remote(url, int(size) if size.isdigit() and plain else None)
    raise DownloadError(f"{url}: more than {REDIRECTS} redirects")


def reachable(urls, seconds=3.0):
    """Why none of several servers can be reached, or None if one answers.

    Returns after `seconds` whatever the network does: a search for an address cannot be interrupted, and a
    firewall that drops everything lets each address of each server take its time.

    Parameters
    ----------
    urls : list of str
    seconds : float

    Returns
    -------
    str or None
    """
    policy = Policy(connect_timeout=seconds, read_timeout=seconds)
    answers, news = [], threading.Condition()

    def ask(url):
        try:
            with _session() as session, _send(session, "HEAD", url, policy, follow=False):
                found = None
        except ClipcError as error:
            found = str(error)
        with news:
            answers.append(found)
            news.notify()

    for url in urls:
        threading.Thread(target=ask, args=(url,), daemon=True, name="clipc-reachable").start()
    with news:
        news.wait_for(lambda: None in answers or len(answers) == len(urls), seconds)
        if None in answers:
            return None
        return answers[0] if answers else f"no server answered within {seconds:g} s"


def _session():
    import requests

    return requests.Session()


def _final(error, failures):
    """The error that an attempt failed with, as the one that ends the download."""
    kind = NoNetworkError if isinstance(error, NoNetworkError) else DownloadError
    return kind(f"{error} (tried {failures} times)" if failures > 1 else str(error))


# -- the transfer ----------------------------------------------------------------------------------------


def download(remote, target, policy=None):
    """Download a file.

    Parameters
    ----------
    remote : Remote
        From `look`, or with a SHA-256 that is known from elsewhere.
    target : pathlib.Path
        Its folder must exist. A file of that name is replaced, once the new one is there and verified.
    policy : Policy, optional

    Returns
    -------
    str
        The SHA-256.

    Raises
    ------
    NoNetworkError, NotThereError, DownloadError
        ``target`` is as it was. What arrived is in ``target.part``, for the next attempt, unless it is wrong.
    DiskFullError
        No space, likewise.
    """
    import pooch

    policy = policy or POLICY
    target = Path(target)
    part = target.with_name(target.name + ".part")
    transfer = _Transfer(remote, part, policy, target.name)
    known = f"sha256:{remote.sha256}" if remote.sha256 else None
    # pooch would keep a file for which it has no hash to compare; it is to be replaced.
    new = target.with_name(target.name + ".new")
    with contextlib.suppress(OSError):
        os.remove(new)
    while True:
        try:
            with _quiet_pooch():
                pooch.retrieve(remote.url, known, fname=new.name, path=new.parent, downloader=transfer)
            break
        except ValueError as error:  # the wrong hash; pooch has removed the file
            if transfer.resumed:
                # Its beginning may be to blame, from before a crash; once more from the start.
                say(f"{target.name}: what was left of an earlier download does not fit; starting again")
                continue
            raise DownloadError(
                f"{target.name} from {remote.host} is not what it should be: expected SHA-256 "
                f"{remote.sha256}, {_got(error)}; received were {transfer.received}. It was thrown away"
            ) from None
        except OSError as error:
            if isinstance(error, ClipcError):
                raise
            raise _disk_error(error, target) from None
    digest = remote.sha256 or pooch.file_hash(str(new))
    os.replace(new, target)
    return digest


def _got(error):
    found = re.search(r"got ([0-9a-f]{64})", str(error))
    return f"got {found[1]}" if found else str(error)


@contextlib.contextmanager
def _quiet_pooch():
    """pooch tells each download to standard error; here others do so."""
    import logging

    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Transfer:
    """A downloader for pooch: brings the file to `part`, through any number of attempts, and hands it over.

    Attributes
    ----------
    resumed : bool
        Whether the last transfer went on where an earlier one had stopped.
    received : str
        What came, in words, for the case that its hash is wrong.
    """

    def __init__(self, remote, part, policy, name):
        self.remote, self.part, self.policy, self.name = remote, part, policy, name
        self.state_file = part.with_name(part.name + ".json")
        self.resumed = False
        self.received = "nothing"

    def __call__(self, url, output_file, pooch):
        self.bring()
        with open(self.part, "rb") as file:
            start = file.read(48)
            os.fsync(file.fileno())
        self.received = f"{os.path.getsize(self.part)} bytes that begin with {_described(start)}"
        if self.remote.sha256 is None:
            self._check_content()
        os.replace(self.part, output_file)
        self._forget()

    def bring(self):
        """Fill `part`, in as many attempts as bring something new."""
        failures, best = 0, self._usable_bytes()
        self.resumed = best > 0
        if best:
            say(f"{self.name}: going on after {megabytes(best)} of {megabytes(self.remote.size)}")
        bar = progress_bar(
            self.remote.size, "B", _bar_wanted(), initial=best, unit_scale=True, desc=self.name, leave=False
        )
        with _session() as session, bar as progress:
            while True:
                try:
                    self._receive(session, progress)
                    return
                except (_BrokenError, NoNetworkError) as error:
                    have = self._usable_bytes()
                    failures = 0 if have > best else failures
                    best = max(best, have)
                    failures += 1
                    most = self.policy.attempts
                    if isinstance(error, NoNetworkError) and not best:
                        most = self.policy.connect_attempts
                    if failures >= most:
                        final = _final(error, failures)
                        if not have:
                            raise final from None
                        raise type(final)(
                            f"{self.name}: {final}; {megabytes(have)} of {megabytes(self.remote.size)} are "
                            "kept, the next attempt goes on from there"
                        ) from None
                    _wait(error, failures, self.policy)

    def _receive(self, session, progress):
        """One request, from where `part` ends."""
        have = self._usable_bytes()
        size = self.remote.size
        if size is not None and have == size:
            return
        headers, etag = {}, None
        if have:
            headers["Range"] = f"bytes={have}-"
            etag = self._state().get("etag") if self._state().get("url") == self.remote.url else None
            if etag:
                headers["If-Range"] = etag  # a server whose file has changed sends the new one as a whole
        with _send(session, "GET", self.remote.url, self.policy, headers=headers) as response:
            if response.status_code == 416:
                if size is None and response.headers.get("Content-Range", "") == f"bytes */{have}":
                    return
                self._start_over(progress, have)
                raise _BrokenError(f"{self.remote.host} has less of the file than was received before")
            _check_status(response, self.remote.url)
            content = response.headers.get("Content-Type", "").lower()
            if content.startswith("text/html"):
                raise DownloadError(
                    f"{self.remote.url}: expected the file {self.name}, got {WEB_PAGE}"
                )
            encoded = response.headers.get("Content-Encoding", "identity") != "identity"
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() and not encoded else None
            if response.status_code == 206:
                total = self._check_range(response, have, encoded, etag, progress)
                self.resumed = True
            else:
                if have:
                    self._start_over(progress, have)
                have = 0
            if total is not None and size is not None and total != size:
                self._start_over(progress, have)
                message = f"{self.remote.url}: expected {size} bytes, the server now says {total}"
                if response.status_code == 200:
                    message += f", which begin with {_described(next(response.iter_content(48), b''))}"
                raise DownloadError(message)
            self._remember(response)
            self._check_space((total or size or 0) - have)
            try:
                self._write(response, have, progress)
            except BaseException:
                if encoded:  # where the sender's stream stopped is not where the file stops
                    self._start_over(progress, self.part.stat().st_size)
                raise
        got = self.part.stat().st_size
        expected = total if total is not None else size
        if expected is not None and got != expected:
            if got > expected:
                self._start_over(progress, got)
            raise _BrokenError(f"{self.remote.host} ended after {got} of {expected} bytes")

    def _check_range(self, response, have, encoded, etag, progress):
        """Whether a part is the one that was asked for, of the same file; returns the length of all."""
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        now = response.headers.get("ETag")
        if not match or int(match[1]) != have or encoded or (etag and now and now != etag):
            self._start_over(progress, have)
            raise _BrokenError(f"{self.remote.host} sent another part than the one that was asked for")
        return None if match[2] == "*" else int(match[2])

    def _write(self, response, have, progress):
        from requests import exceptions

        host = self.remote.host
        try:
            with open(self.part, "r+b" if have else "wb") as file:
                file.seek(have)
                for chunk in response.iter_content(CHUNK_BYTES):
                    file.write(chunk)
                    progress.update(len(chunk))
        except exceptions.ConnectionError as error:
            if "timed out" in str(error).lower():
                raise _BrokenError(f"{host} sent nothing for {self.policy.read_timeout:g} s") from None
            raise _BrokenError(f"{host} broke the connection off: {_innermost(error)}") from None
        except exceptions.RequestException as error:
            raise _BrokenError(f"{host} broke the connection off: {_innermost(error)}") from None
        except OSError as error:
            if isinstance(error, ClipcError):
                raise
            raise _disk_error(error, self.part) from None

    def _check_space(self, needed):
        import shutil

        try:
            free = shutil.disk_usage(self.part.parent).free
        except OSError:
            return
        if needed > free:
            raise DiskFullError(
                f"{self.name} needs {megabytes(needed)} more, {self.part.parent} has {megabytes(free)} free; "
                "CLIPC_CACHE names another folder"
            )

    def _check_content(self):
        """What the file itself tells, where no hash does."""
        from clipc.weights.files import open_weights
        from clipc.weights.safetensors_file import load_json

        try:
            if self.name.endswith(".json"):
                load_json(self.part)
            elif self.name.endswith((".safetensors", ".bin", ".pt")):
                open_weights(self.part).close()
            elif self.received.endswith(WEB_PAGE):
                raise ValueError("a web page")
        except ValueError as error:
            self._discard()
            raise DownloadError(
                f"{self.name} from {self.remote.host} is not what it should be: {error}; received were "
                f"{self.received}. It was thrown away"
            ) from None

    # -- what is left of an earlier transfer

    def _state(self):
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.state_file.read_text("utf-8"))
            if isinstance(found, dict):
                return found
        return {}

    def _usable_bytes(self):
        """Bytes of `part` that are of the file which the server has now; others are discarded."""
        try:
            have = self.part.stat().st_size
        except FileNotFoundError:
            return 0
        state, remote = self._state(), self.remote
        if remote.sha256:
            usable = state.get("sha256") == remote.sha256
        else:
            usable = state.get("url") == remote.url and bool(state.get("etag"))
        if not usable or (remote.size is not None and have > remote.size):
            self._discard()
            return 0
        return have

    def _remember(self, response):
        """Note what `part` is a part of, before anything is in it."""
        etag = response.headers.get("ETag", "")
        state = {
            "url": self.remote.url,
            "sha256": self.remote.sha256,
            "size": self.remote.size,
            # A weak one promises no equal bytes.
            "etag": etag if etag.startswith('"') else None,
        }
        if state != self._state():
            self.state_file.write_text(json.dumps(state), "utf-8")

    def _forget(self):
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.state_file)

    def _discard(self):
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.part)
        self._forget()

    def _start_over(self, progress, have):
        self._discard()
        progress.update(-have)


def _described(start):
    """The first bytes of what came, for a person."""
    page = start.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<head", b"<?xml"))
    return f"{start!r}{f', {WEB_PAGE}' if page else ''}"


def _disk_error(error, path):
    if error.errno in DISK_FULL:
        return DiskFullError(
            f"{path}: cannot be written: {error.strerror}. What arrived is kept; make space and try "
            "again, or set CLIPC_CACHE to another folder"
        )
    return DownloadError(f"{error.filename or path}: cannot be written: {error.strerror or error}")
