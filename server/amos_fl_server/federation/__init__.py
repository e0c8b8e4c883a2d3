"""The server's part in a federation: rounds, strategies, and the engines that carry its messages."""
