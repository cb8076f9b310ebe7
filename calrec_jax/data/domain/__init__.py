"""A domain: sorted, de-duplicated, filtered and split purchases."""
