"""C2SP tlog-tiles: geometry, paths, bundles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.errors import BadLedger
from audit_middleware.tlog import merkle, tiles
from audit_middleware.tlog.tiles import ENTRIES, Tile, TileEdge, tile_path

LEAVES = [merkle.leaf_hash(b"%d" % number) for number in range(70_000)]


def levels(size):
    """Return full tiles and partial width per level: (level, full, width)."""
    written = tiles.new_tiles(0, size)
    return [
        (
            level,
            sum(tile.level == level and tile.width == 256 for tile in written),
            next((tile.width for tile in written if tile.level == level and tile.width < 256), 0),
        )
        for level in range(max((tile.level for tile in written), default=-1) + 1)
    ]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, []),
        (1, [(0, 0, 1)]),
        (255, [(0, 0, 255)]),
        (256, [(0, 1, 0), (1, 0, 1)]),
        (257, [(0, 1, 1), (1, 0, 1)]),
        (300, [(0, 1, 44), (1, 0, 1)]),
        (70_000, [(0, 273, 112), (1, 1, 17), (2, 0, 1)]),
    ],
)
def test_geometry_is_the_specification_s(size, expected):
    assert levels(size) == expected


@pytest.mark.parametrize(("old", "new"), [(0, 1), (1, 255), (255, 257), (256, 300), (300, 70_000), (65_535, 65_536)])
def test_a_growth_writes_the_tiles_the_old_tree_did_not_have(old, new):
    before, after = set(tiles.new_tiles(0, old)), set(tiles.new_tiles(0, new))
    assert set(tiles.new_tiles(old, new)) == after - before


def test_a_growth_by_nothing_writes_nothing():
    assert tiles.new_tiles(300, 300) == []


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        ((0, 0, 256), "tile/0/000"),
        ((0, 273, 112), "tile/0/273.p/112"),
        ((2, 1234067, 256), "tile/2/x001/x234/067"),
        ((63, 1000, 1), "tile/63/x001/000.p/1"),
        ((ENTRIES, 999, 256), "tile/entries/999"),
        ((ENTRIES, 1234067, 255), "tile/entries/x001/x234/067.p/255"),
    ],
)
def test_paths_are_the_specification_s(tile, path):
    assert tile_path(*tile) == path
    assert tiles.parse_path(path) == Tile(*tile)


@given(st.integers(-1, 63), st.integers(0, 2**55), st.integers(1, 256))
def test_every_path_reads_back(level, index, width):
    assert tiles.parse_path(tile_path(level, index, width)) == Tile(level, index, width)


@pytest.mark.parametrize(
    "path",
    [
        "tile/64/000", "tile/00/000", "tile/01/000", "tile/-1/000", "tile/0/0", "tile/0/0000", "tile/0/x000/000",
        "tile/0/001/000", "tile/0/x001", "tile/0/x01/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01",
        "tile/0/000.p/", "tile/0/000/", "/tile/0/000", "tile/0/000\n", "tile/0/٠٠٠", "tile/entries/000.p/999",
        "tile/0/../checkpoint", "checkpoint", "", "tile/8/0/000",
    ],
)  # fmt: skip
def test_another_spelling_of_a_path_is_refused(path):
    with pytest.raises(BadLedger):
        tiles.parse_path(path)


@given(st.text() | st.from_regex(r"tile/(entries|\d\d?)/(x\d\d\d/)*\d\d\d(\.p/\d+)?"))
def test_any_text_is_a_canonical_path_or_our_error(path):
    try:
        tile = tiles.parse_path(path)
    except BadLedger:
        return
    assert tile.path == path


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_every_bundle_reads_back(entries):
    assert tiles.decode_bundle(tiles.encode_bundle(entries), len(entries)) == entries


@given(st.binary(max_size=600), st.integers(0, 256))
def test_any_bytes_are_the_one_encoding_of_a_bundle_or_our_error(data, width):
    try:
        entries = tiles.decode_bundle(data, width)
    except BadLedger:
        return
    assert len(entries) == width
    assert tiles.encode_bundle(entries) == data


def test_a_bundle_with_an_entry_too_many_or_too_few_is_refused():
    data = tiles.encode_bundle([b"one", b"two"])
    for width in (1, 3):
        with pytest.raises(BadLedger):
            tiles.decode_bundle(data, width)
    for wrong in (data[:-1], data + b"\x00", data[1:]):
        with pytest.raises(BadLedger):
            tiles.decode_bundle(wrong, 2)


def test_an_entry_of_64_kib_is_refused():
    assert len(tiles.encode_bundle([b"x" * 65_535])) == 65_537
    with pytest.raises(BadLedger):
        tiles.encode_bundle([b"x" * 65_536])


def stored_tiles(*steps):
    """Return the tiles of a log that grew in these steps, and its edge."""
    edge, stored, size = TileEdge(), {}, 0
    for step in steps:
        old, size = size, size + step
        full = edge.extend(LEAVES[old:size])
        grown = [*full, *edge.partials()]
        assert {tile for tile, _ in grown} >= set(tiles.new_tiles(old, size))
        stored.update((tile, data) for tile, data in grown)
    return stored, edge


@pytest.mark.parametrize(
    "steps", [(1,), (255,), (256,), (1, 255, 1), (300,), (200, 200, 200, 200), (70_000,), (65_535, 1, 300)]
)
def test_tiles_lead_to_the_root_and_to_every_node(steps):
    stored, edge = stored_tiles(*steps)
    size = sum(steps)
    read = tiles.tile_nodes(size, lambda *tile: stored[Tile(*tile)])
    assert merkle.tree_root(size, read) == merkle.root_of(LEAVES[:size]) == edge.frontier.root()
    for index in {0, size // 2, size - 1}:
        proof = merkle.inclusion_proof(index, size, read)
        merkle.verify_inclusion(LEAVES[index], index, size, proof, edge.frontier.root())


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 300, 65_535, 65_536, 69_999])
def test_an_edge_read_back_from_tiles_continues_like_the_one_that_wrote_them(size):
    stored, edge = stored_tiles(size)
    again = TileEdge.read(size, lambda *tile: stored[Tile(*tile)])
    more = LEAVES[size:]
    assert again.extend(more) == edge.copy().extend(more)
    assert edge.frontier.size == size, "a copy is independent"


def test_how_a_log_grew_does_not_change_its_tiles():
    at_once, _ = stored_tiles(70_000)
    in_steps, _ = stored_tiles(*[700] * 100)
    assert all(in_steps[tile] == data for tile, data in at_once.items())


def test_a_tile_of_another_length_than_its_width_is_refused():
    read = tiles.tile_nodes(300, lambda *_: b"\x00" * 33)
    with pytest.raises(BadLedger, match=r"tile/1/000\.p/1"):
        merkle.tree_root(300, read)


def test_partial_tiles_of_a_size_are_its_partial_levels_and_its_bundle():
    assert tiles.partial_tiles(256) == {Tile(1, 0, 1)}
    assert tiles.partial_tiles(300) == {Tile(0, 1, 44), Tile(ENTRIES, 1, 44), Tile(1, 0, 1)}
    assert tiles.partial_tiles(0) == set()
    assert tiles.entries_path(1, 44) == "tile/entries/001.p/44"
