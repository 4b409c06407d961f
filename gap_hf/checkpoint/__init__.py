"""``gap-hf checkpoint``: what is in a checkpoint, whoever wrote it, and a portable state made of it.

A reader per format: ``torch_files.py``, ``dcp.py``, ``zero.py`` and ``portable_files.py``. ``find.py`` picks one.
"""
