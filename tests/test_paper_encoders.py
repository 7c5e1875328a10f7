"""Every encoder with a network, from a small random configuration: the same questions for all, registry-wide."""
import subprocess
import sys

import numpy as np
import pytest
import torch
from pivad.core import InputError
from pivad.modalities import GROUPS, known_modalities, modality_encoder, modality_specs
from pivad.networks import NetworkEncoder, fitted, nms, torchvision

PAPER = sorted(k for k, c in known_modalities().items() if issubclass(c, NetworkEncoder) and c.__module__.startswith("pivad."))
CHOICES = [f"{k}?embedding={e}" for k in PAPER for e in known_modalities()[k].embeddings[1:]]


def frames(n=2, h=60, w=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 16, h, w, 3), np.uint8)


@pytest.fixture(scope="module")
def made():
    "spec -> encoder on the CPU with random weights, made once"
    cache = {}

    def make(spec):
        if spec not in cache:
            key, _, options = spec.partition("?")
            cache[spec] = modality_encoder(f"{key}:random?{options}", device="cpu")
        return cache[spec]

    return make


def test_what_the_paper_used_is_there():
    assert {"depth=depth-anything", "depth=depth-anything-base", "depth=depth-anything-large", "panoptic=sam", "panoptic=sam2", "panoptic=mask2former"} < set(PAPER)
    assert {"pose=yolov7", "pose=vitpose", "pose=keypoint-rcnn", "flow=raft", "text=vifi-clip", "text=clip", "text=xclip"} < set(PAPER)
    assert set(GROUPS["paper"]) < set(PAPER) and list(modality_specs(["paper"])) == ["pose", "depth", "panoptic", "flow", "text"]


@pytest.mark.parametrize("spec", PAPER + CHOICES)
def test_shape_determinism_batch(made, spec):
    encoder, x = made(spec), frames()
    e = encoder(x)
    assert e.shape == (2, encoder.dim) and e.dtype == np.float32 and np.isfinite(e).all() and e.std() > 0
    assert (encoder(list(x)) == e).all()  # the same bits again
    assert np.abs(encoder(x[1:])[0] - e[1]).max() < 1e-4 * max(1, np.abs(e).max())  # alone or in a batch
    assert np.abs(e[0] - e[1]).max() > 1e-4 * np.abs(e).max()  # it looks at the frames


@pytest.mark.parametrize("spec", PAPER)
def test_empty_one_frame_and_blank(made, spec):
    encoder, x = made(spec), frames(1)
    assert encoder([]).shape == (0, encoder.dim) and encoder(x[:0]).shape == (0, encoder.dim)
    one = encoder(x[:, :1])
    repeated = encoder(np.repeat(x[:, :1], 16, 1))
    assert one.shape == (1, encoder.dim) and np.abs(one - repeated).max() == 0
    assert np.isfinite(encoder(np.zeros((1, 16, 60, 80, 3), np.uint8))).all()
    with pytest.raises(InputError, match="at least one frame"):
        encoder(x[:, :0])


@pytest.mark.parametrize("spec", PAPER)
def test_upright_and_wide_frames(made, spec):
    for h, w in ((90, 50), (40, 120)):
        assert made(spec)(frames(1, h, w)).shape == (1, made(spec).dim)


@pytest.mark.parametrize("spec", PAPER)
def test_half_precision_on_the_cpu(made, spec):
    whole, half = made(spec)(frames()), made(f"{spec}?precision=bfloat16")(frames())
    cosine = (whole * half).sum(-1) / np.linalg.norm(whole, axis=-1) / np.linalg.norm(half, axis=-1)
    assert half.dtype == np.float32 and cosine.min() > 0.98, cosine


@pytest.mark.parametrize("spec", PAPER)
def test_states_what_it_is(made, spec):
    e = made(spec)
    assert f"{e.name}={e.variant}" == spec and e.licence and "random" in e.source and e.embedding in e.source and "frames" in e.looks_at
    assert modality_encoder(f"{spec}:random", device="cpu").source == e.source  # random weights are the same in every run
    assert modality_encoder(f"{spec}:random?frames=2", device="cpu").looks_at.startswith("frames 4, 12 of")


@pytest.mark.parametrize("spec", PAPER)
def test_missing_weights(spec, tmp_path):
    with pytest.raises(InputError) as e:
        modality_encoder(f"{spec}:{tmp_path}/nowhere", device="cpu")
    assert spec in str(e.value) and "nowhere" in str(e.value) and "what to do" in str(e.value)


def test_offline_hub_says_what_to_do():
    "The published weights, without a network: one error, no traceback"
    code = "from pivad.modalities import modality_encoder\nfrom pivad.core import InputError\ntry: modality_encoder('text=clip', device='cpu')\nexcept InputError as e: print(e)"
    import os

    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300,
                       env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"})
    assert "text=clip: no weights at openai/clip-vit-base-patch16" in r.stdout and "text=clip:PATH" in r.stdout, r.stderr


