"""The Lua scripts as they lie beside this module, with the digests by which Redis knows them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    text: str
    sha: str

    @classmethod
    def load(cls, name: str) -> Script:
        text = files("ratelimits.limiter").joinpath("lua", name).read_text(encoding="utf-8")
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


DECIDE = Script.load("decide.lua")
PUBLISH = Script.load("publish.lua")
USAGE = Script.load("usage.lua")
