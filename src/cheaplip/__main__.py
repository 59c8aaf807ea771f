"""``python -m cheaplip``, and the entry point of the ``cheaplip`` command."""

import sys


def main() -> None:
    """Run the command line, or say which packages it lacks."""
    try:
        from cheaplip.cli import run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "cheaplip":
            raise
        sys.exit(_missing(error.name))
    sys.exit(run(sys.argv[1:]))


def _missing(name: str | None) -> int:
    sys.stderr.write(f"cheaplip: the command line needs {name}: pip install 'cheaplip[cli]'\n")
    return 2


if __name__ == "__main__":
    main()
