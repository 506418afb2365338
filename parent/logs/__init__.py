"""What enclaves log, taken over vsock and given to the journal, a file or the daemon's own log."""
