"""Load for the tests of the edge, from a process of its own: clients that keep their connection and never try again.

``python load.py PORT CLIENTS [PATH]`` runs until its input ends, then prints one JSON object: ``requests``, ``failed``
(an answer that is not 200, or none), ``closed`` (the edge closed a connection), ``releases`` (who answered how often).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

PORT, CLIENTS = int(sys.argv[1]), int(sys.argv[2])
PATH = sys.argv[3] if len(sys.argv) > 3 else "/"
REQUEST = f"GET {PATH} HTTP/1.1\r\nHost: load\r\n\r\n".encode()

seen: Counter[str] = Counter()
releases: Counter[str] = Counter()
problems: Counter[str] = Counter()
stop = asyncio.Event()


async def client() -> None:
    reader = writer = None
    while not stop.is_set():
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
            writer.write(REQUEST)
            assert reader is not None
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            lines = head.split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            await reader.readexactly(int(headers["content-length"]))
            seen["requests"] += 1
            status = lines[0].split(" ")[1]
            releases[headers.get("x-release", "none")] += 1
            if status != "200":
                seen["failed"] += 1
                problems[status] += 1
            if headers.get("connection") == "close":
                seen["closed"] += 1
                writer.close()
                writer = None
        except (asyncio.IncompleteReadError, OSError) as error:
            seen["requests"] += 1
            seen["failed"] += 1
            seen["closed"] += 1
            problems[type(error).__name__] += 1
            writer = None
            await asyncio.sleep(0.01)
    if writer is not None:
        writer.close()


async def main() -> None:
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), stop.set)
    print("running", flush=True)  # noqa: T201
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    counts = {name: seen[name] for name in ("requests", "failed", "closed")}
    print(json.dumps({**counts, "releases": releases, "problems": problems}), flush=True)  # noqa: T201


asyncio.run(main())
