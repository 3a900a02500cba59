"""Clients made from the OpenAPI document, and what lints it: `make clients`, `make contract`."""
