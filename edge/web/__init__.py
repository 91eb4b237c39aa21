"""The live page: HTTP server, WebSocket, sign-in and routes."""
