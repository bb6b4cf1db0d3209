import functools
import gzip
import hashlib
import pickle
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torchvision

from lit_imgproc.data.base import DataError
from lit_imgproc.data.imagenet import toy
from lit_imgproc.data.imagenet.known import (
    CIFAR_FOLDER,
    read_cifar10,
    read_digits,
    read_idx_set,
)


def no_way(monkeypatch):
    """Nothing can be downloaded."""
    for kind in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(kind, "mirrors", ["file:///nowhere/one/", "file:///nowhere/two/"])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "file:///nowhere/cifar.tar.gz")


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serves a folder at an address of this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(QuietHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_idx_files_are_read_as_torchvision_does(tmp_path):
    toy.write_idx_set(tmp_path / "MNIST" / "raw")
    (train, test) = read_idx_set(tmp_path, "MNIST")
    for path in (tmp_path / "MNIST" / "raw").iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    for ours, is_train in ((train, True), (test, False)):
        reference = torchvision.datasets.MNIST(str(tmp_path), train=is_train)
        np.testing.assert_array_equal(ours.images[..., 0], reference.data.numpy())
        np.testing.assert_array_equal(ours.labels, reference.targets.numpy())
        assert ours.labels.dtype == np.int64


@pytest.mark.parametrize("folder", ["", "raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_found(tmp_path, monkeypatch, folder, packed):
    no_way(monkeypatch)
    toy.write_idx_set(tmp_path / folder)
    if not packed:
        for path in list((tmp_path / folder).glob("*.gz")):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    train, test = read_idx_set(tmp_path, "FashionMNIST")
    assert train.images.shape == (200, 28, 28, 1)
    assert test.images.shape == (50, 28, 28, 1)


@pytest.mark.parametrize("damage", ["cut", "text", "labels", "empty"])
def test_a_damaged_idx_file_is_named(tmp_path, damage):
    toy.write_idx_set(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    data = path.read_bytes()
    path.write_bytes(
        {
            "cut": data[: len(data) // 2],
            "text": gzip.compress(b"not an idx file"),
            "labels": (tmp_path / "t10k-images-idx3-ubyte.gz").read_bytes(),
            "empty": b"",
        }[damage]
    )
    with pytest.raises(DataError, match="belong together" if damage == "labels" else path.name):
        read_idx_set(tmp_path, "MNIST")


def test_missing_files_are_downloaded_and_checked(tmp_path, monkeypatch, serve):
    source = tmp_path / "mirror"
    toy.write_idx_set(source)
    resources = [
        (path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(source.iterdir())
    ]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    mirrors = [f"{serve}/nowhere/", f"{serve}/mirror/"]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", mirrors)
    root = tmp_path / "data" / "mnist"
    train, _ = read_idx_set(root, "MNIST")
    assert len(train.labels) == 200
    no_way(monkeypatch)
    read_idx_set(root, "MNIST")


def test_a_download_with_a_wrong_checksum_is_not_kept(tmp_path, monkeypatch, serve):
    source = tmp_path / "mirror"
    toy.write_idx_set(source)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{serve}/mirror/"])
    with pytest.raises(DataError, match="could not be downloaded"):
        read_idx_set(tmp_path / "mnist", "MNIST")
    assert not list((tmp_path / "mnist").glob("*.gz"))


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_what_cannot_be_downloaded_can_be_put_there(tmp_path, monkeypatch, name):
    no_way(monkeypatch)
    with pytest.raises(DataError) as error:
        read_idx_set(tmp_path / "here", name)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert f"{tmp_path / 'here'}: the data set is not here" in sentence
    assert "put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images" in sentence
    assert "data.root" in sentence


def test_cifar_batches_are_read_as_torchvision_does(tmp_path, monkeypatch):
    toy.write_cifar10(tmp_path)
    folder = tmp_path / CIFAR_FOLDER
    meta = {"label_names": list("abcdefghij")}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    for part in ("train_list", "test_list"):
        names = [name for name, _ in getattr(torchvision.datasets.CIFAR10, part)]
        sums = [hashlib.md5((folder / name).read_bytes()).hexdigest() for name in names]
        pairs = [list(pair) for pair in zip(names, sums, strict=True)]
        monkeypatch.setattr(torchvision.datasets.CIFAR10, part, pairs)
    md5 = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setitem(torchvision.datasets.CIFAR10.meta, "md5", md5)
    for ours, is_train in zip(read_cifar10(tmp_path), (True, False), strict=True):
        reference = torchvision.datasets.CIFAR10(str(tmp_path), train=is_train)
        np.testing.assert_array_equal(ours.images, reference.data)
        assert ours.labels.tolist() == reference.targets


def test_cifar_is_downloaded_unpacked_and_found_again(tmp_path, monkeypatch, serve):
    toy.write_cifar10(tmp_path / "source")
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "source" / CIFAR_FOLDER, CIFAR_FOLDER)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{serve}/{archive.name}")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5)
    train, test = read_cifar10(tmp_path / "cifar10")
    assert train.images.shape == (200, 32, 32, 3)
    assert test.images.shape == (50, 32, 32, 3)
    no_way(monkeypatch)
    read_cifar10(tmp_path / "cifar10")
    read_cifar10(tmp_path / "cifar10" / CIFAR_FOLDER)
    with pytest.raises(DataError, match=r"put cifar-10-python\.tar\.gz there"):
        read_cifar10(tmp_path / "elsewhere")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    toy.write_cifar10(tmp_path)
    path = tmp_path / CIFAR_FOLDER / "data_batch_3"
    path.write_bytes(pickle.dumps({"data": Trap(), "labels": []}))
    with pytest.raises(DataError, match=r"data_batch_3: damaged.*open"):
        read_cifar10(tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"data": [1, 2]})])
def test_a_damaged_batch_is_named(tmp_path, content):
    toy.write_cifar10(tmp_path)
    (tmp_path / CIFAR_FOLDER / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match="test_batch: damaged"):
        read_cifar10(tmp_path)


def test_digits_are_those_of_scikit_learn(tmp_path):
    from sklearn.datasets import load_digits

    digits, reference = read_digits(None), load_digits()
    np.testing.assert_array_equal(digits.images[..., 0], np.round(reference.images * 255 / 16))
    np.testing.assert_array_equal(digits.labels, reference.target)
    toy.write_digits(tmp_path)
    np.testing.assert_array_equal(read_digits(tmp_path).images, digits.images[:300])


def test_digits_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"digits\.csv\.gz: cannot be read"):
        read_digits(tmp_path)
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(b"1,2,3\n"))
    with pytest.raises(DataError, match="3 columns"):
        read_digits(tmp_path)
