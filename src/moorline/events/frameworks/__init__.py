"""The receiver inside other web frameworks. ASGI ones (FastAPI, Starlette, Litestar) mount the application itself."""