def test_from_a_local_folder(tmp_path):
    "A folder as `save_pretrained` writes it gives the same vectors as the network that was saved"
    random = modality_encoder("text=clip:random", device="cpu")
    random.model.save_pretrained(tmp_path)
    local = modality_encoder(f"text=clip:{tmp_path}?size=32", device="cpu")
    assert (local(frames()) == random(frames())).all() and tmp_path.name in local.source


def test_torchvision_state_from_a_file(tmp_path):
    raft = torchvision().models.optical_flow.raft_small(weights=None)
    torch.save(raft.state_dict(), tmp_path / "raft.pth")
    e = modality_encoder(f"flow=raft-small:{tmp_path}/raft.pth?size=128", device="cpu")
    assert e(frames(1)).shape == (1, 96)
    with pytest.raises(InputError, match="do not fit"):
        modality_encoder(f"flow=raft:{tmp_path}/raft.pth", device="cpu")


def test_a_checkpoint_is_compared_before_it_is_opened(tmp_path):
    import os

    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"model": Malicious()}, tmp_path / "pose.pt")
    with pytest.raises(InputError, match="not the checkpoint expected"):
        modality_encoder(f"pose=yolov7:{tmp_path}/pose.pt?repository={tmp_path}&sha256=00", device="cpu")
    with pytest.raises(InputError, match="repository none"):
        modality_encoder(f"pose=yolov7:{tmp_path}/pose.pt", device="cpu")
    assert not (tmp_path / "owned").exists()


def test_state_that_is_no_clip(tmp_path):
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="no picture encoder of CLIP"):
        modality_encoder(f"text=vifi-clip:{tmp_path}/x.pth", device="cpu")


def test_nms_against_the_definition():
    g = torch.Generator().manual_seed(0)
    a = torch.rand(60, 2, generator=g) * 50
    boxes, scores = torch.cat([a, a + 5 + 20 * torch.rand(60, 2, generator=g)], 1), torch.rand(60, generator=g)
    keep = nms(boxes, scores, 0.3).tolist()
    iou = torchvision().ops.box_iou(boxes, boxes)
    expected = []
    for i in scores.argsort(descending=True).tolist():
        if all(iou[i, j] <= 0.3 for j in expected):
            expected.append(i)
    assert keep == expected and 5 < len(keep) < 60
    assert nms(boxes[:0], scores[:0], 0.3).tolist() == []


def test_raft_network_sees_consecutive_frames(made):
    e = made("flow=raft")
    x = frames(1)
    pairs = e.pick(x[0])
    assert pairs.shape == (4, 2, 60, 80, 3) and (pairs[0] == x[0, [2, 3]]).all()


def test_resizing_keeps_what_it_says():
    x = torch.rand(1, 3, 120, 160)
    assert fitted(x, 64, "squash").shape[-2:] == (64, 64) and fitted(x, 64, "crop").shape[-2:] == (64, 64)
    assert fitted(x, 60, "short").shape[-2:] == (60, 80) and fitted(x, 64, "short", 32).shape[-2:] == (64, 96)
    padded = fitted(x, 64, "pad")
    assert padded.shape[-2:] == (64, 64) and (padded[:, :, 48:] == 0).all() and (padded[:, :, :48] != 0).all()


def test_extraction_with_networks(tmp_path):
    "From a video to a feature file, mixed with a light encoder; the file states weights and embedding"
    from pivad.features import FeatureStore, extract
    from pivad.video import write_video

    write_video(tmp_path / "v" / "a.mp4", frames(3).reshape(48, 60, 80, 3))

    class Tiny:
        name, dim, sha256 = "tiny", 4, ""

        def __call__(self, snippets, crops=1, batch_size=8):
            return np.zeros((crops, len(snippets), 4), np.float32)

    wanted = ["flow", "text=clip:random", "pose=vitpose:random?frames=2"]
    summary = extract(tmp_path / "v", tmp_path / "out", rgb=Tiny(), modalities=wanted, device="cpu", progress=False)
    store = FeatureStore(tmp_path / "out")
    assert summary.done == 1 and {k: v.shape for k, v in store.load("a").items()} == {"rgb": (1, 3, 4), "flow": (3, 160), "text": (3, 24), "pose": (3, 32)}
    assert "embedding projected" in store.meta("a")["modalities"]["text"]["source"]
    assert extract(tmp_path / "v", tmp_path / "out", rgb=Tiny(), modalities=wanted, device="cpu", progress=False).skipped == 1
    with pytest.raises(InputError, match="made with other settings"):
        extract(tmp_path / "v", tmp_path / "out", rgb=Tiny(), modalities=["text=clip:random?embedding=hidden"], device="cpu", progress=False)


def test_libraries_are_not_imported_with_pivad():
    code = "import sys, pivad, pivad.modalities; pivad.modalities.known_modalities(); print([m for m in ('transformers', 'torchvision', 'onnxruntime') if m in sys.modules])"
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert r.stdout.strip() == "[]", r.stdout + r.stderr
