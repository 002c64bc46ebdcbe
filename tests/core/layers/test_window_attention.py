from __future__ import annotations

import pytest
import torch

from pentad.core.layers.window_attention import (
    DropPath,
    PatchEmbedding,
    PatchMerging,
    SwinBlock,
    SwinStage,
    WindowAttention,
    drop_path_rates,
    initialise,
    partition,
    reverse,
    swin_blocks,
)


def built(width=6, heads=2, window=4, shifted=False, **settings):
    torch.manual_seed(0)
    attention = WindowAttention(width, heads, window, shifted=shifted, **settings).double()
    torch.nn.init.normal_(attention.relative_position_bias_table)
    return attention


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def places(length, window, shift):
    """Window and region of each position along one axis, by the paper's figure 4, and its place within the window."""
    side = min(window, length)
    shift = shift if length > window else 0
    whole = -(-length // side) * side
    shifted = [(position - shift) % whole for position in range(length)]
    regions = [(place >= whole - side) + (place >= whole - shift) if shift else 0 for place in shifted]
    return [(place // side, region, place % side) for place, region in zip(shifted, regions, strict=True)]


def written_out(attention, x):
    """The formula for one token after another, with every pair of tokens of the map looked at."""
    _, rows, columns, width = x.shape
    down, along = places(rows, attention.window, attention.shift), places(columns, attention.window, attention.shift)
    tokens = [(r, c) for r in range(rows) for c in range(columns)]
    side, heads = 2 * attention.window - 1, attention.heads
    q, k, v = attention.qkv(x.flatten(1, 2)).reshape(len(x), -1, 3, heads, width // heads).unbind(2)
    out = torch.zeros(len(x), len(tokens), heads, width // heads, dtype=x.dtype)
    for i, (r, c) in enumerate(tokens):
        seen = [j for j, (s, t) in enumerate(tokens) if down[s][:2] == down[r][:2] and along[t][:2] == along[c][:2]]
        scores = torch.einsum("bhd,bjhd->bhj", q[:, i], k[:, seen]) * (width // heads) ** -0.5
        for number, j in enumerate(seen):
            step = (down[r][2] - down[tokens[j][0]][2], along[c][2] - along[tokens[j][1]][2])
            row = (step[0] + attention.window - 1) * side + step[1] + attention.window - 1
            scores[:, :, number] += attention.relative_position_bias_table[row]
        out[:, i] = torch.einsum("bhj,bjhd->bhd", scores.softmax(-1), v[:, seen])
    return attention.proj(out.flatten(2)).reshape(x.shape)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (4, 4), (9, 6), (3, 10), (5, 5), (2, 3)])
def test_attention_is_the_written_out_formula_at_sizes_that_windows_fill_or_not(size, shifted):
    attention = built(shifted=shifted)
    x = drawn(2, *size, 6)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), written_out(attention, x), rtol=1e-10, atol=1e-10)


def test_gradients_are_those_of_the_written_out_formula():
    attention = built(shifted=True)
    gradients = []
    for function in (attention, lambda x: written_out(attention, x)):
        x = drawn(1, 5, 8, 6).requires_grad_()
        attention.zero_grad()
        function(x).square().sum().backward()
        gradients.append([x.grad, *(value.grad.clone() for value in attention.parameters())])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-8)


def test_a_map_no_longer_than_the_window_is_not_shifted():
    plain, shifted = built(), built(shifted=True)
    x = drawn(1, 4, 4, 6)
    assert torch.equal(plain(x), shifted(x))


def test_what_lies_beyond_the_maps_edge_does_not_matter():
    attention = built()
    x = drawn(1, 4, 6, 6)
    torch.testing.assert_close(attention(x)[:, :, :4], attention(x[:, :, :4]), rtol=1e-10, atol=1e-10)


def test_an_odd_window_shifts_by_its_half_rounded_down():
    assert WindowAttention(4, 1, 7, shifted=True).shift == 3


def test_windows_go_back_to_the_map_they_were_made_of():
    x = drawn(2, 6, 8, 3)
    windows = partition(x, (3, 4))
    assert windows.shape == (2, 4, 12, 3)
    assert torch.equal(windows[:, 1], x[:, :3, 4:].flatten(1, 2))
    assert torch.equal(reverse(windows, (6, 8), (3, 4)), x)


def test_merging_takes_the_four_pixels_column_by_column():
    merging = PatchMerging(2)
    seen = []
    merging.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = drawn(1, 4, 6, 2).float()
    assert merging(x).shape == (1, 2, 3, 4)
    pixels = [x[:, 0, 2], x[:, 1, 2], x[:, 0, 3], x[:, 1, 3]]
    assert torch.equal(seen[0][:, 0, 1], torch.cat(pixels, -1))


def test_merging_a_map_of_odd_length_adds_zeros_below_and_on_the_right():
    merging = PatchMerging(2)
    x = drawn(1, 3, 5, 2).float()
    whole = torch.nn.functional.pad(x, (0, 0, 0, 1, 0, 1))
    assert torch.equal(merging(x), merging(whole))


def test_a_block_adds_both_branches_to_its_input():
    torch.manual_seed(2)
    block = SwinBlock(8, 2, 4, shifted=True)
    x = drawn(1, 8, 8, 8).float()
    after = x + block.attn(block.norm1(x))
    torch.testing.assert_close(block(x), after + block.mlp(block.norm2(after)))


def test_every_second_block_of_a_stage_is_shifted_and_rates_rise_over_all_stages():
    rates = drop_path_rates((2, 3), 0.2)
    assert rates == [pytest.approx([0, 0.05]), pytest.approx([0.1, 0.15, 0.2])]
    blocks = swin_blocks(8, 2, 4, rates[1])
    assert [block.attn.shift for block in blocks] == [0, 2, 0]
    assert [block.drop_path.rate for block in blocks] == rates[1]


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(3)
    drop = DropPath(0.25).train()
    kept = drop(torch.ones(4000, 3))
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(kept[:, 0], kept[:, 2])
    assert kept.mean().item() == pytest.approx(1, abs=0.04)
    assert torch.equal(drop.eval()(kept), kept)


def test_linear_layers_start_as_published():
    torch.manual_seed(4)
    block = SwinBlock(64, 2, 4).apply(initialise)
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert block.attn.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.2)
    assert block.attn.qkv.bias.abs().max() == 0


