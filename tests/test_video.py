"""What nbs/02_video.ipynb does not show: damage of every kind, rotation, variable frame rate, constant memory."""
import csv
import itertools
import struct
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from pivad.core import InputError
from pivad.video import CROPS, crops, find_videos, probe, read_frames, read_snippets, resize_short, write_video


def noise(n, h=96, w=128, seed=0):
    r = np.random.default_rng(seed)
    for _ in range(n):
        yield r.integers(0, 256, (h, w, 3), np.uint8)


def faststart(src, dst):
    "The same packets with the index before the data."
    with av.open(str(src)) as a, av.open(str(dst), "w", options={"movflags": "faststart"}) as b:
        out = b.add_stream_from_template(a.streams.video[0])
        for packet in a.demux(a.streams.video[0]):
            if packet.dts is not None:
                packet.stream = out
                b.mux(packet)
    return dst


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "noise.mp4", noise(64), fps=25)


def one_error(f, *words):
    "f raises one InputError whose message holds all words."
    with pytest.raises(InputError) as e:
        f()
    for word in words:
        assert word in str(e.value), f"{word!r} not in: {e.value}"


@pytest.mark.parametrize("use", [probe, lambda p: list(read_snippets(p))])
class TestBadFiles:
    def test_missing(self, tmp_path, use):
        one_error(lambda: use(tmp_path / "none.mp4"), "none.mp4", "no such video file")

    def test_folder_instead_of_file(self, tmp_path, use):
        one_error(lambda: use(tmp_path), "no such video file")

    def test_empty(self, tmp_path, use):
        (tmp_path / "empty.mp4").touch()
        one_error(lambda: use(tmp_path / "empty.mp4"), "empty.mp4", "empty")

    def test_text(self, tmp_path, use):
        (tmp_path / "text.mp4").write_text("this is a text\n" * 50)
        one_error(lambda: use(tmp_path / "text.mp4"), "text.mp4", "not a video")

    def test_without_index(self, clip, tmp_path, use):
        (tmp_path / "cut.mp4").write_bytes(clip.read_bytes())
        one_error(lambda: use(cut(tmp_path / "cut.mp4", 0.6)), "cut.mp4", "cut off", "moov")

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
    def test_data_cut_behind_the_index(self, clip, tmp_path, use, share):
        fast = faststart(clip, tmp_path / "fast.mp4")
        assert len(list(read_frames(fast))) == 64
        one_error(lambda: use(cut(fast, share)), "fast.mp4", "cut off", "missing")

    def test_avi_cut(self, tmp_path, use):
        one_error(lambda: use(cut(write_video(tmp_path / "a.avi", noise(64)), 0.6)), "a.avi", "cut off")

    def test_audio_only(self, tmp_path, use):
        with av.open(str(tmp_path / "sound.mp4"), "w") as c:
            s = c.add_stream("aac", rate=16000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            c.mux(s.encode(frame))
            c.mux(s.encode())
        one_error(lambda: use(tmp_path / "sound.mp4"), "sound.mp4", "no pictures", "audio")


def test_bytes_damaged_in_the_middle_end_in_frames_or_one_error(clip, tmp_path):
    data = bytearray(faststart(clip, tmp_path / "fast.mp4").read_bytes())
    for seed in range(5):
        r = np.random.default_rng(seed)
        broken = data.copy()
        for i in r.integers(len(data) // 10, len(data), 400):
            broken[i] = r.integers(256)
        (tmp_path / "broken.mp4").write_bytes(broken)
        try:
            assert all(f.shape == (96, 128, 3) for f in read_frames(tmp_path / "broken.mp4"))
        except InputError as e:
            assert "broken.mp4" in str(e)


def test_seven_frames(tmp_path):
    short = write_video(tmp_path / "short.mp4", noise(7))
    assert probe(short).n_frames == 7
    one_error(lambda: list(read_snippets(short)), "short.mp4", "7 frames", "at least 16")
    (padded,) = read_snippets(short, tail="pad")
    assert padded.shape == (16, 96, 128, 3) and (padded[7:] == padded[6]).all()


@pytest.mark.parametrize("n", [16, 31, 32, 33])
def test_tail_lengths(tmp_path, n):
    path = write_video(tmp_path / "v.mp4", noise(n))
    assert len(list(read_snippets(path))) == n // 16
    assert len(list(read_snippets(path, tail="pad"))) == -(-n // 16)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov", ".ts"])
def test_frame_count_in_every_container(tmp_path, suffix):
    info = probe(write_video(tmp_path / f"v{suffix}", noise(64)))
    assert info.n_frames == 64 and (info.width, info.height) == (128, 96)


def test_log_noise_is_silent(tmp_path, capfd):
    damaged = cut(write_video(tmp_path / "damaged.avi", noise(64)), 0.5)
    with pytest.raises(InputError):
        list(read_frames(damaged))
    assert capfd.readouterr() == ("", "")


def rotate(path, a, b, c, d):
    "Write a rotation into the track header of an mp4, as phones do."
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of version, times, layer and volume
    one, w = 1 << 16, 1 << 30
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, w)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "matrix, k, name",
    [((0, 1, -1, 0), -1, "turned clockwise"), ((0, -1, 1, 0), 1, "counter-clockwise"), ((-1, 0, 0, -1), 2, "upside down")],
)
def test_rotation_metadata(tmp_path, matrix, k, name):
    x = np.zeros((96, 128, 3), np.uint8)
    x[:32, :32] = 255  # a white corner, top left as stored
    path = write_video(tmp_path / "phone.mp4", [x] * 20)
    plain = next(read_frames(path))
    rotate(path, *matrix)
    turned = next(read_frames(path))
    assert (turned == np.rot90(plain, k)).all(), name
    info = probe(path)
    assert (info.height, info.width) == turned.shape[:2]


@pytest.fixture
def vfr(tmp_path):
    "Ten frames; the first five 40 ms apart, the rest 200 ms; frame i has gray 20 i."
    path = tmp_path / "vfr.mkv"
    with av.open(str(path), "w") as c:
        s = c.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25)
        s.width, s.height, s.pix_fmt = 64, 64, "yuv420p"
        for i in range(10):
            f = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * i, np.uint8), format="rgb24")
            f.pts, f.time_base = i if i < 5 else 5 + 5 * (i - 5), Fraction(1, 25)
            c.mux(s.encode(f))
        c.mux(s.encode())
    return path


