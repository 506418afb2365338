"""Services of the parent instance for its enclaves; tools for images and key policies."""
