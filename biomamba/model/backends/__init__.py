"""Implementations of the SSD scan behind the contract of biomamba.model.ssd."""
