"""The C functions as Python functions, bytes in and bytes out. Only these modules know `ffi`."""
