"""Programs that pytest does not collect: benchmarks, guests, storms. `make help` lists them."""
