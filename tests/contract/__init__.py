"""The API held against its OpenAPI document: `make contract`."""
