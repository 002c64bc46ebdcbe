import pytest
import torch

from pentad.core.errors import UsageError
from pentad.core.layers.cross_scan import cross_selective_scan

NAMES = ("x", "projection", "step", "step_bias", "A", "D")


def parameters(size=(3, 5), channels=4, states=2, batch=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    rank = 2
    made = [normal(batch, channels, *size), normal(4, rank + 2 * states, channels), normal(4, channels, rank)]
    return [*made, normal(4, channels) - 1, -normal(4 * channels, states).exp(), normal(4 * channels)]


def pixel_by_pixel(x, projection, step, step_bias, A, D):
    """The published definition: four lists of pixels, a state that visits them, the results added where they belong."""
    batch, channels, height, width = x.shape
    states, rank = A.shape[1], step.shape[2]
    rows = [(i, j) for i in range(height) for j in range(width)]
    columns = [(i, j) for j in range(width) for i in range(height)]
    total = {place: torch.zeros(batch, channels, dtype=x.dtype) for place in rows}
    for k, route in enumerate((rows, columns, rows[::-1], columns[::-1])):
        own = slice(k * channels, (k + 1) * channels)
        h = torch.zeros(batch, channels, states, dtype=x.dtype)
        for i, j in route:
            u = x[:, :, i, j]
            dt, B, C = (u @ projection[k].T).split([rank, states, states], dim=1)
            d = torch.nn.functional.softplus(dt @ step[k].T + step_bias[k])
            h = torch.exp(d[:, :, None] * A[own]) * h + (d * u)[:, :, None] * B[:, None, :]
            total[i, j] = total[i, j] + (h * C[:, None, :]).sum(2) + D[own] * u
    return torch.stack([total[place] for place in rows], dim=2).view_as(x)


@pytest.mark.parametrize("states", [1, 16])
@pytest.mark.parametrize("size", [(3, 5), (6, 4), (1, 7), (7, 1), (1, 1)])
def test_routes_equal_a_walk_pixel_by_pixel_with_their_gradients(size, states):
    made = [x.requires_grad_() for x in parameters(size, states=states)]
    found, wanted = cross_selective_scan(*made), pixel_by_pixel(*made)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    gradients = [torch.autograd.grad((out * weights).sum(), made) for out in (found, wanted)]
    for name, ours, theirs in zip(NAMES, *gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_strides_of_the_image_do_not_matter():
    x, *rest = parameters((6, 10), channels=20)
    for other in (x.to(memory_format=torch.channels_last), x.repeat_interleave(2, dim=3)[..., ::2]):
        assert other.stride() != x.stride()
        torch.testing.assert_close(
            cross_selective_scan(other, *rest), cross_selective_scan(x, *rest), rtol=1e-12, atol=1e-12
        )


def test_turning_the_image_and_its_routes_turns_the_result():
    x, *rest = parameters((4, 6))
    swapped = [torch.cat([p[half:], p[:half]]) for p in rest for half in [len(p) // 2]]
    found = cross_selective_scan(x.flip(2, 3), *swapped).flip(2, 3)
    torch.testing.assert_close(found, cross_selective_scan(x, *rest), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_gradients_pass_gradcheck(backend):
    made = [x.requires_grad_() for x in parameters((2, 3), channels=2, states=1, batch=1)]
    assert torch.autograd.gradcheck(lambda *x: cross_selective_scan(*x, backend=backend), made)


def test_half_precision_images_give_images_of_their_precision():
    made = parameters((5, 4), dtype=torch.float32)
    half = [x.bfloat16() for x in made]
    found = cross_selective_scan(*half)
    assert found.dtype == torch.bfloat16
    wanted = cross_selective_scan(*(x.float() for x in half))
    torch.testing.assert_close(found.float(), wanted, rtol=0.05, atol=0.2)


def test_compiling_and_exporting_keep_the_scans_whole():
    class Scan(torch.nn.Module):
        def forward(self, *inputs):
            return cross_selective_scan(*inputs)

    made = tuple(parameters())
    wanted = cross_selective_scan(*made)
    exported = torch.export.export(Scan(), made)
    for function in (torch.compile(Scan(), backend="aot_eager", fullgraph=True), exported.module()):
        torch.testing.assert_close(function(*made), wanted, rtol=1e-12, atol=1e-12)
    targets = [str(node.target) for node in exported.graph.nodes]
    assert sum("pentad.selective_scan" in target for target in targets) == 4
    assert not any("flip" in target for target in targets)  # the routes back walk the image as it lies


@pytest.mark.parametrize(
    ("index", "shape", "match"),
    [
        (0, (2, 4, 15), "PTD-430.*x "),
        (1, (4, 5, 4), r"PTD-430.*projection of.*\(4, 5, 4\); give \(4, 6, 4\)"),
        (4, (12, 2), "PTD-430.*A of"),
        (5, (4, 4), "PTD-430.*D of"),
    ],
)
def test_wrong_shapes_are_named(index, shape, match):
    made = parameters()
    made[index] = torch.zeros(shape)
    with pytest.raises(UsageError, match=match):
        cross_selective_scan(*made)
