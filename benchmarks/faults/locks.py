"""Locks of folders under kill -9: of processes that rush for one, never two have it.

    python benchmarks/faults/locks.py --rounds 100

Each round, eight processes try to take a folder's lock again and again, each holds it for a moment
and writes its id into a file beside it, which must hold that id until it lets go; they are killed
at random moments, some with their lock half written. Prints rounds, times that it was held, kills,
times that two held it, and rounds after which a newcomer did not get it at once. Exit status 1
where one of the last two is not 0.
"""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time

from flatdiff.store import lock

FORK = multiprocessing.get_context("fork")


def rush(folder, seconds, seed):
    """Takes the lock and lets go of it until the time is up."""
    draw, mine, end = random.Random(seed), str(os.getpid()), time.monotonic() + seconds
    path = os.path.join(folder, "holder")
    while time.monotonic() < end:
        try:
            lock.take(folder, "training")
        except ValueError:
            time.sleep(draw.random() / 500)
            continue
        with open(path, "w") as file:
            file.write(mine)
        time.sleep(draw.random() / 500)
        with open(path) as file:
            same = file.read() == mine
        with open(os.path.join(folder, "held"), "a") as file:  # a shared counter dies with its lock
            file.write("1" if same else "2")
        lock.release()


def one_round(folder, seed):
    """Eight processes, some of which are killed; returns kills, and whether the lock is free."""
    draw, seconds = random.Random(seed), 0.5
    given = [(folder, seconds, draw.random()) for _ in range(8)]
    processes = [FORK.Process(target=rush, args=args) for args in given]
    for process in processes:
        process.start()
    doomed = draw.sample(processes, 5)
    for process in doomed:
        time.sleep(draw.random() * seconds / 5)
        process.kill()
    for process in processes:
        process.join()
    path = os.path.join(folder, ".training.lock")
    if draw.random() < 0.3:  # killed while it wrote
        with open(path, "w") as file:
            file.write('{"host": "a", "pi')
    start = time.monotonic()
    lock.take(folder, "training")
    quick = time.monotonic() - start < lock.HALF + 1
    lock.release()
    return sum(process.exitcode != 0 for process in doomed), quick


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    lock.HALF = 0.3
    kills = slow = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.rounds):
            killed, quick = one_round(folder, seed)
            kills, slow = kills + killed, slow + (not quick)
        with open(os.path.join(folder, "held")) as file:
            held = file.read()
    twice = held.count("2")
    print(f"{args.rounds} rounds, held {len(held)} times, {kills} killed")
    print(f"held by two at once: {twice}; not free for a newcomer at once: {slow}")
    sys.exit(1 if twice or slow else 0)


if __name__ == "__main__":
    main()
