"""Logs of workers: which are kept, and how long they get."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fourfold.clock import ManualClock
from fourfold.monitor.output import Output
from fourfold.pool import logfiles
from fourfold.pool.logfiles import KEPT, MOST_BYTES, LogFiles


def fill(files: LogFiles, count: int, in_use: tuple[str, ...] = ()) -> list[Path]:
    paths = [Path(files.next(in_use)) for _ in range(count)]
    for path in paths:
        path.write_text(f"{path.name}\n")
    return paths


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept(tmp_path):
    files = LogFiles(tmp_path / "logs")
    paths = fill(files, 1)
    logfiles.shorten(paths[0])
    for _ in range(KEPT + 4):
        paths += fill(files, 1)
    assert names(tmp_path / "logs") == [path.name for path in paths[-KEPT:]]
    assert files.last() == f"i-{KEPT + 5:04d}.log\n"


def test_one_that_a_worker_writes_to_stays_however_old_it_is(tmp_path):
    files = LogFiles(tmp_path)
    oldest = fill(files, 1)[0]
    for _ in range(KEPT * 2):
        fill(files, 1, (str(oldest),))
    assert oldest.exists()
    assert len(names(tmp_path)) == KEPT + 1
    fill(files, 1)
    assert not oldest.exists()


def test_after_a_restart_numbers_go_on_and_old_logs_go(tmp_path):
    for _ in range(KEPT):
        fill(LogFiles(tmp_path), 1)
    files = LogFiles(tmp_path)
    assert files.last() == ""
    assert fill(files, 1)[0].name == f"i-{KEPT + 1:04d}.log"
    assert len(names(tmp_path)) == KEPT


def test_without_a_folder_there_are_none():
    files = LogFiles(None)
    assert files.next(()) == ""
    assert files.last() == ""


def test_the_end_of_a_long_log_is_its_last(tmp_path):
    files = LogFiles(tmp_path)
    path = Path(files.next(()))
    path.write_bytes(b"x" * 100_000 + b"the reason \xff")
    assert files.last().endswith("the reason \ufffd")
    assert len(files.last()) <= logfiles.TAIL
    path.unlink()
    assert files.last() == ""


def test_a_log_that_is_too_long_is_shortened_while_it_is_written_to(tmp_path):
    path = tmp_path / "endpoints" / "e" / "v" / "i-0001.log"
    path.parent.mkdir(parents=True)
    output = Output(tmp_path, ManualClock())
    with path.open("ab", buffering=0) as worker:
        for turn in range(3):
            worker.write(b"%d " % turn + b"x" * MOST_BYTES + b"\n")
            output.note()
            assert path.stat().st_size <= logfiles.ALIGNED
            assert b"%d " % turn in logfiles.earlier(path).read_bytes()
        worker.write(b"after\n")
    output.note()
    stream = output.streams("/aws/sagemaker/Endpoints/e")["v/i-0001"]
    assert output.forward(stream, 0, 10)[-1].message == "after"


NUMBERS = """
import os, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range(100_000):
    os.write(log, b"%07d\\n" % number)
"""


def test_no_line_is_lost_while_a_log_is_shortened(tmp_path):
    path, moved = tmp_path / "i-0001.log", b""
    path.write_bytes(b"x" * logfiles.ALIGNED * 2)
    logfiles.shorten(path)
    if not path.stat().st_size:
        pytest.skip("this file system cannot take the beginning of a file away")
    path.unlink()
    with subprocess.Popen([sys.executable, "-c", NUMBERS, str(path)]) as worker:
        while worker.poll() is None:
            if path.exists() and path.stat().st_size > logfiles.ALIGNED:
                logfiles.shorten(path)
                moved += logfiles.earlier(path).read_bytes()
    assert [int(line) for line in (moved + path.read_bytes()).split()] == list(range(100_000))
