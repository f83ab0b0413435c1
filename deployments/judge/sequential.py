"""The sequential test: is a bad event likelier in the new release than in the old one? Pure.

It may be looked at after every tick, and stopped at whenever one likes: the chance that it *ever* calls a release
worse that is not is at most alpha. An ordinary test that is repeated every two seconds has no such bound.

Per tick only the split of the bad events between the releases counts, given how many requests each of them answered
and how many events there were in all. That split says nothing about how many there are, so load that changes, and an
outage that both releases share, are no evidence (M. Lindon, A. Malek, "Anytime-Valid Inference for Multinomial Count
Data", NeurIPS 2022, arXiv 2011.03567; M. Lindon, C. Sanden, V. Shirikian, "Rapid Regression Detection in Software
Deployments through Sequential Testing", KDD 2022, arXiv 2205.14762).

With w the new release's share of the tick's requests and an odds ratio rho, an event is the new release's with chance
rho*w / (rho*w + 1 - w), as long as events are rare. That is the form of the papers; with ``n`` requests of which many
are bad the split has Fisher's noncentral hypergeometric distribution, of which it is the limit. We take the latter:
then the requests that went well count too, and a release that fails always is known after a handful of requests at any
share, not only at a small one. For rho at most ``margin`` (the worst odds ratio that is tolerated) the likelihood ratio
of a larger rho has a mean of at most 1, since it rises with the new release's events; so the products over the ticks,
and their mean over a grid of rho, are test martingales, and Ville's inequality bounds the chance that they ever reach
1/alpha.

Two things are ours. A release that turns bad after a good quarter of an hour should be seen as quickly as one that
is bad at once, so a tenth of the initial weight is kept back and put down after every thirty ticks, as 1/2, 1/6,
1/12 … of it: a mixture over the moment at which it turned bad, still of mean 1. And where everybody is on the new
release there is no split: see ``alone_ratios``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: How many times worse than tolerated a release may be: the alternatives, evenly spaced in their logarithm. The largest
#: is next to "whatever fails is the new release's": with it three errors suffice at a tenth of the traffic, where the
#: old release has none; with at most 60 it took four.
GRID: tuple[float, ...] = tuple(1.5 * (600 / 1.5) ** (i / 23) for i in range(24))
_LOG_GRID = tuple(math.log(factor) for factor in GRID)
_NOTHING = (0.0,) * len(GRID)

#: What is bet at the outset; the rest is put down later, a part after each ``TICKS_A_BET`` ticks. Ticks are counted
#: whether or not anything went wrong in them: so more events never mean less evidence.
FIRST_BET = 0.9
TICKS_A_BET = 30

#: Above so many possible splits of one tick the limit form is used: cheaper, and with many bad events it understates.
MOST_SPLITS = 4096
#: Up to so many they are summed up in floats, without logarithms: the usual case.
SHORT = 64


@dataclass(frozen=True, slots=True)
class Trials:
    """``requests`` that a release answered, and how many of them were bad; never more than there were."""

    requests: int = 0
    bad: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What has been learned of one kind of event: 24 logarithms, one per alternative, and from how many ticks.

    It is kept over stages and restarts; only another release begins anew.
    """

    logs: tuple[float, ...] = (math.log(FIRST_BET),) * len(GRID)
    ticks: int = 0

    @property
    def log_e(self) -> float:
        """The natural logarithm of E, the mean over the alternatives and what is not yet bet."""
        kept_back = (1 - FIRST_BET) / (max(self.ticks - 1, 0) // TICKS_A_BET + 1)
        return _log_sum([log - math.log(len(GRID)) for log in self.logs] + [math.log(kept_back)])

    @property
    def e(self) -> float:
        """E: a release that is no worse than tolerated ever reaches x with a chance of at most 1/x. At most 1e300."""
        return math.exp(min(self.log_e, 690.0))

    def add(self, log_ratios: Sequence[float]) -> Evidence:
        """The evidence after one more tick; ``log_ratios``: of each alternative's likelihood to the null's."""
        logs = self.logs
        if self.ticks and self.ticks % TICKS_A_BET == 0:
            bet = self.ticks // TICKS_A_BET
            stake = math.log((1 - FIRST_BET) / (bet * (bet + 1)))
            logs = tuple([_log_sum((log, stake)) for log in logs])
        if log_ratios is not _NOTHING:
            logs = tuple([log + ratio for log, ratio in zip(logs, log_ratios, strict=True)])
        return Evidence(logs, self.ticks + 1)

    def to_json(self) -> dict[str, Any]:
        return {"logs": list(self.logs), "ticks": self.ticks}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evidence:
        """The evidence again; nothing yet for an empty mapping."""
        return cls(tuple(data["logs"]), data["ticks"]) if data else cls()


def compare(evidence: Evidence, new: Trials, old: Trials, *, margin: float) -> Evidence:
    """The evidence after a tick in which both releases answered; where one of them did not, it stays as it was.

    A tick without bad events leaves E as it was.
    """
    if not new.requests or not old.requests:
        return evidence
    return evidence.add(split_ratios(new, old, margin=margin) if new.bad + old.bad else _NOTHING)


def compare_alone(evidence: Evidence, new: Trials, *, reference: float, margin: float) -> Evidence:
    """The evidence after a tick in which only the new release answered; ``reference`` as in ``alone_ratios``."""
    return evidence.add(alone_ratios(new, reference=reference, margin=margin)) if new.requests else evidence


def split_ratios(new: Trials, old: Trials, *, margin: float) -> list[float]:
    """Per alternative the logarithm of how much likelier it makes this split of the bad events than the margin does.

    Zero each where the split was certain: no requests, or no bad event, or nothing else, on one side.
    """
    bad = new.bad + old.bad
    least, most = max(0, bad - old.requests), min(new.requests, bad)
    if most - least > MOST_SPLITS:
        return _limit_ratios(new, old, margin)
    ways = _log_ways(new, old, least, most)
    total = _short_sum(ways) if most - least <= SHORT else _long_sum(ways)
    null, seen = math.log(margin), new.bad - least
    at_null = total(null)
    return [at_null - total(null + log) + seen * log for log in _LOG_GRID]


def alone_ratios(new: Trials, *, reference: float, margin: float) -> list[float]:
    """The same for a release that has all the traffic: how much likelier are its bad events at a higher rate?

    ``reference`` is the highest share of bad requests that the old release accounts for. There is no split any more,
    so this bounds the chance of a mistake only while the world is no worse than it was when the old release served: an
    outage that begins now is blamed on the new release, because nobody else is there to compare it with.
    """
    usual = scale_odds(min(reference, 0.95), margin)
    ratios = []
    for factor in GRID:
        higher = scale_odds(usual, factor)
        good = math.log1p(-higher) - math.log1p(-usual)
        ratios.append(new.bad * math.log(higher / usual) + (new.requests - new.bad) * good)
    return ratios


def scale_odds(share: float, factor: float) -> float:
    """The share whose odds are ``factor`` times those of ``share``."""
    return factor * share / (factor * share + 1 - share)


def highest_share(trials: Trials) -> float:
    """An upper bound of the share of bad requests: three standard deviations above what was seen; 1 for no requests."""
    if not trials.requests:
        return 1.0
    z = 3.0
    return min(1.0, (trials.bad + z * z / 2 + z * math.sqrt(trials.bad + z * z / 4)) / trials.requests)


def _log_ways(new: Trials, old: Trials, least: int, most: int) -> list[float]:
    """The logarithm of how many ways there are for each split, relative to the first one."""
    bad, logs = new.bad + old.bad, [0.0]
    for i in range(least, most):
        more = (new.requests - i) * (bad - i) / ((i + 1) * (old.requests - bad + i + 1))
        logs.append(logs[-1] + math.log(more))
    return logs


def _limit_ratios(new: Trials, old: Trials, margin: float) -> list[float]:
    """The form for rare events: each bad one is the new release's with chance rho*w / (rho*w + 1 - w)."""
    w = new.requests / (new.requests + old.requests)
    null = scale_odds(w, margin)
    ratios = []
    for factor in GRID:
        share = scale_odds(null, factor)
        ratios.append(new.bad * math.log(share / null) + old.bad * (math.log1p(-share) - math.log1p(-null)))
    return ratios


def _long_sum(logs: Sequence[float]) -> Callable[[float], float]:
    """The logarithm of the polynomial whose coefficients have these logarithms, the constant one first, as a function
    of the logarithm of x."""
    return lambda log_x: _log_sum([log + i * log_x for i, log in enumerate(logs)])


def _short_sum(logs: Sequence[float]) -> Callable[[float], float]:
    """The same, many times as fast, where no power of x is beyond a float."""
    highest = max(logs)
    coefficients = [math.exp(log - highest) for log in reversed(logs)]

    def total(log_x: float) -> float:
        x, value = math.exp(log_x), 0.0
        for coefficient in coefficients:
            value = value * x + coefficient
        return highest + math.log(value)

    return total


def _log_sum(logs: Sequence[float]) -> float:
    """The logarithm of a sum of which only the logarithms fit into a float."""
    highest = max(logs)
    return highest + math.log(sum([math.exp(log - highest) for log in logs]))
