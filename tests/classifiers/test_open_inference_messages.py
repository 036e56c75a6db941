from typing import Any

import numpy as np
import pytest

from maskrestore.classifiers.open_inference_messages import BINARY_HEADER, MessageError, read_message, write_message

TENSORS: list[tuple[str, np.ndarray[Any, Any]]] = [
    ("FP32", np.array([[0.5, -1.5]], np.float32)), ("FP16", np.array([0.5], np.float16)), ("FP64", np.array([1e300])),
    ("UINT8", np.array([[0, 255]], np.uint8)), ("INT64", np.array([-(2**63)])), ("BOOL", np.array([True, False])),
    ("FP32", np.zeros((0, 3), np.float32)),
]  # fmt: skip


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_what_is_written_is_read(kind: Any, binary: bool) -> None:
    named = [(f"{place}", datatype, values, binary) for place, (datatype, values) in enumerate(TENSORS)]
    content, headers = write_message({"id": "7"}, kind, named)
    assert (BINARY_HEADER in headers) == binary
    message, tensors = read_message(content, headers.get(BINARY_HEADER), kind)
    assert message["id"] == "7"
    for name, datatype, values, _ in named:
        assert tensors[name].datatype == datatype
        assert np.array_equal(tensors[name].values(), values)
        assert tensors[name].values().dtype == values.dtype


def test_texts_and_files_are_bytes() -> None:
    values = np.array([b"\x89PNG", "ä", None], dtype=object)[:-1]
    content, headers = write_message({}, "inputs", [("a", "BYTES", values, True)])
    _, tensors = read_message(content, headers[BINARY_HEADER], "inputs")
    assert tensors["a"].values().tolist() == [b"\x89PNG", "ä".encode()]


def test_tensors_may_be_nested_and_mixed() -> None:
    header = (
        b'{"inputs":[{"name":"a","datatype":"INT32","shape":[2,2],"data":[[1,2],[3,4]]},'
        b'{"name":"b","datatype":"UINT8","shape":[3],"parameters":{"binary_data_size":3}}]}'
    )
    _, tensors = read_message(header + b"\1\2\3", str(len(header)), "inputs")
    assert tensors["a"].values().tolist() == [[1, 2], [3, 4]]
    assert tensors["b"].values().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "length", "words"),
    [
        (b"[]", None, "expected a request with a list of inputs"),
        (b'{"inputs":[{"name":"a"},{"name":"a"}]}', None, "two inputs of the name 'a'"),
        (b'{"inputs":[]}rest', "13", "its tensors end after 13"),
        (b'{"inputs":[]}', "14", "its header"),
        (b'{"inputs":[]}', "x", "its header"),
        (b'{"inputs":[{"name":"a","parameters":{"binary_data_size":-1}}]}', None, "binary_data_size of '-1'"),
        (b'{"inputs":[{"name":"a","parameters":{"binary_data_size":true}}]}', None, "binary_data_size of 'True'"),
        (b'{"inputs":[{"name":"a","parameters":{"binary_data_size":4}}]}', None, "cut off"),
    ],
)
def test_messages_of_another_form_are_refused(content: bytes, length: str | None, words: str) -> None:
    with pytest.raises(MessageError, match=words):
        read_message(content, length, "inputs")
