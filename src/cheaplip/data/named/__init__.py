"""Data sets that go by a name: their official files, from a folder of the user's own or downloaded and verified.

``mnist.py`` reads MNIST and its relatives, ``cifar.py`` CIFAR-10, ``medmnist.py`` the 2-D sets of MedMNIST; ``idx.py``
is the reader of IDX files and ``files.py`` finds or downloads a file. Archives are read as they are and never unpacked
to the disk. Start with ``read_named`` in ``reader.py``; ``official.py`` says what it returns.

May import the core and the modules of ``data`` that read nothing themselves.
"""
