"""What every kind of source promises, held against a living example of each."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from backups.errors import CaptureFailed, Damaged
from backups.sources import register_kinds
from backups.sources.base import Place, Restorer, kinds
from controlplane.kernel import clock
from controlplane.kernel.errors import ZantaraError

from . import own_worlds, server_worlds  # noqa: F401  (they add their worlds)
from .taking import Taken, assert_good, drill, failing, finish, fresh, pieces, take
from .worlds import MARKS, WORLDS, World


@pytest.fixture(params=[pytest.param(name, marks=MARKS[name]) for name in WORLDS])
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param](request)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


def children() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def came_true(what: Callable[[], bool], *, seconds: float = 60) -> bool:
    """Whether it did in time. Who writes tells why he died where his ``with`` ends."""
    deadline = clock.monotonic() + seconds
    while not what() and clock.monotonic() < deadline:
        threading.Event().wait(0.01)
    return what()


def test_a_capture_is_drilled_and_inspected_without_a_finding(world: World, folder: Path) -> None:
    source = world.source()
    taken = take(source, folder)
    assert len(taken.data) > 0
    assert taken.captured.warnings == ()
    assert_good(source.inspect(pieces(taken.data), taken.expectations))
    assert_good(drill(world.source(), taken, folder))


def test_a_capture_while_somebody_writes_is_consistent(world: World, folder: Path) -> None:
    with world.busy() as writes:
        began = came_true(lambda: writes() >= 3)
        before = writes()
        taken = take(world.source(), folder)
        went_on = came_true(lambda: writes() > before)
    assert (began, went_on) == (True, True)
    assert_good(drill(world.source(), taken, folder))


def test_two_captures_of_one_state_expect_the_same(world: World, folder: Path) -> None:
    first, second = take(world.source(), folder), take(world.source(), folder)
    assert_good(drill(world.source(), Taken(second.data, first.captured), folder))


@pytest.mark.parametrize("what", ["change", "remove", "add"])
def test_a_difference_fails_the_drill_by_name(world: World, folder: Path, what: str) -> None:
    before = take(world.source(), folder)
    name = getattr(world, what)()
    after = take(world.source(), folder)
    said = failing(drill(world.source(), Taken(after.data, before.captured), folder))
    assert name in said


def test_an_interrupted_capture_raises_and_leaves_nothing(world: World, folder: Path) -> None:
    scratch, before = fresh(folder, "scratch"), children()
    with world.source().capture(now=clock.now(), scratch=scratch) as capture:
        chunks = capture.chunks()
        next(chunks)
        capture.interrupt()
        capture.interrupt()
        with pytest.raises(CaptureFailed):
            finish(capture, chunks)
    assert list(scratch.iterdir()) == []
    assert children() - before == set()


def test_a_capture_that_is_left_half_way_leaves_nothing(world: World, folder: Path) -> None:
    scratch, before, threads = fresh(folder, "scratch"), children(), set(threading.enumerate())
    with world.source().capture(now=clock.now(), scratch=scratch) as capture:
        next(capture.chunks())
    assert list(scratch.iterdir()) == []
    assert children() - before == set()
    assert set(threading.enumerate()) <= threads


def test_nothing_to_save_is_a_failure_and_says_what_to_do(world: World, folder: Path) -> None:
    world.empty()
    source = world.source()
    with pytest.raises(ZantaraError) as caught:
        take(source, folder)
    assert caught.value.remedy
    assert failing(source.check())


def test_the_connection_test_says_what_would_be_captured(world: World) -> None:
    assert_good(world.source().check())


def test_a_stream_that_was_cut_fails_inspection_and_drill(world: World, folder: Path) -> None:
    source = world.source()
    taken = take(source, folder)
    size = len(taken.data)
    lengths = (0, 1, size // 3, size // 2 // 512 * 512, size - min(1500, size // 4))
    for length in lengths:
        with suppress(Damaged, CaptureFailed):
            assert failing(source.inspect(pieces(taken.data[:length]), taken.expectations)), f"{length} of {size} bytes"
    # each drill starts a server of its own: the two that are nearest to nothing and to all
    for length in (lengths[0], lengths[-1]):
        with suppress(Damaged, CaptureFailed):
            assert failing(drill(source, taken, folder, data=taken.data[:length])), f"{length} of {size} bytes passed"


def reborn(world: World, place: Place, memory: dict[str, Any]) -> Restorer:
    """The same restore in another process: nothing but its memory is left."""
    restorer = world.source().restorer(place)
    restorer.memory = json.loads(json.dumps(memory))
    return restorer


def step(world: World, place: Place, memory: dict[str, Any], name: str, *args: Any) -> tuple[Any, dict[str, Any]]:
    restorer = reborn(world, place, memory)
    answer = getattr(restorer, name)(*args)
    return answer, json.loads(json.dumps(restorer.memory))


def prepared(world: World, taken: Taken, place: Place) -> dict[str, Any]:
    findings, memory = step(world, place, {}, "preflight", len(taken.data))
    assert failing(findings) == ""
    _, memory = step(world, place, memory, "prepare", pieces(taken.data))
    return memory


def alter(world: World) -> None:
    world.change()
    world.remove()
    if world.exact:
        world.add()


@pytest.mark.parametrize("times", [1, 2])
def test_a_restore_brings_back_what_was_captured(world: World, folder: Path, times: int) -> None:
    taken, before = take(world.source(), folder), world.state()
    alter(world)
    altered = world.state()
    assert altered != before
    place, memory = Place(fresh(folder, "restore"), "token1"), {}
    for name, *args in (("preflight", len(taken.data)), ("prepare",), ("validate", taken.expectations), ("swap",)):
        for _ in range(times):
            arguments = [pieces(taken.data)] if name == "prepare" else args
            answer, memory = step(world, place, memory, name, *arguments)
            if name == "validate":
                assert_good(answer)
        if name != "swap":
            assert world.state() == altered, f"{name} changed what is live"
    assert world.restored_state(place.token) == before
    for _ in range(times):
        _, memory = step(world, place, memory, "discard")
    assert world.restored_state(place.token) == before


@pytest.mark.parametrize("swapped", [True, False])
def test_an_undone_restore_leaves_everything_as_it_was(world: World, folder: Path, swapped: bool) -> None:
    taken = take(world.source(), folder)
    alter(world)
    if not world.exact:
        world.add()
    altered = world.state()
    place = Place(fresh(folder, "restore"), "token2")
    memory = prepared(world, taken, place)
    if swapped:
        _, memory = step(world, place, memory, "swap")
    for name in ("undo", "undo", "discard", "discard"):
        _, memory = step(world, place, memory, name)
        assert world.state() == altered, name


def test_a_restore_can_be_undone_and_done_again_under_another_token(world: World, folder: Path) -> None:
    taken, before = take(world.source(), folder), world.state()
    alter(world)
    for token, end in (("one", "undo"), ("two", None)):
        place = Place(fresh(folder, token), token)
        memory = prepared(world, taken, place)
        _, memory = step(world, place, memory, "swap")
        if end:
            _, memory = step(world, place, memory, end)
        _, memory = step(world, place, memory, "discard")
    assert world.restored_state("two") == before


def test_what_stands_beside_is_compared_exactly(world: World, folder: Path) -> None:
    before = take(world.source(), folder)
    names = [world.change(), world.remove(), world.add()]
    after = take(world.source(), folder)
    place = Place(fresh(folder, "restore"), "token3")
    memory = prepared(world, after, place)
    findings, memory = step(world, place, memory, "validate", before.expectations)
    said = failing(findings)
    assert [name for name in names if name not in said] == []
    step(world, place, memory, "discard")


def test_discarding_what_was_never_prepared_does_nothing(world: World, folder: Path) -> None:
    before = world.state()
    place = Place(fresh(folder, "restore"), "token4")
    for name in ("undo", "discard"):
        step(world, place, {}, name)
    assert world.state() == before


def test_every_kind_says_what_it_is_and_takes_its_own_defaults(world: World) -> None:
    register_kinds()
    register_kinds()
    source = world.source()
    assert kinds.get(source.kind) is type(source)
    assert source.label
    assert source.description
    assert source.stock_command()
    assert Path(source.file_name).name == source.file_name
    cleaned = type(source).clean(source.settings, source.secrets)
    assert type(source).clean(cleaned, source.secrets) == cleaned
    assert {field.name for field in source.fields if field.type != "secret"} >= set(cleaned)
    expected = source.expected_bytes()
    assert expected is None or expected > 0
