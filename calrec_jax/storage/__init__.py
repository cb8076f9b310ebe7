"""Files that appear whole, resumable blocks, build locks, lineage."""
