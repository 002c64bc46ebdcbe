from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from pentad.core.errors import ModelError
from pentad.medical.models.baseline import DynUNet, DynUNetConfig
from pentad.medical.models.hiformer import HiFormer, HiFormerConfig
from pentad.medical.models.swin_unet import SwinUNet, SwinUNetConfig
from pentad.medical.pretrained import load_pretrained

SWIN_UNET = SwinUNetConfig(classes=2, embed_dim=12, depths=(2, 2, 2), heads=(2, 2, 2), windows=(4, 4, 4))
HIFORMER = HiFormerConfig(
    classes=2,
    image_size=(32, 32),
    backbone="resnet18",
    embed_dim=12,
    depths=(2, 2, 2),
    heads=(2, 2, 2),
    windows=(4, 4, 4),
    fusion_heads=(2, 2),
    decoder_channels=8,
    decoder_groups=4,
)


def classifier():
    """A Swin classifier's tensors under the official names: a third stage of three blocks, and a head."""
    with torch.device("meta"):
        encoder = SwinUNet(replace(SWIN_UNET, depths=(2, 2, 3))).state_dict()
    names = [name for name in encoder if re.match(r"(patch_embed|layers|norm)\.", name)]
    generator = torch.Generator().manual_seed(3)
    state = {name: torch.randn(encoder[name].shape, generator=generator) for name in names}
    state["head.weight"] = torch.zeros(1000, 48)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    return state


def written(path, state, entry="model"):
    torch.save({entry: state} if entry else state, path)
    return path


def built(cls, config):
    torch.manual_seed(0)
    return cls(config)


def test_a_swin_unet_takes_the_encoder_and_copies_it_into_the_decoder(tmp_path):
    state, model = classifier(), built(SwinUNet, SWIN_UNET)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    load_pretrained(model, [written(tmp_path / "swin.pth", state)])
    ours = model.state_dict()
    for name in (
        "patch_embed.proj.weight",
        "layers.1.downsample.norm.bias",
        "layers.2.blocks.1.mlp.fc2.bias",
        "norm.bias",
    ):
        assert torch.equal(ours[name], state[name])
    for up, down in ((1, 1), (2, 0)):
        name = "blocks.1.attn.qkv.weight"
        assert torch.equal(ours[f"layers_up.{up}.{name}"], state[f"layers.{down}.{name}"])
    left = {name for name in ours if torch.equal(ours[name], start[name])}
    groups = {
        re.sub(r"^(layers_up\.\d+(\.upsample)?|concat_back_dim|norm_up|up|output).*", r"\1", name) for name in left
    }
    assert groups == {"layers_up.0", "layers_up.1.upsample", "concat_back_dim", "norm_up", "up", "output"}


def test_a_hiformer_takes_swin_stages_and_mergings_from_one_file_and_its_resnet_from_another(tmp_path):
    model, state = built(HiFormer, HIFORMER), classifier()
    resnet = {name: torch.rand_like(value) for name, value in model.pyramid.cnn.state_dict().items()}
    extra = {"fc.weight": torch.zeros(3, 3), "bn1.num_batches_tracked": torch.tensor(7)}
    files = [written(tmp_path / "swin.pth", state), written(tmp_path / "resnet.pth", {**resnet, **extra}, entry="")]
    filled = load_pretrained(model, files)
    ours = model.state_dict()
    assert filled == {"swin.pth": 6 * 13 + 6, "resnet.pth": len(resnet)}
    assert torch.equal(ours["pyramid.swin.1.0.norm1.weight"], state["layers.1.blocks.0.norm1.weight"])
    assert torch.equal(ours["pyramid.p2_pm.reduction.weight"], state["layers.1.downsample.reduction.weight"])
    assert torch.equal(ours["pyramid.cnn.layer2.0.bn1.running_var"], resnet["layer2.0.bn1.running_var"])


def test_as_published_only_the_bias_tables_of_a_hiformers_swin_stay(tmp_path):
    model, state = built(HiFormer, HIFORMER), classifier()
    before = model.state_dict()["pyramid.swin.0.0.attn.qkv.weight"].clone()
    path = written(tmp_path / "swin.pth", state)
    assert load_pretrained(model, [path], bias_tables_only=True) == {"swin.pth": 6}
    ours = model.state_dict()
    table = "attn.relative_position_bias_table"
    assert torch.equal(ours[f"pyramid.swin.2.1.{table}"], state[f"layers.2.blocks.1.{table}"])
    assert torch.equal(ours["pyramid.swin.0.0.attn.qkv.weight"], before)


def test_every_missing_and_misshapen_tensor_is_named_and_nothing_is_filled(tmp_path):
    model, state = built(SwinUNet, SWIN_UNET), classifier()
    del state["norm.weight"], state["layers.1.blocks.1.attn.proj.bias"]
    state["patch_embed.proj.weight"] = torch.zeros(12, 1, 4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sentence = (
        r"PTD-535 .*missing: layers\.1\.blocks\.1\.attn\.proj\.bias, norm\.weight, and "
        r"misshapen: patch_embed\.proj\.weight \(12, 1, 4, 4\) instead of \(12, 3, 4, 4\)"
    )
    with pytest.raises(ModelError, match=sentence):
        load_pretrained(model, [written(tmp_path / "swin.pth", state)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_of_another_kind_are_refused(tmp_path):
    path = written(tmp_path / "other.pth", {"conv.weight": torch.zeros(1)}, entry="")
    with pytest.raises(
        ModelError, match=r"PTD-534 .*no ImageNet weights for a SwinUNet; give the file of the official"
    ):
        load_pretrained(built(SwinUNet, SWIN_UNET), [path])


def test_a_model_without_such_an_encoder_says_so(tmp_path):
    config = DynUNetConfig(1, 2, (4, 4, 4), ((3, 3),) * 3, ((1, 1), (2, 2), (2, 2)))
    path = written(tmp_path / "swin.pth", classifier())
    with pytest.raises(ModelError, match=r"PTD-534 .*DynUNet starts from no ImageNet weights; remove 'pretrained'"):
        load_pretrained(DynUNet(config), [path])
