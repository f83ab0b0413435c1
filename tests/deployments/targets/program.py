"""What the tests' instances run, as a process and in a container alike: ``program.py MODE [ARGUMENT]``."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"environ": dict(os.environ), "argv": sys.argv, "cwd": str(Path.cwd()), "pid": os.getpid()})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def serve() -> None:
    host = "127.0.0.1" if os.environ.get("HERE") else "0.0.0.0"
    http.server.ThreadingHTTPServer.allow_reuse_address = True
    http.server.ThreadingHTTPServer((host, int(os.environ["PORT"])), Handler).serve_forever()


def main(mode: str, *arguments: str) -> None:
    asked = 0

    def heard(number: int, _frame: object) -> None:
        nonlocal asked
        asked += 1
        say(f"asked to end {asked}")
        if mode != "stubborn":
            os._exit(0)

    signal.signal(signal.SIGTERM, heard)
    say(f"began {mode}")
    if mode == "exit":
        sys.exit(int(arguments[0]))
    if mode == "say":
        say(" ".join(os.path.expandvars(word) for word in arguments))
    if mode == "grow":
        held = []
        while True:
            held.append(b"x" * (8 << 20))
            time.sleep(0.1)
    if mode == "chatter":
        while True:
            say("x" * 1000)
    if mode == "family":
        # A grandchild that leaves the session: nothing but its parents' number ties it to us.
        child = "import os, time; os.setsid(); time.sleep(600)"
        parent = f"import subprocess as s, os; s.Popen([{sys.executable!r}, '-c', {child!r}]); os._exit(0)"
        subprocess.run([sys.executable, "-c", parent], check=True)
        say("family is there")
    threading.Thread(target=serve, daemon=True).start()
    while True:
        signal.pause()


main(*sys.argv[1:])
