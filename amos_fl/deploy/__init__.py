"""Prepare a deployment: certificates, keys, folders for its sites, bundles, and checks from a site.

Nothing here starts a process or trains; the SuperLink and the SuperNodes read the files that are made here.
"""
