"""The log sink: lines of enclaves over vsock, to the journal, a file or the daemon's own log."""
