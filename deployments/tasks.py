"""The tasks of deployments. A message holds a number only; whoever gets it twice finds the row taken or done."""

from __future__ import annotations
