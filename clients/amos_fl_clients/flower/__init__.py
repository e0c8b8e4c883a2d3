"""All that touches Flower beside its documented interface: what is replaced in it (`parts`), and what is borrowed.

Nothing else of amos-fl imports more of Flower than `flwr.app`, `flwr.clientapp`, `flwr.serverapp` and
`flwr.simulation`. Who moves to another Flower reads these modules, and runs `tests/test_flower_parts.py`.
"""
