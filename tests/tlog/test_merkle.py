"""RFC 6962 and RFC 9162 section 2.1, against an independent recursion written from the definitions."""

from __future__ import annotations

from hashlib import sha256

import pytest

from audit_middleware.errors import BadProof
from audit_middleware.tlog import merkle
from audit_middleware.tlog.merkle import Frontier, verify_consistency, verify_inclusion

SIZES = range(65)
LEAVES = [merkle.leaf_hash(b"entry %d" % number) for number in range(70)]

# the eight inputs of the certificate-transparency reference tests and their roots at sizes 1 to 8
KNOWN_ENTRIES = [
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
]  # fmt: skip
KNOWN_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(leaves):
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def naive_path(index, leaves):
    if len(leaves) == 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return [*naive_path(index, leaves[:split]), naive_root(leaves[split:])]
    return [*naive_path(index - split, leaves[split:]), naive_root(leaves[:split])]


def naive_subproof(old, leaves, whole):
    if old == len(leaves):
        return [] if whole else [naive_root(leaves)]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if old <= split:
        return [*naive_subproof(old, leaves[:split], whole), naive_root(leaves[split:])]
    return [*naive_subproof(old - split, leaves[split:], False), naive_root(leaves[:split])]


def read_node(level, index):
    nodes = LEAVES[index << level : (index + 1) << level]
    assert len(nodes) == 1 << level, "only complete subtrees may be asked for"
    return naive_root(nodes)


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_of_the_reference_log_are_reached(size):
    leaves = [merkle.leaf_hash(bytes.fromhex(entry)) for entry in KNOWN_ENTRIES[:size]]
    assert merkle.root_of(leaves).hex() == KNOWN_ROOTS[size - 1]


def test_the_empty_tree_has_the_hash_of_nothing_as_root():
    assert merkle.EMPTY_ROOT == merkle.root_of([]) == merkle.tree_root(0, read_node) == naive_root([])


@pytest.mark.parametrize("size", SIZES)
def test_roots_agree_with_the_definition(size):
    expected = naive_root(LEAVES[:size])
    assert merkle.root_of(LEAVES[:size]) == merkle.tree_root(size, read_node) == expected


@pytest.mark.parametrize("size", SIZES)
def test_every_inclusion_proof_is_the_defined_path_and_verifies(size):
    root = naive_root(LEAVES[:size])
    for index in range(size):
        proof = merkle.inclusion_proof(index, size, read_node)
        assert proof == naive_path(index, LEAVES[:size])
        verify_inclusion(LEAVES[index], index, size, proof, root)


@pytest.mark.parametrize("size", range(1, 65))
def test_no_damaged_inclusion_proof_verifies(size):
    root = naive_root(LEAVES[:size])
    for index in range(size):
        proof = merkle.inclusion_proof(index, size, read_node)
        for attempt in damaged_inclusions(index, size, proof):
            with pytest.raises(BadProof):
                verify_inclusion(*attempt, root)


def damaged_inclusions(index, size, proof):
    leaf = LEAVES[index]
    yield LEAVES[index + 1], index, size, proof
    yield leaf, index, size, [*proof, LEAVES[0]]
    yield leaf, size, size, proof
    yield leaf, -1, size, proof
    if size > 1:
        yield leaf, (index + 1) % size, size, proof
        yield leaf, index, size, proof[:-1]
        yield leaf, index, size, proof[1:]
        yield leaf, index, size, [*proof[:-1], proof[-1][:-1]]
        yield leaf, index, size, [merkle.leaf_hash(b"other"), *proof[1:]]
    if len(proof) > 1:
        yield leaf, index, size, proof[::-1]


@pytest.mark.parametrize("new", SIZES)
def test_every_consistency_proof_is_the_defined_one_and_verifies(new):
    for old in range(new + 1):
        proof = merkle.consistency_proof(old, new, read_node)
        assert proof == (naive_subproof(old, LEAVES[:new], True) if old else [])
        verify_consistency(old, naive_root(LEAVES[:old]), new, naive_root(LEAVES[:new]), proof)


