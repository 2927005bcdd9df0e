"""What jobguard costs, beside doing without and beside other libraries: `python -m benchmarks`."""
