"""The error of a benchmark that can't be run."""


class BenchError(Exception):
    """The error of a benchmark that can't be run; its message is one line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