@pytest.mark.parametrize("new", range(2, 65))
def test_no_damaged_consistency_proof_verifies(new):
    for old in range(1, new):
        roots = naive_root(LEAVES[:old]), naive_root(LEAVES[:new])
        proof = merkle.consistency_proof(old, new, read_node)
        for attempt in damaged_consistencies(old, new, proof, *roots):
            with pytest.raises(BadProof):
                verify_consistency(*attempt)


def damaged_consistencies(old, new, proof, old_root, new_root):
    other = merkle.leaf_hash(b"other")
    yield old, other, new, new_root, proof
    yield old, old_root, new, other, proof
    yield old, new_root, new, old_root, proof
    yield old, old_root, new, new_root, [*proof, other]
    yield old, old_root, new, new_root, proof[:-1]
    yield old, old_root, new, new_root, proof[1:]
    yield old, old_root, new, new_root, [other, *proof[1:]]
    yield old, old_root, new, new_root, [proof[0][:-1], *proof[1:]]
    yield new, new_root, old, old_root, proof
    yield old, old_root, old, new_root, []
    yield -1, old_root, new, new_root, proof
    if len(proof) > 1:
        yield old, old_root, new, new_root, proof[::-1]


def test_an_empty_tree_is_continued_by_every_tree_and_only_with_an_empty_proof():
    verify_consistency(0, merkle.EMPTY_ROOT, 5, naive_root(LEAVES[:5]), [])
    with pytest.raises(BadProof):
        verify_consistency(0, merkle.EMPTY_ROOT, 5, naive_root(LEAVES[:5]), [LEAVES[0]])
    with pytest.raises(BadProof):
        verify_consistency(0, LEAVES[0], 5, naive_root(LEAVES[:5]), [])


def test_a_proof_of_what_is_not_in_the_tree_is_refused():
    with pytest.raises(BadProof, match="outside"):
        merkle.inclusion_proof(3, 3, read_node)
    with pytest.raises(BadProof, match="does not continue"):
        merkle.consistency_proof(4, 3, read_node)


@pytest.mark.parametrize("old", SIZES)
def test_a_frontier_extended_in_one_step_equals_one_grown_leaf_by_leaf(old):
    grown, extended = Frontier(), Frontier()
    for leaf in LEAVES:
        grown.append(leaf)
    extended.extend(LEAVES[:old])
    assert extended.root() == naive_root(LEAVES[:old])
    extended.extend(LEAVES[old:])
    assert (extended.size, extended.hashes) == (grown.size, grown.hashes)
    assert extended.root() == naive_root(LEAVES)


@pytest.mark.parametrize("old", SIZES)
def test_extending_returns_exactly_the_nodes_it_completed(old):
    frontier = Frontier()
    frontier.extend(LEAVES[:old])
    for level, nodes in enumerate(frontier.extend(LEAVES[old:])):
        span = range(old >> level, len(LEAVES) >> level)
        assert nodes == [read_node(level, index) for index in span]


@pytest.mark.parametrize("size", SIZES)
def test_a_frontier_comes_back_from_its_hashes_and_from_the_stored_tree(size):
    frontier = Frontier()
    frontier.extend(LEAVES[:size])
    for again in (Frontier.restore(size, frontier.hashes), Frontier.read(size, read_node), frontier.copy()):
        again.extend(LEAVES[size:])
        assert again.root() == naive_root(LEAVES)
    assert frontier.size == size, "a copy is independent"


def test_hashes_that_do_not_fit_the_size_are_no_frontier():
    for size, hashes in ((3, LEAVES[:1]), (0, LEAVES[:1]), (1, [b"short"]), (-1, []), (2**63, LEAVES[:1])):
        with pytest.raises(BadProof):
            Frontier.restore(size, hashes)
