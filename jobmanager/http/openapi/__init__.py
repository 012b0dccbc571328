"""The API's documentation: the OpenAPI specification, its responses and its examples."""
