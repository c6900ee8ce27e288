"""Memory, FLOPs and communication of a recipe on devices that need not be present."""
