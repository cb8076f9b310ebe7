"""The feed: a batch of packed rows as a function of the step."""
