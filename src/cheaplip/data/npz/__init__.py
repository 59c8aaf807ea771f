"""Arrays in ``.npz`` files: ``names.py`` finds those of the inputs and the labels. Start with ``reader.py``.

May import the core, the classes of tables, and the modules of ``data`` that read nothing themselves.
"""
