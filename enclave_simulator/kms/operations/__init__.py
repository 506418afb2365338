"""KMS's operations: a class for each group, a method for each operation.

A method takes a call and returns the response's JSON, or None for an empty body. Authorization
comes first, through `KeyStore`; the order of the other checks is KMS's where it is known.
"""
