"""A notebook in JupyterLab, in a real browser: it is shown with its pictures, and its cells run from there.

The browser is driven through the DevTools protocol of Chromium, so nothing is needed but a Chromium.
"""

import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from availability import require, unavailable
from test_notebooks import ROOT, folder, tool  # noqa: F401  (folder is a fixture)

nbformat = require("nbformat")
websocket = require("websocket")  # of websocket-client
for module in ("jupyterlab", "ipykernel", "matplotlib"):
    require(module)

NOTEBOOK = ROOT / "notebooks" / "04_zero_shot_detection.ipynb"

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# Longest wait for one thing to happen, seconds: a slow machine is no error.
PATIENCE = 60


def until(condition, what):
    """Wait until the condition gives something true, which is returned."""
    end = time.monotonic() + PATIENCE
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            pytest.fail(f"waited {PATIENCE} s for {what}")
        time.sleep(0.1)


@contextlib.contextmanager
def process(command, log, **options):
    """A child in a group of its own, all of which is ended; what it says goes to the file `log`."""
    with open(log, "wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options
        )
        try:
            yield child
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(10)


def fetch(url, method="GET", **headers):
    """What a server on this machine answers; None while it does not answer."""
    request = urllib.request.Request(url, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PATIENCE) as response:
            return response.read().decode() or "{}"
    except (urllib.error.URLError, ConnectionError):
        return None


@pytest.fixture
def server(folder, tmp_path):  # noqa: F811
    """JupyterLab with the notebooks' folder, nothing of this user's settings: its address and token."""
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # It would ask the network for news.
    quiet = json.dumps({"fetchNews": "false", "checkForUpdates": False})
    (settings / "notification.jupyterlab-settings").write_text(quiet)
    own = {
        "HOME": "home", "IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name not in tool.READERS_OWN}
    environment |= {name: str(tmp_path / value) for name, value in own.items()}
    token = secrets.token_hex(16)
    environment |= {"JUPYTER_TOKEN": token, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder.parent}"]
    if os.name == "posix" and os.geteuid() == 0:
        command.append("--allow-root")
    address = f"http://127.0.0.1:{port}"
    log = tmp_path / "jupyterlab.log"
    with process(command, log, env=environment, cwd=tmp_path) as child:

        def answers():
            assert child.poll() is None, log.read_text(errors="replace")
            return fetch(f"{address}/api/status", Authorization=f"token {token}")

        until(answers, "JupyterLab to answer")
        yield address, token
        # Ends the kernels as well, which have groups of their own.
        fetch(f"{address}/api/shutdown", "POST", Authorization=f"token {token}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(20)


class Page:
    """A page of a Chromium.

    Parameters
    ----------
    address : str
        Of its DevTools, ws://...
    """

    def __init__(self, address):
        self._socket = websocket.create_connection(address, timeout=PATIENCE, suppress_origin=True)
        self._numbers = itertools.count(1)

    def close(self):
        self._socket.close()

    def call(self, method, **parameters):
        """A method of the DevTools protocol, and what it returns."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv())  # or something that happened, which has no id
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def value(self, script):
        """The value of a JavaScript expression; None where it fails, as while a page is loaded."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script, what):
        """Wait until a JavaScript expression has a true value, which is returned."""
        try:
            return until(lambda: self.value(script), what)
        except pytest.fail.Exception as error:
            pytest.fail(f"{error}; the page says: {self.value('document.body.innerText')}")

    def click(self, script):
        """Click on the middle of the element that an expression gives."""
        place = self.value(
            f"(() => {{ const e = {script}; e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1
            )

    def press_shift_enter(self):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 8}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)


@pytest.fixture
def page(tmp_path):
    """An empty page of a Chromium without a window, with a profile of its own."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        unavailable(f"no browser was found: {', '.join(BROWSERS)}")
    profile = tmp_path / "profile"
    command = [browser, "--headless=new", f"--user-data-dir={profile}", "--remote-debugging-port=0"]
    command += ["--no-first-run", "--no-default-browser-check", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--disable-background-networking", "--no-proxy-server", "--window-size=1400,1200"]
    if os.name == "posix" and os.geteuid() == 0:
        command.append("--no-sandbox")  # which does not start as root
    log = tmp_path / "browser.log"
    with process([*command, "about:blank"], log) as child:
        port_file = profile / "DevToolsActivePort"

        def port():
            assert child.poll() is None, log.read_text(errors="replace")
            return port_file.is_file() and re.match(r"\d+(?=\n)", port_file.read_text())

        number = until(port, "the browser to start")[0]

        def address():
            pages = json.loads(fetch(f"http://127.0.0.1:{number}/json/list") or "[]")
            return next((page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"), None)

        page = Page(until(address, "a page of the browser"))
        try:
            yield page
        finally:
            page.close()


def size_in_view(picture):
    """An expression: width and height of a picture, in its own pixels, once it is loaded and in view."""
    return (
        f"(() => {{ const p = {picture}; if (!p?.complete) return null;"
        " p.scrollIntoView({block: 'center'}); const r = p.getBoundingClientRect();"
        " const inView = r.height > 0 && r.top < innerHeight && r.bottom > 0;"
        " return inView && [p.naturalWidth, p.naturalHeight]; })()"
    )


@pytest.mark.full
def test_a_notebook_in_jupyterlab(folder, server, page):  # noqa: F811
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    heading = notebook.cells[0].source.partition("\n")[0].removeprefix("# ")
    numbers = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    first, third = numbers[0], numbers[2]
    for number in numbers[:3]:  # so that what they show later was made here
        notebook.cells[number].outputs, notebook.cells[number].execution_count = [], None
    nbformat.write(notebook, folder / NOTEBOOK.name)

    def cell(number):
        return f"document.querySelector('.jp-Notebook .jp-Cell[data-windowed-list-index=\"{number}\"]')"

    # It is shown.
    address, token = server
    page.call("Page.navigate", url=f"{address}/lab/tree/notebooks/{NOTEBOOK.name}?token={token}")
    title = page.wait(f"{cell(0)}?.querySelector('h1')?.innerText", "the first heading")
    assert title.strip("¶ \n") == heading
    picture = "document.querySelector('.jp-Notebook .jp-OutputArea-output img')"
    width, height = page.wait(size_in_view(picture), "a committed picture to be shown")
    assert width > 500 and height > 100
    assert page.value(f"{cell(first)}.querySelector('.jp-OutputArea-output')") is None

    # It runs.
    page.wait(
        "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status == 'idle'",
        "the kernel to be ready",
    )
    page.click(f"{cell(first)}.querySelector('.cm-content')")
    for _ in range(first, third + 1):
        page.press_shift_enter()
    told = page.wait(f"{cell(first)}.querySelector('.jp-OutputArea-output')?.innerText", "an output")
    assert re.match("tiny speaks: a ModifiedResNet that sees 64 x 64 pixels", told)
    width, height = page.wait(
        size_in_view(f"{cell(third)}.querySelector('.jp-OutputArea-output img')"), "a new picture to be shown"
    )
    assert width > 500 and height > 100
    page.wait(f"{cell(third)}.querySelector('.jp-InputPrompt').innerText.trim() == '[3]:'", "the cell's end")
    assert "Traceback" not in page.value("document.body.innerText")
