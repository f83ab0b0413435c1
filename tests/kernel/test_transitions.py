from __future__ import annotations

import ast
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.db import connections, transaction
from django.db.models import F

from controlplane.kernel.errors import ConfigurationError, ForbiddenMove, LeaseLost, Refused
from controlplane.kernel.leases import acquire
from controlplane.kernel.transitions import Machine, advance
from ratelimits.models import RateLimitProfile
from tests.kernel.racing import race
from tests.kernelapp.models import JOBS, Job, JobEvent

NOON = datetime(2031, 5, 1, 12, tzinfo=UTC)


def test_a_machine_knows_its_moves_its_ends_and_its_picture() -> None:
    assert JOBS.allows("new", "running")
    assert not JOBS.allows("new", "done")
    assert not JOBS.allows("unheard of", "new")
    assert JOBS.terminal_states == {"done", "cancelled"}
    assert list(JOBS.edges()) == [
        ("new", "cancelled"), ("new", "running"), ("running", "done"), ("running", "failed"), ("failed", "new"),
    ]  # fmt: skip
    assert JOBS.to_mermaid() == (
        "stateDiagram-v2\n    [*] --> new\n    new --> cancelled\n    new --> running\n    running --> done\n"
        "    running --> failed\n    failed --> new\n    done --> [*]\n    cancelled --> [*]\n"
    )


