"""How a deployment is run: the SuperLink, the runs beside it, and those who look after both from elsewhere."""
