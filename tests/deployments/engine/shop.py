"""A service for the engine's real tests: ``shop.py PORT``. Beside it may lie ``errors`` (a share of its answers that
are 500) and ``crash`` (it ends at once)."""

from __future__ import annotations

import http.server
import json
import os
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, body = 200, os.environ.get("ZANTARA_RELEASE", "")
        if self.path == "/health":
            body = json.dumps({"healthy": True, "services": {"database": "pass"}, "memory": {"percentage": 10.0}})
        elif self.path != "/readyz" and (HERE / "errors").exists():
            status = 500 if random.random() < float((HERE / "errors").read_text()) else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None: ...


if (HERE / "crash").exists():
    sys.exit(3)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
