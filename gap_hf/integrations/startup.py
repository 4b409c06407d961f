"""What Python runs when it starts, where ``gap-hf autoload on`` was called: gap_hf is imported once it is needed.

That is when somebody has imported transformers' ``TrainingArguments``, since parsers of command lines read the names of
optimizers from them, or its ``HfArgumentParser`` (LLaMA-Factory v1 has that without the other). Before, nothing is
imported, so that other programs start as fast as ever: this file, which has no type hints for that reason, must do with
what Python has loaded by then. It is run by its path, since importing a module of gap_hf would import the package.
"""

# mypy: disallow_untyped_defs=False

import sys

WANTED = ("transformers.training_args", "transformers.hf_argparser")


class AfterTrainingArguments:
    """A finder in ``sys.meta_path`` that finds nothing by itself, but counts the modules that are being imported.

    gap_hf imports modules of transformers, so it must wait until none of them is half imported.
    """

    def __init__(self):
        self.depth = 0

    def find_spec(self, name, path=None, target=None):
        if not name.startswith("transformers."):
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            self.count(spec.loader)
        return spec

    def count(self, loader):
        """Have the loader tell when its module begins and ends."""
        execute = loader.exec_module

        def execute_and_count(module):
            self.depth += 1
            try:
                execute(module)
            finally:
                self.depth -= 1
            if not self.depth and any(name in sys.modules for name in WANTED) and self in sys.meta_path:
                sys.meta_path.remove(self)
                load()

        loader.exec_module = execute_and_count


def load():
    """Import gap_hf; if that fails, the program goes on without it, and says so."""
    try:
        import gap_hf  # noqa: F401
    except Exception as error:
        print(f"gap-hf autoload: gap_hf can't be imported: {type(error).__name__}: {error}", file=sys.stderr)


# Where two paths lead to the same packages, .pth files are read twice; two such finders would ask each other forever.
if not any(type(finder).__name__ == AfterTrainingArguments.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, AfterTrainingArguments())
