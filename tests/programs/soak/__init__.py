"""``make soak``: the whole chain as processes, for minutes, while its parts fail."""
