"""Root file systems: read from a folder, a tar or a container image, and checked."""
