"""What Python runs when it starts, where ``gap-hf autoload on`` was called: gap_hf is imported once it is needed.

That is when transformers' ``TrainingArguments`` or ``HfArgumentParser`` is used, by whoever it is. Before, nothing is
imported, so that other programs start as fast as ever: this file, which has no type hints for that reason, must do with
what Python has loaded by then. It is run by its path, since importing a module of gap_hf would import the package.
"""

# mypy: disallow_untyped_defs=False

import sys


class AfterImport:
    """A finder in ``sys.meta_path`` that calls a function once a certain module was imported, which others find."""

    def __init__(self, then):
        self.then = then

    def find_spec(self, name, path=None, target=None):
        action = self.then.pop(name, None)
        if action is None:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            call_after(spec.loader, action)
        return spec


def call_after(loader, action):
    """Call ``action`` with the module once ``loader`` has executed it."""
    execute = loader.exec_module

    def execute_and_act(module):
        execute(module)
        action(module)

    loader.exec_module = execute_and_act


def import_before(owner, name):
    """Import gap_hf whenever ``owner.name`` is called."""
    original = getattr(owner, name)

    def wrapped(*args, **kwargs):
        import gap_hf  # noqa: F401

        return original(*args, **kwargs)

    wrapped.__doc__ = original.__doc__
    setattr(owner, name, wrapped)


sys.meta_path.insert(
    0,
    AfterImport(
        {
            "transformers.training_args": lambda module: import_before(module.TrainingArguments, "__post_init__"),
            "transformers.hf_argparser": lambda module: import_before(module.HfArgumentParser, "__init__"),
        }
    ),
)
