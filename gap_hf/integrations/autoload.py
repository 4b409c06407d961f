"""``gap-hf autoload``: whether every Python of an environment knows the gap optimizers."""

import sysconfig
from pathlib import Path

FILE = "gap_hf_autoload.pth"
STARTUP = Path(__file__).with_name("startup.py")


def place() -> Path:
    """Return where the file is, or would be: among the packages of the environment that runs this."""
    return Path(sysconfig.get_path("purelib")) / FILE


def is_on() -> bool:
    """Whether it is on."""
    return place().exists()


def turn_on() -> Path:
    """Have every Python process of this environment import gap_hf after transformers' training arguments.

    Python runs the lines of ``.pth`` files among its packages that begin with "import" whenever it starts (the ``site``
    module). The line does nothing once gap_hf is uninstalled.

    Returns:
        The file.

    Raises:
        OSError: it can't be written.
    """
    line = (
        f"import os; p = {str(STARTUP)!r}; os.path.exists(p) and exec(open(p).read(), {{'__name__': 'gap_hf_startup'}})"
    )
    place().write_text(line + "\n", encoding="utf-8")
    return place()


def turn_off() -> Path:
    """Undo ``turn_on``; return where the file was. Raises OSError."""
    place().unlink(missing_ok=True)
    return place()
