"""The life of enclaves on this instance, through nitro-cli: started, watched, restarted, ended."""
