"""What a study shows while it runs: on a terminal a table that stays, else a line a job."""

import collections
import shutil
import sys
import time

from ..world import stopping

SHOWN = 8  # running jobs
STAYS = "what is finished stays, and the same command goes on from there"


class Board:
    """`show` draws the table anew; `tell` says that a job is over."""

    def __init__(self, jobs, slots):
        self.jobs, self.slots, self.height = jobs, slots, 0
        self.live, self.begun = sys.stdout.isatty(), time.monotonic()
        if known := sum(job.state == "done" for job in jobs):
            print(f"{known} of {len(jobs)} jobs are done already")

    def show(self) -> None:
        if not self.live:
            return
        width = shutil.get_terminal_size().columns - 1
        running = [job for job in self.jobs if job.state == "running"]
        lines = [f"  running  {clock(j.seconds):>8}  {j.name}" for j in running[:SHOWN]]
        lines.append(self.summary())
        self._clear()
        print("\n".join(line[:width] for line in lines), flush=True)
        self.height = len(lines)

    def tell(self, job) -> None:
        self._clear()
        more = "" if self.live else f"; {self.left()}"
        more = f"; see {job.log}" if job.state == "failed" else more
        print(f"{job.state:>9}  {clock(job.seconds):>8}  {job.name}{more}", flush=True)

    def summary(self) -> str:
        counts = collections.Counter(job.state for job in self.jobs)
        states = ["done", "running", "left", *(s for s in ("stopped", "failed") if s in counts)]
        told = ", ".join(f"{counts[state]} {state}" for state in states)
        return f"{told}; {clock(time.monotonic() - self.begun)} gone, {self.left()}"

    def left(self) -> str:
        """The time left, by the pace of the jobs of each kind that are over."""
        total, unknown = 0.0, []
        for kind in dict.fromkeys(job.kind for job in self.jobs):
            mine = [job for job in self.jobs if job.kind == kind]
            over = [job for job in mine if job.state == "done" and job.seconds]
            todo = [job for job in mine if job.state in ("left", "running")]
            if todo and not over:
                unknown.append(f"{len(todo)} to {kind}")
            elif todo:
                pace = sum(job.seconds for job in over) / sum(job.cost for job in over)
                total += sum(max(0, job.cost * pace - job.seconds) for job in todo)
        known = [f"about {clock(total / min(self.slots, len(self.jobs)))}"]
        return ", ".join([*(known if total or not unknown else []), *unknown]) + " left"

    def _clear(self) -> None:
        if self.height:
            print(f"\x1b[{self.height}A\x1b[J", end="")
        self.height = 0

    def __enter__(self):
        stopping.keeps(STAYS)
        return self

    def __exit__(self, kind, *_):
        self._clear()
        print(self.summary())
        if kind is KeyboardInterrupt:
            print(STAYS)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss below an hour."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
