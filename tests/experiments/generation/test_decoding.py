"""Which way is taken; that each makes the video is tested by test_generate.py and test_hosts.py."""

import types

import pytest

from experiments.generation import decoding
from experiments.generation.decoding import Decoding, choose_decoding
from models.pipelines import Clip
from models.tiling import Tile

TILE = Tile()
PEAKS = {("spread", None): 50, ("alone", None): 30, ("spread", TILE): 20, ("alone", TILE): 10}
MESH = types.SimpleNamespace(size=4)


class Family:
    def tiling(self):
        return TILE

    def untiled(self):
        return None

    def probe(self, clip, tile):
        return (clip, tile)


LARGE = Clip(9, TILE.height, TILE.width + 16)
WHOLE = Tile(frames=16, height=None, width=None)


class AlwaysCut(Family):
    """As HunyuanVideo: without a tile it takes its own, and keeps pictures whole only where that is asked for."""

    def untiled(self):
        return WHOLE

    def probe(self, clip, tile):
        return (clip, tile or TILE)


@pytest.fixture
def tried(monkeypatch):
    tried = []

    def way(kind):
        def plan(family, clip, weights, mesh, tile):
            tried.append((kind, tile))
            return Decoding(family, clip, mesh, tile, PEAKS.get((kind, tile), 40))

        return plan

    monkeypatch.setattr(decoding, "_alone", way("alone"))
    monkeypatch.setattr(decoding, "_spread", way("spread"))
    return tried


@pytest.mark.parametrize(
    ("mesh", "tile", "limit", "expected"),
    [
        (MESH, "auto", None, [("spread", None)]),
        (MESH, "auto", 100, [("spread", None)]),
        (MESH, "auto", 40, [("spread", None), ("alone", None)]),  # rather than another picture
        (MESH, "auto", 25, [("spread", None), ("alone", None), ("spread", TILE)]),
        (MESH, "auto", 1, list(PEAKS)),
        (MESH, "off", 1, [("spread", None), ("alone", None)]),
        (MESH, "on", 100, [("spread", TILE)]),
        (None, "auto", 100, [("alone", None)]),
        (None, "auto", 30, [("alone", None), ("alone", TILE)]),
        (types.SimpleNamespace(size=1), "auto", 100, [("alone", None)]),
    ],
)
def test_the_first_way_that_fits_is_taken(tried, mesh, tile, limit, expected):
    found = choose_decoding(Family(), "clip", None, mesh, tile=tile, limit=limit)
    assert tried == expected
    assert found.tile == expected[-1][1]


def test_what_is_always_cut_is_planned_once(tried):
    assert choose_decoding(AlwaysCut(), LARGE, None, None, tile="auto", limit=1).tiled
    assert tried == [("alone", TILE)]


def test_off_keeps_pictures_whole_in_what_is_always_cut_in_time(tried):
    found = choose_decoding(AlwaysCut(), LARGE, None, None, tile="off", limit=1)
    assert tried == [("alone", WHOLE)]
    assert not found.tiled


@pytest.mark.usefixtures("tried")
def test_pictures_no_larger_than_a_tile_are_not_cut():
    small = Clip(9, TILE.height, TILE.width)
    assert not choose_decoding(AlwaysCut(), small, None, None, tile="on", limit=1).tiled
