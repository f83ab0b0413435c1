"""Workers are killed (SIGKILL) at random moments of backups, recoveries, deletions and restores: does anything stick?

``python -m benchmarks backup_kills``; BACKUP_KILLS=500 says how many. Every worker is a forked process with connections
of its own; what would bring a run on in a real stack (the tick a minute later, the next worker) is all that is done
afterwards. Counted: runs that a person would have to unlock, sets that look whole and are not, services left stopped.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.common import redis_server

KILLS = int(os.environ.get("BACKUP_KILLS", "500"))
#: Shares of the kills.
BACKUPS, DELETIONS, RESTORES = 0.55, 0.1, 0.35
#: The tree that is saved: small files and one that takes a while.
SMALL_FILES, LARGE_BYTES = 60, 6 * 2**20
#: So many ticks and workers bring everything to an end, or a person would have to.
ROUNDS = 12
_HTTP = (
    "import http.server as h, sys\n"
    "class H(h.BaseHTTPRequestHandler):\n"
    "    def do_GET(self): self.send_response(200); self.send_header('Content-Length','0'); self.end_headers()\n"
    "    def log_message(self, *a): pass\n"
    "s = h.ThreadingHTTPServer(('127.0.0.1', 0), H); print(s.server_address[1], flush=True); s.serve_forever()\n"
)


class Killed(Exception):
    """The worker was killed in the middle, as it should be."""


def forked(work: Callable[..., Any], *arguments: Any, kill_after: float | None = None) -> Any:
    """What ``work`` returns (JSON) in a process of its own. Killed if it was still at work after ``kill_after``."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            os.setsid()
            with os.fdopen(writer, "w") as out:
                out.write(json.dumps(work(*arguments)))
            code = 0
        except BaseException:  # noqa: BLE001  (shown; this process must not go on as the parent)
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(reader) as said:
        text = said.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise Killed
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"{work.__name__} failed")
    return json.loads(text)


# --- what workers do -------------------------------------------------------------------------------------------


def _now(minutes: float = 0) -> Any:
    from controlplane.kernel import clock

    return clock.now() + timedelta(minutes=minutes)


def prepare(folder: str, port: int) -> int:
    from django.core.management import call_command

    from backups import keys
    from backups.models import BackupPlan, BackupSource, ControlledService, StorageTarget

    call_command("migrate", verbosity=0)
    keys.ensure_keys()
    root = Path(folder)
    write_tree(root / "tree", 0)
    (root / "store").mkdir()
    target = StorageTarget.objects.create(name="disk", kind="local", path=str(root / "store"))
    source = BackupSource.objects.create(
        name="tree", kind="files", settings={"base": str(root / "tree"), "patterns": "**"}
    )
    plan = BackupPlan.objects.create(name="bench", target=target, keep_last=3, keep_within_days=0)
    plan.sources.add(source)
    running = root / "service-runs"
    running.touch()
    ControlledService.objects.create(
        name="toy",
        stop_command=f"rm -f {running}",
        start_command=f"touch {running}",
        status_command=f"test -f {running}",
    )
    return plan.pk


def write_tree(tree: Path, version: int) -> None:
    """The same names with other contents for each version, so that a mixture would be seen."""
    chance = random.Random(version)
    for number in range(SMALL_FILES):
        path = tree / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{version}\n".encode() * (1 + number))
    (tree / "large").write_bytes(f"{version}\n".encode() + chance.randbytes(LARGE_BYTES))


def version_of(tree: Path) -> int | None:
    """Which version the tree is, None for a mixture."""
    found = {path.read_bytes().split(b"\n", 1)[0] for path in tree.rglob("*") if path.is_file()}
    return int(found.pop()) if len(found) == 1 else None


def request(plan: int) -> int:
    from backups.engine.requests import request_backup
    from backups.models import BackupPlan

    record = request_backup(BackupPlan.objects.get(pk=plan), trigger="manual")
    assert record is not None
    return record.pk


