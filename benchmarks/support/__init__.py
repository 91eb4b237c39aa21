"""What benchmarks and tests share: cameras, a broker, browsers, small models and data, and waiting."""
