"""``python -m cheaplip``, and the entry point of the ``cheaplip`` command."""

import sys


def main() -> None:
    """Run the command line and exit with its status; if one of its packages is missing, say which."""
    try:
        from cheaplip.cli import run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "cheaplip":
            raise
        sys.exit(_report_missing(error.name))
    sys.exit(run(sys.argv[1:]))


def _report_missing(name: str | None) -> int:
    """Print which package is missing, and how to install it; returns the exit status."""
    sys.stderr.write(f"cheaplip: the command line needs {name}: pip install 'cheaplip[cli]'\n")
    return 2


if __name__ == "__main__":
    main()
