"""From the weakly typed builds of TensorRT 8 and 10 to the strongly typed ones of 11.

Until 10.x a build was told which precisions it *may* use (``--fp16 --int8``, ``BuilderFlag.FP16``)
and calibrated INT8 by itself; since 11.0 the graph alone says what every tensor is.  So each old
flag becomes an option of ``compile`` (what the graph says), of ``build`` (how it is built), or
nothing::

    trtexec      a command line -> flags
    python_flags Python source  -> flags (read, never run)
    meaning      what became of the flags that need no thought
    translate    flags          -> a draft of the new build, and a row for each flag
    commands     the draft      -> commands
    cache        a calibration cache -> statistics that give the same scales
"""
