"""A real browser for tests: Chromium without a window, spoken to over two pipes (the DevTools protocol)."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync --mute-audio".split()
)


class Browser:
    """One page at a time. `requests`, `faults`: what the page asked for, and what it complained of, since `open`."""

    def __init__(self, profile, javascript=True, dark=False):
        self.javascript, words = (
            javascript,
            [*QUIET, f"--user-data-dir={profile}", "--remote-debugging-pipe", "--window-size=1280,1600", "--hide-scrollbars"],
        )
        words += ["--no-sandbox"] * (os.getuid() == 0)  # of root, as in a container, Chromium wants it so
        (theirs, self.out), (self.back, back) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs, back)]  # Chromium reads 3 and writes 4, which may be taken here
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", PROGRAM, *words], pass_fds=ends, stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (theirs, back, *ends):
            os.close(end)
        self.number, self.rest, self.session, self.requests, self.faults, self.seen = itertools.count(1), b"", None, [], [], set()
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setScriptExecutionDisabled", value=not javascript)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def ask(self, method, **params):
        """One command of the protocol -> its result; what happens meanwhile is noted."""
        number = next(self.number)
        said = {"id": number, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.out, json.dumps(said).encode() + b"\0")
        while True:
            answer = self.next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def next(self, wait=60):
        while b"\0" not in self.rest:
            if not select.select([self.back], [], [], wait)[0]:
                raise TimeoutError("Chromium does not answer")
            came = os.read(self.back, 1 << 20)
            if not came:
                raise RuntimeError("Chromium has ended")
            self.rest += came
        line, _, self.rest = self.rest.partition(b"\0")
        said = json.loads(line)
        self.note(said.get("method"), said.get("params", {}))
        return said

    def note(self, method, params):
        self.seen.add(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.faults.append(params["exceptionDetails"].get("exception", {}).get("description") or params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.faults.append(str([a.get("value") for a in params["args"]]))
        elif method == "Log.entryAdded":
            self.faults.append(params["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.faults.append(f"dialog: {params['message']}")

    def open(self, path):
        """Open a file and wait for all of it; returns how many seconds that took."""
        self.requests, self.faults, self.seen = [], [], set()
        began = time.time()
        self.ask("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in self.seen:
            self.next()
        if self.javascript:
            self.js("new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))")
        return time.time() - began

    def js(self, expression):
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def press(self, key, code):
        """A key, on what has the focus."""
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def shot(self, selector=None):
        """A PNG of what is seen, or of one element."""
        clip = {}
        if selector:
            place = "const b = e.getBoundingClientRect(); return [b.x + scrollX, b.y + scrollY, b.width, b.height]"
            box = self.js(f"(e => {{ e.scrollIntoView(); {place} }})(document.querySelector({json.dumps(selector)}))")
            clip = {"clip": dict(zip(("x", "y", "width", "height"), box, strict=True), scale=1), "captureBeyondViewport": True}
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png", **clip)["data"])

    def close(self):
        for end in (self.out, self.back):
            os.close(end)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
