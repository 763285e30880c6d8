"""Lightning modules and callbacks around the plain parts."""
