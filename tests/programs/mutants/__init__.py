"""``make mutants``: is each line of the security core held by a test?"""