@pytest.mark.parametrize(
    ("moves", "complaint"),
    [
        ({"b": ()}, "the initial state 'a' is not in the table"),
        ({"a": ("c",)}, "'a' leads to 'c', which is not in the table"),
        ({"a": ("a",)}, "'a' leads to itself"),
        ({"a": (), "b": ("a",)}, "nothing leads to b"),
        ({"a": "bc"}, "are a text, not a collection"),
    ],
)
def test_a_table_with_a_hole_is_refused_at_import(moves: dict[str, tuple[str, ...]], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Machine("thing", moves, initial="a")


def test_a_move_writes_state_changes_and_one_event_and_calls_after_the_commit(transactional_db: None) -> None:
    job, order = Job.objects.create(), []
    with transaction.atomic():
        moved = advance(
            job, "running", machine=JOBS, event=JobEvent, reason="due", actor="beat", now=NOON,
            changes={"worker": "w1", "attempts": F("attempts") + 1}, then=lambda: order.append("then"),
        )  # fmt: skip
        order.append("inside")
    assert moved is True
    assert order == ["inside", "then"]
    assert (job.state, job.worker, job.attempts) == ("running", "w1", 1)
    stored = Job.objects.get()
    assert (stored.state, stored.worker, stored.attempts) == ("running", "w1", 1)
    event = job.events.get()
    assert (event.at, event.from_state, event.to_state, event.reason, event.actor) == (
        NOON, "new", "running", "due", "beat",
    )  # fmt: skip
    assert str(event) == "new → running"


def test_a_rollback_leaves_no_move_no_event_and_calls_nothing(transactional_db: None) -> None:
    job, called = Job.objects.create(), []
    moved = False
    with transaction.atomic():
        moved = advance(job, "running", machine=JOBS, event=JobEvent, then=lambda: called.append(1))
        transaction.set_rollback(True)
    assert moved
    assert Job.objects.get().state == "new"
    assert JobEvent.objects.count() == 0
    assert called == []


def test_an_event_that_cannot_be_written_takes_the_move_back(transactional_db: None) -> None:
    class NoEvent(JobEvent):
        class Meta:
            app_label = "kernelapp"
            proxy = True

        def save(self, *args: object, **kwargs: object) -> None:
            raise RuntimeError("disk full")

    job = Job.objects.create()
    with pytest.raises(RuntimeError, match="disk full"):
        advance(job, "running", machine=JOBS, event=NoEvent)
    assert (Job.objects.get().state, JobEvent.objects.count(), job.state) == ("new", 0, "new")


def test_a_move_that_the_table_lacks_is_refused_and_writes_nothing(db: None) -> None:
    job = Job.objects.create()
    with pytest.raises(ForbiddenMove) as caught:
        advance(job, "done", machine=JOBS, event=JobEvent)
    assert caught.value.message == f"job {job.pk} cannot go from new to done."
    assert caught.value.remedy == "From new it can go to: cancelled, running."
    assert (Job.objects.get().state, JobEvent.objects.count()) == ("new", 0)


def test_somebody_else_was_first_is_a_normal_answer_and_shows_what_it_is_now(transactional_db: None) -> None:
    mine, theirs, called = Job.objects.create(), Job.objects.get(), []
    assert advance(theirs, "cancelled", machine=JOBS, event=JobEvent, changes={"worker": "them"})
    assert not advance(mine, "running", machine=JOBS, event=JobEvent, then=lambda: called.append(1))
    assert (mine.state, mine.worker, called, JobEvent.objects.count()) == ("cancelled", "them", [], 1)


def test_a_row_that_is_gone_was_moved_by_somebody_else(transactional_db: None) -> None:
    job = Job.objects.create()
    Job.objects.all().delete()
    assert advance(job, "running", machine=JOBS, event=JobEvent) is False
    assert job.state == "new"


def test_the_state_cannot_be_smuggled_in_among_the_changes(db: None) -> None:
    job = Job.objects.create()
    with pytest.raises(Refused, match="moved by the machine"):
        advance(job, "running", machine=JOBS, event=JobEvent, changes={"state": "done"})
    assert Job.objects.get().state == "new"


def test_rows_with_history_are_not_for_state_machines(db: None) -> None:
    profile = RateLimitProfile(pk=1, role="new")
    with pytest.raises(ConfigurationError, match="keeps history"):
        advance(profile, "running", machine=JOBS, event=JobEvent, field="role")


def test_events_are_written_once_and_go_only_with_their_subject(transactional_db: None) -> None:
    job = Job.objects.create()
    advance(job, "running", machine=JOBS, event=JobEvent, reason="true")
    event = JobEvent.objects.get()
    event.reason = "false"
    with pytest.raises(Refused):
        event.save()
    with pytest.raises(Refused):
        event.delete()
    with pytest.raises(Refused):
        JobEvent.objects.all().delete()
    with pytest.raises(Refused):
        JobEvent.objects.update(reason="false")
    with pytest.raises(Refused):
        JobEvent.objects.bulk_update([event], ["reason"])
    assert JobEvent.objects.get().reason == "true"
    job.delete()
    assert JobEvent.objects.count() == 0


def test_a_move_under_a_lease_that_was_lost_writes_nothing(transactional_db: None) -> None:
    job = Job.objects.create()
    stale = acquire(Job, job.pk, owner="a", ttl_seconds=10, now=NOON)
    fresh = acquire(Job, job.pk, owner="b", ttl_seconds=10, now=NOON.replace(minute=1))
    assert stale is not None
    assert fresh is not None
    with pytest.raises(LeaseLost):
        advance(job, "running", machine=JOBS, event=JobEvent, lease=stale)
    assert (Job.objects.get().state, JobEvent.objects.count()) == ("new", 0)
    assert advance(job, "running", machine=JOBS, event=JobEvent, lease=fresh)
    assert Job.objects.get().state == "running"


def test_of_many_threads_exactly_one_moves_each_row(transactional_db: None) -> None:
    threads, keys = 8, [Job.objects.create().pk for _ in range(10)]
    barrier, won, called, lock = threading.Barrier(threads), Counter[int](), Counter[int](), threading.Lock()

    def note(counter: Counter[int], pk: int) -> None:
        with lock:
            counter[pk] += 1

    def work(name: str) -> None:
        try:
            jobs = [Job.objects.get(pk=pk) for pk in keys]
            barrier.wait(20)
            for job in jobs:
                then = lambda pk=job.pk: note(called, pk)  # noqa: E731
                if advance(job, "running", machine=JOBS, event=JobEvent, actor=name, then=then):
                    note(won, job.pk)
                else:
                    assert job.state == "running"
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert won == called == dict.fromkeys(keys, 1)
    assert Counter(JobEvent.objects.values_list("subject_id", flat=True)) == dict.fromkeys(keys, 1)


def test_of_several_processes_exactly_one_moves_each_row(transactional_db: None) -> None:
    keys = [Job.objects.create().pk for _ in range(25)]
    answers = race("move", keys, racers=3)
    assert Counter(pk for answer in answers for pk in answer["won"]) == dict.fromkeys(keys, 1)
    assert [answer["called"] for answer in answers] == [answer["won"] for answer in answers]
    assert Counter(JobEvent.objects.values_list("subject_id", flat=True)) == dict.fromkeys(keys, 1)
    for job in Job.objects.all():
        assert (job.state, job.events.get().actor) == ("running", job.worker)


STATE_FIELDS = {"state"}
ROOT = Path(__file__).parents[2]


def _writes_of_state(tree: ast.AST) -> list[int]:
    """Lines that write a machine's field: ``.update(state=…)``, ``obj.state = …``, ``setattr(obj, "state", …)``.

    ``self.state`` in a plain class is that class's own business.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            written = {keyword.arg for keyword in node.keywords}
            if name in ("update", "guarded_update", "aupdate") and written & STATE_FIELDS:
                found.append(node.lineno)
            constants = {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
            if name == "setattr" and constants & STATE_FIELDS:
                found.append(node.lineno)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets if isinstance(node, ast.Assign | ast.AugAssign) else []:
            is_state = isinstance(target, ast.Attribute) and target.attr in STATE_FIELDS
            if is_state and getattr(target.value, "id", "") != "self":
                found.append(node.lineno)
    return sorted(found)


def test_the_guard_sees_each_way_to_write_a_state() -> None:
    source = 'rows.update(state="x")\njob.state = "x"\nsetattr(job, "state", "x")\nself.state = "x"\nx = job.state\n'
    assert _writes_of_state(ast.parse(source)) == [1, 2, 3]


def test_nothing_but_transitions_writes_a_machines_field() -> None:
    guilty = []
    for package in ("controlplane", "ratelimits"):
        for path in (ROOT / package).rglob("*.py"):
            if path != ROOT / "controlplane/kernel/transitions.py":
                guilty += [f"{path.relative_to(ROOT)}:{n}" for n in _writes_of_state(ast.parse(path.read_text()))]
    assert guilty == []
