"""What runs and measures left in a folder, on one page: a table, a sentence, every picture.

    python scripts/report.py --log_dir runs/demo

The folder is that of compare.py, with flatness.py, exposure_bias.py and the others in folders of
its own, as `make demo` leaves them. Writes report.html, one file that opens from disk on a screen
of any width.
"""

from flatdiff.flags import config


def main():
    config.run(__doc__, report, run=config.RunFlags)


def report(flags):
    import os

    from flatdiff.report import folder

    print(folder.write(flags.run.log_dir or os.curdir))


if __name__ == "__main__":
    main()
