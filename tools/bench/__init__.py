"""The benchmark behind ``tools/dev bench``: CPU per request beside other proxies, in one run."""
