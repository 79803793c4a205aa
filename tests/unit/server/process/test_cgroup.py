"""Memory limits of containers and units are found through /proc and /sys, in both versions of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.process.cgroup import memory_cgroups

GIB = 2**30
V2_MOUNT = "30 23 0:26 {source} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "35 31 0:32 {source} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory"
OTHER_MOUNTS = """23 1 0:5 / /proc rw - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"""
V1_UNLIMITED = 2**63 - 4096


def machine(root: Path, cgroup: str, *mounts: str) -> Path:
    """A machine whose /proc says this of our process."""
    folder = root / "proc" / "self"
    folder.mkdir(parents=True)
    (folder / "cgroup").write_text(f"{cgroup}\n")
    (folder / "mountinfo").write_text("\n".join([OTHER_MOUNTS, *mounts]) + "\n")
    return root


def group(root: Path, path: str, **files: int | str) -> None:
    """A cgroup's files; memory_max stands for memory.max."""
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("memory_", "memory.", 1)).write_text(f"{text}\n")


def limits(root: Path) -> list[int | None]:
    return [cgroup.limit_bytes() for cgroup in memory_cgroups(root)]


def available(root: Path) -> list[int | None]:
    return [cgroup.available_bytes() for cgroup in memory_cgroups(root)]


class TestVersion2:
    def test_the_limits_of_our_cgroup_and_of_its_ancestors_count(self, tmp_path: Path) -> None:
        machine(tmp_path, "0::/user.slice/us.service/worker", V2_MOUNT.format(source="/"))
        group(tmp_path, "sys/fs/cgroup/user.slice", memory_max=8 * GIB, memory_current=3 * GIB)
        group(tmp_path, "sys/fs/cgroup/user.slice/us.service", memory_max="max", memory_current=GIB)
        group(tmp_path, "sys/fs/cgroup/user.slice/us.service/worker", memory_max=16 * GIB, memory_current=GIB)

        assert limits(tmp_path) == [16 * GIB, None, 8 * GIB]
        assert available(tmp_path) == [15 * GIB, None, 5 * GIB]

    def test_a_container_sees_its_own_cgroup_as_the_root(self, tmp_path: Path) -> None:
        machine(tmp_path, "0::/", V2_MOUNT.format(source="/"))
        group(tmp_path, "sys/fs/cgroup", memory_max=4 * GIB, memory_current=GIB)

        assert limits(tmp_path) == [4 * GIB]

    def test_a_path_told_from_the_hosts_root_is_found_under_the_containers_mount(self, tmp_path: Path) -> None:
        machine(tmp_path, "0::/pods/p1/box/inner", V2_MOUNT.format(source="/pods/p1/box"))
        group(tmp_path, "sys/fs/cgroup", memory_max=4 * GIB, memory_current=0)
        group(tmp_path, "sys/fs/cgroup/inner", memory_max=2 * GIB, memory_current=0)

        assert limits(tmp_path) == [2 * GIB, 4 * GIB]

    @pytest.mark.parametrize("path", ["/elsewhere", "/../sibling"])
    def test_a_path_outside_of_the_mount_means_what_the_mount_shows(self, tmp_path: Path, path: str) -> None:
        machine(tmp_path, f"0::{path}", V2_MOUNT.format(source="/pods/p1" if path == "/elsewhere" else "/"))
        group(tmp_path, "sys/fs/cgroup", memory_max=4 * GIB, memory_current=0)

        assert GIB * 4 in limits(tmp_path)

    def test_memory_high_counts_because_the_kernel_stops_what_exceeds_it(self, tmp_path: Path) -> None:
        machine(tmp_path, "0::/", V2_MOUNT.format(source="/"))
        group(tmp_path, "sys/fs/cgroup", memory_max="max", memory_high=3 * GIB, memory_current=GIB)

        assert (limits(tmp_path), available(tmp_path)) == ([3 * GIB], [2 * GIB])

    def test_files_in_memory_can_be_dropped_and_count_as_available(self, tmp_path: Path) -> None:
        machine(tmp_path, "0::/", V2_MOUNT.format(source="/"))
        stat = f"anon {GIB}\nfile {5 * GIB}\ninactive_file {2 * GIB}\nactive_file {3 * GIB}"
        group(tmp_path, "sys/fs/cgroup", memory_max=8 * GIB, memory_current=6 * GIB, memory_stat=stat)

        assert available(tmp_path) == [7 * GIB]

    def test_a_limit_set_below_what_is_used_leaves_nothing_and_not_less(self, tmp_path: Path) -> None:
        machine(tmp_path, "0::/", V2_MOUNT.format(source="/"))
        group(tmp_path, "sys/fs/cgroup", memory_max=GIB, memory_current=2 * GIB)

        assert available(tmp_path) == [0]

    def test_a_limit_that_changes_is_seen(self, tmp_path: Path) -> None:
        machine(tmp_path, "0::/", V2_MOUNT.format(source="/"))
        group(tmp_path, "sys/fs/cgroup", memory_max="max", memory_current=GIB)
        (cgroup,) = memory_cgroups(tmp_path)
        group(tmp_path, "sys/fs/cgroup", memory_max=4 * GIB)

        assert (cgroup.limit_bytes(), cgroup.available_bytes()) == (4 * GIB, 3 * GIB)


