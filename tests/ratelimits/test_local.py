from __future__ import annotations

import threading

from ratelimits.limiter.local import LocalWindows, share


def test_the_share_of_a_limit_is_rounded_down_and_never_nothing() -> None:
    assert share(100, 2) == 50
    assert share(7, 2) == 3
    assert share(1, 8) == 1


def test_a_process_counts_alone_and_only_what_fits_everywhere() -> None:
    windows = LocalWindows()
    wanted = [("window", 10, 60), ("burst", 2, 5)]
    outcomes = [all(seen.fits for seen in windows.decide(wanted, now=1_000_000)) for _ in range(5)]
    assert outcomes == [True, True, False, False, False]
    window, burst = windows.decide(wanted, now=1_000_000)
    assert (window.ring.total, burst.ring.total) == (2, 2)  # the three denied ones cost nothing
    assert window.fits
    assert not burst.fits


def test_the_longest_unseen_caller_is_forgotten_first() -> None:
    windows = LocalWindows(most=2)
    windows.decide([("a", 1, 60)], now=0)
    windows.decide([("b", 1, 60)], now=1)
    assert not windows.decide([("a", 1, 60)], now=2)[0].fits  # seen again: b is now the longest unseen
    windows.decide([("c", 1, 60)], now=3)
    assert not windows.decide([("a", 1, 60)], now=4)[0].fits
    assert windows.decide([("b", 1, 60)], now=5)[0].fits


def test_threads_share_one_count() -> None:
    windows, through = LocalWindows(), []
    start = threading.Barrier(8)

    def call() -> None:
        start.wait()
        for _ in range(50):
            if windows.decide([("k", 37, 3600)])[0].fits:
                through.append(1)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(through) == 37
