"""What travels: two modules that name the apps of the installed packages."""
