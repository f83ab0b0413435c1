"""What the seeded collection knows: short texts about running services, each with its topic."""

from __future__ import annotations

TEXTS: tuple[tuple[str, str], ...] = (
    (
        "limits",
        "A rate limit protects a service from its most eager callers; the limit belongs to a role, not to a route.",
    ),
    (
        "limits",
        "When a caller is over the limit, answer 429 with Retry-After, so that a polite client knows how long to wait.",
    ),
    (
        "limits",
        "A sliding window never lets more than the limit through; fixed windows let twice as many through at the edge.",
    ),
    ("limits", "Run a new limit in shadow first: it denies nothing and counts what it would have denied."),
    ("backups", "A backup that was never restored is a hope; a restore drill turns it into a fact."),
    ("backups", "Keep three copies on two kinds of storage, one of them in another place."),
    ("backups", "The key that opens the backups must not live on the machine that writes them."),
    ("backups", "Write the commit marker last: a backup set without it does not exist."),
    ("backups", "Watch the size of backups: a sudden drop means that something is no longer being saved."),
    ("restore", "Before restoring, take a safety backup of what is there, so that a failed restore can be undone."),
    ("restore", "Restore beside the running data, check it, and swap; never restore over the only copy."),
    ("restore", "The recovery time is what the last drill measured, not what the plan says."),
    (
        "deployments",
        "Give a new release ten per cent of the traffic first and compare its errors with those of the old one.",
    ),
    ("deployments", "Roll back by moving traffic first and stopping instances afterwards."),
    ("deployments", "A release that needs a database migration must run with the old and the new schema alike."),
    (
        "deployments",
        "Let an instance finish its requests before it stops: take it out of the rotation, drain, then terminate.",
    ),
    ("deployments", "Too little traffic proves nothing: a verdict on a canary may also be that nobody knows yet."),
    ("health", "Liveness says that the process runs; readiness says that it can serve. Do not mix the two."),
    ("health", "A readiness probe that asks every dependency takes the whole fleet down when one dependency blinks."),
    ("health", "Alert on what users feel, errors and latency, and look at causes such as CPU load afterwards."),
    ("overload", "Under overload serve fewer requests well rather than all of them badly: shed early and cheaply."),
    ("overload", "A queue that never empties is not a buffer but a delay; bound it."),
    ("overload", "Retries multiply an overload; use exponential back-off with jitter and a retry budget."),
    ("overload", "Shed the least important callers first, and say so with 503 and Retry-After."),
    ("incidents", "In an incident restore service first and look for the cause when users are well again."),
    ("incidents", "One person leads an incident, one writes down what happened, and both say so aloud."),
    ("incidents", "Write the post-mortem without blame; ask how it was possible, not who it was."),
    ("secrets", "Keep secrets in files that only the service can read, never in arguments, logs or images."),
    ("secrets", "Rotate a signing key by accepting the old and the new one for as long as the longest token lives."),
    ("capacity", "Scale up quickly and down slowly, and let only one controller own the number of instances."),
    ("capacity", "Know what one instance can serve before it fails; measure it with an open-loop load generator."),
    ("queues", "A task must be able to run twice without harm: the queue promises at least once, not exactly once."),
)
