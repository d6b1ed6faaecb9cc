"""Control groups, on a folder that looks like cgroup v2: which ones the server may use, and what it writes there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fourfold.pool.cgroups import Cgroups

FILES = ("memory.max", "memory.oom.group", "memory.swap.max", "cpu.weight")


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """The group of a service that holds this process alone."""
    folder = tmp_path / "system.slice" / "fourfold.service"
    (folder / "server").mkdir(parents=True)
    (folder / "cgroup.controllers").write_text("cpu io memory pids\n")
    (folder / "cgroup.procs").write_text(f"{os.getpid()}\n")
    return folder


def find(tmp_path: Path, group: str = "/system.slice/fourfold.service") -> Cgroups | None:
    own = tmp_path / "own"
    own.write_text(f"4:memory:/elsewhere\n0::{group}\n")
    return Cgroups.find(tmp_path, own)


def test_the_server_moves_aside_and_hands_controllers_down(tmp_path, service):
    assert find(tmp_path) is not None
    assert (service / "server" / "cgroup.procs").read_text() == str(os.getpid())
    assert (service / "cgroup.subtree_control").read_text() == "+memory +cpu"


def test_a_server_that_is_inside_its_leaf_uses_the_group_above(tmp_path, service):
    (service / "cgroup.procs").write_text("")
    groups = find(tmp_path, "/system.slice/fourfold.service/server")
    assert groups is not None
    assert groups.make(1024).folder.parent == service


def test_a_worker_gets_its_memory_and_cpu_by_it(tmp_path, service):
    groups = find(tmp_path)
    assert groups is not None
    group = groups.make(3072)
    written = {name: (group.folder / name).read_text() for name in FILES}
    assert written == {
        "memory.max": str(3072 * 1024**2), "memory.oom.group": "1", "memory.swap.max": "0", "cpu.weight": "300",
    }  # fmt: skip
    assert groups.make(1024).folder != group.folder


def test_the_kernels_count_says_why_a_worker_ended(tmp_path, service):
    groups = find(tmp_path)
    assert groups is not None
    group = groups.make(1024)
    assert not group.was_full()
    (group.folder / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n")
    assert not group.was_full()
    (group.folder / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\n")
    assert group.was_full()
    assert group.peak() == 1024 * 1024**2
    (group.folder / "memory.peak").write_text("1073000000\n")
    assert group.peak() == 1073000000


def test_groups_that_are_not_the_servers_own_are_left_alone(tmp_path, service):
    (service / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")  # somebody else is in it
    assert find(tmp_path) is None
    (service / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (service / "cgroup.controllers").write_text("cpu\n")
    assert find(tmp_path) is None
    assert find(tmp_path, "/") is None  # the machine's own
    assert find(tmp_path, "/gone") is None
    assert not (service / "cgroup.subtree_control").exists()


def test_what_a_killed_server_left_is_removed(tmp_path, service):
    (service / "worker-7-1").mkdir()
    assert find(tmp_path) is not None
    assert not (service / "worker-7-1").exists()


def test_what_a_worker_leaves_behind_is_ended(tmp_path, service):
    groups = find(tmp_path)
    assert groups is not None
    group = groups.make(1024)
    assert not group.remove()  # files that a real group's folder does not count keep this one from going
    assert (group.folder / "cgroup.kill").read_text() == "1"
    for file in group.folder.iterdir():
        file.unlink()
    assert group.remove()
    assert group.remove()


def test_a_machine_without_control_groups(tmp_path):
    assert Cgroups.find(tmp_path, tmp_path / "missing") is None
