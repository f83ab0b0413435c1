"""``python -m examples.zantara.seed``: make and fill the collection ``zantara-knowledge``, if that is yet to do.

It needs ZANTARA_CHROMA_URL alone, waits up to 20 seconds for Chroma to come up, and may run any number of
times, at the same time too. Exit code 1 and one sentence if it cannot.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing

from controlplane.kernel.env import Env
from controlplane.kernel.errors import ConfigurationError, Unavailable, ZantaraError

from .chroma import ChromaClient
from .knowledge import NAME, KnowledgeCollection
from .texts import TEXTS

PATIENCE_SECONDS = 20.0


def seed(url: str, patience_seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether there was something to fill; Unavailable if Chroma does not answer in time."""
    with closing(ChromaClient(url)) as client:
        return _seed(KnowledgeCollection(client), patience_seconds)


def _seed(knowledge: KnowledgeCollection, patience_seconds: float) -> bool:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return knowledge.ensure(deadline)[1]
        except Unavailable:
            if time.monotonic() + 0.2 >= deadline:
                raise
            time.sleep(0.2)


def main() -> int:
    try:
        url = Env().url("ZANTARA_CHROMA_URL", schemes=("http", "https"))
        if url is None:
            raise ConfigurationError("ZANTARA_CHROMA_URL is not set.", remedy="Set it to Chroma's address.")
        filled = seed(url)
    except ZantaraError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{NAME}: {f'{len(TEXTS)} texts written' if filled else 'already there'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
