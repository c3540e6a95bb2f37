"""Reading command lines of trtexec."""

from __future__ import annotations

import pytest

from qcompiler.errors import UsageError
from qcompiler.migrate import trtexec
from qcompiler.migrate.translate import NAMES


def _read(text: str) -> list[tuple[str, str]]:
    return [(f.name, f.value) for f in trtexec.read(trtexec.split(text))]


def test_every_flag_that_is_read_is_translated() -> None:
    assert trtexec.KNOWN <= NAMES


@pytest.mark.parametrize(
    "text",
    [
        "trtexec --onnx=m.onnx --fp16",
        "--onnx=m.onnx --fp16",
        "/usr/src/tensorrt/bin/trtexec --onnx=m.onnx --fp16",
        r"C:/TensorRT/bin/trtexec.exe --onnx=m.onnx --fp16",
        "tensorrt_rtx --onnx=m.onnx --fp16",
        "sudo CUDA_VISIBLE_DEVICES=1 trtexec --onnx=m.onnx --fp16",
        "trtexec \\\n  --onnx=m.onnx \\\n  --fp16\n",
        "trtexec --onnx='m.onnx' \"--fp16\"",
        "trtexec --onnx m.onnx --fp16",
        "trtexec --onnx=m.onnx --fp16 | tee log.txt",
        "trtexec --onnx=m.onnx --fp16 > log.txt 2>&1",
        "trtexec --onnx=m.onnx --fp16 2>&1 | tee log.txt",
        "trtexec --onnx=m.onnx --fp16; echo done",
    ],
)
def test_forms_of_one_command(text: str) -> None:
    assert _read(text) == [("onnx", "m.onnx"), ("fp16", "")]


def test_synonyms() -> None:
    assert _read("trtexec --vc --weightless -v -h") == [
        ("versionCompatible", ""),
        ("stripWeights", ""),
        ("verbose", ""),
        ("help", ""),
    ]


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("--fp61", "no flag of trtexec; --fp16?"),
        ("--optshapes=x:1", "no flag of trtexec; --optShapes?"),
        ("--banana", "no flag of trtexec that is known here"),
        ("banana", "no flag, and no value of one"),
        ("--onnx", "it needs a value"),
        ("--saveEngine=", "it needs a value"),
    ],
)
def test_what_is_not_understood_says_why(word: str, problem: str) -> None:
    *_, flag = trtexec.read(["trtexec", "--int8", word])
    assert (flag.text, flag.name, flag.problem) == (word, "", problem)


def test_values_keep_equal_signs_and_quoted_spaces() -> None:
    assert _read('trtexec --onnx="my model.onnx" --layerPrecisions="/a/b=c":fp32') == [
        ("onnx", "my model.onnx"),
        ("layerPrecisions", "/a/b=c:fp32"),
    ]


def test_an_open_quote_is_an_error() -> None:
    with pytest.raises(UsageError, match="no command line"):
        trtexec.split("trtexec --onnx='m.onnx")
