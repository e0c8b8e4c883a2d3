"""Everything that touches Flower beyond its documented interface: what is replaced in it (`parts`) or borrowed.

Nothing else in amos-fl imports more of Flower than `flwr.app`, `flwr.clientapp`, `flwr.serverapp` and
`flwr.simulation`. To move to another Flower, read these modules and run `tests/test_flower_parts.py`.
"""
