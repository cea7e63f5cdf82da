"""Who is signed in, in web frameworks: a dependency for FastAPI, a middleware for ASGI frameworks, one for Django."""
