"""A site's part in a federation: requests, policy, work and replies."""
