"""Fetching the weights of a model: the hubs, the transfer of a file, and the folder where they are gathered.

One transfer serves both hubs, so that a resumed download, a wrong hash and a full disk are alike on both.
Hugging Face is asked through its own library, which knows tokens, mirrors and refusals. ModelScope is asked
through the two requests that its library makes of it as well: that library brings setuptools and cryptography
along, and a cache and a session of its own that nothing here has a use for.
"""
