"""What counts as a sample: folders, lists, manifests, shards; and what is said of bad ones."""

import csv
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from helpers.collections import index_of
from omnitok.data import list_media, read_image, write_image
from omnitok.data.index import build_index
from omnitok.data.samples import NO_LABEL, Index, Sample, Samples, sample_file
from omnitok.errors import MediaError, OmnitokError

T = TypeVar("T")


def read_sample(sample: Sample, read: Callable[[str], T]) -> T:
    with sample_file(sample) as path:
        return read(path)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def find(paths: object, modality: str, **options: object) -> Index:
    """An index of one modality."""
    return build_index(**{f"{modality}s": paths}, **options)


def find_samples(paths: object, modality: str, **options: object) -> Samples:
    return find(paths, modality, **options)[modality]


def keys(samples: Samples) -> list[str]:
    return [sample.key for sample in samples]


def write_shard(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def picture(tmp_path: Path, level: float) -> bytes:
    write_image(tmp_path / "level.png", torch.full((3, 4, 6), level))
    return (tmp_path / "level.png").read_bytes()


def test_folders_give_one_medium_in_the_order_of_list_media(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.jpg", "b-1.PNG", "a.jpg", "b/x/2.webp", "notes.txt", "clip.mp4", ".hidden.jpg", ".trash/3.jpg")
    images = find_samples(tmp_path, "image")
    assert keys(images) == ["a.jpg", "b/1.jpg", "b/x/2.webp", "b-1.PNG"]
    assert [Path(s.path) for s in images] == [p for p in list_media(tmp_path) if p.suffix != ".mp4"]
    assert keys(find_samples(str(tmp_path), "video")) == ["clip.mp4"]
    assert {s.label for s in images} == {NO_LABEL}
    assert build_index(tmp_path).class_count == 0
    both = build_index(tmp_path)
    assert (keys(both.images), keys(both.videos)) == (keys(images), ["clip.mp4"])
    assert both.locate(4) == ("video", both.videos[0])


def test_linked_folders_are_entered_once_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg", "set/0.jpg")
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/loop").symlink_to(tmp_path / "set")
    assert keys(find_samples(tmp_path / "set", "image")) == ["0.jpg", "linked/1.jpg"]


def test_files_reached_twice_count_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg")
    found = find_samples([tmp_path / "a", tmp_path / "a/1.jpg", tmp_path / "b", tmp_path], "image")
    assert [Path(s.path).name for s in found] == ["1.jpg", "2.jpg", "3.jpg"]


def test_labels_from_folder_names_over_several_folders(tmp_path: Path) -> None:
    touch(tmp_path, "one/zebra/1.jpg", "one/ape/deep/2.jpg", "two/ape/3.jpg", "two/bear/4.jpg")
    found = find([tmp_path / "one", tmp_path / "two"], "image", labels="folders")
    assert found.classes == ("ape", "bear", "zebra")
    assert {s.key: found.classes[s.label] for s in found.images} == {
        "ape/deep/2.jpg": "ape",
        "zebra/1.jpg": "zebra",
        "ape/3.jpg": "ape",
        "bear/4.jpg": "bear",
    }
    assert found.class_count == 3


def test_released_annotation_format(tmp_path: Path) -> None:
    touch(tmp_path, "data/n01/a b.jpg", "data/n02/c.jpg")
    content = "n01/a b.jpg\t7\n\nn02/c.jpg\t0\n"
    (tmp_path / "train.txt").write_text(content)
    (tmp_path / "data/train.txt").write_bytes(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())
    for found in (
        find(tmp_path / "train.txt", "image", root=tmp_path / "data"),
        find(tmp_path / "data/train.txt", "image"),
    ):
        assert [(s.path, s.label, s.key) for s in found.images] == [
            (str(tmp_path / "data/n01/a b.jpg"), 7, "n01/a b.jpg"),
            (str(tmp_path / "data/n02/c.jpg"), 0, "n02/c.jpg"),
        ]
        assert found.class_count == 8
    (tmp_path / "plain.lst").write_text(f"{tmp_path}/data/n01/a b.jpg\n")
    assert find_samples(tmp_path / "plain.lst", "image")[0].label == NO_LABEL


def test_manifests(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b,c.mp4")
    with (tmp_path / "m.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["width", "file", "class"], ["8", "a.mp4", "run"], ["8", "b,c.mp4", "jump"]])
    named = find(tmp_path / "m.csv", "video")
    assert [(s.key, s.label) for s in named.videos] == [("a.mp4", 1), ("b,c.mp4", 0)]
    assert named.classes == ("jump", "run")
    rows = [{"path": "a.mp4", "label": 3}, {"path": "b,c.mp4"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [s.label for s in find_samples(tmp_path / "m.jsonl", "video")] == [3, NO_LABEL]
    (tmp_path / "n.csv").write_text("path,label\na.mp4,5\n\n")
    assert find_samples(tmp_path / "n.csv", "video")[0].label == 5


def test_sources_from_manifests_and_from_one_beside_the_files(tmp_path: Path) -> None:
    touch(tmp_path, "v/a.mp4", "v/in/b.mp4", "v/c.mp4", "w/d.mp4")
    rows = ["file,width,Domain", "a.mp4,8,city", "in/b.mp4,8,robot", "gone.mp4,8,city"]
    manifest = tmp_path / "v/manifest.csv"
    manifest.write_text("\n".join(rows))
    assert find_samples(manifest, "video").sources.tolist() == [0, 1, 0]
    assert find_samples([tmp_path / "w", tmp_path / "v"], "video").sources.tolist() == [-1, 0, -1, 1]
    assert find_samples(tmp_path / "w", "video").sources.tolist() == [-1]
    manifest.write_text("who,what\nme,this")  # some other table
    assert set(find_samples(tmp_path / "v", "video").sources.tolist()) == {-1}
    (tmp_path / "m.jsonl").write_text('{"path": "w/d.mp4"}\n{"path": "v/a.mp4", "domain": "sea"}')
    assert find_samples(tmp_path / "m.jsonl", "video").sources.tolist() == [-1, 0]
    (tmp_path / "m.jsonl").write_text('{"path": "w/d.mp4", "domain": 3}')
    with pytest.raises(MediaError, match="line 1: a domain is a name, found '3'"):
        find_samples(tmp_path / "m.jsonl", "video")


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_shards_are_read_at_random(tmp_path: Path, format: int) -> None:
    long = "d" * 90 + "/" + "e" * 60  # does not fit the plain header
    members = [
        ("x/000.png", picture(tmp_path, 1.0)),
        ("x/000.cls", b"4"),
        ("x/001.json", json.dumps({"label": 2, "caption": "c"}).encode()),
        ("x/001.left.png", picture(tmp_path, -1.0)),
        ("x/._002.png", b"junk"),
        ("x/002.txt", b"a caption alone"),
        (f"{long}.png", picture(tmp_path, 0.0)),
    ]
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/s-0.tar", "w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    found = find_samples(tmp_path / "shards", "image")
    assert keys(found) == ["s-0.tar/x/000.png", "s-0.tar/x/001.left.png", f"s-0.tar/{long}.png"]
    assert found.labels.tolist() == [4, 2, NO_LABEL]
    for i in (2, 0, 1):
        level = read_sample(found[i], read_image).mean().item()
        assert level == pytest.approx([1.0, -1.0, 0.0][i], abs=0.01)


def test_shards_beside_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "z.png")
    write_shard(tmp_path / "s.tar", [("k.png", b"content")])
    found = find_samples([tmp_path / "a.png", tmp_path / "s.tar", tmp_path / "z.png"], "image")
    assert [s.size for s in found] == [None, 7, None]
    assert [Path(s.path).name for s in found] == ["a.png", "s.tar", "z.png"]
    assert read_sample(found[1], lambda path: Path(path).read_bytes()) == b"content"
    assert read_sample(found[2], lambda path: Path(path).read_bytes()) == b"x"


def test_unreadable_members_are_named_as_such(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.tar", [("k.png", b"no picture"), ("l.png", b"x" * 2000)])
    found = find_samples(tmp_path / "s.tar", "image")
    with pytest.raises(MediaError, match=r"s\.tar/k\.png: not an image"):
        read_sample(found[0], read_image)
    os.truncate(tmp_path / "s.tar", found[1].offset + 10)
    with pytest.raises(MediaError, match=r"s\.tar/l\.png: 10 of 2000 bytes"):
        read_sample(found[1], read_image)


def test_lists_are_small(tmp_path: Path) -> None:
    paths = [f"/data/set/{i:07d}.jpg" for i in range(50_000)]
    found = index_of(paths).images
    assert len(pickle.dumps(found)) < 50_000 * (len(paths[0]) + 32)
    assert [found[i].path for i in (0, 49_999)] == [paths[0], paths[-1]]
    with pytest.raises(IndexError):
        found[50_000]
    assert found.labels.itemsize == 4
    odd = os.fsdecode(b"/data/caf\xe9.jpg")  # a name that is no UTF-8
    assert index_of([odd]).images[0].path == odd


def one_sentence(message: str) -> bool:
    return "\n" not in message and "Traceback" not in message and len(message) < 500


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.txt", "", "empty.txt: the list is empty"),
        ("empty.csv", "path,label\n", "empty.csv: the list is empty"),
        ("word.txt", "a.jpg\tcat\n", "word.txt, line 1: the label must be an integer, found 'cat'"),
        ("minus.txt", "a.jpg\t-3\n", r"line 1: the label must lie in \[0, 2\^31\), found -3"),
        ("three.txt", "a.jpg\t1\t2\n", "line 1: expected PATH or PATH<TAB>LABEL"),
        (
            "gone.txt",
            "b.jpg\t1\nc.jpg\t1\n",
            "none of the first 2 listed files exists, such as .*b.jpg; relative paths",
        ),
        ("head.csv", "name,label\na.jpg,1\n", "the header needs a column path or file, found name, label"),
        ("wide.csv", "path,label\na.jpg,1,2\n", "wide.csv, line 2: has more or fewer than the header's 2 columns"),
        ("kinds.csv", "path,label\na.jpg,1\na.jpg,cat\n", "labels must be all numbers or all names"),
        ("bad.jsonl", "{path: 1}\n", "bad.jsonl, line 1: cannot be read as a JSON object"),
        ("list.jsonl", "[1]\n", "a JSON object is wanted"),
        ("pathless.jsonl", '{"label": 1}\n', "line 1: has no path or file, only 'label'"),
        ("truth.jsonl", '{"path": "a.jpg", "label": true}\n', "a label is an integer or a name, found 'True'"),
        ("wide.txt", "\xff\xfea\0.\0j\0p\0g\0", "wide.txt: is UTF-16 text; save the list as UTF-8"),
        ("half.csv", "path,label\na.jpg,1.5\n", "half.csv, line 2: the label must be an integer, found '1.5'"),
        ("columns.csv", "path," + ",".join(map(str, range(150_000))) + "\n", "columns.csv: the list is empty"),
        ("twice.csv", "path,label,Path\na.jpg,1,b.jpg\n", "twice.csv: the header has the column 'path' twice"),
        ("deep.jsonl", "[" * 100_000, "deep.jsonl, line 1: cannot be read as a JSON object: nested too deeply"),
        (
            "huge.jsonl",
            '{"path": "a.jpg", "label": ' + "1" * 5000 + "}",
            "huge.jsonl, line 1: cannot be read as a JSON",
        ),
        ("huge.txt", "a.jpg\t" + "1" * 5000, r"huge.txt, line 1: the label must lie in \[0, 2\^31\)"),
        ("nul.txt", "a\0.jpg\n", "nul.txt, line 1: the path holds a NUL character"),
        ("thing.xyz", "a", r"thing.xyz: .xyz is no source of images; accepted are a folder"),
        ("broken.tar", "no tar at all" * 100, "broken.tar: cannot be read as a tar without compression"),
    ],
)
def test_bad_files_are_told_in_one_sentence(tmp_path: Path, name: str, content: str, message: str) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(MediaError, match=message) as error:
        find_samples(tmp_path / name, "image")
    assert one_sentence(str(error.value))
    assert str(error.value).startswith(str(tmp_path / name))


def test_bad_shards_and_folders_are_told(tmp_path: Path) -> None:
    write_shard(tmp_path / "z.tar", [("a.jpg", b"x")], mode="w:gz")
    write_shard(tmp_path / "none.tar", [("a.txt", b"x")])
    write_shard(tmp_path / "label.tar", [("a.jpg", b"x"), ("a.cls", b"cat")])
    (tmp_path / "bare").mkdir()
    touch(tmp_path, "flat/a.jpg")
    for call, message in [
        (lambda: find_samples(tmp_path / "z.tar", "image"), "tar without compression"),
        (lambda: find_samples(tmp_path / "none.tar", "image"), "the shard holds no images"),
        (
            lambda: find_samples(tmp_path / "label.tar", "image"),
            "label.tar/a.cls: the label must be an integer, found 'cat'",
        ),
        (lambda: find_samples(tmp_path / "missing", "image"), "missing: no such file or folder"),
        (lambda: find_samples(tmp_path / "bare", "video"), "bare: there are no videos"),
        (
            lambda: find_samples(tmp_path / "flat", "image", labels="folders"),
            "has no label, because it lies in no folder of a class",
        ),
        (lambda: find_samples([], "image"), "no path is given"),
    ]:
        with pytest.raises(MediaError, match=message) as error:
            call()
        assert one_sentence(str(error.value))


def labels_of(index: Index) -> dict[str, str | int | None]:
    return {
        sample.key: None if sample.label == NO_LABEL else index.classes[sample.label] if index.classes else sample.label
        for sample in index.images
    }


@pytest.mark.parametrize(
    "table, labels",
    [
        ("path, label\na.png, cat\nb.png, dog\n", {"a.png": "cat", "b.png": "dog"}),
        ("path,Label\na.png,cat\nb.png,dog\n", {"a.png": "cat", "b.png": "dog"}),
        ("path,label\na.png,10.0\nb.png,2.0\nc.png,\n", {"a.png": 10, "b.png": 2, "c.png": None}),
        ("path,label\na.png,cat\nb.png, cat\n", {"a.png": "cat", "b.png": "cat"}),
        ('Path;Class\r\na.png;cat\r\n"b.png";dog\r\n', {"a.png": "cat", "b.png": "dog"}),
        ("path\tlabel\na.png\t1\nb.png\t0\n", {"a.png": 1, "b.png": 0}),
    ],
)
def test_label_tables_as_spreadsheets_write_them(tmp_path: Path, table: str, labels: dict[str, object]) -> None:
    touch(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + table.encode())
    index = find(tmp_path / "labels.csv", "image")
    assert labels_of(index) == labels
    assert len(index.classes) == len({name for name in labels.values() if isinstance(name, str)})


def test_a_bad_line_is_an_entry_that_cannot_be_read(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    for name in ("a.png", "b.png", odd):
        (tmp_path / name).write_bytes(picture(tmp_path, 0.5))
    (tmp_path / "list.txt").write_bytes(b"a.png\nb\0d.png\n" + os.fsencode(odd) + b"\nb.png\t3\t4\nb.png\n")
    found = find_samples(tmp_path / "list.txt", "image")
    assert [sample.error == "" for sample in found] == [True, False, True, False, True]
    assert found[2].path == str(tmp_path / odd)
    assert read_sample(found[2], read_image).shape == (3, 4, 6)
    for number in (1, 3):
        with pytest.raises(MediaError, match=f"list.txt, line {number + 1}: ") as error:
            read_sample(found[number], read_image)
        assert str(error.value).startswith(found[number].name)
    (tmp_path / "rows.jsonl").write_text('{"path": "a.png", "label": 1}\n{"path": \n{"path": "b.png", "label": 2}\n')
    assert find(tmp_path / "rows.jsonl", "image").images.labels.tolist() == [1, NO_LABEL, 2]
    (tmp_path / "many.txt").write_text("a.png\n" + "b.png\t1\t2\n" * 1001)
    with pytest.raises(MediaError, match=r"many\.txt, line 2: .* and so are 1000 more"):
        build_index(tmp_path / "many.txt")


def test_lines_and_labels_are_bounded_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.png")
    with (tmp_path / "line.txt").open("wb") as file:
        file.truncate(2**33)
    (tmp_path / "quote.csv").write_bytes(b'path,label\n"x' + b'\n","x' * 500_000)
    with tarfile.open(tmp_path / "label.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("k.png"))
    with (tmp_path / "label.tar").open("r+b") as file:  # a label of 8 GB that is all hole
        info = tarfile.TarInfo("k.cls")
        info.size = 2**33
        file.seek(512)
        file.write(info.tobuf())
        file.truncate(1024 + 2**33 + 1024)
    with (tmp_path / "header.tar").open("wb") as file:  # an extended header of 8 GB
        info = tarfile.TarInfo("x")
        info.size, info.type = 2**33, tarfile.XHDTYPE
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1024 + 2**33)
    for name, message in [
        ("line.txt", "line.txt, line 1: a line of 1048577 bytes or more is above .* OMNITOK_MAX_TEXT"),
        ("quote.csv", "a quotation mark above is not closed within 2097152 bytes"),
        ("label.tar", "label.tar/k.cls: a label of 8589934592 bytes is above .*OMNITOK_MAX_TEXT"),
        ("header.tar", "header.tar: cannot be read as a tar: a header claims 85899345"),
    ]:
        with pytest.raises(MediaError, match=message) as error:
            find(tmp_path / name, "image")
        assert one_sentence(str(error.value))
    (tmp_path / "two.txt").write_text("a.png\n" + "b" * 100 + ".png\n")
    monkeypatch.setenv("OMNITOK_MAX_TEXT", "50")
    with pytest.raises(MediaError, match=r"two\.txt, line 2: a line of 51 bytes or more"):
        build_index(tmp_path / "two.txt")
    monkeypatch.setenv("OMNITOK_MAX_TEXT", "many")
    with pytest.raises(OmnitokError, match="OMNITOK_MAX_TEXT must be a whole number"):
        build_index(tmp_path / "two.txt")


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.png")
    for name in ("set/pipe.png", "list.txt", "shard.tar", "one.png"):
        os.mkfifo(tmp_path / name)
    assert keys(find_samples(tmp_path / "set", "image")) == ["a.png"]
    assert list_media(tmp_path / "set") == [tmp_path / "set/a.png"]
    for name in ("list.txt", "shard.tar", "one.png"):
        with pytest.raises(MediaError, match=f"{name}: is no regular file"):
            find(tmp_path / name, "image")


def test_one_walk_for_all_verbs(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    touch(tmp_path, f"set/{odd}/1{odd}.png", "set/b/2.png", "elsewhere/3.png")
    (tmp_path / "set/a-link").symlink_to(tmp_path / "set/b")  # a second way to the same folder
    (tmp_path / "set/far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/gone.png").symlink_to(tmp_path / "nowhere")  # told when it is read
    index = build_index(tmp_path / "set")
    assert keys(index.images) == ["b/2.png", f"{odd}/1{odd}.png", "far/3.png", "gone.png"]
    assert [str(path) for path in list_media(tmp_path / "set")] == [sample.path for sample in index.images]


def test_a_folder_that_may_not_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir

    def guarded(path: str) -> object:
        if path.endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.warns(UserWarning, match="b: cannot be listed .permission denied.; what it holds is left out"):
        assert keys(build_index(tmp_path).images) == ["a/1.png"]
    with pytest.raises(MediaError, match="b: cannot be listed"):
        build_index(tmp_path / "b")


def test_several_images_per_key(tmp_path: Path) -> None:
    def index(*members: tuple[str, bytes]) -> Index:
        write_shard(tmp_path / "s.tar", [*members])
        return build_index(tmp_path / "s.tar")

    with pytest.warns(UserWarning, match=r"s\.tar: 1 images are left out, .* such as 0\.mask\.png"):
        masks = index(("0.jpg", b"x"), ("0.mask.png", b"x"), ("0.cls", b"7"), ("1.jpg", b"x"))
    assert labels_of(masks) == {"s.tar/0.jpg": 7, "s.tar/1.jpg": None}
    dots = [(f"v1.000{i}.{suffix}", str(i).encode()) for i in range(3) for suffix in ("png", "cls")]
    assert labels_of(index(*dots)) == {f"s.tar/v1.000{i}.png": i for i in range(3)}
    numbered = index(("v1.0000.png", b"x"), ("v1.0001.png", b"x"), ("v1.cls", b"4"))
    assert labels_of(numbered) == {"s.tar/v1.0000.png": 4, "s.tar/v1.0001.png": 4}
    for names in (("0.left.png", "0.right.png"), ("0.png", "0.jpg")):
        with pytest.raises(MediaError, match=r"2 images share the key '0'"):
            index(*((name, b"x") for name in names), ("0.cls", b"1"))
    both = index(("0.jpg", b"x"), ("0.mp4", b"x"), ("0.json", b'{"label": 5}'))  # a video and its still
    assert (both.images.labels.tolist(), both.videos.labels.tolist()) == ([5], [5])


def test_classes_are_found_per_modality(tmp_path: Path) -> None:
    touch(tmp_path, "images/ape/1.png", "images/bear/2.png", "videos/bear/3.mp4", "videos/cow/4.mp4")
    for labels in ("auto", "folders"):
        index = build_index(tmp_path, labels=labels)
        assert index.classes == ("ape", "bear", "cow")
        assert (index.images.labels.tolist(), index.videos.labels.tolist()) == ([0, 1], [1, 2])
    assert build_index(images=tmp_path, videos=tmp_path, labels="folders").classes == ("ape", "bear", "cow")
    assert find(tmp_path / "images", "image", labels="folders").classes == ("ape", "bear")
    touch(tmp_path, "flat/images/1.png", "flat/videos/2.mp4", "one/ape/1.png", "loose/ape/1.png", "loose/2.png")
    for folder in ("flat", "one", "loose"):
        assert build_index(tmp_path / folder, labels="auto").class_count == 0


def test_labels_of_both_modalities_agree(tmp_path: Path) -> None:
    touch(tmp_path, "images/ape/1.png", "2.mp4", "3.mp4")
    (tmp_path / "names.csv").write_text("path,label\n2.mp4,cow\n3.mp4,ape\n")
    (tmp_path / "numbers.csv").write_text("path,label\n2.mp4,4\n")
    index = build_index(images=tmp_path / "images", videos=tmp_path / "names.csv", labels="folders")
    assert (index.classes, index.videos.labels.tolist()) == (("ape", "cow"), [1, 0])
    assert build_index(videos=tmp_path / "numbers.csv").class_count == 5
    with pytest.raises(MediaError, match="all numbers or all names"):
        build_index(images=tmp_path / "images", videos=tmp_path / "numbers.csv", labels="folders")


def test_list_media(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.mp4", "deep/c.JPG", "notes.txt", ".hidden.png", ".cache/d.png", "deep/e.gif")
    names = [str(path.relative_to(tmp_path)) for path in list_media(tmp_path)]
    assert names == ["a.mp4", "b.png", "deep/c.JPG", "deep/e.gif"]
    given = list_media([tmp_path / "notes.txt", tmp_path / "b.png", tmp_path])
    assert [path.name for path in given] == ["notes.txt", "b.png", "a.mp4", "c.JPG", "e.gif"]
    with pytest.raises(MediaError, match="no such file or folder"):
        list_media(tmp_path / "missing")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(MediaError, match="no images or videos"):
        list_media([tmp_path / "b.png", tmp_path / "nothing"])
