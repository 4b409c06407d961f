"""What other frameworks need to offer the gap optimizers: a file per host, and ``gap-hf autoload`` for the others.

None of them is imported by the package itself.
"""
