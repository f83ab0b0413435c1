"""An instance for the tests of the edge: a small HTTP server that does what its path says.

``python upstream.py RELEASE NAME`` prints its port. Every answer names the release, and the instance.
"""

from __future__ import annotations

import asyncio
import json
import sys
from http import HTTPStatus

RELEASE, NAME = sys.argv[1], sys.argv[2]
state = {"ready": 200}
go = asyncio.Event()


async def answer(path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes] | None:
    """Status, headers and body; None: close the connection without an answer."""
    extra = {"X-Release": RELEASE, "X-Instance": NAME}
    status = 200
    text = f"{RELEASE} {NAME}\n".encode()
    first, _, rest = path.lstrip("/").partition("/")
    if first == "readyz":
        status = state["ready"]
        if 300 <= status < 400:
            extra["Location"] = "/"
    elif first == "_ready":
        state["ready"] = int(rest)
    elif first == "code":
        status = int(rest)
    elif first == "shed":
        status, extra["X-Zantara-Shed"] = 503, "true"
        text = b'{"error": "SYSTEM_OVERLOADED"}'
    elif first == "sleep":
        await asyncio.sleep(float(rest))
    elif first == "hold":
        await go.wait()
    elif first == "_go":
        go.set()
    elif first == "echo":
        text = json.dumps({"path": path, "headers": headers, "body": len(body)}).encode()
    elif first == "drop":
        return None
    return status, extra, text


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _version = head[0].split(" ")
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            if headers.get("upgrade") == "websocket":
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                while data := await reader.read(1024):  # not its frames: the edge passes bytes on
                    writer.write(data.upper())
                break
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            done = await answer(path, headers, body)
            if done is None:
                break
            status, extra, text = done
            lines = [
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
                f"Content-Length: {len(text)}",
                "Server: upstream",
            ]
            lines += [f"{name}: {value}" for name, value in extra.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else text))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[3]) if len(sys.argv) > 3 else 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    async with server:
        await server.serve_forever()


asyncio.run(main())
