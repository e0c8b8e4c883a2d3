"""Run a site of a deployment: its command, its processes, and the apps allowed in them."""
