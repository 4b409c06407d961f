"""What can't be measured."""


class BenchError(Exception):
    """Why a benchmark can't be run, in one line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
