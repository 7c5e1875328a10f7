"""Sound: where it begins, log-mel against another implementation, and extraction that is resumed."""
import av
import numpy as np
import pytest
import torch

from pivad.audio import EXAMPLE, RATE, VGGish, examples, log_mel, mel_matrix, read_sound
from pivad.core import InputError
from pivad.features import FeatureStore, extract, extract_video
from pivad.modalities import modality_encoder


def film(path, wave, rate=RATE, frames=100, delay=0.0):
    "A grey film of 25 frames a second with a sound that begins `delay` seconds late"
    with av.open(str(path), "w") as out:
        video, sound = out.add_stream("mpeg4", rate=25), out.add_stream("pcm_s16le", rate=rate, layout="mono")
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 128, np.uint8), format="rgb24")))
        out.mux(video.encode())
        f = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
        f.sample_rate, f.pts = rate, int(delay * rate)
        out.mux(sound.encode(f))
        out.mux(sound.encode())
    return path


def noise(n, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, n)


def test_log_mel_against_transformers():
    from pivad.networks import transformers

    transformers()
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    bank = mel_filter_bank(257, 64, 125, 7500, RATE, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True)
    bank[0] = 0
    assert np.abs(bank - mel_matrix()).max() < 1e-3
    x = noise(EXAMPLE).astype(np.float32)
    theirs = spectrogram(x, window_function(400, "hann"), 400, 160, 512, power=1.0, center=False, mel_filters=bank, mel_floor=0).T
    ours = log_mel(x[None])[0]
    assert ours.shape == (96, 64) and np.abs(ours - np.log(theirs + 0.01)).max() < 0.02


def test_sound_is_resampled_and_placed(tmp_path):
    t = np.arange(32000 * 3) / 32000
    wave = 0.5 * np.sin(2 * np.pi * 440 * t)
    x = read_sound(film(tmp_path / "a.mkv", wave, rate=32000))
    assert abs(len(x) - 3 * RATE) < 200
    peak = np.abs(np.fft.rfft(x[:RATE].astype(float))).argmax()
    assert abs(peak - 440) <= 1
    late = read_sound(film(tmp_path / "b.mkv", noise(RATE), delay=0.5))
    assert (late[: RATE // 2 - 100] == 0).all() and np.abs(late[RATE // 2 + 100 :]).max() > 1000


def test_an_example_holds_the_snippets_samples():
    sound = np.arange(RATE * 2, dtype=np.int16) % 1000
    x = examples(sound, 1, 25)[0] * 32768
    first, last = int(16 / 25 * RATE), int(32 / 25 * RATE) - 1
    offset = (EXAMPLE - (last + 1 - first)) // 2
    assert np.allclose(x[offset : offset + 100], sound[first : first + 100], atol=0.1)
    assert len(examples(sound, 0, 5)) == 4 and len(examples(sound, 0, 30)) == 1


def test_vggish_takes_published_names_and_refuses_others(tmp_path):
    torch.manual_seed(0)
    net = VGGish().eval()
    torch.save(net.state_dict() | {"pproc.pca_means": torch.zeros(128, 1)}, tmp_path / "vggish.pth")
    e = modality_encoder(f"audio=vggish:{tmp_path}/vggish.pth", device="cpu")
    e.open(film(tmp_path / "a.mkv", noise(4 * RATE)))
    got = e([np.zeros((16, 48, 64, 3), np.uint8)])
    with torch.inference_mode():
        expected = net(torch.from_numpy(log_mel(examples(read_sound(tmp_path / "a.mkv"), 0, 25)))).numpy()
    assert np.abs(got - expected).max() < 1e-5 and got.std() > 0
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="do not fit"):
        modality_encoder(f"audio=vggish:{tmp_path}/other.pth", device="cpu")
    for spec in ("audio=vggish", f"audio=vggish:{tmp_path}/nowhere"):
        with pytest.raises(InputError, match="no weights"):
            modality_encoder(spec, device="cpu")


class Tiny:
    name, dim, sha256 = "tiny", 3, ""

    def __call__(self, snippets, crops=1, batch_size=8):
        return np.stack([[s.mean((0, 1, 2)) / 255 for s in snippets]] * crops)


def test_extraction_resumed_and_several_videos(tmp_path):
    for i in range(2):
        film(tmp_path / f"{i}.mkv", noise(9 * RATE, i) * np.linspace(0, 1, 9 * RATE), frames=225)
    wanted = ["audio=vggish:random"]
    extract([tmp_path / "0.mkv", tmp_path / "1.mkv"], tmp_path / "out", rgb=Tiny(), modalities=wanted, device="cpu", progress=False)
    store = FeatureStore(tmp_path / "out")
    a, b = (store.load(str(i))["audio"] for i in range(2))
    assert a.shape == (14, 128) and not np.allclose(a, b)

    encoders, seen = {"audio": modality_encoder("audio=vggish:random", device="cpu")}, []

    def stop(n):
        seen.append(n)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_video(tmp_path / "1.mkv", encoders, batch_size=2, every=4, folder=tmp_path / "aside", key={}, tick=stop)
    resumed = extract_video(tmp_path / "1.mkv", encoders, batch_size=2, every=4, folder=tmp_path / "aside", key={})
    assert np.abs(resumed["audio"].astype(np.float32) - b).max() < 1e-3


def test_no_snippets():
    e = modality_encoder("audio")
    e.sound, e.fps = np.zeros(0, np.int16), 25
    assert e([]).shape == (0, 128)
