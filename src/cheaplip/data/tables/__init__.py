"""Tables: text files, parquet files and data frames, from their cells to features and labels.

``text.py`` finds the encoding and the separator of a text file, ``numbers.py`` how its numbers are written,
``missing.py`` the cells that stand for a missing value, ``columns.py`` what each column holds, ``labels.py`` the
classes, ``encoding.py`` the inputs that columns become. Start with ``reader.py``.

May import the core and the modules of ``data`` that read nothing themselves.
"""
