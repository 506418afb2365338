"""Secrets that a program in the enclave is given when it starts (docs/secrets.md).

From the inside outwards: `values` decrypts one value of a SOPS file, `documents` reads the formats
of such files, `metadata` their keys and rules, `sops` opens a whole file and checks its MAC;
`sealed` distinguishes the formats, `opening` calls KMS, `delivery` gives the program what it gets.
"""
