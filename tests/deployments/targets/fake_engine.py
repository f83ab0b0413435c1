"""A few answers of the Docker Engine's API on a UNIX socket, with faults on request. Fault tests use a real one."""

from __future__ import annotations

import http.server
import json
import re
import secrets
import socketserver
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class FakeEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """``fail[(method, path pattern)]`` is a status and a message that is answered instead, once."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self.containers: dict[str, dict[str, Any]] = {}
        self.images = {"shop:1": "sha256:" + "11" * 32}
        self.fail: dict[tuple[str, str], tuple[int, str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.before_create: Any = None
        super().__init__(str(path), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def find(self, name: str) -> dict[str, Any] | None:
        return next((one for one in self.containers.values() if name in (one["Id"], one["Name"][1:])), None)

    def create(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        identity = secrets.token_hex(32)
        self.containers[identity] = {
            "Id": identity, "Name": f"/{name}", "Config": body, "HostConfig": body.get("HostConfig"),
            "State": {
                "Status": "created", "Running": False, "ExitCode": 0, "OOMKilled": False,
                "StartedAt": "0001-01-01T00:00:00Z",
            },
            "NetworkSettings": {"Ports": {}, "Networks": {"bridge": {"IPAddress": "172.17.0.5"}}},
        }  # fmt: skip
        return self.containers[identity]

    def start(self, one: dict[str, Any]) -> None:
        one["State"] |= {"Status": "running", "Running": True, "StartedAt": "2026-01-02T03:04:05.123456789Z"}
        one["NetworkSettings"]["Ports"] = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "40001"}]}

    def end(self, one: dict[str, Any], code: int) -> None:
        one["State"] |= {"Status": "exited", "Running": False, "ExitCode": code}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeEngine
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: Any = None) -> None:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_request(self) -> None:
        engine, url = self.server, urlsplit(self.path)
        path = re.sub(r"^/v[\d.]+", "", unquote(url.path))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        engine.asked.append((self.command, path))
        for (method, pattern), (status, message) in list(engine.fail.items()):
            if method == self.command and re.fullmatch(pattern, path):
                del engine.fail[method, pattern]
                return self.answer(status, {"message": message})
        if path == "/version":
            return self.answer(200, {"ApiVersion": "1.44"})
        if match := re.fullmatch(r"/images/(.+)/json", path):
            identity = engine.images.get(match[1]) or (match[1] if match[1] in engine.images.values() else None)
            return self.answer(200, {"Id": identity}) if identity else self.answer(404, {"message": "No such image"})
        if path == "/containers/create":
            if engine.before_create is not None:
                engine.before_create(query["name"], json.loads(body))
            if engine.find(query["name"]):
                return self.answer(409, {"message": "Conflict. The name is already in use."})
            return self.answer(201, {"Id": engine.create(query["name"], json.loads(body))["Id"], "Warnings": []})
        if path == "/containers/json":
            wanted = json.loads(query["filters"])["label"][0].split("=")
            labelled = [
                one for one in engine.containers.values() if one["Config"]["Labels"].get(wanted[0]) == wanted[1]
            ]
            return self.answer(200, [{"Id": one["Id"]} for one in labelled])
        return self.one_container(path, query)

    def one_container(self, path: str, query: dict[str, str]) -> None:
        match = re.fullmatch(r"/containers/([^/]+)/?(\w*)", path)
        one = self.server.find(match[1]) if match else None
        if match is None or one is None:
            return self.answer(404, {"message": f"No such container: {path}"})
        if self.command == "DELETE":
            del self.server.containers[one["Id"]]
            return self.answer(204)
        if match[2] == "json":
            return self.answer(200, one)
        if match[2] == "start":
            self.server.start(one)
            return self.answer(204)
        if match[2] == "kill":
            if not one["State"]["Running"]:
                return self.answer(409, {"message": "is not running"})
            self.server.end(one, 137 if query["signal"] == "SIGKILL" else 0)
            one.setdefault("signals", []).append(query["signal"])
            return self.answer(204)
        if match[2] == "stats":
            return self.answer(200, {"memory_stats": {"usage": 5000, "stats": {"inactive_file": 1000}}})
        return self.answer(404, {"message": "not here"})

    do_GET = do_POST = do_DELETE = handle_request
