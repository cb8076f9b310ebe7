"""What measures speed; each benchmark writes one line of JSON."""
