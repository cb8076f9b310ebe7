"""Generate and ground: sampled texts matched to the catalogue."""
