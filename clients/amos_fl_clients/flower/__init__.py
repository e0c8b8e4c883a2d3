"""Everything that touches Flower beyond its documented interface: what is replaced in it (`parts`) or borrowed.

Nothing else in amos-fl imports more of Flower than what `flwr.app`, `flwr.clientapp`, `flwr.serverapp`,
`flwr.serverapp.strategy` and `flwr.simulation` have in `__all__`. To move to another Flower, read these modules and run
`tests/test_flower_parts.py`.
"""
