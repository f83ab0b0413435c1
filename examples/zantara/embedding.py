"""Text to vector without a model: feature hashing of words and of character n-grams.

Nothing is downloaded and nothing is random: the same text gives the same vector on every machine. It
knows spelling, not meaning: texts that share words or stems are near each other, synonyms are not.
Method: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning" (2009), signed hashing.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

#: As many as the small sentence models have that a real service would put in this place.
DIMENSIONS = 384

_WORD_WEIGHT = 1.0
_PAIR_WEIGHT = 0.7
#: Character n-grams tie inflected forms together; a word has many of them, so each weighs little.
_CHARACTERS_WEIGHT = 0.25
_CHARACTERS = (3, 4)


def embed(text: str) -> list[float]:
    """A vector of length 1 with :data:`DIMENSIONS` components."""
    vector = [0.0] * DIMENSIONS
    for (weight, feature), count in Counter(_features(text)).items():
        digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "big")
        sign = 1.0 if digest & 1 else -1.0
        vector[(digest >> 1) % DIMENSIONS] += sign * weight * math.sqrt(count)
    length = math.hypot(*vector)
    if length == 0.0:  # no features at all, or all of them cancelled each other
        vector[0] = length = 1.0
    return [component / length for component in vector]


def _features(text: str) -> Iterator[tuple[float, str]]:
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()) or [text.strip()]
    for word in words:
        yield _WORD_WEIGHT, f"w\x1f{word}"
        padded = f"<{word}>"
        for size in _CHARACTERS:
            for start in range(len(padded) - size + 1):
                yield _CHARACTERS_WEIGHT, f"c\x1f{padded[start : start + size]}"
    for first, second in pairwise(words):
        yield _PAIR_WEIGHT, f"p\x1f{first}\x1f{second}"
