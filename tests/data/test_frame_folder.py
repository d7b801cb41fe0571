"""Videos as folders of their frames."""

from pathlib import Path

import pytest
import torch

from omnitok.data import VideoReader, detect_modality, list_media, read_video, write_image
from omnitok.data.index import build_index
from omnitok.data.video_reader import WindowSampling, read_window
from omnitok.errors import MediaError


def write_frames(folder: Path, count: int, width: int = 24) -> None:
    """Frame k has the grey level 20 k."""
    for k in range(count):
        write_image(folder / f"f{k}.png", torch.full((3, 16, width), 20 * k / 127.5 - 1))


def levels(video: torch.Tensor) -> list[int]:
    return [round((level + 1) * 127.5 / 20) for level in video.mean((0, 2, 3)).tolist()]


def test_frames_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.frames", 12)  # f10 after f9
    (tmp_path / "a.frames/notes.txt").write_text("x")
    write_image(tmp_path / "a.frames/f12.png", torch.full((3, 8, 12), 20 * 12 / 127.5 - 1))  # another size
    with VideoReader(tmp_path / "a.frames") as reader:
        assert (reader.width, reader.height, reader.fps, reader.frame_count) == (24, 16, 25.0, 13)
        assert levels(torch.stack(list(reader), dim=1)) == list(range(13))
    assert levels(read_video(tmp_path / "a.frames", fps=12.5, start=0.08)) == [2, 4, 6, 8, 10, 12]
    assert levels(read_window(tmp_path / "a.frames", WindowSampling(3, stride=2), 0.999).pixels) == [8, 10, 12]
    assert detect_modality(tmp_path / "a.frames") == "video"
    (tmp_path / "b.frames").mkdir()
    with pytest.raises(MediaError, match=r"b\.frames: the folder holds no images"):
        VideoReader(tmp_path / "b.frames")


@pytest.mark.parametrize("listed", [("f1.png", "f01.png"), ("f01.png", "f1.png")])
def test_frames_of_one_number_have_an_order_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: tuple[str, str]
) -> None:
    for level, name in enumerate(("f01.png", "f1.png")):
        write_image(tmp_path / "a.frames" / name, torch.full((3, 16, 24), 20 * level / 127.5 - 1))
    monkeypatch.setattr("os.listdir", lambda path: list(listed))
    assert levels(read_video(tmp_path / "a.frames")) == [0, 1]


def test_a_folder_by_its_name_is_a_video_among_others(tmp_path: Path) -> None:
    write_frames(tmp_path / "x/clip.frames", 3)
    write_image(tmp_path / "x/still.png", torch.zeros(3, 8, 8))
    index = build_index(tmp_path)
    assert ([s.key for s in index.images], [s.key for s in index.videos]) == (["x/still.png"], ["x/clip.frames"])
    assert list_media(tmp_path) == [tmp_path / "x/clip.frames", tmp_path / "x/still.png"]
    assert list_media(tmp_path / "x/clip.frames") == [tmp_path / "x/clip.frames"]
    assert build_index(tmp_path / "x/clip.frames").videos[0].key == "clip.frames"


def test_folders_of_images_are_videos_where_there_are_no_others(tmp_path: Path) -> None:
    for name in ("run/1", "run/2", "jump/3"):
        write_frames(tmp_path / name, 3)
    with pytest.warns(UserWarning, match="there are no video files; 3 folders of images are its videos"):
        index = build_index(videos=tmp_path, labels="folders")
    assert [sample.key for sample in index.videos] == ["jump/3", "run/1", "run/2"]
    assert index.classes == ("jump", "run")
    assert levels(read_video(index.videos[1].path)) == [0, 1, 2]
    assert len(build_index(tmp_path).videos) == 0
    with pytest.raises(MediaError, match="there are no videos"):
        build_index(videos=tmp_path / "run/1")