def test_under_bfloat16_the_block_stays_close():
    torch.manual_seed(5)
    block = SwinBlock(16, 2, 4, shifted=True)
    x = drawn(1, 8, 8, 16).float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = block(x)
    with torch.no_grad():
        assert (half.float() - block(x)).abs().mean() < 0.02 * x.std()


def test_a_block_is_plain_and_four_times_as_wide_inside_unless_told():
    plain, told = SwinBlock(8, 2, 4), SwinBlock(8, 2, 4, shifted=True, mlp_ratio=2.5, qkv_bias=False, drop_path=0.1)
    assert [(b.mlp.fc1.out_features, b.attn.shift, b.attn.qkv.bias is None) for b in (plain, told)] == [
        (32, 0, False),
        (20, 2, True),
    ]
    assert (plain.drop_path.rate, told.drop_path.rate) == (0.0, 0.1)
    (stage,) = swin_blocks(8, 2, 4, [0.0])
    assert (stage.mlp.fc1.out_features, stage.attn.qkv.bias is None) == (32, False)
    (stage,) = swin_blocks(8, 2, 4, [0.0], mlp_ratio=2.0, qkv_bias=False)
    assert (stage.mlp.fc1.out_features, stage.attn.qkv.bias is None) == (16, True)
    assert WindowAttention(8, 2, 4).shift == 0
    assert WindowAttention(8, 2, 4).qkv.bias is not None


def test_the_rate_of_a_single_block_is_nothing():
    assert drop_path_rates((1,), 0.3) == [[0.0]]
    assert drop_path_rates((1, 1), 0.3) == [[0.0], [0.3]]


def test_a_branch_that_is_never_dropped_is_returned_itself():
    x = drawn(1, 2)
    assert DropPath(0.0).train()(x) is x
    assert DropPath(0.5).eval()(x) is x


def test_a_stage_merges_only_where_a_coarser_one_follows():
    x = drawn(1, 4, 4, 8).float()
    blocks = swin_blocks(8, 2, 4, [0.0])
    assert torch.equal(SwinStage(blocks)(x), blocks(x))
    merged = SwinStage(blocks, 8)
    assert torch.equal(merged(x), merged.downsample(blocks(x)))


def test_an_embedding_is_a_norm_of_each_patchs_projection():
    embedding = PatchEmbedding(3, 8, 4)
    x = drawn(2, 3, 8, 12).float()
    tokens = embedding(x)
    assert tokens.shape == (2, 2, 3, 8)
    patch = torch.einsum("bcyx,wcyx->bw", x[:, :, 4:8, 8:12], embedding.proj.weight) + embedding.proj.bias
    torch.testing.assert_close(tokens[:, 1, 2], embedding.norm(patch), rtol=1e-4, atol=1e-5)


def test_initialising_leaves_layers_without_a_bias_and_other_layers_alone():
    torch.manual_seed(0)
    linear, norm = torch.nn.Linear(50, 50, bias=False), torch.nn.LayerNorm(4)
    initialise(linear)
    initialise(norm)
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert norm.weight.tolist() == [1, 1, 1, 1]
