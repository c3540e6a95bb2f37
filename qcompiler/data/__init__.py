"""Calibration and evaluation data as people have it, streamed one feed at a time.

``open_data`` (in ``open.py``) turns a path or a Python object into a ``Dataset``; ``synthetic``
makes one when there is none. The way of the data::

    reader (npz, npy, folder, images, loader, iterable)      one file a reader: where arrays come
    from
        -> Chunk: named columns of rows, not yet read
    layout    which rows make one sample: the rank rule, the fixed batch
    check     dtype, shape, NaN, symbolic axes
    steps     rows -> complete feeds, ready for ``session.run``
"""
