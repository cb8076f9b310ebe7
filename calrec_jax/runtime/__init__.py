"""Devices and processes: mesh, placement, compile cache, preemption."""
