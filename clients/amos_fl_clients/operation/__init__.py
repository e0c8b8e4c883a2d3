"""How a site of a deployment is run: its command, its processes, and which app may run in them."""
