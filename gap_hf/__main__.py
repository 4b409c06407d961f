"""Run somebody else's training script with the gap optimizers registered.

``python -m gap_hf SCRIPT.py ARGS...``, ``accelerate launch [flags] -m gap_hf SCRIPT.py ARGS...`` and
``torchrun [flags] -m gap_hf SCRIPT.py ARGS...``; ``-m MODULE`` in place of ``SCRIPT.py`` runs a module.
"""

import importlib.util
import os
import pkgutil
import runpy
import sys

import gap_hf  # registers the names  # noqa: F401

USAGE = """usage: python -m gap_hf SCRIPT.py [ARGS ...]
       python -m gap_hf -m MODULE [ARGS ...]
       accelerate launch [FLAGS ...] -m gap_hf SCRIPT.py [ARGS ...]

Runs an unmodified training script with --optim gap_adamw and the other gap optimizers available."""


def main() -> None:
    """Hand the rest of the command line to the script, as if it had been started by itself."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0 if arguments else 2)
    if arguments[0] == "-m":
        if len(arguments) < 2:
            raise SystemExit("gap_hf: -m needs a module\n" + USAGE)
        refuse_bare_package(arguments[1])
        sys.argv = arguments[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    script = arguments[0]
    if not os.path.isfile(script):
        raise SystemExit(f"gap_hf: no such script: {script!r}; expected the path of a Python file\n" + USAGE)
    sys.argv = arguments
    sys.path[0] = os.path.dirname(os.path.abspath(script))  # where Python looks first when it starts a script itself
    runpy.run_path(script, run_name="__main__")


def refuse_bare_package(name: str) -> None:
    """Exit with a list of the package's modules if ``name`` is a package that can't be run by itself."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None or importlib.util.find_spec(f"{name}.__main__"):
        return
    found = pkgutil.iter_modules(spec.submodule_search_locations)
    modules = sorted(module.name for module in found if not module.name.startswith("_"))
    raise SystemExit(
        f"gap_hf: {name!r} is a package that can't be run by itself: it has no __main__ module. Run one of its "
        f"modules, -m {name}.MODULE; it has {', '.join(modules) or 'none'}\n" + USAGE
    )


if __name__ == "__main__":
    main()
