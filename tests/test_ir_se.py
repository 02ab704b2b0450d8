"""AdaFace's IR and TreB1eN's IR-SE: published key names, sizes from the file, parity with a second computation."""

import pytest
import reference_recognizers as reference
import torch

from basicsr.recognizers.ir_se import IRKind, IRNet, ir_net_for, kind_of

IR50 = [64] * 3 + [128] * 4 + [256] * 14 + [512] * 3
DEPTHS = {"adaface 18": (2, 2, 2, 2), "adaface 50": (3, 4, 14, 3), "adaface 101": (3, 13, 30, 3)}


def tiny_net(kind: IRKind) -> IRNet:
    net = IRNet(kind, (4, 4, 8, 8), 4, (24, 24), 8, 2)
    reference.randomize(net)
    return net


@pytest.mark.parametrize("kind", ["adaface", "ir_se"])
def test_network_equals_the_computation_from_its_key_names(kind: IRKind):
    net = tiny_net(kind)
    images = torch.rand(3, 3, 24, 24) * 2 - 1
    expected = reference.ir_net(net.state_dict(), images, kind == "ir_se")
    assert expected.std() > 0.1
    torch.testing.assert_close(net.double()(images.double())[0], expected, atol=1e-8, rtol=1e-8)


def test_ir_se50_has_the_keys_and_shapes_of_the_published_file():
    with torch.device("meta"):
        net = IRNet("ir_se", IR50)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert shapes["input_layer.0.weight"] == (64, 3, 3, 3)
    assert shapes["input_layer.2.weight"] == (64,)
    assert shapes["body.0.res_layer.2.weight"] == (64,)
    assert shapes["body.3.shortcut_layer.0.weight"] == (128, 64, 1, 1)
    assert shapes["body.3.shortcut_layer.1.running_var"] == (128,)
    assert shapes["body.23.res_layer.3.weight"] == (512, 512, 3, 3)
    assert shapes["body.23.res_layer.5.fc1.weight"] == (32, 512, 1, 1)
    assert shapes["body.23.res_layer.5.fc2.weight"] == (512, 32, 1, 1)
    assert shapes["output_layer.3.weight"] == (512, 25088)
    assert shapes["output_layer.4.weight"] == (512,)
    assert "body.24.res_layer.0.weight" not in shapes
    assert not any(name.startswith("body.0.shortcut_layer") for name in shapes)  # a pool: no weights


@pytest.mark.parametrize("depths", DEPTHS.values(), ids=DEPTHS)
def test_adaface_has_the_keys_and_shapes_of_the_published_files(depths: tuple[int, ...]):
    widths = [64 * 2**i for i, count in enumerate(depths) for _ in range(count)]
    with torch.device("meta"):
        net = IRNet("adaface", widths)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    last = f"body.{sum(depths) - 1}"
    assert shapes[f"{last}.res_layer.2.running_mean"] == (512,)
    assert shapes[f"{last}.res_layer.3.weight"] == (512,)  # the slopes
    assert shapes[f"{last}.res_layer.4.weight"] == (512, 512, 3, 3)
    assert shapes[f"{last}.res_layer.5.bias"] == (512,)
    assert shapes["output_layer.3.weight"] == (512, 25088)
    assert shapes["output_layer.4.running_mean"] == (512,)
    assert "output_layer.4.weight" not in shapes
    assert (net.map_shape, net.input_size, net.embed_dim) == ((512, 7, 7), (112, 112), 512)


@pytest.mark.parametrize("kind", ["adaface", "ir_se"])
def test_kind_and_sizes_follow_from_the_state_dict(kind: IRKind):
    net = tiny_net(kind)
    again = ir_net_for(net.state_dict())
    assert kind_of(net.state_dict()) == kind
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in net.state_dict().items()
    }
    assert (again.input_size, again.map_shape, again.embed_dim) == ((24, 24), (8, 6, 6), 8)


def test_ir_without_squeeze_and_without_that_norm_is_neither():
    state = {name: value for name, value in tiny_net("ir_se").state_dict().items() if ".res_layer.5." not in name}
    assert kind_of(state) is None


def test_gradient_to_the_picture_is_the_finite_difference():
    for kind in ("adaface", "ir_se"):
        net = tiny_net(kind).double().requires_grad_(False)  # type: ignore[arg-type]
        images = torch.rand(1, 3, 24, 24, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, net=net: net(x)[0], images, fast_mode=True)
