"""The demo behind `python examples/arq_worker.py`: bad services, a killed worker, and the accounts."""
