"""The routes: each view parses the request, calls the manager once, and renders the answer."""
