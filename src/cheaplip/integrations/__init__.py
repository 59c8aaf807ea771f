"""CLIP in other training frameworks: Lightning, skorch (scikit-learn) and transformers.

Each adapter knows when its framework takes a step; what the penalty does then is in :mod:`cheaplip.clip`. All of them
hold a :class:`cheaplip.integrations.lazy.LazyCLIP`, which is where to start reading. Each needs the extra of its name,
such as ``pip install 'cheaplip[lightning]'``.
"""
