"""What happens to a release before traffic moves: it is fetched, checked and built."""

from __future__ import annotations
