"""What nbs/03_rgb.ipynb does not show: state dicts of the published ports, any length of snippet, the encoder's crops and batches."""
import numpy as np
import pytest
import torch
from pivad.core import InputError
from pivad.rgb import RGB_ENCODERS, InceptionI3D, RGBEncoder, find_weights, fold_batch_norm, load_rgb_encoder, pick_precision, same_padding
from pivad.weights import sha256

PIERGIAJ = {"b0": "b0", "b1a": "b1a", "b1b": "b1b", "b2a": "b2a", "b2b": "b2b", "b3b": "b3b"}
HASSONY2 = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1", "b2a": "branch_2.0", "b2b": "branch_2.1", "b3b": "branch_3.1"}


def port_name(key, port):
    "Our name -> the name in a published port."
    layer, rest = key.split(".", 1)
    if layer == "head":
        return ("logits" if port == "piergiaj" else "conv3d_0c_1x1") + ".conv3d." + rest
    if layer.startswith("mixed"):
        branch, rest = rest.split(".", 1)
        layer += "." + (PIERGIAJ if port == "piergiaj" else HASSONY2)[branch]
    if port == "piergiaj":
        layer = layer.replace("conv3d", "Conv3d").replace("mixed", "Mixed")
    else:
        rest = rest.replace("bn.", "batch3d.")
    return f"{layer}.{rest}"


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = InceptionI3D().eval()
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm3d):
            m.running_mean.normal_(0, 0.1), m.running_var.uniform_(0.5, 2), m.weight.data.uniform_(0.5, 2), m.bias.data.normal_(0, 0.1)
    return net


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a if not k.endswith("num_batches_tracked"))


@pytest.mark.parametrize("port, file", [("piergiaj", "rgb_imagenet.pt"), ("hassony2", "model_rgb.pth"), ("own", "own.pt")])
@pytest.mark.parametrize("counted", [True, False])
def test_published_state_dicts_load(net, tmp_path, port, file, counted):
    state = net.state_dict() if port == "own" else {port_name(k, port): v for k, v in net.state_dict().items()}
    if port == "hassony2":
        assert "mixed_3b.branch_1.1.conv3d.weight" in state and "conv3d_0c_1x1.conv3d.bias" in state and "conv3d_1a_7x7.batch3d.running_var" in state
    if port == "piergiaj":
        assert "Mixed_5c.b3b.bn.running_mean" in state and "logits.conv3d.weight" in state and "Conv3d_1a_7x7.conv3d.weight" in state
    torch.save({k: v for k, v in state.items() if counted or not k.endswith("num_batches_tracked")}, tmp_path / file)
    assert same(InceptionI3D.pretrained(tmp_path / file), net)
    encoder = load_rgb_encoder(tmp_path / file, device="cpu")
    assert (encoder.name, encoder.dim, encoder.sha256) == ((tmp_path / file).stem, 1024, sha256(tmp_path / file))


def test_fine_tuned_head_of_other_width(net, tmp_path):
    state = {port_name(k, "piergiaj"): v for k, v in net.state_dict().items()}
    state |= {"logits.conv3d.weight": torch.zeros(157, 1024, 1, 1, 1), "logits.conv3d.bias": torch.zeros(157)}
    torch.save(state, tmp_path / "rgb_charades.pt")
    assert InceptionI3D.pretrained(tmp_path / "rgb_charades.pt").head.out_channels == 157


class Evil:
    def __reduce__(self):
        return print, ("never",)


