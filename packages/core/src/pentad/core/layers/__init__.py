"""Layers that two domains share: the selective scan and the Mamba block on top of it."""
