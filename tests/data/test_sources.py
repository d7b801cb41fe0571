"""What counts as a sample: folders, lists, manifests, shards; and what is said of bad ones."""

import csv
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from omnitok.data import list_media, read_image, write_image
from omnitok.data.sources import NO_LABEL, SampleList, find_samples, read_sample
from omnitok.errors import MediaError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def keys(samples: SampleList) -> list[str]:
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
    assert not images.has_labels
    assert images.class_count == 0


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
    found = find_samples([tmp_path / "one", tmp_path / "two"], "image", folder_labels=True)
    assert found.classes == ("ape", "bear", "zebra")
    assert {s.key: found.classes[s.label] for s in found} == {
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
        find_samples(tmp_path / "train.txt", "image", root=tmp_path / "data"),
        find_samples(tmp_path / "data/train.txt", "image"),
    ):
        assert [(s.path, s.label, s.key) for s in found] == [
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
    named = find_samples(tmp_path / "m.csv", "video")
    assert [(s.key, s.label) for s in named] == [("a.mp4", 1), ("b,c.mp4", 0)]
    assert named.classes == ("jump", "run")
    rows = [{"path": "a.mp4", "label": 3}, {"path": "b,c.mp4"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [s.label for s in find_samples(tmp_path / "m.jsonl", "video")] == [3, NO_LABEL]
    (tmp_path / "n.csv").write_text("path,label\na.mp4,5\n\n")
    assert find_samples(tmp_path / "n.csv", "video")[0].label == 5


def domain_names(samples: SampleList) -> list[str | None]:
    return [None if number < 0 else samples.domain_names[number] for number in samples.domains.tolist()]


def test_domains_from_manifests_and_from_one_beside_the_files(tmp_path: Path) -> None:
    touch(tmp_path, "v/a.mp4", "v/in/b.mp4", "v/c.mp4", "w/d.mp4")
    rows = ["file,width,domain", "a.mp4,8,city", "in/b.mp4,8,robot", "gone.mp4,8,film"]
    manifest = tmp_path / "v/manifest.csv"
    manifest.write_text("\n".join(rows))
    assert domain_names(find_samples(manifest, "video")) == ["city", "robot", "film"]
    assert domain_names(find_samples([tmp_path / "w", tmp_path / "v"], "video")) == [None, "city", None, "robot"]
    assert len(find_samples(tmp_path / "w", "video").domains) == 0
    manifest.write_text("who,what\nme,this")  # some other table
    assert len(find_samples(tmp_path / "v", "video").domains) == 0
    (tmp_path / "m.jsonl").write_text('{"path": "w/d.mp4"}\n{"path": "v/a.mp4", "domain": "sea"}')
    assert domain_names(find_samples(tmp_path / "m.jsonl", "video")) == [None, "sea"]
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
        ("x/001.seg.png", picture(tmp_path, -1.0)),
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
    assert keys(found) == ["s-0.tar/x/000.png", "s-0.tar/x/001.seg.png", f"s-0.tar/{long}.png"]
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
    with pytest.raises(MediaError, match=r"s\.tar/k\.png: not a picture"):
        read_sample(found[0], read_image)
    os.truncate(tmp_path / "s.tar", found[1].offset + 10)
    with pytest.raises(MediaError, match=r"s\.tar/l\.png: 10 of 2000 bytes"):
        read_sample(found[1], read_image)


def test_lists_are_small_and_behave_as_sequences(tmp_path: Path) -> None:
    paths = [f"/data/set/{i:07d}.jpg" for i in range(50_000)]
    found = SampleList.of_paths(paths)
    assert len(pickle.dumps(found)) < 50_000 * (len(paths[0]) + 20)
    assert [found[i].path for i in (0, 49_999, -1)] == [paths[0], paths[-1], paths[-1]]
    assert [s.path for s in found[10:14:2]] == [paths[10], paths[12]]
    with pytest.raises(IndexError):
        found[50_000]
    assert found.labels.dtype == np.int32
    odd = os.fsdecode(b"/data/caf\xe9.jpg")  # a name that is no UTF-8
    assert SampleList.of_paths([odd])[0].path == odd


def one_sentence(message: str) -> bool:
    return "\n" not in message and "Traceback" not in message and len(message) < 500


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.txt", "", "empty.txt: the list is empty"),
        ("empty.csv", "path,label\n", "empty.csv: the list is empty"),
        ("word.txt", "a.jpg\tcat\n", "word.txt, line 1: the label must be an integer, found 'cat'"),
        ("minus.txt", "a.jpg\t-3\n", r"line 1: the label must lie in \[0, 2\^31\), found -3"),
        ("mixed.txt", "a.jpg\t1\na.jpg\n", "mixed.txt, line 2: lacks a label, unlike the lines before: 'a.jpg'"),
        ("three.txt", "a.jpg\t1\t2\n", "line 1: expected PATH or PATH<TAB>LABEL"),
        (
            "gone.txt",
            "b.jpg\t1\nc.jpg\t1\n",
            "none of 2 listed files looked at exists, such as .*b.jpg; relative paths",
        ),
        ("head.csv", "name,label\na.jpg,1\n", "the header needs a column path or file, found name, label"),
        ("wide.csv", "path,label\na.jpg,1,2\n", "wide.csv, line 2: has more or fewer than the header's 2 columns"),
        ("kinds.csv", "path,label\na.jpg,1\na.jpg,cat\n", "labels must be all numbers or all names"),
        ("bad.jsonl", "{path: 1}\n", "bad.jsonl, line 1: is no JSON"),
        ("list.jsonl", "[1]\n", "a JSON object is wanted"),
        ("pathless.jsonl", '{"label": 1}\n', "line 1: has no path or file, only 'label'"),
        ("truth.jsonl", '{"path": "a.jpg", "label": true}\n', "a label is an integer or a name, found 'True'"),
        ("latin.txt", "caf\xe9.jpg\n", "latin.txt: is no list; text in UTF-8 is wanted"),
        ("thing.xyz", "a", r"thing.xyz: .xyz is no source of images; accepted are a folder"),
        ("broken.tar", "no tar at all" * 100, "broken.tar: cannot be read as an uncompressed tar"),
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
        (lambda: find_samples(tmp_path / "z.tar", "image"), "uncompressed tar"),
        (lambda: find_samples(tmp_path / "none.tar", "image"), "the shard holds no images"),
        (lambda: find_samples(tmp_path / "label.tar", "image"), "label.tar/a.cls: holds no integer label, but 'cat'"),
        (lambda: find_samples(tmp_path / "missing", "image"), "missing: no such file or folder"),
        (lambda: find_samples(tmp_path / "bare", "video"), r"bare: the folder has no videos \(by suffix"),
        (lambda: find_samples(tmp_path / "flat", "image", folder_labels=True), "FOLDER/CLASS/FILE is wanted"),
        (lambda: find_samples([], "image"), "no path is given"),
    ]:
        with pytest.raises(MediaError, match=message) as error:
            call()
        assert one_sentence(str(error.value))
