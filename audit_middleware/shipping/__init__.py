"""Shipping: reads the journal and delivers it to a collector, from a thread of the application or as a sidecar."""
