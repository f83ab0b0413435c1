"""What people are told of a deployment by itself, in whose words. Pure."""

from __future__ import annotations

from .turn import Turn
from .types import Notify


def failed(turn: Turn, why: str) -> None:
    turn.effects.append(
        Notify(
            "deployment_failed",
            f"{turn.view.name}: {turn.view.release} was not deployed",
            f"{why} Nothing has changed for anybody: the release that serves was not touched.",
        )
    )


def rolled_back(turn: Turn, why: str) -> None:
    back = f"{turn.view.from_release} serves again." if turn.view.from_release else "It was the first release."
    turn.effects.append(
        Notify("deployment_rolled_back", f"{turn.view.name}: {turn.view.release} was taken back", f"{why} {back}")
    )


def blocked(turn: Turn, why: str) -> None:
    turn.effects.append(
        Notify(
            "rollback_blocked",
            f"{turn.view.name}: {turn.view.release} is bad, and cannot be taken back by itself",
            f"{turn.view.error or 'It was to be taken back.'} {why} The traffic stays as it is: roll back by hand, or "
            "promote it fully.",
        )
    )


def held(turn: Turn, why: str) -> None:
    turn.effects.append(
        Notify(
            "deployment_held",
            f"{turn.view.name} is held",
            f"{why} Look at it: it can be resumed, promoted or aborted.",
            "warning",
        )
    )


def succeeded(turn: Turn) -> None:
    turn.effects.append(
        Notify(
            "deployment_succeeded",
            f"{turn.view.name}: {turn.view.release} serves everybody",
            f"It took the place of {turn.view.from_release}."
            if turn.view.from_release
            else "It is the first release of its service.",
            "info",
        )
    )
