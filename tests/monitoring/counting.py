"""What the tests of metrics share: directories of a service, processes that count into them and die, reading text."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def values(text: str | bytes) -> Series:
    """Every sample of an exposition text."""
    text = text.decode() if isinstance(text, bytes) else text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str | bytes, name: str, **labels: str) -> float:
    """The sum of the samples of that name with at least these labels."""
    wanted = set(labels.items())
    return sum(v for (sample, having), v in values(text).items() if sample == name and wanted <= having)


def count_in(folder: Path, owner: str, amount: float, *, kind: str = "counter", name: str = "toy_total") -> None:
    """What a process of that name would have left behind."""
    store = MmapedDict(str(folder / f"{kind}_{owner}.db"))
    store.write_value(mmap_key(name.removesuffix("_total"), name, ["n"], ["1"], "A toy."), amount, 0.0)
    store.close()


def counting_process(folder: Path, code: str) -> subprocess.Popen[str]:
    """A process of the service that runs ``code``, says "ready", and waits to be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}\nprint('ready', flush=True)\nimport time\ntime.sleep(60)"],
        cwd=ROOT, env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str], *, reap: bool = True) -> None:
    process.send_signal(signal.SIGKILL)
    if reap:
        assert process.wait(10) == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()
