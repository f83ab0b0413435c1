"""Steps are detached: they end the same whoever began them, whoever looks, and whatever is killed meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.errors import StepFailed
from deployments.pipeline import folder as files
from deployments.pipeline import runner
from deployments.pipeline.base import Limits, StepSpec
from tests import needs

from .conftest import command_lines, ended, everything_in, number_in, runs, until

ROOT = Path(__file__).parents[3]
Spec = Callable[..., StepSpec]


def python(text: str) -> tuple[str, str, str]:
    return (sys.executable, "-c", textwrap.dedent(text))


def test_a_step_ends_with_its_exit_code_its_times_and_all_that_it_said(folder: Path, spec: Spec) -> None:
    handle = runner.begin(spec("sh", "-c", "echo out; echo err >&2; exit 3"), folder)
    seen = ended(folder, handle)
    assert (seen.exit_code, seen.timed_out, seen.gone, seen.reason) == (3, False, False, "")
    assert seen.started_at is not None
    assert seen.finished_at is not None
    assert seen.started_at <= seen.finished_at
    assert runner.output_tail(folder) == "$ sh -c 'echo out; echo err >&2; exit 3'\nout\nerr\n"
    assert seen.output_bytes == len(runner.output_tail(folder))
    assert set(handle) == {"pid", "started", "boot", "at"}


def test_a_step_gets_a_small_environment_and_nothing_of_the_workers_secrets(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZANTARA_SECRET_KEY", "the-workers-own")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    runner.begin(spec("env", environ={"COLOUR": "blue"}), folder)
    ended(folder)
    said = runner.output_tail(folder).splitlines()
    assert "COLOUR=blue" in said
    assert "LANG=C.UTF-8" in said
    allowed = {*runner.INHERITED, "LANG", "LC_ALL", "NO_COLOR", "PYTHONUNBUFFERED", "COLOUR"}
    assert {line.partition("=")[0] for line in said if "=" in line} - allowed == set()


def test_the_shepherd_does_not_carry_the_workers_secrets_either(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZANTARA_SECRET_KEY", "the-workers-own")
    handle = runner.begin(spec("sleep", "60"), folder)
    assert b"the-workers-own" not in Path(f"/proc/{handle['pid']}/environ").read_bytes()


@pytest.mark.parametrize(
    ("argv", "code", "reason"),
    [
        (
            ("no-such-program",), 127,
            "no-such-program was not found: install it, or give its whole path in the step's command.",
        ),
        (("./not-executable",), 126, "./not-executable may not be executed: make it executable (chmod +x)."),
        (
            ("./no-program",), 126,
            "./no-program could not be started (Exec format error): begin a script with a line like #!/bin/sh.",
        ),
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_started_says_why(
    folder: Path, spec: Spec, tmp_path: Path, argv: tuple[str, ...], code: int, reason: str
) -> None:
    (tmp_path / "not-executable").write_text("#!/bin/sh\n")
    (tmp_path / "no-program").write_text("no line that names an interpreter")
    (tmp_path / "no-program").chmod(0o755)
    runner.begin(spec(*argv), folder)
    seen = ended(folder)
    assert (seen.exit_code, seen.reason) == (code, reason)
    assert reason in runner.output_tail(folder)


def test_variables_that_are_too_long_for_the_machine_are_a_sentence(folder: Path, spec: Spec) -> None:
    runner.begin(spec("true", environ={"MUCH": "x" * 200_000}), folder)
    assert ended(folder).reason == (
        "true could not be started (Argument list too long): shorten its arguments, or the service's variables."
    )


def test_a_working_directory_that_is_not_there_is_named(folder: Path, spec: Spec, tmp_path: Path) -> None:
    runner.begin(spec("true", cwd=tmp_path / "nowhere"), folder)
    assert ended(folder).reason == (
        f"The directory {tmp_path / 'nowhere'} does not exist: correct the step's working directory."
    )


def test_a_step_that_takes_too_long_is_killed_with_all_that_it_started(
    folder: Path, spec: Spec, tmp_path: Path
) -> None:
    stubborn = "trap '' TERM; sleep 600 & echo $! > child; while :; do sleep 600; done"
    runner.begin(spec("sh", "-c", stubborn, timeout_seconds=5), folder, Limits(grace_seconds=0.3))
    child = number_in(tmp_path / "child")
    seen = ended(folder)
    assert (seen.timed_out, seen.exit_code) == (True, -signal.SIGKILL)
    assert seen.reason == "It took longer than 5 s and was stopped."
    assert not runs(child)


def test_a_step_that_is_asked_to_end_may_clean_up_first(folder: Path, spec: Spec, tmp_path: Path) -> None:
    polite = "trap 'echo cleaned up; exit 9' TERM; touch ready; while :; do sleep 0.05; done"
    handle = runner.begin(spec("sh", "-c", polite), folder)
    until((tmp_path / "ready").exists, "it did not begin")
    runner.kill(folder, handle)
    seen = ended(folder, handle)
    assert (seen.exit_code, seen.timed_out, seen.reason) == (9, False, "It was stopped.")
    assert "cleaned up" in runner.output_tail(folder)


def test_what_a_step_leaves_in_the_background_ends_with_it(folder: Path, spec: Spec, tmp_path: Path) -> None:
    runner.begin(spec("sh", "-c", "setsid sleep 600 & echo $! > daemon; echo done"), folder)
    daemon = number_in(tmp_path / "daemon")
    assert ended(folder).exit_code == 0
    assert not runs(daemon)


def test_a_step_that_was_killed_before_it_was_begun_never_runs(folder: Path, spec: Spec, tmp_path: Path) -> None:
    runner.kill(folder)
    runner.begin(spec("touch", "ran"), folder)
    assert ended(folder).reason == "It was stopped."
    assert not (tmp_path / "ran").exists()


def test_killing_what_has_ended_changes_nothing(folder: Path, spec: Spec) -> None:
    handle = runner.begin(spec("true"), folder)
    before = ended(folder)
    runner.kill(folder, handle)
    assert runner.look(folder, handle) == before


def test_a_step_that_has_ended_is_not_begun_again(folder: Path, spec: Spec, tmp_path: Path) -> None:
    step = spec("sh", "-c", "echo ran >> runs")
    first = runner.begin(step, folder)
    ended(folder)
    assert runner.begin(step, folder) == first
    assert ended(folder).exit_code == 0
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_two_workers_that_begin_a_step_at_once_begin_it_once(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "beginner.py"
    script.write_text(
        textwrap.dedent(f"""
            import json, sys
            from pathlib import Path
            from deployments.pipeline import runner
            from deployments.pipeline.base import StepSpec
            step = StepSpec("s", "command", ("sh", "-c", "echo ran >> runs; sleep 0.5"), Path({str(tmp_path)!r}), 60)
            sys.stdin.read()
            print(json.dumps(runner.begin(step, Path({str(folder)!r}))))
        """)
    )
    beginners = [
        subprocess.Popen(
            [sys.executable, script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for beginner in beginners:
        assert beginner.stdin is not None
        beginner.stdin.close()
    handles = []
    for beginner in beginners:
        assert beginner.stdout is not None
        with beginner:
            handles.append(beginner.stdout.read())
    assert ended(folder).exit_code == 0
    assert len(set(handles)) == 1
    assert (tmp_path / "runs").read_text() == "ran\n"


def begin_in_another_process(step: StepSpec, folder: Path) -> subprocess.Popen[str]:
    """A worker that begins the step and then stays, until it is killed."""
    text = f"""
        import time
        from pathlib import Path
        from deployments.pipeline import runner
        from deployments.pipeline.base import StepSpec
        step = StepSpec("s", "command", {step.argv!r}, Path({str(step.cwd)!r}), 60)
        runner.begin(step, Path({str(folder)!r}))
        print("begun", flush=True)
        time.sleep(600)
    """
    worker = subprocess.Popen(
        python(text), cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert worker.stdout is not None
    assert worker.stdout.readline() == "begun\n"
    return worker


def test_a_worker_that_is_killed_takes_no_step_with_it_and_another_one_finds_it(
    folder: Path, spec: Spec, tmp_path: Path
) -> None:
    step = spec("sh", "-c", "until [ -e go ]; do sleep 0.05; done; echo went on")
    with begin_in_another_process(step, folder) as worker:
        os.killpg(worker.pid, signal.SIGKILL)
    assert runner.look(folder).running  # without the handle: it died with the worker
    (tmp_path / "go").touch()
    assert ended(folder).exit_code == 0
    assert "went on" in runner.output_tail(folder)


def test_a_shepherd_that_is_killed_takes_the_command_with_it_and_the_step_is_gone(
    folder: Path, spec: Spec, tmp_path: Path
) -> None:
    step = spec("sh", "-c", "echo ran >> runs; sleep 600 & echo $! > child; echo $$ > own; wait")
    handle = runner.begin(step, folder)
    own, child = number_in(tmp_path / "own"), number_in(tmp_path / "child")
    os.kill(handle["pid"], signal.SIGKILL)
    until(lambda: not runs(own), "the command outlived its shepherd")
    seen = ended(folder, handle)
    assert (seen.gone, seen.exit_code) == (True, None)
    until(lambda: not runs(child), "what the command had started outlived the step")
    for name in ("own", "child"):
        (tmp_path / name).unlink()
    runner.begin(step, folder)  # gone: it may be run once more
    number_in(tmp_path / "child")
    assert runner.look(folder).running
    assert (tmp_path / "runs").read_text() == "ran\nran\n"


def test_a_step_that_was_never_begun_is_gone(folder: Path) -> None:
    assert runner.look(folder).gone
    folder.mkdir()
    assert runner.look(folder, {"pid": 1, "started": "1", "boot": "of another day"}).gone


def test_a_handle_whose_number_belongs_to_somebody_else_by_now_is_not_killed(folder: Path, spec: Spec) -> None:
    with subprocess.Popen(["sleep", "600"]) as stranger:
        mark = files.mark_of(stranger.pid)
        folder.mkdir()
        runner.kill(folder, {**mark, "started": str(int(mark["started"]) - 1)})
        assert runs(stranger.pid)
        stranger.kill()


def test_a_worker_that_dies_while_it_hands_secrets_over_has_begun_nothing(
    folder: Path, spec: Spec, tmp_path: Path
) -> None:
    folder.mkdir()
    files.write_json(folder / files.SPEC, {"argv": ["touch", "ran"], "cwd": str(tmp_path)})
    done = subprocess.run(
        [sys.executable, "-m", "deployments.pipeline.shepherd", folder], cwd=ROOT, input=b'{"environ": {', check=False
    )
    assert done.returncode == 2
    assert runner.look(folder).gone
    assert not (tmp_path / "ran").exists()


def test_secrets_are_on_no_command_line_on_no_disk_and_in_no_output(folder: Path, spec: Spec, tmp_path: Path) -> None:
    secret = "correct-horse/battery"
    says = """
        import os, sys, time
        secret = os.environ["TOKEN_OF_MINE"]
        sys.stdout.write("first " + secret[:9]); sys.stdout.flush()
        time.sleep(0.3)
        print(secret[9:] + " then password=hunter22 done", flush=True)
        open("ready", "w").close()
        while not os.path.exists("go"): time.sleep(0.02)
    """
    runner.begin(spec(*python(says), environ={"TOKEN_OF_MINE": secret}, secrets=(secret,)), folder)
    until((tmp_path / "ready").exists, "it did not begin")
    assert secret not in command_lines()
    assert secret not in everything_in(folder)
    (tmp_path / "go").touch()
    assert ended(folder).exit_code == 0
    assert runner.output_tail(folder).endswith("first *** then password=*** done\n")
    assert "correct" not in everything_in(folder)
    assert oct((folder / files.OUTPUT).stat().st_mode & 0o777) == "0o600"


def test_an_output_that_is_too_long_keeps_its_beginning_and_its_end(folder: Path, spec: Spec) -> None:
    many = "print('the first line'); [print('a line of the middle', n) for n in range(200_000)]; print('the last line')"
    runner.begin(spec(*python(many)), folder, Limits(output_bytes=100_000))
    assert ended(folder).exit_code == 0
    text = (folder / files.OUTPUT).read_text()
    assert len(text) < 100_000 + 262_144 + 200
    assert "the first line\n" in text
    assert "output truncated" in text
    assert text.endswith("a line of the middle 199999\nthe last line\n")


def test_a_step_is_not_begun_on_a_disk_that_is_full(folder: Path, spec: Spec, tmp_path: Path) -> None:
    runner.begin(spec("touch", "ran"), folder, Limits(free_bytes=10**18))
    seen = ended(folder)
    assert seen.exit_code is None
    assert seen.reason.startswith(f"The disk of {folder} ran full:")
    assert seen.reason.endswith("1e+09 GB must stay free. Free some space, then try again.")
    assert not (tmp_path / "ran").exists()


def test_a_step_that_fills_the_disk_is_stopped_while_there_is_still_room(
    folder: Path, spec: Spec, tmp_path: Path
) -> None:
    free = shutil.disk_usage(tmp_path).free
    if free < 8 * 10**9:
        needs.leave_out("less than 8 GB are free here")
    fills = """
        import os, time
        with open("much", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 4 * 10**9)
            time.sleep(600)
    """
    runner.begin(spec(*python(fills)), folder, Limits(free_bytes=free - 2 * 10**9, grace_seconds=0.3))
    seen = ended(folder)
    (tmp_path / "much").unlink()
    assert seen.exit_code == -signal.SIGTERM
    assert " ran full: " in seen.reason
    assert "must stay free" in seen.reason


def test_the_output_is_read_on_while_the_step_runs(folder: Path, spec: Spec, tmp_path: Path) -> None:
    runner.begin(spec("sh", "-c", "echo größe; until [ -e go ]; do sleep 0.05; done; echo ende"), folder)
    until(lambda: "größe\n" in runner.output_tail(folder).replace("echo größe", ""), "nothing was said")
    text, offset = runner.output_since(folder, 0)
    assert offset == len(text.encode())
    assert runner.output_since(folder, offset) == ("", offset)
    (tmp_path / "go").touch()
    ended(folder)
    assert runner.output_since(folder, offset) == ("ende\n", offset + 5)
    assert runner.output_tail(folder, 5) == "ende\n"
    assert runner.output_tail(folder, 100, offset) == "ende\n"


def test_pieces_of_output_never_break_a_character(folder: Path) -> None:
    folder.mkdir()
    text = "äöü€😀" * 3
    (folder / files.OUTPUT).write_text(text)
    for size in range(4, 12):
        offset, found = 0, ""
        while True:
            piece, offset = runner.output_since(folder, offset, size)
            if not piece:
                break
            found += piece
        assert found == text


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path, spec: Spec) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StepFailed, match=r"The step a step cannot be begun in .*See that the data directory"):
        runner.begin(spec("true"), tmp_path / "file" / "step")


def test_a_step_without_a_command_is_refused(folder: Path, spec: Spec) -> None:
    with pytest.raises(StepFailed, match="has no command"):
        runner.begin(spec(), folder)
    assert not folder.exists()


@pytest.mark.parametrize("module", ["shepherd", "fetching"])
def test_the_programs_that_outlive_a_worker_know_nothing_of_django(module: str) -> None:
    text = f"import sys, deployments.pipeline.{module}; print(sorted(n for n in sys.modules if n.startswith('django')))"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
