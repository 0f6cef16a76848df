"""Transparency-log formats: RFC 6962 and RFC 9162 trees, C2SP tiles, notes, checkpoints and proofs.

Pure: bytes in, bytes or an exception out. Imports nothing of this package but its errors, so that
an auditor can run it with the standard library and `cryptography` alone.
"""
