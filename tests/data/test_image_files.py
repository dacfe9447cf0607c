"""Image files as they lie on disk: damage and refusals."""

import pathlib

import pytest
from PIL import Image

from sfda_jax.data.image_files import FileFault, open_image
from tests.data import published_files as files


def test_damage_that_pillow_passes_over(tmp_path):
    path = files.save(tmp_path / "a.png", files.image())
    data = path.read_bytes()
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at])
    end = at + 4 + length
    path.write_bytes(data[:end] + bytes(4) + data[end + 4 :])
    Image.open(path).load()
    with pytest.raises(FileFault, match="wrong checksum"):
        open_image(path)


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    path = files.save(tmp_path / "a.png", files.image())
    read = pathlib.Path.read_bytes

    def refuse(self):
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
    with pytest.raises(FileFault, match="Permission denied") as caught:
        open_image(path)
    assert caught.value.kind == "unreadable" and "chmod" in caught.value.mend
