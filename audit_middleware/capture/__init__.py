"""Capture: protocol adapters that translate, and the exchange they all fill."""
