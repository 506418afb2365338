"""Where AWS gives out credentials to pods, tasks and instances, simulated: HTTP on a socket."""