def run(pk: int, minutes: float) -> str:
    from backups.engine.run import run_backup
    from backups.models import BackupRecord

    record = run_backup(
        pk, owner=f"worker-{os.getpid()}", now=max(_now(minutes), BackupRecord.objects.get(pk=pk).due_at)
    )
    return record.state if record is not None else "taken"


def tick(minutes: float) -> str:
    from backups.engine.recover import tend_backups

    return str(tend_backups(_now(minutes)))


def state_of(pk: int) -> str:
    from backups.models import BackupRecord

    record = BackupRecord.objects.get(pk=pk)
    held = record.lease_expires_at is not None and record.state not in ("queued", "running", "deleting")
    return "locked" if held else record.state


def oldest(keep: int) -> int | None:
    from backups.models import BackupRecord

    kept = BackupRecord.objects.filter(state="committed", pinned_at__isnull=True)
    found = list(kept.order_by("pk").values_list("pk", flat=True))
    return found[0] if len(found) > keep else None


def pin(pk: int) -> None:
    from backups.engine.expiry import pin as keep
    from backups.models import BackupRecord

    keep(BackupRecord.objects.get(pk=pk), actor="benchmark", reason="restores go back to it")


def delete(pk: int, minutes: float) -> str:
    from backups.engine.deleting import begin, delete_set
    from backups.models import BackupRecord

    record = BackupRecord.objects.get(pk=pk)
    if record.state == "committed":
        begin(record, reason="benchmark", actor="benchmark", now=_now())
    delete_set(pk, now=_now(minutes))
    return state_of(pk)


def half_visible(plan: int) -> int:
    """Sets with a COMMIT of which something is missing, and committed records without their set."""
    from backups.manifest import COMMIT, load_set
    from backups.models import BackupPlan, BackupRecord
    from backups.storage import open_target

    storage = open_target(BackupPlan.objects.get(pk=plan).target)
    sizes = {info.key: info.size for info in storage.list("sets/")}
    bad = 0
    for key in [key for key in sizes if key.endswith(f"/{COMMIT}")]:
        prefix = key.removesuffix(f"/{COMMIT}")
        try:
            objects = load_set(storage, prefix).objects()
        except Exception:  # noqa: BLE001  (whatever is wrong with it, it looks whole)
            bad += 1
            continue
        bad += any(sizes.get(f"{prefix}/{name}") != size for name, size in objects.items())
    kept = BackupRecord.objects.filter(state="committed").values_list("prefix", flat=True)
    return bad + sum(f"{prefix}/{COMMIT}" not in sizes for prefix in kept)


def leftovers(plan: int) -> int:
    from backups.models import BackupPlan, BackupRecord
    from backups.storage import open_target

    storage = open_target(BackupPlan.objects.get(pk=plan).target)
    known = tuple(f"{p}/" for p in BackupRecord.objects.filter(state="committed").values_list("prefix", flat=True))
    return sum(not info.key.startswith(known) for info in storage.list("sets/")) + len(list(storage.uploads("sets/")))


def every_set_restores(_: int) -> int:
    """The committed sets, each read to its last byte with the recovery key."""
    from backups import keys
    from backups.manifest import load_set
    from backups.models import BackupRecord
    from backups.storage import open_target
    from backups.stream import open_stream

    identity, count = keys.identity_from_file(keys.recovery_key_file()), 0
    for record in BackupRecord.objects.filter(state="committed"):
        storage = open_target(record.target)
        for artifact in load_set(storage, record.prefix).artifacts:
            for _block in open_stream(storage, f"{record.prefix}/{artifact.name}", artifact, identity):
                pass
        count += 1
    return count


