"""Simulated enclaves: a Nitro-like authority, NSM, KMS and launcher.

Only tests and people import it; it never enters an image.
"""
