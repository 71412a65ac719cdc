import numpy as np
import pytest
from boards import unpacked
from matplotlib.colors import to_rgb
from scipy.ndimage import gaussian_filter

from vaelib import InputError, pictures
from vaelib.pictures import solids
from vaelib.pictures.style import METHODS, VERMILLION, YELLOW, png

SPACING, RADIUS = (3.0, 1.5, 1.2), 20.0  # mm: no two alike, so that no mix-up goes unseen


def ball(soft=True, at=(0, 0, 0)):
    """A ball of 20 mm in a volume of (23, 33, 41) voxels; its middle is `at` mm from the middle one."""
    axes = [(np.arange(n) - n // 2) * d - a for n, d, a in zip((23, 33, 41), SPACING, at, strict=True)]
    r = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    return 1 / (1 + np.exp((r - RADIUS) / 2)) if soft else r <= RADIUS


@pytest.mark.parametrize("soft", [True, False])
def test_area_and_volume_of_a_ball(soft):
    found = pictures.mesh(ball(soft), 0.5, SPACING)
    assert pictures.area(found) == pytest.approx(4 * np.pi * RADIUS**2 / 100, rel=0.02)
    assert pictures.volume(found) == pytest.approx(4 / 3 * np.pi * RADIUS**3 / 1000, rel=0.02)  # and not negative


def test_vertices_are_in_millimetres_left_back_and_up():
    found = pictures.mesh(ball(at=(9, 3, -2)), 0.5, SPACING, origin=(-100, 50, 7))
    middle = np.array([20 * 1.2 - 2 - 100, 16 * 1.5 + 3 + 50, 11 * 3 + 9 + 7])  # x, y, z from (slice, row, column)
    np.testing.assert_allclose(solids.bounds([found]).mean(0), middle, atol=0.6)
    np.testing.assert_allclose(np.ptp(solids.bounds([found]), axis=0), 2 * RADIUS, atol=2)


def test_faces_look_outward_and_the_surface_is_closed():
    found = pictures.mesh(ball(at=(1, 0.7, 0.4)), 0.5, SPACING)
    a, b, c = found.vertices[found.faces].transpose(1, 0, 2)
    outward = (a + b + c) / 3 - found.vertices.mean(0)
    assert (np.einsum("ij,ij->i", np.cross(b - a, c - a), outward) > 0).mean() > 0.99
    assert closed(found)


def closed(found):
    """Whether each edge is that of two faces, which go along it in opposite directions."""
    edges = np.concatenate([found.faces[:, [i, (i + 1) % 3]] for i in range(3)])
    there, back = {*map(tuple, edges)}, {*map(tuple, edges[:, ::-1])}
    return len(there) == len(edges) and there == back


def test_what_lies_at_the_border_is_closed_there():
    block = np.zeros((10, 30, 30))
    block[:4, :20, 5:25] = 1  # 9 to 12 mm high, at the lower end of the volume
    found = pictures.mesh(block, 0.5, SPACING, smooth=1)
    assert closed(found) and pictures.volume(found) > 4


GRIDS = [(1, 1, 1), (0.8, 0.8, 0.8), (5, 1, 1), (1, 5, 5), SPACING]


@pytest.mark.parametrize("spacing", GRIDS)
def test_area_and_volume_of_random_masks_are_those_of_their_definitions_and_of_the_voxels(spacing):
    """Blobs that touch the borders. Triangle by triangle: Heron's area, and the prism down to the plane z = 0."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((14, 40, 40)), (1.5, 4, 4))
    for share in (0.05, 0.6):
        mask = noise > np.quantile(noise, 1 - share)
        found = pictures.mesh(mask, 0.5, spacing)
        assert closed(found)
        area = volume = 0
        for a, b, c in found.vertices[found.faces]:
            p, q, r = np.linalg.norm(a - b), np.linalg.norm(b - c), np.linalg.norm(c - a)
            s = (p + q + r) / 2
            area += max(s * (s - p) * (s - q) * (s - r), 0) ** 0.5
            flat = ((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])) / 2
            volume += flat * (a[2] + b[2] + c[2]) / 3
        assert pictures.area(found) == pytest.approx(area / 100, rel=1e-3)
        assert pictures.volume(found) == pytest.approx(volume / 1000, rel=1e-6)
        assert pictures.volume(found) == pytest.approx(mask.sum() * np.prod(spacing) / 1000, rel=0.13)


LONE, EVERY = np.zeros((5, 9, 7), bool), np.ones((5, 9, 7), bool)
LONE[2, 4, 3] = True
CORNERS = np.zeros((5, 9, 7), bool)
CORNERS[::4, ::8, ::6] = True
DEGENERATE = {
    "one voxel": LONE, "all": EVERY, "corners": CORNERS, "a slice": EVERY & (np.arange(5) == 2)[:, None, None],
    "a volume of a slice": EVERY[:1], "a volume of a row": EVERY[:1, :1], "a volume of a voxel": EVERY[:1, :1, :1],
    "all but one": EVERY & ~LONE,
}  # fmt: skip


@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_masks_have_a_closed_surface_in_their_place(name, spacing):
    mask = DEGENERATE[name]
    found = pictures.mesh(mask, 0.5, spacing)
    assert closed(found)
    assert 0 < 1000 * pictures.volume(found) < 1.2 * mask.sum() * np.prod(spacing)  # what is thin is smoothed away
    inside = np.argwhere(mask)[:, ::-1] * spacing[::-1]
    assert np.abs(solids.bounds([found]) - [inside.min(0), inside.max(0)]).max() < max(2.5, *spacing)


def test_what_is_not_finite_is_refused():
    values = ball()
    values[3, 4, 5] = np.nan
    with pytest.raises(InputError, match="mesh: NaN or Inf in slices 3 "):
        pictures.mesh(values, 0.5, SPACING)


def test_nothing_above_the_threshold_is_refused():
    with pytest.raises(InputError, match=r"no voxel reaches 0.9, the highest is 0.5: .* lower the threshold"):
        pictures.mesh(np.full((4, 4, 4), 0.5), 0.9, SPACING)
    with pytest.raises(InputError, match=r"found the shape \(4, 4\); pass a volume"):
        pictures.mesh(np.ones((4, 4)), 0.5, SPACING)


def test_the_figure_has_a_view_in_each_cell_and_is_the_same_twice():
    meshes = {"truth": pictures.mesh(ball(), 0.5, SPACING), "2D": pictures.mesh(ball(at=(0, 5, 0)), 0.5, SPACING)}
    fig = pictures.surfaces(meshes)
    assert len(fig.axes) == 8
    assert all(ax.get_box_aspect() is not None and ax.get_proj() is not None for ax in fig.axes)
    assert png(fig) == png(pictures.surfaces(meshes))


def test_the_truth_a_prediction_and_a_method_have_one_colour_in_every_figure():
    wanted = {"truth": YELLOW, "2D": VERMILLION, "spatial, three slices": METHODS["spatial"], "3D": VERMILLION}
    assert [solids.tint(row, name) for row, name in enumerate(wanted)] == list(wanted.values())
    assert solids.tint(1, "3D") == solids.tint(3, "3D") and solids.tint(0, "spatial VAE") == YELLOW
    body = pictures.mesh(ball(), 0.5, SPACING)
    for name in ("2D", "spatial"):  # in the figure and on the turntable, where the light is full
        pair = {"truth": body, name: body}
        for fig in (pictures.surfaces(pair), pictures.turntable(pair).fig):
            last = next(a for a in fig.axes[-1].get_children() if isinstance(a, solids.Triangles))
            brightest = last.colours[last.colours.sum(1).argmax()]
            np.testing.assert_allclose(brightest, to_rgb(solids.tint(1, name)), atol=0.02)


@pytest.mark.parametrize(("view", "hidden"), [((-90, 0), "AP"), ((0, 0), "LR"), ((-90, -90), "IS"), ((-45, 20), "")])
def test_letters_that_point_at_the_viewer_are_hidden(view, hidden):
    fig = pictures.surfaces({"a": pictures.mesh(ball(), 0.5, SPACING)}, {"this": view})
    texts = {t.get_text(): t.get_visible() for t in fig.axes[0].texts}
    assert set(texts) == set("RLAPIS")
    assert {k for k, shown in texts.items() if not shown} == set(hidden)


def test_seen_from_the_front_the_left_of_the_patient_is_at_the_right():
    from mpl_toolkits.mplot3d.proj3d import proj_transform

    fig = pictures.surfaces({"a": pictures.mesh(ball(), 0.5, SPACING)}, {"front": (-90, 0), "below": (-90, -90)})
    front, below = (
        {t.get_text(): proj_transform(*t.get_position_3d(), ax.get_proj())[:2] for t in ax.texts} for ax in fig.axes
    )
    assert front["L"][0] > front["R"][0] and front["S"][1] > front["I"][1]
    assert below["L"][0] > below["R"][0] and below["A"][1] > below["P"][1]  # as a slice is shown


def test_the_turntable_carries_its_meshes_in_mm_and_their_colours():
    body = pictures.mesh(ball(), 0.5, SPACING)
    content = pictures.turntable({"truth": body, "2D": body}).content
    assert [mesh["colour"] for mesh in content["meshes"].values()] == [YELLOW, VERMILLION]
    sent = unpacked(content["meshes"]["2D"]["vertices"]).reshape(-1, 3)
    np.testing.assert_allclose(sent, body.vertices, atol=1e-4)
    np.testing.assert_allclose(content["limits"], solids.bounds([body]))
