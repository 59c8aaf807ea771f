"""LipSDP in Fourier space: the bound of networks with convolutions, with a multiplier for each channel.

``torus.py`` turns convolutions into one matrix for each frequency, ``gram.py`` holds what maps and activations do to
joint matrices, ``collapse.py`` what a dense layer makes of an image, ``slopes.py`` the slopes of channels, and
``groups.py`` which values share a matrix. ``plan.py`` lays a chain out on tori, ``walk.py`` goes through it,
``bound.py`` looks for the best multipliers, and ``trainable.py`` trains them. Start with ``bound.py``.

May import the core, the other bounds and ``reading``.
"""
