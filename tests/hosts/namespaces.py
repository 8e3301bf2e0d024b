"""Two hosts on one machine: network namespaces with a link between them that can be cut in silence.

Each has its own name, address, /etc/hosts and temporary folder; processes, users and all other
files are shared. Needs root, or user namespaces; `ip`, `unshare` and `nsenter` (Debian: iproute2,
util-linux). Whatever is made goes with the processes that hold it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

NAMES = "h1", "h2"
ADDRESSES = "10.77.0.1", "10.77.0.2"
NOWHERE = "02:00:00:00:00:99"  # an Ethernet address that nobody has


class Hosts:
    """OSError, with the reason, where they cannot be made."""

    def __init__(self, folder: Path):
        for program in ("ip", "unshare", "nsenter"):
            if not shutil.which(program):
                raise OSError(f"there is no {program}: apt-get install iproute2 util-linux")
        self.folder, self.holders = folder, []
        try:
            for i, name in enumerate(NAMES):
                self._make(i, name)
            first, second = (holder.pid for holder in self.holders)
            self(0, f"ip link add eth0 netns {first} type veth peer name eth0 netns {second}")
            for i, address in enumerate(ADDRESSES):
                self(i, f"ip link set lo up; ip addr add {address}/24 dev eth0")
                self(i, "ip link set eth0 up")
        except OSError:
            self.close()
            raise

    def _make(self, i: int, name: str) -> None:
        new = "unshare --net --uts --mount"
        if os.geteuid() != 0:
            user = ["--preserve-credentials", "--user", "--target"]
            new = f"{new} --user --map-root-user" if i == 0 else new
        inside = [] if i == 0 or os.geteuid() == 0 else ["nsenter", *user, f"{self.holders[0].pid}"]
        made = subprocess.Popen(
            [*inside, *new.split(), "sh", "-c", "echo made; exec sleep infinity"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.holders.append(made)
        if made.stdout.readline() != "made\n":
            raise OSError(f"no namespaces: {made.communicate()[1].strip()}")
        hosts = self.folder / "hosts"
        names = zip(ADDRESSES, NAMES)
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for a, n in names))
        (self.folder / name).mkdir()
        self(i, f"hostname {name}; mount --bind {hosts} /etc/hosts")

    def inside(self, i: int) -> list[str]:
        """What stands before a command that host i runs."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self.holders[i].pid}", *user, "--net", "--uts", "--mount"]

    def __call__(self, i: int, commands: str) -> None:
        """Runs a shell's commands on host i."""
        shell = [*self.inside(i), "sh", "-ec", commands]
        done = subprocess.run(shell, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{commands} on {NAMES[i]}: {done.stderr.strip()}")

    def start(self, i: int, command: list, **env) -> subprocess.Popen:
        """Starts a command on host i, which alone knows its temporary folder."""
        return subprocess.Popen(
            [*self.inside(i), *map(str, command)],
            env={**os.environ, "TMPDIR": str(self.folder / NAMES[i]), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def cut(self) -> None:
        """From now on what one host sends reaches the other no more; nobody is told."""
        for i in (0, 1):
            self(i, f"ip neigh replace {ADDRESSES[1 - i]} lladdr {NOWHERE} nud permanent dev eth0")

    def mend(self) -> None:
        for i in (0, 1):
            self(i, f"ip neigh del {ADDRESSES[1 - i]} dev eth0 || true")

    def remote_shell(self) -> Path:
        """A program that runs a command on a host by its name, as rsh does."""
        path = self.folder / "remote"
        lines = ["#!/bin/sh", "host=$1; shift", 'set -- sh -c "$*"', "case $host in"]
        for i, name in enumerate(NAMES):
            lines.append(f'{name}) exec {" ".join(self.inside(i))} "$@";;')
        path.write_text("\n".join([*lines, "esac", ""]))
        path.chmod(0o755)
        return path

    def close(self) -> None:
        for holder in self.holders:
            holder.kill()
            holder.communicate()


def end(processes: list[subprocess.Popen]) -> None:
    """Ends processes, and whatever they have started."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