class TestVersion1:
    def test_the_limit_is_found_in_the_hierarchy_of_memory(self, tmp_path: Path) -> None:
        machine(tmp_path, "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/", V1_MOUNT.format(source="/docker/abc"))
        group(
            tmp_path,
            "sys/fs/cgroup/memory",
            memory_limit_in_bytes=4 * GIB,
            memory_usage_in_bytes=3 * GIB,
            memory_stat=f"inactive_file 0\ntotal_inactive_file {GIB}\ntotal_active_file {GIB}",
        )

        assert (limits(tmp_path), available(tmp_path)) == ([4 * GIB], [3 * GIB])

    def test_a_number_larger_than_any_machine_is_no_limit(self, tmp_path: Path) -> None:
        machine(tmp_path, "4:memory:/a", V1_MOUNT.format(source="/"))
        group(tmp_path, "sys/fs/cgroup/memory/a", memory_limit_in_bytes=V1_UNLIMITED, memory_usage_in_bytes=GIB)

        assert (limits(tmp_path), available(tmp_path)) == ([None], [None])

    def test_the_limit_of_an_ancestor_that_is_out_of_sight_counts(self, tmp_path: Path) -> None:
        machine(tmp_path, "4:memory:/pod/box", V1_MOUNT.format(source="/pod/box"))
        group(
            tmp_path,
            "sys/fs/cgroup/memory",
            memory_limit_in_bytes=V1_UNLIMITED,
            memory_usage_in_bytes=GIB,
            memory_stat=f"hierarchical_memory_limit {2 * GIB}",
        )

        assert (limits(tmp_path), available(tmp_path)) == ([2 * GIB], [GIB])

    def test_both_versions_at_once_count_where_they_account_memory(self, tmp_path: Path) -> None:
        v2_beside = V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified").format(source="/")
        machine(tmp_path, "4:memory:/a\n0::/b", v2_beside, V1_MOUNT.format(source="/"))
        group(tmp_path, "sys/fs/cgroup/memory/a", memory_limit_in_bytes=GIB, memory_usage_in_bytes=0)
        group(tmp_path, "sys/fs/cgroup/unified/b", cgroup_procs="1")

        assert limits(tmp_path) == [GIB]


def test_a_mount_point_with_a_space_in_its_name_is_found(tmp_path: Path) -> None:
    machine(tmp_path, "0::/", V2_MOUNT.format(source="/").replace("/sys/fs/cgroup", r"/sys/my\040groups"))
    group(tmp_path, "sys/my groups", memory_max=GIB, memory_current=0)

    assert limits(tmp_path) == [GIB]


def test_a_system_without_cgroups_has_no_limit(tmp_path: Path) -> None:
    assert memory_cgroups(tmp_path) == []
    assert memory_cgroups(machine(tmp_path, "0::/")) == []
