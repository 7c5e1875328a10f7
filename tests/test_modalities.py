"""What nbs/04_modalities.ipynb does not show: every registered encoder on every kind of frame, and what flow measures."""
import numpy as np
import pytest
from pivad.core import InputError
from pivad.modalities import WORK, component_stats, dense_flow, gray_frames, known_modalities, modality_encoder, modality_specs

BUILT_IN = ("flow", "panoptic")
LIGHT = ("pose", "depth", "text")


def texture(h, w, seed=0):
    import cv2

    x = np.random.default_rng(seed).normal(128, 60, (h, w, 3))
    return np.clip(cv2.GaussianBlur(x, (0, 0), 3) * 3 - 256, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("h, w", [(240, 320), (320, 180), (64, 64), (1080, 1920), (97, 131)])
def test_shape_range_and_repeatability(name, h, w):
    r = np.random.default_rng(0)
    snippets = r.integers(0, 256, (2, 16, h, w, 3), np.uint8)
    encoder = modality_encoder(name)
    e = encoder(snippets)
    assert e.shape == (2, encoder.dim) and e.dtype == np.float32 and np.isfinite(e).all()
    assert -0.01 <= e.min() and e.max() < 6  # PMG regresses these numbers with a squared error
    encoder.reset()
    assert (encoder(list(snippets)) == e).all()


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("value", [0, 255])
def test_blank_frames(name, value):
    e = modality_encoder(name)(np.full((1, 16, 120, 160, 3), value, np.uint8))
    assert np.isfinite(e).all()


@pytest.mark.parametrize("name", known_modalities())
def test_every_encoder_states_what_it_is(name):
    modality, _, variant = name.partition("=")
    e = modality_encoder(f"{name}:random" if variant else name)
    assert e.name == modality and isinstance(e.dim, int) and e.looks_at and e.source


def test_unknown_modality_lists_the_known():
    with pytest.raises(InputError) as e:
        modality_encoder("poes")
    assert "poes" in str(e.value) and "flow" in str(e.value) and "panoptic" in str(e.value)


@pytest.mark.parametrize("dx, dy", [(2, 0), (0, 3), (-2, 1)])
def test_flow_units_are_pixels_a_frame_at_working_size(dx, dy):
    big = texture(400, 400)
    frames = np.stack([big[100 - dy * t : 228 - dy * t, 100 - dx * t : 228 - dx * t] for t in range(6)])  # the scene moves by (dx, dy)
    flow = dense_flow(gray_frames(frames))[:, 20:-20, 20:-20]
    assert frames.shape[1] == WORK
    assert np.abs(np.median(flow, (0, 1, 2)) - (dx, dy)).max() < 0.15


def test_flow_of_twice_the_resolution_is_the_same():
    import cv2

    x = texture(400, 400)
    small = np.stack([x[100:228, 100 - 2 * t : 228 - 2 * t] for t in range(16)])
    large = np.stack([cv2.resize(f, (256, 256), interpolation=cv2.INTER_CUBIC) for f in small])
    a, b = modality_encoder("flow")(np.stack([small])), modality_encoder("flow")(np.stack([large]))
    assert np.abs(a - b).max() < 0.25 and np.corrcoef(a[0], b[0])[0, 1] > 0.98


def test_component_stats_of_known_masks():
    mask = np.zeros((100, 200), np.uint8)
    assert (component_stats(mask) == 0).all()
    mask[10:30, 20:60] = 1  # 800 pixels, 4 %
    mask[60:70, 100:120] = 1  # 200 pixels, 1 %
    mask[90, 190] = 1  # a speck
    count, area, largest, mean, x, y, w, h, fill = component_stats(mask)
    assert np.allclose([np.expm1(count), area**2, largest**2, mean**2], [2, 0.05, 0.04, 0.025], atol=1e-6)
    assert np.allclose([x, y, w, h, fill], [39.5 / 200, 19.5 / 100, 40 / 200, 20 / 100, 1])


def test_panoptic_finds_the_walker_and_not_the_still():
    background = texture(128, 200)
    frames = np.stack([background] * 64)
    for t in range(32, 64):
        frames[t, 40:90, 3 * (t - 32) : 3 * (t - 32) + 24] = 255
    e = modality_encoder("panoptic")(frames.reshape(4, 16, 128, 200, 3))
    assert e[:2].sum() == 0 and e[2:, 128].min() > 0.5  # no component at first, then about one: log 2


@pytest.fixture(scope="module")
def light():
    return {name: modality_encoder(name) for name in LIGHT}


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("h, w", [(240, 320), (320, 180), (64, 64), (97, 131)])
def test_light_shape_determinism_and_batch(light, name, h, w):
    snippets = np.random.default_rng(0).integers(0, 256, (2, 16, h, w, 3), np.uint8)
    e = light[name](snippets)
    assert e.shape == (2, light[name].dim) and e.dtype == np.float32 and np.isfinite(e).all()
    assert (light[name](snippets) == e).all() and (light[name](snippets[1:]) == e[1:]).all()


@pytest.mark.parametrize("name", LIGHT)
def test_light_blank_frames(light, name):
    assert np.isfinite(light[name](np.zeros((1, 16, 120, 160, 3), np.uint8))).all()


def test_text_is_handed_what_the_others_saw(light):
    from pivad.example import scene
    from pivad.features import encode

    snippets = np.stack(list(scene())).reshape(3, 16, 240, 320, 3)
    encoders = {"text": light["text"], "pose": light["pose"], "depth": light["depth"], "flow": modality_encoder("flow")}
    together = encode(encoders, snippets)
    assert list(together) == list(encoders) and (together["text"] == light["text"](snippets)).all()
    assert all("two people" in c for c in light["text"].captions(snippets))


def test_groups_and_locations():
    assert list(modality_specs(["light"])) == ["pose", "depth", "panoptic", "flow", "text"]
    assert modality_specs(["light", "pose=other"])["pose"] == "pose=other"
    with pytest.raises(InputError, match="takes no location"):
        modality_encoder("flow:somewhere")
