"""What can go wrong with a deployment, in words that say whose fault it is.

ZantaraError
├── Refused ── BadPlan               a stage plan that no rollout can follow
├── Unavailable ── TargetUnavailable    the engine that runs instances did not answer: nothing is known of them
├── Unavailable ── EdgeUnavailable      the proxy did not answer: nothing is known of the traffic
├── CannotStart                      an instance cannot be started as it is described; says what to change
├── EdgeRefused                      the edge cannot be told: its directory is not writable, a port is taken
├── FetchFailed                      a release's source cannot be had
└── StepFailed                       a step of the pipeline cannot be begun
"""

from __future__ import annotations

from controlplane.kernel.errors import Refused, Unavailable, ZantaraError


class BadPlan(Refused):
    """A stage plan that no rollout can follow."""


class TargetUnavailable(Unavailable):
    """What runs the instances did not answer; says nothing about them."""


class EdgeUnavailable(Unavailable):
    """The proxy did not answer; says nothing about the traffic."""


class CannotStart(ZantaraError):
    """An instance cannot be started as it is described."""


class EdgeRefused(ZantaraError):
    """The desired state cannot be given to the edge."""


class FetchFailed(ZantaraError):
    """The source of a release cannot be had."""


class StepFailed(ZantaraError):
    """A step of the pipeline cannot be begun."""
