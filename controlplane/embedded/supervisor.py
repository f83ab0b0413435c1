"""The loop behind ``manage.py up``: start in order, restart with back-off, stop all within ten seconds.

One thread, one selector. It never blocks for longer than a readiness question takes, so signals,
deaths and output are answered at once.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from controlplane.kernel.errors import Unavailable, ZantaraError

from .child_process import ChildProcess, describe_exit
from .children import Child, Plan
from .output import Terminal
from .restart import GiveUp, after_death

REDIS_SECONDS = 10.0
BOOTSTRAP_SECONDS = 120.0
READY_SECONDS = 60.0
SERVED_SECONDS = 45.0
#: After SIGTERM: busy Celery workers are told to give their tasks back, then whatever is left is killed.
COLD_AFTER_SECONDS = 4.0
KILL_AFTER_SECONDS = 6.0
#: Redis goes last, because the others write their goodbyes to it; it saves within this time.
REDIS_STOP_SECONDS = 2.0

#: make passes SIGTERM on to us although a signal to the group has reached us already: one wish, not two.
SAME_WISH_SECONDS = 1.0


class StackFailed(ZantaraError):
    """The stack cannot run on; the message says which child and why."""


class _StopWanted(Exception):
    """Somebody asked for the end: leaves the loop from wherever it is."""


class Supervisor:
    """Runs the children of one plan until it is told to stop or gives up."""

    def __init__(
        self,
        plan: Plan,
        terminal: Terminal,
        *,
        redis: Child | None,
        bootstrap: Child,
        services: Sequence[Child],
        is_orphaned: Callable[[], bool] = lambda: False,
        on_stopping: Callable[[], None] = lambda: None,
        on_services_ended: Callable[[], object] = lambda: None,
        serves: Callable[[], bool] = lambda: True,
    ) -> None:
        self._plan, self._terminal = plan, terminal
        children = [*([redis] if redis else []), bootstrap, *services]
        width = max(len(child.name) for child in children)
        self._redis = ChildProcess(redis, plan, terminal, width=width) if redis else None
        self._bootstrap = ChildProcess(bootstrap, plan, terminal, width=width)
        self._services = [ChildProcess(child, plan, terminal, width=width) for child in services]
        self._width = width
        self._is_orphaned, self._on_stopping = is_orphaned, on_stopping
        self._on_services_ended, self._serves = on_services_ended, serves
        self._selector = selectors.DefaultSelector()
        self._stop_wanted_at: float | None = None
        self._hurry = False
        self._stopping = False
        self._held_since: dict[str, float] = {}

    def run(self, *, on_ready: Callable[[], None], check_redis: Callable[[], bool]) -> None:
        """Returns after a wanted stop; StackFailed otherwise. Either way no child is left."""
        with self._signals():
            try:
                self._start_redis(check_redis)
                self._run_bootstrap()
                held = self._names_held()
                for service in self._services:
                    if service.name in held:
                        self._held_since[service.name] = time.monotonic()
                    else:
                        self._start(service)
                self._wait_until_ready()
                self._wait_until_served()
                on_ready()
                while True:
                    self._turn(0.5)
            except _StopWanted:
                self._say("stopping")
            finally:
                self._shut_down()
                self._selector.close()

    # --- starting ----------------------------------------------------------------------------

    def _start_redis(self, check_redis: Callable[[], bool]) -> None:
        deadline = time.monotonic() + REDIS_SECONDS
        if self._redis is None:
            while not check_redis():
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"The Redis that ZANTARA_REDIS_URL names does not answer within {REDIS_SECONDS:.0f} s.",
                        remedy="Start it, or unset ZANTARA_REDIS_URL to let the stack run its own.",
                    )
                self._turn(0.1)
            return
        self._start(self._redis)
        while not self._redis.ask_ready():
            if not self._redis.is_running or time.monotonic() > deadline:
                last = self._redis.tail[-1] if self._redis.tail else "it said nothing"
                raise StackFailed(
                    f"Redis did not come up within {REDIS_SECONDS:.0f} s; its last line was: {last}.",
                    remedy=f"See {self._plan.logs_dir / 'redis.log'}.",
                )
            self._turn(0.02, restart=False)

    def _run_bootstrap(self) -> None:
        deadline = time.monotonic() + BOOTSTRAP_SECONDS
        self._start(self._bootstrap)
        while self._bootstrap.is_running:
            if time.monotonic() > deadline:
                raise StackFailed(
                    f"The bootstrap did not end within {BOOTSTRAP_SECONDS:.0f} s.",
                    remedy=f"See {self._plan.logs_dir / 'bootstrap.log'}.",
                )
            self._turn(0.1)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        # Every child is asked, so that the sentence below names all that are missing.
        while missing := [
            service.name
            for service in self._services
            if service.name not in self._held_since and not service.ask_ready()
        ]:
            if time.monotonic() > deadline:
                verb = "is" if len(missing) == 1 else "are"
                raise StackFailed(
                    f"{' and '.join(missing)} {verb} not ready after {READY_SECONDS:.0f} s.",
                    remedy=f"See {self._plan.logs_dir / (missing[0] + '.log')}.",
                )
            self._turn(0.1)

    def _wait_until_served(self) -> None:
        """What the control plane deploys comes up after it. It is no child: without it the stack is ready all the same,
        because whoever has to mend it needs the admin.
        """
        deadline = time.monotonic() + SERVED_SECONDS
        while not self._serves():
            if time.monotonic() > deadline:
                self._say(f"nothing answers at the edge after {SERVED_SECONDS:.0f} s; see Deployments in the admin")
                return
            self._turn(0.1)

    def _start(self, child: ChildProcess) -> None:
        try:
            child.start()
        except OSError as error:
            raise StackFailed(
                f"{child.name} cannot be started: {child.child.argv[0]} ({error.strerror}).",
                remedy="Run `make run` again to repair the installation.",
            ) from None
        self._selector.register(child.pipe, selectors.EVENT_READ, child)

    # --- one turn ----------------------------------------------------------------------------

    def _turn(self, longest_seconds: float, *, restart: bool = True) -> None:
        """Wait for something to happen, then read, bury and start again."""
        now = time.monotonic()
        timeout = 0.05 if self._terminal.waiting else longest_seconds
        for child in self._children():
            if child.start_at is not None:
                timeout = min(timeout, max(0.0, child.start_at - now))
        for key, _events in self._selector.select(timeout):
            self._read(key)
        self._terminal.pump()
        for child in self._children():
            if child.is_running and child.has_died():
                self._bury(child, restart=restart and not self._stopping)
            elif child.start_at is not None and time.monotonic() >= child.start_at and not self._stopping:
                self._start(child)
        if not self._stopping:
            self._obey_holds()
        if not self._stopping and (self._stop_wanted_at is not None or self._is_orphaned()):
            raise _StopWanted

    def _read(self, key: selectors.SelectorKey) -> None:
        if isinstance(key.data, ChildProcess):
            if not key.data.read():
                self._selector.unregister(key.fd)
        else:
            with suppress(BlockingIOError):
                os.read(key.fd, 4096)  # the wake-up of a signal; the handler has noted it

    def _bury(self, child: ChildProcess, *, restart: bool) -> None:
        with suppress(KeyError):
            self._selector.unregister(child.pipe)
        code = child.bury(time.monotonic())
        if child is self._bootstrap:
            if code != 0 and not self._stopping:
                raise self._failed(child, f"The bootstrap failed ({describe_exit(code)}).")
            return
        if child.name in self._held_since:
            child.deaths.pop()  # it was wanted: no step towards giving up
            return
        if not restart:
            return
        verdict = after_death(child.deaths, time.monotonic())
        if isinstance(verdict, GiveUp):
            raise self._failed(child, f"{child.name} died {verdict.deaths} times in a minute ({describe_exit(code)}).")
        self._say(f"{child.name} ended ({describe_exit(code)}); it starts again in {verdict.after_seconds:.1f} s")
        child.start_at = time.monotonic() + verdict.after_seconds

    # --- holding -----------------------------------------------------------------------------

    def _names_held(self) -> set[str]:
        """Names of files in ``<run>/held``: children that somebody (a restore) wants stopped for the time being."""
        try:
            return {path.name for path in self._plan.held_dir.iterdir()}
        except FileNotFoundError:
            return set()

    def _obey_holds(self) -> None:
        """Stop what is held, start what is no longer; a child that was told to stop and does not is killed."""
        held, now = self._names_held(), time.monotonic()
        for child in self._services:
            since = self._held_since.get(child.name)
            if child.name in held:
                if since is None:
                    self._held_since[child.name], child.start_at = now, None
                    self._say(f"{child.name} is held: it stays stopped until it is let go")
                    child.send(signal.SIGTERM)
                elif child.is_running and now - since > KILL_AFTER_SECONDS:
                    child.kill()
            elif since is not None and not child.is_running:
                del self._held_since[child.name]
                self._say(f"{child.name} is let go")
                self._start(child)

    def _failed(self, child: ChildProcess, problem: str) -> StackFailed:
        if child.tail:
            self._terminal.line(f"The last lines of {child.name}:")
            for line in list(child.tail):
                self._terminal.line(f"  {line}")
        return StackFailed(problem, remedy=f"See {self._plan.logs_dir / (child.name + '.log')}.")

    def _children(self) -> Iterator[ChildProcess]:
        if self._redis is not None:
            yield self._redis
        yield self._bootstrap
        yield from self._services

    def _say(self, text: str) -> None:
        self._terminal.child_line("stack", text, width=self._width)

    # --- stopping ----------------------------------------------------------------------------

    def _shut_down(self) -> None:
        """SIGTERM to all but Redis, later SIGKILL; then the same for Redis. A second signal kills at once."""
        self._stopping = True
        self._on_stopping()
        for child in self._children():
            child.start_at = None
        others = [child for child in self._children() if child is not self._redis]
        self._end(others, kill_after_seconds=KILL_AFTER_SECONDS)
        self._on_services_ended()
        if self._redis is not None:
            self._end([self._redis], kill_after_seconds=REDIS_STOP_SECONDS)
        self._terminal.flush(1.0)

    def _end(self, children: Iterable[ChildProcess], *, kill_after_seconds: float) -> None:
        started = time.monotonic()
        running = [child for child in children if child.is_running]
        for child in running:
            child.send(signal.SIGTERM)
        cold = False
        while running := [child for child in running if child.is_running]:
            elapsed = time.monotonic() - started
            if elapsed > COLD_AFTER_SECONDS and not cold:
                cold = True
                for child in running:
                    if child.child.cold_signal is not None:
                        child.send(child.child.cold_signal)
            if elapsed > kill_after_seconds or self._hurry:
                for child in running:
                    child.kill()
            self._turn(0.05)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Note the signals that ask for the end, and let these and each death wake the selector."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._selector.register(reader, selectors.EVENT_READ)

        def stop(_number: int, _frame: FrameType | None) -> None:
            now = time.monotonic()
            if self._stop_wanted_at is None:
                self._stop_wanted_at = now
            elif now - self._stop_wanted_at > SAME_WISH_SECONDS:
                self._hurry = True

        def wake(_number: int, _frame: FrameType | None) -> None:
            """The wake-up descriptor does the work."""

        wanted: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
            signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGCHLD: wake
        }  # fmt: skip
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it stays ignored
            wanted[signal.SIGHUP] = stop
        earlier = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        earlier_descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(earlier_descriptor)
            for number, handler in earlier.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)