@pytest.mark.parametrize(
    "name, save, words",
    [
        ("other.pth", lambda net, p: torch.save({"fc.weight": torch.zeros(2, 2)}, p), ["do not fit", "missing", "unknown"]),
        ("flow.pt", lambda net, p: torch.save(net.state_dict() | {"conv3d_1a_7x7.conv3d.weight": torch.zeros(64, 2, 7, 7, 7)}, p), ["1 of another shape", "(64, 2, 7, 7, 7)"]),
        ("half.pt", lambda net, p: torch.save(dict(list(net.state_dict().items())[:100]), p), ["missing"]),
        ("list.pt", lambda net, p: torch.save([1, 2], p), ["no state dict", "list"]),
        ("text.pt", lambda net, p: p.write_text("weights"), ["not readable"]),
        ("text.safetensors", lambda net, p: p.write_text("weights"), ["not readable"]),
        ("evil.pt", lambda net, p: torch.save({"conv": Evil()}, p), ["not readable"]),
    ],
)
def test_weights_that_do_not_fit_are_one_error(net, tmp_path, name, save, words, capsys):
    save(net, tmp_path / name)
    with pytest.raises(InputError) as e:
        load_rgb_encoder(tmp_path / name, device="cpu")
    for word in [name, *words]:
        assert word in str(e.value)
    assert "never" not in capsys.readouterr().out


def test_same_padding_is_tensorflows():
    for n in range(1, 40):
        for k in (1, 2, 3, 7):
            for s in (1, 2):
                before, after = same_padding(n, k, s)
                assert (n + before + after - k) // s + 1 == -(-n // s) and after - before in (0, 1)


@pytest.mark.parametrize("t, h, w", [(16, 224, 224), (8, 112, 112), (9, 97, 65), (33, 64, 64)])
def test_odd_sizes_pass(net, t, h, w):
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, t, h, w)).shape == (1, 1024)


def test_registry_records_are_complete():
    for name, r in RGB_ENCODERS.items():
        assert r.name == name and r.dim > 0 and len(r.weights.sha256) == len(r.weights.archive_sha256) == 64 and r.weights.licence
        assert find_weights(name, download=False) == (r, None, r.weights.sha256)


class Mean(torch.nn.Module):
    "Corner pixel and mean of a crop: tells crops, order and range apart."

    def forward(self, x):
        assert x.shape[1:] == (3, 16, 224, 224)
        return torch.stack([x.mean((1, 2, 3, 4)), x[:, :, 0, 0, 0].mean(1), x[:, :, 0, 0, -1].mean(1)], 1)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_encoder_crops_order_and_range(batch_size):
    x = np.zeros((3, 16, 256, 300, 3), np.uint8)
    x[1], x[2, :, :, 0] = 255, 255  # snippet 1 white, snippet 2 with a white left edge
    record = RGB_ENCODERS["i3d-kinetics-400"]
    y = RGBEncoder(record, Mean(), "cpu")(x, crops=10, batch_size=batch_size)
    assert y.shape == (10, 3, 3) and y.dtype == np.float32
    assert (y[:, 0] == -1).all() and (y[:, 1] == 1).all()  # 0..255 becomes [-1, 1]
    left = y[:, 2, 1] == 1  # first column white: top-left and bottom-left
    right = y[:, 2, 2] == 1  # last column white: their mirror images
    assert list(np.flatnonzero(left)) == [1, 3] and list(np.flatnonzero(right)) == [6, 8]
    with pytest.raises(InputError):
        RGBEncoder(record, Mean(), "cpu")(x, crops=2)


def test_folding_changes_no_number(net):
    x = torch.rand(1, 3, 16, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.inference_mode():
        a, b = net(x), fold_batch_norm(net)(x)
    assert (a - b).abs().max() < 1e-3 * a.abs().max()
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())  # the network itself is left as it was


def test_bfloat16_is_close_on_a_real_video(shared):
    from pivad.video import read_snippets

    snippets = list(read_snippets(shared / "data/surveillance_fights/fight/fi001.mp4"))
    a, b = (load_rgb_encoder(device="cpu", precision=p)(snippets)[0] for p in ("float32", "bfloat16"))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.999 and not np.array_equal(a, b)


def test_precisions():
    assert pick_precision("auto", "cpu") in ("float32", "bfloat16") and pick_precision("float32") == "float32"
    with pytest.raises(InputError, match="precision"):
        pick_precision("float8")
