"""Lines of an export on standard input, imported into the Redis of ``ZANTARA_REDIS_URL``, and exported again.

    python -m examples.zantara.reimport < vectors.ndjson > again.ndjson

Everything that this Redis holds of this service is replaced. A drill of a backup runs it against a Redis of its own.
"""

from __future__ import annotations

import os
import sys

from controlplane.kernel.errors import ZantaraError


def main() -> int:
    os.environ["DJANGO_SETTINGS_MODULE"] = "examples.zantara.settings"
    from . import ndjson
    from .vectors import store

    try:
        vectors = store()
        vectors.import_all(ndjson.from_lines(ndjson.lines(sys.stdin.buffer.read)), "replace")
        count, page = 0, vectors.page(None)
        while page:
            sys.stdout.buffer.write(b"".join(ndjson.to_line(record) for record in page))
            count += len(page)
            page = vectors.page(page[-1].id)
        sys.stdout.buffer.write(ndjson.end_line(count))
    except ZantaraError as error:
        print(error, file=sys.stderr)  # noqa: T201  (a command: this is what it says)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
