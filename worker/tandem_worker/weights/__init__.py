"""Fetches a model's weights once into a folder that many workers read: from a model hub or an object storage."""
