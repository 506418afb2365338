"""The proxy: which clients may reach which targets, the daemon that serves them, its command.

Top room of the ground floor: it stands on `net`, `service` and `relay`.
"""
