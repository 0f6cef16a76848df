"""The worker of the example services."""
