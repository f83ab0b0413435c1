"""How often somebody may try to log in where no profile says otherwise. No models: system checks read it too."""

from __future__ import annotations

import re

from django.conf import settings

from controlplane.kernel.env import parse_duration
from controlplane.kernel.errors import ConfigurationError

#: Attempts per seconds, as django-ratelimit takes it; its parser of texts reads “5/year” as 5 per second.
Rate = tuple[int, int]

DEFAULT_LOGIN_RATE = "10/5m"
_RATE = re.compile(r"(\d+)/(.+)")


def login_rate() -> Rate:
    """``ZANTARA_LOGIN_RATE``, such as “10/5m”: what holds where no profile covers the path."""
    text = str(getattr(settings, "ZANTARA_LOGIN_RATE", DEFAULT_LOGIN_RATE))
    match = _RATE.fullmatch(text.strip())
    try:
        rate = (int(match[1]), int(parse_duration(match[2]))) if match else (0, 0)
    except ValueError:
        rate = (0, 0)
    if min(rate) < 1:
        raise ConfigurationError(
            f"ZANTARA_LOGIN_RATE is {text!r}, which is no rate.", remedy="Write it as 10/5m: attempts per duration."
        )
    return rate
