"""The C functions as Python ones, bytes in and bytes out. Only these modules know `ffi`."""
