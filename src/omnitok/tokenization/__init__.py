"""Tokens in bulk: a collection of images and videos becomes shards that train generators.

Planning cuts the collection into groups and shards; reading turns a group into pixels, encoding into tokens; an engine
runs the two side by side and writes the shards. Every byte follows from the plan alone, whoever does which shard.
"""
