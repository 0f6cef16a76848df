"""C2SP tlog-checkpoint and tlog-proof."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.errors import BadLedger, BadProof, BadSignature
from audit_middleware.tlog import merkle
from audit_middleware.tlog.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from audit_middleware.tlog.note import Signer, sign
from audit_middleware.tlog.proof import Proof, open_proof

SIGNER = Signer("log.example/default/2026h2", bytes(range(32)))
ROOT = base64.b64encode(bytes(32)).decode()
LEAVES = [merkle.leaf_hash(b"%d" % number) for number in range(11)]
CHECKPOINT = Checkpoint(SIGNER.name, 11, merkle.root_of(LEAVES))
NOTE = sign_checkpoint(CHECKPOINT, SIGNER)

hashes = st.binary(min_size=32, max_size=32)


def proof_of(index, extra=None):
    path = merkle.inclusion_proof(index, 11, lambda level, at: merkle.root_of(LEAVES[at << level : at + 1 << level]))
    return Proof(index, tuple(path), NOTE, extra)


@given(st.integers(0, 2**63 - 1), hashes)
def test_every_checkpoint_reads_back(size, root):
    checkpoint = Checkpoint(SIGNER.name, size, root)
    assert Checkpoint.parse(checkpoint.encode()) == checkpoint


def test_the_checkpoint_of_the_specification_reads():
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    assert Checkpoint.parse(text).size == 20852163
    assert Checkpoint.parse(text).encode() == text


def test_extension_lines_are_tolerated_and_dropped():
    assert Checkpoint.parse(f"o\n1\n{ROOT}\nextension\nanother\n") == Checkpoint("o", 1, bytes(32))


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "o\n", "o\n1\n", f"o\n1\n{ROOT}", f"\n1\n{ROOT}\n", f"o\n01\n{ROOT}\n", f"o\n-1\n{ROOT}\n",
        f"o\n+1\n{ROOT}\n", f"o\n1 \n{ROOT}\n", f"o\n١\n{ROOT}\n", f"o\n\n{ROOT}\n", f"o\n1\n{ROOT[:-1]}\n",
        f"o\n1\n{ROOT}\n\n", f"o\n1\n{ROOT}\n\nextension\n", f"o\n1\n{ROOT} \n", "o\n1\nAAAA\n",
        f"o\n{2**63}\n{ROOT}\n", "o\n" + "9" * 5000 + f"\n{ROOT}\n", f"o\n1\n{ROOT[:-2]}B=\n", f"o\n1_0\n{ROOT}\n",
    ],
)  # fmt: skip
def test_another_spelling_of_a_checkpoint_is_refused(text):
    with pytest.raises(BadLedger):
        Checkpoint.parse(text)


@given(st.text())
def test_any_text_is_refused_with_our_error(text):
    try:
        Checkpoint.parse(text)
    except BadLedger:
        return


def test_a_signed_checkpoint_opens_with_the_log_s_key():
    assert open_checkpoint(NOTE, SIGNER.verifier) == CHECKPOINT


def test_a_checkpoint_of_another_log_is_refused_though_the_key_signed_it():
    other = sign(Checkpoint("other.example", 1, bytes(32)).encode(), SIGNER)
    with pytest.raises(BadSignature, match=r"other\.example"):
        open_checkpoint(other, SIGNER.verifier)
    with pytest.raises(BadSignature, match=r"other\.example"):
        sign_checkpoint(Checkpoint("other.example", 1, bytes(32)), SIGNER)


def test_a_signed_text_that_is_no_checkpoint_is_refused():
    with pytest.raises(BadLedger):
        open_checkpoint(sign(f"{SIGNER.name}\n", SIGNER), SIGNER.verifier)


@pytest.mark.parametrize("index", range(11))
def test_a_proof_reads_back_and_leads_to_its_checkpoint(index):
    proof = proof_of(index, extra=b"context")
    assert Proof.parse(proof.encode()) == proof
    assert open_proof(proof, LEAVES[index], SIGNER.verifier) == CHECKPOINT


def test_a_proof_of_another_leaf_or_by_another_key_is_refused():
    with pytest.raises(BadProof):
        open_proof(proof_of(3), LEAVES[4], SIGNER.verifier)
    with pytest.raises(BadSignature):
        open_proof(proof_of(3), LEAVES[3], Signer(SIGNER.name, bytes(32)).verifier)


@given(st.integers(0, 2**63 - 1), st.lists(hashes, max_size=63), st.none() | st.binary(min_size=1, max_size=99))
def test_every_proof_reads_back(index, path, extra):
    proof = Proof(index, tuple(path), NOTE, extra)
    assert Proof.parse(proof.encode()) == proof


HEAD = b"c2sp.org/tlog-proof@v1\n"
HASH = ROOT.encode() + b"\n"


@pytest.mark.parametrize(
    "text",
    [
        b"", HEAD, HEAD + b"index 1\n", HEAD + b"\n" + NOTE, b"index 1\n\n" + NOTE, HEAD + b"index 01\n\n" + NOTE,
        HEAD + b"index\n\n" + NOTE, HEAD + b"index 1 \n\n" + NOTE, HEAD + b"extra \nindex 1\n\n" + NOTE,
        HEAD + b"extra ?\nindex 1\n\n" + NOTE, HEAD + b"index 1\nextra AA==\n\n" + NOTE,
        HEAD + b"index 1\n" + HASH[:-2] + b"\n\n" + NOTE, HEAD + b"index 1\n" + HASH * 64 + b"\n" + NOTE,
        HEAD + b"extra AA==\n\n" + NOTE, HEAD + b"index \xff\n\n" + NOTE, HEAD.replace(b"1", b"2") + b"index 1\n\n" + NOTE,
        HEAD + b"index 1\n\n" + b"x" * 2**20,
    ],
)  # fmt: skip
def test_a_malformed_proof_is_refused(text):
    with pytest.raises(BadProof):
        Proof.parse(text)


@given(st.binary() | st.binary().map(lambda tail: HEAD + b"index 1\n" + tail))
def test_any_bytes_are_a_proof_or_our_error(data):
    try:
        assert Proof.parse(data).encode() == data
    except BadProof:
        return
