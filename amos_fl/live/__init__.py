"""Views of work in progress: what there is to see, on a terminal or as one page served to this machine alone."""
