"""Model files by their content. Nothing in them may run: each hostile file would write a file named ``ran``."""

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import TensorProto
from safetensors.torch import save_file
from torch import Tensor, nn

from maskrestore.classifiers import ModuleClassifier, load_classifier
from maskrestore.errors import ClassifierError, ConfigError
from onnx_graphs import means, save, value


class Means(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * self.gain


class Bomb:
    """Unpickling it writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def pictures(count: int = 5) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def expected(images: Tensor) -> list[int]:
    return images.mean(dim=(2, 3)).argmax(dim=1).tolist()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "ran").exists()


def export(path: str, count: int | None = None) -> None:
    """A program of torch.export for ``count`` images, ``None``: any number."""
    example = torch.rand(count or 2, 3, 8, 8)
    shapes = None if count else ({0: torch.export.Dim("many", min=1, max=4096)},)
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(torch.export.export(Means(), (example,), dynamic_shapes=shapes), path)


@pytest.mark.parametrize("name", ["model.pt", "model.pts", "model.torchscript", "model"])
@pytest.mark.parametrize("kind", ["script", "trace", "freeze"])
def test_torchscript(name: str, kind: str) -> None:
    scripted = torch.jit.trace(Means(), pictures(2)) if kind == "trace" else torch.jit.script(Means().eval())
    (torch.jit.freeze(scripted) if kind == "freeze" else scripted).save(name)
    classify = load_classifier(name, micro_batch=4)
    assert isinstance(classify, ModuleClassifier)
    assert classify(pictures()).tolist() == expected(pictures())
    assert pickle.loads(pickle.dumps(classify))(pictures()).tolist() == expected(pictures())
    assert ModuleClassifier(name)(pictures()).tolist() == expected(pictures())


def test_torchscript_in_memory_can_be_pickled() -> None:
    classify = ModuleClassifier(torch.jit.script(Means()))
    assert pickle.loads(pickle.dumps(classify))(pictures()).tolist() == expected(pictures())


@pytest.mark.parametrize("count", [None, 1, 3])
def test_exported_programs(count: int | None) -> None:
    export("model.pt2", count)
    classify = load_classifier("model.pt2")
    assert isinstance(classify, ModuleClassifier)
    assert classify.micro_batch == (count or 8)
    assert classify.input_size == (8, 8)
    for size in (8, 20):
        images = torch.rand(5, 3, size, size)
        assert len(classify(images)) == 5
    assert classify(pictures()).tolist() == expected(pictures())
    assert pickle.loads(pickle.dumps(classify))(pictures()).tolist() == expected(pictures())


def test_a_module_of_an_exported_program_works() -> None:
    """As `torch.export.load(...).module()` returns it: its eval() raises, and it may be fixed to some images."""
    for count in (None, 1):
        export("model.pt2", count)
        assert ModuleClassifier(torch.export.load("model.pt2").module())(pictures()).tolist() == expected(pictures())


def damaged(change: Callable[[str, Any], Any], entry: str) -> None:
    """The program in ``model.pt2`` with a JSON entry changed, written as ``torch.export.save`` would."""
    export("model.pt2")
    with zipfile.ZipFile("model.pt2") as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    writer = torch._C.PyTorchFileWriter("model.pt2")
    for name, content in entries.items():
        if not name.startswith((".data/", "byteorder")):
            new = json.dumps(change(name, json.loads(content))).encode() if name.endswith(entry) else content
            writer.write_record(name, new, len(new))
    writer.write_end_of_file()


def first_node(program: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = program["graph_module"]["graph"]["nodes"][0]
    return node


@pytest.mark.skipif(torch.__version__ < "2.8", reason="another format")
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("torch.os.system", "calls 'torch.os.system', which is no operation of PyTorch"),
        ("torch.ops.load_library", "torch.ops.load_library"),
        ("torch.ops.aten.from_file.default", "from_file"),
        ("_operator.methodcaller", "methodcaller"),
        ("torch.ops.nowhere.thing.default", "nowhere"),
        ("math.dist", "math.dist"),
    ],
)
def test_programs_that_call_anything_else_are_refused(target: str, message: str) -> None:
    def change(_: str, program: Any) -> Any:
        first_node(program)["target"] = target
        first_node(program)["inputs"] = [{"name": "", "arg": {"as_string": "touch ran"}, "kind": 1}]
        return program

    damaged(change, "model.json")
    with pytest.raises(ClassifierError, match=message):
        load_classifier("model.pt2")


@pytest.mark.skipif(torch.__version__ < "2.8", reason="another format")
@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('touch ran')", "eval('1')", "S('x').func", "Symbol('s; x')", "open(x)", "(", "[1]"],
)
def test_programs_with_code_for_a_size_are_refused(text: str) -> None:
    def change(_: str, program: Any) -> Any:
        return json.loads(json.dumps(program).replace('"as_int": 8', f'"as_expr": {json.dumps({"expr_str": text})}'))

    damaged(change, "model.json")
    with pytest.raises(ClassifierError, match="where the size of an axis is expected"):
        load_classifier("model.pt2")


@pytest.mark.skipif(torch.__version__ < "2.8", reason="another format")
def test_programs_with_code_for_a_name_are_refused() -> None:
    def change(_: str, program: Any) -> Any:
        first_node(program)["inputs"][0]["name"] = "x=__import__('os').system('touch ran')"
        return program

    damaged(change, "model.json")
    with pytest.raises(ClassifierError, match="where a name is expected"):
        load_classifier("model.pt2")


@pytest.mark.skipif(torch.__version__ < "2.8", reason="another format")
def test_programs_with_pickles_are_refused() -> None:
    buffer = io.BytesIO()
    torch.save(Bomb(), buffer)

    def weights(_: str, config: Any) -> Any:
        config["config"]["gain"]["use_pickle"] = True
        return config

    damaged(weights, "weights_config.json")
    with zipfile.ZipFile("model.pt2") as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    for place in ("data/weights/weight_0", "data/sample_inputs/model.pt"):
        writer = torch._C.PyTorchFileWriter("hostile.pt2")
        for name, content in entries.items():
            if not name.startswith((".data/", "byteorder")):
                content = buffer.getvalue() if name == place else content  # noqa: PLW2901
                writer.write_record(name, content, len(content))
        writer.write_end_of_file()
        with pytest.raises(ClassifierError, match="not a usable program of torch"):
            load_classifier("hostile.pt2")

    def constants(_: str, config: Any) -> Any:
        config["config"]["object"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
        return config

    damaged(constants, "constants_config.json")
    with pytest.raises(ClassifierError, match="holds the object 'opaque_obj_0' besides tensors"):
        load_classifier("model.pt2")


def test_torchscript_that_reads_files_is_refused() -> None:
    class Reads(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.from_file("/etc/passwd", False, 4) + images.mean()

    torch.jit.script(Reads()).save("model.pt")
    with pytest.raises(ClassifierError, match="its code reads or writes files"):
        load_classifier("model.pt")


def _keras() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", "")
    return file.getvalue()


def _saved(thing: object, **settings: Any) -> bytes:
    file = io.BytesIO()
    torch.save(thing, file, **settings)
    return file.getvalue()


WAY_OUT = "package.module:"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.pt", lambda: _saved(nn.Linear(2, 2)), rf"torch.nn.modules.linear.Linear.*a pickled object.*{WAY_OUT}"),
        ("model.pth", lambda: _saved(nn.Linear(2, 2).state_dict()), f"a pickled object.*safetensors.*{WAY_OUT}"),
        ("model.pth", lambda: _saved({}, _use_new_zipfile_serialization=False), "a pickled object"),
        ("model.pkl", lambda: pickle.dumps(Bomb()), "a pickled object; reading it could run any code"),
        ("model.onnx", lambda: pickle.dumps(Bomb()), "a pickled object"),
        ("model.pt", lambda: _saved(Bomb()), "system.*a pickled object"),
        ("model.joblib", lambda: b"ZF0x1234", "a pickled object"),
        (
            "model.h5",
            lambda: b"\x89HDF\r\n\x1a\n" + bytes(20),
            f"an HDF5 file, as Keras writes it; .*tf2onnx.*{WAY_OUT}",
        ),
        ("model.keras", _keras, "a Keras model"),
        ("model.tflite", lambda: b"\x1c\0\0\0TFL3" + bytes(20), "TensorFlow Lite model.*tf2onnx.convert --tflite"),
        ("model.onnx", lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("model.onnx", lambda: b"<!DOCTYPE html><html>", "a page of the web"),
        ("model.onnx", lambda: b"", "this is empty"),
        ("model.pt", lambda: b"PK\x03\x04" + bytes(30), "damaged or not complete"),
        ("model.xyz", lambda: b"hello", "not a model that is known here; expected ONNX"),
    ],
)
def test_other_files_are_refused_with_the_way_out(name: str, content: Callable[[], bytes], message: str) -> None:
    Path(name).write_bytes(content())
    with pytest.raises(ClassifierError, match=rf"(?s){name}.*{message}"):
        load_classifier(name)


def test_weights_and_folders_are_refused_with_the_way_out() -> None:
    save_file({"gain": torch.ones(3)}, "model.safetensors")
    with pytest.raises(ClassifierError, match="weights without a network; write a Python module"):
        load_classifier("model.safetensors")
    Path("saved").mkdir()
    with pytest.raises(ClassifierError, match="not a model that is known here"):
        load_classifier("saved")
    Path("saved/config.json").touch()
    with pytest.raises(ClassifierError, match=r"a folder of transformers; write a Python module with"):
        load_classifier("saved")
    Path("saved/saved_model.pb").touch()
    with pytest.raises(ClassifierError, match=r"a TensorFlow model; export it to ONNX"):
        load_classifier("saved")
    with pytest.raises(ClassifierError, match="found nothing"):
        ModuleClassifier("nowhere.pt")


def test_onnx_is_told_by_its_content() -> None:
    image = value("x", TensorProto.FLOAT, ["b", 3, 8, 8])
    save(Path("model"), [means("x", "y")], [image], [value("y", TensorProto.FLOAT, ["b", 3])])
    assert load_classifier("model")(pictures()).tolist() == expected(pictures())
    Path("model").rename("model.pt")
    assert load_classifier("model.pt")(pictures()).tolist() == expected(pictures())


@pytest.mark.parametrize("name", ["model.onnx", "model.pt"])
def test_pipes_are_not_waited_for(name: str) -> None:
    os.mkfifo(name)
    with pytest.raises(ClassifierError, match="a pipe or a device, not a file"):
        load_classifier(name)


@pytest.mark.parametrize("entry", ["constants.pkl", "archive_format", "data.pkl"])
def test_files_that_would_fill_the_memory_are_refused(entry: str) -> None:
    with zipfile.ZipFile("model.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(f"model/{entry}", b"")
        with archive.open("model/code/a.py", "w") as code:
            for _ in range(300):
                code.write(bytes(2**20))
    with pytest.raises(ClassifierError, match=r"it would take 31457\d{4} bytes of memory.*looks like an attack"):
        load_classifier("model.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_frozen_torchscript_gets_the_numbers_that_its_constants_are_of(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1)).eval()
    nn.init.dirac_(module[0].weight)
    torch.jit.freeze(torch.jit.script(module.to(dtype))).save("model.pt")
    assert load_classifier("model.pt")(pictures()).tolist() == expected(pictures().to(dtype))


def test_settings_reach_a_model_file() -> None:
    torch.jit.script(Means()).save("model.pt")
    classify = load_classifier("model.pt", mean=(1, 1, 0), input_size=4, pixel_range=(0, 255), micro_batch=2)
    assert isinstance(classify, ModuleClassifier)
    assert classify(pictures()).tolist() == [2] * 5
    assert (classify.input_size, classify.normalise.pixel_range, classify.micro_batch) == ((4, 4), (0, 255), 2)


def test_a_device_is_not_left_out_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("functions_of_tests.py").write_text("def classify(images):\n    return [0] * len(images)\n")
    with pytest.warns(UserWarning, match="functions_of_tests:classify is a function: it runs where it puts itself"):
        load_classifier("functions_of_tests:classify", device="cuda")
    with warnings.catch_warnings(action="error"):
        load_classifier("functions_of_tests:classify", device="cpu")
    with pytest.raises(ConfigError, match="threshold, micro_batch: for model files and torch modules"):
        load_classifier("functions_of_tests:classify", threshold=0.5, micro_batch=2)
