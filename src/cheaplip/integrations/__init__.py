"""Adapters that decide *when*; what happens then is the core's. Each needs the extra of its name."""