def test_variable_frame_rate(vfr):
    stored = [round(f.mean() / 20) for f in read_frames(vfr)]
    assert stored == list(range(10))  # by default every stored frame, once
    assert probe(vfr).n_frames == 10
    ticks = [round(f.mean() / 20) for f in read_frames(vfr, fps=25)]
    assert ticks[:25] == [0, 1, 2, 3, 4] + [i for i in range(5, 9) for _ in range(5)]  # the picture on screen at each tick


def test_memory_does_not_grow_with_length(tmp_path):
    def peak(n):
        path = write_video(tmp_path / f"{n}.mp4", itertools.repeat(np.zeros((240, 320, 3), np.uint8), n))
        tracemalloc.start()
        assert sum(1 for _ in read_snippets(path)) == n // 16
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(800) < peak(160) + 2 * 16 * 240 * 320 * 3  # at most two snippets apart; all frames would be 184 MB


def test_crop_positions():
    x = np.zeros((2, 256, 400, 3), np.uint8)
    x[:, :16, :16] = 1  # only the top left corner
    hit = [name for name, c in zip(CROPS, crops(x, 10)) if c.any()]
    assert hit == ["top-left", "top-left mirrored"]
    y = np.arange(256 * 400).reshape(1, 256, 400, 1).repeat(3, -1)
    center = next(crops(y, 1))
    assert center[0, 0, 0, 0] == 16 * 400 + 88 and center.shape == (1, 224, 224, 3)
    with pytest.raises(InputError):
        list(crops(y, 3))
    one_error(lambda: list(crops(y[:, :100], 1)), "smaller than the crop")


@pytest.mark.parametrize("h, w", [(240, 320), (320, 240), (100, 100), (1080, 1920), (97, 131)])
def test_resize_keeps_aspect(h, w):
    y = resize_short(np.zeros((h, w, 3), np.uint8))
    assert min(y.shape[:2]) == 256 and abs(y.shape[1] / y.shape[0] - w / h) < 0.01


def test_write_video_odd_size_and_no_frames(tmp_path):
    info = probe(write_video(tmp_path / "odd.mp4", noise(3, 97, 131)))
    assert (info.height, info.width) == (96, 130)
    one_error(lambda: write_video(tmp_path / "none.mp4", []), "none.mp4", "no frames")
    assert not (tmp_path / "none.mp4").exists()


def test_find_videos_names(tmp_path):
    for name in ("a/x.mp4", "b/x.AVI", "b/notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_videos(tmp_path)) == ["a/x", "b/x"]
    paths = [tmp_path / "a/x.mp4", str(tmp_path / "b/x.AVI")]
    assert list(find_videos(paths, root=tmp_path)) == ["a/x", "b/x"]
    one_error(lambda: find_videos(paths), "two videos", "'x'", "root=")
    assert list(find_videos(tmp_path / "a/x.mp4")) == ["x"]
    one_error(lambda: find_videos(tmp_path / "nowhere"), "nowhere", "no such folder")
    (tmp_path / "empty").mkdir()
    one_error(lambda: find_videos(tmp_path / "empty"), "no videos", ".mp4")


def test_real_clips(shared):
    root = shared / "data" / "surveillance_fights"
    with open(root / "clips.csv", newline="") as f:
        rows = [r for i, r in enumerate(csv.DictReader(f)) if i % 30 == 0]
    videos = {p.stem: p for p in root.rglob("*.mp4")}
    for r in rows:
        info = probe(videos[r["clip"]])
        assert (info.n_frames, info.width, info.height) == (int(r["n_frames"]), int(r["small_w"]), int(r["small_h"])), r["clip"]