def ask_restore(pk: int) -> int:
    from backups.models import BackupRecord, RestoreRecord
    from backups.restore.requests import request_restore

    row = request_restore(
        BackupRecord.objects.get(pk=pk),
        artifacts=["tree"],
        options={"stop_services": True},
        requested_by="benchmark",
        reason="benchmark",
        # A day has names for a hundred restores.
        now=_now(-1440 * (RestoreRecord.objects.count() // 90)),
        send=False,
    )
    return row.pk


def restore(pk: int, minutes: float) -> str:
    from backups.restore import health
    from backups.restore.run import run_restore

    health._PAUSE_SECONDS = 0.05
    row = run_restore(pk, owner=f"worker-{os.getpid()}", now=_now(minutes), patience_seconds=0.3)
    return row.state if row is not None else "taken"


def restore_state(pk: int) -> list[Any]:
    from backups.machines import RESTORE
    from backups.models import RestoreRecord
    from backups.restore import journal

    row = RestoreRecord.objects.get(pk=pk)
    open_journals = [one.name for one in journal.unfinished()]
    over = row.state in RESTORE.terminal_states and row.lease_expires_at is None and not open_journals
    return [row.state, over, row.error]


# --- episodes --------------------------------------------------------------------------------------------------


class Bench:
    def __init__(self, root: Path, plan: int) -> None:
        self.root, self.plan = root, plan
        self.kills: Counter[str] = Counter()
        self.stuck = self.half = self.stopped = self.mixed = 0
        self.notes: list[str] = []
        self.durations: dict[str, float] = {}
        self.version = 0

    def measure(self, kind: str, work: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        result = forked(work, *arguments)
        self.durations[kind] = time.perf_counter() - began
        return result

    def maybe_killed(self, kind: str, work: Callable[..., Any], *arguments: Any) -> bool:
        """Whether the kill came before the end; afterwards no set may look whole that is not."""
        try:
            forked(work, *arguments, kill_after=random.uniform(0, 1.15 * self.durations[kind]))
        except Killed:
            self.kills[kind] += 1
            self.half += forked(half_visible, self.plan)
            return True
        return False

    def backup(self) -> None:
        record = forked(request, self.plan)
        self.maybe_killed("backup", run, record, 0.0)
        if forked(state_of, record) == "running":
            for _ in range(random.randrange(3)):
                self.maybe_killed("recovery", tick, 1.1)
        for minutes in range(2, 2 * ROUNDS, 2):
            forked(tick, 1.1 * minutes)
            state = forked(state_of, record)
            if state in ("committed", "failed"):
                break
            if state == "queued":
                forked(run, record, 1.1 * minutes + 1)
        else:
            state = "stuck"
        while (victim := forked(oldest, 6)) is not None:
            forked(delete, victim, 0.1)
        if state != "committed":
            self.stuck += 1
            self.notes.append(f"backup {record}: {forked(state_of, record)}")

    def deletion(self) -> None:
        victim = forked(oldest, 3)
        if victim is None:
            return
        self.maybe_killed("deletion", delete, victim, 0.1)
        if not any(forked(delete, victim, later) == "deleted" for later in (3, 9, 15)):
            self.stuck += 1
            self.notes.append(f"deletion {victim}: {forked(state_of, victim)}")

    def restore(self, saved: int) -> None:
        self.version += 1
        changed = self.version + 1000
        forked(_rewrite, str(self.root / "tree"), changed)
        row = forked(ask_restore, saved)
        minutes = 0.0
        for _ in range(1 + random.randrange(2)):
            self.maybe_killed("restore", restore, row, minutes)
            minutes += 3
        for _ in range(ROUNDS):
            state, over, error = forked(restore_state, row)
            if over:
                break
            forked(restore, row, minutes)
            minutes += 3
        else:
            self.stuck += 1
            self.notes.append(f"restore {row}: {state} {error}")
        for later in range(2, 8, 2):  # a safety backup whose worker was killed with it
            forked(tick, minutes + later)
        self.stopped += not (self.root / "service-runs").exists()
        wanted = 0 if state == "done" else changed
        if version_of(self.root / "tree") != wanted:
            self.mixed += 1
            self.notes.append(f"restore {row} ended {state} with version {version_of(self.root / 'tree')}: {error}")


def _rewrite(tree: str, version: int) -> None:
    shutil.rmtree(tree)
    write_tree(Path(tree), version)


@contextmanager
def _installation() -> Iterator[tuple[Path, int]]:
    with redis_server() as redis, tempfile.TemporaryDirectory(prefix="zantara-kills-") as folder:
        root = Path(folder)
        (root / "data").mkdir()
        http = subprocess.Popen([sys.executable, "-c", _HTTP], stdout=subprocess.PIPE, text=True)
        assert http.stdout is not None
        port = int(http.stdout.readline())
        os.environ |= {
            "ZANTARA_DATA_DIR": str(root / "data"),
            "ZANTARA_REDIS_URL": redis.urls["unix"],
            "ZANTARA_SERVICES": f"control-plane=http://127.0.0.1:{port}",
            "ZANTARA_LOG_LEVEL": "ERROR",
            "ZANTARA_DRILL_IDENTITY_FILE": str(root / "data" / "secrets" / "drill_identity.txt"),
            "DJANGO_SETTINGS_MODULE": "controlplane.settings",
        }
        os.environ.pop("ZANTARA_DATABASE_URL", None)
        from controlplane.kernel.local_secrets import ensure_local_secrets

        ensure_local_secrets()
        import django

        django.setup()
        try:
            yield root, port
        finally:
            http.kill()
            http.wait()


def main(kills: int = KILLS, seed: int | None = None) -> None:
    seed = random.randrange(10**6) if seed is None else seed
    random.seed(seed)
    began = time.perf_counter()
    with _installation() as (root, port):
        bench = Bench(root, forked(prepare, str(root), port))
        first = forked(request, bench.plan)
        assert bench.measure("backup", run, first, 0.0) == "committed"
        bench.durations["recovery"] = 0.15
        forked(pin, first)
        second = forked(request, bench.plan)
        forked(run, second, 0.0)
        assert bench.measure("deletion", delete, second, 0.1) == "deleted"
        row = forked(ask_restore, first)
        assert bench.measure("restore", restore, row, 0.0) == "done"
        wanted = {"backup": BACKUPS, "deletion": DELETIONS, "restore": RESTORES}
        while (done := sum(bench.kills.values())) < kills:
            kind = max(wanted, key=lambda name: wanted[name] * (done + 1) - bench.kills[name])
            if kind == "deletion" and forked(oldest, 3) is None:
                kind = "backup"
            bench.restore(first) if kind == "restore" else getattr(bench, kind)()
        left, whole = forked(leftovers, bench.plan), forked(every_set_restores, 0)
        _report(bench, left, whole, seed, time.perf_counter() - began)
    if bench.stuck or bench.half or bench.stopped or bench.mixed:
        raise RuntimeError("a kill left something for a person to do")


def _report(bench: Bench, left: int, whole: int, seed: int, seconds: float) -> None:
    print(f"\nKills at random moments (seed {seed}, {seconds:.0f} s, one run of a backup "
          f"{bench.durations['backup']:.2f} s, of a restore {bench.durations['restore']:.2f} s)")  # fmt: skip
    for kind, count in sorted(bench.kills.items()):
        print(f"  {count:5} workers killed in a {kind}")
    print(f"  {sum(bench.kills.values()):5} kills in all")
    print(f"  {bench.stuck:5} manual unlocks")
    print(f"  {bench.half:5} half-visible sets")
    print(f"  {bench.stopped:5} services left stopped")
    print(f"  {bench.mixed:5} restores that left a mixture")
    print(f"  {left:5} objects in the store that belong to no set (the sweep deletes them after two days)")
    print(f"  {whole:5} committed sets, each read to its last byte afterwards")
    for note in bench.notes[:20]:
        print(f"        {note}")
