"""A site's part in a federation: what it is asked, what it allows, what it does and what it replies."""
