"""What sources find: names and places that stay, and what hostile or broken files come to."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from maskrestore.errors import ConfigError, ImageFileError
from maskrestore.imaging.codec import read_image_stream, write_png
from maskrestore.imaging.walking import DAMAGED, HIDDEN, NO_PICTURE
from maskrestore.jobs.sources import ImageSource
from maskrestore.jobs.sources.remote_files import without_secrets


def encoded(level: int, folder: Path) -> bytes:
    """A PNG of one colour."""
    write_png(folder / "one.png", torch.full((3, 4, 4), level / 255))
    content = (folder / "one.png").read_bytes()
    (folder / "one.png").unlink()
    return content


@pytest.fixture
def png(tmp_path):
    return lambda level: encoded(level, tmp_path)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_parquet(path: Path, cells: list, **options) -> None:
    pq.write_table(pa.table({"image": cells, "label": list(range(len(cells)))}), path, **options)


def images(source: ImageSource) -> dict[str, int]:
    """The level of the colour of each image, in the order of the source."""
    found = {}
    with source.reader() as reader:
        for one in source.images():
            if one.left_out is None:
                with reader.open(one) as stream:
                    found[one.name] = round(float(read_image_stream(stream).pixels[0, 0, 0]) * 255)
    return found


def left_out(source: ImageSource) -> dict[str, str]:
    return {one.name: one.left_out for one in source.images() if one.left_out is not None}


def test_rows_of_parquet_files_are_images_by_shard_and_row(tmp_path, png):
    (tmp_path / "data").mkdir()
    cells = [{"bytes": png(level), "path": f"{level}.png"} for level in range(20)]
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", cells, row_group_size=9)
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", [png(level) for level in range(20, 25)])
    (tmp_path / "README.md").write_text("A data set.")
    source = ImageSource(tmp_path)
    expected = {f"data/train-00000-of-00002.parquet/{row:09}": row for row in range(20)}
    expected |= {f"data/train-00001-of-00002.parquet/{row:09}": 20 + row for row in range(5)}
    assert images(source) == expected
    assert list(images(source)) == list(expected)
    assert left_out(source) == {"README.md": NO_PICTURE}
    found = list(pickle.loads(pickle.dumps(source)).images())
    with source.reader() as reader:  # in any order, across row groups and shards
        for number in (24, 3, 19, 17, 0, 22, 9, 8, 1):
            with reader.open([one for one in found if not one.left_out][number]) as stream:
                assert round(float(read_image_stream(stream).pixels[0, 0, 0]) * 255) == number
    single = ImageSource(tmp_path / "data/train-00001-of-00002.parquet")
    assert list(images(single)) == [f"train-00001-of-00002.parquet/{row:09}" for row in range(5)]


def test_a_row_without_a_picture_is_an_error_of_that_row(tmp_path, png):
    cells = [{"bytes": png(1), "path": None}, None, {"bytes": None, "path": "far/away.png"}]
    write_parquet(tmp_path / "a.parquet", cells)
    source = ImageSource(tmp_path)
    _, null, away = source.images()
    with source.reader() as reader:
        with pytest.raises(ImageFileError, match=r"a\.parquet/000000001: expected a picture, found nothing \(null\)"):
            reader.open(null)
        with pytest.raises(ImageFileError, match=r"found only a path, 'far/away\.png'; embed the pictures"):
            reader.open(away)


def test_the_column_of_images_is_found_or_asked_for(tmp_path, png):
    both = {"image": [png(1)], "mask": [png(2)], "label": [3]}
    pq.write_table(pa.table(both), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: several columns of images: image, mask; .*--image-column"):
        list(ImageSource(tmp_path).images())
    assert images(ImageSource(tmp_path, image_column="mask")) == {"a.parquet/000000000": 2}
    with pytest.raises(ConfigError, match="no column 'picture', it has: image, mask, label"):
        list(ImageSource(tmp_path, image_column="picture").images())
    with pytest.raises(ImageFileError, match="expected an encoded picture, found int"):
        images(ImageSource(tmp_path, image_column="label"))
    told = {"huggingface": json.dumps({"info": {"features": {"mask": {"_type": "Image"}, "image": {}}}})}
    pq.write_table(pa.table(both).replace_schema_metadata(told), tmp_path / "a.parquet")
    assert images(ImageSource(tmp_path)) == {"a.parquet/000000000": 2}
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ImageFileError, match=r"no images in these shards; left out: 1 .*\(its columns: text\)"):
        list(ImageSource(tmp_path).images())


def test_members_of_tar_files_are_images_by_name(tmp_path, png):
    write_tar(
        tmp_path / "0.tar",
        [
            ("./dog/1.json", b"{}"),  # of a sample with an image
            ("./dog/1.jpg", png(1)),
            ("./dog/1.seg.png", png(2)),
            ("dog/2", png(3)),  # told by its content
            ("notes.txt", b"hello"),
        ],
    )
    write_tar(tmp_path / "1.tar", [("dog/1.jpg", png(4))])
    source = ImageSource(tmp_path)
    expected = {"0.tar/dog/1.jpg": 1, "0.tar/dog/1.seg.png": 2, "0.tar/dog/2": 3, "1.tar/dog/1.jpg": 4}
    assert images(source) == expected
    assert left_out(source) == {"0.tar/notes.txt": NO_PICTURE}


def test_hostile_members_are_named_and_never_unpacked(tmp_path, png):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("null.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("/etc/a.png", "../../b.png", "c/../../d.png", "same.png", "same.png", "same (2).png", "._e.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(7))
            archive.addfile(info, io.BytesIO(png(7)))
        info = tarfile.TarInfo("f.png")
        info.pax_headers = {"path": "f\0/../g.png"}
        archive.addfile(info)
    source = ImageSource(tmp_path / "a.tar")
    assert set(images(source)) == {f"a.tar/{name}.png" for name in ("etc/a", "same", "same (2)", "same (2) (2)")}
    outside, link = "name that leads out of its tar file", "link in a tar file"
    assert left_out(source) == {
        **dict.fromkeys(("a.tar/link.png", "a.tar/hard.png", "a.tar/null.png"), link),
        **dict.fromkeys(("a.tar/../../b.png", "a.tar/c/../../d.png", "a.tar/f?/../g.png"), outside),
        "a.tar/._e.png": HIDDEN,
    }


@pytest.mark.parametrize(
    ("keep", "listed", "whole"), [(100, 0, 0), (512, 1, 0), (530, 1, 0), (1024, 1, 1), (1560, 2, 1), (4096, 4, 4)]
)
def test_a_tar_file_that_is_cut_off_says_so_and_keeps_what_is_whole(tmp_path, png, keep, listed, whole):
    # Each image has a block of 512 bytes for its header and one for its content; zeros end the file.
    write_tar(tmp_path / "a.tar", [(f"{level}.png", png(level)) for level in range(4)])
    assert left_out(ImageSource(tmp_path / "a.tar")) == {}
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:keep])
    images_of = ImageSource(tmp_path / "a.tar").images()
    if not listed:
        with pytest.raises(ImageFileError, match=f"left out: 1 {DAMAGED}"):
            list(images_of)
        return
    *found, last = images_of
    assert (last.name, last.left_out) == ("a.tar", DAMAGED)
    assert [one.name for one in found] == [f"a.tar/{level}.png" for level in range(listed)]
    with ImageSource(tmp_path / "a.tar").reader() as reader:
        for one in found[:whole]:
            assert reader.open(one).read() == png(int(one.name[6]))
        for one in found[whole:]:
            with pytest.raises(ImageFileError, match="the tar file is cut off"):
                reader.open(one)


def test_claims_of_a_huge_size_are_not_believed(tmp_path, monkeypatch, png):
    info = tarfile.TarInfo("a.png")
    info.size = 2**40
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 2**40
    for one in (info, header):
        (tmp_path / "a.tar").write_bytes(one.tobuf() + png(1))
        with pytest.raises(ImageFileError, match=rf"{DAMAGED}|1099511627776 bytes, expected an image"):
            images(ImageSource(tmp_path / "a.tar"))
    write_tar(tmp_path / "a.tar", [("a.png", png(1))])
    monkeypatch.setattr("maskrestore.jobs.sources.tar_members.MAX_BYTES", 10)
    with pytest.raises(ImageFileError, match=r"a\.png: \d+ bytes, expected an image of at most 10"):
        images(ImageSource(tmp_path / "a.tar"))


def test_a_damaged_parquet_file_is_a_fault_beside_others(tmp_path, png):
    write_parquet(tmp_path / "b.parquet", [png(1)])
    (tmp_path / "a.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-20])
    source = ImageSource(tmp_path)
    assert left_out(source) == {"a.parquet": DAMAGED}
    assert images(source) == {"b.parquet/000000000": 1}


def test_a_damaged_page_is_an_error_of_its_rows(tmp_path):
    cells = [bytes([level]) * 3000 for level in range(100)]
    options = {"row_group_size": 50, "compression": "none", "use_dictionary": False, "write_page_checksum": True}
    write_parquet(tmp_path / "a.parquet", cells, **options)
    start = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0).data_page_offset
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[start : start + 20] = b"\xff" * 20
    (tmp_path / "a.parquet").write_bytes(content)
    source = ImageSource(tmp_path)
    found = list(source.images())
    assert len(found) == 100
    with source.reader() as reader:
        for _ in range(2):
            with pytest.raises(ImageFileError, match=r"a\.parquet/000000003: the parquet file is damaged there"):
                reader.open(found[3])
            assert reader.open(found[60]).read() == cells[60]


def test_shards_beside_pictures_are_left_out(tmp_path, png):
    (tmp_path / "1.png").write_bytes(png(1))
    write_tar(tmp_path / "backup.tar", [("2.png", png(2))])
    source = ImageSource(tmp_path)
    assert images(source) == {"1.png": 1}
    assert left_out(source)["backup.tar"].startswith("shard beside pictures")


def test_what_fsspec_knows_is_a_source(tmp_path, png):
    files = fsspec.filesystem("memory")
    write_parquet(tmp_path / "a.parquet", [png(3), png(4)])
    write_tar(tmp_path / "b.tar", [("5.png", png(5))])
    try:
        for name in ("a.parquet", "b.tar"):
            files.pipe(f"/shards/{name}", (tmp_path / name).read_bytes())
        files.pipe("/photos/sub/1.png", png(1))
        files.pipe("/photos/.hidden.png", png(2))
        files.pipe("/photos/notes.txt", b"hello")
        files.pipe("/nothing/notes.txt", b"hello")
        photos = ImageSource("memory://photos")
        assert images(photos) == {"sub/1.png": 1}
        assert left_out(photos) == {".hidden.png": HIDDEN, "notes.txt": NO_PICTURE}
        expected = {"a.parquet/000000000": 3, "a.parquet/000000001": 4, "b.tar/5.png": 5}
        assert images(ImageSource("memory://shards")) == expected
        assert images(ImageSource("memory://shards/b.tar")) == {"b.tar/5.png": 5}
        assert images(ImageSource("memory://photos/sub/1.png")) == {"1.png": 1}
        with pytest.raises(ImageFileError, match="memory://nowhere: expected images, found nothing"):
            list(ImageSource("memory://nowhere").images())
        with pytest.raises(ImageFileError, match="no images in this folder; left out: 1 not a picture"):
            list(ImageSource("memory://nothing").images())
    finally:
        files.rm("/", recursive=True)
    with pytest.raises(ConfigError, match=r"neither pyarrow nor fsspec can open this URL: .*nosuch"):
        list(ImageSource("nosuch://bucket/a").images())


def test_what_is_not_read_says_what_to_do(tmp_path, png):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    for source in (tmp_path, tmp_path / "a.tar.gz"):
        with pytest.raises(ImageFileError, match=r"left out: 1 compressed tar file, .* \(decompress it to \.tar\)"):
            list(ImageSource(source).images())
    with pytest.raises(ConfigError, match="expected a path for what is on this machine"):
        list(ImageSource(f"file://{tmp_path}").images())


def test_rows_of_a_large_row_group_are_in_memory_by_pages_and_not_together(tmp_path):
    cells = [{"bytes": bytes([level]) * 100_000, "path": None} for level in range(200)]
    write_parquet(tmp_path / "a.parquet", cells, compression="none", use_dictionary=False, write_batch_size=10)
    del cells
    source = ImageSource(tmp_path)
    found, before, most = list(source.images()), pa.total_allocated_bytes(), 0
    with source.reader() as reader:
        for number, one in enumerate(found):
            assert reader.open(one).read(1)[0] == number
            most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < 5_000_000  # of 20 MB


def test_messages_do_not_tell_secrets():
    assert without_secrets("s3://key:secret@bucket/a/b?access_key=x#y") == "s3://bucket/a/b"
    source = ImageSource("s3://key:secret@bucket/a/b?region=x")
    assert (source.shown, source.title) == ("s3://bucket/a/b", "b")
