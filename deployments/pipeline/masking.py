"""What a step says, on its way to the disk: secrets masked, bounded in size, plain text. Pure but for the one file."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from typing import BinaryIO
from urllib.parse import quote

from controlplane.kernel.redaction import MASK, redact_text

#: A shorter value is no secret: masking each “1” would leave nothing to read.
SHORTEST_SECRET = 4
#: A line that grows longer is let through in pieces.
LONGEST_LINE = 16384
#: What is kept of the end of an output that was too long: test summaries stand there.
TAIL_BYTES = 262_144

_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_END = re.compile(r"-----END [A-Z ]*PRIVATE KEY-----")


def spellings(secrets: Iterable[str]) -> list[str]:
    """Each secret as it is, and as it stands in a URL, in JSON and in Python; the longest first."""
    found = set()
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET:
            found |= {secret, secret.strip(), quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
            found |= {line for line in secret.splitlines() if len(line) > 2 * SHORTEST_SECRET}
    return sorted((text for text in found if len(text) >= SHORTEST_SECRET), key=lambda text: (-len(text), text))


class SecretMasker:
    """Masks exact values in a stream. Text that may be the beginning of one is held back until more has come."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = spellings(secrets)
        self._pattern = re.compile("|".join(map(re.escape, self._secrets))) if self._secrets else None
        self._starts = {secret[0] for secret in self._secrets}
        self._longest = max(map(len, self._secrets), default=0)
        self._held = ""

    def feed(self, text: str, *, last: bool = False) -> str:
        """What of it may be let through by now; all of it with ``last``."""
        if self._pattern is None:
            return text
        text, out, at = self._held + text, [], 0
        while True:
            match = self._pattern.search(text, at)
            hold = len(text) if last else self._unfinished(text, at)
            if match is None or match.start() >= hold:
                break
            out += [text[at : match.start()], MASK]
            at = match.end()
        self._held = text[hold:]
        return "".join([*out, text[at:hold]])

    def _unfinished(self, text: str, at: int) -> int:
        """The first place from which the rest of the text is the beginning of a longer secret."""
        for place in range(max(at, len(text) - self._longest + 1), len(text)):
            if text[place] in self._starts:
                rest = text[place:]
                if any(len(secret) > len(rest) and secret.startswith(rest) for secret in self._secrets):
                    return place
        return len(text)


class Cleaner:
    """Turns a program's bytes into lines that may be kept: masked, valid UTF-8, without colours and control codes."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._masker = SecretMasker(secrets)
        self._line = ""
        self._in_key = False

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """The lines that are complete by now, and pieces of very long ones; everything with ``last``."""
        text = self._decoder.decode(data, last).replace("\r\n", "\n")
        lines, newline, self._line = (self._line + self._masker.feed(text, last=last)).rpartition("\n")
        out = [self._clean_all(lines + newline)] if newline else []
        while len(self._line) > LONGEST_LINE:
            cut = max(self._line.rfind(mark, 1, LONGEST_LINE) for mark in " \t,;") + 1 or LONGEST_LINE
            out.append(self._clean(self._line[:cut]))
            self._line = self._line[cut:]
        if last and self._line:
            out.append(self._clean(self._line) + "\n")
            self._line = ""
        return "".join(out)

    def _clean_all(self, lines: str) -> str:
        """Whole lines; together, where that comes to the same, because it is many times faster."""
        if self._in_key or "-----BEGIN" in lines:
            return "".join(self._clean(line) + "\n" for line in lines[:-1].split("\n"))
        return self._clean(lines)

    def _clean(self, line: str) -> str:
        line = _CONTROL.sub("", _ANSI.sub("", line))
        if self._in_key:
            end = _KEY_END.search(line)
            if end is None:
                return MASK
            self._in_key, line = False, line[end.end() :]
        begin = _KEY_BEGIN.search(line)
        if begin is not None and _KEY_END.search(line, begin.end()) is None:
            self._in_key, line = True, line[: begin.start()] + MASK
        return redact_text(line)


class BoundedFile:
    """Keeps the beginning of a text up to a size, and its end."""

    def __init__(self, stream: BinaryIO, most_bytes: int) -> None:
        self._stream, self._room = stream, most_bytes
        self._tail = b""
        self.written = self.left_out = 0

    def write(self, text: str) -> None:
        """Add to it. Where the disk is full what does not fit is lost; the shepherd sees to the rest."""
        data = text.encode("utf-8", "replace")
        if not self.left_out and len(data) <= self._room - self.written:
            self._put(data)
            return
        if not self.left_out:
            head = _whole(data[: max(self._room - self.written, 0)])
            self._put(head)
            data = data[len(head) :]
        self.left_out += len(data)
        self._tail = (self._tail + data)[-TAIL_BYTES:]

    def close(self) -> None:
        """Write what was kept of the end, after a line that says how much is missing."""
        if self.left_out:
            tail = _whole(self._tail)
            self.left_out -= len(tail)
            if self.left_out:
                self._put(f"\n[… output truncated: {self.left_out} bytes were left out here …]\n".encode())
            self._put(tail)
        self._stream.close()

    def _put(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            self._stream.flush()
        except OSError:
            return
        self.written += len(data)


def _whole(data: bytes) -> bytes:
    """The bytes without half characters at either end."""
    return data.decode("utf-8", "ignore").encode()
